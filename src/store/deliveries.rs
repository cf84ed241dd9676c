//! `sluice.delivery_state`, as its workers read it: what waits for a time, a predecessor, or its turn in a replay. [`super::log`] reads what
//! is fresh, [`super::outcomes`] writes.
//!
//! These statements must run on connections with [`PLANNER`]: a prepared statement that was planned on an empty table
//! keeps its sequential scan as the table grows.

use super::outcomes::MARKS;
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

/// Why a row is due. The numbers are those of the `origin` column in [`read`], in which fresh rows have no part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Never kept waiting: it comes from the log, and has no row of its own.
    Fresh,
    /// Kept waiting by a retry or by a predecessor.
    Waiting,
    /// An operator asked for it again.
    Replay,
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

/// One key whose waiting rows are to be read, in their order.
#[derive(Debug, Clone)]
pub struct KeyPage<'a> {
    pub tag: i32,
    pub sink: &'a str,
    pub lane: i16,
    pub key: i64,
    pub limit: i64,
}

/// All that one read asks for.
#[derive(Debug, Default, Clone)]
pub struct Ranges<'a> {
    pub waiting: Vec<DueRange<'a>>,
    pub replay: Vec<DueRange<'a>>,
    pub pages: Vec<KeyPage<'a>>,
}

impl Ranges<'_> {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.replay.is_empty() && self.pages.is_empty()
    }
}

/// What a row was read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBy {
    /// Its time has come.
    Due,
    /// Its key was asked for; its time may not have come, and it may have none.
    Page,
}

/// A row that waits, with what its try needs.
#[derive(Debug)]
pub struct WaitingRow {
    pub read_by: ReadBy,
    pub origin: Origin,
    /// Of the range it was found by.
    pub tag: i32,
    pub lane: i16,
    pub event_seq: i64,
    pub generation: i32,
    pub attempts: i32,
    /// `None`: parked behind an earlier event of its key.
    pub due_at: Option<DateTime<Utc>>,
    pub key: Option<i64>,
    /// Nothing of its key waits before it.
    pub is_head: bool,
    /// How many of its tries in a row ended with their worker: see [`MARKS`].
    pub mark: u8,
    /// `None`: the event was deleted.
    pub event: Option<WaitingEvent>,
}

/// The event of a row that waits.
#[derive(Debug)]
pub struct WaitingEvent {
    pub source: String,
    pub event_id: String,
    pub event_type: Option<String>,
    pub order_key: Option<String>,
    pub received_at: DateTime<Utc>,
    pub traceparent: Option<String>,
    /// `None` where it is larger than [`INLINE_PAYLOAD_BYTES_MAX`] or gone: see [`payload`].
    pub payload: Option<Vec<u8>>,
    /// Its size; `None`: it is gone.
    pub payload_bytes: Option<i32>,
}

/// Reads waiting rows of many lanes at once. One LATERAL probe a lane: a single range over all lanes would starve the late ones.
pub async fn read(conn: &mut PgConnection, ranges: &Ranges<'_>) -> Result<Vec<WaitingRow>, sqlx::Error> {
    let (w, r, pages) = (due_binds(&ranges.waiting), due_binds(&ranges.replay), &ranges.pages);
    let rows = sqlx::query!(
        r#"
        select k.origin as "origin!", k.tag as "tag!", k.lane as "lane!", k.event_seq as "event_seq!",
               k.generation as "generation!", k.attempts as "attempts!", k.due_at, k.key, k.is_head as "is_head!",
               coalesce(array_position($19::text[], k.last_error), 0) as "mark!",
               e.source as "source?", e.event_id as "event_id?", e.type as event_type, e.order_key, e.received_at as "received_at?",
               p.headers ->> 'traceparent' as traceparent,
               -- octet_length reads a large payload's size from its TOAST pointer, not the payload.
               case when octet_length(p.payload) <= $1 then p.payload end as payload, octet_length(p.payload) as payload_bytes
          from (
               select 1 as origin, l.tag, l.lane, d.event_seq, d.generation, d.attempts, d.due_at, d.last_error, d.key,
                      d.key is null or not exists (
                          select from sluice.delivery_state h
                           where h.sink = l.sink and h.lane = l.lane and h.key = d.key and h.status = 'pending' and h.key is not null
                             and h.event_seq < d.event_seq) as is_head
                 from unnest($2::int[], $3::text[], $4::smallint[], $5::timestamptz[], $6::bigint[], $7::bigint[]) as l(tag, sink, lane, due, seq, n)
                cross join lateral (
                      select event_seq, generation, attempts, due_at, last_error, key from sluice.delivery_state
                       where sink = l.sink and lane = l.lane and status = 'pending' and due_at is not null and generation = 0
                         and (due_at, event_seq) > (l.due, l.seq) and due_at <= now()
                       order by due_at, event_seq limit l.n) d
               union all
               select 2, l.tag, l.lane, d.event_seq, d.generation, d.attempts, d.due_at, d.last_error, null, true
                 from unnest($8::int[], $9::text[], $10::smallint[], $11::timestamptz[], $12::bigint[], $13::bigint[]) as l(tag, sink, lane, due, seq, n)
                cross join lateral (
                      select event_seq, generation, attempts, due_at, last_error from sluice.delivery_state
                       where sink = l.sink and lane = l.lane and status = 'pending' and due_at is not null and generation > 0
                         and (due_at, event_seq) > (l.due, l.seq) and due_at <= now()
                       order by due_at, event_seq limit l.n) d
               union all
               select 3, l.tag, l.lane, d.event_seq, d.generation, d.attempts, d.due_at, d.last_error, l.key, true
                 from unnest($14::int[], $15::text[], $16::smallint[], $17::bigint[], $18::bigint[]) as l(tag, sink, lane, key, n)
                cross join lateral (
                      select event_seq, generation, attempts, due_at, last_error from sluice.delivery_state
                       where sink = l.sink and lane = l.lane and key = l.key and status = 'pending' and key is not null
                       order by event_seq limit l.n) d
               ) k
          -- An event that was deleted must not keep its row from being ended.
          left join sluice.log e on e.seq = k.event_seq
          left join sluice.payloads p on p.event_seq = k.event_seq
        "#,
        INLINE_PAYLOAD_BYTES_MAX, // $1 inline_max
        &w.tags,                  // $2 waiting: tag
        &w.sinks as &[&str],      // $3 sink
        &w.lanes,                 // $4 lane
        &w.dues,                  // $5 due
        &w.seqs,                  // $6 seq
        &w.limits,                // $7 n
        &r.tags,                  // $8 replays: tag
        &r.sinks as &[&str],      // $9 sink
        &r.lanes,                 // $10 lane
        &r.dues,                  // $11 due
        &r.seqs,                  // $12 seq
        &r.limits,                // $13 n
        &pages.iter().map(|page| page.tag).collect::<Vec<_>>(), // $14 pages: tag
        &pages.iter().map(|page| page.sink).collect::<Vec<_>>() as &[&str], // $15 sink
        &pages.iter().map(|page| page.lane).collect::<Vec<_>>(), // $16 lane
        &pages.iter().map(|page| page.key).collect::<Vec<_>>(), // $17 key
        &pages.iter().map(|page| page.limit).collect::<Vec<_>>(), // $18 n
        &MARKS as &[&str],        // $19 marks
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| WaitingRow {
            read_by: if r.origin == 3 { ReadBy::Page } else { ReadBy::Due },
            origin: if r.origin == 2 { Origin::Replay } else { Origin::Waiting },
            tag: r.tag,
            lane: r.lane,
            event_seq: r.event_seq,
            generation: r.generation,
            attempts: r.attempts,
            due_at: r.due_at,
            key: r.key,
            is_head: r.is_head,
            mark: r.mark as u8,
            event: (|| {
                Some(WaitingEvent {
                    source: r.source?,
                    event_id: r.event_id?,
                    event_type: r.event_type,
                    order_key: r.order_key,
                    received_at: r.received_at?,
                    traceparent: r.traceparent,
                    payload: r.payload,
                    payload_bytes: r.payload_bytes,
                })
            })(),
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

/// Where a sweep of one lane's keys goes on: after this key.
#[derive(Debug, Clone)]
pub struct Sweep<'a> {
    /// The caller's number for the sink: rows come back with it.
    pub tag: i32,
    pub sink: &'a str,
    pub lane: i16,
    pub after: i64,
}

/// A row that a sweep has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    pub tag: i32,
    pub lane: i16,
    pub key: i64,
    pub event_seq: i64,
    /// It has no time: it is parked.
    pub is_parked: bool,
}

/// Rows that one sweep of a lane looks at.
pub const SWEEP_ROWS: i64 = 256;

/// Reads on through the keys of some lanes that have rows waiting, [`SWEEP_ROWS`] rows of each lane, by key and position.
pub async fn sweep(conn: &mut PgConnection, sweeps: &[Sweep<'_>]) -> Result<Vec<Swept>, sqlx::Error> {
    sqlx::query_as!(
        Swept,
        r#"
        select l.tag as "tag!", l.lane as "lane!", d.key as "key!", d.event_seq as "event_seq!", d.due_at is null as "is_parked!"
          from unnest($1::int[], $2::text[], $3::smallint[], $4::bigint[]) as l(tag, sink, lane, after)
         cross join lateral (
               select key, event_seq, due_at from sluice.delivery_state
                where sink = l.sink and lane = l.lane and status = 'pending' and key is not null and key > l.after
                order by key, event_seq limit $5) d
        "#,
        &sweeps.iter().map(|sweep| sweep.tag).collect::<Vec<_>>(), // $1 tag
        &sweeps.iter().map(|sweep| sweep.sink).collect::<Vec<_>>() as &[&str], // $2 sink
        &sweeps.iter().map(|sweep| sweep.lane).collect::<Vec<_>>(), // $3 lane
        &sweeps.iter().map(|sweep| sweep.after).collect::<Vec<_>>(), // $4 after
        SWEEP_ROWS,                                                // $5 limit
    )
    .fetch_all(conn)
    .await
}
