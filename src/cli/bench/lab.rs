//! Where it is measured: a server, a fresh database for each scenario, a folder for configs and logs. All of it goes in the end.

use super::processes::{Destination, SINK};
use crate::cli::{Failure, dev};
use crate::clock;
use crate::dev::{Error, Options, PrivatePostgres};
use crate::event::NewEvent;
use crate::store::bench::{self, Server};
use crate::store::servers::{Connection, Servers};
use crate::store::{events, migrate, sinks};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the private server is given, beside its defaults: room for writes, so that checkpoints are few, and the count of statements.
const SETTINGS: [(&str, &str); 4] =
    [("max_wal_size", "4GB"), ("shared_buffers", "512MB"), ("max_connections", "200"), ("shared_preload_libraries", COUNTING)];
const COUNTING: &str = "pg_stat_statements";
/// Connections that put a backlog in, and the size of their batches.
const FILLERS: u64 = 2;
const FILL_BATCH: u64 = 1000;

/// See the module's documentation. Call [`Lab::close`] in the end: a drop stops the private server, but leaves databases on another one.
#[derive(Debug)]
pub struct Lab {
    url: String,
    private: Option<(PrivatePostgres, PathBuf)>,
    folder: Folder,
    server: Server,
    /// Names of databases that are still to be dropped.
    created: Mutex<Vec<String>>,
    databases: AtomicU64,
}

impl Lab {
    /// Uses the server of this URL; without one, it starts one of its own.
    pub async fn open(url: Option<String>, data_dir: Option<PathBuf>) -> Result<Self, Failure> {
        let folder = Folder::new()?;
        let (url, private) = if let Some(url) = url {
            (url, None)
        } else {
            let dir = data_dir.or_else(dev::data_dir);
            let dir = dir.ok_or_else(|| Failure::failed("no folder for the private Postgres: name one with --data-dir"))?;
            // One of our own inside it, since it is removed in the end.
            let dir = dir.join("sluice-bench");
            let postgres = start_private(&dir).await.map_err(|error| Failure::failed(error.to_string()))?;
            (postgres.url().to_owned(), Some((postgres, dir)))
        };
        let mut conn = connect(&url).await?;
        let server = bench::server(&mut conn).await.map_err(|error| Failure::database("cannot ask the server for its settings", &error))?;
        Ok(Self { url, private, folder, server, created: Mutex::default(), databases: AtomicU64::new(0) })
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A new database with the schema and nothing in it. `name` is a part of its name.
    pub async fn database(&self, name: &str) -> Result<Database, Failure> {
        let name = format!("sluice_bench_{}_{name}_{}", std::process::id(), self.databases.fetch_add(1, Relaxed));
        let url = migrate::create_database(&self.url, &name).await.map_err(|error| {
            Failure::failed(format!(
                "{error}; every measurement has a database of its own: give the role CREATEDB, \
                 or leave DATABASE_URL unset, for a private server"
            ))
        })?;
        self.created().push(name);
        migrate::up(&url).await.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Database { conn: connect(&url).await?, url })
    }

    /// Drops what [`Lab::database`] has made. What still uses it is disconnected.
    pub async fn clean(&self) {
        let created = std::mem::take(&mut *self.created());
        for name in created {
            let dropped = match connect(&self.url).await {
                Ok(mut conn) => bench::drop_database(&mut conn, &name).await.map_err(|error| error.to_string()),
                Err(failure) => Err(failure.message),
            };
            if let Err(error) = dropped {
                eprintln!("the database {name} is left behind ({error}): drop it by hand");
            }
        }
    }

    /// Leaves nothing behind.
    pub async fn close(self) -> Result<(), Failure> {
        let Some((postgres, dir)) = self.private else {
            self.clean().await;
            return Ok(());
        };
        // Its databases go with its data.
        postgres.stop().await.map_err(|error| Failure::failed(error.to_string()))?;
        std::fs::remove_dir_all(&dir).map_err(|error| Failure::failed(format!("cannot remove {}: {error}", dir.display())))
    }

    fn created(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the count of statements where the server has no such library: it would not start.
async fn start_private(dir: &Path) -> Result<PrivatePostgres, Error> {
    eprintln!("starting a private Postgres in {} ...", dir.display());
    let mut settings: Vec<(String, String)> = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    loop {
        let options = Options { search_path: std::env::var_os("PATH"), settings: settings.clone(), ..Options::default() };
        match PrivatePostgres::start(dir, options).await {
            Err(Error::NotStarted { tail, .. }) if tail.contains(COUNTING) && settings.iter().any(|(_, value)| value == COUNTING) => {
                eprintln!("this Postgres has no {COUNTING} (a package of contrib modules may have it): statements are not counted");
                settings.retain(|(_, value)| value != COUNTING);
            }
            result => return result,
        }
    }
}

fn servers(url: &str, settings: &[(&str, &str)]) -> Result<Servers, Failure> {
    Ok(Servers::parse(url).map_err(|error| Failure::config(error.to_string()))?.session("sluice bench", settings))
}

async fn connect(url: &str) -> Result<Connection, Failure> {
    servers(url, &[])?.connect().await.map_err(|error| Failure::database("cannot connect to the database", &error))
}

/// One scenario's database.
#[derive(Debug)]
pub struct Database {
    url: String,
    /// For questions beside what is measured.
    pub conn: Connection,
}

impl Database {
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes the sink known before a worker does, so that what is stored from now on is owed to it.
    pub async fn register(&mut self, to: Destination) -> Result<(), Failure> {
        let sink = sinks::Definition { name: SINK.into(), kind: to.kind(), events: None, ordered: true };
        sinks::register(&mut self.conn, &[sink]).await.map_err(|error| Failure::database("cannot register the sink", &error))?;
        Ok(())
    }

    /// Stores `count` events, which `event` makes by number, as ingest does, in full batches: fresh deliveries, for the sink that is registered.
    pub async fn fill(&self, count: u64, event: impl Fn(u64) -> NewEvent + Send + Sync + 'static) -> Result<(), Failure> {
        let failed = |error: sqlx::Error| Failure::database("cannot store the backlog", &error);
        let (event, next) = (Arc::new(event), Arc::new(AtomicU64::new(0)));
        let servers = servers(&self.url, events::SETTINGS)?;
        let mut fillers = tokio::task::JoinSet::new();
        for _ in 0..FILLERS {
            let (event, next, mut conn) = (Arc::clone(&event), Arc::clone(&next), servers.connect().await.map_err(failed)?);
            fillers.spawn(async move {
                loop {
                    let first = next.fetch_add(FILL_BATCH, Relaxed);
                    if first >= count {
                        return Ok(());
                    }
                    let batch: Vec<NewEvent> = (first..count.min(first + FILL_BATCH)).map(|i| event(i)).collect();
                    events::insert_batch(&mut conn, &batch.iter().collect::<Vec<_>>()).await?;
                }
            });
        }
        while let Some(ended) = fillers.join_next().await {
            ended.map_err(|error| Failure::failed(format!("storing the backlog ended unexpectedly: {error}")))?.map_err(failed)?;
        }
        Ok(())
    }

    /// Waits until nothing is pending, looking often at the last rows and seldom at all of them. `check` may give up earlier.
    pub async fn wait_until_done(&mut self, patience: Duration, mut check: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
        let gives_up_at = clock::instant() + patience;
        loop {
            check()?;
            if self.is_done().await? {
                return Ok(());
            }
            if clock::instant() >= gives_up_at {
                return Err(Failure::failed(format!("the backlog is not delivered after {} s", patience.as_secs())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether nothing is pending.
    pub async fn is_done(&mut self) -> Result<bool, Failure> {
        const LAST_ROWS: i64 = 2000;
        let failed = |error: sqlx::Error| Failure::database("cannot see how far the drain has come", &error);
        let last = bench::last_position(&mut self.conn).await.map_err(failed)?;
        Ok(bench::is_done_after(&mut self.conn, last - LAST_ROWS).await.map_err(failed)?
            && bench::is_done_after(&mut self.conn, 0).await.map_err(failed)?)
    }
}

/// How often a drain is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A folder for configs and logs, closed to others, gone when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("sluice-bench-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Failure::failed(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, in place of the one of that name.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.0.join(name);
        std::fs::write(&path, text).map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is small, and in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
