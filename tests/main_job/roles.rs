//! Each role can do its work, and nothing else.

use crate::client::Event;
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

async fn connect(system: &System, role: &str) -> PgConnection {
    PgConnection::connect(&system.url_of(role)).await.unwrap()
}

/// The SQLSTATE with which the server refuses a statement; `None`: it does not. Changes nothing.
async fn refusal(conn: &mut PgConnection, sql: &str) -> Option<String> {
    let mut tx = conn.begin().await.unwrap();
    let result = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await;
    tx.rollback().await.unwrap();
    result.err().map(|error| error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned())
}

#[tokio::test]
async fn both_processes_work_and_an_operator_replays_under_roles_of_their_own() {
    let system = System::new("roles_work").await;
    system.use_roles().await;
    // The first try is refused for good, the second fails, the third goes through.
    let sink = Sink::start(|a_try| Reply::Status([404, 500, 200][a_try.of_event.min(3) - 1])).await;
    let config = system.config(&sink.config("crm", r#"retry = { initial = "10ms", cap = "10ms" }"#));
    let ingest = system.ingest().await;
    // Stored before the first sink: the worker routes it.
    ingest.client().store(&Event::of("u-1", 0)).await;
    let mut first = system.working(&config).await;
    for answer in [r#"{"received":true}"#, r#"{"duplicate":true}"#] {
        assert_eq!(ingest.client().post(&Event::of("u-2", 0)).await.text(), answer);
    }
    eventually("both are refused", async || system.count("dead").await == 2).await;

    let mut operator = connect(&system, "sluice_operator").await;
    let replayed: i64 = sqlx::query_scalar("select sluice.replay(sink => 'crm')").fetch_one(&mut operator).await.unwrap();
    assert_eq!(replayed, 2);
    system.drained(2).await;
    sqlx::query("update sluice.outbox set status = 'pending' where event_id = 'u-1:0'").execute(&mut operator).await.unwrap();
    system.drained(2).await;
    // A lease of a killed worker is reaped under the same role.
    first.kill().await;
    let _second = system.working(&config).await;
    for paused in [true, false] {
        sqlx::query("update sluice.sinks set paused = $1 where name = 'crm'").bind(paused).execute(&mut operator).await.unwrap();
    }
    sqlx::query("update sluice.deliveries set status = 'skipped'").execute(&mut operator).await.unwrap();

    let mut reader = connect(&system, "sluice_reader").await;
    let audit: Vec<(String, String, Option<String>, i64)> =
        sqlx::query_as("select who, what, detail, rows from sluice.audit order by id").fetch_all(&mut reader).await.unwrap();
    let operator = |what: &str, detail: &str, rows| ("sluice_operator".to_owned(), what.to_owned(), Some(detail.to_owned()), rows);
    assert_eq!(
        audit,
        [
            operator("status set", "pending", 2),
            operator("status set", "pending", 1),
            operator("sink paused", "crm", 1),
            operator("sink resumed", "crm", 1),
            operator("status set", "skipped", 2),
        ],
        "and nothing of what the workers wrote"
    );
}

#[tokio::test]
async fn an_operator_releases_and_routes_without_a_right_to_events_or_deliveries() {
    let system = System::new("roles_release").await;
    system.use_roles().await;
    let ingest = system.ingest_with("").await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    system.execute("update sluice.log set quarantine = 'for the test'").await;
    system.execute("update sluice.event_ids set quarantined_seq = seq").await;
    system.execute("insert into sluice.sinks (name, kind) values ('crm', 'null')").await;
    let mut operator = connect(&system, "sluice_operator").await;
    sqlx::query("update sluice.outbox set status = 'pending'").execute(&mut operator).await.unwrap();
    assert_eq!(system.status("u-1:0").await, "pending");
    let audit = "select string_agg(who || ' ' || what, ', ' order by id) from sluice.audit";
    assert_eq!(system.value::<String>(audit).await, "sluice_operator event released");
}

#[tokio::test]
async fn each_role_is_refused_what_is_not_its_work() {
    let system = System::new("roles_refused").await;
    system.use_roles().await;
    let own = [
        ("sluice_ingest", "select seq, event_id from sluice.event_ids"),
        ("sluice_worker", "select * from sluice.fresh, sluice.deliveries"),
        ("sluice_worker", "select payload from sluice.payloads"),
        ("sluice_worker", "insert into sluice.applied (sink, object, event_seq) values ('idp', 'user acme/u-1', 1)"),
        ("sluice_operator", "select * from sluice.outbox"),
        ("sluice_reader", "select * from sluice.applied"),
        ("sluice_reader", "select * from sluice.refusals, sluice.watchdog"),
        ("sluice_ingest", "insert into sluice.refusals (source, minute, unsigned) values ('s', now(), 1)"),
        ("sluice_worker", "update sluice.watchdog set claimed_at = now()"),
        ("sluice_operator", "select * from sluice.timeline('evt_1')"),
        ("sluice_reader", "select * from sluice.outbox, sluice.deliveries, sluice.attempts, sluice.audit, sluice.repeats"),
        ("sluice_reader", "select * from sluice.backlog, sluice.dead_letters, sluice.sink_health, sluice.timeline('evt_1')"),
    ];
    let denied = [
        ("sluice_ingest", "select payload from sluice.payloads"),
        ("sluice_ingest", "select * from sluice.bodies"),
        ("sluice_ingest", "select status from sluice.deliveries"),
        ("sluice_ingest", "select breaker_reason from sluice.sinks"),
        ("sluice_ingest", "update sluice.deliveries set status = 'pending'"),
        ("sluice_ingest", "update sluice.log set quarantine = null"),
        ("sluice_ingest", "delete from sluice.log"),
        ("sluice_ingest", "select * from sluice.log"),
        ("sluice_ingest", "select * from sluice.sinks"),
        ("sluice_ingest", "select settled_to from sluice.lanes"),
        ("sluice_worker", "insert into sluice.log (seq, lane, source, event_id) values (1, 0, 's', 'e')"),
        ("sluice_worker", "update sluice.log set quarantine = null"),
        ("sluice_worker", "update sluice.event_ids set seq = 0"),
        ("sluice_worker", "update sluice.subscriptions set until_seq = 0"),
        ("sluice_worker", "update sluice.lanes set revision = 0"),
        ("sluice_worker", "update sluice.payloads set payload = ''"),
        ("sluice_worker", "delete from sluice.delivery_state"),
        ("sluice_worker", "delete from sluice.applied"),
        ("sluice_operator", "update sluice.applied set event_seq = 0"),
        ("sluice_worker", "update sluice.delivery_state set generation = 0"),
        ("sluice_worker", "update sluice.deliveries set status = 'pending'"),
        ("sluice_worker", "update sluice.sinks set paused = true"),
        ("sluice_worker", "update sluice.outbox set status = 'pending'"),
        ("sluice_worker", "select sluice.replay()"),
        ("sluice_worker", "select * from sluice.audit"),
        ("sluice_worker", "select * from sluice.refusals"),
        ("sluice_worker", "delete from sluice.watchdog"),
        ("sluice_operator", "update sluice.watchdog set claimed_at = null"),
        ("sluice_ingest", "select * from sluice.watchdog"),
        ("sluice_reader", "delete from sluice.refusals"),
        ("sluice_operator", "select payload from sluice.payloads"),
        ("sluice_operator", "select * from sluice.bodies"),
        ("sluice_operator", "update sluice.deliveries set attempts = 0"),
        ("sluice_operator", "update sluice.log set quarantine = null"),
        ("sluice_operator", "update sluice.delivery_state set status = 'pending'"),
        ("sluice_operator", "update sluice.lanes set settled_to = 0"),
        ("sluice_operator", "select sluice.set_status(1, 'crm', 'dead', 'pending')"),
        ("sluice_operator", "update sluice.sinks set events = null"),
        ("sluice_operator", "delete from sluice.audit"),
        ("sluice_operator", "insert into sluice.audit (what, rows) values ('x', 1)"),
        ("sluice_operator", "delete from sluice.workers"),
        ("sluice_reader", "select payload from sluice.payloads"),
        ("sluice_reader", "select * from sluice.bodies"),
        ("sluice_reader", "update sluice.deliveries set status = 'pending'"),
        ("sluice_reader", "update sluice.outbox set status = 'pending'"),
        ("sluice_reader", "update sluice.sinks set paused = true"),
        ("sluice_reader", "select sluice.replay(dry_run => true)"),
        ("sluice_reader", "select sluice.route(1)"),
        ("sluice_reader", "select nextval('sluice.event_seq')"),
    ];
    for (role, sql) in own {
        assert_eq!(refusal(&mut connect(&system, role).await, sql).await, None, "{role}: {sql}");
    }
    for (role, sql) in denied {
        assert_eq!(refusal(&mut connect(&system, role).await, sql).await.as_deref(), Some("42501"), "{role}: {sql}");
    }
    for role in sluice::store::roles::ROLES {
        for sql in ["create table sluice.x ()", "drop table sluice.log", "truncate sluice.audit", "delete from sluice.migrations"] {
            assert_eq!(refusal(&mut connect(&system, role).await, sql).await.as_deref(), Some("42501"), "{role}: {sql}");
        }
    }
}
