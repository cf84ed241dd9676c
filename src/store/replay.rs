//! `sluice.replay`, and what it would do.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

/// Which deliveries are meant.
#[derive(Debug, Clone)]
pub struct Selection {
    /// `None`: of every sink.
    pub sink: Option<String>,
    /// Received at or after this.
    pub since: Option<DateTime<Utc>>,
    /// Received before this.
    pub until: Option<DateTime<Utc>>,
    /// `dead`, `delivered`, `skipped` or `pending`.
    pub status: String,
}

/// What a replay is about.
#[derive(Debug, Serialize)]
pub struct Preview {
    pub deliveries: i64,
    pub oldest_received_at: Option<DateTime<Utc>>,
    pub newest_received_at: Option<DateTime<Utc>>,
}

/// The sinks that there are, in the order of their names.
pub async fn sinks(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!("select name from sluice.sinks order by name").fetch_all(conn).await
}

/// Counts what [`replay`] would reset. Locks nothing.
pub async fn preview(conn: &mut PgConnection, selection: &Selection) -> Result<Preview, sqlx::Error> {
    sqlx::query_as!(
        Preview,
        r#"
        select count(*) as "deliveries!", min(e.received_at) as oldest_received_at, max(e.received_at) as newest_received_at
          from sluice.deliveries d join sluice.log e on e.seq = d.event_seq
         where d.status = $4 and ($1::text is null or d.sink = $1)
           and ($2::timestamptz is null or e.received_at >= $2) and ($3::timestamptz is null or e.received_at < $3)
        "#,
        selection.sink,
        selection.since,
        selection.until,
        selection.status,
    )
    .fetch_one(conn)
    .await
}

/// Resets the selected deliveries; returns how many.
pub async fn replay(conn: &mut PgConnection, selection: &Selection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select sluice.replay(sink => $1, since => $2, until => $3, status => $4, dry_run => false) as "count!""#,
        selection.sink,
        selection.since,
        selection.until,
        selection.status,
    )
    .fetch_one(conn)
    .await
}
