//! One lane of one sink, as its owner sees it: how far it has read, what it holds, which keys must wait. Pure.

use chrono::{DateTime, Duration, Utc};
use std::collections::{HashMap, HashSet};

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
    /// Fresh rows have been read up to here.
    pub cursor: i64,
    /// There may be fresh rows beyond the cursor.
    pub more_fresh: bool,
    /// The last read stopped at its limit.
    pub has_backlog: bool,
    /// Fresh rows were left behind the cursor, the first of them here, and their key has room again.
    pub rewind: Option<i64>,
    /// The keys for which the read under way reads again from there.
    pub rewinding: Vec<u64>,
    pub waiting: Due,
    pub replay: Due,
    /// Rows in memory, and rows that are over but that a read under way may still show.
    pub known: HashSet<i64>,
    /// Rows in a try, or on their way to being recorded.
    pub in_flight: usize,
    /// Keys that have waiting rows.
    blocked: HashMap<u64, Blocked>,
    /// Its last owner died with it.
    pub orphaned: bool,
    /// Nothing new is tried: it is being handed over.
    pub releasing: bool,
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

    /// A read has come as far as `last`, and was `full` if it stopped at its limit. Returns whether nothing due is left
    /// beyond the position.
    pub fn learn(&mut self, last: Option<DuePosition>, full: bool) -> bool {
        self.position = last.map_or(self.position, |last| last.max(self.position));
        self.look = full;
        if let Some(reopened) = self.reopened.take().filter(|reopened| *reopened < self.position) {
            (self.position, self.look) = (reopened, true);
        }
        !self.look
    }
}

/// A key that has waiting rows in the database: later events of it must wait too.
#[derive(Debug)]
struct Blocked {
    /// Rows up to this position may be tried, later ones wait.
    head: i64,
    due: DateTime<Utc>,
    /// Rows on their way to being recorded as waiting.
    recording: usize,
    /// The number of the last read that may not have seen all of them.
    unseen_by: u64,
    /// Rows were passed over meanwhile.
    passed_over: bool,
}

impl Lane {
    pub fn new(serial: u64, orphaned: bool) -> Self {
        Self {
            serial,
            cursor: 0,
            more_fresh: true,
            has_backlog: false,
            rewind: None,
            rewinding: Vec::new(),
            waiting: Due::new(),
            replay: Due::new(),
            known: HashSet::new(),
            in_flight: 0,
            blocked: HashMap::new(),
            orphaned,
            releasing: false,
        }
    }

    /// Whether its fresh rows are read now, when lanes that have a backlog are read as far as they have come no further than this.
    pub fn has_turn(&self, until: i64) -> bool {
        !self.has_backlog || self.cursor <= until
    }

    /// How many of the known rows a read from here on may find again.
    pub fn known_after(&self, position: i64) -> i64 {
        self.known.iter().filter(|seq| **seq > position).count() as i64
    }

    /// Fresh rows from this position on are to be read again.
    pub fn rewind_to(&mut self, position: i64) {
        self.rewind = Some(self.rewind.map_or(position, |other| other.min(position)));
    }

    /// Makes later events of a key than `head` wait until `due`.
    pub fn block(&mut self, key: u64, head: i64, due: DateTime<Utc>) {
        let blocked = self.blocked.entry(key).or_insert(Blocked { head, due, recording: 0, unseen_by: 0, passed_over: false });
        blocked.head = blocked.head.min(head);
        blocked.due = blocked.due.max(due);
    }

    /// Until when a row of this key at this position must wait, if it must; `due` is its own due time, where it waited.
    ///
    /// A fresh row goes after all that wait. A row that waited goes once its time has come, unless it was due before its
    /// head: then it is made due with it, and so is read after it.
    pub fn must_wait(&self, key: u64, seq: i64, due: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let blocked = self.blocked.get(&key)?;
        let free = seq <= blocked.head || (blocked.due <= now && due.is_some_and(|due| due >= blocked.due));
        (!free).then_some(blocked.due)
    }

    /// Passes over a waiting row while rows of its key before it may be on their way to the same due time, or arrived
    /// there after read number `read`, the one under way, began. It is read again, after them.
    pub fn pass_over(&mut self, key: u64, seq: i64, read: u64) -> bool {
        let Some(blocked) = self.blocked.get_mut(&key).filter(|blocked| seq > blocked.head) else { return false };
        if blocked.recording > 0 {
            blocked.passed_over = true;
            return true;
        }
        let unseen = blocked.unseen_by >= read;
        if unseen {
            self.waiting.rewind();
        }
        unseen
    }

    /// A row of this key is on its way to being recorded as waiting.
    pub fn recording(&mut self, key: u64) {
        if let Some(blocked) = self.blocked.get_mut(&key) {
            blocked.recording += 1;
        }
    }

    /// It was recorded (or turned out not to be ours to record) while read number `read` was the last one begun.
    pub fn recorded(&mut self, key: u64, read: u64) {
        if let Some(blocked) = self.blocked.get_mut(&key) {
            blocked.recording = blocked.recording.saturating_sub(1);
            blocked.unseen_by = read;
            if blocked.recording == 0 && std::mem::take(&mut blocked.passed_over) {
                self.waiting.rewind();
            }
        }
    }

    /// Whether keys have waiting rows whose time has come.
    pub fn has_due_keys(&self, now: DateTime<Utc>) -> bool {
        self.blocked.values().any(|blocked| blocked.due <= now)
    }

    /// Read number `read`, begun at `began`, has found the last of this lane's due rows: keys whose rows it must have
    /// seen have none left in the database, unless `has_more` knows better.
    pub fn unblock(&mut self, read: u64, began: DateTime<Utc>, has_more: impl Fn(u64) -> bool) {
        self.blocked.retain(|key, blocked| blocked.due > began || blocked.recording > 0 || blocked.unseen_by >= read || has_more(*key));
    }
}

#[cfg(test)]
mod tests;
