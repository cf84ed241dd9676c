//! What the provider sends, or has ceased to send, and what was refused of it.

use super::{EVENTS_MAX, QUIZZES_MAX, ROWS_MAX};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

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
          from (select source, type, received_at, quarantine, derived_id from sluice.log order by seq desc limit $1) e
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
          from (select quarantine, received_at, event_id from sluice.log order by seq desc limit $1) e
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
            select count(*) as events, (array_agg(e.event_id order by e.seq desc))[1:3] as ids
              from (select seq, source, event_id, quarantine from sluice.log order by seq desc limit $1) e
              join sluice.event_ids i on i.event_id = e.event_id and i.source = e.source and i.quarantined_seq = 0
             where e.quarantine is null
             group by e.source, i.payload_hash having count(*) > 1)
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
            select e.seq, e.source, e.event_id, i.payload_hash
              from (select seq, source, event_id, quarantine from sluice.log order by seq desc limit $1) e
              join sluice.event_ids i on i.event_id = e.event_id and i.source = e.source and i.quarantined_seq = 0
             where e.quarantine is null),
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
                  from (select seq from (select seq, type from sluice.log order by seq desc limit $1) e
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
