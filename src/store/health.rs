//! How things stand: for `sluice status`, and for `/metrics` and `/readyz`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

/// One sink, as `sluice.backlog` shows it, with what it has done in all.
#[derive(Debug, Serialize)]
pub struct SinkStatus {
    pub sink: String,
    pub paused: bool,
    pub breaker: String,
    pub breaker_reason: Option<String>,
    pub pending: i64,
    /// Of the pending, those that wait for a retry, a predecessor, or their turn in a replay.
    pub waiting: i64,
    pub dead: i64,
    /// Age of the oldest event that is still owed, in seconds; null: nothing is owed.
    pub lag_seconds: Option<f64>,
    pub workers: i64,
    /// Of the last hour, from the per-minute counters.
    pub delivered_last_hour: i64,
    pub retried_last_hour: i64,
}

/// Every sink, by name. Counts end at 100,000: cheap however much is stored.
pub async fn sinks(conn: &mut PgConnection) -> Result<Vec<SinkStatus>, sqlx::Error> {
    sqlx::query_as!(
        SinkStatus,
        r#"
        select b.sink as "sink!", b.paused as "paused!", b.breaker as "breaker!", b.breaker_reason,
               b.pending as "pending!", b.waiting as "waiting!",
               (select count(*) from (select from sluice.delivery_state d where d.sink = b.sink and d.status = 'dead' limit 100000) d) as "dead!",
               extract(epoch from b.lag)::float8 as lag_seconds,
               (select count(*) from sluice.workers w where b.sink = any (w.sinks) and w.expires_at > now()) as "workers!",
               h.delivered as "delivered_last_hour!", h.retried as "retried_last_hour!"
          from sluice.backlog b join sluice.sink_health h on h.sink = b.sink
         order by b.sink
        "#
    )
    .fetch_all(conn)
    .await
}

/// What came in, in the last day.
#[derive(Debug, Serialize)]
pub struct Received {
    pub events: i64,
    pub quarantined: i64,
    /// When the last one came; null: none in the last day.
    pub last: Option<DateTime<Utc>>,
}

/// Counts the last day's events.
pub async fn received(conn: &mut PgConnection) -> Result<Received, sqlx::Error> {
    sqlx::query_as!(
        Received,
        r#"
        select count(*) as "events!", count(*) filter (where quarantine is not null) as "quarantined!", max(received_at) as last
          from sluice.log where received_at > now() - interval '1 day'
        "#
    )
    .fetch_one(conn)
    .await
}

/// What one sink is owed: for the gauges.
#[derive(Debug)]
pub struct Owed {
    pub sink: String,
    pub pending: i64,
    /// Age of the oldest event that is still owed, in seconds; 0: nothing is owed.
    pub oldest_seconds: f64,
}

/// What each sink is owed. Nothing, where another worker is asking just now: one at a time is enough.
pub async fn owed(conn: &mut PgConnection) -> Result<Vec<Owed>, sqlx::Error> {
    sqlx::query_as!(
        Owed,
        r#"
        with turn as materialized (select pg_try_advisory_xact_lock(hashtext('sluice.backlog')) as mine)
        select b.sink as "sink!", b.pending as "pending!", coalesce(extract(epoch from b.lag)::float8, 0) as "oldest_seconds!"
          from turn cross join lateral (select * from sluice.backlog offset 0) b
         where turn.mine
        "#
    )
    .fetch_all(conn)
    .await
}
