//! One sink's deliveries in this worker's memory: what has been read, what may be tried next, what must wait. Pure.
//!
//! Rows come in by [`Queue::offer_fresh`] and [`Queue::offer_waiting`], leave to a try by [`Queue::take`], and end in [`Queue::settle`] once the
//! database has recorded what became of them. Between the first and the last a row is *held*: further reads that see it again are ignored. In
//! an ordered sink only the first row of a key is ever ready; the others queue behind it. What is more than [`KEY_ROWS_MAX`] of them, and
//! whatever comes after a row that waits for a retry, is *parked* in the database, once, and [paged](Queue::offer_page) when its turn comes.
//!
//! Everything is bounded: rows by the read-ahead, one key's rows by [`KEY_ROWS_MAX`], and keys by the rows that they have in memory.

use super::lane::Lane;
use super::reading::Wanted;
use crate::store::deliveries::Origin;
use crate::store::sinks::Subscription;
use chrono::{DateTime, Utc};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};

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

/// The rows of one key, in order.
#[derive(Debug)]
pub(super) struct Key<T> {
    pub(super) lane: i16,
    /// Its first row is ready, in flight, or being recorded as done.
    active: bool,
    behind: VecDeque<Row<T>>,
    /// Rows on their way to being recorded as waiting or parked.
    recording: BTreeSet<i64>,
    /// The database has, or may have, rows parked behind those in memory.
    more: bool,
    /// The next read, or the one under way, brings its rows.
    paging: bool,
    /// Some were recorded since that read was planned, which may not show them.
    pub(super) recorded_meanwhile: bool,
}

impl<T> Key<T> {
    fn new(lane: i16) -> Self {
        Self {
            lane,
            active: false,
            behind: VecDeque::new(),
            recording: BTreeSet::new(),
            more: false,
            paging: false,
            recorded_meanwhile: false,
        }
    }

    /// Whether memory has no part in what comes next of it.
    fn is_idle(&self) -> bool {
        !self.active && self.behind.is_empty() && self.recording.is_empty() && !self.paging
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

    /// Takes in an event of the log that is owed, has no row, and is not held yet. `first_waiting`: the first position of its key that waits
    /// in the database, as far as the read has shown.
    pub fn offer_fresh(&mut self, mut row: Row<T>, first_waiting: Option<i64>) -> Offer<T> {
        let Some(lane) = self.lanes.get_mut(&row.lane).filter(|lane| lane.reading) else { return Offer::Ignored };
        if !lane.known.insert(row.seq) {
            return Offer::Ignored;
        }
        row.epoch = self.epoch;
        lane.unsettled.insert(row.seq);
        self.held[Origin::Fresh as usize] += 1;
        if !self.ordered {
            row.key = None;
        }
        let Some(name) = row.key else {
            self.make_ready(row);
            return Offer::Queued;
        };
        let is_new = !self.keys.contains_key(&name);
        let key = self.keys.entry(name).or_insert_with(|| Key::new(row.lane));
        if is_new && first_waiting.is_none_or(|first| first > row.seq) {
            key.active = true;
            key.more = first_waiting.is_some();
            self.make_ready(row);
            return Offer::Queued;
        }
        if key.active && !key.more && key.behind.len() < KEY_ROWS_MAX {
            let at = key.behind.partition_point(|other| other.seq < row.seq);
            key.behind.insert(at, row);
            return Offer::Queued;
        }
        lane.in_flight += 1;
        lane.keys.note();
        key.recording.insert(row.seq);
        key.more = true;
        Offer::Park(row)
    }

    /// Takes in a waiting row, or a replay, whose time has come. `is_head`: nothing of its key waits before it.
    pub fn offer_waiting(&mut self, mut row: Row<T>, is_head: bool) -> Offer<T> {
        let Some(lane) = self.lanes.get_mut(&row.lane).filter(|lane| !lane.releasing) else { return Offer::Ignored };
        if lane.known.contains(&row.seq) {
            return Offer::Ignored;
        }
        row.epoch = self.epoch;
        if !self.ordered || row.origin == Origin::Replay {
            row.key = None;
        }
        if let Some(name) = row.key {
            let is_new = !self.keys.contains_key(&name);
            let key = self.keys.entry(name).or_insert_with(|| Key::new(row.lane));
            key.more = true;
            if is_new && !is_head {
                lane.known.insert(row.seq);
                self.held[row.origin as usize] += 1;
                lane.in_flight += 1;
                lane.keys.note();
                key.recording.insert(row.seq);
                return Offer::Park(row);
            }
            if !is_new && !key.is_idle() || !is_head {
                // It comes with its key's page.
                return Offer::Ignored;
            }
            key.active = true;
        }
        lane.known.insert(row.seq);
        self.held[row.origin as usize] += 1;
        self.make_ready(row);
        Offer::Queued
    }

    /// Takes in the first rows of a key that wait in the database, in their order, as of `now` by the database's clock; `full`: there may
    /// be more of them.
    pub fn offer_page(&mut self, name: i64, rows: Vec<Row<T>>, full: bool, now: DateTime<Utc>) {
        let Some(key) = self.keys.get_mut(&name) else { return };
        key.paging = false;
        let Some(lane) = self.lanes.get_mut(&key.lane).filter(|lane| !lane.releasing) else {
            if key.is_idle() {
                self.keys.remove(&name);
            }
            return;
        };
        let (mut first, mut left) = (None, full);
        for mut row in rows {
            if lane.known.contains(&row.seq) {
                continue;
            }
            if let Some(due) = row.due_at.filter(|due| *due > now) {
                // Its head waits: it comes by its time.
                if self.timers.len() < TIMERS_MAX {
                    self.timers.push(Reverse((due, key.lane)));
                }
                left = true;
                break;
            }
            if row.seq > lane.behind.unwrap_or(self.head) {
                // Fresh events of its key may lie before it.
                lane.keys.come_again();
                left = true;
                break;
            }
            // What is being recorded may come before it.
            if key.behind.len() >= KEY_ROWS_MAX || key.recording.first().is_some_and(|first| row.seq > *first) {
                left = true;
                break;
            }
            row.epoch = self.epoch;
            lane.known.insert(row.seq);
            self.held[row.origin as usize] += 1;
            if key.active {
                let at = key.behind.partition_point(|other| other.seq < row.seq);
                key.behind.insert(at, row);
            } else {
                key.active = true;
                first = Some(row);
            }
        }
        let outdated = std::mem::take(&mut key.recorded_meanwhile);
        key.more = left || outdated || !key.recording.is_empty();
        if let Some(row) = first {
            self.make_ready(row);
        } else if outdated {
            self.page_if_idle(name);
        } else if key.is_idle() {
            self.keys.remove(&name);
        }
    }

    /// The next read shall bring what waits of this key.
    fn page(&mut self, name: i64) {
        if let Some(key) = self.keys.get_mut(&name)
            && !std::mem::replace(&mut key.paging, true)
        {
            self.pages.push(name);
        }
    }

    /// A sweep has found this parked row first of its key. Where memory knows nothing of the key, nobody would ask for it.
    pub fn offer_stranded(&mut self, number: i16, name: i64, seq: i64) {
        let Some(lane) = self.lanes.get_mut(&number).filter(|lane| !lane.releasing) else { return };
        if self.keys.contains_key(&name) {
            return;
        }
        if seq > lane.behind.unwrap_or(self.head) {
            // Fresh events of its key may lie before it.
            lane.keys.come_again();
            return;
        }
        self.keys.insert(name, Key { more: true, ..Key::new(number) });
        self.page(name);
    }

    fn make_ready(&mut self, row: Row<T>) {
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

    /// The first row of a key must wait for its retry: later events of the key must, too. Returns those in memory that have no row yet;
    /// each is to be recorded as parked, and then settled, like the row itself.
    pub fn block(&mut self, place: Place) -> Vec<Row<T>> {
        if place.epoch != self.epoch {
            return Vec::new();
        }
        let (Some(name), Some(lane)) = (place.key, self.lanes.get_mut(&place.lane)) else { return Vec::new() };
        lane.keys.note();
        let key = self.keys.entry(name).or_insert_with(|| Key::new(place.lane));
        key.recording.insert(place.seq);
        key.more = true;
        // Events that were committed late can come before it: they are first now.
        let later = key.behind.split_off(key.behind.partition_point(|row| row.seq < place.seq));
        let next = key.behind.pop_front();
        key.active = next.is_some();
        let (fresh, parked): (Vec<Row<T>>, Vec<Row<T>>) = later.into_iter().partition(|row| row.origin == Origin::Fresh);
        key.recording.extend(fresh.iter().map(|row| row.seq));
        lane.in_flight += fresh.len();
        for row in parked {
            // It is in the database already, where it stays.
            lane.known.remove(&row.seq);
            self.held[row.origin as usize] -= 1;
        }
        if let Some(row) = next {
            self.make_ready(row);
        }
        fresh
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

    /// A row of a key has come to wait in the database.
    fn recorded(&mut self, place: Place) {
        if let Some((name, key)) = place.key.and_then(|name| Some((name, self.keys.get_mut(&name)?))) {
            key.recording.remove(&place.seq);
            key.recorded_meanwhile |= key.paging;
            self.page_if_idle(name);
        }
    }

    /// Memory knows no more of the key than that some of it waits in the database: what that is, the database says.
    fn page_if_idle(&mut self, name: i64) {
        if self.keys.get(&name).is_some_and(Key::is_idle) {
            self.page(name);
        }
    }

    /// The first row of a key is over: the next one's turn has come.
    pub fn advance(&mut self, place: Place) {
        if place.epoch != self.epoch {
            return;
        }
        let Some((name, key)) = place.key.and_then(|name| Some((name, self.keys.get_mut(&name)?))) else { return };
        let next = key.behind.pop_front();
        key.active = next.is_some();
        let more = key.more;
        if let Some(row) = next {
            self.make_ready(row);
        } else if more {
            self.page_if_idle(name);
        } else if key.is_idle() {
            self.keys.remove(&name);
        }
    }

    /// Whether a try could begin now, slots permitting.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.replays.is_empty() || !self.suspects.is_empty() || self.may_try_marked()
    }
}

#[cfg(test)]
mod tests;
