//! One lane by itself: how far it has been read, and which of its keys must wait.

use super::*;

fn at(seconds: i64, seq: i64) -> DuePosition {
    DuePosition { due: DateTime::from_timestamp(seconds, 0).unwrap(), seq }
}

/// Read up to this position, with nothing due beyond it.
fn read_to(position: DuePosition) -> Due {
    let mut due = Due::new();
    due.begin();
    assert!(due.learn(Some(position), false));
    due
}

#[test]
fn a_row_that_is_recorded_behind_the_position_is_read_and_one_beyond_it_asks_for_nothing() {
    let mut due = read_to(at(100, 7));
    due.include(at(101, 0).due);
    assert_eq!((due.position, due.look), (at(100, 7), false));
    for seconds in [100, 99] {
        let mut due = read_to(at(100, 7));
        due.include(at(seconds, 0).due);
        assert!(due.look && due.position < at(seconds, 0), "any row that is due then lies beyond the position");
        assert!(due.position >= at(seconds - 1, i64::MAX), "and little else");
    }
}

#[test]
fn a_row_exactly_after_the_position_asks_for_nothing() {
    let position = DuePosition { due: at(100, 0).due - Duration::microseconds(1), seq: i64::MAX };
    let mut due = read_to(position);
    due.include(at(100, 0).due);
    assert_eq!((due.position, due.look), (position, false));
}

#[test]
fn what_comes_up_behind_a_read_that_is_under_way_is_read_after_it_once() {
    let mut due = read_to(at(100, 7));
    due.begin();
    due.include(at(99, 0).due);
    due.include(at(98, 0).due);
    due.include(at(99, 0).due);
    assert!(!due.learn(Some(at(110, 1)), false), "something is left");
    assert!(due.position < at(98, 0) && due.position >= at(97, i64::MAX), "from the first of them on");
    due.begin();
    assert!(due.learn(Some(at(110, 1)), false), "and then nothing");
}

#[test]
fn a_read_that_stopped_at_its_limit_leaves_more_to_look_for() {
    let mut due = Due::new();
    assert!(due.look, "at first nothing is known");
    due.begin();
    assert!(!due.learn(Some(at(100, 7)), true));
    assert_eq!((due.position, due.look), (at(100, 7), true));
    due.begin();
    assert!(due.learn(None, false));
    assert_eq!(due.position, at(100, 7), "a read that finds nothing goes no way back");
}

#[test]
fn a_rewind_reads_from_the_start_also_where_a_read_is_under_way() {
    let mut due = read_to(at(100, 7));
    due.begin();
    due.rewind();
    assert_eq!((due.position, due.look), (DuePosition::START, true));
    assert!(!due.learn(Some(at(100, 9)), false));
    assert_eq!(due.position, DuePosition::START);
}

#[test]
fn what_came_up_before_a_read_began_is_seen_by_it_and_asks_for_no_other() {
    let mut due = read_to(at(100, 7));
    due.include(at(99, 0).due);
    due.begin();
    assert!(due.learn(Some(at(110, 1)), false));
    assert_eq!(due.position, at(110, 1));
}

#[test]
fn what_comes_up_just_where_a_read_ends_asks_for_no_other() {
    let mut due = Due::new();
    due.begin();
    due.include(at(100, 0).due);
    let just_before = DuePosition { due: at(100, 0).due - Duration::microseconds(1), seq: i64::MAX };
    assert!(due.learn(Some(just_before), false));
}

#[test]
fn lanes_with_a_backlog_take_turns_and_those_without_are_always_read() {
    let mut lane = Lane::new(1, false);
    lane.cursor = 50;
    assert!(lane.has_turn(0), "without a backlog");
    lane.has_backlog = true;
    assert_eq!([49, 50, 51].map(|until| lane.has_turn(until)), [false, true, true]);
}

#[test]
fn a_read_counts_on_the_known_rows_beyond_its_position_alone() {
    let mut lane = Lane::new(1, false);
    lane.known.extend([10, 20, 30]);
    assert_eq!([0, 10, 29, 30].map(|position| lane.known_after(position)), [3, 2, 1, 0]);
}

/// A lane one of whose keys, 7, must wait from position 1 until second 100.
fn blocked() -> Lane {
    let mut lane = Lane::new(1, false);
    lane.block(7, 1, at(100, 0).due);
    lane
}

/// Whether a later row of the key would have to wait.
fn is_blocked(lane: &Lane) -> bool {
    lane.must_wait(7, 9, None, at(100, 0).due).is_some()
}

#[test]
fn later_rows_of_a_blocked_key_wait_but_for_those_that_waited_as_long_as_their_head() {
    let lane = blocked();
    let waits = |key, seq, due: Option<i64>, now| lane.must_wait(key, seq, due.map(|due| at(due, 0).due), at(now, 0).due);
    assert_eq!(waits(7, 1, None, 99), None, "the head itself");
    assert_eq!(waits(7, 2, None, 100), Some(at(100, 0).due), "a fresh one, whatever the time");
    assert_eq!(waits(7, 2, Some(100), 99), Some(at(100, 0).due), "its time has not come");
    assert_eq!(waits(7, 2, Some(100), 100), None);
    assert_eq!(waits(7, 2, Some(99), 100), Some(at(100, 0).due), "it was due before its head");
    assert_eq!(waits(8, 2, None, 99), None, "another key");
}

#[test]
fn a_waiting_row_is_passed_over_while_others_before_it_may_be_on_their_way_to_its_due_time() {
    let mut lane = blocked();
    assert!(lane.pass_over(7, 2, 0), "a read that has not begun since");
    assert!(!lane.pass_over(7, 2, 1), "nothing is on its way");
    lane.recording(7);
    assert!(lane.pass_over(7, 2, 1) && lane.pass_over(7, 2, 5));
    assert!(!lane.pass_over(7, 1, 1), "the first of them all");
    lane.recorded(7, 3);
    assert!(lane.pass_over(7, 2, 3), "the read under way may not have seen it");
    assert!(!lane.pass_over(7, 2, 4));
    assert!(!lane.pass_over(8, 2, 0), "another key");
}

#[test]
fn what_was_passed_over_is_read_again_once_the_last_row_before_it_is_recorded_and_nothing_else_is() {
    let mut lane = blocked();
    let reads_from_the_start = |lane: &Lane| (lane.waiting.position, lane.waiting.look) == (DuePosition::START, true);
    lane.waiting = read_to(at(100, 7));
    lane.recording(7);
    lane.recorded(7, 1);
    assert!(!reads_from_the_start(&lane), "nothing was passed over");
    lane.recording(7);
    lane.recording(7);
    lane.pass_over(7, 2, 2);
    lane.recorded(7, 2);
    assert!(!reads_from_the_start(&lane), "another one is still on its way");
    lane.recorded(7, 2);
    assert!(reads_from_the_start(&lane));
}

#[test]
fn a_key_is_due_from_the_moment_on_until_which_it_waits() {
    let lane = blocked();
    assert_eq!([99, 100, 101].map(|seconds| lane.has_due_keys(at(seconds, 0).due)), [false, true, true]);
    assert!(!Lane::new(1, false).has_due_keys(at(100, 0).due), "no key waits");
}

#[test]
fn a_key_is_free_once_a_read_has_seen_all_its_waiting_rows_and_no_sooner() {
    let unblocked = |change: &dyn Fn(&mut Lane), read, began, more| {
        let mut lane = blocked();
        change(&mut lane);
        lane.unblock(read, at(began, 0).due, |_| more);
        !is_blocked(&lane)
    };
    let unchanged = |_: &mut Lane| ();
    assert!(unblocked(&unchanged, 1, 100, false));
    assert!(!unblocked(&unchanged, 1, 99, false), "its time had not come when the read began");
    assert!(!unblocked(&unchanged, 1, 100, true), "rows of it were left in the database");
    assert!(!unblocked(&unchanged, 0, 100, false), "it was blocked after the read began");
    assert!(!unblocked(&|lane| lane.recording(7), 1, 100, false), "a row of it is on its way");
    let recorded = |lane: &mut Lane| {
        lane.recording(7);
        lane.recorded(7, 3);
    };
    assert!(!unblocked(&recorded, 3, 100, false), "it was recorded after the read began");
    assert!(unblocked(&recorded, 4, 100, false));
}
