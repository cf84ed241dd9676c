//! What a read is asked for: how far back, how many rows, of which lanes.

use super::*;

/// A queue that owns these lanes and has read each of them up to this position.
fn read_up_to(lanes: &[(i16, i64)], full: bool) -> Queue<()> {
    let mut queue = Queue::new(true, 10, 1000);
    lanes.iter().for_each(|(lane, _)| queue.own(*lane, false, []));
    for wanted in queue.plan(at(0), EVERYTHING) {
        let (_, last) = lanes.iter().find(|(lane, _)| *lane == wanted.lane).unwrap();
        let limit = wanted.fresh.unwrap().1;
        queue.learn(&wanted, &Found { fresh: if full { limit } else { 1 }, fresh_last: *last, ..Found::default() }, at(0));
    }
    queue
}

/// The lanes of a plan, from where each is read, and how many rows.
fn fresh_of(plan: &[Wanted]) -> Vec<(i16, i64, i64)> {
    plan.iter().filter_map(|wanted| wanted.fresh.map(|(after, limit)| (wanted.lane, after, limit))).collect()
}

#[test]
fn the_room_is_shared_by_the_lanes_that_are_read_and_an_eighth_of_it_is_for_due_rows() {
    let mut queue: Queue<()> = Queue::new(true, 10, 1000);
    (0..4).for_each(|lane| queue.own(lane, false, []));
    let plan = queue.plan(at(0), EVERYTHING);
    assert_eq!(fresh_of(&plan), [0, 1, 2, 3].map(|lane| (lane, 0, 250)));
    assert_eq!(plan[0].waiting, Some((DuePosition::START, 500 / 8)));
    assert_eq!(plan[0].replay, Some((DuePosition::START, 250 / 8)));
}

#[test]
fn rows_in_memory_that_a_read_finds_again_use_up_none_of_its_limits() {
    let mut queue = read_up_to(&[(0, 100)], false);
    offered(&mut queue, [fresh(98, 7), fresh(99, 8), fresh(100, 9), waiting(50, 6, 0)], 0);
    let wanted = queue.plan(at(0), Look { back_to: 98, ..EVERYTHING }).remove(0);
    assert_eq!(wanted.fresh, Some((98, (1000 - 3) + 2)), "99 and 100");
    assert_eq!(wanted.waiting, Some((DuePosition::START, (500 - 1) / 8 + 4)));
    assert_eq!(wanted.replay, Some((DuePosition::START, 250 / 8 + 4)));
}

#[test]
fn rows_that_were_left_behind_the_cursor_are_read_from_the_first_of_them_on() {
    let mut queue = read_up_to(&[(0, 100)], false);
    offered(&mut queue, [fresh(98, 7), fresh(99, 8)], 0);
    let tried = take(&mut queue).unwrap();
    finish(&mut queue, tried, Settled::Unknown);
    assert_eq!(fresh_of(&queue.plan(at(0), NOTHING_NEW)), [(0, 97, (1000 - 1) + 2)], "98, which may be in the read still, and 99");
}

#[test]
fn of_the_lanes_that_have_a_backlog_the_half_that_is_furthest_behind_is_read() {
    let mut queue = read_up_to(&[(0, 100), (1, 200), (2, 300), (3, 400), (4, 500)], true);
    assert_eq!(fresh_of(&queue.plan(at(0), NOTHING_NEW)), [(0, 100, 333), (1, 200, 333), (2, 300, 333)]);
    assert!(queue.left_out);
    // One that is being handed over is not counted.
    queue.begin_release(1);
    assert_eq!(fresh_of(&queue.plan(at(0), NOTHING_NEW)), [(0, 100, 500), (1, 200, 500)]);
}

#[test]
fn a_lane_that_takes_no_part_in_a_sweep_goes_back_to_the_floor_itself_and_no_other_does() {
    let mut queue = read_up_to(&[(0, 100), (1, 200), (2, 300)], true);
    let sweep = Look { back_to: 150, fresh: true, due: false, sweep: true };
    assert_eq!(fresh_of(&queue.plan(at(0), sweep)), [(0, 100, 500), (1, 150, 500)], "2 is left out: it is furthest ahead");
    // Its cursor went back, so it takes part in the next one, from there.
    for (lane, serial) in [(0, 1), (1, 2)] {
        let wanted = Wanted { serial, lane, fresh: Some((150, 500)), waiting: None, replay: None };
        queue.learn(&wanted, &Found { fresh: 500, fresh_last: 1000, ..Found::default() }, at(0));
    }
    assert!(fresh_of(&queue.plan(at(0), NOTHING_NEW)).iter().any(|(lane, after, _)| (*lane, *after) == (2, 150)));

    // Without a sweep, nothing that was read is read again by itself.
    let mut queue = read_up_to(&[(0, 100)], false);
    assert!(queue.plan(at(0), NOTHING_NEW).is_empty());
    let exactly = Look { back_to: 100, fresh: true, due: false, sweep: true };
    let wanted = queue.plan(at(0), exactly).remove(0);
    queue.learn(&wanted, &Found::default(), at(0));
    assert!(queue.plan(at(0), NOTHING_NEW).is_empty(), "it took part");
}

#[test]
fn a_sweep_that_a_rewind_takes_the_place_of_is_made_up_for_unless_the_rewind_goes_as_far_back() {
    for (floor, next) in [(50, Some(50)), (96, Some(96)), (97, None), (98, None)] {
        let mut queue = read_up_to(&[(0, 100)], false);
        offered(&mut queue, [fresh(98, 7)], 0);
        let place = take(&mut queue).unwrap();
        finish(&mut queue, place, Settled::Unknown);
        let wanted = queue.plan(at(0), Look { back_to: floor, fresh: false, due: false, sweep: true }).remove(0);
        assert_eq!(wanted.fresh.unwrap().0, 97, "the rewind");
        queue.learn(&wanted, &Found::default(), at(0));
        let made_up_for = queue.plan(at(0), NOTHING_NEW).iter().find_map(|wanted| wanted.fresh).map(|(after, _)| after);
        assert_eq!((made_up_for, queue.lanes[&0].cursor), (next, next.unwrap_or(100)), "the floor was {floor}");
    }
}

#[test]
fn a_row_that_waits_is_looked_for_when_it_is_due_and_no_sooner() {
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7)], 0);
    let place = take(&mut queue).unwrap();
    finish(&mut queue, place, Settled::Waits(at(100)));
    read_nothing(&mut queue, 0);
    let looks = |queue: &mut Queue<()>, now_ms| queue.plan(at(now_ms), NOTHING_NEW).iter().any(|wanted| wanted.waiting.is_some());
    assert!(!looks(&mut queue, 99));
    assert!(looks(&mut queue, 100));
    assert_eq!(queue.next_due(), None);
}

#[test]
fn a_row_is_found_when_it_is_due_also_before_what_has_been_read_of_its_kind() {
    for origin in [Origin::Waiting, Origin::Replay] {
        let mut queue = queue();
        let wanted = plan(&mut queue, 500);
        let last = Some(DuePosition { due: at(500), seq: 1 });
        queue.learn(&wanted, &Found { waiting: 1, waiting_last: last, replay: 1, replay_last: last, ..Found::default() }, at(500));
        offered(&mut queue, [row(9, Some(7), origin, Some(at(0)))], 500);
        let place = take(&mut queue).unwrap();
        finish(&mut queue, place, Settled::Waits(at(400)));
        let wanted = queue.plan(at(500), NOTHING_NEW).remove(0);
        let begins_before = |from: Option<(DuePosition, i64)>| from.is_some_and(|(from, _)| from.due < at(400));
        assert_eq!((begins_before(wanted.waiting), begins_before(wanted.replay)), (origin == Origin::Waiting, origin == Origin::Replay));
    }
}

#[test]
fn a_read_of_one_lanes_waiting_rows_from_the_start_forgets_nothing_of_another_lanes() {
    let mut queue = Queue::new(true, 10, 1000);
    queue.own(0, false, []);
    queue.own(1, false, [(17, 1, at(0))]);
    let plan = queue.plan(at(0), EVERYTHING);
    let left = KEY_ROWS_MAX as i64 + 2;
    for seq in 1..=left {
        queue.offer(Row { lane: 1, ..waiting(seq, 17, 0) }, at(0));
    }
    offered(&mut queue, [fresh(100, 7)], 0);
    let last = DuePosition { due: at(0), seq: left };
    queue.learn(&plan[0], &Found::default(), at(0));
    queue.learn(&plan[1], &Found { waiting: left, waiting_last: Some(last), ..Found::default() }, at(0));
    assert!(queue.keys[&17].more_waiting);
    let of_lane_0 = std::iter::from_fn(|| take(&mut queue)).find(|place| place.lane == 0).unwrap();
    finish(&mut queue, of_lane_0, Settled::Unknown);
    let plan = queue.plan(at(0), NOTHING_NEW);
    assert_eq!(plan.iter().map(|wanted| wanted.waiting.unwrap().0).collect::<Vec<_>>(), [DuePosition::START, last]);
    assert!(queue.keys[&17].more_waiting, "one is still left there");
}

#[test]
fn a_read_says_that_its_lane_has_more_where_it_was_full_or_something_came_up_behind_it() {
    let limited = |fresh, waiting, replay| Found { fresh, waiting, replay, fresh_last: 1, ..Found::default() };
    for (found, more) in [(limited(0, 0, 0), false), (limited(1000, 0, 0), true), (limited(0, 62, 0), true), (limited(0, 0, 31), true)] {
        let mut queue = Queue::<()>::new(true, 10, 1000);
        queue.own(0, false, []);
        let wanted = plan(&mut queue, 0);
        assert_eq!(queue.learn(&wanted, &found, at(0)), more, "{found:?}");
    }
    let mut queue = queue();
    offered(&mut queue, [fresh(1, 7)], 0);
    let place = take(&mut queue).unwrap();
    let wanted = Wanted { waiting: None, replay: None, ..plan(&mut queue, 0) };
    let lane = queue.lanes.get_mut(&0).unwrap();
    lane.waiting.learn(None, false);
    lane.replay.learn(None, false);
    lane.rewind_to(place.seq);
    assert!(queue.learn(&wanted, &Found::default(), at(0)), "a row is to be read again");
}

#[test]
fn a_read_that_failed_is_asked_for_again_and_one_that_was_not_made_is_not_forgotten() {
    let wanted = |fresh, due: Option<(DuePosition, i64)>| Wanted { serial: 1, lane: 0, fresh, waiting: due, replay: due };
    // Onwards from the cursor, or from before it.
    for (after, rewind) in [(100, None), (99, Some(100)), (50, Some(51))] {
        let mut queue = read_up_to(&[(0, 100)], false);
        queue.fail_read(&[wanted(Some((after, 10)), Some((DuePosition::START, 10)))]);
        let lane = &queue.lanes[&0];
        assert_eq!((lane.rewind, lane.more_fresh, lane.waiting.look, lane.replay.look), (rewind, true, true, true));
    }
    // Not asked for, because there was no room.
    let mut queue = Queue::<()>::new(true, 10, 1000);
    queue.own(0, false, []);
    queue.fail_read(&[wanted(None, None)]);
    let lane = &queue.lanes[&0];
    assert_eq!((lane.waiting.look, lane.replay.look), (true, true));
}

#[test]
fn what_a_read_found_is_counted_by_origin() {
    let mut found = Found::default();
    for seq in 1..=2 {
        found.add(Origin::Fresh, None, seq);
        found.add(Origin::Waiting, Some(at(seq)), seq + 10);
        found.add(Origin::Replay, Some(at(seq)), seq + 20);
    }
    assert_eq!((found.fresh, found.waiting, found.replay), (2, 2, 2));
    assert_eq!(found.fresh_last, 2);
    assert_eq!([found.waiting_last, found.replay_last], [12, 22].map(|seq| Some(DuePosition { due: at(2), seq })));
}
