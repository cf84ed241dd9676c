//! `sluice.delivery_state`, as its workers write it: what became of deliveries, written so that neither an operator's change nor another owner's is overwritten.
//!
//! Many rows a statement, on connections with [`PLANNER`](super::deliveries::PLANNER).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use std::collections::HashSet;

/// Which delivery a write is about, and which it must not touch: a row that is there is written only while its generation is this
/// one (an operator's reset raises it) and it is still pending.
#[derive(Debug, Clone)]
pub struct Target {
    pub event_seq: i64,
    pub sink: std::sync::Arc<str>,
    pub generation: i32,
    /// Attempts counted when the try began: a failure is written only while this is unchanged.
    pub attempts: i32,
    pub lane: i16,
    /// It came from the log, and has no row so far.
    pub is_fresh: bool,
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

/// A delivery that has to wait: for a retry, or parked for its predecessor (then `due_at` is `None`, and nothing else changes).
#[derive(Debug, Clone)]
pub struct Postponed {
    pub target: Target,
    /// `workers.id` of the lease under which that was decided. Whoever owns the lane by now would not know that the row waits.
    pub worker: i64,
    pub attempts: i32,
    pub due_at: Option<DateTime<Utc>>,
    /// `sluice.key_hash` of the order key; `None`: unordered.
    pub key: Option<i64>,
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

/// Records the end of deliveries. A row that is no longer this try's to write is left as it is: that is no error, since a row is there.
pub async fn finish(conn: &mut PgConnection, rows: &[&Finished]) -> Result<(), sqlx::Error> {
    let (fresh, recorded): (Vec<&Finished>, Vec<&Finished>) = rows.iter().partition(|row| row.target.is_fresh);
    if !fresh.is_empty() {
        finish_fresh(conn, &unique(fresh, |row| &row.target)).await?;
    }
    if !recorded.is_empty() {
        finish_recorded(conn, &recorded).await?;
    }
    Ok(())
}

/// The first of each delivery. One can come twice: tried under a lease that was lost, and again under the next one.
fn unique<'a, T>(rows: Vec<&'a T>, target: impl Fn(&'a T) -> &'a Target) -> Vec<&'a T> {
    let mut seen = HashSet::with_capacity(rows.len());
    rows.into_iter().filter(|row| seen.insert((target(row).event_seq, &*target(row).sink))).collect()
}

/// One row, written once.
async fn finish_fresh(conn: &mut PgConnection, rows: &[&Finished]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        insert into sluice.delivery_state as d (event_seq, sink, lane, status, attempts, last_status, last_error, delivered_at)
        select u.event_seq, u.sink, u.lane, u.status, u.attempts, u.last_status, u.last_error, case when u.status = 'delivered' then now() end
          from unnest($1::bigint[], $2::text[], $3::smallint[], $4::text[], $5::int[], $6::smallint[], $7::text[])
               as u(event_seq, sink, lane, status, attempts, last_status, last_error)
        -- A row that is there: a late failure of an earlier owner, or what an operator did. DO NOTHING would lose a success behind the first.
        on conflict (event_seq, sink) do update
           set status = excluded.status, attempts = excluded.attempts, last_status = excluded.last_status, last_error = excluded.last_error,
               delivered_at = excluded.delivered_at, due_at = null, key = null
         where d.generation = 0 and d.status = 'pending'
        "#,
        &rows.iter().map(|row| row.target.event_seq).collect::<Vec<_>>(), // $1 event_seq
        &rows.iter().map(|row| &*row.target.sink).collect::<Vec<_>>() as &[&str], // $2 sink
        &rows.iter().map(|row| row.target.lane).collect::<Vec<_>>(),      // $3 lane
        &rows.iter().map(|row| row.status).collect::<Vec<_>>() as &[&str], // $4 status
        &rows.iter().map(|row| row.attempts).collect::<Vec<_>>(),         // $5 attempts
        &rows.iter().map(|row| row.last_status).collect::<Vec<_>>() as &[Option<i16>], // $6 last_status
        &rows.iter().map(|row| row.last_error.as_deref()).collect::<Vec<_>>() as &[Option<&str>], // $7 last_error
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn finish_recorded(conn: &mut PgConnection, rows: &[&Finished]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update sluice.delivery_state d
           set status = u.status, attempts = u.attempts, last_status = u.last_status, last_error = u.last_error,
               delivered_at = case when u.status = 'delivered' then now() end, due_at = null, key = null
          from unnest($1::bigint[], $2::text[], $3::int[], $4::text[], $5::int[], $6::smallint[], $7::text[])
               as u(event_seq, sink, generation, status, attempts, last_status, last_error)
         where d.event_seq = u.event_seq and d.sink = u.sink and d.generation = u.generation and d.status = 'pending'
        "#,
        &rows.iter().map(|row| row.target.event_seq).collect::<Vec<_>>(), // $1 event_seq
        &rows.iter().map(|row| &*row.target.sink).collect::<Vec<_>>() as &[&str], // $2 sink
        &rows.iter().map(|row| row.target.generation).collect::<Vec<_>>(), // $3 generation
        &rows.iter().map(|row| row.status).collect::<Vec<_>>() as &[&str], // $4 status
        &rows.iter().map(|row| row.attempts).collect::<Vec<_>>(),         // $5 attempts
        &rows.iter().map(|row| row.last_status).collect::<Vec<_>>() as &[Option<i16>], // $6 last_status
        &rows.iter().map(|row| row.last_error.as_deref()).collect::<Vec<_>>() as &[Option<&str>], // $7 last_error
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records that deliveries wait. Each only for the lane's owner, who alone may know it: the caller [holds](super::lanes::hold) the lanes.
pub async fn postpone(conn: &mut PgConnection, rows: &[&Postponed]) -> Result<(), sqlx::Error> {
    let (fresh, recorded): (Vec<&Postponed>, Vec<&Postponed>) = rows.iter().partition(|row| row.target.is_fresh);
    if !fresh.is_empty() {
        postpone_fresh(conn, &unique(fresh, |row| &row.target)).await?;
    }
    if !recorded.is_empty() {
        postpone_recorded(conn, &recorded).await?;
    }
    Ok(())
}

async fn postpone_fresh(conn: &mut PgConnection, rows: &[&Postponed]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        insert into sluice.delivery_state as d (event_seq, sink, lane, attempts, due_at, key, last_status, last_error)
        select u.event_seq, u.sink, u.lane, u.attempts, u.due_at, u.key, u.last_status, u.last_error
          from unnest($1::bigint[], $2::text[], $3::smallint[], $4::int[], $5::timestamptz[], $6::bigint[], $7::smallint[], $8::text[], $9::bigint[])
               as u(event_seq, sink, lane, attempts, due_at, key, last_status, last_error, worker)
         where u.worker = (select l.worker from sluice.lanes l where l.sink = u.sink and l.lane = u.lane)
        -- Only over a row that was never begun (of version 0.1.0): any other is an operator's.
        on conflict (event_seq, sink) do update
           set attempts = excluded.attempts, due_at = excluded.due_at, key = excluded.key,
               last_status = excluded.last_status, last_error = excluded.last_error
         where d.generation = 0 and d.status = 'pending' and d.attempts = 0 and d.due_at is null and d.key is null
        "#,
        &rows.iter().map(|row| row.target.event_seq).collect::<Vec<_>>(), // $1 event_seq
        &rows.iter().map(|row| &*row.target.sink).collect::<Vec<_>>() as &[&str], // $2 sink
        &rows.iter().map(|row| row.target.lane).collect::<Vec<_>>(),      // $3 lane
        &rows.iter().map(|row| row.attempts).collect::<Vec<_>>(),         // $4 attempts
        &rows.iter().map(|row| row.due_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>], // $5 due_at
        &rows.iter().map(|row| row.key).collect::<Vec<_>>() as &[Option<i64>], // $6 key
        &rows.iter().map(|row| row.last_status).collect::<Vec<_>>() as &[Option<i16>], // $7 last_status
        &rows.iter().map(|row| row.last_error.as_deref()).collect::<Vec<_>>() as &[Option<&str>], // $8 last_error
        &rows.iter().map(|row| row.worker).collect::<Vec<_>>(),           // $9 worker
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn postpone_recorded(conn: &mut PgConnection, rows: &[&Postponed]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update sluice.delivery_state d
           set attempts = u.attempts, due_at = u.due_at,
               -- A replay is outside the order of its key.
               key = case when d.generation = 0 then u.key end,
               last_status = coalesce(u.last_status, d.last_status), last_error = coalesce(u.last_error, d.last_error)
          from unnest($1::bigint[], $2::text[], $3::int[], $4::int[], $5::int[], $6::timestamptz[], $7::bigint[], $8::smallint[], $9::text[], $10::bigint[])
               as u(event_seq, sink, generation, attempts_before, attempts, due_at, key, last_status, last_error, worker)
         where d.event_seq = u.event_seq and d.sink = u.sink and d.generation = u.generation
           and d.attempts = u.attempts_before and d.status = 'pending'
           -- A scalar, so that it stays a probe for each row: as EXISTS it became a join, which began with the lanes and took minutes.
           and u.worker = (select l.worker from sluice.lanes l where l.sink = d.sink and l.lane = d.lane)
        "#,
        &rows.iter().map(|row| row.target.event_seq).collect::<Vec<_>>(), // $1 event_seq
        &rows.iter().map(|row| &*row.target.sink).collect::<Vec<_>>() as &[&str], // $2 sink
        &rows.iter().map(|row| row.target.generation).collect::<Vec<_>>(), // $3 generation
        &rows.iter().map(|row| row.target.attempts).collect::<Vec<_>>(),  // $4 attempts_before
        &rows.iter().map(|row| row.attempts).collect::<Vec<_>>(),         // $5 attempts
        &rows.iter().map(|row| row.due_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>], // $6 due_at
        &rows.iter().map(|row| row.key).collect::<Vec<_>>() as &[Option<i64>], // $7 key
        &rows.iter().map(|row| row.last_status).collect::<Vec<_>>() as &[Option<i16>], // $8 last_status
        &rows.iter().map(|row| row.last_error.as_deref()).collect::<Vec<_>>() as &[Option<&str>], // $9 last_error
        &rows.iter().map(|row| row.worker).collect::<Vec<_>>(),           // $10 worker
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks those of these deliveries that no other open transaction is changing, until this transaction ends; says of each whether it is
/// locked now by us.
pub async fn lock_free<'a>(conn: &mut PgConnection, targets: impl Iterator<Item = &'a Target>) -> Result<Vec<bool>, sqlx::Error> {
    let (seqs, sinks): (Vec<i64>, Vec<&str>) = targets.map(|target| (target.event_seq, &*target.sink)).unzip();
    let free = sqlx::query_scalar!(
        r#"select n as "n!" from sluice.lock_free($1, $2) as n"#,
        &seqs,             // $1 event_seqs
        &sinks as &[&str], // $2 sinks
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

/// Takes back what [`charge`] has written: the try is over, and its worker lives.
pub async fn uncharge(conn: &mut PgConnection, target: &Target) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update sluice.delivery_state set last_error = null
         where event_seq = $1 and sink = $2 and generation = $3 and attempts = $4 and status = 'pending' and last_error = any ($5)
        "#,
        target.event_seq,
        &target.sink,
        target.generation,
        target.attempts,
        &MARKS as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// `last_error` of deliveries whose tries, each written down before it began, ended with their worker: once, twice and three times in a row.
pub const MARKS: [&str; 3] = [
    "its worker ended during this try",
    "its worker ended during this try, the second time in a row",
    "its worker ended during this try, the third time in a row, when no other suspect was being tried",
];

/// Writes down before a try that it has begun, for a row that may have killed the worker that had it; a fresh one gets its row by that, due
/// now. It costs no attempt: most of these rows are innocent.
/// `mark`: how many of its tries ended so before. `false`: it is no longer ours.
pub async fn charge(conn: &mut PgConnection, target: &Target, key: Option<i64>, worker: i64, mark: u8) -> Result<bool, sqlx::Error> {
    let error = MARKS[usize::from(mark).min(MARKS.len() - 1)];
    let charged = if target.is_fresh {
        sqlx::query!(
            r#"
            insert into sluice.delivery_state as d (event_seq, sink, lane, attempts, due_at, key, last_error)
            select $1, $2, $3, 0, now(), $4, $6
             where $5 = (select l.worker from sluice.lanes l where l.sink = $2 and l.lane = $3)
            on conflict (event_seq, sink) do update
               set due_at = now(), key = excluded.key, last_error = excluded.last_error
             where d.generation = 0 and d.status = 'pending' and d.attempts = 0 and d.due_at is null and d.key is null
            "#,
            target.event_seq, // $1 event_seq
            &target.sink,     // $2 sink
            target.lane,      // $3 lane
            key,              // $4 key
            worker,           // $5 worker
            error,            // $6 last_error
        )
        .execute(conn)
        .await?
    } else {
        sqlx::query!(
            r#"
            update sluice.delivery_state
               set due_at = coalesce(due_at, now()), last_error = $7
             where event_seq = $1 and sink = $2 and generation = $3 and attempts = $4 and status = 'pending'
               and $6 = (select l.worker from sluice.lanes l where l.sink = $2 and l.lane = $5)
            "#,
            target.event_seq,  // $1 event_seq
            &target.sink,      // $2 sink
            target.generation, // $3 generation
            target.attempts,   // $4 attempts
            target.lane,       // $5 lane
            worker,            // $6 worker
            error,             // $7 last_error
        )
        .execute(conn)
        .await?
    };
    Ok(charged.rows_affected() == 1)
}
