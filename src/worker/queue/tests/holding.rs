//! What is held in memory and for how long, up to where lanes are settled, and what a refresh or a handover drops.

use super::*;

/// The lane, the position and the revision of each settlement.
fn settlements(queue: &Queue<()>) -> Vec<(i16, i64, i32)> {
    queue.settlements(1)
}

#[test]
fn a_lane_is_settled_up_to_the_first_event_that_has_no_row_yet() {
    let mut queue = queue();
    assert_eq!(settled(&queue), TAIL);
    offered(&mut queue, [fresh(10, 7), fresh(20, 8), fresh(30, 7), waiting(5, 9, 0)]);
    assert_eq!(settled(&queue), 9, "a waiting one has its own");
    let (first, second) = (take(&mut queue).unwrap(), take(&mut queue).unwrap());
    finish(&mut queue, second, Settled::Done);
    assert_eq!(settled(&queue), 9);
    fail(&mut queue, first, 100);
    assert_eq!(settled(&queue), TAIL, "10 waits, and 30 is parked");
}

#[test]
fn what_is_made_to_wait_counts_as_unsettled_until_it_is_recorded() {
    let mut queue = queue();
    offered(&mut queue, [fresh(10, 7), fresh(20, 7)]);
    let head = take(&mut queue).unwrap();
    let later = queue.block(head);
    let third = parks(&mut queue, fresh(30, 7));
    finish(&mut queue, head, Settled::Waits(at(100)));
    assert_eq!(settled(&queue), 19);
    queue.settle(later[0].place(), Settled::Parked);
    assert_eq!(settled(&queue), 29);
    queue.settle(third, Settled::Parked);
    assert_eq!(settled(&queue), TAIL);
}

#[test]
fn settlements_are_of_lanes_that_came_so_much_further() {
    let mut queue = caught_up(Queue::new(true, 10, 1000), &[0, 1], false);
    offered(&mut queue, [in_lane_1(101, 17)]);
    assert_eq!(settlements(&queue), [(0, TAIL, 1), (1, 100, 1)]);
    assert_eq!(queue.settlements(101), [(0, TAIL, 1)]);
    queue.note_settled(0, TAIL);
    assert_eq!(settlements(&queue), [(1, 100, 1)]);
    queue.note_settled(1, 100);
    queue.note_settled(1, 50);
    assert_eq!(settlements(&queue), []);
}

#[test]
fn what_a_refresh_forgot_is_unsettled_until_it_was_read_again() {
    let mut queue = queue();
    offered(&mut queue, [fresh(10, 7), fresh(20, 8)]);
    take(&mut queue);
    queue.refresh();
    finish(&mut queue, fresh(10, 7).place(), Settled::Done);
    assert_eq!(settled(&queue), 19);
    let plan = queue.plan_log(TAIL + 10, TAIL + 10);
    assert!(plan.near.wants(0, 20, false) && !plan.near.wants(0, 19, false));
    offered(&mut queue, [fresh(20, 8)]);
    queue.learn_log(&plan.near, None);
    assert_eq!(settled(&queue), 19);
    finish_all(&mut queue);
    assert_eq!(settled(&queue), TAIL + 10);
}

#[test]
fn a_lane_that_is_handed_over_is_settled_no_further_than_it_was_read() {
    let mut queue = queue();
    offered(&mut queue, [fresh(500, 7), fresh(600, 7)]);
    let tried = take(&mut queue).unwrap();
    queue.begin_release(1);
    // What the tail sees from now on it has not seen.
    let plan = queue.plan_log(2_000, 2_000);
    assert!(plan.near.is_empty() && plan.far.is_empty());
    assert_eq!(settled(&queue), 499);
    finish(&mut queue, tried, Settled::Done);
    assert_eq!(queue.quiet(), [(0, 599, 1)], "600 was forgotten");

    let mut idle = self::queue();
    idle.begin_release(1);
    idle.plan_log(2_000, 2_000);
    assert_eq!(idle.quiet(), [(0, TAIL, 1)]);
}

#[test]
fn what_is_put_back_while_its_lane_is_handed_over_is_the_next_owners() {
    let mut queue = queue();
    offered(&mut queue, [fresh(500, 7), fresh(501, 8)]);
    let (first, second) = (queue.take().unwrap(), queue.take().unwrap());
    queue.begin_release(1);
    for taken in [second, first] {
        queue.tried(taken.row.place(), false);
        assert!(queue.quiet().is_empty());
        queue.put_back(taken.row);
    }
    assert_eq!((queue.held, queue.quiet()), ([0; 3], vec![(0, 499, 1)]));
}

#[test]
fn an_event_changed_by_another_is_read_again_before_it_is_settled() {
    let mut queue = queue();
    offered(&mut queue, [fresh(500, 7)]);
    let place = take(&mut queue).unwrap();
    finish(&mut queue, place, Settled::Unknown);
    assert_eq!((settled(&queue), queue.held), (499, [0; 3]));
    let plan = queue.plan_log(TAIL, TAIL);
    assert!(plan.near.wants(0, 500, false));
    let wanted = queue.plan_due(at(0), false).remove(0);
    assert_eq!((wanted.waiting.unwrap().0, wanted.replay.unwrap().0), (DuePosition::START, DuePosition::START));
}

#[test]
fn a_waiting_row_that_was_changed_by_another_holds_up_nothing() {
    let mut queue = queue();
    offered(&mut queue, [waiting(500, 7, 0)]);
    let place = take(&mut queue).unwrap();
    finish(&mut queue, place, Settled::Unknown);
    assert_eq!(settled(&queue), TAIL);
}

#[test]
fn new_rules_are_read_by_from_where_the_lane_is_settled() {
    let mut queue = queue();
    queue.note_settled(0, 100);
    offered(&mut queue, [fresh(500, 7), fresh(501, 8)]);
    take(&mut queue);
    queue.restart(0, 100, 2);
    assert_eq!((settled(&queue), queue.revision(), queue.held), (100, Some(2), [1, 0, 0]));
    queue.restart(5, 100, 2);
    assert_eq!(queue.lanes.len(), 1, "one that it does not own");
    read_log(&mut queue, TAIL);
    assert_eq!(settlements(&queue), [(0, 499, 2)], "500 is still being tried");
}

#[test]
fn the_keys_of_what_is_forgotten_are_swept_and_asked_about() {
    let mut queue = queue();
    queue.learn_sweep((0, 1, i64::MIN), &[]);
    assert!(!queue.must_ask(0, 7));
    offered(&mut queue, [fresh(500, 7)]);
    queue.restart(0, 0, 2);
    assert!(queue.must_ask(0, 7), "a suspect has its row by the attempt that was counted");
    assert_eq!(queue.plan_sweeps(), [(0, 1, i64::MIN)], "it may be over when it is read again, and others parked behind it");
}

#[test]
fn a_refresh_drops_what_is_not_being_tried_and_nothing_else() {
    let mut queue = caught_up(Queue::new(true, 10, 1000), &[0, 1], false);
    offered(&mut queue, [fresh(10, 7), fresh(11, 7), waiting(5, 6, 0), fresh(12, 8), in_lane_1(20, 17), in_lane_1(21, 18)]);
    let tried = take(&mut queue).unwrap();
    assert_eq!(tried.seq, 10);
    offered(&mut queue, [replay(3)]);
    queue.begin_release(1);
    assert_eq!(queue.held, [3, 1, 1], "lane 1 is handed over, with what it held");
    queue.refresh();
    assert_eq!(queue.held, [1, 0, 0]);
    let plan = queue.plan_log(TAIL, TAIL);
    assert!(plan.near.wants(0, 11, false) && !plan.near.wants(0, 10, false) && !plan.near.wants(1, 20, true));
    offered(&mut queue, [fresh(11, 7), fresh(12, 8), waiting(5, 6, 0), replay(3)]);
    assert_eq!(taken(&mut queue), [12, 5, 3], "11 waits for 10, which is still being tried");
    finish(&mut queue, tried, Settled::Done);
    assert_eq!(taken(&mut queue), [11]);
}

#[test]
fn a_refresh_looks_for_waiting_rows_everywhere_and_sweeps_the_keys() {
    let mut queue = queue();
    queue.learn_sweep((0, 1, i64::MIN), &[]);
    queue.offer_stranded(0, 7, 1);
    read_pages(&mut queue, &[parked(1, 7), parked(2, 7)], 0);
    queue.refresh();
    assert!(queue.keys.is_empty() && queue.held == [0; 3]);
    assert_eq!(queue.plan_sweeps(), [(0, 1, i64::MIN)]);
    queue.learn_sweep((0, 1, i64::MIN), &[(7, 1, true)]);
    read_pages(&mut queue, &[parked(1, 7), parked(2, 7)], 0);
    assert_eq!(finish_all(&mut queue), [1, 2]);
}

#[test]
fn a_refresh_leaves_what_is_being_recorded_before_what_it_reads_again() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7)]);
    let head = take(&mut queue).unwrap();
    let later = queue.block(head);
    queue.refresh();
    let third = parks(&mut queue, fresh(3, 7));
    finish(&mut queue, head, Settled::Waits(at(0)));
    [later[0].place(), third].into_iter().for_each(|place| queue.settle(place, Settled::Parked));
    read_pages(&mut queue, &[waiting(1, 7, 0), parked(2, 7), parked(3, 7)], 0);
    assert_eq!(finish_all(&mut queue), [1, 2, 3]);
}

#[test]
fn a_lane_that_is_handed_over_takes_nothing_new_and_goes_when_it_is_quiet() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7), fresh(3, 8), fresh(4, 9)]);
    let (first, second) = (queue.take().unwrap(), queue.take().unwrap());
    assert_eq!(queue.owned(), 1);
    queue.begin_release(1);
    assert_eq!((queue.owned(), queue.held), (0, [2, 0, 0]));
    assert!(queue.take().is_none() && is_ignored(&mut queue, fresh(5, 10)) && is_ignored(&mut queue, waiting(6, 10, 0)));
    assert!(queue.quiet().is_empty() && !queue.is_quiet());
    queue.tried(first.row.place(), false);
    finish(&mut queue, first.row.place(), Settled::Done);
    queue.tried(second.row.place(), false);
    queue.put_back(second.row);
    assert_eq!(queue.quiet(), [(0, 1, 1)]);
    assert_eq!((queue.held, queue.keys.len(), queue.lanes.len()), ([0; 3], 0, 0));
}

#[test]
fn a_lane_is_not_let_go_while_rows_are_being_recorded_as_waiting() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7), fresh(3, 7)]);
    let head = take(&mut queue).unwrap();
    let behind = queue.block(head);
    let parked = parks(&mut queue, fresh(4, 7));
    queue.begin_release(1);
    finish(&mut queue, head, Settled::Waits(at(100)));
    let recording: Vec<Place> = behind.iter().map(Row::place).chain([parked]).collect();
    assert_eq!(recording.iter().map(|place| place.seq).collect::<Vec<_>>(), [2, 3, 4]);
    for place in recording {
        assert!(!queue.is_quiet() && queue.quiet().is_empty(), "{} is not recorded yet", place.seq);
        queue.settle(place, Settled::Parked);
    }
    assert_eq!(queue.quiet(), [(0, TAIL, 1)]);
}

#[test]
fn lanes_are_handed_over_from_the_last_on_and_none_twice() {
    let mut queue = caught_up(Queue::new(true, 10, 1000), &[0, 1, 2], false);
    queue.begin_release(1);
    queue.begin_release(1);
    assert_eq!((queue.owned(), queue.quiet()), (1, vec![(1, TAIL, 1), (2, TAIL, 1)]));
}

#[test]
fn due_times_are_remembered_once_and_up_to_a_bound() {
    let mut queue = queue();
    let wait = |queue: &mut Queue<()>, seq: i64, due_ms: i64| {
        offered(queue, [row(seq, None, Origin::Fresh, None)]);
        let place = take(queue).unwrap();
        finish(queue, place, Settled::Waits(at(due_ms)));
    };
    for seq in 1..=TIMERS_MAX as i64 + 5 {
        // Later ones first, so that each is the next one.
        wait(&mut queue, seq, 1_000_000 - seq / 2);
        if seq == 5 {
            assert_eq!(queue.timers.len(), 3, "1, 2 and 3, 4 and 5");
        }
    }
    (20_001..=20_000 + TIMERS_MAX as i64).for_each(|seq| wait(&mut queue, seq, 900_000 - seq));
    assert_eq!(queue.timers.len(), TIMERS_MAX);
}

#[test]
fn owed_is_what_lies_in_an_interval_and_is_of_its_types() {
    let mut queue = Queue::<()>::new(true, 10, 1000);
    assert!(!queue.subscribes(1, None), "nothing is known to be owed");
    assert_eq!(queue.types(), Some(vec![]));
    let one = |from_seq, until_seq, types: Option<&[&str]>| Subscription {
        from_seq,
        until_seq,
        types: types.map(|types| types.iter().map(ToString::to_string).collect()),
    };
    queue.subscribe(vec![one(10, 20, Some(&["a", "b"])), one(20, 30, Some(&["c"]))]);
    let owed = |queue: &Queue<()>, of| [9, 10, 19, 20, 29, 30].map(|seq| queue.subscribes(seq, of));
    assert_eq!(owed(&queue, Some("a")), [false, true, true, false, false, false]);
    assert_eq!(owed(&queue, Some("c")), [false, false, false, true, true, false]);
    assert_eq!(owed(&queue, None), [false; 6], "it has no type");
    assert_eq!(queue.types(), Some(["a", "b", "c"].map(String::from).to_vec()));
    queue.subscribe(vec![one(10, 20, Some(&["a"])), one(20, i64::MAX, None)]);
    assert_eq!(owed(&queue, None), [false, false, false, true, true, true]);
    assert_eq!(owed(&queue, Some("x")), [false, false, false, true, true, true]);
    assert_eq!(queue.types(), None, "any may be owed");
}
