//! What is held in memory and for how long, what is left in the database, and what a refresh drops.

use super::*;

#[test]
fn a_hot_key_is_read_further_when_half_of_its_room_is_free_and_no_sooner() {
    let mut queue = hot_key(100);
    read_nothing(&mut queue, 0);
    for left in (0..KEY_ROWS_MAX).rev() {
        let place = take(&mut queue).unwrap();
        finish(&mut queue, place, Settled::Done);
        let reads = queue.plan(at(0), NOTHING_NEW).iter().any(|wanted| wanted.fresh.is_some());
        assert_eq!(reads, left <= KEY_ROWS_MAX / 2, "with {left} rows behind the one that is tried");
        if reads {
            return;
        }
    }
}

#[test]
fn without_order_a_keys_rows_are_tried_beside_each_other_and_so_are_replays() {
    let mut unordered = reading(Queue::new(false, 10, 1000), false, &[(7, 1, 100)]);
    offered(&mut unordered, [fresh(2, 7), fresh(3, 7)], 0);
    assert_eq!(taken(&mut unordered), [2, 3]);
    let mut ordered = queue();
    offered(&mut ordered, [2, 3].map(|seq| row(seq, Some(7), Origin::Replay, Some(at(0)))), 0);
    assert_eq!(taken(&mut ordered), [2, 3]);
}

#[test]
fn a_lane_is_not_let_go_while_rows_that_were_made_to_wait_are_being_recorded() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7), fresh(3, 7)], 0);
    let head = take(&mut queue).unwrap();
    let behind = queue.block(head, at(100));
    let Offer::Park(parked, due) = queue.offer(fresh(4, 7), at(0)) else { panic!("it overtakes") };
    finish(&mut queue, head, Settled::Waits(at(100)));
    let recording: Vec<Place> = behind.iter().chain([&parked]).map(Row::place).collect();
    assert_eq!(recording.iter().map(|place| place.seq).collect::<Vec<_>>(), [2, 3, 4]);
    for place in recording {
        assert!(!queue.is_quiet(), "{} is not recorded yet", place.seq);
        queue.settle(place, Settled::Waits(due));
    }
    assert!(queue.is_quiet());
}

#[test]
fn a_waiting_row_stays_in_the_database_while_its_key_is_full_or_falls_back_or_has_left_others_there() {
    let heads = [(7, 1, 0)];
    let mut full = reading(Queue::new(true, 10, 1000), false, &heads);
    let waiting_of = |seqs: std::ops::RangeInclusive<i64>| seqs.map(|seq| waiting(seq, 7, 0));
    offered(&mut full, waiting_of(1..=KEY_ROWS_MAX as i64 + 1), 0);
    assert!(matches!(full.offer(waiting(100, 7, 0), at(0)), Offer::Ignored), "it is full");
    let place = take(&mut full).unwrap();
    finish(&mut full, place, Settled::Done);
    assert!(matches!(full.offer(waiting(101, 7, 0), at(0)), Offer::Ignored), "100 was left, so 101 must not come before it");

    let mut falls_back = reading(Queue::new(true, 10, 1000), false, &heads);
    offered(&mut falls_back, waiting_of(1..=1), 0);
    let head = take(&mut falls_back).unwrap();
    falls_back.block(head, at(0));
    assert!(matches!(falls_back.offer(waiting(2, 7, 0), at(0)), Offer::Ignored), "its head is to wait");
    assert_eq!(falls_back.held[Origin::Waiting as usize], 1);
}

#[test]
fn the_end_of_a_replays_try_makes_room_for_another_and_that_of_any_other_row_does_not() {
    let mut queue = queue();
    offered(&mut queue, (101..=150).map(replay), 0);
    let begun: Vec<Place> = std::iter::from_fn(|| queue.take()).map(|taken| taken.row.place()).collect();
    queue.tried(fresh(1, 7).place(), false);
    assert!(queue.take().is_none());
    queue.tried(begun[0], false);
    assert!(queue.take().is_some() && queue.take().is_none());
}

#[test]
fn due_times_are_remembered_once_and_up_to_a_bound() {
    let mut queue = queue();
    for seq in 1..=TIMERS_MAX as i64 + 5 {
        offered(&mut queue, [fresh(seq, seq as u64)], 0);
        let place = take(&mut queue).unwrap();
        // Later ones first, so that each is the next one.
        let due = at(1_000_000 - seq / 2);
        finish(&mut queue, place, Settled::Waits(due));
        if seq == 5 {
            assert_eq!(queue.timers.len(), 3, "1, 2 and 3, 4 and 5");
        }
    }
    for seq in 20_001..=20_000 + TIMERS_MAX as i64 {
        offered(&mut queue, [fresh(seq, seq as u64)], 0);
        let place = take(&mut queue).unwrap();
        finish(&mut queue, place, Settled::Waits(at(900_000 - seq)));
    }
    assert_eq!(queue.timers.len(), TIMERS_MAX);
}

#[test]
fn a_try_can_begin_when_a_row_is_ready_or_replayed_or_the_only_suspect() {
    let mut queue = queue();
    assert!(!queue.has_ready());
    offered(&mut queue, [fresh(1, 7)], 0);
    assert!(queue.has_ready());
    take(&mut queue);
    assert!(!queue.has_ready(), "it is being tried");
    offered(&mut queue, [replay(2)], 0);
    assert!(queue.has_ready());

    let mut orphaned = reading(Queue::new(true, 10, 1000), true, &[]);
    offered(&mut orphaned, [fresh(1, 7), fresh(2, 8)], 0);
    assert!(orphaned.has_ready());
    let suspect = orphaned.take().unwrap();
    assert!(!orphaned.has_ready(), "one suspect at a time");
    orphaned.tried(suspect.row.place(), true);
    assert!(orphaned.has_ready());
    take(&mut orphaned);
    assert!(!orphaned.has_ready());
}

#[test]
fn a_refresh_drops_what_is_not_being_tried_and_reads_it_again_and_nothing_else() {
    let mut queue = queue();
    queue.own(1, false, []);
    for wanted in queue.plan(at(0), EVERYTHING) {
        queue.learn(&wanted, &Found { fresh: 1, fresh_last: 100, ..Found::default() }, at(0));
    }
    offered(&mut queue, [fresh(10, 7), fresh(11, 7), waiting(5, 6, 0), fresh(12, 8), in_lane_1(20, 17), in_lane_1(21, 18)], 0);
    let tried = take(&mut queue).unwrap();
    assert_eq!(tried.seq, 10);
    offered(&mut queue, [replay(3)], 0);
    queue.begin_release(1);
    assert_eq!(queue.held, [3, 1, 1], "lane 1 is handed over, with what it held");
    queue.refresh();
    assert_eq!(queue.held, [1, 0, 0]);
    let plan = queue.plan(at(0), NOTHING_NEW);
    assert_eq!(plan.iter().map(|wanted| (wanted.lane, wanted.fresh.unwrap().0)).collect::<Vec<_>>(), [(0, 10)], "from 11 on");
    offered(&mut queue, [fresh(11, 7), fresh(12, 8)], 0);
    assert_eq!(taken(&mut queue), [12], "11 waits for 10, which is still being tried");
    finish(&mut queue, tried, Settled::Done);
    assert_eq!(taken(&mut queue), [11]);
}

#[test]
fn a_refresh_reads_again_what_a_key_that_falls_back_had_left() {
    let mut queue = hot_key(100);
    let head = take(&mut queue).unwrap();
    let behind = queue.block(head, at(100));
    queue.refresh();
    let (after, _) = queue.plan(at(0), NOTHING_NEW).remove(0).fresh.unwrap();
    assert_eq!(after + 1, behind.last().unwrap().seq + 1, "the first that was not taken in");
}
