//! The schema's versions: brings a database up to the one this binary knows, and refuses to work on any other.
//!
//! Each migration and its row in `sluice.migrations` are one transaction, so a run killed at any point leaves whole
//! migrations only. Runs at the same time wait for each other on an advisory lock.
//!
//! The queries on `sluice.migrations` are checked at run time: the table exists before any migration, made by sqlx.

use super::pooler::{self, NotOurs};
use super::servers::{Connection, Servers, UrlError};
use chrono::{DateTime, Utc};
use sqlx::migrate::{Migrate, Migration};
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection};
use std::time::Duration;

/// The oldest major version of PostgreSQL that Sluice runs on.
pub const SERVER_MAJOR_MIN: u32 = 14;

const TABLE: &str = "sluice.migrations";

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// A migration that [`up`] has just applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub version: i64,
    pub description: String,
    /// How long it took.
    pub took: Duration,
}

/// A migration that [`up`] would apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub version: i64,
    pub description: String,
    pub sql: &'static str,
}

/// One line of [`status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub version: i64,
    pub description: String,
    pub state: State,
}

/// Where one migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Applied, and the same as this binary's.
    Applied(DateTime<Utc>),
    /// Known to this binary, not applied.
    Pending,
    /// Applied, but not as this binary knows it.
    Differs(DateTime<Utc>),
    /// Applied by a newer binary.
    Unknown(DateTime<Utc>),
}

/// Why the schema is not the one this binary works on.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the database has no Sluice schema: run `sluice migrate`")]
    Missing,
    #[error("the database's schema is at version {found}, and this binary needs {needed}: run `sluice migrate`")]
    Older { found: i64, needed: i64 },
    #[error(
        "the database's schema is at version {found}, and this binary knows {known}: this binary is older than the schema, use a newer one"
    )]
    Newer { found: i64, known: i64 },
    #[error(
        "migration {version} was applied to this database in another form than this binary has it: \
         it belongs to another build of Sluice; use the binary that migrated it, or another database"
    )]
    Differs { version: i64 },
    #[error("the server is PostgreSQL {found}, and Sluice needs {min} or newer: upgrade it", min = SERVER_MAJOR_MIN)]
    ServerTooOld { found: u32 },
    #[error(
        "the database's encoding is {found}, and Sluice needs UTF8: create one with `createdb --encoding=UTF8 --template=template0 NAME`"
    )]
    NotUtf8 { found: String },
    #[error("the database's schema cannot be read (USAGE on schema sluice and SELECT on sluice.migrations are needed): {0}")]
    Database(#[from] sqlx::Error),
}

/// Why a database was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("cannot connect to the database: {0}")]
    Connect(#[source] sqlx::Error),
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("migration {version} ({description}) failed, and nothing of it was kept: {source}")]
    Failed { version: i64, description: String, source: sqlx::migrate::MigrateError },
    #[error("the table of migrations cannot be made or locked: {0}")]
    Bookkeeping(#[from] sqlx::migrate::MigrateError),
    #[error("the roles cannot be made, and nothing of it was kept (this needs CREATEROLE, and the schema's owner): {0}")]
    Roles(#[source] sqlx::Error),
    #[error("the database {name} cannot be created: {source}")]
    Create { name: String, source: sqlx::Error },
}

/// Applies what is missing and returns it, in order; nothing when the schema is current.
///
/// # Errors
/// A server too old or not in UTF-8, a schema that is newer or differs, or a migration that failed: those before it stay.
pub async fn up(url: &str) -> Result<Vec<Applied>, Error> {
    let mut conn = connect(url).await?;
    pooler::check(&mut conn).await?;
    check_server(&mut conn).await?;
    // Waits for another run. Every early return below drops the connection, and with it the lock.
    conn.lock().await?;
    // "create schema if not exists" asks for the right to create even when there is nothing to do, so look first: a schema
    // may have been made by an administrator.
    if !schema_exists(&mut conn).await? {
        conn.create_schema_if_not_exists("sluice").await?;
    }
    if !table_exists(&mut conn).await? {
        conn.ensure_migrations_table(TABLE).await?;
    }
    let done = missing_after(&recorded(&mut conn).await?)?;
    let mut applied = Vec::new();
    for migration in done {
        let description = migration.description.to_string();
        match apply(&mut conn, migration).await {
            Ok(took) => applied.push(Applied { version: migration.version, description, took }),
            Err(source) => return Err(Error::Failed { version: migration.version, description, source }),
        }
    }
    conn.unlock().await?;
    // Everything is committed; a connection that fails to say goodbye changes nothing.
    let _ = conn.close().await;
    Ok(applied)
}

/// How long a migration waits for a lock before it lets those behind it pass, and how long for: ingest gives a request up after 2.5 s.
const LOCK_TIMEOUT: &str = "800ms";
const LOCK_PAUSE: Duration = Duration::from_millis(1200);
/// For how long it tries.
const LOCK_TRIES: u32 = 150;

/// Applies one migration. Where a long query is in its way it stands back and tries again, so that nobody waits behind it.
async fn apply(conn: &mut PgConnection, migration: &Migration) -> Result<Duration, sqlx::migrate::MigrateError> {
    conn.execute(AssertSqlSafe(format!("set lock_timeout = '{LOCK_TIMEOUT}'"))).await?;
    let mut tries = 1;
    let applied = loop {
        match conn.apply(TABLE, migration).await {
            Err(error) if is_lock_timeout(&error) && tries < LOCK_TRIES => {
                if tries == 1 {
                    tracing::warn!(
                        version = migration.version,
                        "a long query or transaction is in the way of this migration; trying again until it ends"
                    );
                }
                tries += 1;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            applied => break applied,
        }
    };
    conn.execute("reset lock_timeout").await?;
    applied
}

fn is_lock_timeout(error: &sqlx::migrate::MigrateError) -> bool {
    let source = match error {
        sqlx::migrate::MigrateError::Execute(source) | sqlx::migrate::MigrateError::ExecuteMigration(source, _) => source,
        _ => return false,
    };
    source.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}

/// The migration after which the log is the queue.
const TO_THE_LOG: i64 = 13;
/// What it takes an event of version 0.1.0, measured with two deliveries each.
const TO_THE_LOG_US_AN_EVENT: i64 = 12;

/// What standing still a migration of a database of version 0.1.0 means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standstill {
    /// Events stored, about.
    pub events: i64,
    /// How long nothing is received and nothing delivered, about.
    pub seconds: i64,
}

/// How long [`up`] will keep everything waiting; `None`: not so long that it matters.
pub async fn standstill(url: &str) -> Result<Option<Standstill>, Error> {
    let mut conn = connect(url).await?;
    let recorded = recorded_if_any(&mut conn).await?;
    if recorded.is_empty() || recorded.iter().any(|row| row.version >= TO_THE_LOG) {
        return Ok(None);
    }
    let events: i64 =
        sqlx::query_scalar("select last_value from sluice.event_seq").fetch_one(&mut conn).await.map_err(SchemaError::Database)?;
    Ok(Some(Standstill { events, seconds: events * TO_THE_LOG_US_AN_EVENT / 1_000_000 + 1 }))
}

/// What [`up`] would apply, in order. Changes nothing.
///
/// # Errors
/// The same refusals as [`up`].
pub async fn dry_run(url: &str) -> Result<Vec<Planned>, Error> {
    let mut conn = connect(url).await?;
    check_server(&mut conn).await?;
    let missing = missing_after(&recorded_if_any(&mut conn).await?)?;
    Ok(missing.iter().map(|m| Planned { version: m.version, description: m.description.to_string(), sql: sql_of(m) }).collect())
}

/// Every migration that this binary or the database knows, in order. Refuses nothing but a server it cannot read.
pub async fn status(url: &str) -> Result<Vec<Status>, Error> {
    let mut conn = connect(url).await?;
    let recorded = recorded_if_any(&mut conn).await?;
    let mut lines: Vec<Status> = recorded.iter().map(Recorded::status).collect();
    let pending = MIGRATOR.iter().filter(|m| recorded.iter().all(|r| r.version != m.version));
    lines.extend(pending.map(|m| Status { version: m.version, description: m.description.to_string(), state: State::Pending }));
    lines.sort_by_key(|line| line.version);
    Ok(lines)
}

/// Passes only on exactly the schema this binary was built for. `ingest` and `worker` call it before anything else.
pub async fn check(conn: &mut PgConnection) -> Result<(), SchemaError> {
    check_server(conn).await?;
    if !table_exists(conn).await? {
        return Err(SchemaError::Missing);
    }
    let recorded = recorded(conn).await?;
    match (missing_after(&recorded)?, recorded.last(), MIGRATOR.iter().last()) {
        ([], _, _) => Ok(()),
        (_, Some(found), Some(needed)) => Err(SchemaError::Older { found: found.version, needed: needed.version }),
        _ => Err(SchemaError::Missing),
    }
}

/// Makes the database `name` (letters, digits, `_`, `-`) on the server of `url`, unless it exists, and returns its URL: `url`
/// with another database.
///
/// # Errors
/// A URL that cannot be read, a server that cannot be reached, a role that may not create databases.
pub async fn create_database(url: &str, name: &str) -> Result<String, Error> {
    let failed = |source| Error::Create { name: name.to_owned(), source };
    // As `createdb` does: from a database that is there.
    let from = if name == "postgres" { "template1" } else { "postgres" };
    let mut conn = Servers::parse(&with_database(url, from))?.session("sluice migrate", &[]).connect().await.map_err(failed)?;
    let exists = sqlx::query_scalar("select exists (select from pg_database where datname = $1)").bind(name);
    if !exists.fetch_one(&mut *conn).await.map_err(failed)? {
        match conn.execute(AssertSqlSafe(format!("create database \"{name}\""))).await {
            // 42P04, duplicate_database: another program was faster.
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("42P04") => {}
            Err(source) => return Err(failed(source)),
            Ok(_) => {}
        }
    }
    let _ = conn.into_inner().close().await;
    Ok(with_database(url, name))
}

/// `url` with another path. As text, so that what libpq understands stays as it was written.
fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url.split_at(url.find('?').unwrap_or(url.len()));
    let host = address.find("://").map_or(0, |at| at + 3);
    let path = address[host..].find('/').map_or(address.len(), |at| host + at);
    format!("{}/{name}{parameters}", &address[..path])
}

/// A row of `sluice.migrations`.
#[derive(Debug, sqlx::FromRow)]
struct Recorded {
    version: i64,
    description: String,
    installed_on: DateTime<Utc>,
    checksum: Vec<u8>,
}

impl Recorded {
    fn status(&self) -> Status {
        let state = match MIGRATOR.iter().find(|m| m.version == self.version) {
            Some(m) if *m.checksum == *self.checksum => State::Applied(self.installed_on),
            Some(_) => State::Differs(self.installed_on),
            None => State::Unknown(self.installed_on),
        };
        Status { version: self.version, description: self.description.clone(), state }
    }
}

/// What is still to be applied. The recorded migrations, in order, must be the first ones of ours.
fn missing_after(recorded: &[Recorded]) -> Result<&'static [Migration], SchemaError> {
    let ours: &'static [Migration] = &MIGRATOR.migrations;
    for (row, migration) in recorded.iter().zip(ours) {
        if row.version != migration.version || *row.checksum != *migration.checksum {
            return Err(SchemaError::Differs { version: row.version.min(migration.version) });
        }
    }
    match recorded.get(ours.len()..) {
        Some([.., newest]) => {
            Err(SchemaError::Newer { found: newest.version, known: ours.last().map_or(0, |migration| migration.version) })
        }
        _ => Ok(&ours[recorded.len()..]),
    }
}

fn sql_of(migration: &'static Migration) -> &'static str {
    migration.sql.as_str()
}

async fn connect(url: &str) -> Result<PgConnection, Error> {
    let conn = Servers::parse(url)?.session("sluice migrate", &[]).connect().await;
    conn.map(Connection::into_inner).map_err(Error::Connect)
}

async fn check_server(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let server = sqlx::query!(
        // server_version_num is major * 10000 + minor; server_encoding is the database's, whatever the client uses.
        r#"select current_setting('server_version_num')::int as "version!", current_setting('server_encoding') as "encoding!""#
    )
    .fetch_one(conn)
    .await?;
    refuse_server(u32::try_from(server.version).unwrap_or(0) / 10_000, &server.encoding)
}

fn refuse_server(major: u32, encoding: &str) -> Result<(), SchemaError> {
    if major < SERVER_MAJOR_MIN {
        return Err(SchemaError::ServerTooOld { found: major });
    }
    if encoding != "UTF8" {
        return Err(SchemaError::NotUtf8 { found: encoding.to_owned() });
    }
    Ok(())
}

async fn schema_exists(conn: &mut PgConnection) -> Result<bool, SchemaError> {
    Ok(sqlx::query_scalar!(r#"select to_regnamespace('sluice') is not null as "exists!""#).fetch_one(conn).await?)
}

async fn table_exists(conn: &mut PgConnection) -> Result<bool, SchemaError> {
    // to_regclass raises no error on a schema that is missing; on one we may not use, it says permission denied.
    Ok(sqlx::query_scalar!(r#"select to_regclass('sluice.migrations') is not null as "exists!""#).fetch_one(conn).await?)
}

async fn recorded(conn: &mut PgConnection) -> Result<Vec<Recorded>, SchemaError> {
    let rows = sqlx::query_as("select version, description, installed_on, checksum from sluice.migrations order by version");
    Ok(rows.fetch_all(conn).await?)
}

async fn recorded_if_any(conn: &mut PgConnection) -> Result<Vec<Recorded>, SchemaError> {
    if table_exists(conn).await? { recorded(conn).await } else { Ok(Vec::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> Vec<Recorded> {
        let row = |m: &Migration| Recorded {
            version: m.version,
            description: m.description.to_string(),
            installed_on: DateTime::UNIX_EPOCH,
            checksum: m.checksum.to_vec(),
        };
        MIGRATOR.iter().take(count).map(row).collect()
    }

    fn newer() -> Recorded {
        Recorded { version: 9_999, description: "of a newer binary".into(), installed_on: DateTime::UNIX_EPOCH, checksum: vec![1] }
    }

    #[test]
    fn every_migration_runs_in_a_transaction_so_a_kill_leaves_none_half_done() {
        assert!(MIGRATOR.iter().len() > 0);
        assert!(MIGRATOR.iter().all(|m| !m.no_tx));
    }

    #[test]
    fn what_is_missing_is_what_comes_after_the_recorded() {
        let all = MIGRATOR.iter().len();
        assert_eq!(missing_after(&[]).unwrap().len(), all);
        assert_eq!(missing_after(&rows(2)).unwrap()[0].version, 3);
        assert!(missing_after(&rows(all)).unwrap().is_empty());
    }

    #[test]
    fn a_schema_with_a_version_that_is_not_known_is_newer() {
        let mut recorded = rows(MIGRATOR.iter().len());
        recorded.push(newer());
        assert!(matches!(missing_after(&recorded), Err(SchemaError::Newer { found: 9_999, .. })));
    }

    #[test]
    fn a_migration_in_another_form_and_a_gap_are_refused() {
        let mut changed = rows(3);
        changed[1].checksum[0] ^= 1;
        assert!(matches!(missing_after(&changed), Err(SchemaError::Differs { version: 2 })));
        let mut gap = rows(3);
        gap.remove(1);
        assert!(matches!(missing_after(&gap), Err(SchemaError::Differs { version: 2 })));
    }

    #[test]
    fn another_database_changes_nothing_else_of_a_url() {
        assert_eq!(with_database("postgres://u:p@h:5432/a?sslmode=disable", "b"), "postgres://u:p@h:5432/b?sslmode=disable");
        assert_eq!(with_database("postgres://h", "b"), "postgres://h/b");
        assert_eq!(with_database("postgres:///a?host=/run/postgresql", "b"), "postgres:///b?host=/run/postgresql");
    }

    #[test]
    fn a_server_too_old_or_in_another_encoding_is_refused_with_what_to_do() {
        assert!(refuse_server(13, "UTF8").unwrap_err().to_string().contains("PostgreSQL 13"));
        assert!(refuse_server(15, "SQL_ASCII").unwrap_err().to_string().contains("createdb --encoding=UTF8"));
        assert!(refuse_server(SERVER_MAJOR_MIN, "UTF8").is_ok());
    }
}
