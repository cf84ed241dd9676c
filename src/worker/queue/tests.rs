//! The queue by itself, step by step; and, in [`model`], against a model of the database in any order of steps.

mod holding;
mod model;
mod pages;
mod plans;

use super::super::lane::DuePosition;
use super::super::reading::{Found, Wanted};
use super::*;
use crate::store::deliveries::SWEEP_ROWS;

/// Milliseconds after some moment.
fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
}

fn row(seq: i64, key: Option<i64>, origin: Origin, due_at: Option<DateTime<Utc>>) -> Row<()> {
    Row { epoch: 0, seq, lane: 0, key, generation: 0, attempts: 0, origin, due_at, mark: 0, item: () }
}

fn fresh(seq: i64, key: i64) -> Row<()> {
    row(seq, Some(key), Origin::Fresh, None)
}

/// As [`fresh`], in lane 1.
fn in_lane_1(seq: i64, key: i64) -> Row<()> {
    Row { lane: 1, ..fresh(seq, key) }
}

fn waiting(seq: i64, key: i64, due_ms: i64) -> Row<()> {
    row(seq, Some(key), Origin::Waiting, Some(at(due_ms)))
}

fn parked(seq: i64, key: i64) -> Row<()> {
    row(seq, Some(key), Origin::Waiting, None)
}

fn replay(seq: i64) -> Row<()> {
    row(seq, None, Origin::Replay, Some(at(0)))
}

/// Everything that is appended from 0 on is owed.
fn everything() -> Vec<Subscription> {
    vec![Subscription { from_seq: 0, until_seq: i64::MAX, types: None }]
}

/// How far the tail has come in these tests.
const TAIL: i64 = 1000;

/// A queue that owns these lanes, settled to 0, and has seen what the tail has seen.
fn caught_up(mut queue: Queue<()>, lanes: &[i16], orphaned: bool) -> Queue<()> {
    queue.subscribe(everything());
    lanes.iter().for_each(|lane| queue.own(*lane, orphaned, 0, 1));
    read_log(&mut queue, TAIL);
    queue
}

/// An ordered one, that owns lane 0.
fn queue() -> Queue<()> {
    caught_up(Queue::new(true, 10, 1000), &[0], false)
}

/// A read of the log up to the tail, which finds nothing more.
fn read_log(queue: &mut Queue<()>, tail: i64) {
    queue.begin_read();
    let plan = queue.plan_log(tail, tail);
    queue.learn_log(&plan.near, None);
}

fn offer(queue: &mut Queue<()>, row: Row<()>) -> Offer<()> {
    match row.origin {
        Origin::Fresh => queue.offer_fresh(row, None),
        Origin::Waiting | Origin::Replay => queue.offer_waiting(row, true),
    }
}

/// Rows of which none has to wait, and none is held.
fn offered(queue: &mut Queue<()>, rows: impl IntoIterator<Item = Row<()>>) {
    for row in rows {
        let seq = row.seq;
        assert!(matches!(offer(queue, row), Offer::Queued), "{seq}");
    }
}

fn is_ignored(queue: &mut Queue<()>, row: Row<()>) -> bool {
    matches!(offer(queue, row), Offer::Ignored)
}

/// An event that has to wait in the database.
fn parks(queue: &mut Queue<()>, row: Row<()>) -> Place {
    let seq = row.seq;
    let Offer::Park(row) = offer(queue, row) else { panic!("{seq} is not parked") };
    row.place()
}

fn take(queue: &mut Queue<()>) -> Option<Place> {
    let taken = queue.take()?;
    queue.tried(taken.row.place(), taken.suspect);
    Some(taken.row.place())
}

fn taken(queue: &mut Queue<()>) -> Vec<i64> {
    std::iter::from_fn(|| take(queue)).map(|place| place.seq).collect()
}

fn finish(queue: &mut Queue<()>, place: Place, settled: Settled) {
    queue.settle(place, settled);
    if !matches!(settled, Settled::Waits(_)) {
        queue.advance(place);
    }
}

/// Takes and ends all that can be, one after another.
fn finish_all(queue: &mut Queue<()>) -> Vec<i64> {
    let mut done = Vec::new();
    while let Some(place) = take(queue) {
        done.push(place.seq);
        finish(queue, place, Settled::Done);
    }
    done
}

/// The head fails, and waits until then, with all that comes after it. Returns those of them that were not in the database.
fn fail(queue: &mut Queue<()>, place: Place, due_ms: i64) -> Vec<i64> {
    let later = queue.block(place);
    finish(queue, place, Settled::Waits(at(due_ms)));
    later.iter().for_each(|row| queue.settle(row.place(), Settled::Parked));
    later.iter().map(|row| row.seq).collect()
}

/// A read that brings what waits of the keys that are asked for, which is among these. Returns the keys.
fn read_pages(queue: &mut Queue<()>, rows: &[Row<()>], now_ms: i64) -> Vec<i64> {
    queue.begin_read();
    let keys: Vec<i64> = queue.plan_pages().into_iter().map(|(_, key)| key).collect();
    for key in &keys {
        let of_key: Vec<Row<()>> = rows.iter().filter(|row| row.key == Some(*key)).take(KEY_ROWS_MAX).cloned().collect();
        let full = of_key.len() >= KEY_ROWS_MAX;
        queue.offer_page(*key, of_key, full, at(now_ms));
    }
    keys
}

/// Up to where lane 0 is settled.
fn settled(queue: &Queue<()>) -> i64 {
    queue.lanes[&0].settled(queue.tail)
}

#[test]
fn events_of_one_key_are_tried_one_by_one_and_those_of_others_beside_them() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7), fresh(3, 8), fresh(4, 7)]);
    let (first, other) = (take(&mut queue).unwrap(), take(&mut queue).unwrap());
    assert_eq!((first.seq, other.seq), (1, 3));
    assert!(take(&mut queue).is_none());
    finish(&mut queue, first, Settled::Done);
    assert_eq!(taken(&mut queue), [2]);
}

#[test]
fn a_row_that_is_held_or_just_over_is_not_taken_in_again() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7)]);
    queue.begin_read();
    assert!(is_ignored(&mut queue, fresh(1, 7)));
    let place = take(&mut queue).unwrap();
    offered(&mut queue, [replay(2)]);
    assert!(is_ignored(&mut queue, replay(2)));
    assert!(is_ignored(&mut queue, fresh(1, 7)), "it is being tried");
    finish(&mut queue, place, Settled::Done);
    // The read under way began before that was recorded: it may still show the row as it was.
    assert!(is_ignored(&mut queue, fresh(1, 7)) && is_ignored(&mut queue, waiting(1, 7, 0)));
    queue.begin_read();
    // A read that began afterwards shows it only if it was reset.
    assert!(matches!(offer(&mut queue, waiting(1, 7, 0)), Offer::Queued));
}

#[test]
fn when_the_head_has_to_wait_the_others_are_parked_and_come_after_it() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7), fresh(3, 7)]);
    let head = take(&mut queue).unwrap();
    assert_eq!(fail(&mut queue, head, 100), [2, 3]);
    let waits = [waiting(1, 7, 100), parked(2, 7), parked(3, 7)];
    assert_eq!(read_pages(&mut queue, &waits, 99), [7]);
    assert_eq!((taken(&mut queue), queue.next_due()), (vec![], Some(at(100))));
    assert!(queue.keys.is_empty() && queue.held == [0; 3], "memory has no part in it any more");
    offered(&mut queue, [waiting(1, 7, 100)]);
    let head = take(&mut queue).unwrap();
    assert_eq!(head.seq, 1);
    finish(&mut queue, head, Settled::Done);
    assert_eq!((taken(&mut queue), read_pages(&mut queue, &waits[1..], 100)), (vec![], vec![7]));
    assert_eq!(finish_all(&mut queue), [2, 3]);
    assert!(queue.keys.is_empty());
}

#[test]
fn what_comes_behind_a_waiting_head_is_parked_whether_known_or_not() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7)]);
    let head = take(&mut queue).unwrap();
    queue.block(head);
    let second = parks(&mut queue, fresh(2, 7));
    finish(&mut queue, head, Settled::Waits(at(100)));
    let third = parks(&mut queue, fresh(3, 7));
    [second, third].into_iter().for_each(|place| queue.settle(place, Settled::Parked));
    parks(&mut queue, fresh(4, 7));
    queue.settle(fresh(4, 7).place(), Settled::Parked);
    read_pages(&mut queue, &[waiting(1, 7, 100), parked(2, 7)], 0);
    assert!(queue.keys.is_empty());
    assert!(queue.must_ask(0, 7));
    let Offer::Park(_) = queue.offer_fresh(fresh(5, 7), Some(1)) else { panic!("it overtakes") };
    parks(&mut queue, fresh(6, 7));
    assert_eq!(taken(&mut queue), [] as [i64; 0]);
}

#[test]
fn what_a_full_key_has_no_room_for_is_parked_and_so_is_all_that_follows() {
    let mut queue = queue();
    let last = KEY_ROWS_MAX as i64 + 1;
    offered(&mut queue, (1..=last).map(|seq| fresh(seq, 7)));
    offered(&mut queue, [fresh(1000, 8)]);
    let full = parks(&mut queue, fresh(last + 1, 7));
    queue.settle(full, Settled::Parked);
    assert_eq!(queue.held[0], KEY_ROWS_MAX + 2);
    let head = take(&mut queue).unwrap();
    finish(&mut queue, head, Settled::Done);
    let follows = parks(&mut queue, fresh(last + 2, 7));
    queue.settle(follows, Settled::Parked);
    assert_eq!(queue.plan_pages(), [], "there is enough in memory");
    assert_eq!(finish_all(&mut queue).len(), KEY_ROWS_MAX + 1);
    read_pages(&mut queue, &[parked(last + 1, 7), parked(last + 2, 7)], 0);
    assert_eq!(finish_all(&mut queue), [last + 1, last + 2]);
    assert!(queue.keys.is_empty());
}

#[test]
fn an_event_committed_late_comes_before_those_that_have_not_begun() {
    let mut queue = queue();
    offered(&mut queue, [fresh(5, 7), fresh(8, 7), fresh(3, 7), fresh(6, 7)]);
    assert_eq!(finish_all(&mut queue), [5, 3, 6, 8], "5 had begun");
}

#[test]
fn a_late_event_behind_a_failing_higher_head_becomes_ready_and_is_first() {
    let mut queue = queue();
    offered(&mut queue, [fresh(5, 7), fresh(3, 7), fresh(6, 7)]);
    let higher = take(&mut queue).unwrap();
    let later = queue.block(higher);
    assert_eq!(later.iter().map(|row| row.seq).collect::<Vec<_>>(), [6]);
    let late = take(&mut queue).unwrap();
    assert_eq!(late.seq, 3);
    finish(&mut queue, late, Settled::Done);
    assert_eq!(queue.plan_pages(), [], "5 and 6 are not recorded yet");
    finish(&mut queue, higher, Settled::Waits(at(100)));
    queue.settle(later[0].place(), Settled::Parked);
    assert_eq!(queue.plan_pages(), [(0, 7)]);
}

#[test]
fn a_late_event_comes_before_a_higher_one_that_waits() {
    let mut queue = queue();
    assert!(matches!(queue.offer_fresh(fresh(3, 7), Some(5)), Offer::Queued));
    let behind = parks(&mut queue, fresh(6, 7));
    assert!(is_ignored(&mut queue, waiting(5, 7, 0)), "it comes with the page");
    queue.settle(behind, Settled::Parked);
    assert_eq!(finish_all(&mut queue), [3]);
    read_pages(&mut queue, &[waiting(5, 7, 0), parked(6, 7)], 0);
    assert_eq!(finish_all(&mut queue), [5, 6]);
}

#[test]
fn a_row_that_is_due_behind_another_of_its_key_is_parked_instead_of_tried() {
    let mut queue = queue();
    let Offer::Park(row) = queue.offer_waiting(waiting(5, 7, 0), false) else { panic!("it overtakes") };
    assert!(matches!(queue.offer_waiting(waiting(6, 7, 0), false), Offer::Ignored), "its page brings it");
    assert_eq!(taken(&mut queue), [] as [i64; 0]);
    queue.settle(row.place(), Settled::Parked);
    read_pages(&mut queue, &[parked(4, 7), parked(5, 7), waiting(6, 7, 0)], 0);
    assert_eq!(finish_all(&mut queue), [4, 5, 6]);
}

#[test]
fn rows_that_were_parked_before_stay_so_when_a_head_of_their_page_fails() {
    let mut queue = queue();
    queue.offer_stranded(0, 7, 1);
    read_pages(&mut queue, &[parked(1, 7), parked(2, 7), parked(3, 7)], 0);
    let head = take(&mut queue).unwrap();
    assert_eq!(fail(&mut queue, head, 100), [] as [i64; 0], "nothing of them is to be recorded");
    assert_eq!(queue.held, [0; 3]);
    read_pages(&mut queue, &[waiting(1, 7, 100), parked(2, 7), parked(3, 7)], 100);
    assert_eq!(finish_all(&mut queue), [1, 2, 3]);
}

#[test]
fn without_order_a_keys_rows_are_tried_at_once_and_so_are_replays() {
    let mut unordered = caught_up(Queue::new(false, 10, 1000), &[0], false);
    offered(&mut unordered, [fresh(2, 7), fresh(3, 7), waiting(1, 7, 0)]);
    assert_eq!(taken(&mut unordered), [2, 3, 1]);
    assert!(!unordered.may_ask() && !unordered.must_ask(0, 7));
    let mut ordered = queue();
    offered(&mut ordered, [2, 3].map(|seq| row(seq, Some(7), Origin::Replay, Some(at(0)))));
    assert_eq!(taken(&mut ordered), [2, 3]);
}

#[test]
fn replays_get_a_fifth_of_the_tries_and_leave_a_fifth_of_the_slots() {
    let mut queue = queue();
    offered(&mut queue, (1..=50).map(|seq| fresh(seq, seq)));
    offered(&mut queue, (101..=150).map(replay));
    let among: Vec<bool> = (0..20).map(|_| queue.take().unwrap().row.origin == Origin::Replay).collect();
    assert_eq!(among.iter().filter(|replay| **replay).count(), 2, "two slots of ten");

    let mut queue = self::queue();
    offered(&mut queue, (1..=50).map(|seq| fresh(seq, seq)));
    offered(&mut queue, (101..=150).map(replay));
    let turns: Vec<bool> = std::iter::from_fn(|| take(&mut queue)).take(50).map(|place| place.origin == Origin::Replay).collect();
    assert_eq!(turns.iter().filter(|replay| **replay).count(), 10, "one in five, however soon they are over");

    let mut idle = self::queue();
    offered(&mut idle, (101..=150).map(replay));
    let begun = std::iter::from_fn(|| idle.take()).count();
    assert_eq!(begun, 8, "two slots are left for what arrives");
}

#[test]
fn the_end_of_a_replays_try_makes_room_for_another_and_no_other_end_does() {
    let mut queue = queue();
    offered(&mut queue, (101..=150).map(replay));
    let begun: Vec<Place> = std::iter::from_fn(|| queue.take()).map(|taken| taken.row.place()).collect();
    queue.tried(fresh(1, 7).place(), false);
    assert!(queue.take().is_none());
    queue.tried(begun[0], false);
    assert!(queue.take().is_some() && queue.take().is_none());
}

#[test]
fn after_a_first_death_all_suspects_go_on_at_once() {
    let mut queue = caught_up(Queue::new(true, 3, 1000), &[0], true);
    offered(&mut queue, (1..=10).map(|seq| fresh(seq, seq)));
    let begun: Vec<(i64, bool)> = std::iter::from_fn(|| queue.take()).map(|taken| (taken.row.seq, taken.suspect)).collect();
    // As many as the dead worker can have been trying, and as many again; the others are as innocent as any.
    assert_eq!(begun, (1..=10).map(|seq| (seq, seq <= 6)).collect::<Vec<_>>());
}

#[test]
fn after_a_second_death_half_of_the_suspects_go_on_and_after_a_third_one() {
    let marked = |seq, mark| Row { mark, ..waiting(seq, seq, 0) };
    let mut queue = caught_up(Queue::new(true, 8, 1000), &[0], true);
    for seq in 1..=6 {
        queue.offer_waiting(marked(seq, 1), true);
    }
    let first: Vec<Place> = std::iter::from_fn(|| queue.take()).map(|taken| taken.row.place()).collect();
    assert_eq!(first.len(), 4);
    queue.tried(first[0], true);
    assert!(queue.take().is_some() && queue.take().is_none());

    let mut queue = caught_up(Queue::new(true, 8, 1000), &[0], true);
    offered(&mut queue, [fresh(9, 9)]);
    for seq in 1..=2 {
        queue.offer_waiting(marked(seq, 2), true);
    }
    let alone = queue.take().unwrap();
    assert_eq!((alone.row.seq, alone.suspect), (1, true));
    assert_eq!(take(&mut queue).unwrap().seq, 9, "who was not under way then is not held up");
    assert!(queue.take().is_none());
    queue.tried(alone.row.place(), true);
    assert_eq!(take(&mut queue).unwrap().seq, 2);
}

#[test]
fn rows_of_a_lane_that_was_handed_over_are_tried_beside_a_suspect() {
    let mut queue = caught_up(Queue::new(true, 3, 1000), &[0], true);
    queue.own(1, false, 0, 1);
    read_log(&mut queue, TAIL);
    offered(&mut queue, [fresh(1, 7), in_lane_1(2, 17), in_lane_1(3, 18)]);
    let begun: Vec<(i64, bool)> = std::iter::from_fn(|| queue.take()).map(|taken| (taken.row.seq, taken.suspect)).collect();
    assert_eq!(begun, [(1, true), (2, false), (3, false)]);
}

#[test]
fn a_row_whose_try_counted_for_nothing_goes_to_the_end() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 8)]);
    let first = queue.take().unwrap();
    queue.tried(first.row.place(), false);
    queue.put_back(first.row);
    assert_eq!(taken(&mut queue), [2, 1]);
}

#[test]
fn a_try_can_begin_when_a_row_is_ready_or_replayed_or_suspect() {
    let mut queue = queue();
    assert!(!queue.has_ready());
    offered(&mut queue, [fresh(1, 7)]);
    assert!(queue.has_ready());
    take(&mut queue);
    assert!(!queue.has_ready(), "it is being tried");
    offered(&mut queue, [replay(2)]);
    assert!(queue.has_ready());

    let mut orphaned = caught_up(Queue::new(true, 10, 1000), &[0], true);
    offered(&mut orphaned, [fresh(1, 7), fresh(2, 8)]);
    assert!(orphaned.has_ready());
    take(&mut orphaned);
    assert!(orphaned.has_ready());
    take(&mut orphaned);
    assert!(!orphaned.has_ready());
}

#[test]
fn what_a_lost_lease_left_behind_touches_nothing_of_the_next_one() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 8)]);
    let (old, returned) = (queue.take().unwrap(), queue.take().unwrap());
    queue.disown_all();
    assert!(queue.is_quiet() && queue.held == [0; 3] && queue.lanes.is_empty());
    let mut queue = caught_up(queue, &[0], false);
    offered(&mut queue, [fresh(1, 7), fresh(2, 8)]);
    queue.tried(old.row.place(), false);
    assert!(queue.block(old.row.place()).is_empty());
    finish(&mut queue, old.row.place(), Settled::Waits(at(100)));
    finish(&mut queue, old.row.place(), Settled::Done);
    queue.put_back(returned.row);
    assert_eq!((queue.held, settled(&queue), taken(&mut queue)), ([2, 0, 0], 0, vec![1, 2]));
}
