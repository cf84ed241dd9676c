//! `sluice migrate` on a real server: at once, killed midway, on databases of other versions.

#[path = "support/private.rs"]
mod private;
#[path = "support/server.rs"]
mod server;
#[path = "faults/version_0_1.rs"]
mod version_0_1;

use sha2::{Digest, Sha256};
use sluice::clock;
use sluice::store::migrate::{self, Error, SchemaError, State};
use sqlx::{Connection, Executor, PgConnection};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Set for the child process that migrates and is killed.
const MIGRATE_URL: &str = "SLUICE_TEST_MIGRATE_URL";

/// A fresh database, a connection to it, and the server to hold on to.
async fn database(name: &str) -> (String, PgConnection, Arc<server::Server>) {
    let server = server::shared().await;
    let url = server.database(name).await;
    let conn = PgConnection::connect(&url).await.unwrap();
    (url, conn, server)
}

#[tokio::test]
async fn a_database_is_brought_up_once_and_then_left_alone() {
    let (url, mut conn, _server) = database("m_up").await;
    assert!(matches!(migrate::check(&mut conn).await, Err(SchemaError::Missing)));
    let planned = migrate::dry_run(&url).await.unwrap();
    assert!(planned[0].sql.contains("create table sluice.events"));
    assert!(matches!(migrate::check(&mut conn).await, Err(SchemaError::Missing)), "a dry run changes nothing");

    let applied = migrate::up(&url).await.unwrap();
    assert_eq!(applied.iter().map(|m| m.version).collect::<Vec<_>>(), planned.iter().map(|m| m.version).collect::<Vec<_>>());
    migrate::check(&mut conn).await.unwrap();
    assert!(migrate::up(&url).await.unwrap().is_empty());
    assert!(migrate::dry_run(&url).await.unwrap().is_empty());
    assert!(migrate::status(&url).await.unwrap().iter().all(|line| matches!(line.state, State::Applied(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_runs_at_once_one_applies_each_migration() {
    let (url, mut conn, _server) = database("m_race").await;
    let runs: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let url = url.clone();
                async move { migrate::up(&url).await.unwrap() }
            })
        })
        .collect();
    let mut versions = Vec::new();
    for run in runs {
        versions.extend(run.await.unwrap().iter().map(|m| m.version));
    }
    let known: Vec<i64> = migrate::status(&url).await.unwrap().iter().map(|line| line.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, known);
    migrate::check(&mut conn).await.unwrap();
}

/// Not a test of its own: what [`a_run_killed_midway_leaves_whole_migrations_only`] starts and kills.
#[tokio::test]
async fn child_that_migrates() {
    if let Ok(url) = std::env::var(MIGRATE_URL) {
        migrate::up(&url).await.unwrap();
    }
}

#[tokio::test]
async fn a_run_killed_midway_leaves_whole_migrations_only() {
    let (url, mut conn, _server) = database("m_killed").await;
    // The second migration makes tables, and then a trigger: this lock stops it between the two.
    let mut blocker = conn.begin().await.unwrap();
    blocker.execute("lock table pg_catalog.pg_trigger in share mode").await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_migrates"])
        .env(MIGRATE_URL, &url)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut watcher = PgConnection::connect(&url).await.unwrap();
    let waiting = "select count(*) from pg_locks where relation = 'pg_catalog.pg_trigger'::regclass and not granted";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watcher).await.unwrap() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the child ended before it was stopped");
        tokio::task::yield_now().await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    blocker.rollback().await.unwrap();

    // Another run waits until the server has noticed, and then finishes the work, with nothing to clean up first.
    let applied = migrate::up(&url).await.unwrap();
    assert_eq!(applied.first().map(|m| m.version), Some(2), "the first was committed, and the second rolled back");
    migrate::check(&mut conn).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_fails_keeps_those_before_it_and_can_be_run_again() {
    let (url, mut conn, _server) = database("m_fails").await;
    conn.execute("create schema sluice; create table sluice.counters (in_the_way int)").await.unwrap();
    match migrate::up(&url).await {
        Err(Error::Failed { version: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(migrate::check(&mut conn).await, Err(SchemaError::Older { found: 1, .. })));
    conn.execute("drop table sluice.counters").await.unwrap();
    migrate::up(&url).await.unwrap();
    migrate::check(&mut conn).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_is_older_newer_or_different_is_told_apart() {
    let (url, mut conn, _server) = database("m_versions").await;
    migrate::up(&url).await.unwrap();
    let newest = migrate::status(&url).await.unwrap().last().unwrap().version;

    conn.execute("insert into sluice.migrations select 9999, 'newer', now(), true, '\\x00', 0").await.unwrap();
    let newer = migrate::check(&mut conn).await.unwrap_err();
    assert!(newer.to_string().contains("this binary is older than the schema"), "{newer}");
    assert!(matches!(migrate::up(&url).await, Err(Error::Schema(SchemaError::Newer { found: 9999, .. }))));
    assert!(matches!(migrate::status(&url).await.unwrap().last().unwrap().state, State::Unknown(_)));

    conn.execute("delete from sluice.migrations where version = 9999").await.unwrap();
    sqlx::query("delete from sluice.migrations where version = $1").bind(newest).execute(&mut conn).await.unwrap();
    let older = migrate::check(&mut conn).await.unwrap_err();
    assert!(older.to_string().contains("run `sluice migrate`"), "{older}");

    conn.execute("update sluice.migrations set checksum = '\\x00' where version = 1").await.unwrap();
    assert!(matches!(migrate::check(&mut conn).await, Err(SchemaError::Differs { version: 1 })));
    assert!(matches!(migrate::up(&url).await, Err(Error::Schema(SchemaError::Differs { version: 1 }))));
    assert!(matches!(migrate::status(&url).await.unwrap()[0].state, State::Differs(_)));
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused_before_anything_is_made() {
    let (url, mut conn, _server) = database("m_encoding").await;
    let utf8: String = sqlx::query_scalar("select current_database()").fetch_one(&mut conn).await.unwrap();
    let create = format!("create database {utf8}_ascii encoding 'SQL_ASCII' template template0");
    conn.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    let ascii = url.replace(&utf8, &format!("{utf8}_ascii"));
    assert!(matches!(migrate::up(&ascii).await, Err(Error::Schema(SchemaError::NotUtf8 { .. }))));
    let mut conn = PgConnection::connect(&ascii).await.unwrap();
    assert!(matches!(migrate::check(&mut conn).await, Err(SchemaError::NotUtf8 { .. })));
}

#[tokio::test]
async fn a_role_that_may_not_create_schemas_migrates_one_that_was_made_for_it() {
    let (url, mut conn, _server) = database("m_role").await;
    conn.execute("create role limited login password 'limited'; create schema sluice authorization limited").await.unwrap();
    let mut limited = sqlx::postgres::PgConnectOptions::clone(&url.parse().unwrap());
    limited = limited.username("limited").password("limited");
    let limited = sqlx::ConnectOptions::to_url_lossy(&limited).to_string();
    migrate::up(&limited).await.unwrap();
    migrate::check(&mut conn).await.unwrap();
}

/// What anybody could ask of 0.1.0 and must be answered the same, line by line. An event that was deleted is none.
const AS_BEFORE: [&str; 8] = [
    "select event_seq, sink, status, attempts, generation, delivered_at, last_status, last_error from sluice.deliveries
      where event_seq in (select seq from sluice.events) order by event_seq, sink",
    "select * from sluice.outbox order by seq",
    "select seq, source, event_id, type, company_id, order_key, lane, received_at, derived_id, quarantine from sluice.events order by seq",
    "select event_seq, encode(payload, 'hex') as payload, headers from sluice.payloads order by event_seq",
    "select event_seq, sink, generation, number, started_at, duration, status, outcome, error, response from sluice.attempts
      order by event_seq, sink, generation, number",
    "select * from sluice.dead_letters where last_error <> 'its event was deleted' order by sink",
    "select * from sluice.bodies order by event_seq",
    "select name, kind, events, ordered, revision, registered_at, retired_at, paused, breaker from sluice.sinks order by name",
];

/// Rows as JSON, one line each.
async fn lines(conn: &mut PgConnection, query: &str) -> Vec<String> {
    let sql = format!("select array(select to_jsonb(r)::text from ({query}) r)");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(conn).await.unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Whether it is so, in words of SQL.
async fn holds(conn: &mut PgConnection, sql: &str) -> bool {
    let sql = format!("select coalesce(({sql}), false)");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.clone())).fetch_one(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// One delivery or more of every state that 0.1.0 knows, to `lms` (ordered, two types), `crm` (unordered, of all types at first, and then
/// of one) and `old` (retired).
async fn lived_in(conn: &mut PgConnection) {
    use version_0_1::{as_worker, register, store};
    register(conn, "lms", true, Some(&["course.completed", "module.progress"])).await;
    register(conn, "crm", false, None).await;
    register(conn, "old", true, None).await;
    let body = br#"{"event":"course.completed","companyId":"acme"}"#;
    for id in ["done:0", "dead:0", "skipped:0", "key:0", "key:1", "key:2", "replay:0", "replay:1", "deleted:0"] {
        store(conn, id, "course.completed", id.split(':').next(), body).await;
    }
    store(conn, "nobody", "course.completed", None, body).await;
    store(conn, "progress:0", "module.progress", Some("progress"), body).await;
    conn.execute("update sluice.sinks set events = '{course.completed}', revision = 2 where name = 'crm'").await.unwrap();
    conn.execute("update sluice.sinks set retired_at = now() where name = 'old'").await.unwrap();
    // What came since: one behind those of its key that wait, and one that no sink wants.
    store(conn, "key:3", "course.completed", Some("key"), body).await;
    store(conn, "quiz", "quiz.submitted", Some("quiz"), body).await;
    store(conn, "fresh:0", "course.completed", Some("fresh"), body).await;
    conn.execute(
        "with e as (insert into sluice.events (lane, source, event_id, type, company_id, order_key, quarantine, payload_hash, request_hash)
                    values (7, 'mindtickle', 'done:0', 'course.completed', 'acme', 'acme/done', 'id already stored with another body',
                            '\\x01', '\\x02'),
                           (8, 'mindtickle', 'held', null, null, null, 'not JSON', '\\x03', '\\x04') returning seq)
         insert into sluice.payloads select seq, '{', '{}' from e",
    )
    .await
    .unwrap();

    as_worker(
        conn,
        "create function pg_temp.d(id text, to_sink text, will_be text, tried int, due interval, answer int, error text)
         returns void language sql as $$
             update sluice.deliveries d
                set status = coalesce(will_be, d.status), attempts = tried, due_at = now() + due, last_status = answer, last_error = error,
                    delivered_at = case when will_be = 'delivered' then now() end
               from sluice.events e where e.event_id = id and e.quarantine is null and d.event_seq = e.seq and d.sink = to_sink
         $$;
         -- As a worker does it, a retry does not name the status.
         create function pg_temp.w(id text, to_sink text, tried int, due interval, answer int, error text)
         returns void language sql as $$
             update sluice.deliveries d set attempts = tried, due_at = now() + due, last_status = answer, last_error = error
               from sluice.events e where e.event_id = id and e.quarantine is null and d.event_seq = e.seq and d.sink = to_sink
         $$;
         select pg_temp.d('done:0', s, 'delivered', 1, null, 200, null) from unnest(array['lms', 'crm', 'old']) s;
         select pg_temp.d('dead:0', 'lms', 'dead', 12, null, 500, 'answered 500'),
                pg_temp.d('dead:0', 'crm', 'delivered', 2, null, 204, null);
         select pg_temp.d('skipped:0', 'lms', 'skipped', 1, null, null, 'when is false for it');
         select pg_temp.w('key:0', 'lms', 3, '1 hour', 503, 'answered 503'), pg_temp.w('key:1', 'lms', 0, '1 hour', null, null),
                pg_temp.w('key:2', 'lms', 0, '1 hour', null, null);
         select pg_temp.w('key:0', 'crm', 1, '10 minutes', 500, 'answered 500'),
                pg_temp.w('key:1', 'crm', 2, '20 minutes', 500, 'answered 500'),
                pg_temp.d('key:2', 'crm', 'delivered', 1, null, 200, null);
         select pg_temp.w('nobody', 'lms', 1, '5 minutes', null, 'no answer within 10s');
         select pg_temp.d('replay:0', s, 'delivered', 1, null, 200, null), pg_temp.d('replay:1', s, 'dead', 12, null, 410, 'answered 410')
           from unnest(array['lms', 'crm']) s;
         insert into sluice.attempts (event_seq, sink, generation, number, started_at, duration, outcome, status, error, response)
         select seq, 'lms', 0, n, now(), '5 ms', case n when 12 then 'dead' else 'retry' end, 500, 'answered 500', 'oh no'
           from sluice.events, generate_series(11, 12) n where event_id = 'dead:0'",
    )
    .await;
    // By hand: one is to come again, and the other twice, of which the first failed.
    let again =
        "update sluice.deliveries set status = 'pending' where sink = 'lms' and event_seq in (select seq from sluice.events where event_id";
    conn.execute(sqlx::AssertSqlSafe(format!("{again} like 'replay:%')"))).await.unwrap();
    conn.execute(sqlx::AssertSqlSafe(format!("{again} = 'replay:1')"))).await.unwrap();
    as_worker(conn, "select pg_temp.w('replay:1', 'lms', 1, '30 minutes', 503, 'answered 503')").await;
    conn.execute("delete from sluice.payloads where event_seq in (select seq from sluice.events where event_id = 'deleted:0')")
        .await
        .unwrap();
    conn.execute("delete from sluice.events where event_id = 'deleted:0'").await.unwrap();
}

#[tokio::test]
async fn a_database_of_0_1_0_comes_out_with_the_same_deliveries() {
    let (url, _, _server) = database("m_from_0_1").await;
    let mut conn = version_0_1::migrated(&url).await;
    lived_in(&mut conn).await;
    let mut before = Vec::new();
    for query in AS_BEFORE {
        before.push(lines(&mut conn, query).await);
    }
    let states = "select string_agg(distinct concat_ws(' ', status, generation, attempts > 0, due_at is not null), ', ')
                    from sluice.deliveries where sink <> 'old'";
    let states: String = sqlx::query_scalar(states).fetch_one(&mut conn).await.unwrap();
    let expected = "dead 0 t f, delivered 0 t f, pending 0 f f, pending 0 f t, pending 0 t t, pending 1 f t, pending 2 t t, skipped 0 t f";
    assert_eq!(states, expected, "every state is among them");
    conn.execute(
        "create temporary table was as select d.*, e.event_id, e.type, e.order_key, e.seq is null as is_deleted
           from sluice.deliveries d left join sluice.events e on e.seq = d.event_seq;
         create temporary table ids as select event_id, source, payload_hash, request_hash, quarantine, seq, lane from sluice.events",
    )
    .await
    .unwrap();

    let versions: Vec<i64> = migrate::up(&url).await.unwrap().iter().map(|migration| migration.version).collect();
    assert_eq!(versions.first(), Some(&13));
    migrate::check(&mut conn).await.unwrap();
    for (query, before) in AS_BEFORE.into_iter().zip(before) {
        assert!(!before.is_empty(), "{query}");
        let after = lines(&mut conn, query).await;
        assert_eq!(after, before, "{query}");
    }

    conn.execute(
        "create temporary view became as
         select sink, event_id, order_key, is_deleted, w.due_at as was_due, d.due_at, d.status, d.key, d.last_error
           from was w join sluice.delivery_state d using (event_seq, sink)",
    )
    .await
    .unwrap();
    for (what, sql) in [
        (
            "each has the row that it had",
            "select count(*) = (select count(*) from was) and count(*) = (select count(*) from sluice.delivery_state) from became",
        ),
        (
            "one whose event was deleted is not owed for ever",
            "select bool_and(status = 'dead' and last_error = 'its event was deleted') from became where is_deleted",
        ),
        (
            "the first of a key that waits keeps its time",
            "select bool_and(due_at = was_due and key = sluice.key_hash('acme/key')) from became where sink = 'lms' and event_id = 'key:0'",
        ),
        (
            "the others that wait are parked",
            "select count(*) = 2 and bool_and(due_at is null and key = sluice.key_hash('acme/key'))
               from became where sink = 'lms' and event_id in ('key:1', 'key:2')",
        ),
        (
            "what is behind them and was fresh is fresh",
            "select bool_and(due_at is null and key is null) from became where sink = 'lms' and event_id = 'key:3'",
        ),
        (
            "what has no order, by its sink, by itself or as a replay, keeps its time",
            "select count(*) = 5 and bool_and(due_at = was_due and key is null)
               from became where was_due is not null and (sink <> 'lms' or order_key is distinct from 'acme/key')",
        ),
        (
            "what its sink is not owed by today's rules is not fresh",
            "select bool_and(due_at <= now() and key is null) from became where sink = 'crm' and event_id = 'progress:0'",
        ),
        (
            "what is fresh lies where the log is read",
            "select count(*) > 5 and bool_and(d.event_seq > l.settled_to)
               from sluice.delivery_state d join sluice.lanes l using (sink, lane)
              where d.status = 'pending' and d.due_at is null and d.key is null",
        ),
        (
            "settled_to passes nothing",
            "select not exists (
                 select from sluice.lanes l join sluice.log e on e.lane = l.lane and e.seq <= l.settled_to and e.quarantine is null
                   join sluice.subscriptions u on u.sink = l.sink and e.seq >= u.from_seq and e.seq < u.until_seq
                  where (u.types is null or e.type = any (u.types))
                    and not exists (select from sluice.delivery_state d where d.event_seq = e.seq and d.sink = l.sink))",
        ),
        (
            "the backlog counts the same",
            "select count(*) = 3 and bool_and(b.pending = (
                 select count(*) from was w where w.sink = b.sink and w.status = 'pending' and not is_deleted)) from sluice.backlog b",
        ),
        (
            "each id is known",
            "select count(*) = (select count(*) from ids) and bool_and((n.seq, n.lane, n.payload_hash) = (i.seq, i.lane, i.payload_hash))
               from ids i join sluice.event_ids n on n.event_id = i.event_id and n.source = i.source
                and n.quarantined_seq = case when i.quarantine is null then 0 else i.seq end",
        ),
        (
            "each quarantined request is known",
            "select count(*) = 2 and count(*) = (select count(*) from ids where quarantine is not null)
               from ids i join sluice.quarantined_ids n using (seq, event_id, source, payload_hash, request_hash)",
        ),
    ] {
        assert!(holds(&mut conn, sql).await, "{what}");
    }

    // A redelivery is a duplicate, and what is new is owed to those that subscribe.
    // On another connection: this one has prepared what there was.
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let stored = lines(&mut conn, "select seq from sluice.log").await.len();
    version_0_1::store(&mut conn, "done:0", "course.completed", Some("done"), b"{}").await;
    assert_eq!(lines(&mut conn, "select seq from sluice.log").await.len(), stored);
    let new = version_0_1::store(&mut conn, "new:0", "course.completed", Some("new"), b"{}").await;
    let other = version_0_1::store(&mut conn, "new:1", "quiz.submitted", Some("new"), b"{}").await;
    let owed = format!("select sink, status from sluice.deliveries where event_seq in ({new}, {other}) order by sink");
    assert_eq!(lines(&mut conn, &owed).await, [r#"{"sink": "crm", "status": "pending"}"#, r#"{"sink": "lms", "status": "pending"}"#]);
}

#[tokio::test]
async fn workers_and_rights_of_0_1_0_do_not_outlive_the_migration() {
    let (url, _, _server) = database("m_old_world").await;
    let mut conn = version_0_1::migrated(&url).await;
    version_0_1::register(&mut conn, "lms", true, None).await;
    version_0_1::store(&mut conn, "u:0", "course.completed", Some("u"), b"{}").await;
    let role = format!("of_0_1_{}", std::process::id());
    let rights = format!(
        "create role {role};
         grant select on sluice.events, sluice.payloads to {role};
         grant insert, select, update (status, attempts) on sluice.deliveries to {role};
         grant insert on sluice.attempts to {role}"
    );
    conn.execute(sqlx::AssertSqlSafe(rights)).await.unwrap();
    let lease = "insert into sluice.workers (name, epoch, sinks, expires_at) values ('h:1', 1, '{lms}', now() + interval '10 s')";
    conn.execute(lease).await.unwrap();
    conn.execute("update sluice.lanes set worker = (select id from sluice.workers)").await.unwrap();
    migrate::up(&url).await.unwrap();

    let left = "select count(*) from pg_class c left join pg_attribute n on n.attrelid = c.oid
                 cross join lateral aclexplode(coalesce(n.attacl, c.relacl)) a
                  where c.relnamespace = 'sluice'::regnamespace and a.grantee = $1::regrole";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).bind(&role).fetch_one(&mut conn).await.unwrap(), 0, "rights under other names");
    conn.execute(sqlx::AssertSqlSafe(format!("drop role {role}"))).await.unwrap();
    assert!(holds(&mut conn, "select count(*) = 64 and bool_and(worker is null) from sluice.lanes").await, "its lanes are free");
    assert!(conn.execute(lease).await.is_err(), "it gets no lease");
    conn.execute("set sluice.worker = 'on'").await.unwrap();
    let refused = conn.execute("update sluice.deliveries set status = 'delivered'").await.unwrap_err();
    assert!(refused.to_string().contains("a worker of version 0.1 cannot work on this database"), "{refused}");
    conn.execute("reset sluice.worker").await.unwrap();
    assert!(holds(&mut conn, "select bool_and(status = 'pending') from sluice.deliveries").await);
}

/// A commit of ingest is given up after 2.5 s, and its request answered 503.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_behind_a_long_query_stalls_no_ingest_meanwhile() {
    let (url, _conn, _server) = database("m_long_query").await;
    let mut ingest = version_0_1::migrated(&url).await;
    version_0_1::store(&mut ingest, "before", "t", None, b"{}").await;
    let mut reader = PgConnection::connect(&url).await.unwrap();
    reader.execute("begin; select 1 from sluice.events limit 1").await.unwrap();
    let migrating = tokio::spawn(async move { migrate::up(&url).await.unwrap() });
    let began = clock::instant();
    let mut longest = Duration::ZERO;
    for n in 0.. {
        let sent = clock::instant();
        version_0_1::store(&mut ingest, &format!("meanwhile:{n}"), "t", None, b"{}").await;
        longest = longest.max(sent.elapsed());
        if began.elapsed() > Duration::from_secs(6) {
            break;
        }
    }
    assert!(longest < Duration::from_millis(2000), "a commit took {longest:?}");
    assert!(!migrating.is_finished(), "the query is in its way");
    reader.execute("commit").await.unwrap();
    assert_eq!(migrating.await.unwrap().first().map(|applied| applied.version), Some(13));
}

#[test]
fn a_migration_that_databases_have_is_not_changed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = std::fs::read_to_string(folder.join("tests/vectors/migrations.sha256")).unwrap();
    let mut migrations: Vec<_> = std::fs::read_dir(folder.join("migrations")).unwrap().map(|entry| entry.unwrap().path()).collect();
    migrations.sort();
    for path in migrations {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let sum = hex::encode(Sha256::digest(std::fs::read(&path).unwrap()));
        // As `sha256sum *.sql` in migrations/ writes it. A new migration's line is added with it; a line that is there stays.
        assert!(known.lines().any(|line| line == format!("{sum}  {name}")), "{name} is changed: databases that have it would be refused");
    }
}
