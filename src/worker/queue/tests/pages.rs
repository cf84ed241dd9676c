//! What waits in the database by its key: when it is asked for, and what of it is taken in; and the sweeps that find what nobody asks for.

use super::*;

/// A queue that is about to read what is parked of key 7.
fn paging() -> Queue<()> {
    let mut queue = queue();
    queue.offer_stranded(0, 7, 1);
    queue.begin_read();
    assert_eq!(queue.plan_pages(), [(0, 7)]);
    queue
}

fn has_more(queue: &Queue<()>) -> bool {
    queue.keys.get(&7).is_some_and(|key| key.more)
}

#[test]
fn a_page_is_asked_for_once_and_read_in_its_order() {
    let mut queue = queue();
    queue.offer_stranded(0, 7, 1);
    queue.offer_stranded(0, 7, 1);
    assert_eq!(queue.plan_pages(), [(0, 7)]);
    assert_eq!(queue.plan_pages(), []);
    queue.offer_page(7, vec![parked(1, 7), parked(2, 7), waiting(3, 7, 0)], false, at(0));
    assert_eq!(queue.held, [0, 3, 0]);
    assert!(!has_more(&queue));
    assert_eq!(finish_all(&mut queue), [1, 2, 3]);
    assert!(queue.keys.is_empty());
}

#[test]
fn a_page_ends_before_a_row_whose_time_has_not_come_and_wakes_for_it() {
    let mut queue = paging();
    queue.offer_page(7, vec![parked(1, 7), waiting(2, 7, 100), parked(3, 7)], false, at(99));
    assert_eq!((queue.held, has_more(&queue), queue.next_due()), ([0, 1, 0], true, Some(at(100))));
    assert_eq!(finish_all(&mut queue), [1]);
    assert_eq!(read_pages(&mut queue, &[waiting(2, 7, 100), parked(3, 7)], 99), [7]);
    assert!(queue.keys.is_empty(), "it comes by its time");
    let mut due = paging();
    due.offer_page(7, vec![waiting(2, 7, 100), parked(3, 7)], false, at(100));
    assert_eq!(finish_all(&mut due), [2, 3]);
}

#[test]
fn a_full_page_has_more_behind_it_and_is_followed_by_the_next() {
    let mut queue = paging();
    let rows: Vec<Row<()>> = (1..=100).map(|seq| parked(seq, 7)).collect();
    queue.offer_page(7, rows[..KEY_ROWS_MAX].to_vec(), true, at(0));
    assert!(has_more(&queue));
    parks(&mut queue, fresh(200, 7));
    queue.settle(fresh(200, 7).place(), Settled::Parked);
    assert_eq!(finish_all(&mut queue).len(), KEY_ROWS_MAX);
    assert_eq!(read_pages(&mut queue, &rows[KEY_ROWS_MAX..], 0), [7]);
    assert!(!has_more(&queue));
    assert_eq!(finish_all(&mut queue).last(), Some(&100));
}

#[test]
fn rows_beyond_what_was_read_of_the_log_wait_until_it_is_read() {
    let mut queue = paging();
    queue.lanes.get_mut(&0).unwrap().behind = Some(1);
    queue.lanes.get_mut(&0).unwrap().keys.learn(None, true);
    queue.offer_page(7, vec![parked(1, 7), parked(2, 7)], false, at(0));
    assert_eq!(queue.held, [0, 1, 0], "fresh events may lie before 2");
    assert!(has_more(&queue));
    assert_eq!(finish_all(&mut queue), [1]);
    read_pages(&mut queue, &[parked(2, 7)], 0);
    assert!(queue.keys.is_empty());
    assert_eq!(queue.plan_sweeps(), []);
    read_log(&mut queue, TAIL);
    assert_eq!(queue.plan_sweeps(), [(0, 1, i64::MIN)], "it has caught up, and looks again");
    queue.learn_sweep((0, 1, i64::MIN), &[(7, 2, true)]);
    read_pages(&mut queue, &[parked(2, 7)], 0);
    assert_eq!(finish_all(&mut queue), [2]);
}

#[test]
fn a_page_is_cut_by_what_is_being_recorded_since_that_may_come_before() {
    let mut queue = paging();
    let second = parks(&mut queue, fresh(2, 7));
    queue.offer_page(7, vec![parked(1, 7), parked(3, 7)], false, at(0));
    assert_eq!(queue.held, [1, 1, 0]);
    assert!(has_more(&queue));
    queue.settle(second, Settled::Parked);
    assert_eq!(finish_all(&mut queue), [1]);
    read_pages(&mut queue, &[parked(2, 7), parked(3, 7)], 0);
    assert_eq!(finish_all(&mut queue), [2, 3]);
}

#[test]
fn what_was_recorded_while_a_page_was_read_is_asked_for_again() {
    let mut queue = paging();
    let second = parks(&mut queue, fresh(2, 7));
    queue.settle(second, Settled::Parked);
    queue.offer_page(7, vec![], false, at(0));
    assert_eq!(read_pages(&mut queue, &[parked(2, 7)], 0), [7]);
    assert_eq!(finish_all(&mut queue), [2]);

    // Where it shows some, the others come when those are over.
    let mut queue = paging();
    let second = parks(&mut queue, fresh(2, 7));
    queue.settle(second, Settled::Parked);
    queue.offer_page(7, vec![parked(1, 7)], false, at(0));
    assert!(has_more(&queue));
    assert_eq!((queue.plan_pages(), finish_all(&mut queue)), (vec![], vec![1]));
    assert_eq!(queue.plan_pages(), [(0, 7)]);

    // What was recorded before a page was planned, that shows.
    let mut queue = self::queue();
    queue.offer_stranded(0, 7, 1);
    let second = parks(&mut queue, fresh(2, 7));
    queue.settle(second, Settled::Parked);
    assert_eq!(read_pages(&mut queue, &[], 0), [7]);
    assert!(queue.keys.is_empty() && queue.plan_pages().is_empty());
}

#[test]
fn a_page_takes_in_nothing_that_is_held_or_just_over() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7), fresh(2, 7)]);
    let head = take(&mut queue).unwrap();
    let later = queue.block(head);
    queue.settle(later[0].place(), Settled::Parked);
    finish(&mut queue, head, Settled::Waits(at(0)));
    // The read began before any of that was recorded.
    assert_eq!(queue.plan_pages(), [(0, 7)]);
    queue.offer_page(7, vec![waiting(1, 7, 0), parked(2, 7)], false, at(0));
    assert_eq!(taken(&mut queue), [] as [i64; 0]);
}

#[test]
fn a_page_of_a_lane_that_is_handed_over_is_dropped() {
    let mut queue = paging();
    queue.begin_release(1);
    queue.offer_page(7, vec![parked(1, 7)], false, at(0));
    assert!(queue.keys.is_empty() && queue.held == [0; 3]);
    queue.offer_stranded(0, 8, 1);
    assert_eq!(queue.plan_pages(), []);
}

#[test]
fn pages_are_read_some_at_a_time_and_those_of_a_failed_read_again() {
    let mut queue = queue();
    (0..300).for_each(|key| queue.offer_stranded(0, key, key + 1));
    let planned = queue.plan_pages();
    assert_eq!(planned.len(), 256);
    queue.fail_read(&[], &planned);
    let rest = queue.plan_pages();
    assert_eq!((rest.len(), queue.plan_pages().len()), (256, 44));
    let again: HashSet<i64> = rest.into_iter().chain(planned).map(|(_, key)| key).collect();
    assert_eq!(again.len(), 300);
}

#[test]
fn a_sweep_asks_for_the_keys_whose_first_row_is_parked_and_unknown() {
    let mut queue = queue();
    offered(&mut queue, [fresh(30, 3)]);
    let planned = queue.plan_sweeps();
    assert_eq!(planned, [(0, 1, i64::MIN)]);
    let found = [(1, 10, false), (1, 11, true), (2, 20, true), (2, 21, true), (3, 31, true), (4, 40, true)];
    queue.learn_sweep(planned[0], &found);
    assert_eq!(queue.plan_pages(), [(0, 2), (0, 4)], "1 comes by its time, and 3 is known");
    assert_eq!(queue.plan_sweeps(), [], "it was the last page");
}

#[test]
fn a_sweep_goes_on_after_the_key_that_a_full_page_ended_with() {
    let mut queue = queue();
    let found: Vec<(i64, i64, bool)> = (1..=SWEEP_ROWS).map(|n| (n / 2, n, false)).collect();
    queue.learn_sweep((0, 1, i64::MIN), &found);
    assert_eq!(queue.plan_sweeps(), [(0, 1, SWEEP_ROWS / 2)]);
    queue.learn_sweep((0, 1, i64::MIN), &[]);
    queue.learn_sweep((0, 9, SWEEP_ROWS / 2), &[]);
    assert_eq!(queue.plan_sweeps(), [(0, 1, SWEEP_ROWS / 2)], "neither is an answer to what was asked");
    queue.learn_sweep((0, 1, SWEEP_ROWS / 2), &[]);
    assert!(queue.plan_sweeps().is_empty() && queue.may_ask(), "the first page found some");
}

#[test]
fn a_sweep_leaves_rows_beyond_the_read_position_until_they_are_reached() {
    let mut queue = queue();
    queue.lanes.get_mut(&0).unwrap().behind = Some(10);
    queue.learn_sweep((0, 1, i64::MIN), &[(7, 11, true), (8, 10, true)]);
    assert_eq!((queue.plan_pages(), queue.plan_sweeps()), (vec![(0, 8)], vec![]));
    let plan = queue.plan_log(5_000, 5_000);
    queue.learn_log(&plan.far, Some(4_000));
    assert_eq!(queue.plan_sweeps(), [], "it has not caught up");
    read_log(&mut queue, 5_000);
    assert_eq!(queue.plan_sweeps(), [(0, 1, i64::MIN)]);
    queue.learn_sweep((0, 1, i64::MIN), &[(7, 11, true)]);
    assert_eq!(queue.plan_pages(), [(0, 7)]);
}

#[test]
fn a_lane_at_the_tail_lacks_what_lies_beyond_where_the_tail_has_come() {
    let mut queue = queue();
    queue.learn_sweep((0, 1, i64::MIN), &[(7, TAIL + 1, true), (8, 1, true)]);
    queue.begin_read();
    assert_eq!(queue.plan_pages(), [(0, 8)], "fresh events may lie before it");
    queue.offer_page(8, vec![parked(1, 8), parked(TAIL + 1, 8)], false, at(0));
    assert_eq!(finish_all(&mut queue), [1]);
    read_log(&mut queue, TAIL + 1);
    assert_eq!(queue.plan_sweeps(), [(0, 1, i64::MIN)]);
    queue.learn_sweep((0, 1, i64::MIN), &[(7, TAIL + 1, true)]);
    assert!(queue.plan_pages().contains(&(0, 7)));
}

#[test]
fn keys_are_asked_about_until_a_sweep_finds_none() {
    let mut queue = queue();
    assert!(queue.may_ask() && queue.must_ask(0, 7) && !queue.must_ask(1, 7));
    queue.learn_sweep((0, 1, i64::MIN), &[]);
    assert!(!queue.may_ask() && !queue.must_ask(0, 7));
    queue.sweep_all();
    assert_eq!(queue.plan_sweeps(), [], "there is nothing to be found");
    offered(&mut queue, [fresh(1, 7)]);
    let head = take(&mut queue).unwrap();
    fail(&mut queue, head, 100);
    assert!(queue.may_ask() && queue.must_ask(0, 8));
    assert!(!queue.must_ask(0, 7), "memory knows it");
    queue.sweep_all();
    assert_eq!(queue.plan_sweeps().len(), 1);
}

#[test]
fn what_is_recorded_after_a_sweep_has_looked_is_asked_about_all_the_same() {
    let mut queue = queue();
    queue.learn_sweep((0, 1, i64::MIN), &[]);
    offered(&mut queue, [fresh(1, 7)]);
    let head = take(&mut queue).unwrap();
    queue.block(head);
    queue.sweep_all();
    let planned = queue.plan_sweeps();
    // The head is still on its way.
    queue.learn_sweep(planned[0], &[]);
    finish(&mut queue, head, Settled::Waits(at(100)));
    read_pages(&mut queue, &[waiting(1, 7, 100)], 0);
    assert!(queue.keys.is_empty());
    assert!(queue.must_ask(0, 7), "an event that comes now would overtake 1");
}
