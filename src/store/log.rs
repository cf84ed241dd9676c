//! `sluice.log`, as its workers read it: by ranges of seq, for all sinks that stand at the same place.
//!
//! These statements must run on connections with [`PLANNER`](super::deliveries::PLANNER).

use super::deliveries::INLINE_PAYLOAD_BYTES_MAX;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// What to read: up to `limit` events at positions in (`after`, `until`].
///
/// Never a limit alone: a range bounds what is looked at where little of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRange {
    /// The caller's number for the reader: events come back with it.
    pub reader: i32,
    pub after: i64,
    pub until: i64,
    pub limit: i64,
    /// Lanes that are wanted, as bits.
    pub lanes: u64,
}

/// An event of the log, with what its tries need.
#[derive(Debug)]
pub struct LogEvent {
    /// Of the range it was found by.
    pub reader: i32,
    pub seq: i64,
    pub lane: i16,
    pub source: String,
    pub event_id: String,
    pub event_type: Option<String>,
    pub order_key: Option<String>,
    /// `sluice.key_hash` of the order key.
    pub key: Option<i64>,
    pub received_at: DateTime<Utc>,
    pub traceparent: Option<String>,
    /// `None` where it is larger than [`INLINE_PAYLOAD_BYTES_MAX`] or gone: see [`payload`](super::deliveries::payload).
    pub payload: Option<Vec<u8>>,
    /// Its size; `None`: it is gone.
    pub payload_bytes: Option<i32>,
    /// Sinks whose delivery of it has a row: nothing fresh is owed to them.
    pub recorded: Vec<String>,
    /// Sinks whose delivery has a row that was never begun, as 0.1.0 wrote it: it counts as fresh.
    pub unstarted: Vec<String>,
    /// The sum of the sinks' revisions when it was read: whether the caller knows what they are owed.
    pub revisions: i64,
}

/// Reads events for these sinks, in the order of their positions within each range. `types`: those that any reader wants; `None`: all.
pub async fn read(
    conn: &mut PgConnection,
    ranges: &[LogRange],
    types: Option<&[String]>,
    sinks: &[&str],
) -> Result<Vec<LogEvent>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        select r.reader as "reader!", e.seq as "seq!", e.lane as "lane!", e.source as "source!", e.event_id as "event_id!",
               e.type as event_type, e.order_key, sluice.key_hash(e.order_key) as key, e.received_at as "received_at!",
               p.headers ->> 'traceparent' as traceparent,
               -- octet_length reads a large payload's size from its TOAST pointer, not the payload.
               case when octet_length(p.payload) <= $1 then p.payload end as payload, octet_length(p.payload) as payload_bytes,
               e.rows as "rows!", (select coalesce(sum(s.revision), 0) from sluice.sinks s where s.name = any ($8::text[])) as "revisions!"
          from unnest($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) as r(reader, after, until, n, lanes)
         cross join lateral (
               select l.seq, l.lane, l.source, l.event_id, l.type, l.order_key, l.received_at,
                      -- One probe for all sinks. A sink's name begins with a letter or a digit: the sign says that its row was never begun.
                      array(select case when d.status = 'pending' and d.due_at is null and d.key is null and d.attempts = 0 and d.generation = 0
                                        then '+' || d.sink else d.sink end
                              from sluice.delivery_state d where d.event_seq = l.seq) as rows
                 from sluice.log l
                where l.seq > r.after and l.seq <= r.until and l.quarantine is null and (r.lanes >> l.lane) & 1 = 1
                  and ($7::text[] is null or l.type = any ($7))
                order by l.seq limit r.n) e
          left join sluice.payloads p on p.event_seq = e.seq
        "#,
        INLINE_PAYLOAD_BYTES_MAX,                                    // $1 inline_max
        &ranges.iter().map(|range| range.reader).collect::<Vec<_>>(), // $2 reader
        &ranges.iter().map(|range| range.after).collect::<Vec<_>>(), // $3 after
        &ranges.iter().map(|range| range.until).collect::<Vec<_>>(), // $4 until
        &ranges.iter().map(|range| range.limit).collect::<Vec<_>>(), // $5 n
        &ranges.iter().map(|range| range.lanes.cast_signed()).collect::<Vec<_>>(), // $6 lanes
        types as Option<&[String]>,                                  // $7 types
        sinks as &[&str],                                            // $8 sinks
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| {
            let (unstarted, recorded): (Vec<String>, Vec<String>) = r.rows.into_iter().partition(|row| row.starts_with('+'));
            LogEvent {
                reader: r.reader,
                seq: r.seq,
                lane: r.lane,
                source: r.source,
                event_id: r.event_id,
                event_type: r.event_type,
                order_key: r.order_key,
                key: r.key,
                received_at: r.received_at,
                traceparent: r.traceparent,
                payload: r.payload,
                payload_bytes: r.payload_bytes,
                recorded,
                revisions: r.revisions,
                unstarted: unstarted.into_iter().map(|row| row[1..].to_owned()).collect(),
            }
        })
        .collect())
}

/// Which keys are asked about: the deliveries of `sink` in `lane` that wait in the order of `key`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyOfSink<'a> {
    pub sink: &'a str,
    pub lane: i16,
    pub key: i64,
}

/// Of each of these keys the first position that waits, in their order; `None`: nothing of it waits.
pub async fn first_waiting(conn: &mut PgConnection, keys: &[KeyOfSink<'_>]) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        select u.n as "n!", d.event_seq as "event_seq!"
          from unnest($1::text[], $2::smallint[], $3::bigint[]) with ordinality as u(sink, lane, key, n)
         cross join lateral (
               select d.event_seq from sluice.delivery_state d
                where d.sink = u.sink and d.lane = u.lane and d.key = u.key and d.status = 'pending' and d.key is not null
                order by d.event_seq limit 1) d
        "#,
        &keys.iter().map(|key| key.sink).collect::<Vec<_>>() as &[&str], // $1 sink
        &keys.iter().map(|key| key.lane).collect::<Vec<_>>(),            // $2 lane
        &keys.iter().map(|key| key.key).collect::<Vec<_>>(),             // $3 key
    )
    .fetch_all(conn)
    .await?;
    let mut first = vec![None; keys.len()];
    for row in rows {
        // Ordinality counts from 1.
        first[row.n as usize - 1] = Some(row.event_seq);
    }
    Ok(first)
}

/// How far positions have been given out, and who may still commit some of them.
#[derive(Debug)]
pub struct Issued {
    /// The highest position given out.
    pub last: i64,
    /// The transactions that have numbered something: whatever lies up to `last` is theirs, or can be seen by now.
    pub writers: Vec<String>,
    /// Who asked. What was said holds as long as that connection does: a crash takes positions back that nobody has committed, and they are
    /// given out again.
    pub asker: Asker,
}

/// A connection, as the server knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asker {
    pub pid: i32,
    pub connected_at: DateTime<Utc>,
}

/// See [`Issued`].
pub async fn issued(conn: &mut PgConnection) -> Result<Issued, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        select case when s.is_called then s.last_value else s.last_value - 1 end as "last!",
               -- Asked after last_value was read, which the reference to it sees to: a writer locks the sequence, then numbers, and keeps
               -- the lock until it ends. Other changes of the log do not lock it.
               array(select distinct virtualtransaction from pg_locks
                      where locktype = 'relation' and relation = 'sluice.event_seq'::regclass and mode = 'RowExclusiveLock'
                        and database = (select oid from pg_database where datname = current_database())
                        and s.last_value is not null) as "writers!",
               a.pid as "pid!", a.backend_start as "connected_at!"
          from sluice.event_seq s cross join pg_stat_get_activity(pg_backend_pid()) a
        "#
    )
    .fetch_one(conn)
    .await?;
    Ok(Issued { last: row.last, writers: row.writers, asker: Asker { pid: row.pid, connected_at: row.connected_at } })
}
