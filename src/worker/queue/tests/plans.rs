//! What a read is asked for: from where, how many rows, of which lanes; and what is learned from it.

use super::*;

/// A queue that owns these lanes, each settled to there.
fn owning(lanes: &[(i16, i64)], rows_max: usize) -> Queue<()> {
    let mut queue = Queue::new(true, 10, rows_max);
    queue.subscribe(everything());
    lanes.iter().for_each(|(lane, settled_to)| queue.own(*lane, false, *settled_to, 1));
    queue
}

fn behind(queue: &Queue<()>) -> Vec<Option<i64>> {
    queue.lanes.values().map(|lane| lane.behind).collect()
}

#[test]
fn a_lane_near_the_tail_joins_it_and_one_further_off_catches_up_first() {
    let mut queue = owning(&[(0, 100), (1, 7_999), (2, 8_000), (3, 9_000)], 1000);
    let plan = queue.plan_log(10_000, 9_500);
    assert_eq!((plan.far.mask, plan.far.from), (0b0011, Some(100)));
    assert_eq!((plan.near.mask, plan.near.from), (0b1100, Some(8_000)));
    assert!(plan.far.wants(0, 101, false) && !plan.far.wants(0, 100, true) && !plan.far.wants(1, 7_999, true));
    assert!(plan.near.wants(3, 9_001, false) && !plan.near.wants(3, 9_000, true) && !plan.near.wants(0, 9_001, true));
    queue.learn_log(&plan.far, Some(5_000));
    queue.learn_log(&plan.near, None);
    assert_eq!(behind(&queue), [Some(5_000), Some(7_999), None, None], "none goes back");
    assert_eq!(queue.settlements(1), [(0, 5_000, 1), (2, 9_500, 1), (3, 9_500, 1)]);
}

#[test]
fn lanes_at_the_tail_want_what_is_new_to_it_and_nothing_else() {
    let mut queue = queue();
    assert!(queue.has_seen_tail() && !queue.is_behind());
    let plan = queue.plan_log(TAIL, TAIL);
    assert_eq!((plan.near.from, plan.near.mask, plan.far.is_empty(), plan.room), (None, 1, true, 1000));
    assert!(plan.near.wants(0, 5, true) && !plan.near.wants(0, 2_000, false) && !plan.near.wants(1, 5, true));
    queue.learn_log(&plan.near, Some(5));
    assert_eq!(behind(&queue), [None], "a read that did not come to the end has shown it all that is new");
}

#[test]
fn a_lane_that_joins_is_at_the_tail_only_if_the_read_came_to_its_end() {
    let mut queue = owning(&[(0, 500)], 1000);
    assert!(!queue.has_seen_tail() && queue.is_behind());
    let plan = queue.plan_log(TAIL, TAIL);
    queue.learn_log(&plan.near, Some(700));
    assert_eq!((behind(&queue), settled(&queue)), (vec![Some(700)], 700));
    let plan = queue.plan_log(TAIL, TAIL);
    queue.learn_log(&plan.near, None);
    assert_eq!((behind(&queue), settled(&queue)), (vec![None], TAIL));
}

#[test]
fn without_room_for_half_a_queue_leaves_the_tail_and_stays_where_it_was() {
    let mut queue = caught_up(Queue::new(true, 10, 100), &[0], false);
    offered(&mut queue, (1..=50).map(|seq| fresh(seq, seq)));
    assert!(queue.has_room());
    assert_eq!(queue.plan_log(TAIL, TAIL).room, 50);
    offered(&mut queue, [fresh(51, 51)]);
    assert!(!queue.has_room());
    let plan = queue.plan_log(TAIL + 70, TAIL + 60);
    assert!(plan.near.is_empty() && plan.far.is_empty());
    assert_eq!(behind(&queue), [Some(TAIL + 60)], "so far it took part in every read");
    queue.plan_log(TAIL + 90, TAIL + 90);
    assert_eq!((behind(&queue), queue.is_behind()), (vec![Some(TAIL + 60)], false));
    let place = take(&mut queue).unwrap();
    finish(&mut queue, place, Settled::Done);
    let plan = queue.plan_log(TAIL + 90, TAIL + 90);
    assert_eq!((plan.near.from, queue.is_behind()), (Some(TAIL + 60), true));
}

#[test]
fn a_lane_that_fell_back_during_a_read_stays_where_it_fell_to() {
    for at_tail in [true, false] {
        let mut queue = owning(&[(0, 10)], 1000);
        if at_tail {
            read_log(&mut queue, TAIL);
        }
        let plan = queue.plan_log(TAIL, TAIL);
        offered(&mut queue, [fresh(5, 7)]);
        let place = take(&mut queue).unwrap();
        finish(&mut queue, place, Settled::Unknown);
        queue.learn_log(&plan.near, None);
        assert_eq!(behind(&queue), [Some(4)]);
    }
}

#[test]
fn a_read_that_was_planned_before_the_lanes_were_lost_moves_none_of_them() {
    let mut queue = owning(&[(0, 10)], 1000);
    let plan = queue.plan_log(TAIL, TAIL);
    let due = queue.plan_due(at(0), false);
    assert!(queue.is_current(&due[0]));
    queue.disown_all();
    queue.own(0, true, 10, 1);
    queue.learn_log(&plan.near, None);
    assert_eq!(behind(&queue), [Some(10)]);
    assert!(!queue.is_current(&due[0]));
    let last = Some(DuePosition { due: at(0), seq: 5 });
    assert!(!queue.learn_due(&due[0], &Found { waiting: 1, waiting_last: last, ..Found::default() }));
    assert_eq!(queue.lanes[&0].waiting.position, DuePosition::START);
}

#[test]
fn events_of_a_read_that_new_rules_or_owners_came_between_are_left_alone() {
    let mut reloaded = owning(&[(0, 10)], 1000);
    let plan = reloaded.plan_log(TAIL, TAIL);
    reloaded.restart(0, 10, 2);
    assert!(is_ignored(&mut reloaded, fresh(20, 7)), "what came before it may have been left out");
    reloaded.learn_log(&plan.near, None);
    assert_eq!(behind(&reloaded), [Some(10)]);

    let mut lost = queue();
    lost.plan_log(TAIL, TAIL);
    lost.disown_all();
    lost.own(0, false, 10, 1);
    assert!(is_ignored(&mut lost, fresh(20, 7)), "others may come before it now");
    lost.plan_log(TAIL, TAIL);
    assert!(!is_ignored(&mut lost, fresh(20, 7)));
}

#[test]
fn a_lane_handed_over_during_a_read_that_it_joins_is_not_moved_by_it() {
    let mut queue = owning(&[(0, 10)], 1000);
    let plan = queue.plan_log(TAIL, TAIL);
    queue.begin_release(1);
    assert!(is_ignored(&mut queue, fresh(20, 7)));
    queue.learn_log(&plan.near, None);
    assert_eq!(queue.quiet(), [(0, 10, 1)], "20 is the next owner's");
}

#[test]
fn an_eighth_of_the_room_for_waiting_rows_is_read_at_a_time_in_each_lane() {
    let mut queue = owning(&[(0, 0), (1, 0)], 1000);
    let plan = queue.plan_due(at(0), false);
    assert_eq!(plan.iter().map(|wanted| wanted.lane).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(plan[0].waiting, Some((DuePosition::START, 500 / 8)));
    assert_eq!(plan[0].replay, Some((DuePosition::START, 250 / 8)));
}

#[test]
fn rows_in_memory_that_a_read_finds_again_use_up_none_of_its_limits() {
    let mut queue = queue();
    offered(&mut queue, [fresh(98, 7), fresh(99, 8), fresh(100, 9), waiting(50, 6, 0)]);
    let wanted = queue.plan_due(at(0), false).remove(0);
    assert_eq!(wanted.waiting, Some((DuePosition::START, (500 - 1) / 8 + 4)));
    assert_eq!(wanted.replay, Some((DuePosition::START, 250 / 8 + 4)));
}

#[test]
fn the_bounds_on_fresh_rows_waiting_ones_and_replays_hold_apart() {
    let mut queue = caught_up(Queue::new(false, 10, 32), &[0], false);
    offered(&mut queue, (1..=32).map(|seq| fresh(seq, seq)));
    let wanted = queue.plan_due(at(0), false).remove(0);
    assert_eq!((wanted.waiting, wanted.replay), (Some((DuePosition::START, 8 + 32)), Some((DuePosition::START, 8 + 32))));
    offered(&mut queue, (41..=56).map(|seq| waiting(seq, seq, 0)));
    let wanted = queue.plan_due(at(0), false).remove(0);
    assert_eq!((wanted.waiting, wanted.replay.is_some()), (None, true), "half as many waiting rows as fresh ones");
    offered(&mut queue, (61..=68).map(replay));
    assert_eq!(queue.plan_due(at(0), false), [], "and a quarter as many replays");
    assert_eq!(queue.held, [32, 16, 8]);
}

#[test]
fn a_row_that_waits_is_looked_for_when_it_is_due_and_no_sooner() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7)]);
    let place = take(&mut queue).unwrap();
    finish(&mut queue, place, Settled::Waits(at(100)));
    let wanted = queue.plan_due(at(0), false).remove(0);
    queue.learn_due(&wanted, &Found::default());
    assert_eq!(queue.next_due(), Some(at(100)));
    assert_eq!(queue.plan_due(at(99), false), []);
    assert!(queue.plan_due(at(100), false)[0].waiting.is_some());
    assert_eq!(queue.next_due(), None);
}

#[test]
fn a_row_is_found_when_it_is_due_also_before_what_has_been_read() {
    for origin in [Origin::Waiting, Origin::Replay] {
        let mut queue = queue();
        let wanted = queue.plan_due(at(500), false).remove(0);
        let last = Some(DuePosition { due: at(500), seq: 1 });
        queue.learn_due(&wanted, &Found { waiting: 1, waiting_last: last, replay: 1, replay_last: last });
        offered(&mut queue, [row(9, Some(7), origin, Some(at(0)))]);
        let place = take(&mut queue).unwrap();
        finish(&mut queue, place, Settled::Waits(at(400)));
        let wanted = queue.plan_due(at(500), false).remove(0);
        let begins_before = |from: Option<(DuePosition, i64)>| from.is_some_and(|(from, _)| from.due < at(400));
        assert_eq!((begins_before(wanted.waiting), begins_before(wanted.replay)), (origin == Origin::Waiting, origin == Origin::Replay));
    }
}

#[test]
fn a_look_everywhere_begins_at_the_start_in_every_lane_that_is_kept() {
    let mut queue = owning(&[(0, 0), (1, 0)], 1000);
    for wanted in queue.plan_due(at(500), false) {
        queue.learn_due(&wanted, &Found { waiting: 1, waiting_last: Some(DuePosition { due: at(500), seq: 1 }), ..Found::default() });
    }
    assert_eq!(queue.plan_due(at(500), false), []);
    queue.begin_release(1);
    let plan = queue.plan_due(at(500), true);
    assert_eq!(plan.iter().map(|wanted| (wanted.lane, wanted.waiting.unwrap().0)).collect::<Vec<_>>(), [(0, DuePosition::START)]);
}

#[test]
fn a_read_says_that_its_lane_has_more_where_it_was_full() {
    for (waiting, replay, more) in [(0, 0, false), (62, 0, true), (61, 30, false), (0, 31, true)] {
        let mut queue = owning(&[(0, 0)], 1000);
        let wanted = queue.plan_due(at(0), false).remove(0);
        assert_eq!(queue.learn_due(&wanted, &Found { waiting, replay, ..Found::default() }), more, "{waiting} and {replay}");
    }
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7)]);
    let place = take(&mut queue).unwrap();
    let wanted = queue.plan_due(at(500), false).remove(0);
    finish(&mut queue, place, Settled::Waits(at(400)));
    let last = Some(DuePosition { due: at(500), seq: 1 });
    assert!(queue.learn_due(&wanted, &Found { waiting: 1, waiting_last: last, ..Found::default() }), "a row came up behind it");
}

#[test]
fn a_read_that_failed_is_asked_for_again_and_what_it_did_not_ask_is_not() {
    let mut queue = owning(&[(0, 0)], 1000);
    let wanted = queue.plan_due(at(0), false).remove(0);
    queue.learn_due(&wanted, &Found::default());
    assert_eq!(queue.plan_due(at(0), false), []);
    queue.fail_read(&[Wanted { waiting: None, ..wanted.clone() }], &[]);
    let again = queue.plan_due(at(0), false).remove(0);
    assert_eq!((again.waiting, again.replay), (None, wanted.replay));
    queue.fail_read(&[Wanted { serial: 9, ..wanted }], &[]);
    queue.learn_due(&again, &Found::default());
    assert_eq!(queue.plan_due(at(0), false), [], "it was of an earlier owner");
}

#[test]
fn what_a_read_found_is_counted_by_origin() {
    let mut found = Found::default();
    for seq in 1..=2 {
        found.add(Origin::Waiting, Some(at(seq)), seq + 10);
        found.add(Origin::Replay, Some(at(seq)), seq + 20);
    }
    assert_eq!((found.waiting, found.replay), (2, 2));
    assert_eq!([found.waiting_last, found.replay_last], [12, 22].map(|seq| Some(DuePosition { due: at(2), seq })));
}
