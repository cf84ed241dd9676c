//! One lane by itself: how far its waiting rows have been read, which keys are swept, and what is settled.

use super::*;

fn at(seconds: i64, seq: i64) -> DuePosition {
    DuePosition { due: DateTime::from_timestamp(seconds, 0).unwrap(), seq }
}

/// Read up to this position, with nothing due beyond it.
fn read_to(position: DuePosition) -> Due {
    let mut due = Due::new();
    due.begin();
    assert!(learns(&mut due, Some(position), false));
    due
}

/// Whether nothing is left to look for after a read that came as far as `last`.
fn learns(due: &mut Due, last: Option<DuePosition>, full: bool) -> bool {
    due.learn(last, full);
    !due.look
}

#[test]
fn what_is_recorded_behind_the_position_is_read_and_no_more_than_that() {
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
    assert!(!learns(&mut due, Some(at(110, 1)), false), "something is left");
    assert!(due.position < at(98, 0) && due.position >= at(97, i64::MAX), "from the first of them on");
    due.begin();
    assert!(learns(&mut due, Some(at(110, 1)), false), "and then nothing");
}

#[test]
fn a_read_that_stopped_at_its_limit_leaves_more_to_look_for() {
    let mut due = Due::new();
    assert!(due.look, "at first nothing is known");
    due.begin();
    assert!(!learns(&mut due, Some(at(100, 7)), true));
    assert_eq!((due.position, due.look), (at(100, 7), true));
    due.begin();
    assert!(learns(&mut due, None, false));
    assert_eq!(due.position, at(100, 7), "a read that finds nothing goes no way back");
}

#[test]
fn a_rewind_reads_from_the_start_also_where_a_read_is_under_way() {
    let mut due = read_to(at(100, 7));
    due.begin();
    due.rewind();
    assert_eq!((due.position, due.look), (DuePosition::START, true));
    assert!(!learns(&mut due, Some(at(100, 9)), false));
    assert_eq!(due.position, DuePosition::START);
}

#[test]
fn what_came_up_before_a_read_began_is_seen_by_it_and_asks_for_no_other() {
    let mut due = read_to(at(100, 7));
    due.include(at(99, 0).due);
    due.begin();
    assert!(learns(&mut due, Some(at(110, 1)), false));
    assert_eq!(due.position, at(110, 1));
}

#[test]
fn what_comes_up_just_where_a_read_ends_asks_for_no_other() {
    let mut due = Due::new();
    due.begin();
    due.include(at(100, 0).due);
    let just_before = DuePosition { due: at(100, 0).due - Duration::microseconds(1), seq: i64::MAX };
    assert!(learns(&mut due, Some(just_before), false));
}

/// A sweep that has come to its end and found nothing.
fn swept() -> KeySweep {
    let mut keys = KeySweep::new();
    keys.learn(None, false);
    keys
}

#[test]
fn keys_may_wait_until_a_whole_sweep_has_found_none() {
    let mut keys = KeySweep::new();
    assert_eq!((keys.after, keys.may_wait), (Some(i64::MIN), true), "at first nothing is known");
    keys.learn(Some(5), true);
    assert_eq!((keys.after, keys.may_wait), (Some(5), true));
    keys.learn(None, false);
    assert_eq!((keys.after, keys.may_wait), (None, true), "its first page has found some");
    keys.start();
    keys.learn(None, false);
    assert_eq!((keys.after, keys.may_wait), (None, false));
}

#[test]
fn what_is_recorded_while_a_sweep_is_under_way_counts_as_found() {
    let mut keys = swept();
    keys.start();
    assert!(!keys.may_wait, "a sweep that begins changes nothing");
    keys.note();
    keys.learn(None, false);
    assert!(keys.may_wait);
    keys.start();
    keys.learn(None, false);
    assert!(!keys.may_wait, "the next one would have seen it");
}

#[test]
fn a_sweep_that_met_what_it_cannot_judge_comes_again_once_when_caught_up() {
    let mut keys = swept();
    keys.caught_up();
    assert_eq!(keys.after, None, "nothing asks for it");
    keys.come_again();
    assert_eq!(keys.after, None, "not before more of the log is read");
    keys.caught_up();
    assert_eq!(keys.after, Some(i64::MIN));
    keys.learn(None, true);
    keys.caught_up();
    assert_eq!(keys.after, None);
}

#[test]
fn a_sweep_that_begins_anyway_need_not_come_again_for_what_came_before() {
    let mut keys = swept();
    keys.come_again();
    keys.start();
    keys.learn(None, true);
    keys.caught_up();
    assert_eq!(keys.after, None);
}

/// A lane that has read up to the tail, from 10 on.
fn at_the_tail() -> Lane {
    Lane { behind: None, ..Lane::new(1, false, 10, 1) }
}

#[test]
fn a_lane_begins_where_it_is_settled_whatever_the_tail_has_seen() {
    let lane = Lane::new(1, false, 10, 1);
    assert_eq!([0, 10, 100].map(|tail| (lane.read_to(tail), lane.settled(tail))), [(10, 10); 3]);
}

#[test]
fn a_lane_is_settled_up_to_what_it_read_and_before_what_it_holds() {
    let mut lane = at_the_tail();
    assert_eq!((lane.read_to(100), lane.settled(100)), (100, 100));
    lane.unsettled.extend([40, 60]);
    assert_eq!(lane.settled(100), 39);
    assert_eq!(lane.settled(30), 30, "what it holds lies beyond what is complete");
    lane.unsettled.remove(&40);
    assert_eq!(lane.settled(100), 59);
    lane.behind = Some(50);
    assert_eq!(lane.settled(100), 50);
}

#[test]
fn a_lane_is_never_settled_less_than_it_was() {
    let mut lane = at_the_tail();
    lane.unsettled.insert(5);
    assert_eq!((lane.settled(100), lane.settled(3)), (10, 10));
}

#[test]
fn a_lane_falls_back_to_the_first_position_and_never_forward() {
    let mut lane = at_the_tail();
    lane.fall_back(50, 30);
    assert_eq!(lane.behind, Some(30), "no further than the tail had come");
    lane.fall_back(20, 100);
    assert_eq!(lane.behind, Some(20));
    lane.fall_back(25, 100);
    assert_eq!(lane.behind, Some(20));
}
