//! What a queue asks of the next read, and what it learns from the answer. Pure.
//!
//! Fresh rows are read onwards by position. Sequences commit out of order, so each read begins at the floor, a position
//! below which nothing can appear any more; a *sweep* is a read after which the floor may rise.

use super::lane::DuePosition;
use super::queue::{Key, Queue};
use crate::event::LANES;
use crate::store::deliveries::Origin;
use chrono::{DateTime, Duration, Utc};
use std::cmp::Reverse;

/// What one lane asks of a read: positions to read on from, and how many rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// See [`Lane::serial`](super::lane::Lane::serial).
    pub serial: u64,
    pub lane: i16,
    pub fresh: Option<(i64, i64)>,
    pub waiting: Option<(DuePosition, i64)>,
    pub replay: Option<(DuePosition, i64)>,
}

/// What a read found for one lane: how many rows of each origin, and the last of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    pub fresh: i64,
    pub fresh_last: i64,
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
            Origin::Fresh => (self.fresh, self.fresh_last) = (self.fresh + 1, seq),
            Origin::Waiting => (self.waiting, self.waiting_last) = (self.waiting + 1, position),
            Origin::Replay => (self.replay, self.replay_last) = (self.replay + 1, position),
        }
    }
}

/// Which lanes a read looks at beyond those that are known to have more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Fresh rows are read from here, or from the cursor if that lies before: a position of some milliseconds ago, or
    /// the floor.
    pub back_to: i64,
    /// Look for fresh rows in every lane: something may have arrived.
    pub fresh: bool,
    /// Look for due rows in every lane from the start: an operator may have reset some.
    pub due: bool,
    /// `back_to` is the floor, and it may rise after this read.
    pub sweep: bool,
}

/// The database's clock is known to within this much.
const CLOCK_SLACK: Duration = Duration::milliseconds(250);

/// The fewest rows that a lane is given in a read.
const LANE_ROWS_MIN: usize = 8;

impl<T> Queue<T> {
    /// What to read next, at `now` by the database's clock; empty when there is nothing to ask, or no room. Unless it is
    /// empty a read begins with it, whose answer goes to [`Queue::learn`].
    pub fn plan(&mut self, now: DateTime<Utc>, look: Look) -> Vec<Wanted> {
        self.wake_timers(now);
        let [fresh_held, waiting_held, replay_held] = self.held;
        let (room, has_room) = (self.rows_max.saturating_sub(fresh_held), self.has_room());
        let due_limit =
            |max: usize, held: usize| max.checked_sub(held).filter(|room| *room > 0).map(|room| (room / 8).max(LANE_ROWS_MIN) as i64);
        let waiting_limit = due_limit(self.rows_max / 2, waiting_held);
        let replay_limit = due_limit(self.rows_max / 4, replay_held);
        let turn_until = self.turn_until();
        let busy = self.lanes.values().filter(|lane| lane.more_fresh && lane.has_turn(turn_until)).count().max(1);
        let share = (room / busy).max(LANE_ROWS_MIN) as i64;
        self.left_out = false;
        let (mut plan, mut rewound, mut restarted) = (Vec::new(), [None; LANES as usize], 0u64);
        for (number, lane) in self.lanes.iter_mut().filter(|(_, lane)| !lane.releasing) {
            lane.more_fresh |= look.fresh;
            if look.due {
                lane.waiting.rewind();
                lane.replay.rewind();
            }
            // Rows that are held may be found again: they must not use up the limits.
            let held = lane.known.len() as i64;
            let mut wanted = Wanted { serial: lane.serial, lane: *number, fresh: None, waiting: None, replay: None };
            if has_room {
                if let Some(from) = lane.rewind.take() {
                    wanted.fresh = Some((from - 1, share + lane.known_after(from - 1)));
                    rewound[*number as usize] = Some(from);
                } else if lane.more_fresh && !lane.has_turn(turn_until) {
                    self.left_out = true;
                } else if lane.more_fresh {
                    let after = lane.cursor.min(look.back_to);
                    wanted.fresh = Some((after, share + lane.known_after(after)));
                }
            }
            if look.sweep && wanted.fresh.is_none_or(|(after, _)| after > look.back_to) {
                // A lane that takes no part in a sweep goes back itself: the floor may rise without it.
                lane.cursor = lane.cursor.min(look.back_to);
                lane.more_fresh = true;
            }
            if lane.waiting.look || lane.has_due_keys(now) {
                wanted.waiting = waiting_limit.map(|limit| (lane.waiting.position, limit + held));
                if wanted.waiting.is_some() {
                    lane.waiting.begin();
                    restarted |= u64::from(lane.waiting.position == DuePosition::START) << number;
                }
            }
            if lane.replay.look {
                wanted.replay = replay_limit.map(|limit| (lane.replay.position, limit + held));
                lane.replay.begin();
            }
            if wanted.fresh.is_some() || wanted.waiting.is_some() || wanted.replay.is_some() {
                plan.push(wanted);
            }
        }
        self.forget_marks(&rewound, restarted);
        if !plan.is_empty() {
            self.begin_read();
        }
        plan
    }

    /// Of the lanes that have a backlog, those are read that have come no further than this: the half that is furthest behind.
    /// So events leave about in the order of their arrival, and a read's rows lie close together: lanes that drift apart, because
    /// some have more events than others, make it touch other pages for each row.
    fn turn_until(&self) -> i64 {
        let mut cursors: Vec<i64> =
            self.lanes.values().filter(|lane| lane.has_backlog && !lane.releasing).map(|lane| lane.cursor).collect();
        if cursors.is_empty() {
            return i64::MAX;
        }
        let middle = (cursors.len() - 1) / 2;
        *cursors.select_nth_unstable(middle).1
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

    /// Keys whose rows are about to be read again lose the mark that some were left; it comes back where some are left again.
    /// `rewound` says from where each lane's fresh rows are read again, `restarted` (lanes are bits) whose waiting rows are.
    fn forget_marks(&mut self, rewound: &[Option<i64>; LANES as usize], restarted: u64) {
        if restarted == 0 && rewound.iter().all(Option::is_none) {
            return;
        }
        for (name, key) in &mut self.keys {
            if restarted & (1 << key.lane) != 0 {
                key.more_waiting = false;
            }
            if let (Some(from), Some(mark)) = (rewound[key.lane as usize], key.more_fresh)
                // Another key's rewind may begin beyond this one's mark.
                && from <= mark
                && key.has_room()
                && let Some(lane) = self.lanes.get_mut(&key.lane)
            {
                key.more_fresh = None;
                lane.rewinding.push(*name);
            }
        }
    }

    /// What was recorded before a read begins, that read shows as it is.
    fn begin_read(&mut self) {
        self.reads += 1;
        for (number, seq) in std::mem::take(&mut self.settled) {
            if let Some(lane) = self.lanes.get_mut(&number) {
                lane.known.remove(&seq);
            }
        }
    }

    /// Takes note of how far a read has come in one lane, after its rows were [offered](Queue::offer). `began` is the
    /// `now` of its plan. Returns whether the lane has more.
    pub fn learn(&mut self, wanted: &Wanted, found: &Found, began: DateTime<Utc>) -> bool {
        let Some(lane) = self.lanes.get_mut(&wanted.lane).filter(|lane| lane.serial == wanted.serial) else { return false };
        if let Some((after, limit)) = wanted.fresh {
            let full = found.fresh >= limit;
            let rewinding = std::mem::take(&mut lane.rewinding);
            if !rewinding.is_empty() {
                // Keys that still have room may have rows beyond the last one read.
                for name in rewinding.iter().filter(|_| full) {
                    let key = self.keys.entry(*name).or_insert_with(|| Key::new(wanted.lane));
                    if key.more_fresh.is_none() {
                        key.more_fresh = Some(found.fresh_last + 1);
                        lane.rewind_to(found.fresh_last + 1);
                    }
                }
            } else if after <= lane.cursor {
                // One that began beyond the cursor says nothing of what lies between.
                lane.cursor = if full { found.fresh_last } else { lane.cursor.max(found.fresh_last) };
                (lane.more_fresh, lane.has_backlog) = (full, full);
            }
        }
        if let Some((_, limit)) = wanted.waiting
            && lane.waiting.learn(found.waiting_last, found.waiting >= limit)
        {
            let keys = &self.keys;
            lane.unblock(self.reads, began - CLOCK_SLACK, |name| keys.get(&name).is_some_and(|key| key.more_waiting));
        }
        if let Some((_, limit)) = wanted.replay {
            lane.replay.learn(found.replay_last, found.replay >= limit);
        }
        lane.more_fresh || lane.rewind.is_some() || lane.waiting.look || lane.replay.look
    }

    /// A read failed: all that it wanted is still wanted.
    pub fn fail_read(&mut self, plan: &[Wanted]) {
        for wanted in plan {
            let Some(lane) = self.lanes.get_mut(&wanted.lane).filter(|lane| lane.serial == wanted.serial) else { continue };
            if let Some((after, _)) = wanted.fresh {
                for name in std::mem::take(&mut lane.rewinding) {
                    self.keys.entry(name).or_insert_with(|| Key::new(wanted.lane)).more_fresh = Some(after + 1);
                }
                if after < lane.cursor {
                    lane.rewind_to(after + 1);
                }
                lane.more_fresh = true;
            }
            lane.waiting.look |= wanted.waiting.is_some();
            lane.replay.look |= wanted.replay.is_some();
        }
    }

    /// Whether a read for fresh rows is worth it: one for a few rows costs as much as one for many.
    pub fn has_room(&self) -> bool {
        self.rows_max.saturating_sub(self.held[0]) * 2 >= self.rows_max
    }
}
