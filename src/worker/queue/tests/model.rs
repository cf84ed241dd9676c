//! The queue against a model of the database: whatever the order of reads, tries, records, failures and takeovers, each
//! key's rows are tried in order, and in the end none is left.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A delivery, as the database has it.
#[derive(Debug, Clone)]
struct Stored {
    lane: i16,
    key: Option<u64>,
    due: Option<DateTime<Utc>>,
    done: bool,
    /// Numbered, but not committed yet: nobody sees it.
    under_way: bool,
}

/// What is on its way to being recorded.
#[derive(Debug)]
struct Write {
    place: Place,
    settled: Settled,
    head: bool,
}

/// A read under way.
struct Read {
    plan: Vec<Wanted>,
    /// What the database showed when it began.
    rows: Vec<Row<()>>,
    began: DateTime<Utc>,
    /// It goes back to the floor, and nobody was writing when it began: the floor rises to here when it ends.
    floor: Option<i64>,
}

struct Model {
    queue: Queue<()>,
    stored: BTreeMap<i64, Stored>,
    now_ms: i64,
    read: Option<Read>,
    /// The fetcher's horizon: how far nothing can appear any more.
    floor: i64,
    in_flight: Vec<Taken<()>>,
    writes: Vec<Write>,
    /// Committed, and not yet settled.
    committed: Vec<Write>,
    through: HashSet<i64>,
}

#[derive(Debug, Clone)]
enum Step {
    /// So many events of a key; 0 is no key.
    Arrive(u64, usize),
    /// One without a key that is numbered now and committed later.
    Number,
    CommitNumbered,
    BeginRead {
        poll: bool,
    },
    EndRead,
    FailRead,
    /// Begins as many tries as there are slots.
    Try,
    Succeed(usize),
    /// It is to be tried again after so many milliseconds.
    Fail(usize, i64),
    /// Its sink rests.
    PutBack(usize),
    /// It is not as it was read. Only for one without a key: another's change of it is nothing that order is promised for.
    Forget(usize),
    /// Commits so many of the writes.
    Commit(usize),
    Settle,
    Tick(i64),
    /// The lease is lost: what was under way is abandoned. The next owner is the same queue.
    Lose,
    /// Hands a lane over.
    Release,
    /// Takes back the lanes that were handed over.
    TakeBack,
}

const CONCURRENCY: usize = 4;
const LANES: i16 = 2;

impl Model {
    fn new() -> Self {
        let mut model = Self {
            queue: Queue::new(true, CONCURRENCY, 300),
            stored: BTreeMap::new(),
            now_ms: 0,
            read: None,
            floor: 0,
            in_flight: Vec::new(),
            writes: Vec::new(),
            committed: Vec::new(),
            through: HashSet::new(),
        };
        (0..LANES).for_each(|lane| model.own(lane));
        model
    }

    /// With the waiting heads, as the database tells them.
    fn own(&mut self, lane: i16) {
        let mut heads: BTreeMap<u64, (i64, DateTime<Utc>)> = BTreeMap::new();
        for (seq, row) in self.stored.iter().filter(|(_, row)| row.lane == lane && !row.done && !row.under_way) {
            if let (Some(key), Some(due)) = (row.key, row.due) {
                heads.entry(key).or_insert((*seq, due));
            }
        }
        self.queue.own(lane, false, heads.into_iter().map(|(key, (seq, due))| (key, seq, due)));
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Arrive(key, count) => (0..count).for_each(|_| self.arrive(key, false)),
            Step::Number => self.arrive(0, true),
            Step::CommitNumbered => self.stored.values_mut().for_each(|row| row.under_way = false),
            Step::BeginRead { poll } => self.begin_read(poll),
            Step::EndRead => self.end_read(),
            Step::FailRead => {
                if let Some(read) = self.read.take() {
                    self.queue.fail_read(&read.plan);
                }
            }
            Step::Try => self.begin_tries()?,
            Step::Succeed(n) => self.succeed(n),
            Step::Fail(n, after_ms) => self.fail(n, after_ms),
            Step::PutBack(n) => {
                if let Some(taken) = self.end_try(n) {
                    self.queue.put_back(taken.row);
                }
            }
            Step::Forget(n) => {
                if let Some(taken) = self.end_try(n) {
                    match taken.row.key {
                        None => self.writes.push(Write { place: taken.row.place(), settled: Settled::Unknown, head: true }),
                        Some(_) => self.queue.put_back(taken.row),
                    }
                }
            }
            Step::Commit(count) => self.commit(count),
            Step::Settle => self.settle(),
            Step::Tick(ms) => self.now_ms += ms,
            Step::Lose => {
                self.in_flight.clear();
                self.writes.clear();
                self.queue.disown_all();
                (0..LANES).for_each(|lane| self.own(lane));
            }
            Step::Release => self.queue.begin_release(1),
            Step::TakeBack => {
                for lane in self.queue.quiet() {
                    self.own(lane);
                }
            }
        }
        Ok(())
    }

    fn arrive(&mut self, name: u64, under_way: bool) {
        let key = (name != 0).then_some(name);
        let seq = self.stored.len() as i64 + 1;
        self.stored.insert(seq, Stored { lane: (name % LANES as u64) as i16, key, due: None, done: false, under_way });
    }

    fn begin_read(&mut self, poll: bool) {
        if self.read.is_some() {
            return;
        }
        let now = at(self.now_ms);
        // Only a sweep looks back here, so that no luck hides a row left behind.
        let issued = self.stored.len() as i64;
        let back_to = if poll { self.floor } else { issued };
        let plan = self.queue.plan(now, Look { back_to, fresh: true, due: poll, sweep: poll });
        if plan.is_empty() {
            return;
        }
        let mut rows = Vec::new();
        for wanted in &plan {
            let pending = || self.stored.iter().filter(|(_, row)| row.lane == wanted.lane && !row.done && !row.under_way);
            let to_row = |seq: i64, row: &Stored, origin| Row { lane: row.lane, ..self::row(seq, row.key, origin, row.due) };
            if let Some((after, limit)) = wanted.fresh {
                let fresh = pending().filter(|(seq, row)| row.due.is_none() && **seq > after).take(limit as usize);
                rows.extend(fresh.map(|(seq, row)| to_row(*seq, row, Origin::Fresh)));
            }
            if let Some((after, limit)) = wanted.waiting {
                let mut due: Vec<_> = pending().filter_map(|(seq, row)| Some((DuePosition { due: row.due?, seq: *seq }, row))).collect();
                due.retain(|(position, _)| *position > after && position.due <= now);
                due.sort_by_key(|(position, _)| *position);
                rows.extend(due.iter().take(limit as usize).map(|(position, row)| to_row(position.seq, row, Origin::Waiting)));
            }
        }
        let written = self.stored.values().all(|row| !row.under_way);
        self.read = Some(Read { plan, rows, began: now, floor: (poll && written).then_some(issued) });
    }

    /// As the fetcher does it.
    fn end_read(&mut self) {
        let Some(Read { plan, mut rows, began, floor }) = self.read.take() else { return };
        self.floor = floor.unwrap_or(self.floor);
        rows.sort_by_key(|row| (row.due_at, row.seq));
        let mut found = [Found::default(); LANES as usize];
        for row in rows {
            if !plan.iter().any(|wanted| wanted.lane == row.lane && self.queue.is_current(wanted)) {
                continue;
            }
            found[row.lane as usize].add(row.origin, row.due_at, row.seq);
            if let Offer::Park(row, due) = self.queue.offer(row, began) {
                self.writes.push(Write { place: row.place(), settled: Settled::Waits(due), head: false });
            }
        }
        for wanted in &plan {
            self.queue.learn(wanted, &found[wanted.lane as usize], began);
        }
    }

    fn begin_tries(&mut self) -> Result<(), TestCaseError> {
        while self.in_flight.len() < CONCURRENCY {
            let Some(taken) = self.queue.take() else { break };
            let (seq, key) = (taken.row.seq, taken.row.key);
            if key.is_some() {
                let earlier = self.stored.range(..seq).find(|(seq, row)| row.key == key && !self.through.contains(seq));
                prop_assert!(earlier.is_none(), "{seq} is tried before {earlier:?}");
            }
            self.in_flight.push(taken);
        }
        Ok(())
    }

    fn end_try(&mut self, n: usize) -> Option<Taken<()>> {
        if self.in_flight.is_empty() {
            return None;
        }
        let taken = self.in_flight.swap_remove(n % self.in_flight.len());
        self.queue.tried(taken.row.place(), taken.suspect);
        Some(taken)
    }

    fn succeed(&mut self, n: usize) {
        let Some(taken) = self.end_try(n) else { return };
        self.through.insert(taken.row.seq);
        self.writes.push(Write { place: taken.row.place(), settled: Settled::Done, head: true });
    }

    fn fail(&mut self, n: usize, after_ms: i64) {
        let Some(taken) = self.end_try(n) else { return };
        let (place, due) = (taken.row.place(), at(self.now_ms + after_ms));
        // The head first: whatever cuts the writes short, its successors never wait for longer than it does.
        self.writes.push(Write { place, settled: Settled::Waits(due), head: true });
        for row in self.queue.block(place, due) {
            self.writes.push(Write { place: row.place(), settled: Settled::Waits(due), head: false });
        }
    }

    fn commit(&mut self, count: usize) {
        if !self.committed.is_empty() {
            return;
        }
        self.committed = self.writes.drain(..count.min(self.writes.len())).collect();
        self.committed.sort_by_key(|write| write.place.seq);
        for write in &self.committed {
            let row = self.stored.get_mut(&write.place.seq).unwrap();
            match write.settled {
                Settled::Done => (row.done, row.due) = (true, None),
                Settled::Waits(due) => row.due = Some(due),
                Settled::Unknown => {}
            }
        }
    }

    fn settle(&mut self) {
        for write in std::mem::take(&mut self.committed) {
            self.queue.settle(write.place, write.settled);
            if write.head {
                self.queue.advance(write.place);
            }
        }
    }

    /// Lets everything go well until nothing is owed, and checks that nothing is held on to.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        self.end_read();
        self.step(&Step::CommitNumbered)?;
        for _ in 0..1_000 + 2 * self.stored.len() {
            if self.stored.values().all(|row| row.done) && self.queue.held == [0; 3] && self.queue.is_quiet() {
                return Ok(());
            }
            self.now_ms += 20;
            for step in [Step::TakeBack, Step::BeginRead { poll: true }, Step::EndRead, Step::Try] {
                self.step(&step)?;
            }
            while !self.in_flight.is_empty() {
                self.succeed(0);
            }
            for step in [Step::Settle, Step::Commit(usize::MAX), Step::Settle] {
                self.step(&step)?;
            }
        }
        let left: Vec<_> = self.stored.iter().filter(|(_, row)| !row.done).take(5).collect();
        prop_assert!(false, "left: {left:?}; held {:?}, quiet {}", self.queue.held, self.queue.is_quiet());
        Ok(())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..5u64, 1..4usize).prop_map(|(key, count)| Step::Arrive(key, count)),
        1 => (1..3u64, 60..140usize).prop_map(|(key, count)| Step::Arrive(key, count)),
        1 => Just(Step::Number),
        1 => Just(Step::CommitNumbered),
        5 => any::<bool>().prop_map(|poll| Step::BeginRead { poll }),
        5 => Just(Step::EndRead),
        1 => Just(Step::FailRead),
        8 => Just(Step::Try),
        8 => any::<usize>().prop_map(Step::Succeed),
        3 => (any::<usize>(), 0..400i64).prop_map(|(n, after)| Step::Fail(n, after)),
        1 => any::<usize>().prop_map(Step::PutBack),
        1 => any::<usize>().prop_map(Step::Forget),
        6 => prop_oneof![1..4usize, Just(1000)].prop_map(Step::Commit),
        6 => Just(Step::Settle),
        4 => (0..500i64).prop_map(Step::Tick),
        1 => Just(Step::Lose),
        1 => Just(Step::Release),
        2 => Just(Step::TakeBack),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order_of_steps_each_keys_rows_are_tried_in_order_and_in_the_end_none_is_left(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step)?;
        }
        model.drain()?;
    }
}
