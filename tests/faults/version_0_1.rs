//! A database of version 0.1.0: its schema, and rows as its processes wrote them.

use sqlx::migrate::{Migrate, Migrator};
use sqlx::{Connection, Executor, PgConnection};
use std::path::Path;

/// The last migration of 0.1.0.
const LAST: i64 = 12;
const TABLE: &str = "sluice.migrations";

/// A connection to a database that 0.1.0 has migrated.
pub async fn migrated(url: &str) -> PgConnection {
    let mut conn = PgConnection::connect(url).await.expect("a connection");
    let migrations = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")).await.expect("the migrations");
    conn.create_schema_if_not_exists("sluice").await.expect("the schema");
    conn.ensure_migrations_table(TABLE).await.expect("the table");
    for migration in migrations.iter().filter(|migration| migration.version <= LAST) {
        conn.apply(TABLE, migration).await.expect("a migration of 0.1.0");
    }
    conn
}

/// As its worker registered one that was not the first.
pub async fn register(conn: &mut PgConnection, name: &str, ordered: bool, events: Option<&[&str]>) {
    let sink = "insert into sluice.sinks (name, kind, events, ordered) values ($1, 'http', $2, $3)";
    sqlx::query(sink).bind(name).bind(events).bind(ordered).execute(&mut *conn).await.expect("a sink");
    let lanes = "insert into sluice.lanes (sink, lane) select $1, lane from generate_series(0, 63) as g(lane)";
    sqlx::query(lanes).bind(name).execute(conn).await.expect("its lanes");
}

/// As its ingest stored one: by the function of the database, with a delivery for each sink that subscribes. Returns its position.
pub async fn store(conn: &mut PgConnection, id: &str, event_type: &str, user: Option<&str>, body: &[u8]) -> i64 {
    let key = user.map(|user| format!("acme/{user}"));
    let lane = sluice::event::lane(key.as_deref().unwrap_or(id));
    let stored = sqlx::query(
        "select sluice.store_events(array['mindtickle'], array[$1], array[false], array[$2], array['acme'], array[$3], array[$4::smallint],
                                    array[substr(sha256($5), 1, 16)], array[$5], array[$6])",
    );
    let headers = r#"{"signature": "v1=00", "timestamp": "1700000000", "event_id": "x"}"#;
    let stored = stored.bind(id).bind(event_type).bind(key).bind(lane).bind(body).bind(headers);
    stored.execute(&mut *conn).await.expect("an event");
    sqlx::query_scalar("select max(seq) from sluice.events").fetch_one(conn).await.expect("its position")
}

/// Runs a statement in the way of a worker of it, whose connections say so.
pub async fn as_worker(conn: &mut PgConnection, sql: &'static str) {
    conn.execute("set sluice.worker = 'on'").await.expect("a setting");
    conn.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    conn.execute("reset sluice.worker").await.expect("a setting");
}
