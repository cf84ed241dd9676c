//! One sink's deliveries in this worker's memory: what has been read, what may be tried next, what must wait. Pure.
//!
//! Rows come in by [`Queue::offer`], leave to a try by [`Queue::take`], and end in [`Queue::settle`] once the database
//! has recorded what became of them. Between the first and the last a row is *held*: further reads that see it again
//! are ignored. In an ordered sink only the first row of a key is ever ready; the others queue behind it, and when it
//! has to wait for a retry they are made to wait with it ([`Queue::block`]).
//!
//! Everything is bounded: rows by the read-ahead, one key's rows by [`KEY_ROWS_MAX`]. A key with more than that
//! keeps a mark that there is more, and the lane is read again from there when the key has room.

use super::lane::Lane;
use super::reading::Wanted;
use crate::store::deliveries::Origin;
use chrono::{DateTime, Utc};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};

/// Rows of one key in memory: enough to keep it busy between two reads, little enough that a hot key leaves room for others.
pub const KEY_ROWS_MAX: usize = 64;

/// Due times remembered for waking up in time; beyond that the poll, a second away, finds what is due.
const TIMERS_MAX: usize = 10_000;

/// While fresh rows wait, one try in this many is a replay's.
const REPLAY_TURN: usize = 5;

/// A row in memory. `T` is what its try needs.
#[derive(Debug, Clone)]
pub struct Row<T> {
    /// See [`Place::epoch`]; the queue sets it.
    pub epoch: u64,
    pub seq: i64,
    pub lane: i16,
    /// Hash of the order key; `None`: unordered.
    pub key: Option<u64>,
    pub generation: i32,
    pub attempts: i32,
    pub origin: Origin,
    /// When it was due, for a waiting row or a replay.
    pub due_at: Option<DateTime<Utc>>,
    pub item: T,
}

impl<T> Row<T> {
    /// Which row it is, without what its try needs.
    pub fn place(&self) -> Place {
        Place { epoch: self.epoch, seq: self.seq, lane: self.lane, key: self.key, origin: self.origin }
    }
}

/// Which row of the queue is meant.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Which ownership of its lane it belongs to: what a lost lease left behind must not touch the next one's.
    pub epoch: u64,
    pub seq: i64,
    pub lane: i16,
    pub key: Option<u64>,
    pub origin: Origin,
}

/// What became of a row that was offered.
#[derive(Debug)]
pub enum Offer<T> {
    /// Held already, not ours, or left in the database until its key has room.
    Ignored,
    Queued,
    /// An earlier event of its key waits until then, so this one must wait too: record it, then settle it.
    Park(Row<T>, DateTime<Utc>),
}

/// What the database has recorded of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is over, or no longer ours to write.
    Done,
    /// It waits until then.
    Waits(DateTime<Utc>),
    /// Another has changed it since it was read: it must be read again.
    Unknown,
}

/// A row that may be tried now.
#[derive(Debug)]
pub struct Taken<T> {
    pub row: Row<T>,
    /// It may be what killed its last worker: count the attempt before the try, and try nothing else suspect beside it.
    pub suspect: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Queue<T> {
    epoch: u64,
    /// Lanes taken so far.
    serial: u64,
    ordered: bool,
    concurrency: usize,
    pub(super) rows_max: usize,
    pub(super) lanes: BTreeMap<i16, Lane>,
    pub(super) keys: HashMap<u64, Key<T>>,
    ready: VecDeque<Row<T>>,
    replays: VecDeque<Row<T>>,
    suspects: VecDeque<Row<T>>,
    suspect_tries_left: usize,
    suspect_in_flight: bool,
    replays_in_flight: usize,
    turn: usize,
    /// Rows held, by origin.
    pub(super) held: [usize; 3],
    /// Rows whose end was recorded since the last read began: that read may still show them as pending.
    pub(super) settled: Vec<(i16, i64)>,
    pub(super) reads: u64,
    /// The last plan left fresh rows of some lanes for the next one.
    pub(super) left_out: bool,
    /// When rows that this worker made wait are due.
    pub(super) timers: BinaryHeap<Reverse<(DateTime<Utc>, i16)>>,
}

/// The rows of one key, in order.
#[derive(Debug)]
pub(super) struct Key<T> {
    pub(super) lane: i16,
    /// Its first row is ready, in flight, or being recorded.
    active: bool,
    /// Its first row is being recorded as waiting: until then no row of it may queue up behind.
    falling_back: bool,
    behind: VecDeque<Row<T>>,
    /// Fresh rows from this position on were left in the database.
    pub(super) more_fresh: Option<i64>,
    /// Waiting rows were left in the database.
    pub(super) more_waiting: bool,
}

impl<T> Key<T> {
    pub(super) fn new(lane: i16) -> Self {
        Self { lane, active: false, falling_back: false, behind: VecDeque::new(), more_fresh: None, more_waiting: false }
    }

    /// Whether its rows that were left in the database could come now.
    pub(super) fn has_room(&self) -> bool {
        self.behind.len() <= KEY_ROWS_MAX / 2
    }

    fn is_idle(&self) -> bool {
        !self.active && self.behind.is_empty() && self.more_fresh.is_none() && !self.more_waiting
    }
}

impl<T> Queue<T> {
    /// An empty queue that owns no lane. `rows_max` bounds the fresh rows held; waiting rows get half of it again, replays a quarter.
    pub fn new(ordered: bool, concurrency: usize, rows_max: usize) -> Self {
        Self {
            epoch: 0,
            serial: 0,
            ordered,
            concurrency,
            rows_max,
            lanes: BTreeMap::new(),
            keys: HashMap::new(),
            ready: VecDeque::new(),
            replays: VecDeque::new(),
            suspects: VecDeque::new(),
            suspect_tries_left: 0,
            suspect_in_flight: false,
            replays_in_flight: 0,
            turn: 0,
            held: [0; 3],
            settled: Vec::new(),
            reads: 0,
            left_out: false,
            timers: BinaryHeap::new(),
        }
    }

    /// Starts to work on a lane. `heads` are its keys that have waiting rows: their first position, and when that is due.
    /// The first rows of an `orphaned` lane are suspect.
    pub fn own(&mut self, lane: i16, orphaned: bool, heads: impl IntoIterator<Item = (u64, i64, DateTime<Utc>)>) {
        self.serial += 1;
        let mut owned = Lane::new(self.serial, orphaned);
        for (key, head, due) in heads.into_iter().filter(|_| self.ordered) {
            owned.block(key, head, due);
        }
        if orphaned {
            // As many as the dead worker can have had in flight, and as many again: tries end out of order.
            self.suspect_tries_left = self.concurrency * 2;
        }
        self.lanes.insert(lane, owned);
    }

    /// Whether a read that was planned still speaks of the lane as it is owned now.
    pub fn is_current(&self, wanted: &Wanted) -> bool {
        self.lanes.get(&wanted.lane).is_some_and(|lane| lane.serial == wanted.serial)
    }

    /// Owned lanes that are not being handed over.
    pub fn owned(&self) -> usize {
        self.lanes.values().filter(|lane| !lane.releasing).count()
    }

    /// Stops taking rows of `count` lanes, for handing them over; [`Queue::quiet`] says when they are.
    pub fn begin_release(&mut self, count: usize) {
        let lanes: Vec<i16> = self.lanes.iter().rev().filter(|(_, lane)| !lane.releasing).map(|(number, _)| *number).take(count).collect();
        for number in lanes {
            self.forget_queued(number);
            if let Some(lane) = self.lanes.get_mut(&number) {
                lane.releasing = true;
            }
        }
    }

    /// Lanes being handed over that have nothing in flight any more; they are no longer owned.
    pub fn quiet(&mut self) -> Vec<i16> {
        let quiet: Vec<i16> =
            self.lanes.iter().filter(|(_, lane)| lane.releasing && lane.in_flight == 0).map(|(number, _)| *number).collect();
        for number in &quiet {
            self.lanes.remove(number);
        }
        quiet
    }

    /// Whether nothing is in a try or on its way to being recorded.
    pub fn is_quiet(&self) -> bool {
        self.lanes.values().all(|lane| lane.in_flight == 0)
    }

    /// Drops all rows that no try has begun with, to read them again: an operator has changed some.
    pub fn refresh(&mut self) {
        for number in self.lanes.iter().filter(|(_, lane)| !lane.releasing).map(|(number, _)| *number).collect::<Vec<_>>() {
            let first = self.forget_queued(number);
            if let Some(lane) = self.lanes.get_mut(&number) {
                lane.cursor = first.map_or(lane.cursor, |first| lane.cursor.min(first - 1));
                lane.more_fresh = true;
            }
        }
    }

    /// Forgets everything: the lease is lost, and others may own the lanes.
    pub fn disown_all(&mut self) {
        *self = Self { epoch: self.epoch + 1, serial: self.serial, ..Self::new(self.ordered, self.concurrency, self.rows_max) };
    }

    /// Drops a lane's rows that no try has begun with. Returns the first position that has to be read again for them.
    fn forget_queued(&mut self, number: i16) -> Option<i64> {
        let left = self.keys.values().filter(|key| key.lane == number).filter_map(|key| key.more_fresh).min();
        let mut forgotten: Vec<Place> = Vec::new();
        for queue in [&mut self.ready, &mut self.replays, &mut self.suspects] {
            forgotten.extend(queue.iter().filter(|row| row.lane == number).map(Row::place));
            queue.retain(|row| row.lane != number);
        }
        let idle: HashSet<u64> = forgotten.iter().filter_map(|place| place.key).collect();
        for key in self.keys.values_mut().filter(|key| key.lane == number) {
            forgotten.extend(key.behind.drain(..).map(|row| row.place()));
            (key.more_fresh, key.more_waiting) = (None, false);
        }
        self.keys.retain(|name, key| key.lane != number || (key.active && !idle.contains(name)));
        for place in &forgotten {
            self.held[place.origin as usize] -= 1;
            if let Some(lane) = self.lanes.get_mut(&place.lane) {
                lane.known.remove(&place.seq);
            }
        }
        let lane = self.lanes.get_mut(&number)?;
        let rewind = lane.rewind.take();
        lane.rewinding.clear();
        let first = forgotten.iter().filter(|place| place.origin == Origin::Fresh).map(|place| place.seq).min();
        [first, left, rewind].into_iter().flatten().min()
    }

    /// Takes in a row that a read has found due, as of `now` by the database's clock.
    pub fn offer(&mut self, mut row: Row<T>, now: DateTime<Utc>) -> Offer<T> {
        let Some(lane) = self.lanes.get_mut(&row.lane).filter(|lane| !lane.releasing) else { return Offer::Ignored };
        if lane.known.contains(&row.seq) {
            return Offer::Ignored;
        }
        row.epoch = self.epoch;
        if !self.ordered || row.origin == Origin::Replay {
            row.key = None;
        }
        let waited = row.origin == Origin::Waiting;
        if let Some(name) = row.key {
            let left = self.keys.get(&name).and_then(|key| key.more_fresh);
            if !waited && left.is_some_and(|from| row.seq >= from) {
                // Earlier ones were left in the database: it comes again after them.
                return Offer::Ignored;
            }
            if let Some(due) = lane.must_wait(name, row.seq, row.due_at, now) {
                lane.known.insert(row.seq);
                lane.in_flight += 1;
                lane.recording(name);
                self.held[row.origin as usize] += 1;
                return Offer::Park(row, due);
            }
            if waited && lane.pass_over(name, row.seq, self.reads) {
                // Earlier ones may be on their way to the same due time: it comes again after them.
                return Offer::Ignored;
            }
            let key = self.keys.entry(name).or_insert_with(|| Key::new(row.lane));
            let full = key.behind.len() >= KEY_ROWS_MAX;
            if waited && (full || key.falling_back || key.more_waiting) {
                key.more_waiting = true;
                return Offer::Ignored;
            }
            if !waited && full {
                key.more_fresh = Some(row.seq);
                return Offer::Ignored;
            }
            lane.known.insert(row.seq);
            self.held[row.origin as usize] += 1;
            if key.active {
                let at = key.behind.partition_point(|other| other.seq < row.seq);
                key.behind.insert(at, row);
                return Offer::Queued;
            }
            key.active = true;
        } else {
            lane.known.insert(row.seq);
            self.held[row.origin as usize] += 1;
        }
        self.make_ready(row);
        Offer::Queued
    }

    fn make_ready(&mut self, row: Row<T>) {
        let orphaned = self.lanes.get(&row.lane).is_some_and(|lane| lane.orphaned);
        let queue = match row.origin {
            _ if orphaned && self.suspect_tries_left > 0 => &mut self.suspects,
            Origin::Replay => &mut self.replays,
            Origin::Fresh | Origin::Waiting => &mut self.ready,
        };
        queue.push_back(row);
    }

    /// The next row to try, if there is one.
    pub fn take(&mut self) -> Option<Taken<T>> {
        if self.suspect_tries_left == 0 {
            // What is left of them is as innocent as any other row.
            for row in std::mem::take(&mut self.suspects) {
                self.make_ready(row);
            }
        }
        if !self.suspect_in_flight
            && let Some(row) = self.suspects.pop_front()
        {
            self.suspect_tries_left -= 1;
            self.suspect_in_flight = true;
            return Some(self.begin(row, true));
        }
        let row = if self.replays_turn() { self.replays.pop_front() } else { self.ready.pop_front() }?;
        self.turn = self.turn.wrapping_add(1);
        Some(self.begin(row, false))
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
        if suspect {
            self.suspect_in_flight = false;
        }
    }

    /// A row whose try counts for nothing: it goes to the end, so that the next try is another key's.
    pub fn put_back(&mut self, row: Row<T>) {
        if row.epoch != self.epoch {
            return;
        }
        let Some(lane) = self.lanes.get_mut(&row.lane) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if !lane.releasing {
            self.make_ready(row);
            return;
        }
        lane.known.remove(&row.seq);
        self.held[row.origin as usize] -= 1;
        if let Some(key) = row.key {
            self.keys.remove(&key);
        }
    }

    /// The first row of a key must wait until `due`: later events of the key must, too. Returns those in memory; each is
    /// to be recorded as waiting, and then settled, like the row itself.
    pub fn block(&mut self, place: Place, due: DateTime<Utc>) -> Vec<Row<T>> {
        if place.epoch != self.epoch {
            return Vec::new();
        }
        let (Some(name), Some(lane)) = (place.key, self.lanes.get_mut(&place.lane)) else { return Vec::new() };
        lane.block(name, place.seq, due);
        lane.recording(name);
        let Some(key) = self.keys.get_mut(&name) else { return Vec::new() };
        key.falling_back = true;
        let behind: Vec<Row<T>> = key.behind.drain(..).collect();
        for _ in &behind {
            lane.in_flight += 1;
            lane.recording(name);
        }
        behind
    }

    /// The database has recorded what became of a row that was taken, parked or blocked.
    pub fn settle(&mut self, place: Place, settled: Settled) {
        if place.epoch != self.epoch {
            return;
        }
        let Some(lane) = self.lanes.get_mut(&place.lane) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        self.held[place.origin as usize] -= 1;
        self.settled.push((place.lane, place.seq));
        if settled == Settled::Unknown {
            lane.rewind_to(place.seq);
            lane.waiting.rewind();
            lane.replay.rewind();
        }
        if let Settled::Waits(due) = settled {
            let of = if place.origin == Origin::Replay { &mut lane.replay } else { &mut lane.waiting };
            of.include(due);
            if let Some(name) = place.key {
                lane.recorded(name, self.reads);
            }
            if self.timers.len() < TIMERS_MAX && self.timers.peek() != Some(&Reverse((due, place.lane))) {
                self.timers.push(Reverse((due, place.lane)));
            }
        }
    }

    /// The first row of a key is settled: the next one's turn has come.
    pub fn advance(&mut self, place: Place) {
        if place.epoch != self.epoch {
            return;
        }
        let Some((name, key)) = place.key.and_then(|name| Some((name, self.keys.get_mut(&name)?))) else { return };
        key.falling_back = false;
        let next = key.behind.pop_front();
        key.active = next.is_some();
        if key.has_room()
            && let Some(lane) = self.lanes.get_mut(&place.lane)
        {
            if let Some(from) = key.more_fresh {
                lane.rewind_to(from);
            }
            if key.more_waiting {
                lane.waiting.rewind();
            }
        }
        if key.is_idle() {
            self.keys.remove(&name);
        }
        if let Some(row) = next {
            self.make_ready(row);
        }
    }

    /// Whether a try could begin now, slots permitting.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.replays.is_empty() || (!self.suspects.is_empty() && !self.suspect_in_flight)
    }
}

#[cfg(test)]
mod tests;
