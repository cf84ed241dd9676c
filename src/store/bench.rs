//! What `sluice bench` asks of its own databases: the yardstick's table, how far a drain has come, and what it cost the server.
//!
//! The queries on `pg_stat_statements` are checked at run time: it is an extension that the server may not have.

use super::servers::{Connection, Servers};
use sqlx::{AssertSqlSafe, PgConnection};

/// The yardstick: what a receiver without a queue does, one row and one commit a request. For pgbench.
pub const YARDSTICK_INSERT: &str = "\
insert into bench_event (source, event_id, type, body)
values ('mindtickle', gen_random_uuid()::text, 'course.completed', decode(repeat('7b22', 150), 'hex')) on conflict do nothing;
";

/// Makes the yardstick's table.
pub async fn create_yardstick(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let table = "
        create table if not exists bench_event (
            id          bigint      generated always as identity primary key,
            source      text        not null,
            event_id    text        not null,
            type        text        not null,
            company_id  text,
            received_at timestamptz not null default now(),
            body        bytea       not null,
            headers     jsonb       not null default '{}',
            unique (source, event_id))";
    sqlx::query(table).execute(conn).await?;
    Ok(())
}

/// Drops a database, whoever is connected to it. `name`: letters, digits and `_` only, since a name cannot be a bind.
pub async fn drop_database(conn: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(format!(r#"drop database if exists "{name}" with (force)"#))).execute(conn).await?;
    Ok(())
}

/// What the figures depend on.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Server {
    pub version: String,
    pub fsync: String,
    pub synchronous_commit: String,
    pub shared_buffers: String,
    pub max_wal_size: String,
}

/// Reads the server's settings.
pub async fn server(conn: &mut PgConnection) -> Result<Server, sqlx::Error> {
    sqlx::query_as!(
        Server,
        r#"
        select current_setting('server_version') as "version!", current_setting('fsync') as "fsync!",
               current_setting('synchronous_commit') as "synchronous_commit!", current_setting('shared_buffers') as "shared_buffers!",
               current_setting('max_wal_size') as "max_wal_size!"
        "#
    )
    .fetch_one(conn)
    .await
}

/// How many bytes of WAL the whole server has written since it was made.
pub async fn wal_bytes(conn: &mut PgConnection) -> Result<f64, sqlx::Error> {
    sqlx::query_scalar!(r#"select /* sluice bench */ pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 as "bytes!""#)
        .fetch_one(conn)
        .await
}

/// What this database's clients have executed since [`reset_statements`].
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub struct Statements {
    pub calls: i64,
    /// Of these, reads of due deliveries.
    pub fetches: i64,
    pub fetched_rows: i64,
    pub fetching_ms: f64,
    /// Pages that these touched, in memory or not.
    pub fetched_pages: i64,
}

/// Begins to count statements. An error: the server cannot count them, or not for us.
pub async fn reset_statements(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("create extension if not exists pg_stat_statements").execute(&mut *conn).await?;
    // This database's only: others may be counting too.
    sqlx::query("select pg_stat_statements_reset(0, oid, 0) from pg_database where datname = current_database()").execute(conn).await?;
    Ok(())
}

/// What was counted since then, without what this file asks while it is counted (which says so in a comment).
pub async fn statements(conn: &mut PgConnection) -> Result<Statements, sqlx::Error> {
    // The read of the log is known by its LATERAL ranges, which no other statement on the log has.
    let counted = "
        select coalesce(sum(calls), 0)::bigint                                   as calls,
               coalesce(sum(calls) filter (where is_fetch), 0)::bigint           as fetches,
               coalesce(sum(rows) filter (where is_fetch), 0)::bigint            as fetched_rows,
               coalesce(sum(total_exec_time) filter (where is_fetch), 0)::float8 as fetching_ms,
               coalesce(sum(pages) filter (where is_fetch), 0)::bigint           as fetched_pages
          from (select s.calls, s.rows, s.total_exec_time, s.shared_blks_hit + s.shared_blks_read as pages,
                       s.query like '%cross join lateral%' and s.query like '%sluice.log l%' as is_fetch
                  from pg_stat_statements s
                 where s.dbid = (select oid from pg_database where datname = current_database())
                   and s.query not like '%pg_stat_statements%' and s.query not like '%sluice bench%') s";
    sqlx::query_as(counted).fetch_one(conn).await
}

/// The last event's position; 0: there is none.
pub async fn last_position(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"select /* sluice bench */ coalesce(max(seq), 0) as "last!" from sluice.log"#).fetch_one(conn).await
}

/// Whether no delivery after this position is pending: cheap near the end, by the primary key.
pub async fn is_done_after(conn: &mut PgConnection, position: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select /* sluice bench */ not exists (select from sluice.deliveries where event_seq > $1 and status = 'pending') as "done!""#,
        position, // $1 the position
    )
    .fetch_one(conn)
    .await
}

/// What was delivered, by the commits that recorded it.
#[derive(Debug)]
pub struct Delivered {
    pub deliveries: i64,
    /// Without those of the first commit, which began before the time did.
    pub after_first: i64,
    /// From the first commit to the last.
    pub seconds: f64,
}

/// Counts all deliveries that succeeded.
pub async fn delivered(conn: &mut PgConnection) -> Result<Delivered, sqlx::Error> {
    sqlx::query_as!(
        Delivered,
        r#"
        -- Materialized: as a plain subquery it was computed anew for every row.
        with span as materialized (select min(delivered_at) as first, max(delivered_at) as last from sluice.deliveries where status = 'delivered')
        select count(*) as "deliveries!", count(*) filter (where d.delivered_at > span.first) as "after_first!",
               coalesce(extract(epoch from max(span.last) - min(span.first))::float8, 0) as "seconds!"
          from sluice.deliveries d cross join span
         where d.status = 'delivered'
        "#
    )
    .fetch_one(conn)
    .await
}

/// The most frequent error among the deliveries that failed, and were not delivered since.
pub async fn commonest_error(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        select /* sluice bench */ last_error as "error!"
          from sluice.deliveries
         where status in ('pending', 'dead') and last_error is not null
         group by last_error
         order by count(*) desc
         limit 1
        "#
    )
    .fetch_optional(conn)
    .await
}

/// Opens a transaction that sees the database as it is now, and so keeps vacuum from removing what dies later: as a forgotten psql
/// does. It ends with the connection.
pub async fn hold_horizon(url: &str) -> Result<Connection, sqlx::Error> {
    let servers = Servers::parse(url).map_err(|error| sqlx::Error::Configuration(error.into()))?;
    let mut conn = servers.session("sluice bench", &[]).connect().await?;
    sqlx::query("begin isolation level repeatable read").execute(&mut *conn).await?;
    // The snapshot is taken by the first query, not by BEGIN.
    sqlx::query("select count(*) from sluice.sinks").execute(&mut *conn).await?;
    Ok(conn)
}
