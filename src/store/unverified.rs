//! Requests that did not verify, kept for a while.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use std::sync::Arc;
use std::time::Duration;

/// Session settings of the connection that keeps them.
pub const SETTINGS: &[(&str, &str)] =
    &[("statement_timeout", "10s"), ("lock_timeout", "10s"), ("idle_in_transaction_session_timeout", "10s")];

/// A request that did not verify.
#[derive(Debug)]
pub struct Unverified {
    pub source: Arc<str>,
    pub payload: Bytes,
    /// As `payloads.headers`.
    pub headers: String,
}

/// What is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    pub rows: i64,
    pub bytes: i64,
}

pub async fn keep(conn: &mut PgConnection, requests: &[Unverified]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        insert into sluice.unverified (source, bytes, payload, headers)
        select i.source, length(i.payload), i.payload, i.headers::jsonb
          from unnest($1::text[], $2::bytea[], $3::text[]) with ordinality as i(source, payload, headers, n)
         order by i.n
        "#,
        &requests.iter().map(|request| request.source.as_ref()).collect::<Vec<_>>() as &[&str],
        &requests.iter().map(|request| request.payload.as_ref()).collect::<Vec<_>>() as &[&[u8]],
        &requests.iter().map(|request| request.headers.as_str()).collect::<Vec<_>>() as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets go of what is older, and counts the rest.
pub async fn prune(conn: &mut PgConnection, older_than: Duration) -> Result<Kept, sqlx::Error> {
    sqlx::query!("delete from sluice.unverified where received_at < now() - make_interval(secs => $1)", older_than.as_secs_f64())
        .execute(&mut *conn)
        .await?;
    sqlx::query_as!(Kept, r#"select count(*) as "rows!", coalesce(sum(bytes), 0) as "bytes!" from sluice.unverified"#).fetch_one(conn).await
}

/// One of those that are kept.
#[derive(Debug)]
pub struct Row {
    pub id: i64,
    pub received_at: DateTime<Utc>,
    pub source: String,
    pub payload: Vec<u8>,
    pub headers: serde_json::Value,
}

/// The next ones after `id`, locked until the transaction ends. Those that another run has locked are left to it.
pub async fn next(conn: &mut PgConnection, id: i64, limit: i64) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "select id, received_at, source, payload, headers from sluice.unverified where id > $1 order by id limit $2 for update skip locked",
        id,
        limit
    )
    .fetch_all(conn)
    .await
}

pub async fn remove(conn: &mut PgConnection, ids: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from sluice.unverified where id = any ($1)", ids).execute(conn).await?;
    Ok(())
}

/// Leaves an audit row: so many requests were let in.
pub async fn note(conn: &mut PgConnection, rows: i64) -> Result<(), sqlx::Error> {
    sqlx::query!("insert into sluice.audit (what, rows) values ('requests let in', $1)", rows).execute(conn).await?;
    Ok(())
}
