//! The servers that a URL names, and how a connection is opened: to which of them, who we are, and the session's settings.
//!
//! A URL may name several, `postgres://user:password@one:5432,two:5432/database`, as libpq understands it: a primary and its standbys.
//! Connections then go to the one that takes writes, and follow when that is another one.

use super::backends::{Dropped, Serving};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection, Row as _};
use std::io;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long one of several servers may take to be connected to: one that swallows packets must leave time for the next.
const PATIENCE: Duration = Duration::from_secs(1);

/// What every connection is set to, whatever else it is for. The server gives up what a client has left behind: a transaction that nobody goes
/// on with, and a connection whose other end has vanished. By `sluice.session` it is seen that settings arrive at all.
pub const SETTINGS: &[(&str, &str)] = &[
    ("sluice.session", "on"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "60s"),
];

/// Of a connection that looks around when a process starts: it must not wait for ever behind a lock.
pub const AT_START: &[(&str, &str)] = &[("statement_timeout", "5s"), ("lock_timeout", "5s")];

/// The URL is not one that Postgres understands. Never repeats it: it holds a password.
#[derive(Debug, thiserror::Error)]
#[error(
    "DATABASE_URL is not a Postgres URL ({0}); expected postgres://user:password@host:port/database, or several host:port with commas between"
)]
pub struct UrlError(String);

/// The servers of one URL. Copies share what they know of where writes are taken.
#[derive(Debug, Clone)]
pub struct Servers {
    /// One each; never empty.
    options: Vec<PgConnectOptions>,
    /// Whether a server must say that it takes writes: one that is named alone is taken as it is, unless the URL asks for it.
    must_take_writes: bool,
    known: Arc<Known>,
}

#[derive(Debug)]
struct Known {
    /// The server that took writes when last asked.
    primary: watch::Sender<usize>,
    /// Where the next search begins.
    begin: AtomicUsize,
    /// What lost connections have left at the server.
    dropped: Dropped,
    /// The history of the server that was last connected to, and how often it has changed.
    history: Mutex<(Option<History>, u64)>,
}

/// Which database system it is, and which of its timelines: a standby that is promoted begins another one, on which positions that it lacked
/// are given out again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct History {
    system: i64,
    timeline: String,
}

impl Servers {
    /// Opens nothing yet.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let (urls, asks_for_writes) = split(url)?;
        let options: Vec<PgConnectOptions> = urls.iter().map(|url| parse(url)).collect::<Result<_, _>>()?;
        let must_take_writes = asks_for_writes || options.len() > 1;
        let known = Arc::new(Known {
            primary: watch::Sender::new(0),
            begin: AtomicUsize::new(0),
            dropped: Dropped::default(),
            history: Mutex::default(),
        });
        Ok(Self { options, must_take_writes, known })
    }

    /// The same servers, for connections that call themselves `application_name` (as `pg_stat_activity` shows it) and have `settings` from
    /// their first statement on, besides [`SETTINGS`], over which they win.
    #[must_use]
    pub fn session(&self, application_name: &str, settings: &[(&str, &str)]) -> Self {
        let session = |options: &PgConnectOptions| {
            options.clone().application_name(application_name).options(SETTINGS.iter().chain(settings).copied())
        };
        Self { options: self.options.iter().map(session).collect(), ..self.clone() }
    }

    /// Connects to the server that takes writes, beginning with the one that did last. One that is named alone is not asked. Ends what connections
    /// that were dropped before have left at the server.
    ///
    /// # Errors
    /// Of one server, its own; of several, one that says of each why it was passed over.
    pub async fn connect(&self) -> Result<Connection, sqlx::Error> {
        let (mut inner, server) = self.search().await?;
        let serving = self.known.dropped.serving(&mut inner).await?;
        let turn = self.turn(&mut inner).await?;
        let mut connection = Connection { inner, place: self.place(server), turn, _serving: serving };
        self.known.dropped.end(&mut connection).await?;
        Ok(connection)
    }

    /// How often these servers have turned to another history, as far as connections have shown.
    pub fn turns(&self) -> u64 {
        self.known.history.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// How often these servers have turned to another history by now; takes note of it where this connection leads to one.
    async fn turn(&self, conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
        // Not prepared: see `pooler::check`, which comes after this. A standby that is named alone has no timeline to write on.
        let found = sqlx::raw_sql(
            "select (pg_control_system()).system_identifier, \
                    case when pg_is_in_recovery() then '' else left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end",
        )
        .fetch_one(conn)
        .await?;
        let found = History { system: found.try_get(0)?, timeline: found.try_get(1)? };
        let mut history = self.known.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.0.as_ref() != Some(&found) && history.0.replace(found).is_some() {
            history.1 += 1;
            tracing::warn!("the database has another history now (a standby was promoted, or it was restored)");
        }
        Ok(history.1)
    }

    async fn search(&self) -> Result<(PgConnection, usize), sqlx::Error> {
        if let [alone] = &self.options[..] {
            let mut inner = alone.connect().await?;
            if self.must_take_writes && !takes_writes(&mut inner).await? {
                return Err(nowhere(&format!("{}: {READ_ONLY}", name(alone))));
            }
            return Ok((inner, 0));
        }
        let (count, begin) = (self.options.len(), self.known.begin.load(Ordering::Relaxed));
        let mut refusals = Vec::with_capacity(count);
        for server in (0..count).map(|n| (begin + n) % count) {
            // Where the caller loses its patience here, its next search goes on with the next server. A search that fails
            // comes round to where it began.
            self.known.begin.store((server + 1) % count, Ordering::Relaxed);
            match open(&self.options[server]).await {
                Ok(inner) => {
                    self.found(server);
                    return Ok((inner, server));
                }
                Err(refusal) => refusals.push(format!("{}: {refusal}", name(&self.options[server]))),
            }
        }
        Err(nowhere(&refusals.join("; ")))
    }

    /// How to connect to the server that takes writes, for what insists on connecting by itself.
    pub async fn locate(&self) -> Result<(PgConnectOptions, Place), sqlx::Error> {
        let place = if self.are_several() { self.connect().await?.place.clone() } else { self.place(0) };
        Ok((self.options[place.server].clone(), place))
    }

    pub fn are_several(&self) -> bool {
        self.options.len() > 1
    }

    fn place(&self, server: usize) -> Place {
        Place { server, primary: self.known.primary.subscribe() }
    }

    fn found(&self, server: usize) {
        self.known.begin.store(server, Ordering::Relaxed);
        let moved = self.known.primary.send_if_modified(|primary| std::mem::replace(primary, server) != server);
        if moved {
            tracing::warn!(server = name(&self.options[server]), "another server takes the writes now: all connections move there");
        }
    }
}

/// A connection, and where it leads.
#[derive(Debug)]
pub struct Connection {
    inner: PgConnection,
    pub place: Place,
    /// How often the servers had turned to another history when it was made: what was learnt before the last turn may not be so any more.
    pub turn: u64,
    _serving: Serving,
}

impl Connection {
    /// The connection alone: to be closed, or used where nobody connects again.
    pub fn into_inner(self) -> PgConnection {
        self.inner
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

/// One of the servers.
#[derive(Debug, Clone)]
pub struct Place {
    server: usize,
    primary: watch::Receiver<usize>,
}

impl Place {
    /// Whether writes are taken here, as far as is known: false once any connection has found them taken elsewhere.
    pub fn is_current(&self) -> bool {
        *self.primary.borrow() == self.server
    }

    /// Returns when that is no longer so.
    pub async fn left(&mut self) {
        let server = self.server;
        if self.primary.wait_for(|primary| *primary != server).await.is_err() {
            // Nobody is left who could find another.
            std::future::pending::<()>().await;
        }
    }
}

/// Whether this error says that the connection is of no use any more: the server takes no writes, or ends it.
pub fn is_useless_after(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return true };
    // read_only_sql_transaction; admin_shutdown, crash_shutdown, cannot_connect_now.
    matches!(error.code().as_deref(), Some("25006" | "57P01" | "57P02" | "57P03"))
}

/// Whether the server takes writes: it is no standby, and not set to read only.
pub async fn takes_writes(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select not pg_is_in_recovery() and not current_setting('transaction_read_only')::boolean as "writable!""#)
        .fetch_one(conn)
        .await
}

const READ_ONLY: &str = "it is read-only (a standby, or set so)";

/// Connects to one of several; an error in words.
async fn open(options: &PgConnectOptions) -> Result<PgConnection, String> {
    let opened = timeout(PATIENCE, async {
        let mut conn = options.connect().await?;
        let takes_writes = takes_writes(&mut conn).await?;
        Ok((conn, takes_writes))
    });
    match opened.await {
        Ok(Ok((conn, true))) => Ok(conn),
        Ok(Ok((_, false))) => Err(READ_ONLY.into()),
        Ok(Err(sqlx::Error::Io(error))) => Err(error.to_string()),
        Ok(Err(sqlx::Error::Database(error))) => Err(error.message().to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// As an error of the network, which it mostly is: what tries again after those tries again after this.
fn nowhere(refusals: &str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, format!("no server takes writes ({refusals})")))
}

/// Host and port, or the socket: nothing secret.
fn name(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// Statements are not logged: on the hot path even a disabled log line costs, and errors are reported where they are handled.
fn parse(url: &str) -> Result<PgConnectOptions, UrlError> {
    let options = PgConnectOptions::from_str(url).map_err(|error| match error {
        sqlx::Error::Configuration(cause) => UrlError(cause.to_string()),
        _ => UrlError("it cannot be parsed".into()),
    })?;
    Ok(options.disable_statement_logging())
}

/// A URL for each server, as the driver understands it, and whether only one that takes writes will do. As text, so that whatever else the
/// URL says stays as it was written.
fn split(url: &str) -> Result<(Vec<String>, bool), UrlError> {
    let refuse = |why: &str| Err(UrlError(why.into()));
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| ["postgres", "postgresql"].contains(scheme)) else {
        return refuse("it does not begin with postgres://");
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > 1 && hosts.iter().any(|host| host.is_empty()) {
        return refuse("a host is missing beside a comma");
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (mut kept, mut asks_for_writes) = (Vec::new(), false);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("target_session_attrs", "read-write" | "primary") => asks_for_writes = true,
            ("target_session_attrs", "any") => {}
            ("target_session_attrs", _) => return refuse("target_session_attrs must be read-write: Sluice writes to its database"),
            ("host" | "hostaddr" | "port", value) if value.contains(',') || value.to_ascii_lowercase().contains("%2c") => {
                return refuse("several hosts stand before the database's name, not in host= or port=");
            }
            _ => kept.push(pair),
        }
    }
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    Ok((hosts.iter().map(|host| format!("{scheme}://{user}{host}{path}{query}")).collect(), asks_for_writes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        Servers::parse(url).unwrap_err().to_string()
    }

    fn names(url: &str) -> Vec<String> {
        Servers::parse(url).unwrap().options.iter().map(name).collect()
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_its_password() {
        for url in [
            "postgres://user:hunter2@host:notaport/db",
            "postgres://user:hunter2@one:5432,two:notaport/db",
            "postgres://user:hunter2@one,,two/db",
            "postgres://user:hunter2@one,two/db?target_session_attrs=standby",
            "postgres://user:hunter2@/db?host=one,two",
            "mysql://user:hunter2@host/db",
        ] {
            assert!(!refused(url).contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn several_hosts_are_understood_as_libpq_does() {
        assert_eq!(names("postgres://u:p,w@one:1,two:2/db?target_session_attrs=read-write"), ["one:1", "two:2"]);
        assert_eq!(names("postgresql://one,two:5433"), ["one:5432", "two:5433"]);
        let servers = Servers::parse("postgres://u:p,w@one,two/db?sslmode=disable&target_session_attrs=any&dbname=other").unwrap();
        assert!(servers.must_take_writes && servers.options.iter().all(|options| options.get_database() == Some("other")));
        assert!(servers.options.iter().all(|options| options.get_username() == "u"));
    }

    #[test]
    fn one_host_is_taken_as_it_is_unless_the_url_asks_whether_it_takes_writes() {
        assert!(!Servers::parse("postgres://u:p@one/db").unwrap().must_take_writes);
        assert!(Servers::parse("postgres://u:p@one/db?target_session_attrs=primary").unwrap().must_take_writes);
        assert_eq!(names("postgres:///db?host=/run/postgresql"), ["/run/postgresql"]);
    }

    #[tokio::test]
    async fn where_no_server_can_be_used_each_is_named_with_its_reason_and_without_the_password() {
        // Nobody listens on these ports.
        let servers = Servers::parse("postgres://user:hunter2@127.0.0.1:1,127.0.0.1:2/db").unwrap();
        let error = servers.connect().await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:1: Connection refused") && error.contains("127.0.0.1:2: Connection refused"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_is_left_once_another_server_takes_the_writes() {
        let servers = Servers::parse("postgres://one,two/db").unwrap();
        let mut place = servers.session("another name", &[]).place(0);
        assert!(place.is_current());
        servers.found(1);
        assert!(!place.is_current() && servers.place(1).is_current());
        place.left().await;
    }
}
