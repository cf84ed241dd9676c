//! Tries: which row goes next, and what comes back from one. Fresh rows before replays, and suspects with care.

use super::{Place, Queue, REPLAY_TURN, Row, Taken};
use crate::store::deliveries::Origin;

impl<T> Queue<T> {
    pub(super) fn make_ready(&mut self, row: Row<T>) {
        let orphaned = self.lanes.get(&row.lane).is_some_and(|lane| lane.orphaned);
        let queue = match row.origin {
            _ if orphaned && row.mark > 0 => &mut self.marked,
            _ if orphaned && self.suspect_tries_left > 0 => &mut self.suspects,
            Origin::Replay => &mut self.replays,
            Origin::Fresh | Origin::Waiting => &mut self.ready,
        };
        queue.push_back(row);
    }

    /// The next row to try, if there is one.
    ///
    /// One of the rows that a dead worker was trying may be why it died. Most deaths are nobody's fault, so at the first one all go on at
    /// once, each with its attempt counted before its try. What was under way again at a second death has a mark by that: of those, half as
    /// many as usual are tried at once. Those that were under way at a third are tried one by one: who is alone with a fourth is guilty.
    pub fn take(&mut self) -> Option<Taken<T>> {
        if self.suspect_tries_left == 0 {
            // What is left of them is as innocent as any other row.
            for row in std::mem::take(&mut self.suspects) {
                self.make_ready(row);
            }
        }
        if self.may_try_marked()
            && let Some(row) = self.marked.pop_front()
        {
            self.marked_in_flight.insert(row.seq);
            self.marked_alone = row.mark > 1;
            return Some(self.begin(row, true));
        }
        if let Some(row) = self.suspects.pop_front() {
            self.suspect_tries_left -= 1;
            return Some(self.begin(row, true));
        }
        let row = if self.replays_turn() { self.replays.pop_front() } else { self.ready.pop_front() }?;
        self.turn = self.turn.wrapping_add(1);
        Some(self.begin(row, false))
    }

    fn may_try_marked(&self) -> bool {
        let half = (self.concurrency / 2).max(1);
        self.marked.front().is_some_and(|row| match row.mark {
            1 => !self.marked_alone && self.marked_in_flight.len() < half,
            _ => self.marked_in_flight.is_empty(),
        })
    }

    /// Replays get what fresh rows leave: at most a fifth of the tries while fresh ones wait, and never the last fifth of
    /// the slots, so that an event that arrives now finds one.
    fn replays_turn(&self) -> bool {
        let fifth = (self.concurrency / REPLAY_TURN).max(1);
        let slots = if self.ready.is_empty() { self.concurrency.saturating_sub(fifth).max(1) } else { fifth };
        !self.replays.is_empty() && self.replays_in_flight < slots && (self.ready.is_empty() || self.turn.is_multiple_of(REPLAY_TURN))
    }

    fn begin(&mut self, row: Row<T>, suspect: bool) -> Taken<T> {
        if let Some(lane) = self.lanes.get_mut(&row.lane) {
            lane.in_flight += 1;
        }
        if row.origin == Origin::Replay {
            self.replays_in_flight += 1;
        }
        Taken { row, suspect }
    }

    /// A try is over, and its slot is free. What became of the row is yet to be recorded.
    pub fn tried(&mut self, place: Place, suspect: bool) {
        if place.epoch != self.epoch {
            return;
        }
        if place.origin == Origin::Replay {
            self.replays_in_flight = self.replays_in_flight.saturating_sub(1);
        }
        if suspect && self.marked_in_flight.remove(&place.seq) {
            self.marked_alone = false;
        }
    }

    /// A row whose try counts for nothing: it goes to the end, so that the next try is another key's.
    pub fn put_back(&mut self, row: Row<T>) {
        if row.epoch != self.epoch {
            return;
        }
        let tail = self.tail;
        let Some(lane) = self.lanes.get_mut(&row.lane) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if !lane.releasing {
            self.make_ready(row);
            return;
        }
        lane.known.remove(&row.seq);
        if lane.unsettled.remove(&row.seq) {
            lane.fall_back(row.seq - 1, tail);
        }
        self.held[row.origin as usize] -= 1;
        if let Some(key) = row.key {
            self.keys.remove(&key);
        }
    }

    /// Whether a try could begin now, slots permitting.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.replays.is_empty() || !self.suspects.is_empty() || self.may_try_marked()
    }
}
