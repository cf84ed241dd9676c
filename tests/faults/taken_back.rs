//! Positions of the log that were given out, and seen to be, come back: after a crash the sequence may not know of them any more.

use crate::checker::Checker;
use crate::client::Event;
use crate::private;
use crate::provider::Acknowledged;
use crate::sink::Sink;
use crate::system::{System, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::dev::PrivatePostgres;
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// Whether a connection of the worker's has asked how far positions were given out.
const ASKS: &str = "select count(*) from pg_stat_activity where application_name = 'sluice worker' and query like '%virtualtransaction%'";

/// So many positions are given out to one who does not commit, and a worker sees that; then Postgres dies.
const DRAWN: u64 = 100;

/// What became of whoever drew them, when Postgres dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drawer {
    IsOpen,
    HasRolledBack,
}

/// Events are stored after a crash that has taken positions back: so many of them before the worker looks again.
async fn are_delivered_after_a_crash(name: &str, drawer: Drawer, unseen: u64) {
    let dir = private::folder();
    let postgres = PrivatePostgres::start(dir.path(), private::options()).await.expect("a private Postgres starts");
    let system = System::on(postgres.url()).await;
    system.migrate().await;
    // What nobody commits is on disk as late as can be.
    system.execute("alter system set wal_writer_delay = '10s'").await;
    // Up again sooner than a lease ends, which would have all read anew.
    system.execute("alter system set recovery_init_sync_method = syncfs").await;
    system.execute("select pg_reload_conf()").await;
    let sink = Sink::answering(200).await;
    let worker = system.working(&system.config(&format!("[worker]\npoll = \"100ms\"\n{}", sink.config("lms", "")))).await;
    let ingest = system.ingest().await;
    let mut acknowledged = Acknowledged::new();
    let mut numbers = 0..;
    let mut store = async |client: &mut crate::client::Client| {
        let event = Event::of(name, numbers.next().expect("it has no end"));
        eventually("it stores", async || client.post(&event).await.status() == 200).await;
        acknowledged.insert(event.id, event.body);
    };
    let mut taken_back = false;
    // A commit of anybody's, such as a lease's renewal, keeps the positions: then again.
    for _ in 0..20 {
        let mut open = system.db.begin().await.unwrap();
        let draw = format!("select max(nextval('sluice.event_seq')) from generate_series(1, {DRAWN})");
        let drawn: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(draw)).fetch_one(&mut *open).await.unwrap();
        if drawer == Drawer::HasRolledBack {
            sqlx::query("rollback").execute(&mut *open).await.unwrap();
        }
        // Polls pass, which see that they were given out.
        tokio::time::sleep(Duration::from_millis(300)).await;
        // All of the server begins anew: it can trust nothing of its memory after that.
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *open).await.unwrap();
        worker.signal(Signal::SIGSTOP);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        drop(open);
        // Not before it has gone down. By connections of its own: a pool waits ever longer.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let last = async || {
            let mut conn = PgConnection::connect(&system.url).await.ok()?;
            sqlx::query_scalar::<_, i64>("select last_value from sluice.event_seq").fetch_one(&mut conn).await.ok()
        };
        eventually("it answers", async || last().await.is_some()).await;
        taken_back = last().await.unwrap() < drawn;
        let mut client = ingest.client();
        for _ in 0..unseen {
            store(&mut client).await;
        }
        worker.signal(Signal::SIGCONT);
        let asks = async || sqlx::query_scalar::<_, i64>(ASKS).fetch_one(&system.db).await.is_ok_and(|asks| asks > 0);
        eventually("the worker asks again", asks).await;
        // And once more, by when nobody can commit at what it has seen before.
        tokio::time::sleep(Duration::from_millis(500)).await;
        store(&mut client).await;
        if taken_back {
            break;
        }
    }
    assert!(taken_back, "no crash has taken anything back");
    system.drained(acknowledged.len() as i64).await;
    let checker = Checker { system: &system, acknowledged: &acknowledged, sinks: vec![("lms", &sink)], again_max: 20, attempts_max: 2 };
    let findings = checker.check().await;
    assert!(findings.broken.is_empty(), "{:?}", findings.broken);
    sink.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_at_positions_that_a_crash_has_taken_back_are_delivered() {
    are_delivered_after_a_crash("taken-back", Drawer::IsOpen, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_are_they_where_a_worker_sees_the_log_only_when_it_is_longer_again() {
    are_delivered_after_a_crash("longer-again", Drawer::IsOpen, DRAWN + 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_are_they_where_it_knew_that_nothing_could_come_there_any_more() {
    are_delivered_after_a_crash("given-up", Drawer::HasRolledBack, DRAWN + 50).await;
}
