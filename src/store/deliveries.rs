//! `sluice.deliveries`, as its workers read it: many rows a statement. [`super::outcomes`] writes it, as many.
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
