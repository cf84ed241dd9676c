//! Order keys: which row of a key is first, which queue up behind it, and what of it waits in the database.

use super::{KEY_ROWS_MAX, Offer, Place, Queue, Row, TIMERS_MAX};
use crate::store::deliveries::Origin;
use chrono::{DateTime, Utc};
use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

/// The rows of one key, in order.
#[derive(Debug)]
pub(in crate::worker) struct Key<T> {
    pub(in crate::worker) lane: i16,
    /// Its first row is ready, in flight, or being recorded as done.
    pub(super) active: bool,
    pub(super) behind: VecDeque<Row<T>>,
    /// Rows on their way to being recorded as waiting or parked.
    pub(super) recording: BTreeSet<i64>,
    /// The database has, or may have, rows parked behind those in memory.
    pub(super) more: bool,
    /// The next read, or the one under way, brings its rows.
    pub(super) paging: bool,
    /// Some were recorded since that read was planned, which may not show them.
    pub(in crate::worker) recorded_meanwhile: bool,
}

impl<T> Key<T> {
    pub(super) fn new(lane: i16) -> Self {
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
    pub(super) fn is_idle(&self) -> bool {
        !self.active && self.behind.is_empty() && self.recording.is_empty() && !self.paging
    }
}

impl<T> Queue<T> {
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

    /// A row of a key has come to wait in the database.
    pub(super) fn recorded(&mut self, place: Place) {
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
}
