//! The queue by itself, step by step; and, in [`model`], against a model of the database in any order of steps.

mod holding;
mod model;
mod plans;

use super::super::lane::DuePosition;
use super::super::reading::{Found, Look, Wanted};
use super::*;

/// Milliseconds after some moment.
fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
}

fn row(seq: i64, key: Option<u64>, origin: Origin, due_at: Option<DateTime<Utc>>) -> Row<()> {
    Row { epoch: 0, seq, lane: 0, key, generation: 0, attempts: 0, origin, due_at, item: () }
}

fn fresh(seq: i64, key: u64) -> Row<()> {
    row(seq, Some(key), Origin::Fresh, None)
}

/// As [`fresh`], in lane 1.
fn in_lane_1(seq: i64, key: u64) -> Row<()> {
    Row { lane: 1, ..fresh(seq, key) }
}

fn waiting(seq: i64, key: u64, due_ms: i64) -> Row<()> {
    row(seq, Some(key), Origin::Waiting, Some(at(due_ms)))
}

fn replay(seq: i64) -> Row<()> {
    row(seq, None, Origin::Replay, Some(at(0)))
}

/// A queue that owns lane 0, with a read of it under way: rows come from reads.
fn reading(mut queue: Queue<()>, orphaned: bool, heads: &[(u64, i64, i64)]) -> Queue<()> {
    queue.own(0, orphaned, heads.iter().map(|(key, head, due_ms)| (*key, *head, at(*due_ms))));
    plan(&mut queue, 0);
    queue
}

/// An ordered one.
fn queue() -> Queue<()> {
    reading(Queue::new(true, 10, 1000), false, &[])
}

fn offered(queue: &mut Queue<()>, rows: impl IntoIterator<Item = Row<()>>, now_ms: i64) {
    for row in rows {
        let seq = row.seq;
        assert!(matches!(queue.offer(row, at(now_ms)), Offer::Queued), "{seq}");
    }
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
    queue.advance(place);
}

const EVERYTHING: Look = Look { back_to: i64::MAX, fresh: true, due: true, sweep: false };

/// A read that is not told of anything new.
const NOTHING_NEW: Look = Look { back_to: i64::MAX, fresh: false, due: false, sweep: false };

/// Plans a read of lane 0 that looks for everything.
fn plan(queue: &mut Queue<()>, now_ms: i64) -> Wanted {
    queue.plan(at(now_ms), EVERYTHING).remove(0)
}

/// A read of lane 0 that finds nothing more, begun at `now_ms`.
fn read_nothing(queue: &mut Queue<()>, now_ms: i64) {
    let wanted = plan(queue, now_ms);
    queue.learn(&wanted, &Found::default(), at(now_ms));
}

#[test]
fn events_of_one_key_are_tried_one_after_another_and_those_of_others_beside_them() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7), fresh(3, 8), fresh(4, 7)], 0);
    let (first, other) = (take(&mut queue).unwrap(), take(&mut queue).unwrap());
    assert_eq!((first.seq, other.seq), (1, 3));
    assert!(take(&mut queue).is_none());
    finish(&mut queue, first, Settled::Done);
    assert_eq!(taken(&mut queue), [2]);
}

#[test]
fn a_row_that_is_in_memory_or_just_over_is_not_taken_in_again() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7)], 0);
    let wanted = plan(&mut queue, 0);
    assert!(matches!(queue.offer(fresh(1, 7), at(0)), Offer::Ignored));
    let place = take(&mut queue).unwrap();
    finish(&mut queue, place, Settled::Done);
    // The read under way began before that was recorded: it may still show the row as it was.
    assert!(matches!(queue.offer(fresh(1, 7), at(0)), Offer::Ignored));
    queue.learn(&wanted, &Found::default(), at(0));
    plan(&mut queue, 0);
    // A read that began afterwards shows it only if it was reset.
    assert!(matches!(queue.offer(fresh(1, 7), at(0)), Offer::Queued));
}

#[test]
fn when_the_first_of_a_key_has_to_wait_the_others_wait_with_it_and_come_after_it() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7)], 0);
    let head = take(&mut queue).unwrap();
    let behind = queue.block(head, at(100));
    assert_eq!(behind.iter().map(|row| row.seq).collect::<Vec<_>>(), [2]);
    queue.settle(behind[0].place(), Settled::Waits(at(100)));
    finish(&mut queue, head, Settled::Waits(at(100)));
    assert_eq!(queue.next_due(), Some(at(100)));
    // One that arrives meanwhile waits too, whenever it comes.
    let Offer::Park(third, due) = queue.offer(fresh(3, 7), at(100)) else { panic!("it overtakes") };
    assert_eq!(due, at(100));
    queue.settle(third.place(), Settled::Waits(due));
    plan(&mut queue, 100);
    offered(&mut queue, [waiting(1, 7, 100), waiting(2, 7, 100), waiting(3, 7, 100)], 100);
    assert_eq!(taken(&mut queue), [1]);
}

#[test]
fn a_key_is_free_again_once_all_its_waiting_rows_have_been_read() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7)], 0);
    let head = take(&mut queue).unwrap();
    queue.block(head, at(100));
    finish(&mut queue, head, Settled::Waits(at(100)));
    read_nothing(&mut queue, 101);
    assert!(matches!(queue.offer(fresh(2, 7), at(101)), Offer::Park(..)), "the clocks may differ by this little");
    read_nothing(&mut queue, 1000);
    read_nothing(&mut queue, 1001);
    assert!(matches!(queue.offer(fresh(3, 7), at(1001)), Offer::Park(..)), "2 is still on its way to being recorded");
    queue.settle(fresh(2, 7).place(), Settled::Waits(at(100)));
    read_nothing(&mut queue, 1002);
    queue.settle(fresh(3, 7).place(), Settled::Waits(at(100)));
    read_nothing(&mut queue, 1003);
    assert!(matches!(queue.offer(fresh(4, 7), at(1003)), Offer::Queued));
}

#[test]
fn a_successor_that_comes_up_while_its_head_is_still_being_recorded_does_not_overtake_it() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7)], 0);
    let head = take(&mut queue).unwrap();
    let behind = queue.block(head, at(1)).remove(0).place();
    queue.settle(behind, Settled::Waits(at(1)));
    plan(&mut queue, 5);
    queue.offer(waiting(2, 7, 1), at(5));
    finish(&mut queue, head, Settled::Waits(at(1)));
    assert_eq!(taken(&mut queue), [] as [i64; 0], "1 has not been read again yet");
    plan(&mut queue, 5);
    queue.offer(waiting(1, 7, 1), at(5));
    queue.offer(waiting(2, 7, 1), at(5));
    assert_eq!(taken(&mut queue), [1]);
}

#[test]
fn the_end_of_one_row_of_a_key_says_nothing_of_another_that_is_still_being_recorded() {
    let mut queue = reading(Queue::new(true, 10, 1000), false, &[(7, 1, 0)]);
    offered(&mut queue, [waiting(1, 7, 0)], 0);
    let head = take(&mut queue).unwrap();
    let Offer::Park(parked, due) = queue.offer(fresh(2, 7), at(1000)) else { panic!("it overtakes") };
    finish(&mut queue, head, Settled::Done);
    read_nothing(&mut queue, 1000);
    assert!(matches!(queue.offer(fresh(3, 7), at(1000)), Offer::Park(..)), "2 is not recorded yet, so 3 must wait with it");
    queue.settle(parked.place(), Settled::Waits(due));
}

#[test]
fn a_read_planned_before_the_lanes_were_lost_moves_no_cursor_of_their_next_ownership() {
    let mut queue = queue();
    let first = plan(&mut queue, 0);
    queue.learn(&first, &Found { fresh: 1, fresh_last: 500, ..Found::default() }, at(0));
    let old = plan(&mut queue, 1);
    queue.disown_all();
    queue.own(0, true, []);
    queue.learn(&old, &Found { fresh: 1, fresh_last: 501, ..Found::default() }, at(1));
    assert_eq!(plan(&mut queue, 2).fresh.map(|(after, _)| after), Some(0), "nothing has been read under this ownership");
}

/// A queue that has read so many rows of one key.
fn hot_key(rows: i64) -> Queue<()> {
    let mut queue = queue();
    let wanted = plan(&mut queue, 0);
    for seq in 1..=rows {
        queue.offer(fresh(seq, 7), at(0));
    }
    queue.learn(&wanted, &Found { fresh: rows, fresh_last: rows, ..Found::default() }, at(0));
    queue
}

#[test]
fn a_hot_key_holds_few_rows_in_memory_and_the_others_are_read_again_when_it_has_room() {
    let mut queue = hot_key(200);
    offered(&mut queue, [fresh(201, 8)], 0);
    assert_eq!(queue.held[0], KEY_ROWS_MAX + 2);
    let mut done = Vec::new();
    while let Some(place) = take(&mut queue) {
        done.push(place.seq);
        finish(&mut queue, place, Settled::Done);
    }
    assert_eq!(done.len(), KEY_ROWS_MAX + 2);
    assert_eq!(plan(&mut queue, 0).fresh.map(|(after, _)| after), Some(KEY_ROWS_MAX as i64 + 1));
}

/// Two keys with more than fits; the second has room and a mark at 1000. Returns the plan of the read that goes back to 100.
fn two_hot_keys(queue: &mut Queue<()>) -> Wanted {
    let wanted = plan(queue, 0);
    let hot = |key, from| (from..from + 100).map(move |seq| fresh(seq, key));
    for row in hot(7, 35).chain(hot(8, 935)) {
        queue.offer(row, at(0));
    }
    queue.learn(&wanted, &Found { fresh: 200, fresh_last: 1034, ..Found::default() }, at(0));
    // Both come down to where they have room again.
    for _ in 0..2 * (KEY_ROWS_MAX - 2) {
        let place = take(queue).unwrap();
        finish(queue, place, Settled::Done);
    }
    plan(queue, 0)
}

/// Ends what the keys have in memory, so that they go idle.
fn go_idle(queue: &mut Queue<()>) {
    while let Some(place) = take(queue) {
        finish(queue, place, Settled::Done);
    }
}

#[test]
fn a_hot_key_that_went_idle_during_a_read_that_did_not_come_to_it_is_read_further() {
    let mut queue = queue();
    let wanted = two_hot_keys(&mut queue);
    assert_eq!(wanted.fresh.map(|(after, _)| after), Some(99));
    go_idle(&mut queue);
    let limit = wanted.fresh.unwrap().1;
    // The read was full before it came to the second key's rows.
    queue.learn(&wanted, &Found { fresh: limit, fresh_last: 600, ..Found::default() }, at(0));
    assert_eq!(queue.keys[&8].more_fresh, Some(601));
    let again = plan(&mut queue, 0).fresh.unwrap().0;
    assert_eq!(again, 600, "and 1000 was left");
}

#[test]
fn a_hot_key_that_went_idle_during_a_read_that_failed_is_read_again() {
    let mut queue = queue();
    let wanted = two_hot_keys(&mut queue);
    go_idle(&mut queue);
    queue.fail_read(&[wanted]);
    assert_eq!([7, 8].map(|key| queue.keys[&key].more_fresh), [Some(100); 2]);
    let again = plan(&mut queue, 0).fresh.unwrap().0;
    assert_eq!(again, 99, "and 100 was left");
}

#[test]
fn replays_get_a_fifth_of_the_tries_while_fresh_rows_wait_and_leave_a_fifth_of_the_slots() {
    let mut queue = queue();
    offered(&mut queue, (1..=50).map(|seq| fresh(seq, seq as u64)), 0);
    offered(&mut queue, (101..=150).map(replay), 0);
    let among: Vec<bool> = (0..20).map(|_| queue.take().unwrap().row.origin == Origin::Replay).collect();
    assert!(among.iter().filter(|replay| **replay).count() <= 2, "two slots of ten");

    let mut idle = self::queue();
    offered(&mut idle, (101..=150).map(replay), 0);
    let begun = std::iter::from_fn(|| idle.take()).count();
    assert_eq!(begun, 8, "two slots are left for what arrives");
}

#[test]
fn suspects_are_tried_one_at_a_time_and_when_they_are_through_the_rest_is_free() {
    let mut queue = reading(Queue::new(true, 3, 1000), true, &[]);
    offered(&mut queue, (1..=10).map(|seq| fresh(seq, seq as u64)), 0);
    for expected in 1..=6 {
        let suspect = queue.take().unwrap();
        assert_eq!((suspect.row.seq, suspect.suspect), (expected, true));
        if expected < 6 {
            assert!(queue.take().is_none(), "nothing else that is suspect is tried beside it");
        }
        queue.tried(suspect.row.place(), true);
        finish(&mut queue, suspect.row.place(), Settled::Done);
    }
    let rest: Vec<bool> = std::iter::from_fn(|| queue.take()).map(|taken| taken.suspect).collect();
    assert_eq!(rest, [false; 4]);
}

#[test]
fn a_row_whose_try_counted_for_nothing_goes_to_the_end() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 8)], 0);
    let first = queue.take().unwrap();
    queue.tried(first.row.place(), false);
    queue.put_back(first.row);
    assert_eq!(taken(&mut queue), [2, 1]);
}

#[test]
fn a_lane_that_is_handed_over_takes_nothing_new_and_is_let_go_when_its_tries_are_recorded() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7), fresh(3, 8), fresh(4, 9)], 0);
    let (first, second) = (queue.take().unwrap(), queue.take().unwrap());
    assert_eq!(queue.owned(), 1);
    queue.begin_release(1);
    assert_eq!((queue.owned(), queue.held), (0, [2, 0, 0]));
    assert!(queue.take().is_none() && matches!(queue.offer(fresh(5, 10), at(0)), Offer::Ignored));
    assert!(queue.quiet().is_empty() && !queue.is_quiet());
    queue.tried(first.row.place(), false);
    finish(&mut queue, first.row.place(), Settled::Done);
    queue.tried(second.row.place(), false);
    queue.put_back(second.row);
    assert_eq!(queue.quiet(), [0]);
    assert_eq!((queue.held, queue.keys.len(), queue.owned()), ([0; 3], 0, 0));
}

#[test]
fn what_a_lost_lease_left_behind_touches_nothing_of_the_next_one() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 8)], 0);
    let (old, returned) = (queue.take().unwrap(), queue.take().unwrap());
    queue.disown_all();
    assert!(queue.is_quiet() && queue.held == [0; 3]);
    let mut queue = reading(queue, false, &[]);
    offered(&mut queue, [fresh(1, 7), fresh(2, 8)], 0);
    queue.tried(old.row.place(), false);
    assert!(queue.block(old.row.place(), at(100)).is_empty());
    finish(&mut queue, old.row.place(), Settled::Waits(at(100)));
    queue.put_back(returned.row);
    assert_eq!((queue.held, taken(&mut queue)), ([2, 0, 0], vec![1, 2]));
}

#[test]
fn rows_that_are_full_up_leave_the_waiting_ones_where_they_are_and_the_bounds_hold() {
    let mut queue = reading(Queue::new(false, 10, 16), false, &[]);
    offered(&mut queue, (1..=16).map(|seq| fresh(seq, seq as u64)), 0);
    assert!(!queue.has_room());
    let wanted = plan(&mut queue, 0);
    assert_eq!(wanted.fresh, None);
    assert_eq!(wanted.waiting.map(|(from, _)| from), Some(DuePosition::START));
    offered(&mut queue, (21..=28).map(|seq| waiting(seq, seq as u64, 0)), 0);
    assert_eq!(plan(&mut queue, 0).waiting, None, "half as many waiting rows as fresh ones");
}
