//! The states of a delivery, against the real database: whatever a worker that has read a row, another that is late, and an
//! operator do, in whatever order, each row is as docs/STATES.md says. `PROPTEST_CASES` makes it longer.

#[path = "support/private.rs"]
mod private;
#[path = "support/server.rs"]
mod server;

use proptest::prelude::*;
use sluice::clock;
use sluice::store::migrate;
use sluice::store::outcomes::{self, Finished, Postponed, Target};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row as _};
use std::sync::Arc;

const ROWS: usize = 3;
const SINK: &str = "lms";
/// The lease that owns the lane, and one that did once.
const OWNER: i64 = 7;
const LATE: i64 = 6;
const STATUSES: [&str; 4] = ["pending", "delivered", "dead", "skipped"];
/// `sluice.key_hash` of the order key of them all.
const KEY: i64 = 42;

/// What can happen to one of the rows.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A worker reads it, and goes by that from now on.
    Read(usize),
    Finish(usize, &'static str),
    Postpone(usize, i64),
    /// An earlier event of its key waits.
    Park(usize, i64),
    /// It is written down before a try that it has begun.
    Charge(usize, i64),
    Uncharge(usize),
    /// By hand.
    Set(usize, &'static str),
    Replay(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let row = 0..ROWS;
    let status = prop::sample::select(&STATUSES[..]);
    let worker = prop::sample::select(&[OWNER, OWNER, LATE][..]);
    prop_oneof![
        4 => row.clone().prop_map(Step::Read),
        2 => (row.clone(), prop::sample::select(&STATUSES[1..])).prop_map(|(row, status)| Step::Finish(row, status)),
        3 => (row.clone(), worker.clone()).prop_map(|(row, worker)| Step::Postpone(row, worker)),
        2 => (row.clone(), worker.clone()).prop_map(|(row, worker)| Step::Park(row, worker)),
        1 => (row.clone(), worker).prop_map(|(row, worker)| Step::Charge(row, worker)),
        1 => row.clone().prop_map(Step::Uncharge),
        2 => (row, status.clone()).prop_map(|(row, status)| Step::Set(row, status)),
        1 => status.prop_map(Step::Replay),
    ]
}

/// What its last error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    /// That a try has begun whose end nobody has seen.
    Begun,
    Failed,
}

/// What a row ought to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    status: &'static str,
    attempts: i32,
    generation: i32,
    /// It has a time.
    waits: bool,
    /// It waits in the order of its key.
    is_keyed: bool,
    error: Says,
}

impl Row {
    /// Nothing is on record of it: it has no row, or one as 0.1.0 wrote it, which counts as none.
    fn is_fresh(&self) -> bool {
        self.status == "pending" && self.generation == 0 && self.attempts == 0 && !self.waits && !self.is_keyed
    }
}

/// What a worker has read of it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    generation: i32,
    attempts: i32,
    is_fresh: bool,
}

impl Seen {
    fn of(row: &Row) -> Self {
        Self { generation: row.generation, attempts: row.attempts, is_fresh: row.is_fresh() }
    }
}

#[derive(Debug)]
struct Model {
    rows: [Row; ROWS],
    seen: [Option<Seen>; ROWS],
}

impl Model {
    fn new() -> Self {
        let fresh = Row { status: "pending", attempts: 0, generation: 0, waits: false, is_keyed: false, error: Says::Nothing };
        Self { rows: [fresh; ROWS], seen: [None; ROWS] }
    }

    fn reset(row: &mut Row) {
        *row = Row { status: "pending", attempts: 0, generation: row.generation + 1, waits: true, is_keyed: false, error: Says::Nothing };
    }

    fn apply(&mut self, step: Step) {
        let is_as_read = |row: &Row, seen: &Seen| row.status == "pending" && row.generation == seen.generation;
        // A failure: nothing was recorded since it was read.
        let is_untouched =
            move |row: &Row, seen: &Seen| is_as_read(row, seen) && row.attempts == seen.attempts && (row.is_fresh() || !seen.is_fresh);
        match step {
            Step::Read(n) => self.seen[n] = Some(Seen::of(&self.rows[n])),
            Step::Finish(n, status) => {
                let (row, Some(seen)) = (&mut self.rows[n], self.seen[n]) else { return };
                if is_as_read(row, &seen) {
                    let error = if status == "delivered" { Says::Nothing } else { Says::Failed };
                    *row = Row { status, attempts: seen.attempts + 1, waits: false, is_keyed: false, error, ..*row };
                }
            }
            Step::Postpone(n, worker) => {
                let (row, Some(seen)) = (&mut self.rows[n], self.seen[n]) else { return };
                if is_untouched(row, &seen) && worker == OWNER {
                    let is_keyed = row.generation == 0;
                    *row = Row { attempts: seen.attempts + 1, waits: true, is_keyed, error: Says::Failed, ..*row };
                }
            }
            Step::Park(n, worker) => {
                let (row, Some(seen)) = (&mut self.rows[n], self.seen[n]) else { return };
                if seen.generation == 0 && is_untouched(row, &seen) && worker == OWNER {
                    (row.waits, row.is_keyed) = (false, true);
                }
            }
            Step::Charge(n, worker) => {
                let (row, Some(seen)) = (&mut self.rows[n], &mut self.seen[n]) else { return };
                if is_untouched(row, seen) && worker == OWNER {
                    // One that is fresh gets its row by that. It costs no attempt.
                    let is_keyed = row.is_keyed || seen.is_fresh;
                    *row = Row { waits: true, is_keyed, error: Says::Begun, ..*row };
                    seen.is_fresh = false;
                }
            }
            Step::Uncharge(n) => {
                let (row, Some(seen)) = (&mut self.rows[n], self.seen[n]) else { return };
                if is_as_read(row, &seen) && row.attempts == seen.attempts && row.error == Says::Begun {
                    row.error = Says::Nothing;
                }
            }
            Step::Set(n, "pending") => Self::reset(&mut self.rows[n]),
            Step::Set(n, status) => self.rows[n] = Row { status, waits: false, is_keyed: false, ..self.rows[n] },
            Step::Replay(status) => self.rows.iter_mut().filter(|row| row.status == status).for_each(Self::reset),
        }
    }
}

/// Positions begin with 1.
fn seq(n: usize) -> i64 {
    n as i64 + 1
}

/// The database: a worker's connection, and an operator's.
struct Database {
    worker: PgConnection,
    operator: PgConnection,
    seen: [Option<Seen>; ROWS],
}

impl Database {
    async fn new(url: &str) -> Self {
        let mut worker = PgConnection::connect(url).await.unwrap();
        worker.execute("set sluice.worker = 'on'").await.unwrap();
        let mut operator = PgConnection::connect(url).await.unwrap();
        operator.execute("insert into sluice.sinks (name, kind, owed_earlier) values ('lms', 'null', true)").await.unwrap();
        operator.execute("update sluice.lanes set worker = 7 where sink = 'lms' and lane = 0").await.unwrap();
        Self { worker, operator, seen: [None; ROWS] }
    }

    /// Fresh deliveries, some of them with a row as 0.1.0 wrote it. Nothing of earlier cases is left, so that none is found twice.
    async fn begin(&mut self, has_row: [bool; ROWS]) {
        self.seen = [None; ROWS];
        for table in ["log", "delivery_state", "attempts"] {
            self.operator.execute(AssertSqlSafe(format!("delete from sluice.{table}"))).await.unwrap();
        }
        for (n, has_row) in has_row.into_iter().enumerate() {
            let event = "insert into sluice.log (seq, lane, source, event_id, order_key) values ($1, 0, 's', 'e-' || $1, 'acme/u')";
            sqlx::query(event).bind(seq(n)).execute(&mut self.operator).await.unwrap();
            if has_row {
                let delivery = "insert into sluice.delivery_state (event_seq, sink, lane) values ($1, 'lms', 0)";
                sqlx::query(delivery).bind(seq(n)).execute(&mut self.operator).await.unwrap();
            }
        }
    }

    /// As anybody sees it, once, with its key.
    async fn row(&mut self, n: usize) -> Row {
        let sql = "select d.status, d.attempts, d.generation, d.due_at is not null, s.key is not null, d.last_error
                     from sluice.deliveries d left join sluice.delivery_state s on s.event_seq = d.event_seq and s.sink = d.sink
                    where d.event_seq = $1";
        let rows = sqlx::query(sql).bind(seq(n)).fetch_all(&mut self.operator).await.unwrap();
        let [row] = &rows[..] else { panic!("{} rows of one delivery", rows.len()) };
        let status: String = row.get(0);
        let status = STATUSES.into_iter().find(|known| *known == status).unwrap();
        let error = match row.get::<Option<&str>, _>(5) {
            None => Says::Nothing,
            Some(error) if outcomes::MARKS.contains(&error) => Says::Begun,
            Some(_) => Says::Failed,
        };
        Row { status, attempts: row.get(1), generation: row.get(2), waits: row.get(3), is_keyed: row.get(4), error }
    }

    fn target(n: usize, seen: Seen) -> Target {
        let Seen { generation, attempts, is_fresh } = seen;
        Target { event_seq: seq(n), sink: Arc::from(SINK), generation, attempts, lane: 0, is_fresh }
    }

    async fn apply(&mut self, step: Step) {
        let error = Some("no".to_owned());
        match step {
            Step::Read(n) => {
                let row = self.row(n).await;
                self.seen[n] = Some(Seen::of(&row));
            }
            Step::Finish(n, status) => {
                let Some(seen) = self.seen[n] else { return };
                let last_error = error.filter(|_| status != "delivered");
                let row = Finished { target: Self::target(n, seen), status, attempts: seen.attempts + 1, last_status: None, last_error };
                outcomes::finish(&mut self.worker, &[&row]).await.unwrap();
            }
            Step::Postpone(n, worker) => {
                let Some(seen) = self.seen[n] else { return };
                let (target, attempts, due_at) = (Self::target(n, seen), seen.attempts + 1, Some(clock::now()));
                let row = Postponed { target, worker, attempts, due_at, key: Some(KEY), last_status: None, last_error: error };
                outcomes::postpone(&mut self.worker, &[&row]).await.unwrap();
            }
            Step::Park(n, worker) => {
                // Never a replay: it is outside the order of its key.
                let Some(seen) = self.seen[n].filter(|seen| seen.generation == 0) else { return };
                let (target, attempts) = (Self::target(n, seen), seen.attempts);
                let row = Postponed { target, worker, attempts, due_at: None, key: Some(KEY), last_status: None, last_error: None };
                outcomes::postpone(&mut self.worker, &[&row]).await.unwrap();
            }
            Step::Charge(n, worker) => {
                let Some(seen) = self.seen[n] else { return };
                if outcomes::charge(&mut self.worker, &Self::target(n, seen), Some(KEY), worker, 0).await.unwrap() {
                    self.seen[n] = Some(Seen { is_fresh: false, ..seen });
                }
            }
            Step::Uncharge(n) => {
                let Some(seen) = self.seen[n] else { return };
                outcomes::uncharge(&mut self.worker, &Self::target(n, seen)).await.unwrap();
            }
            Step::Set(n, status) => {
                let sql = "update sluice.deliveries set status = $2 where event_seq = $1";
                sqlx::query(sql).bind(seq(n)).bind(status).execute(&mut self.operator).await.unwrap();
            }
            Step::Replay(status) => {
                sqlx::query("select sluice.replay(sink => 'lms', status => $1)").bind(status).execute(&mut self.operator).await.unwrap();
            }
        }
    }
}

#[test]
fn whatever_workers_and_operators_do_each_delivery_is_as_the_states_say() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut database, _server) = runtime.block_on(async {
        let server = server::shared().await;
        let url = server.database("states").await;
        migrate::up(&url).await.unwrap();
        (Database::new(&url).await, server)
    });
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let database = std::cell::RefCell::new(&mut database);
    let ran = runner.run(&(prop::array::uniform(any::<bool>()), prop::collection::vec(step(), 1..40)), |(has_row, steps)| {
        let mut database = database.borrow_mut();
        let mut model = Model::new();
        runtime.block_on(database.begin(has_row));
        for (i, step) in steps.iter().enumerate() {
            let generations = model.rows.map(|row| row.generation);
            model.apply(*step);
            runtime.block_on(database.apply(*step));
            for (n, generation) in generations.into_iter().enumerate() {
                let row = runtime.block_on(database.row(n));
                prop_assert_eq!(row, model.rows[n], "row {} after step {}: {:?}", n, i, step);
                prop_assert!(row.generation >= generation);
            }
        }
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}
