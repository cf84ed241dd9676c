//! The queues of two sinks, and the tail that they share, against a model of the database: whatever the order of steps, each key's events
//! are tried in order, none is tried again that went through, nothing that is owed is settled away, and in the end none is left.
//!
//! The worker here does what the fetcher, the finisher and the lease do, step by step, so that anything can happen between two steps.

use super::super::super::reading::{LogPlan, Readers};
use super::super::super::tail::{Span, Tail};
use super::*;
use crate::clock;
use crate::store::log::{Asker, Issued};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const CONCURRENCY: usize = 4;
const LANES: i16 = 2;
const SINKS: usize = 2;

/// The second sink is soon out of room.
const ROWS_MAX: [usize; SINKS] = [300, 24];

/// As in the fetcher.
const RANGE_MAX: i64 = 50_000;
const TOGETHER_WITHIN: i64 = 2_000;

/// An event of the log.
#[derive(Debug, Clone)]
struct Event {
    lane: i16,
    key: Option<i64>,
    kind: &'static str,
    /// The transaction that stores it.
    writer: u64,
    /// When that was committed, counted in commits; `None`: nobody sees it.
    committed: Option<u64>,
}

/// A row of `delivery_state`; without anything in it, one that version 0.1.0 wrote and never began.
#[derive(Debug, Clone, Default)]
struct Record {
    key: Option<i64>,
    due: Option<DateTime<Utc>>,
    attempts: i32,
    generation: i32,
    done: bool,
}

impl Record {
    fn is_unstarted(&self) -> bool {
        !self.done && self.key.is_none() && self.due.is_none() && (self.attempts, self.generation) == (0, 0)
    }
}

/// A row of `lanes`.
#[derive(Debug)]
struct Owned {
    settled_to: i64,
    revision: i32,
    worker: u64,
}

/// A row of `sinks`, and what belongs to it.
#[derive(Debug)]
struct Sink {
    revision: i32,
    lanes: Vec<Owned>,
    subscriptions: Vec<Subscription>,
    records: BTreeMap<i64, Record>,
}

impl Sink {
    fn subscribes(&self, seq: i64, kind: &str) -> bool {
        let wants = |types: &Option<Vec<String>>| types.as_ref().is_none_or(|types| types.iter().any(|of| of == kind));
        self.subscriptions.iter().any(|one| (one.from_seq..one.until_seq).contains(&seq) && wants(&one.types))
    }

    /// Rows that wait, with their lanes left to the caller.
    fn pending(&self) -> impl Iterator<Item = (i64, &Record)> {
        self.records.iter().filter(|(_, record)| !record.done).map(|(seq, record)| (*seq, record))
    }
}

#[derive(Debug)]
struct Database {
    log: BTreeMap<i64, Event>,
    /// The last number given out.
    issued: i64,
    /// Transactions that have numbered events.
    open: Vec<u64>,
    transactions: u64,
    commits: u64,
    sinks: Vec<Sink>,
}

impl Database {
    /// With so many events whose rows version 0.1.0 wrote.
    fn new(old: i64) -> Self {
        let everything = Subscription { from_seq: old + 1, until_seq: i64::MAX, types: None };
        let sink = |_| Sink {
            revision: 1,
            lanes: (0..LANES).map(|_| Owned { settled_to: 0, revision: 1, worker: 1 }).collect(),
            subscriptions: vec![everything.clone()],
            records: (1..=old).map(|seq| (seq, Record::default())).collect(),
        };
        let sinks = (0..SINKS).map(sink).collect();
        let mut db = Self { log: BTreeMap::new(), issued: 0, open: Vec::new(), transactions: 0, commits: 0, sinks };
        db.number(1, "a", old as usize);
        db.end_transaction(0, true);
        db
    }

    /// A transaction numbers so many events of a key; 0 is no key.
    fn number(&mut self, name: i64, kind: &'static str, count: usize) {
        self.transactions += 1;
        self.open.push(self.transactions);
        for _ in 0..count {
            self.issued += 1;
            let (lane, key) = ((name % i64::from(LANES)) as i16, (name != 0).then_some(name));
            self.log.insert(self.issued, Event { lane, key, kind, writer: self.transactions, committed: None });
        }
    }

    fn end_transaction(&mut self, n: usize, commits: bool) {
        if self.open.is_empty() {
            return;
        }
        let ended = self.open.remove(n % self.open.len());
        self.commits += 1;
        if commits {
            self.log.values_mut().filter(|event| event.writer == ended).for_each(|event| event.committed = Some(self.commits));
        } else {
            self.log.retain(|_, event| event.writer != ended);
        }
    }

    /// The positions of a sink's events that somebody could see.
    fn owed(&self, sink: usize) -> impl Iterator<Item = (i64, &Event)> {
        let is_owed = move |seq, event: &Event| self.sinks[sink].subscribes(seq, event.kind) || self.sinks[sink].records.contains_key(&seq);
        self.log.iter().filter(move |(seq, event)| event.committed.is_some() && is_owed(**seq, event)).map(|(seq, event)| (*seq, event))
    }

    fn committed(&self, seq: i64) -> Option<u64> {
        self.log[&seq].committed
    }

    /// As `sluice.set_status` does it.
    fn set_by_hand(&mut self, sink: usize, seq: i64, is_reset: bool, now: DateTime<Utc>) {
        let record = self.sinks[sink].records.get(&seq).cloned();
        let generation = record.as_ref().map_or(0, |record| record.generation) + i32::from(is_reset);
        if is_reset {
            self.sinks[sink].records.insert(seq, Record { due: Some(now), generation, ..Record::default() });
        } else if record.is_none_or(|record| !record.done) {
            self.sinks[sink].records.insert(seq, Record { done: true, generation, ..Record::default() });
        }
    }

    /// The sink is owed other events from now on.
    fn subscribe(&mut self, sink: usize, types: Option<Vec<String>>) {
        let of = &mut self.sinks[sink];
        of.revision += 1;
        of.lanes.iter_mut().for_each(|lane| lane.revision = of.revision);
        self.issued += 1;
        let bound = self.issued;
        of.subscriptions.iter_mut().for_each(|one| one.until_seq = one.until_seq.min(bound));
        of.subscriptions.push(Subscription { from_seq: bound, until_seq: i64::MAX, types });
    }

    /// Whether the lane could be settled; nothing below may be owed without a row.
    fn settle(&mut self, sink: usize, lane: i16, settled_to: i64, revision: i32, worker: u64) -> Result<bool, TestCaseError> {
        let of = &mut self.sinks[sink];
        let owned = &mut of.lanes[lane as usize];
        if (owned.revision, owned.worker) != (revision, worker) {
            return Ok(false);
        }
        owned.settled_to = owned.settled_to.max(settled_to);
        let of = &self.sinks[sink];
        for (seq, event) in self.log.range(..=settled_to).filter(|(_, event)| event.lane == lane) {
            prop_assert!(event.committed.is_some(), "{seq} is under way, and sink {sink} is settled to {settled_to}");
            let record = of.records.get(seq);
            let is_fresh = record.map_or(of.subscribes(*seq, event.kind), Record::is_unstarted);
            prop_assert!(!is_fresh, "{seq} is owed to sink {sink}, has no row, and is settled away by {settled_to}");
        }
        Ok(true)
    }

    /// As the finisher's statements do it.
    fn write(&mut self, write: &Write) {
        let of = &mut self.sinks[write.sink];
        let seq = write.place.seq;
        match write.what {
            What::Nothing => {}
            What::Finish => {
                let record = of.records.entry(seq);
                let done = Record { generation: write.generation, attempts: write.attempts + 1, done: true, ..Record::default() };
                match record {
                    std::collections::btree_map::Entry::Vacant(vacant) if write.is_fresh => drop(vacant.insert(done)),
                    std::collections::btree_map::Entry::Occupied(mut there)
                        if !there.get().done && there.get().generation == write.generation =>
                    {
                        there.insert(done);
                    }
                    _ => {}
                }
            }
            What::Postpone(due) => {
                if of.lanes[write.place.lane as usize].worker != write.worker {
                    return;
                }
                let attempts = write.attempts + i32::from(due.is_some());
                let there = of.records.get(&seq);
                let is_free = if write.is_fresh {
                    there.is_none_or(Record::is_unstarted)
                } else {
                    there.is_some_and(|it| !it.done && (it.generation, it.attempts) == (write.generation, write.attempts_before))
                };
                if is_free {
                    let key = write.place.key.filter(|_| write.generation == 0);
                    of.records.insert(seq, Record { key, due, attempts, generation: write.generation, done: false });
                }
            }
        }
    }

    /// Writes a suspect's try down before it begins.
    fn charge(&mut self, sink: usize, row: &Row<Item>, now: DateTime<Utc>) -> bool {
        let records = &mut self.sinks[sink].records;
        let there = records.get(&row.seq);
        if row.origin == Origin::Fresh && !row.item.has_row {
            let is_free = there.is_none_or(Record::is_unstarted);
            if is_free {
                records.insert(row.seq, Record { key: row.key, due: Some(now), attempts: 0, generation: 0, done: false });
            }
            return is_free;
        }
        let ours = records.get_mut(&row.seq).filter(|it| !it.done && (it.generation, it.attempts) == (row.generation, row.attempts));
        ours.map(|record| record.due = record.due.or(Some(now))).is_some()
    }
}

/// What a try needs.
#[derive(Debug, Clone, Copy, Default)]
struct Item {
    has_row: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Finish,
    /// Parked, without a time.
    Postpone(Option<DateTime<Utc>>),
    Nothing,
}

/// What is on its way to being recorded.
#[derive(Debug)]
struct Write {
    sink: usize,
    place: Place,
    worker: u64,
    generation: i32,
    attempts: i32,
    attempts_before: i32,
    is_fresh: bool,
    head: bool,
    what: What,
}

struct Group {
    sinks: Vec<usize>,
    after: i64,
    until: i64,
    lanes: u64,
    room: i64,
}

struct Range {
    after: i64,
    until: i64,
    limit: i64,
    lanes: u64,
}

struct Plan {
    began: DateTime<Utc>,
    log: Vec<LogPlan>,
    due: Vec<Vec<Wanted>>,
    pages: Vec<Vec<(i16, i64)>>,
    sweeps: Vec<Vec<(i16, u64, i64)>>,
    spans: Vec<Span>,
    groups: Vec<Group>,
    ranges: Vec<Range>,
}

/// An event that a read has found.
#[derive(Debug)]
struct FoundEvent {
    reader: usize,
    seq: i64,
    event: Event,
    recorded: [bool; SINKS],
    unstarted: [bool; SINKS],
}

/// A waiting row that a read has found.
#[derive(Debug)]
struct FoundWaiting {
    by_page: bool,
    is_head: bool,
    row: Row<Item>,
}

/// A read under way: its statements run one after another.
struct Read {
    plan: Plan,
    stage: usize,
    events: Vec<FoundEvent>,
    first: HashMap<(usize, i64), i64>,
    waiting: Vec<Vec<FoundWaiting>>,
    swept: Vec<Vec<(i16, i64, i64, bool)>>,
}

struct Model {
    db: Database,
    queues: Vec<Queue<Item>>,
    tail: Tail,
    /// The last read of the tail stopped at its limit.
    more: bool,
    /// An operator's change of deliveries was heard of; and one was made.
    changed: bool,
    to_hear: bool,
    now_ms: i64,
    started: Instant,
    read: Option<Read>,
    in_flight: Vec<(usize, Taken<Item>)>,
    writes: Vec<Write>,
    /// Committed, and not yet settled.
    committed: Vec<Write>,
    /// The lease.
    worker: u64,
    /// What went through: under which lease, and in which generation.
    through: HashMap<(usize, i64), (u64, i32)>,
    /// What became owed by rules that were not heard of at once: others may have been tried before.
    excused: HashSet<(usize, i64)>,
}

#[derive(Debug, Clone)]
enum Step {
    /// So many events of a key; 0 is no key.
    Arrive(i64, &'static str, usize),
    /// Some are numbered now, and committed later, or not at all.
    Number(i64, usize),
    EndTransaction(usize, bool),
    /// Numbers that nobody uses.
    Waste(i64),
    BeginRead {
        poll: bool,
        sweep: bool,
    },
    /// So many statements of it.
    Read(usize),
    FailRead,
    /// Begins as many tries as there are slots.
    Try(usize),
    Succeed(usize),
    /// It is to be tried again after so many milliseconds.
    Fail(usize, i64),
    /// Its sink rests.
    PutBack(usize),
    /// Commits so many of the writes. With `locked`, the first of them has to wait.
    Commit(usize, bool),
    Settle,
    /// Lanes that have come this much further are settled.
    SettleLanes(i64),
    Tick(i64),
    /// The lease is lost: what was under way is abandoned. The next one begins from what the database has.
    Lose(bool),
    /// Hands lanes over.
    Release(usize),
    /// Takes back those that were handed over.
    TakeBack,
    /// An operator ends a delivery, or asks for it again.
    SetByHand {
        sink: usize,
        n: usize,
        is_reset: bool,
    },
    Hear,
    /// A sink is owed other events from now on.
    Subscribe(usize, bool),
    /// A renewal sees it.
    Renew,
}

impl Model {
    fn new(old: i64, ordered: [bool; SINKS]) -> Self {
        let mut model = Self {
            db: Database::new(old),
            queues: (0..SINKS).map(|sink| Queue::new(ordered[sink], CONCURRENCY, ROWS_MAX[sink])).collect(),
            tail: Tail::default(),
            more: false,
            changed: false,
            to_hear: false,
            now_ms: 0,
            started: clock::instant(),
            read: None,
            in_flight: Vec::new(),
            writes: Vec::new(),
            committed: Vec::new(),
            worker: 1,
            through: HashMap::new(),
            excused: HashSet::new(),
        };
        model.own_all(false);
        model
    }

    fn own_all(&mut self, orphaned: bool) {
        for sink in 0..SINKS {
            self.subscribe(sink);
            (0..LANES).for_each(|lane| self.own(sink, lane, orphaned));
        }
    }

    fn own(&mut self, sink: usize, lane: i16, orphaned: bool) {
        let owned = &mut self.db.sinks[sink].lanes[lane as usize];
        owned.worker = self.worker;
        self.queues[sink].own(lane, orphaned, owned.settled_to, owned.revision);
    }

    /// The queue learns what its sink is owed.
    fn subscribe(&mut self, sink: usize) {
        let (db, queue) = (&self.db, &mut self.queues[sink]);
        let new = db.owed(sink).filter(|(seq, event)| !queue.subscribes(*seq, Some(event.kind))).map(|(seq, _)| (sink, seq));
        self.excused.extend(new);
        queue.subscribe(db.sinks[sink].subscriptions.clone());
    }

    fn reload(&mut self, sink: usize) {
        self.subscribe(sink);
        for (lane, owned) in self.db.sinks[sink].lanes.iter().enumerate().filter(|(_, owned)| owned.worker == self.worker) {
            self.queues[sink].restart(lane as i16, owned.settled_to, owned.revision);
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Arrive(key, kind, count) => {
                self.db.number(key, kind, count);
                self.db.end_transaction(self.db.open.len() - 1, true);
            }
            Step::Number(key, count) => self.db.number(key, "a", count),
            Step::EndTransaction(n, commits) => self.db.end_transaction(n, commits),
            Step::Waste(count) => self.db.issued += count,
            Step::BeginRead { poll, sweep } => self.begin_read(poll, sweep),
            Step::Read(count) => (0..count).for_each(|_| self.read_on()),
            Step::FailRead => {
                if let Some(Read { plan, .. }) = self.read.take() {
                    for (sink, queue) in self.queues.iter_mut().enumerate() {
                        queue.fail_read(&plan.due[sink], &plan.pages[sink]);
                    }
                }
            }
            Step::Try(sink) => self.begin_tries(sink)?,
            Step::Succeed(n) => self.succeed(n),
            Step::Fail(n, after_ms) => self.fail(n, after_ms),
            Step::PutBack(n) => self.put_back(n),
            Step::Commit(count, locked) => self.commit(count, locked),
            Step::Settle => self.settle(),
            Step::SettleLanes(by) => self.settle_lanes(by)?,
            Step::Tick(ms) => self.now_ms += ms,
            Step::Lose(orphaned) => {
                self.in_flight.clear();
                self.worker += 1;
                self.queues.iter_mut().for_each(Queue::disown_all);
                self.own_all(orphaned);
            }
            Step::Release(sink) => self.queues[sink].begin_release(1),
            Step::TakeBack => {
                for sink in 0..SINKS {
                    for (lane, settled_to, revision) in self.queues[sink].quiet() {
                        self.db.settle(sink, lane, settled_to, revision, self.worker)?;
                        self.subscribe(sink);
                        self.own(sink, lane, false);
                    }
                }
            }
            Step::SetByHand { sink, n, is_reset } => {
                let owed: Vec<i64> = self.db.owed(sink).map(|(seq, _)| seq).collect();
                if !owed.is_empty() {
                    self.db.set_by_hand(sink, owed[n % owed.len()], is_reset, at(self.now_ms));
                    self.to_hear = true;
                }
            }
            Step::Hear => self.changed |= std::mem::take(&mut self.to_hear),
            Step::Subscribe(sink, all) => self.db.subscribe(sink, (!all).then(|| vec!["a".to_owned()])),
            Step::Renew => {
                for sink in 0..SINKS {
                    if self.queues[sink].revision().is_some_and(|revision| revision != self.db.sinks[sink].revision) {
                        self.reload(sink);
                    }
                }
            }
        }
        Ok(())
    }

    fn begin_read(&mut self, poll: bool, sweep: bool) {
        if self.read.is_some() {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        if changed {
            self.queues.iter_mut().for_each(Queue::refresh);
        }
        let mut is_stale = poll || self.more;
        let now = self.started + Duration::from_millis(self.now_ms as u64);
        if poll && self.tail.asks(now) {
            let writers = self.db.open.iter().map(ToString::to_string).collect();
            self.tail.answer(Issued { last: self.db.issued, writers, asker: Asker::default() }, now);
            is_stale = self.more || self.tail.is_stale();
        }
        if sweep {
            self.queues.iter_mut().for_each(Queue::sweep_all);
        }
        let plan = self.plan(is_stale, changed || poll);
        let swept = (0..SINKS).map(|_| Vec::new()).collect();
        let waiting = (0..SINKS).map(|_| Vec::new()).collect();
        self.read = Some(Read { plan, stage: 0, events: Vec::new(), first: HashMap::new(), waiting, swept });
    }

    fn plan(&mut self, is_stale: bool, due_everywhere: bool) -> Plan {
        if !self.queues.iter().any(Queue::has_seen_tail) {
            self.tail.restart();
        }
        let began = at(self.now_ms);
        let mut plan =
            Plan { began, log: vec![], due: vec![], pages: vec![], sweeps: vec![], spans: vec![], groups: vec![], ranges: vec![] };
        for queue in &mut self.queues {
            queue.begin_read();
            plan.log.push(queue.plan_log(self.tail.head(), self.tail.complete_to()));
            plan.due.push(queue.plan_due(began, due_everywhere));
            plan.pages.push(queue.plan_pages());
            plan.sweeps.push(queue.plan_sweeps());
        }
        let near: Vec<&LogPlan> = plan.log.iter().filter(|of| !of.near.is_empty()).collect();
        let from = near.iter().filter_map(|of| of.near.from).min();
        if !near.is_empty() && (is_stale || from.is_some()) {
            plan.spans = self.tail.spans(from);
            let lanes = near.iter().fold(0, |mask, of| mask | of.near.mask);
            let limit = near.iter().map(|of| of.room).min().unwrap_or(0).max(1);
            plan.ranges.extend(plan.spans.iter().map(|span| Range { after: span.after, until: span.until, limit, lanes }));
        }
        plan.groups = groups(&plan.log, self.tail.floor());
        let range = |group: &Group| Range { after: group.after, until: group.until, limit: group.room, lanes: group.lanes };
        plan.ranges.extend(plan.groups.iter().map(range));
        plan
    }

    /// The next statement of the read under way; after the last, the queues learn what it found.
    fn read_on(&mut self) {
        let Some(mut read) = self.read.take() else { return };
        read.stage += 1;
        match read.stage {
            1 => self.read_log(&mut read),
            2 => self.read_keys(&mut read),
            3 => self.read_waiting(&mut read),
            4 => self.read_sweeps(&mut read),
            _ => return self.distribute(read),
        }
        self.read = Some(read);
    }

    fn read_log(&self, read: &mut Read) {
        let types = self.queues.iter().map(Queue::types).collect::<Option<Vec<_>>>().map(|types| types.concat());
        let is_wanted = |event: &Event| types.as_ref().is_none_or(|types| types.iter().any(|of| of == event.kind));
        for (reader, range) in read.plan.ranges.iter().enumerate() {
            let seen = self.db.log.iter().filter(|(seq, event)| {
                range.after < **seq
                    && **seq <= range.until
                    && event.committed.is_some()
                    && (range.lanes >> event.lane) & 1 == 1
                    && is_wanted(event)
            });
            for (&seq, event) in seen.take(range.limit as usize) {
                let record = |sink: usize| self.db.sinks[sink].records.get(&seq);
                let unstarted = std::array::from_fn(|sink| record(sink).is_some_and(Record::is_unstarted));
                let recorded = std::array::from_fn(|sink| record(sink).is_some_and(|record| !record.is_unstarted()));
                read.events.push(FoundEvent { reader, seq, event: event.clone(), recorded, unstarted });
            }
        }
    }

    fn read_keys(&self, read: &mut Read) {
        for (sink, queue) in self.queues.iter().enumerate().filter(|(_, queue)| queue.may_ask()) {
            for found in &read.events {
                let Some(key) = found.event.key else { continue };
                if self.is_new_to(read, sink, found) && queue.must_ask(found.event.lane, key) && self.is_owed(sink, found) {
                    let first = self.db.sinks[sink].pending().find(|(_, record)| record.key == Some(key));
                    read.first.extend(first.map(|(seq, _)| ((sink, key), seq)));
                }
            }
        }
    }

    fn is_new_to(&self, read: &Read, sink: usize, found: &FoundEvent) -> bool {
        let first_group = read.plan.spans.len();
        let is_new = found.reader >= first_group || self.tail.is_new(found.seq);
        let group = read.plan.groups.iter().position(|group| group.sinks.contains(&sink));
        let readers: Option<&Readers> = if found.reader < first_group {
            Some(&read.plan.log[sink].near)
        } else {
            (group == Some(found.reader - first_group)).then_some(&read.plan.log[sink].far)
        };
        readers.is_some_and(|readers| readers.wants(found.event.lane, found.seq, is_new))
    }

    fn is_owed(&self, sink: usize, found: &FoundEvent) -> bool {
        !found.recorded[sink] && (self.queues[sink].subscribes(found.seq, Some(found.event.kind)) || found.unstarted[sink])
    }

    fn read_waiting(&self, read: &mut Read) {
        let now = at(self.now_ms);
        for (sink, of) in self.db.sinks.iter().enumerate() {
            let lane_of = |seq: i64| self.db.log[&seq].lane;
            let to_row = |seq, record: &Record, origin| Row {
                epoch: 0,
                seq,
                lane: lane_of(seq),
                key: record.key,
                generation: record.generation,
                attempts: record.attempts,
                origin,
                mark: 0,
                due_at: record.due,
                item: Item { has_row: true },
            };
            let is_head = |seq, key: Option<i64>| {
                key.is_none() || of.pending().find(|(_, record)| record.key == key).is_none_or(|(first, _)| first == seq)
            };
            for wanted in &read.plan.due[sink] {
                for (origin, range) in [(Origin::Waiting, wanted.waiting), (Origin::Replay, wanted.replay)] {
                    let Some((after, limit)) = range else { continue };
                    let mut due: Vec<(DuePosition, &Record)> = of
                        .pending()
                        .filter(|(seq, record)| lane_of(*seq) == wanted.lane && (record.generation > 0) == (origin == Origin::Replay))
                        .filter_map(|(seq, record)| Some((DuePosition { due: record.due?, seq }, record)))
                        .filter(|(position, _)| *position > after && position.due <= now)
                        .collect();
                    due.sort_by_key(|(position, _)| *position);
                    read.waiting[sink].extend(due.iter().take(limit as usize).map(|(DuePosition { seq, .. }, record)| FoundWaiting {
                        by_page: false,
                        is_head: is_head(*seq, record.key),
                        row: to_row(*seq, record, origin),
                    }));
                }
            }
            for &(lane, key) in &read.plan.pages[sink] {
                let page = of.pending().filter(|(seq, record)| record.key == Some(key) && lane_of(*seq) == lane).take(KEY_ROWS_MAX);
                read.waiting[sink].extend(page.map(|(seq, record)| FoundWaiting {
                    by_page: true,
                    is_head: true,
                    row: to_row(seq, record, Origin::Waiting),
                }));
            }
        }
    }

    fn read_sweeps(&self, read: &mut Read) {
        for (sink, of) in self.db.sinks.iter().enumerate() {
            for &(lane, _, after) in &read.plan.sweeps[sink] {
                let mut rows: Vec<(i16, i64, i64, bool)> = of
                    .pending()
                    .filter(|(seq, _)| self.db.log[seq].lane == lane)
                    .filter_map(|(seq, record)| Some((lane, record.key.filter(|key| *key > after)?, seq, record.due.is_none())))
                    .collect();
                rows.sort_unstable();
                read.swept[sink].extend(rows.into_iter().take(SWEEP_ROWS as usize));
            }
        }
    }

    /// As the fetcher does it.
    fn distribute(&mut self, mut read: Read) {
        let mut found: Vec<Vec<i64>> = vec![Vec::new(); read.plan.ranges.len()];
        read.events.iter().for_each(|event| found[event.reader].push(event.seq));
        let wanted: Vec<Vec<bool>> =
            (0..SINKS).map(|sink| read.events.iter().map(|found| self.is_new_to(&read, sink, found)).collect()).collect();
        let is_full = |range: &Range, found: &[i64]| found.len() as i64 >= range.limit;
        let spans = read.plan.spans.len();
        let mut near_to = None;
        if spans > 0 {
            let learned: Vec<(Span, Vec<i64>, bool)> =
                (0..spans).map(|i| (read.plan.spans[i], found[i].clone(), is_full(&read.plan.ranges[i], &found[i]))).collect();
            self.more = learned.iter().any(|(.., full)| *full);
            let looked_to = self.tail.learn(&learned);
            near_to = (looked_to < self.tail.head()).then(|| looked_to.min(self.tail.floor()));
        }
        for (sink, wanted) in wanted.iter().enumerate() {
            let mut parked = Vec::new();
            let group = read.plan.groups.iter().position(|group| group.sinks.contains(&sink));
            for (i, event) in read.events.iter().enumerate() {
                if !wanted[i] || !self.is_owed(sink, event) {
                    continue;
                }
                let first = event.event.key.and_then(|key| read.first.get(&(sink, key)).copied());
                let row = fresh_row(event);
                if let Offer::Park(row) = self.queues[sink].offer_fresh(row, first) {
                    parked.push(row);
                }
            }
            let queue = &mut self.queues[sink];
            if spans > 0 {
                queue.learn_log(&read.plan.log[sink].near, near_to);
            }
            if let Some(group) = group {
                let (i, until) = (spans + group, read.plan.groups[group].until);
                let to = if is_full(&read.plan.ranges[i], &found[i]) { found[i].last().copied().unwrap_or(until) } else { until };
                queue.learn_log(&read.plan.log[sink].far, Some(to));
            }
            offer_waiting(queue, &read.plan, sink, std::mem::take(&mut read.waiting[sink]), &mut parked);
            for planned in &read.plan.sweeps[sink] {
                let of_lane = read.swept[sink].iter().filter(|(lane, ..)| *lane == planned.0);
                queue.learn_sweep(*planned, &of_lane.map(|&(_, key, seq, is_parked)| (key, seq, is_parked)).collect::<Vec<_>>());
            }
            for row in parked {
                self.park(sink, &row);
            }
        }
    }

    fn send(&mut self, sink: usize, row: &Row<Item>, head: bool, what: What) {
        let attempts_before = row.attempts;
        let is_fresh = row.origin == Origin::Fresh && !row.item.has_row;
        let (place, worker, generation, attempts) = (row.place(), self.worker, row.generation, row.attempts);
        self.writes.push(Write { sink, place, worker, generation, attempts, attempts_before, is_fresh, head, what });
    }

    fn park(&mut self, sink: usize, row: &Row<Item>) {
        self.send(sink, row, false, What::Postpone(None));
    }

    fn begin_tries(&mut self, sink: usize) -> Result<(), TestCaseError> {
        while self.in_flight.iter().filter(|(of, _)| *of == sink).count() < CONCURRENCY {
            let Some(mut taken) = self.queues[sink].take() else { break };
            self.check_order(sink, &taken.row)?;
            if taken.suspect {
                if self.db.charge(sink, &taken.row, at(self.now_ms)) {
                    taken.row.item.has_row = true;
                } else {
                    self.queues[sink].tried(taken.row.place(), true);
                    self.send(sink, &taken.row, true, What::Nothing);
                    continue;
                }
            }
            self.in_flight.push((sink, taken));
        }
        Ok(())
    }

    fn check_order(&self, sink: usize, row: &Row<Item>) -> Result<(), TestCaseError> {
        let again =
            self.through.get(&(sink, row.seq)).filter(|(worker, generation)| *worker == self.worker && *generation == row.generation);
        prop_assert!(again.is_none(), "{} is tried by sink {sink} again: {row:?}", row.seq);
        let beside = self.in_flight.iter().find(|(of, other)| *of == sink && other.row.seq == row.seq);
        prop_assert!(beside.is_none(), "{} is tried by sink {sink} twice at once", row.seq);
        let (Some(_), Some(committed)) = (row.key, self.db.committed(row.seq)) else { return Ok(()) };
        let beside = self.in_flight.iter().find(|(of, other)| *of == sink && other.row.key == row.key);
        prop_assert!(beside.is_none(), "{} is tried by sink {sink} beside {beside:?}", row.seq);
        let before = self.db.log.range(..row.seq).find(|(seq, event)| {
            let record = self.db.sinks[sink].records.get(seq);
            let is_owed = self.queues[sink].subscribes(**seq, Some(event.kind)) || record.is_some();
            let is_over = self.through.contains_key(&(sink, **seq)) || record.is_some_and(|record| record.done || record.generation > 0);
            event.key == row.key
                && event.committed.is_some_and(|earlier| earlier <= committed)
                && is_owed
                && !is_over
                && !self.excused.contains(&(sink, **seq))
        });
        prop_assert!(before.is_none(), "{} is tried by sink {sink} before {before:?}: {row:?}", row.seq);
        Ok(())
    }

    fn end_try(&mut self, n: usize) -> Option<(usize, Taken<Item>)> {
        if self.in_flight.is_empty() {
            return None;
        }
        let (sink, taken) = self.in_flight.swap_remove(n % self.in_flight.len());
        self.queues[sink].tried(taken.row.place(), taken.suspect);
        Some((sink, taken))
    }

    fn succeed(&mut self, n: usize) {
        let Some((sink, taken)) = self.end_try(n) else { return };
        self.through.insert((sink, taken.row.seq), (self.worker, taken.row.generation));
        self.send(sink, &taken.row, true, What::Finish);
    }

    fn fail(&mut self, n: usize, after_ms: i64) {
        let Some((sink, taken)) = self.end_try(n) else { return };
        let later = self.queues[sink].block(taken.row.place());
        self.send(sink, &taken.row, true, What::Postpone(Some(at(self.now_ms + after_ms))));
        later.iter().for_each(|row| self.park(sink, row));
    }

    fn put_back(&mut self, n: usize) {
        let Some((sink, taken)) = self.end_try(n) else { return };
        self.queues[sink].put_back(taken.row);
    }

    fn commit(&mut self, count: usize, locked: bool) {
        if !self.committed.is_empty() {
            return;
        }
        let first = usize::from(locked).min(self.writes.len());
        self.committed = self.writes.drain(first..(first + count.min(self.writes.len())).min(self.writes.len())).collect();
        self.committed.sort_by_key(|write| write.place.seq);
        for write in &self.committed {
            self.db.write(write);
        }
    }

    fn settle(&mut self) {
        for write in std::mem::take(&mut self.committed) {
            let settled = match write.what {
                What::Finish => Settled::Done,
                What::Postpone(due) => due.map_or(Settled::Parked, Settled::Waits),
                What::Nothing => Settled::Unknown,
            };
            self.queues[write.sink].settle(write.place, settled);
            if write.head && !matches!(settled, Settled::Waits(_)) {
                self.queues[write.sink].advance(write.place);
            }
        }
    }

    fn settle_lanes(&mut self, by: i64) -> Result<(), TestCaseError> {
        for sink in 0..SINKS {
            let mut left = false;
            for (lane, settled_to, revision) in self.queues[sink].settlements(by) {
                if self.db.settle(sink, lane, settled_to, revision, self.worker)? {
                    self.queues[sink].note_settled(lane, settled_to);
                } else {
                    left = true;
                }
            }
            if left {
                self.reload(sink);
            }
        }
        Ok(())
    }

    /// What is left of a sink: owed without being over, or held on to.
    fn left(&self, sink: usize) -> Vec<i64> {
        let of = &self.db.sinks[sink];
        self.db.owed(sink).filter(|(seq, _)| !of.records.get(seq).is_some_and(|record| record.done)).map(|(seq, _)| seq).collect()
    }

    fn is_over(&self) -> bool {
        let is_idle = |queue: &Queue<Item>| queue.held == [0; 3] && queue.is_quiet();
        (0..SINKS).all(|sink| self.left(sink).is_empty()) && self.queues.iter().all(is_idle)
    }

    /// Reads, and lets every try go well.
    fn go_well(&mut self) -> Result<(), TestCaseError> {
        self.now_ms += 25;
        for step in [Step::TakeBack, Step::BeginRead { poll: true, sweep: false }, Step::Read(5)] {
            self.step(&step)?;
        }
        (0..SINKS).try_for_each(|sink| self.begin_tries(sink))?;
        while !self.in_flight.is_empty() {
            self.succeed(0);
        }
        for step in [Step::Settle, Step::Commit(usize::MAX, false), Step::Settle, Step::SettleLanes(1)] {
            self.step(&step)?;
        }
        Ok(())
    }

    /// Lets everything go well until nothing is owed, and checks that nothing is held on to.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        self.step(&Step::Read(5))?;
        while !self.db.open.is_empty() {
            self.db.end_transaction(0, true);
        }
        for step in [Step::Hear, Step::Renew] {
            self.step(&step)?;
        }
        for _ in 0..200 + 2 * self.db.log.len() {
            if self.is_over() {
                break;
            }
            self.go_well()?;
        }
        let left: Vec<_> = (0..SINKS)
            .map(|sink| self.left(sink).into_iter().map(|seq| (seq, self.db.sinks[sink].records.get(&seq))).take(5).collect::<Vec<_>>())
            .collect();
        let held: Vec<_> = self.queues.iter().map(|queue| (queue.held, queue.is_quiet())).collect();
        prop_assert!(self.is_over(), "left: {left:?}; held: {held:?}");
        for _ in 0..5 {
            self.go_well()?;
        }
        let settled: Vec<i64> = self.db.sinks.iter().flat_map(|sink| sink.lanes.iter().map(|lane| lane.settled_to)).collect();
        prop_assert_eq!(&settled, &vec![self.db.issued; settled.len()], "settled to the end of the log");
        prop_assert!(self.queues.iter().all(|queue| queue.keys.is_empty()), "keys are held on to: {:?}", self.queues[0].keys);
        Ok(())
    }
}

fn fresh_row(found: &FoundEvent) -> Row<Item> {
    let &FoundEvent { seq, event: Event { lane, key, .. }, .. } = found;
    Row { epoch: 0, seq, lane, key, generation: 0, attempts: 0, origin: Origin::Fresh, due_at: None, mark: 0, item: Item::default() }
}

/// As the fetcher does it.
fn groups(plans: &[LogPlan], floor: i64) -> Vec<Group> {
    let mut far: Vec<(i64, usize)> = plans.iter().enumerate().filter_map(|(sink, plan)| Some((plan.far.from?, sink))).collect();
    far.sort_unstable();
    let mut groups: Vec<Group> = Vec::new();
    for (from, sink) in far.into_iter().filter(|(from, _)| *from < floor) {
        let (lanes, room) = (plans[sink].far.mask, plans[sink].room.max(1));
        match groups.last_mut().filter(|group| from <= group.after + TOGETHER_WITHIN) {
            Some(group) => {
                group.sinks.push(sink);
                group.lanes |= lanes;
                group.room = group.room.min(room);
            }
            None => groups.push(Group { sinks: vec![sink], after: from, until: floor.min(from + RANGE_MAX), lanes, room }),
        }
    }
    groups
}

/// As the fetcher does it.
fn offer_waiting(queue: &mut Queue<Item>, plan: &Plan, sink: usize, mut rows: Vec<FoundWaiting>, parked: &mut Vec<Row<Item>>) {
    rows.sort_by_key(|found| (found.by_page, found.row.due_at.filter(|_| !found.by_page), found.row.seq));
    let mut found = [Found::default(); LANES as usize];
    let current: Vec<i16> = plan.due[sink].iter().filter(|wanted| queue.is_current(wanted)).map(|wanted| wanted.lane).collect();
    let mut pages: BTreeMap<i64, Vec<Row<Item>>> = plan.pages[sink].iter().map(|(_, key)| (*key, Vec::new())).collect();
    for FoundWaiting { by_page, is_head, row } in rows {
        if by_page {
            pages.get_mut(&row.key.unwrap()).unwrap().push(row);
        } else if current.contains(&row.lane) {
            found[row.lane as usize].add(row.origin, row.due_at, row.seq);
            if let Offer::Park(row) = queue.offer_waiting(row, is_head) {
                parked.push(row);
            }
        }
    }
    for (key, page) in pages {
        let full = page.len() >= KEY_ROWS_MAX;
        queue.offer_page(key, page, full, plan.began);
    }
    for wanted in &plan.due[sink] {
        queue.learn_due(wanted, &found[wanted.lane as usize]);
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = || prop_oneof![3 => Just("a"), 1 => Just("b")];
    let step = prop_oneof![
        4 => (0..5i64, kind(), 1..4usize).prop_map(|(key, kind, count)| Step::Arrive(key, kind, count)),
        1 => (1..3i64, kind(), 60..140usize).prop_map(|(key, kind, count)| Step::Arrive(key, kind, count)),
        2 => (0..4i64, 1..3usize).prop_map(|(key, count)| Step::Number(key, count)),
        2 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(n, commits)| Step::EndTransaction(n, commits)),
        1 => prop_oneof![1..10i64, 1_000..120_000i64].prop_map(Step::Waste),
        8 => (any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(poll, sweep)| Step::BeginRead { poll, sweep }),
        14 => prop_oneof![2 => Just(5usize), 3 => 1..4usize].prop_map(Step::Read),
        1 => Just(Step::FailRead),
        8 => (0..SINKS).prop_map(Step::Try),
        8 => any::<usize>().prop_map(Step::Succeed),
        4 => (any::<usize>(), 0..400i64).prop_map(|(n, after)| Step::Fail(n, after)),
        1 => any::<usize>().prop_map(Step::PutBack),
        7 => (prop_oneof![1..4usize, Just(1000)], prop::bool::weighted(0.1)).prop_map(|(count, locked)| Step::Commit(count, locked)),
        7 => Just(Step::Settle),
        2 => (1..50i64).prop_map(Step::SettleLanes),
        5 => (0..500i64).prop_map(Step::Tick),
        1 => any::<bool>().prop_map(Step::Lose),
        1 => (0..SINKS).prop_map(Step::Release),
        2 => Just(Step::TakeBack),
        1 => (0..SINKS, any::<usize>(), any::<bool>()).prop_map(|(sink, n, is_reset)| Step::SetByHand { sink, n, is_reset }),
        2 => Just(Step::Hear),
        1 => (0..SINKS, any::<bool>()).prop_map(|(sink, all)| Step::Subscribe(sink, all)),
        1 => Just(Step::Renew),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order_of_steps_keys_keep_theirs_and_in_the_end_none_is_left(steps in steps(), old in 0..4i64, second_ordered in any::<bool>()) {
        let mut model = Model::new(old, [true, second_ordered]);
        for step in &steps {
            model.step(step)?;
        }
        model.drain()?;
    }
}
