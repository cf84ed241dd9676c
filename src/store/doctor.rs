//! What `sluice doctor` looks at. However large the tables are, a look costs about the same: it goes over the newest
//! [`EVENTS_MAX`] events, counts rows of `deliveries` up to [`ROWS_MAX`] by their partial indexes, and parses [`QUIZZES_MAX`] payloads at most.
//!
//! Each look is a statement of its own, so that what a role may not see, or what takes too long, leaves the others as they are.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// How far back events are looked at.
pub const EVENTS_MAX: i64 = 100_000;
/// Rows are counted up to this; one more means "more".
pub const ROWS_MAX: i64 = 10_000;
/// Payloads that are parsed, of up to 64 KiB each.
pub const QUIZZES_MAX: i64 = 1_000;

/// Session settings of the connection. Every look is meant to go by an index, and none may hold anybody up.
pub const SETTINGS: &[(&str, &str)] = &[
    ("statement_timeout", "15s"),
    ("lock_timeout", "2s"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("default_transaction_read_only", "on"),
];

/// The server, and what durability rests on.
#[derive(Debug)]
pub struct Server {
    pub version: String,
    pub fsync: String,
    pub full_page_writes: String,
    /// Of this session.
    pub synchronous_commit: String,
    /// Roles and databases that have it off: sessions of theirs lose what was acknowledged.
    pub asynchronous_for: Vec<String>,
    /// Connections that there may be, without those reserved for superusers.
    pub connections_max: i64,
    /// Connections that there are.
    pub connections: i64,
}

pub async fn server(conn: &mut PgConnection) -> Result<Server, sqlx::Error> {
    sqlx::query_as!(
        Server,
        r#"
        select current_setting('server_version') as "version!", current_setting('fsync') as "fsync!",
               current_setting('full_page_writes') as "full_page_writes!", current_setting('synchronous_commit') as "synchronous_commit!",
               array(select coalesce('role ' || r.rolname, 'database ' || d.datname, 'all')
                       from pg_db_role_setting s
                       left join pg_roles r on r.oid = s.setrole
                       left join pg_database d on d.oid = s.setdatabase
                      where (s.setdatabase = 0 or d.datname = current_database()) and exists (
                            -- As it was written: `false` is off, too.
                            select from unnest(s.setconfig) as setting
                             where setting like 'synchronous\_commit=%'
                               and lower(split_part(setting, '=', 2)) in ('off', 'false', 'no', '0'))
                      order by 1) as "asynchronous_for!",
               current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint as "connections_max!",
               (select coalesce(sum(numbackends), 0)::bigint from pg_stat_database) as "connections!"
        "#
    )
    .fetch_one(conn)
    .await
}

/// One of Sluice's roles.
#[derive(Debug)]
pub struct Role {
    pub name: String,
    /// It has been given rights on this database. Roles are the whole server's, so it may exist for another one.
    pub is_used: bool,
    /// It has the rights that came last.
    pub is_current: bool,
}

/// The roles, by a right of each that the newest migration needs.
pub async fn roles(conn: &mut PgConnection) -> Result<Vec<Role>, sqlx::Error> {
    sqlx::query_as!(
        Role,
        r#"
        select n.name as "name!", coalesce(has_schema_privilege(r.oid, 'sluice', 'usage'), false) as "is_used!",
               coalesce(has_table_privilege(r.oid, n.relation, n.privilege), false) as "is_current!"
          from (values ('sluice_ingest', 'sluice.refusals', 'insert'), ('sluice_worker', 'sluice.watchdog', 'update'),
                       ('sluice_operator', 'sluice.watchdog', 'select'), ('sluice_reader', 'sluice.watchdog', 'select')) n(name, relation, privilege)
          left join pg_roles r on r.rolname = n.name
         order by 1
        "#
    )
    .fetch_all(conn)
    .await
}

/// A sink, with what it is owed. Counts end at [`ROWS_MAX`] + 1 each.
#[derive(Debug)]
pub struct Sink {
    pub name: String,
    pub events: Option<Vec<String>>,
    pub is_retired: bool,
    pub paused: bool,
    /// What opened its breaker, where that is not closed.
    pub rests_for: Option<String>,
    pub fresh: i64,
    pub waiting: i64,
    pub dead: i64,
    /// Given up in the last day, by the per-minute counters.
    pub dead_last_day: i64,
    /// Since when the oldest fresh one is owed.
    pub oldest: Option<DateTime<Utc>>,
    /// Live workers that have it in their config.
    pub workers: i64,
    /// Lanes without a live owner.
    pub lanes_unowned: i64,
}

/// Every sink, by name.
pub async fn sinks(conn: &mut PgConnection) -> Result<Vec<Sink>, sqlx::Error> {
    sqlx::query_as!(
        Sink,
        r#"
        select s.name, s.events, s.retired_at is not null as "is_retired!", s.paused,
               case when s.breaker <> 'closed' then coalesce(s.breaker_reason, 'no reason kept') end as rests_for,
               -- The predicates are the partial indexes' own, so that no finished row is read.
               (select count(*) from (select from sluice.deliveries d
                 where d.sink = s.name and d.status = 'pending' and d.due_at is null limit $1::bigint + 1) x) as "fresh!",
               (select count(*) from (select from sluice.deliveries d
                 where d.sink = s.name and d.status = 'pending' and d.due_at is not null and d.generation = 0 limit $1::bigint + 1) x)
               + (select count(*) from (select from sluice.deliveries d
                 where d.sink = s.name and d.status = 'pending' and d.due_at is not null and d.generation > 0 limit $1::bigint + 1) x) as "waiting!",
               (select count(*) from (select from sluice.deliveries d where d.sink = s.name and d.status = 'dead' limit $1::bigint + 1) x) as "dead!",
               (select coalesce(sum(c.dead), 0)::bigint from sluice.counters c where c.sink = s.name) as "dead_last_day!",
               (select e.received_at from sluice.events e where e.seq = (
                   -- The first of each lane, which the index begins with.
                   select min(f.event_seq) from generate_series(0, 63) l(lane) cross join lateral (
                       select d.event_seq from sluice.deliveries d
                        where d.sink = s.name and d.lane = l.lane and d.status = 'pending' and d.due_at is null
                        order by d.event_seq limit 1) f)) as oldest,
               (select count(*) from sluice.workers w where s.name = any (w.sinks) and w.expires_at > now()) as "workers!",
               (select count(*) from sluice.lanes l where l.sink = s.name
                   and not exists (select from sluice.workers w where w.id = l.worker and w.expires_at > now())) as "lanes_unowned!"
          from sluice.sinks s
         order by s.name
        "#,
        ROWS_MAX,
    )
    .fetch_all(conn)
    .await
}

/// Names (host:pid) of the workers whose lease is live.
pub async fn workers(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!("select name from sluice.workers where expires_at > now() order by name").fetch_all(conn).await
}

/// The newest events of one source and type.
#[derive(Debug)]
pub struct Kind {
    pub source: String,
    pub event_type: Option<String>,
    pub events: i64,
    pub last: DateTime<Utc>,
    /// Not quarantined, in the last hour.
    pub accepted_last_hour: i64,
    /// Without a usable id of their own.
    pub derived_ids: i64,
}

/// What has arrived, among the newest events: at most 1,000 kinds, the commonest first.
pub async fn kinds(conn: &mut PgConnection) -> Result<Vec<Kind>, sqlx::Error> {
    sqlx::query_as!(
        Kind,
        r#"
        select source as "source!", type as event_type, count(*) as "events!", max(received_at) as "last!",
               count(*) filter (where quarantine is null and received_at > now() - interval '1 hour') as "accepted_last_hour!",
               count(*) filter (where derived_id) as "derived_ids!"
          from (select source, type, received_at, quarantine, derived_id from sluice.events order by seq desc limit $1) e
         group by source, type order by count(*) desc limit 1000
        "#,
        EVENTS_MAX,
    )
    .fetch_all(conn)
    .await
}

/// Why events are held back.
#[derive(Debug)]
pub struct Quarantine {
    pub reason: String,
    pub events: i64,
    pub last: DateTime<Utc>,
    pub example_event_id: String,
}

/// What is held back among the newest events, by reason: at most 50, the commonest first.
pub async fn quarantines(conn: &mut PgConnection) -> Result<Vec<Quarantine>, sqlx::Error> {
    sqlx::query_as!(
        Quarantine,
        r#"
        select quarantine as "reason!", count(*) as "events!", max(received_at) as "last!", max(event_id) as "example_event_id!"
          from (select quarantine, received_at, event_id from sluice.events order by seq desc limit $1) e
         where quarantine is not null
         group by quarantine order by count(*) desc limit 50
        "#,
        EVENTS_MAX,
    )
    .fetch_all(conn)
    .await
}

/// Events that share their whole body with another one that has another id.
#[derive(Debug)]
pub struct Repeats {
    /// Bodies that came under more than one id.
    pub bodies: i64,
    /// Events in all that have one of these.
    pub events: i64,
    /// The ids of one such body, three at most.
    pub example_event_ids: Vec<String>,
}

/// The same bodies among the newest events, told by their hashes.
pub async fn repeats(conn: &mut PgConnection) -> Result<Repeats, sqlx::Error> {
    sqlx::query_as!(
        Repeats,
        r#"
        with repeated as (
            select count(*) as events, (array_agg(event_id order by seq desc))[1:3] as ids
              from (select seq, source, event_id, payload_hash, quarantine from sluice.events order by seq desc limit $1) e
             where quarantine is null
             group by source, payload_hash having count(*) > 1)
        select count(*) as "bodies!", coalesce(sum(events), 0)::bigint as "events!",
               coalesce((select ids from repeated order by events desc limit 1), '{}') as "example_event_ids!"
          from repeated
        "#,
        EVENTS_MAX,
    )
    .fetch_one(conn)
    .await
}

/// The same of whole signed requests, timestamp and signature included, of up to 1,000 such bodies. Needs to read payloads.
pub async fn repeated_requests(conn: &mut PgConnection) -> Result<Repeats, sqlx::Error> {
    sqlx::query_as!(
        Repeats,
        r#"
        with recent as materialized (
            select seq, source, event_id, payload_hash
              from (select seq, source, event_id, payload_hash, quarantine from sluice.events order by seq desc limit $1) e
             where quarantine is null),
        bodies as (select source, payload_hash from recent group by 1, 2 having count(*) > 1 limit 1000),
        suspects as (select r.* from recent r join bodies b on b.source = r.source and b.payload_hash = r.payload_hash limit $2),
        repeated as (
            select count(*) as events, (array_agg(s.event_id order by s.seq desc))[1:3] as ids
              from suspects s join sluice.payloads p on p.event_seq = s.seq
             group by s.source, p.headers ->> 'timestamp', lower(p.headers ->> 'signature') having count(*) > 1)
        select count(*) as "bodies!", coalesce(sum(events), 0)::bigint as "events!",
               coalesce((select ids from repeated order by events desc limit 1), '{}') as "example_event_ids!"
          from repeated
        "#,
        EVENTS_MAX,
        ROWS_MAX,
    )
    .fetch_one(conn)
    .await
}

/// What a source had to be refused in the last day.
#[derive(Debug)]
pub struct Refusals {
    pub source: String,
    /// Answered 403.
    pub forbidden: i64,
    pub forbidden_last_hour: i64,
    /// Answered 401.
    pub unsigned: i64,
    pub unsigned_last_hour: i64,
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
}

/// Every source that was sent requests which were refused.
pub async fn refusals(conn: &mut PgConnection) -> Result<Vec<Refusals>, sqlx::Error> {
    sqlx::query_as!(
        Refusals,
        r#"
        select source, sum(forbidden)::bigint as "forbidden!", sum(unsigned)::bigint as "unsigned!",
               coalesce(sum(forbidden) filter (where minute > now() - interval '1 hour'), 0)::bigint as "forbidden_last_hour!",
               coalesce(sum(unsigned) filter (where minute > now() - interval '1 hour'), 0)::bigint as "unsigned_last_hour!",
               min(minute) as "first!", max(minute) as "last!"
          from sluice.refusals where minute > now() - interval '1 day'
         group by source order by source
        "#
    )
    .fetch_all(conn)
    .await
}

/// How many requests are kept that did not verify, up to [`ROWS_MAX`] + 1.
pub async fn kept(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"select count(*) as "kept!" from (select id from sluice.unverified limit $1::bigint + 1) u"#, ROWS_MAX)
        .fetch_one(conn)
        .await
}

/// Scores of the newest `quiz.submitted`.
#[derive(Debug)]
pub struct Scores {
    pub quizzes: i64,
    /// Practice quizzes: they are said to carry none.
    pub practice: i64,
    pub practice_without: i64,
    /// All others.
    pub graded_without: i64,
}

/// Which of the newest quizzes carry a score. Needs to read payloads.
pub async fn scores(conn: &mut PgConnection) -> Result<Scores, sqlx::Error> {
    sqlx::query_as!(
        Scores,
        r#"
        select count(*) as "quizzes!", count(*) filter (where practice) as "practice!",
               count(*) filter (where practice and not scored) as "practice_without!",
               count(*) filter (where not practice and not scored) as "graded_without!"
          from (select coalesce(jsonb_typeof(b.data -> 'score') in ('number', 'string'), false) as scored,
                       coalesce(b.data ->> 'quizType', '') ilike '%practice%' as practice
                  from (select seq from (select seq, type from sluice.events order by seq desc limit $1) e
                         where type = 'quiz.submitted' order by seq desc limit $2) q
                  join sluice.payloads p on p.event_seq = q.seq
                 cross join lateral (select sluice.try_jsonb(p.payload) -> 'data' as data) b
                 where octet_length(p.payload) <= 65536) s
        "#,
        EVENTS_MAX,
        QUIZZES_MAX,
    )
    .fetch_one(conn)
    .await
}

/// What the watchdog saw.
#[derive(Debug)]
pub struct Watch {
    pub claimed_at: Option<DateTime<Utc>>,
    pub checked_at: Option<DateTime<Utc>>,
    pub webhooks: Option<i32>,
    pub error: Option<String>,
    pub reactivated_at: Option<DateTime<Utc>>,
    pub reactivated: Option<Vec<String>>,
}

pub async fn watch(conn: &mut PgConnection) -> Result<Watch, sqlx::Error> {
    sqlx::query_as!(Watch, "select claimed_at, checked_at, webhooks, error, reactivated_at, reactivated from sluice.watchdog")
        .fetch_one(conn)
        .await
}

/// The time, by the database's clock.
pub async fn now(conn: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(r#"select now() as "now!""#).fetch_one(conn).await
}
