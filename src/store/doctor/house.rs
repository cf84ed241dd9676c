//! What is the operator's own: server, roles, sinks, workers.

use super::ROWS_MAX;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

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
        select n.name as "name!", coalesce(bool_and(has_schema_privilege(r.oid, 'sluice', 'usage')), false) as "is_used!",
               coalesce(bool_and(has_table_privilege(r.oid, n.relation, n.privilege)), false) as "is_current!"
          from (values ('sluice_ingest', 'sluice.refusals', 'insert'), ('sluice_ingest', 'sluice.log', 'insert'),
                       ('sluice_worker', 'sluice.watchdog', 'update'), ('sluice_worker', 'sluice.delivery_state', 'select'),
                       ('sluice_operator', 'sluice.watchdog', 'select'), ('sluice_operator', 'sluice.delivery_state', 'select'),
                       ('sluice_reader', 'sluice.watchdog', 'select'), ('sluice_reader', 'sluice.ranges', 'select')) n(name, relation, privilege)
          left join pg_roles r on r.rolname = n.name
         group by n.name
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
               least(coalesce(b.fresh, 0), $1::bigint + 1) as "fresh!", least(coalesce(b.waiting, 0), $1::bigint + 1) as "waiting!",
               (select count(*) from (select from sluice.delivery_state d where d.sink = s.name and d.status = 'dead' limit $1::bigint + 1) x) as "dead!",
               (select coalesce(sum(c.dead), 0)::bigint from sluice.counters c where c.sink = s.name) as "dead_last_day!",
               b.fresh_received_at as oldest,
               (select count(*) from sluice.workers w where s.name = any (w.sinks) and w.expires_at > now()) as "workers!",
               (select count(*) from sluice.lanes l where l.sink = s.name
                   and not exists (select from sluice.workers w where w.id = l.worker and w.expires_at > now())) as "lanes_unowned!"
          from sluice.sinks s left join sluice.backlog b on b.sink = s.name
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
