//! `sluice.sinks` as the workers write it: registration, the breaker, the counters.

use sqlx::{Connection, PgConnection};

/// What a worker's config says of a sink, as far as the database is concerned.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: String,
    pub kind: &'static str,
    /// `None`: all.
    pub events: Option<Vec<String>>,
    pub ordered: bool,
}

/// Registers the config's sinks; their lanes and subscriptions follow by trigger. Absence from a config removes nothing.
pub async fn register(conn: &mut PgConnection, sinks: &[Definition]) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin().await?;
    // Two workers that start together must not both find that they are the first. An operator's open change of a sink is
    // nothing to wait for, unless this changes the same sink.
    sqlx::query!("set local lock_timeout = '10s'").execute(&mut *tx).await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtext('sluice.sinks'))").execute(&mut *tx).await?;
    let first = sqlx::query_scalar!(r#"select not exists (select from sluice.sinks) as "first!""#).fetch_one(&mut *tx).await?;
    for sink in sinks {
        sqlx::query!(
            r#"
            insert into sluice.sinks as s (name, kind, events, ordered, owed_earlier)
            select $1, $2, $3, $4, $5
             where not exists (select from sluice.sinks o
                                where o.name = $1 and (o.kind, o.events, o.ordered) is not distinct from ($2::text, $3::text[], $4::boolean))
            on conflict (name) do update
               set kind = excluded.kind, events = excluded.events, ordered = excluded.ordered, revision = s.revision + 1
             where (s.kind, s.events, s.ordered) is distinct from (excluded.kind, excluded.events, excluded.ordered)
            "#,
            sink.name,
            sink.kind,
            sink.events.as_deref(),
            sink.ordered,
            first,
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await
}

/// Which events a sink is owed: those of these types, at positions in [`from_seq`, `until_seq`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub from_seq: i64,
    pub until_seq: i64,
    /// `None`: all.
    pub types: Option<Vec<String>>,
}

/// All that a sink has ever subscribed to, by position, as far as its lanes are not settled beyond it.
pub async fn subscriptions(conn: &mut PgConnection, sink: &str) -> Result<Vec<Subscription>, sqlx::Error> {
    sqlx::query_as!(
        Subscription,
        r#"
        select from_seq, until_seq, types from sluice.subscriptions
         where sink = $1 and until_seq > (select coalesce(min(settled_to), 0) from sluice.lanes where sink = $1)
         order by from_seq
        "#,
        sink
    )
    .fetch_all(conn)
    .await
}

/// Opens a sink's breaker, or keeps it open for longer: `rest` seconds, doubled with each trip since it last closed,
/// at most `cap`. With `fixed`, `rest` is what the sink asked for and is taken as it is. Returns the seconds it rests.
pub async fn open_breaker(conn: &mut PgConnection, sink: &str, rest: f64, cap: f64, fixed: bool, reason: &str) -> Result<f64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        update sluice.sinks
           set breaker = 'open', breaker_reason = $5, breaker_trips = breaker_trips + 1,
               breaker_until = now() + interval '1 second' *
                   case when $4 then $2 else least($3, $2 * power(2, least(breaker_trips, 30))) end
         where name = $1
        returning extract(epoch from breaker_until - now())::float8 as "left!"
        "#,
        sink,
        rest,
        cap,
        fixed,
        reason,
    )
    .fetch_one(conn)
    .await
}

/// Asks to be the one that probes a resting sink. The right ends after `seconds`, in case the prober dies.
pub async fn begin_probe(conn: &mut PgConnection, sink: &str, seconds: f64) -> Result<bool, sqlx::Error> {
    let begun = sqlx::query!(
        r#"
        update sluice.sinks set breaker = 'half-open', breaker_until = now() + $2 * interval '1 second'
         where name = $1 and breaker <> 'closed' and breaker_until <= now() and not paused
        "#,
        sink,
        seconds,
    )
    .execute(conn)
    .await?;
    Ok(begun.rows_affected() == 1)
}

/// Closes a sink's breaker: a probe went through.
pub async fn close_breaker(conn: &mut PgConnection, sink: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update sluice.sinks set breaker = 'closed', breaker_until = null, breaker_reason = null, breaker_trips = 0 where name = $1 and breaker <> 'closed'",
        sink
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What one worker adds to a sink's current minute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub delivered: i64,
    pub retried: i64,
    pub dead: i64,
    pub skipped: i64,
    pub duration_ms: i64,
}

/// Adds to the current minute's counters, and drops those older than a day.
pub async fn count(conn: &mut PgConnection, counts: &[(&str, Counts)]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        with old as (delete from sluice.counters where minute < now() - interval '1 day')
        insert into sluice.counters as c (sink, minute, delivered, retried, dead, skipped, duration_ms)
        select u.sink, date_trunc('minute', now()), u.delivered, u.retried, u.dead, u.skipped, u.duration_ms
          from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
               as u(sink, delivered, retried, dead, skipped, duration_ms)
         order by u.sink
        on conflict (sink, minute) do update
           set delivered = c.delivered + excluded.delivered, retried = c.retried + excluded.retried, dead = c.dead + excluded.dead,
               skipped = c.skipped + excluded.skipped, duration_ms = c.duration_ms + excluded.duration_ms
        "#,
        &counts.iter().map(|(sink, _)| *sink).collect::<Vec<_>>() as &[&str],
        &counts.iter().map(|(_, counts)| counts.delivered).collect::<Vec<_>>(),
        &counts.iter().map(|(_, counts)| counts.retried).collect::<Vec<_>>(),
        &counts.iter().map(|(_, counts)| counts.dead).collect::<Vec<_>>(),
        &counts.iter().map(|(_, counts)| counts.skipped).collect::<Vec<_>>(),
        &counts.iter().map(|(_, counts)| counts.duration_ms).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}
