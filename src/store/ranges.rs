//! The ranges of the log: made ahead, and dropped when their time is over and nothing of them is owed.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;
use std::time::Duration;

/// Makes ranges until an hour's numbers are free; returns how many. `retention`: how long a range is kept, which sizes it.
pub async fn ensure(conn: &mut PgConnection, retention: Option<Duration>) -> Result<i32, sqlx::Error> {
    let days = retention.map_or(300, |retention| (retention.as_secs() / 86_400).max(1) as i32);
    let retention = PgInterval { months: 0, days, microseconds: 0 };
    sqlx::query_scalar!(r#"select sluice.ensure_ranges($1) as "made!""#, retention).fetch_one(conn).await
}

/// One range, with what keeps it.
#[derive(Debug, Clone, Serialize)]
pub struct Range {
    /// N of log_N.
    pub number: i32,
    /// The first position beyond it.
    pub until_seq: i64,
    /// `None`: it holds no event.
    pub newest_received_at: Option<DateTime<Utc>>,
    /// On disk, in all.
    pub bytes: i64,
    /// Of these, payloads.
    pub payload_bytes: i64,
    pub payloads_gone: bool,
    /// Why it cannot be dropped; `None`: it can.
    pub kept_by: Option<String>,
}

/// Every range, oldest first, as if all received before that time may go.
pub async fn report(conn: &mut PgConnection, before: DateTime<Utc>) -> Result<Vec<Range>, sqlx::Error> {
    sqlx::query_as!(
        Range,
        r#"
        select number as "number!", until_seq as "until_seq!", newest_received_at, bytes as "bytes!", payload_bytes as "payload_bytes!",
               payloads_gone as "payloads_gone!", kept_by
          from sluice.range_report($1)
        "#,
        before
    )
    .fetch_all(conn)
    .await
}

/// Takes a range, or its payloads alone, out of sight. `Some`: what prevented it, such as somebody who reads.
pub async fn detach(
    conn: &mut PgConnection,
    number: i32,
    before: DateTime<Utc>,
    only_payloads: bool,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("select sluice.detach_range($1, $2, $3)", number, before, only_payloads).fetch_one(conn).await
}

/// Drops what was taken out of sight; returns how many bytes that were.
pub async fn drop_detached(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"select sluice.drop_detached() as "freed!""#).fetch_one(conn).await
}

/// Positions that can still be given out before the last range ends.
pub async fn free(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"select (select max(until_seq) from sluice.ranges) - last_value as "free!" from sluice.event_seq"#)
        .fetch_one(conn)
        .await
}

/// Sees to it that no position is given out that something has already: after a restore of the data alone, say.
pub async fn advance_sequence(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!(r#"select sluice.advance_sequence() as top"#).fetch_one(conn).await?;
    Ok(())
}
