//! `sluice.workers` and `sluice.lanes`: leases, and who owns what.
//!
//! A lease ends by its row being deleted, never by being overtaken: [`reap`] deletes expired rows, and a renewal that
//! finds no row has lost. So a renewal and a takeover cannot both succeed, however they interleave.

use super::log::Asker;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// How long a lease lasts without a renewal, in seconds of the database's clock.
pub const LEASE_SECONDS: f64 = 10.0;

/// The shape of the log that this worker reads: see `workers.log_version`.
const LOG_VERSION: i32 = 2;

/// Takes a lease for this process; returns its id.
pub async fn register(conn: &mut PgConnection, name: &str, epoch: i32, sinks: &[String]) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        insert into sluice.workers (name, epoch, sinks, expires_at, log_version)
        values ($1, $2, $3, now() + $4 * interval '1 second', $5)
        returning id
        "#,
        name,
        epoch,
        sinks,
        LEASE_SECONDS,
        LOG_VERSION,
    )
    .fetch_one(conn)
    .await
}

/// How one of this worker's sinks stands, as of a renewal.
#[derive(Debug, Clone)]
pub struct SinkState {
    pub name: String,
    pub paused: bool,
    pub breaker: String,
    /// Seconds until an open breaker may be probed; not positive: now.
    pub breaker_left_seconds: f64,
    pub breaker_trips: i32,
    /// Workers with a live lease that have this sink, this one included.
    pub workers: i64,
    /// Lanes that this worker owns.
    pub owned: i64,
    /// Lanes that nobody owns, or whose owner's lease is over.
    pub free: i64,
    /// `sinks.revision`: which version of what it is owed.
    pub revision: i32,
}

/// The answer to a renewal.
#[derive(Debug)]
pub struct Renewal {
    pub now: DateTime<Utc>,
    /// Seconds until the first lease of another worker ends, if there is another; not positive: it is over.
    pub next_expiry_seconds: Option<f64>,
    pub sinks: Vec<SinkState>,
}

/// Renews the lease, and looks around. `None`: the lease is lost.
pub async fn renew(conn: &mut PgConnection, worker: i64) -> Result<Option<Renewal>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        with me as (
            update sluice.workers set expires_at = now() + $2 * interval '1 second', renewed_at = now()
             where id = $1 and expires_at > now()
            returning id, sinks),
        owners as (
            select l.sink,
                   count(*) filter (where l.worker = $1) as owned,
                   count(*) filter (where w.id is null) as free
              from sluice.lanes l
              left join sluice.workers w on w.id = l.worker and w.expires_at > now()
             group by l.sink)
        select now() as "now!",
               (select extract(epoch from min(w.expires_at) - now())::float8 from sluice.workers w where w.id <> $1) as next_expiry_seconds,
               s.name as "name?", s.paused as "paused?", s.breaker as "breaker?",
               coalesce(extract(epoch from s.breaker_until - now())::float8, 0) as "breaker_left_seconds!",
               s.breaker_trips as "breaker_trips?",
               (select count(*) from sluice.workers w where w.expires_at > now() and s.name = any (w.sinks)) as "workers!",
               coalesce(o.owned, 0) as "owned!", coalesce(o.free, 0) as "free!", s.revision as "revision?"
          from me
          left join sluice.sinks s on s.name = any (me.sinks) and s.retired_at is null
          left join owners o on o.sink = s.name
        "#,
        worker,
        LEASE_SECONDS,
    )
    .fetch_all(conn)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (now, next_expiry_seconds) = (first.now, first.next_expiry_seconds);
    let sinks = rows.into_iter().filter_map(|row| {
        Some(SinkState {
            name: row.name?,
            paused: row.paused?,
            breaker: row.breaker?,
            breaker_left_seconds: row.breaker_left_seconds,
            breaker_trips: row.breaker_trips?,
            workers: row.workers,
            owned: row.owned,
            free: row.free,
            revision: row.revision?,
        })
    });
    Ok(Some(Renewal { now, next_expiry_seconds, sinks: sinks.collect() }))
}

/// Ends the leases that are over; returns how many. One whose renewal is under way is left alone.
pub async fn reap(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let reaped = sqlx::query!(
        r#"
        delete from sluice.workers
         where id in (select id from sluice.workers where expires_at <= now() for update skip locked)
        "#
    )
    .execute(conn)
    .await?;
    Ok(reaped.rows_affected())
}

/// Ends all leases: for a database that nobody else can be working on.
pub async fn end_all(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("update sluice.workers set expires_at = now()").execute(conn).await?;
    Ok(())
}

/// A lane that this worker now owns.
#[derive(Debug)]
pub struct Claimed {
    pub lane: i16,
    /// Its last owner died with it: one of its rows may be why.
    pub orphaned: bool,
    /// Up to where it is settled.
    pub settled_to: i64,
    /// The revision of the sink's subscriptions under which that may move on.
    pub revision: i32,
}

/// Takes up to `limit` free lanes of a sink.
pub async fn claim(conn: &mut PgConnection, worker: i64, sink: &str, limit: i64) -> Result<Vec<Claimed>, sqlx::Error> {
    sqlx::query_as!(
        Claimed,
        r#"
        update sluice.lanes l set worker = $1, since = now()
          from (select f.sink, f.lane, f.worker is not null as orphaned from sluice.lanes f
                 where f.sink = $2
                   -- Asked of the lane's own column, which is asked again of a lane that another has taken meanwhile. As NOT EXISTS it
                   -- was a join, whose inner side counts as empty then: the lane was taken from its new owner. No dead lease comes back.
                   and (f.worker is null or f.worker = any (array(
                       select d.worker from sluice.lanes d
                        where d.sink = $2 and d.worker is not null and not exists (select from sluice.workers w where w.id = d.worker))))
                 order by f.lane limit $3
                   for update skip locked) f
         where l.sink = f.sink and l.lane = f.lane
           -- The lease may have ended between two statements: take nothing without one.
           and exists (select from sluice.workers w where w.id = $1 and w.expires_at > now())
        returning l.lane, f.orphaned as "orphaned!", l.settled_to, l.revision
        "#,
        worker,
        sink,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Keeps lanes with their owners until this transaction ends: who claims one afterwards sees what the transaction has written. Returns
/// those that are kept; the others are being changed by an open transaction.
pub async fn hold(conn: &mut PgConnection, lanes: impl IntoIterator<Item = (&str, i16)>) -> Result<Vec<(String, i16)>, sqlx::Error> {
    let (sinks, lanes): (Vec<&str>, Vec<i16>) = lanes.into_iter().unzip();
    let held = sqlx::query!(
        r#"
        select l.sink, l.lane from sluice.lanes l join unnest($1::text[], $2::smallint[]) as u(sink, lane) on u.sink = l.sink and u.lane = l.lane
           for share of l skip locked
        "#,
        &sinks as &[&str],
        &lanes,
    )
    .fetch_all(conn)
    .await?;
    Ok(held.into_iter().map(|row| (row.sink, row.lane)).collect())
}

/// Up to where one of this worker's lanes is settled: see `lanes.settled_to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    pub sink: std::sync::Arc<str>,
    pub lane: i16,
    pub settled_to: i64,
    /// Under which revision of the sink's subscriptions.
    pub revision: i32,
}

/// Moves `settled_to` on, where this worker still owns the lane and knows what its sink is owed, and while the connection lives that has
/// asked how far positions were given out. Returns the lanes that it was moved in, or need not be.
pub async fn settle(
    conn: &mut PgConnection,
    worker: i64,
    settlements: &[Settlement],
    asker: Asker,
) -> Result<Vec<(String, i16)>, sqlx::Error> {
    let moved = sqlx::query!(
        r#"
        update sluice.lanes l set settled_to = greatest(l.settled_to, u.settled_to)
          from unnest($2::text[], $3::smallint[], $4::bigint[], $5::int[]) as u(sink, lane, settled_to, revision)
         where l.sink = u.sink and l.lane = u.lane and l.worker = $1 and l.revision = u.revision 
           and exists (select from pg_stat_get_activity($6) a where a.backend_start = $7)
        returning l.sink, l.lane
        "#,
        worker,                                                                   // $1 worker
        &settlements.iter().map(|one| &*one.sink).collect::<Vec<_>>() as &[&str], // $2 sink
        &settlements.iter().map(|one| one.lane).collect::<Vec<_>>(),              // $3 lane
        &settlements.iter().map(|one| one.settled_to).collect::<Vec<_>>(),        // $4 settled_to
        &settlements.iter().map(|one| one.revision).collect::<Vec<_>>(),          // $5 revision
        asker.pid,                                                                // $6 asker: pid
        asker.connected_at,                                                       // $7 connected_at
    )
    .fetch_all(conn)
    .await?;
    Ok(moved.into_iter().map(|row| (row.sink, row.lane)).collect())
}

/// Where the lanes of a sink stand that this worker owns.
#[derive(Debug)]
pub struct Position {
    pub lane: i16,
    pub settled_to: i64,
    pub revision: i32,
}

/// See [`Position`].
pub async fn positions(conn: &mut PgConnection, worker: i64, sink: &str) -> Result<Vec<Position>, sqlx::Error> {
    sqlx::query_as!(Position, "select lane, settled_to, revision from sluice.lanes where sink = $1 and worker = $2", sink, worker)
        .fetch_all(conn)
        .await
}

/// Hands lanes over, and tells the others. `settlements`: up to where they are settled.
pub async fn release(
    conn: &mut PgConnection,
    worker: i64,
    sink: &str,
    lanes: &[i16],
    settlements: &[Settlement],
    asker: Asker,
) -> Result<(), sqlx::Error> {
    settle(&mut *conn, worker, settlements, asker).await?;
    sqlx::query!(
        "update sluice.lanes set worker = null, since = now() where worker = $1 and sink = $2 and lane = any ($3)",
        worker,
        sink,
        lanes
    )
    .execute(&mut *conn)
    .await?;
    notify_lanes(conn).await
}

/// Ends this worker's lease and hands all its lanes over, in one transaction.
pub async fn deregister(conn: &mut PgConnection, worker: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        with freed as (update sluice.lanes set worker = null, since = now() where worker = $1)
        delete from sluice.workers where id = $1
        "#,
        worker,
    )
    .execute(&mut *conn)
    .await?;
    notify_lanes(conn).await
}

/// Tells all workers that lanes or workers have changed.
pub async fn notify_lanes(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("select pg_notify('sluice_control', 'lanes')").execute(conn).await?;
    Ok(())
}
