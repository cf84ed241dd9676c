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

/// What can happen to one of the rows.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A worker reads it, and goes by that from now on.
    Read(usize),
    Finish(usize, &'static str),
    Postpone(usize, i64),
    Charge(usize),
    Uncharge(usize),
    /// By hand.
    Set(usize, &'static str),
    Replay(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let row = 0..ROWS;
    let status = prop::sample::select(&STATUSES[..]);
    prop_oneof![
        4 => row.clone().prop_map(Step::Read),
        2 => (row.clone(), prop::sample::select(&STATUSES[1..])).prop_map(|(row, status)| Step::Finish(row, status)),
        3 => (row.clone(), prop::sample::select(&[OWNER, OWNER, LATE][..])).prop_map(|(row, worker)| Step::Postpone(row, worker)),
        1 => row.clone().prop_map(Step::Charge),
        1 => row.clone().prop_map(Step::Uncharge),
        2 => (row, status.clone()).prop_map(|(row, status)| Step::Set(row, status)),
        1 => status.prop_map(Step::Replay),
    ]
}

/// What a row ought to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    status: &'static str,
    attempts: i32,
    generation: i32,
    waits: bool,
    has_error: bool,
}

/// What a worker has read of it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    generation: i32,
    attempts: i32,
}

#[derive(Debug)]
struct Model {
    rows: [Row; ROWS],
    seen: [Option<Seen>; ROWS],
}

impl Model {
    fn new() -> Self {
        let fresh = Row { status: "pending", attempts: 0, generation: 0, waits: false, has_error: false };
        Self { rows: [fresh; ROWS], seen: [None; ROWS] }
    }

    fn reset(row: &mut Row) {
        *row = Row { status: "pending", attempts: 0, generation: row.generation + 1, waits: true, has_error: false };
    }

    fn apply(&mut self, step: Step) {
        let is_as_read = |row: &Row, seen: &Seen| row.status == "pending" && row.generation == seen.generation;
        match step {
            Step::Read(n) => self.seen[n] = Some(Seen { generation: self.rows[n].generation, attempts: self.rows[n].attempts }),
            Step::Finish(n, status) => {
                let (row, Some(seen)) = (&mut self.rows[n], self.seen[n]) else { return };
                if is_as_read(row, &seen) {
                    *row = Row { status, attempts: seen.attempts + 1, waits: false, has_error: status != "delivered", ..*row };
                }
            }
            Step::Postpone(n, worker) => {
                let (row, Some(seen)) = (&mut self.rows[n], self.seen[n]) else { return };
                if is_as_read(row, &seen) && row.attempts == seen.attempts && worker == OWNER {
                    *row = Row { attempts: seen.attempts + 1, waits: true, has_error: true, ..*row };
                }
            }
            Step::Charge(n) => {
                let (row, Some(seen)) = (&mut self.rows[n], &mut self.seen[n]) else { return };
                if is_as_read(row, seen) && row.attempts == seen.attempts {
                    (row.attempts, row.has_error) = (row.attempts + 1, true);
                    seen.attempts += 1;
                }
            }
            Step::Uncharge(n) => {
                let (row, Some(seen)) = (&mut self.rows[n], &mut self.seen[n]) else { return };
                if is_as_read(row, seen) && row.attempts == seen.attempts && seen.attempts > 0 {
                    (row.attempts, row.has_error) = (row.attempts - 1, false);
                    seen.attempts -= 1;
                }
            }
            Step::Set(n, "pending") => Self::reset(&mut self.rows[n]),
            Step::Set(n, status) => self.rows[n].status = status,
            Step::Replay(status) => self.rows.iter_mut().filter(|row| row.status == status).for_each(Self::reset),
        }
    }
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
        operator.execute("insert into sluice.sinks (name, kind) values ('lms', 'null')").await.unwrap();
        operator.execute("insert into sluice.lanes (sink, lane, worker) values ('lms', 0, 7)").await.unwrap();
        Self { worker, operator, seen: [None; ROWS] }
    }

    /// Fresh rows. Events stay, so that rows of earlier cases are gone and none is found twice.
    async fn begin(&mut self) {
        self.seen = [None; ROWS];
        for table in ["events", "deliveries"] {
            self.operator.execute(AssertSqlSafe(format!("delete from sluice.{table}"))).await.unwrap();
        }
        for n in 0..ROWS {
            let event = "insert into sluice.events (seq, lane, source, event_id, payload_hash) values ($1, 0, 's', 'e-' || $1, '')";
            sqlx::query(event).bind(n as i64).execute(&mut self.operator).await.unwrap();
            let delivery = "insert into sluice.deliveries (event_seq, sink, lane) values ($1, 'lms', 0)";
            sqlx::query(delivery).bind(n as i64).execute(&mut self.operator).await.unwrap();
        }
    }

    async fn row(&mut self, n: usize) -> Row {
        let sql =
            "select status, attempts, generation, due_at is not null, last_error is not null from sluice.deliveries where event_seq = $1";
        let row = sqlx::query(sql).bind(n as i64).fetch_one(&mut self.operator).await.unwrap();
        let status: String = row.get(0);
        let status = STATUSES.into_iter().find(|known| *known == status).unwrap();
        Row { status, attempts: row.get(1), generation: row.get(2), waits: row.get(3), has_error: row.get(4) }
    }

    fn target(n: usize, seen: Seen) -> Target {
        Target { event_seq: n as i64, sink: Arc::from(SINK), generation: seen.generation, attempts: seen.attempts }
    }

    async fn apply(&mut self, step: Step) {
        let error = Some("no".to_owned());
        match step {
            Step::Read(n) => {
                let row = self.row(n).await;
                self.seen[n] = Some(Seen { generation: row.generation, attempts: row.attempts });
            }
            Step::Finish(n, status) => {
                let Some(seen) = self.seen[n] else { return };
                let last_error = error.filter(|_| status != "delivered");
                let row = Finished { target: Self::target(n, seen), status, attempts: seen.attempts + 1, last_status: None, last_error };
                outcomes::finish(&mut self.worker, &[&row]).await.unwrap();
            }
            Step::Postpone(n, worker) => {
                let Some(seen) = self.seen[n] else { return };
                let (target, attempts, due_at) = (Self::target(n, seen), seen.attempts + 1, clock::now());
                let row = Postponed { target, worker, attempts, due_at, last_status: None, last_error: error };
                outcomes::postpone(&mut self.worker, &[&row]).await.unwrap();
            }
            Step::Charge(n) => {
                let Some(seen) = self.seen[n] else { return };
                if outcomes::charge(&mut self.worker, &Self::target(n, seen)).await.unwrap() {
                    self.seen[n] = Some(Seen { attempts: seen.attempts + 1, ..seen });
                }
            }
            Step::Uncharge(n) => {
                let Some(seen) = self.seen[n].filter(|seen| seen.attempts > 0) else { return };
                let before = self.row(n).await.attempts;
                outcomes::uncharge(&mut self.worker, &Self::target(n, seen)).await.unwrap();
                if self.row(n).await.attempts < before {
                    self.seen[n] = Some(Seen { attempts: seen.attempts - 1, ..seen });
                }
            }
            Step::Set(n, status) => {
                let sql = "update sluice.deliveries set status = $2 where event_seq = $1";
                sqlx::query(sql).bind(n as i64).bind(status).execute(&mut self.operator).await.unwrap();
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
    let ran = runner.run(&prop::collection::vec(step(), 1..40), |steps| {
        let mut database = database.borrow_mut();
        let mut model = Model::new();
        runtime.block_on(database.begin());
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
