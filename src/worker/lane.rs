//! One lane of one sink, as its owner sees it: how far it has read, what it holds, what is settled. Pure.

use chrono::{DateTime, Duration, Utc};
use std::collections::{BTreeSet, HashSet};

/// How far the waiting rows, or the replays, of a lane have been read: up to and including this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DuePosition {
    pub due: DateTime<Utc>,
    pub seq: i64,
}

impl DuePosition {
    /// Before every row.
    pub const START: Self = Self { due: DateTime::<Utc>::UNIX_EPOCH, seq: 0 };
}

/// A lane that this worker owns.
#[derive(Debug)]
pub struct Lane {
    /// Which taking of a lane this is: what was read under an earlier one must not touch it.
    pub serial: u64,
    /// Up to where its fresh rows have been read. `None`: as far as the tail (see [`super::tail`]).
    pub behind: Option<i64>,
    /// `lanes.settled_to`, as far as this worker has moved it.
    pub settled_to: i64,
    /// Under which revision of the sink's subscriptions it may be moved on.
    pub revision: i32,
    /// Fresh rows held that have no row in the database yet.
    pub unsettled: BTreeSet<i64>,
    pub waiting: Due,
    pub replay: Due,
    /// Rows in memory, and rows that are over but that a read under way may still show.
    pub known: HashSet<i64>,
    /// Rows in a try, or on their way to being recorded.
    pub in_flight: usize,
    pub keys: KeySweep,
    /// Its last owner died with it.
    pub orphaned: bool,
    /// Nothing new is tried: it is being handed over.
    pub releasing: bool,
    /// It takes part in the read of the log that is under way, as it was when that was planned.
    pub reading: bool,
}

/// What is known of a lane's waiting rows, or of its replays.
#[derive(Debug)]
pub struct Due {
    pub position: DuePosition,
    /// Some may be due beyond the position.
    pub look: bool,
    /// While a read is under way: what came up behind it.
    reopened: Option<DuePosition>,
}

impl Due {
    const fn new() -> Self {
        Self { position: DuePosition::START, look: true, reopened: None }
    }

    /// Reads from the start again.
    pub fn rewind(&mut self) {
        self.reopen(DuePosition::START);
        (self.position, self.look) = (DuePosition::START, true);
    }

    /// A row that is due at this time was recorded: it must not lie behind the position.
    pub fn include(&mut self, due: DateTime<Utc>) {
        let before = DuePosition { due: due - Duration::microseconds(1), seq: i64::MAX };
        self.reopen(before);
        if before < self.position {
            (self.position, self.look) = (before, true);
        }
    }

    fn reopen(&mut self, position: DuePosition) {
        self.reopened = Some(self.reopened.map_or(position, |other| other.min(position)));
    }

    /// A read begins from the position.
    pub fn begin(&mut self) {
        self.reopened = None;
    }

    /// A read has come as far as `last`, and was `full` if it stopped at its limit.
    pub fn learn(&mut self, last: Option<DuePosition>, full: bool) {
        self.position = last.map_or(self.position, |last| last.max(self.position));
        self.look = full;
        if let Some(reopened) = self.reopened.take().filter(|reopened| *reopened < self.position) {
            (self.position, self.look) = (reopened, true);
        }
    }
}

/// A walk through the keys of a lane that have rows waiting in the database. It finds those whose head is over and whose parked rows nobody
/// asked for: their worker died in between, or an operator ended the head.
#[derive(Debug)]
pub struct KeySweep {
    /// The key that it has come to; `None`: it is over.
    pub after: Option<i64>,
    /// Whether the database may have rows of keys that memory knows nothing of.
    pub may_wait: bool,
    /// It has found some, or some were recorded since it began.
    found: bool,
    /// It has met rows beyond what was read of the log, and has to come again.
    again: bool,
}

impl KeySweep {
    const fn new() -> Self {
        Self { after: Some(i64::MIN), may_wait: true, found: false, again: false }
    }

    /// Begins at the first key.
    pub fn start(&mut self) {
        (self.after, self.found, self.again) = (Some(i64::MIN), false, false);
    }

    /// The lane has caught up with the log.
    pub fn caught_up(&mut self) {
        if std::mem::take(&mut self.again) {
            self.start();
        }
    }

    /// A row of a key is on its way to the database.
    pub fn note(&mut self) {
        (self.may_wait, self.found) = (true, true);
    }

    /// It has met a key that it cannot judge before more of the log is read.
    pub fn come_again(&mut self) {
        self.again = true;
    }

    /// A page ended with this key; `None`: it was the last page.
    pub fn learn(&mut self, last: Option<i64>, found: bool) {
        self.found |= found;
        self.after = last;
        if last.is_none() {
            self.may_wait = self.found;
        }
    }
}

impl Lane {
    pub fn new(serial: u64, orphaned: bool, settled_to: i64, revision: i32) -> Self {
        Self {
            serial,
            behind: Some(settled_to),
            settled_to,
            revision,
            unsettled: BTreeSet::new(),
            waiting: Due::new(),
            replay: Due::new(),
            known: HashSet::new(),
            in_flight: 0,
            keys: KeySweep::new(),
            orphaned,
            releasing: false,
            reading: false,
        }
    }

    /// Up to here every event was offered to the queue; `tail` is up to where the tail has seen everything.
    pub fn read_to(&self, tail: i64) -> i64 {
        self.behind.unwrap_or(tail)
    }

    /// Its fresh rows after this position are to be read again.
    pub fn fall_back(&mut self, position: i64, tail: i64) {
        self.behind = Some(self.read_to(tail).min(position));
    }

    /// Up to where it is settled now: everything was read, and has a row where it is owed.
    pub fn settled(&self, tail: i64) -> i64 {
        let read_to = self.read_to(tail);
        self.unsettled.first().map_or(read_to, |first| read_to.min(first - 1)).max(self.settled_to)
    }
}

#[cfg(test)]
mod tests;
