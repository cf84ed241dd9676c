//! What became of deliveries, written so that neither an operator's change nor another owner's is overwritten.
//!
//! Many rows a statement, on connections with [`PLANNER`](super::deliveries::PLANNER).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Which delivery a write is about, and which it must not touch: the row is written only while its generation is this
/// one (an operator's reset raises it) and it is still pending.
#[derive(Debug, Clone)]
pub struct Target {
    pub event_seq: i64,
    pub sink: std::sync::Arc<str>,
    pub generation: i32,
    /// Attempts counted when the try began: a failure is written only while this is unchanged.
    pub attempts: i32,
}

/// A delivery that is done.
#[derive(Debug, Clone)]
pub struct Finished {
    pub target: Target,
    /// `delivered`, `dead` or `skipped`.
    pub status: &'static str,
    pub attempts: i32,
    pub last_status: Option<i16>,
    pub last_error: Option<String>,
}

/// A delivery that has to wait: for a retry, or for its predecessor (then nothing but `due_at` changes).
#[derive(Debug, Clone)]
pub struct Postponed {
    pub target: Target,
    /// `workers.id` of the lease under which that was decided. Whoever owns the lane by now would not know that the row waits.
    pub worker: i64,
    pub attempts: i32,
    pub due_at: DateTime<Utc>,
    pub last_status: Option<i16>,
    pub last_error: Option<String>,
}

/// One row of `sluice.attempts`.
#[derive(Debug, Clone)]
pub struct FailedTry {
    pub target: Target,
    pub number: i32,
    pub started_at: DateTime<Utc>,
    pub duration_ms: i64,
    pub outcome: &'static str,
    pub status: Option<i16>,
    pub error: String,
    pub response: Option<String>,
}

/// Records the end of deliveries. A row that is no longer this try's to write is left as it is: that is no error.
pub async fn finish(conn: &mut PgConnection, rows: &[&Finished]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update sluice.deliveries d
           set status = u.status, attempts = u.attempts, last_status = u.last_status, last_error = u.last_error,
               delivered_at = case when u.status = 'delivered' then now() end, due_at = null
          from unnest($1::bigint[], $2::text[], $3::int[], $4::text[], $5::int[], $6::smallint[], $7::text[])
               as u(event_seq, sink, generation, status, attempts, last_status, last_error)
         where d.event_seq = u.event_seq and d.sink = u.sink and d.generation = u.generation and d.status = 'pending'
        "#,
        &rows.iter().map(|row| row.target.event_seq).collect::<Vec<_>>(),
        &rows.iter().map(|row| &*row.target.sink).collect::<Vec<_>>() as &[&str],
        &rows.iter().map(|row| row.target.generation).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.status).collect::<Vec<_>>() as &[&str],
        &rows.iter().map(|row| row.attempts).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.last_status).collect::<Vec<_>>() as &[Option<i16>],
        &rows.iter().map(|row| row.last_error.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records that deliveries wait. Never names `status`, which is what tells a worker's retry from an operator's reset.
pub async fn postpone(conn: &mut PgConnection, rows: &[&Postponed]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update sluice.deliveries d
           set attempts = u.attempts, due_at = u.due_at,
               last_status = coalesce(u.last_status, d.last_status), last_error = coalesce(u.last_error, d.last_error)
          from unnest($1::bigint[], $2::text[], $3::int[], $4::int[], $5::int[], $6::timestamptz[], $7::smallint[], $8::text[], $9::bigint[])
               as u(event_seq, sink, generation, attempts_before, attempts, due_at, last_status, last_error, worker)
         where d.event_seq = u.event_seq and d.sink = u.sink and d.generation = u.generation
           and d.attempts = u.attempts_before and d.status = 'pending'
           -- A scalar, so that it stays a probe for each row: as EXISTS it became a join, which began with the lanes and took minutes.
           and u.worker = (select l.worker from sluice.lanes l where l.sink = d.sink and l.lane = d.lane)
        "#,
        &rows.iter().map(|row| row.target.event_seq).collect::<Vec<_>>(),
        &rows.iter().map(|row| &*row.target.sink).collect::<Vec<_>>() as &[&str],
        &rows.iter().map(|row| row.target.generation).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.target.attempts).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.attempts).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.due_at).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.last_status).collect::<Vec<_>>() as &[Option<i16>],
        &rows.iter().map(|row| row.last_error.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &rows.iter().map(|row| row.worker).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks those of these rows that an operator's open transaction has not locked, until this transaction ends; says of
/// each whether it is locked now by us.
pub async fn lock_free<'a>(conn: &mut PgConnection, targets: impl Iterator<Item = &'a Target>) -> Result<Vec<bool>, sqlx::Error> {
    let (seqs, sinks): (Vec<i64>, Vec<&str>) = targets.map(|target| (target.event_seq, &*target.sink)).unzip();
    let free = sqlx::query_scalar!(
        r#"
        select u.n as "n!" from unnest($1::bigint[], $2::text[]) with ordinality as u(event_seq, sink, n)
          join sluice.deliveries d on d.event_seq = u.event_seq and d.sink = u.sink
           for update of d skip locked
        "#,
        &seqs,
        &sinks as &[&str],
    )
    .fetch_all(conn)
    .await?;
    let mut is_free = vec![false; seqs.len()];
    for n in free {
        is_free[n as usize - 1] = true;
    }
    Ok(is_free)
}

/// Keeps a row for each failed try. One that is there already (the write was repeated) is left as it is.
pub async fn keep_failed(conn: &mut PgConnection, tries: &[&FailedTry]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        insert into sluice.attempts (event_seq, sink, generation, number, started_at, duration, outcome, status, error, response)
        select event_seq, sink, generation, number, started_at, duration_ms * interval '1 millisecond', outcome, status, error, response
          from unnest($1::bigint[], $2::text[], $3::int[], $4::int[], $5::timestamptz[], $6::bigint[], $7::text[], $8::smallint[], $9::text[], $10::text[])
               as u(event_seq, sink, generation, number, started_at, duration_ms, outcome, status, error, response)
        on conflict do nothing
        "#,
        &tries.iter().map(|row| row.target.event_seq).collect::<Vec<_>>(),
        &tries.iter().map(|row| &*row.target.sink).collect::<Vec<_>>() as &[&str],
        &tries.iter().map(|row| row.target.generation).collect::<Vec<_>>(),
        &tries.iter().map(|row| row.number).collect::<Vec<_>>(),
        &tries.iter().map(|row| row.started_at).collect::<Vec<_>>(),
        &tries.iter().map(|row| row.duration_ms).collect::<Vec<_>>(),
        &tries.iter().map(|row| row.outcome).collect::<Vec<_>>() as &[&str],
        &tries.iter().map(|row| row.status).collect::<Vec<_>>() as &[Option<i16>],
        &tries.iter().map(|row| row.error.as_str()).collect::<Vec<_>>() as &[&str],
        &tries.iter().map(|row| row.response.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes back an attempt that [`charge`] has counted: the try proved nothing about the delivery.
pub async fn uncharge(conn: &mut PgConnection, target: &Target) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update sluice.deliveries set attempts = attempts - 1, last_error = null
         where event_seq = $1 and sink = $2 and generation = $3 and attempts = $4 and status = 'pending'
        "#,
        target.event_seq,
        &target.sink,
        target.generation,
        target.attempts,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts an attempt before the try, for a row that may have killed the worker that had it. `false`: it is no longer ours.
pub async fn charge(conn: &mut PgConnection, target: &Target) -> Result<bool, sqlx::Error> {
    let charged = sqlx::query!(
        r#"
        update sluice.deliveries
           set attempts = attempts + 1, last_error = 'its worker ended during this try'
         where event_seq = $1 and sink = $2 and generation = $3 and attempts = $4 and status = 'pending'
        "#,
        target.event_seq,
        &target.sink,
        target.generation,
        target.attempts,
    )
    .execute(conn)
    .await?;
    Ok(charged.rows_affected() == 1)
}
