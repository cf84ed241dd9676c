//! What a queue asks of the next read, and what it learns from the answer. Pure.
//!
//! Fresh rows come from the log, which is read for all sinks at once: a lane is *near* where it has seen all that the [tail](super::tail)
//! has seen, or is about to, and *far* where it has to catch up first. Waiting rows come by their time, and parked ones by their key.

use super::lane::DuePosition;
use super::queue::Queue;
use crate::event::LANES;
use crate::store::deliveries::{Origin, SWEEP_ROWS};
use chrono::{DateTime, Utc};
use std::cmp::Reverse;

/// What one lane asks of a read of waiting rows: positions to read on from, and how many rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// See [`Lane::serial`](super::lane::Lane::serial).
    pub serial: u64,
    pub lane: i16,
    pub waiting: Option<(DuePosition, i64)>,
    pub replay: Option<(DuePosition, i64)>,
}

/// What a read found for one lane: how many rows of each origin, and the last of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    pub waiting: i64,
    pub waiting_last: Option<DuePosition>,
    pub replay: i64,
    pub replay_last: Option<DuePosition>,
}

impl Found {
    /// Counts a row. Rows must come in the order in which the read gives them.
    pub fn add(&mut self, origin: Origin, due: Option<DateTime<Utc>>, seq: i64) {
        let position = due.map(|due| DuePosition { due, seq });
        match origin {
            Origin::Fresh => {}
            Origin::Waiting => (self.waiting, self.waiting_last) = (self.waiting + 1, position),
            Origin::Replay => (self.replay, self.replay_last) = (self.replay + 1, position),
        }
    }
}

/// A lane that takes part in a read of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reader {
    /// See [`Lane::serial`](super::lane::Lane::serial).
    serial: u64,
    /// See [`Lane::behind`](super::lane::Lane::behind).
    from: Option<i64>,
}

/// Which lanes of a sink take part in a read of the log.
#[derive(Debug, Clone)]
pub struct Readers {
    lanes: [Option<Reader>; LANES as usize],
    /// The position that the first of them comes from; `None`: all have seen what the tail has seen.
    pub from: Option<i64>,
    /// The lanes, as bits.
    pub mask: u64,
}

impl Readers {
    const fn new() -> Self {
        Self { lanes: [None; LANES as usize], from: None, mask: 0 }
    }

    fn add(&mut self, lane: i16, serial: u64, from: Option<i64>) {
        self.lanes[lane as usize] = Some(Reader { serial, from });
        self.mask |= 1 << lane;
        self.from = match (self.from, from) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    pub fn is_empty(&self) -> bool {
        self.mask == 0
    }

    /// Whether an event is new to its lane; `is_new`: to those that have seen what the tail has seen.
    pub fn wants(&self, lane: i16, seq: i64, is_new: bool) -> bool {
        self.lanes[lane as usize].is_some_and(|reader| reader.from.map_or(is_new, |from| seq > from))
    }
}

/// What a sink asks of a read of the log.
#[derive(Debug)]
pub struct LogPlan {
    pub near: Readers,
    pub far: Readers,
    /// Fresh rows that it has room for.
    pub room: i64,
}

/// A lane that comes within so many positions of the tail reads on to its end at once, instead of running after it.
const JOIN_WITHIN: i64 = 2_000;

/// The fewest rows that a lane is given in a read of waiting rows.
const LANE_ROWS_MIN: usize = 8;

/// Lanes that one read sweeps.
const SWEEPS_MAX: usize = 64;

/// Keys that one read pages.
const PAGES_MAX: usize = 256;

impl<T> Queue<T> {
    /// A read begins: what was recorded before, it shows as it is.
    pub fn begin_read(&mut self) {
        for (number, seq) in std::mem::take(&mut self.settled) {
            if let Some(lane) = self.lanes.get_mut(&number) {
                lane.known.remove(&seq);
            }
        }
    }

    /// Whether some lane has seen all that the tail has seen.
    pub fn has_seen_tail(&self) -> bool {
        self.lanes.values().any(|lane| lane.behind.is_none())
    }

    /// Whether the database may have to be asked what waits of the keys of fresh events.
    pub fn may_ask(&self) -> bool {
        self.ordered() && self.lanes.values().any(|lane| lane.keys.may_wait)
    }

    /// Whether some lane has to catch up with the log, and there is room for it.
    pub fn is_behind(&self) -> bool {
        self.has_room() && self.lanes.values().any(|lane| lane.behind.is_some() && !lane.releasing)
    }

    /// What to read of the log, whose tail has come to `head`, and has seen everything up to `complete_to`.
    pub fn plan_log(&mut self, head: i64, complete_to: i64) -> LogPlan {
        (self.tail, self.head) = (complete_to, head);
        let tail = self.tail;
        let mut plan = LogPlan { near: Readers::new(), far: Readers::new(), room: self.rows_max.saturating_sub(self.held[0]) as i64 };
        let has_room = self.has_room();
        for (number, lane) in self.lanes.iter_mut().filter(|(_, lane)| !lane.releasing) {
            lane.reading = has_room;
            if lane.behind.is_none() {
                lane.keys.caught_up();
            }
            if !has_room {
                // It stays behind, and never holds up the others.
                lane.behind = Some(lane.read_to(tail));
                continue;
            }
            let is_near = lane.behind.is_none_or(|behind| behind + JOIN_WITHIN >= head.max(complete_to));
            let readers = if is_near { &mut plan.near } else { &mut plan.far };
            readers.add(*number, lane.serial, lane.behind);
        }
        plan
    }

    /// A read of the log has offered these lanes all that is there up to a position; `None`: all that the tail has seen by now.
    pub fn learn_log(&mut self, readers: &Readers, read_to: Option<i64>) {
        for (number, lane) in &mut self.lanes {
            let Some(reader) = readers.lanes[*number as usize] else { continue };
            // One that fell back meanwhile stays where it fell to.
            if !lane.reading || reader.serial != lane.serial || reader.from != lane.behind {
                continue;
            }
            match (read_to, reader.from) {
                (None, Some(_)) => {
                    lane.behind = None;
                    lane.keys.caught_up();
                }
                (Some(read_to), Some(from)) => lane.behind = Some(read_to.max(from)),
                (_, None) => {}
            }
        }
    }

    /// What to read of waiting rows next, at `now` by the database's clock; empty when there is nothing to ask, or no room. With
    /// `everywhere`, from the start in every lane: an operator may have reset some.
    pub fn plan_due(&mut self, now: DateTime<Utc>, everywhere: bool) -> Vec<Wanted> {
        self.wake_timers(now);
        let [_, waiting_held, replay_held] = self.held;
        let due_limit =
            |max: usize, held: usize| max.checked_sub(held).filter(|room| *room > 0).map(|room| (room / 8).max(LANE_ROWS_MIN) as i64);
        let waiting_limit = due_limit(self.rows_max / 2, waiting_held);
        let replay_limit = due_limit(self.rows_max / 4, replay_held);
        let mut plan = Vec::new();
        for (number, lane) in self.lanes.iter_mut().filter(|(_, lane)| !lane.releasing) {
            if everywhere {
                lane.waiting.rewind();
                lane.replay.rewind();
            }
            // Rows that are held may be found again: they must not use up the limits.
            let held = lane.known.len() as i64;
            let mut wanted = Wanted { serial: lane.serial, lane: *number, waiting: None, replay: None };
            if lane.waiting.look {
                wanted.waiting = waiting_limit.map(|limit| (lane.waiting.position, limit + held));
                lane.waiting.begin();
            }
            if lane.replay.look {
                wanted.replay = replay_limit.map(|limit| (lane.replay.position, limit + held));
                lane.replay.begin();
            }
            if wanted.waiting.is_some() || wanted.replay.is_some() {
                plan.push(wanted);
            }
        }
        plan
    }

    fn wake_timers(&mut self, now: DateTime<Utc>) {
        while let Some(Reverse((_, number))) = self.timers.peek().copied().filter(|Reverse((due, _))| *due <= now) {
            self.timers.pop();
            if let Some(lane) = self.lanes.get_mut(&number) {
                lane.waiting.look = true;
                lane.replay.look = true;
            }
        }
    }

    /// When the next of the rows that this worker made wait is due.
    pub fn next_due(&self) -> Option<DateTime<Utc>> {
        self.timers.peek().map(|Reverse((due, _))| *due)
    }

    /// Keys whose first waiting rows are to be read, and their lanes.
    pub fn plan_pages(&mut self) -> Vec<(i16, i64)> {
        let count = self.pages.len().min(PAGES_MAX);
        let names: Vec<i64> = self.pages.drain(..count).collect();
        let mut planned = Vec::with_capacity(names.len());
        for name in names {
            if let Some(key) = self.keys.get_mut(&name) {
                // What was recorded so far, the read shows.
                key.recorded_meanwhile = false;
                planned.push((key.lane, name));
            }
        }
        planned
    }

    /// Lanes to be swept, and from which key on.
    pub fn plan_sweeps(&self) -> Vec<(i16, u64, i64)> {
        let swept = self.lanes.iter().filter(|(_, lane)| !lane.releasing);
        swept.filter_map(|(number, lane)| Some((*number, lane.serial, lane.keys.after?))).take(SWEEPS_MAX).collect()
    }

    /// A lane was swept from a planned key on: these rows were found, as (key, position, whether it is parked).
    pub fn learn_sweep(&mut self, planned: (i16, u64, i64), found: &[(i64, i64, bool)]) {
        let (number, serial, after) = planned;
        let Some(lane) = self.lanes.get_mut(&number).filter(|lane| lane.serial == serial && lane.keys.after == Some(after)) else { return };
        let full = found.len() as i64 >= SWEEP_ROWS;
        lane.keys.learn(found.last().filter(|_| full).map(|(key, ..)| *key), !found.is_empty());
        let mut before = None;
        for &(key, seq, is_parked) in found {
            // The first of each key; the others wait for it.
            if before.replace(key) != Some(key) && is_parked {
                self.offer_stranded(number, key, seq);
            }
        }
    }

    /// Begins to sweep every lane that may have rows waiting.
    pub fn sweep_all(&mut self) {
        for lane in self.lanes.values_mut().filter(|lane| lane.keys.may_wait && lane.keys.after.is_none()) {
            lane.keys.start();
        }
    }

    /// Whether memory does not know, and the database must be asked, what waits of this key of a fresh event.
    pub fn must_ask(&self, lane: i16, name: i64) -> bool {
        self.ordered() && !self.keys.contains_key(&name) && self.lanes.get(&lane).is_some_and(|lane| lane.keys.may_wait)
    }

    /// Takes note of how far a read has come in one lane, after its rows were [offered](Queue::offer_waiting). Returns whether the lane has more.
    pub fn learn_due(&mut self, wanted: &Wanted, found: &Found) -> bool {
        let Some(lane) = self.lanes.get_mut(&wanted.lane).filter(|lane| lane.serial == wanted.serial) else { return false };
        if let Some((_, limit)) = wanted.waiting {
            lane.waiting.learn(found.waiting_last, found.waiting >= limit);
        }
        if let Some((_, limit)) = wanted.replay {
            lane.replay.learn(found.replay_last, found.replay >= limit);
        }
        lane.waiting.look || lane.replay.look
    }

    /// A read failed: all that it wanted is still wanted.
    pub fn fail_read(&mut self, due: &[Wanted], pages: &[(i16, i64)]) {
        for wanted in due {
            let Some(lane) = self.lanes.get_mut(&wanted.lane).filter(|lane| lane.serial == wanted.serial) else { continue };
            lane.waiting.look |= wanted.waiting.is_some();
            lane.replay.look |= wanted.replay.is_some();
        }
        self.pages.extend(pages.iter().map(|(_, name)| *name));
    }

    /// Whether a read for fresh rows is worth it: one for a few rows costs as much as one for many.
    pub fn has_room(&self) -> bool {
        self.rows_max.saturating_sub(self.held[0]) * 2 >= self.rows_max
    }
}
