//! One sink's deliveries in this worker's memory: what has been read, what may be tried next, what must wait. Pure.
//!
//! Rows come in by [`Queue::offer_fresh`] and [`Queue::offer_waiting`], leave to a try by [`Queue::take`], and end in [`Queue::settle`] once the
//! database has recorded what became of them. Between the first and the last a row is *held*: further reads that see it again are ignored. In
//! an ordered sink only the first row of a key is ever ready; the others queue behind it. What is more than [`KEY_ROWS_MAX`] of them, and
//! whatever comes after a row that waits for a retry, is *parked* in the database, once, and [paged](Queue::offer_page) when its turn comes.
//!
//! Everything is bounded: rows by the read-ahead, one key's rows by [`KEY_ROWS_MAX`], and keys by the rows that they have in memory.

mod keys;
mod tries;

use super::lane::Lane;
use super::reading::Wanted;
use crate::store::deliveries::Origin;
use crate::store::sinks::Subscription;
use chrono::{DateTime, Utc};
use keys::Key;
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
    /// `sluice.key_hash` of the order key; `None`: unordered.
    pub key: Option<i64>,
    pub generation: i32,
    pub attempts: i32,
    pub origin: Origin,
    /// When it was due, for a waiting row or a replay; `None` for a fresh row and for one that was parked.
    pub due_at: Option<DateTime<Utc>>,
    /// In a row, how many of its tries, each counted before it began, ended with their worker: see [`Queue::take`].
    pub mark: u8,
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
    pub key: Option<i64>,
    pub origin: Origin,
}

/// What became of a row that was offered.
#[derive(Debug)]
pub enum Offer<T> {
    /// Held already, not ours, or left in the database until its key has room.
    Ignored,
    Queued,
    /// Its turn is not before another's of its key that waits in the database: record it as parked, then settle it.
    Park(Row<T>),
}

/// What the database has recorded of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is over, or no longer ours to write.
    Done,
    /// It waits until then.
    Waits(DateTime<Utc>),
    /// It waits for its predecessors.
    Parked,
    /// Another has changed it since it was read: it must be read again.
    Unknown,
}

/// A row that may be tried now.
#[derive(Debug)]
pub struct Taken<T> {
    pub row: Row<T>,
    /// It may be what killed its last worker: count the attempt before the try.
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
    pub(super) keys: HashMap<i64, Key<T>>,
    /// What the sink is owed, and under which revision of it that was read.
    subscriptions: Vec<Subscription>,
    ready: VecDeque<Row<T>>,
    replays: VecDeque<Row<T>>,
    suspects: VecDeque<Row<T>>,
    suspect_tries_left: usize,
    /// Suspects that were under way at an earlier death, too.
    marked: VecDeque<Row<T>>,
    /// Of these, the ones being tried, and whether it is one that must be alone.
    marked_in_flight: HashSet<i64>,
    marked_alone: bool,
    replays_in_flight: usize,
    turn: usize,
    /// Rows held, by origin.
    pub(super) held: [usize; 3],
    /// Rows whose end was recorded since the last read began: that read may still show them as pending.
    pub(super) settled: Vec<(i16, i64)>,
    /// Keys whose rows the next read shall bring.
    pub(super) pages: Vec<i64>,
    /// Up to where the [tail](super::tail) has seen everything.
    pub(super) tail: i64,
    /// Up to where the tail had come when the last read began: a lane that has seen what it has seen may lack more.
    pub(super) head: i64,
    /// When rows that this worker made wait are due.
    pub(super) timers: BinaryHeap<Reverse<(DateTime<Utc>, i16)>>,
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
            subscriptions: Vec::new(),
            ready: VecDeque::new(),
            replays: VecDeque::new(),
            suspects: VecDeque::new(),
            suspect_tries_left: 0,
            marked: VecDeque::new(),
            marked_in_flight: HashSet::new(),
            marked_alone: false,
            replays_in_flight: 0,
            turn: 0,
            held: [0; 3],
            settled: Vec::new(),
            pages: Vec::new(),
            tail: 0,
            head: 0,
            timers: BinaryHeap::new(),
        }
    }

    /// Starts to work on a lane, from where it is settled. The first rows of an `orphaned` lane are suspect.
    pub fn own(&mut self, lane: i16, orphaned: bool, settled_to: i64, revision: i32) {
        self.serial += 1;
        if orphaned {
            // As many as the dead worker can have had in flight, and as many again: tries end out of order.
            self.suspect_tries_left = self.concurrency * 2;
        }
        self.lanes.insert(lane, Lane::new(self.serial, orphaned, settled_to, revision));
    }

    /// What the sink is owed, from now on.
    pub fn subscribe(&mut self, subscriptions: Vec<Subscription>) {
        self.subscriptions = subscriptions;
    }

    /// What the sink is owed has changed: the lane begins again from where it is settled.
    pub fn restart(&mut self, number: i16, settled_to: i64, revision: i32) {
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        (lane.settled_to, lane.revision) = (lane.settled_to.max(settled_to), revision);
        // A read under way was made by the old rules.
        lane.reading = false;
        lane.fall_back(settled_to, self.tail);
        self.forget_queued(number);
    }

    /// Whether an event at this position is owed.
    pub fn subscribes(&self, seq: i64, event_type: Option<&str>) -> bool {
        let wants = |one: &Subscription| match &one.types {
            None => true,
            Some(types) => event_type.is_some_and(|of| types.iter().any(|known| known == of)),
        };
        self.subscriptions.iter().any(|one| (one.from_seq..one.until_seq).contains(&seq) && wants(one))
    }

    /// The types of which any may be owed; `None`: all.
    pub fn types(&self) -> Option<Vec<String>> {
        self.subscriptions.iter().map(|one| one.types.clone()).collect::<Option<Vec<_>>>().map(|types| types.concat())
    }

    /// The revision that the lanes are worked on under; `None` without any but those that are being handed over.
    pub fn revision(&self) -> Option<i32> {
        self.lanes.values().filter(|lane| !lane.releasing).map(|lane| lane.revision).min()
    }

    /// See [`Place::epoch`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn ordered(&self) -> bool {
        self.ordered
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
            if let Some(lane) = self.lanes.get_mut(&number) {
                (lane.releasing, lane.reading) = (true, false);
                // It is offered nothing more: what the tail sees from now on it has not seen.
                lane.behind = Some(lane.read_to(self.tail));
            }
            self.forget_queued(number);
        }
    }

    /// Lanes being handed over that have nothing in flight any more, and where and under which revision each is settled; they are no
    /// longer owned.
    pub fn quiet(&mut self) -> Vec<(i16, i64, i32)> {
        let tail = self.tail;
        let quiet: Vec<(i16, i64, i32)> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.releasing && lane.in_flight == 0)
            .map(|(number, lane)| (*number, lane.settled(tail), lane.revision))
            .collect();
        for (number, ..) in &quiet {
            self.lanes.remove(number);
            self.keys.retain(|_, key| key.lane != *number);
        }
        quiet
    }

    /// Lanes that are settled further than the database says, with where and under which revision: by `by` positions or more.
    pub fn settlements(&self, by: i64) -> Vec<(i16, i64, i32)> {
        let settled = self.lanes.iter().map(|(number, lane)| (*number, lane.settled(self.tail), lane.settled_to, lane.revision));
        settled.filter(|(_, now, before, _)| now - before >= by).map(|(number, now, _, revision)| (number, now, revision)).collect()
    }

    /// The database has them settled up to there.
    pub fn note_settled(&mut self, number: i16, settled_to: i64) {
        if let Some(lane) = self.lanes.get_mut(&number) {
            lane.settled_to = lane.settled_to.max(settled_to);
        }
    }

    /// Whether nothing is in a try or on its way to being recorded.
    pub fn is_quiet(&self) -> bool {
        self.lanes.values().all(|lane| lane.in_flight == 0)
    }

    /// Drops all rows that no try has begun with, to read them again: an operator has changed some.
    pub fn refresh(&mut self) {
        for number in self.lanes.iter().filter(|(_, lane)| !lane.releasing).map(|(number, _)| *number).collect::<Vec<_>>() {
            self.forget_queued(number);
            if let Some(lane) = self.lanes.get_mut(&number) {
                // A head may have been ended by hand.
                lane.keys.start();
            }
        }
    }

    /// Forgets everything: the lease is lost, and others may own the lanes.
    pub fn disown_all(&mut self) {
        *self = Self { epoch: self.epoch + 1, serial: self.serial, ..Self::new(self.ordered, self.concurrency, self.rows_max) };
    }

    /// Drops a lane's rows that no try has begun with, to be read again.
    fn forget_queued(&mut self, number: i16) {
        let mut forgotten: Vec<Place> = Vec::new();
        for queue in [&mut self.ready, &mut self.replays, &mut self.suspects, &mut self.marked] {
            forgotten.extend(queue.iter().filter(|row| row.lane == number).map(Row::place));
            queue.retain(|row| row.lane != number);
        }
        let headless: HashSet<i64> = forgotten.iter().filter_map(|place| place.key).collect();
        for (name, key) in self.keys.iter_mut().filter(|(_, key)| key.lane == number) {
            key.more |= key.behind.iter().any(|row| row.origin == Origin::Waiting);
            forgotten.extend(key.behind.drain(..).map(|row| row.place()));
            key.active &= !headless.contains(name);
        }
        self.keys.retain(|_, key| key.lane != number || !key.is_idle());
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        for place in &forgotten {
            self.held[place.origin as usize] -= 1;
            lane.known.remove(&place.seq);
            lane.unsettled.remove(&place.seq);
        }
        // Waiting rows come again by their time, and parked ones by a sweep.
        if forgotten.iter().any(|place| place.origin == Origin::Waiting) {
            lane.waiting.rewind();
        }
        if forgotten.iter().any(|place| place.origin == Origin::Replay) {
            lane.replay.rewind();
        }
        if forgotten.iter().any(|place| place.key.is_some()) {
            // A fresh one may have its row by now, and what is parked behind it nobody would ask for.
            lane.keys.start();
            lane.keys.note();
        }
        if let Some(first) = forgotten.iter().filter(|place| place.origin == Origin::Fresh).map(|place| place.seq).min() {
            lane.fall_back(first - 1, self.tail);
        }
    }

    /// The database has recorded what became of a row that was taken, parked or blocked.
    pub fn settle(&mut self, place: Place, settled: Settled) {
        if place.epoch != self.epoch {
            return;
        }
        let tail = self.tail;
        let Some(lane) = self.lanes.get_mut(&place.lane) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        lane.unsettled.remove(&place.seq);
        self.held[place.origin as usize] -= 1;
        self.settled.push((place.lane, place.seq));
        if place.key.is_some() && matches!(settled, Settled::Waits(_) | Settled::Parked) {
            // A sweep that began meanwhile may have looked too early.
            lane.keys.note();
        }
        match settled {
            Settled::Done => {}
            Settled::Unknown => {
                if place.origin == Origin::Fresh {
                    lane.fall_back(place.seq - 1, tail);
                }
                lane.waiting.rewind();
                lane.replay.rewind();
            }
            Settled::Waits(due) => {
                let of = if place.origin == Origin::Replay { &mut lane.replay } else { &mut lane.waiting };
                of.include(due);
                if self.timers.len() < TIMERS_MAX && self.timers.peek() != Some(&Reverse((due, place.lane))) {
                    self.timers.push(Reverse((due, place.lane)));
                }
                self.recorded(place);
            }
            Settled::Parked => self.recorded(place),
        }
    }
}

#[cfg(test)]
mod tests;
