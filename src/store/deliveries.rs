//! `sluice.deliveries`, as its workers read and write it: many rows a statement, in both directions.
//!
//! These statements must run on connections with [`PLANNER`]: a prepared statement that was planned on an empty table
//! keeps its sequential scan as the table grows.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Planner settings for the workers' connections. Every statement here is meant to go by an index, row by row; on a
/// table that was empty when the statement was planned, Postgres would choose otherwise, and keep to it.
///
/// JIT is off because a forbidden plan node is charged with an absurd cost, for which Postgres would compile each statement
/// anew: half a second, measured. Memoize keeps rows of joins that never ask for the same row twice.
pub const PLANNER: [(&str, &str); 6] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
    ("enable_memoize", "off"),
];

/// Payloads up to this size come with the row; a larger one is read when its turn has come, so that what is read
/// ahead is bounded in bytes too.
pub const INLINE_PAYLOAD_BYTES_MAX: i32 = 4096;

/// Why a row is due. The numbers are those of the `origin` column in [`read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Never kept waiting.
    Fresh,
    /// Kept waiting by a retry or by a predecessor.
    Waiting,
    /// An operator asked for it again.
    Replay,
}

/// What to read of one lane's fresh rows: the next `limit` rows after position `after`.
#[derive(Debug, Clone)]
pub struct FreshRange<'a> {
    /// The caller's number for the sink: rows come back with it.
    pub tag: i32,
    pub sink: &'a str,
    pub lane: i16,
    pub after: i64,
    pub limit: i64,
}

/// What to read of one lane's waiting rows, or of its replays: the next `limit` due rows after (`due`, `seq`).
#[derive(Debug, Clone)]
pub struct DueRange<'a> {
    /// The caller's number for the sink: rows come back with it.
    pub tag: i32,
    pub sink: &'a str,
    pub lane: i16,
    pub due: DateTime<Utc>,
    pub seq: i64,
    pub limit: i64,
}

/// All that one read asks for.
#[derive(Debug, Default, Clone)]
pub struct Ranges<'a> {
    pub fresh: Vec<FreshRange<'a>>,
    pub waiting: Vec<DueRange<'a>>,
    pub replay: Vec<DueRange<'a>>,
}

impl Ranges<'_> {
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.waiting.is_empty() && self.replay.is_empty()
    }
}

/// A row that is due, with what its try needs.
#[derive(Debug)]
pub struct DueRow {
    pub origin: Origin,
    /// Of the range it was found by.
    pub tag: i32,
    pub lane: i16,
    pub event_seq: i64,
    pub generation: i32,
    pub attempts: i32,
    /// `None` for a fresh row.
    pub due_at: Option<DateTime<Utc>>,
    pub source: String,
    pub event_id: String,
    pub event_type: Option<String>,
    pub order_key: Option<String>,
    pub received_at: DateTime<Utc>,
    pub traceparent: Option<String>,
    /// `None` where it is larger than [`INLINE_PAYLOAD_BYTES_MAX`] or gone: see [`payload`].
    pub payload: Option<Vec<u8>>,
}

/// Reads due rows of many lanes at once. One LATERAL probe a lane: a single range over all lanes would starve the late ones.
pub async fn read(conn: &mut PgConnection, ranges: &Ranges<'_>) -> Result<Vec<DueRow>, sqlx::Error> {
    let (w, r) = (due_binds(&ranges.waiting), due_binds(&ranges.replay));
    let rows = sqlx::query!(
        r#"
        select k.origin as "origin!", k.tag as "tag!", k.lane as "lane!", k.event_seq as "event_seq!",
               k.generation as "generation!", k.attempts as "attempts!", k.due_at,
               e.source, e.event_id, e.type as event_type, e.order_key, e.received_at,
               p.headers ->> 'traceparent' as traceparent,
               -- octet_length reads a large payload's size from its TOAST pointer, not the payload.
               case when octet_length(p.payload) <= $1 then p.payload end as payload
          from (
               select 0 as origin, l.tag, l.lane, d.event_seq, d.generation, d.attempts, d.due_at
                 from unnest($2::int[], $3::text[], $4::smallint[], $5::bigint[], $6::bigint[]) as l(tag, sink, lane, after, n)
                cross join lateral (
                      select event_seq, generation, attempts, due_at from sluice.deliveries
                       where sink = l.sink and lane = l.lane and status = 'pending' and due_at is null and event_seq > l.after
                       order by event_seq limit l.n) d
               union all
               select 1, l.tag, l.lane, d.event_seq, d.generation, d.attempts, d.due_at
                 from unnest($7::int[], $8::text[], $9::smallint[], $10::timestamptz[], $11::bigint[], $12::bigint[]) as l(tag, sink, lane, due, seq, n)
                cross join lateral (
                      select event_seq, generation, attempts, due_at from sluice.deliveries
                       where sink = l.sink and lane = l.lane and status = 'pending' and due_at is not null and generation = 0
                         and (due_at, event_seq) > (l.due, l.seq) and due_at <= now()
                       order by due_at, event_seq limit l.n) d
               union all
               select 2, l.tag, l.lane, d.event_seq, d.generation, d.attempts, d.due_at
                 from unnest($13::int[], $14::text[], $15::smallint[], $16::timestamptz[], $17::bigint[], $18::bigint[]) as l(tag, sink, lane, due, seq, n)
                cross join lateral (
                      select event_seq, generation, attempts, due_at from sluice.deliveries
                       where sink = l.sink and lane = l.lane and status = 'pending' and due_at is not null and generation > 0
                         and (due_at, event_seq) > (l.due, l.seq) and due_at <= now()
                       order by due_at, event_seq limit l.n) d
               ) k
          join sluice.events e on e.seq = k.event_seq
          left join sluice.payloads p on p.event_seq = k.event_seq
        "#,
        INLINE_PAYLOAD_BYTES_MAX,
        &ranges.fresh.iter().map(|l| l.tag).collect::<Vec<_>>(),
        &ranges.fresh.iter().map(|l| l.sink).collect::<Vec<_>>() as &[&str],
        &ranges.fresh.iter().map(|l| l.lane).collect::<Vec<_>>(),
        &ranges.fresh.iter().map(|l| l.after).collect::<Vec<_>>(),
        &ranges.fresh.iter().map(|l| l.limit).collect::<Vec<_>>(),
        &w.tags,
        &w.sinks as &[&str],
        &w.lanes,
        &w.dues,
        &w.seqs,
        &w.limits,
        &r.tags,
        &r.sinks as &[&str],
        &r.lanes,
        &r.dues,
        &r.seqs,
        &r.limits,
    )
    .fetch_all(conn)
    .await?;
    let origin = |number| match number {
        0 => Origin::Fresh,
        1 => Origin::Waiting,
        _ => Origin::Replay,
    };
    Ok(rows
        .into_iter()
        .map(|r| DueRow {
            origin: origin(r.origin),
            tag: r.tag,
            lane: r.lane,
            event_seq: r.event_seq,
            generation: r.generation,
            attempts: r.attempts,
            due_at: r.due_at,
            source: r.source,
            event_id: r.event_id,
            event_type: r.event_type,
            order_key: r.order_key,
            received_at: r.received_at,
            traceparent: r.traceparent,
            payload: r.payload,
        })
        .collect())
}

/// The columns of `unnest` for due ranges.
struct DueBinds<'a> {
    tags: Vec<i32>,
    sinks: Vec<&'a str>,
    lanes: Vec<i16>,
    dues: Vec<DateTime<Utc>>,
    seqs: Vec<i64>,
    limits: Vec<i64>,
}

fn due_binds<'a>(ranges: &[DueRange<'a>]) -> DueBinds<'a> {
    DueBinds {
        tags: ranges.iter().map(|l| l.tag).collect(),
        sinks: ranges.iter().map(|l| l.sink).collect(),
        lanes: ranges.iter().map(|l| l.lane).collect(),
        dues: ranges.iter().map(|l| l.due).collect(),
        seqs: ranges.iter().map(|l| l.seq).collect(),
        limits: ranges.iter().map(|l| l.limit).collect(),
    }
}

/// Reads one payload, for a row whose payload was too large to come with it. `None`: it was pruned or erased.
pub async fn payload(conn: &mut PgConnection, event_seq: i64) -> Result<Option<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar!("select payload from sluice.payloads where event_seq = $1", event_seq).fetch_optional(conn).await
}

/// A key that has waiting rows: the one of lowest position, and when that is due.
#[derive(Debug)]
pub struct WaitingHead {
    pub lane: i16,
    pub order_key: String,
    pub event_seq: i64,
    pub due_at: DateTime<Utc>,
}

/// The waiting heads of some lanes: what a new owner must know before its first try. Replays are outside the order.
pub async fn waiting_heads(conn: &mut PgConnection, sink: &str, lanes: &[i16]) -> Result<Vec<WaitingHead>, sqlx::Error> {
    sqlx::query_as!(
        WaitingHead,
        r#"
        select distinct on (d.lane, e.order_key)
               d.lane, e.order_key as "order_key!", d.event_seq, d.due_at as "due_at!"
          from sluice.deliveries d join sluice.events e on e.seq = d.event_seq
         where d.sink = $1 and d.lane = any ($2) and d.status = 'pending' and d.due_at is not null and d.generation = 0
           and e.order_key is not null
         order by d.lane, e.order_key, d.event_seq
        "#,
        sink,
        lanes,
    )
    .fetch_all(conn)
    .await
}

/// How far positions have been given out, and who may still commit some of them.
#[derive(Debug)]
pub struct Issued {
    /// The highest position given out.
    pub last: i64,
    /// The transactions that are writing to `events`: whatever lies up to `last` is theirs, or can be seen by now.
    pub writers: Vec<String>,
}

/// See [`Issued`].
pub async fn issued(conn: &mut PgConnection) -> Result<Issued, sqlx::Error> {
    sqlx::query_as!(
        Issued,
        r#"
        select case when s.is_called then s.last_value else s.last_value - 1 end as "last!",
               -- Asked after last_value was read, which the reference to it sees to: a writer locks the table, then numbers.
               array(select distinct virtualtransaction from pg_locks
                      where locktype = 'relation' and relation = 'sluice.events'::regclass and mode = 'RowExclusiveLock'
                        and s.last_value is not null) as "writers!"
          from sluice.event_seq s
        "#
    )
    .fetch_one(conn)
    .await
}

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
