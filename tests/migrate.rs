//! `sluice migrate` on a real server: at once, killed midway, on databases of other versions.

#[path = "support/private.rs"]
mod private;
#[path = "support/server.rs"]
mod server;

use sha2::{Digest, Sha256};
use sluice::store::migrate::{self, Error, SchemaError, State};
use sqlx::{Connection, Executor, PgConnection};
use std::process::{Command, Stdio};
use std::sync::Arc;

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
