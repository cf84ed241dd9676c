//! One test's own system: a database, configs, and real processes of the binary on it.

use crate::client::{Client, SECRET};
use crate::private;
use crate::server::{self, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::clock;
use sluice::store::roles;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Postgres};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What any condition is given before it counts as failed. Far beyond what it takes, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Of all roles, on a server that nobody else uses.
const ROLE_PASSWORD: &str = "role-password";

/// Systems at once: together they stay within a server's usual 100 connections.
static ROOM: Semaphore = Semaphore::const_new(5);

/// See the module's documentation.
pub struct System {
    pub url: String,
    pub db: PgPool,
    dir: TempDir,
    files: AtomicUsize,
    /// Each process connects under the role that is meant for it.
    has_roles: AtomicBool,
    /// Where processes connect to instead of the server.
    detour: Mutex<Option<SocketAddr>>,
    /// Further variables in the environment of processes.
    env: Mutex<BTreeMap<String, String>>,
    /// What processes are started by: a program and its arguments, before the binary.
    by: Mutex<Vec<String>>,
    // The server, where it is shared, stays until the last test has ended.
    _server: Option<Arc<Server>>,
    _room: SemaphorePermit<'static>,
}

impl System {
    /// On a database of its own on the shared server, migrated by `sluice migrate`. `name` must be no other test's.
    pub async fn new(name: &str) -> Self {
        let system = Self::empty(name).await;
        system.migrate().await;
        system
    }

    /// The same, not migrated.
    pub async fn empty(name: &str) -> Self {
        let room = ROOM.acquire().await.expect("never closed");
        let server = server::shared().await;
        let url = server.database(&format!("mj_{name}")).await;
        Self::build(url.clone(), &url, Some(server), room)
    }

    /// On another server's database, not migrated.
    pub async fn on(url: &str) -> Self {
        Self::between(url, url).await
    }

    /// The same, where the processes reach it by another URL than the test.
    pub async fn between(url: &str, own_url: &str) -> Self {
        Self::build(url.to_owned(), own_url, None, ROOM.acquire().await.expect("never closed"))
    }

    fn build(url: String, own_url: &str, server: Option<Arc<Server>>, room: SemaphorePermit<'static>) -> Self {
        Self {
            url,
            db: pool(own_url),
            dir: private::folder(),
            files: AtomicUsize::new(0),
            has_roles: AtomicBool::new(false),
            detour: Mutex::default(),
            env: Mutex::default(),
            by: Mutex::default(),
            _server: server,
            _room: room,
        }
    }

    pub async fn migrate(&self) {
        let output = self.run(&["migrate"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes the roles; processes that are started from now on connect under them.
    pub async fn use_roles(&self) {
        let output = self.run(&["migrate", "--roles"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Roles are the whole server's, and tests run at once: the same password from each.
        for role in roles::ROLES {
            eventually("no other test is changing the role", async || {
                let password = format!("alter role {role} password '{ROLE_PASSWORD}'");
                sqlx::query(AssertSqlSafe(password)).execute(&self.db).await.is_ok()
            })
            .await;
        }
        self.has_roles.store(true, Ordering::Relaxed);
    }

    /// Processes that are started from now on reach the server by way of this address.
    pub fn detour(&self, address: SocketAddr) {
        *self.detour.lock().unwrap() = Some(address);
    }

    /// Processes that are started from now on have this in their environment.
    pub fn set_env(&self, name: &str, value: &str) {
        self.env.lock().unwrap().insert(name.into(), value.into());
    }

    /// Processes that are started from now on have these failpoints: see src/failpoint.rs.
    pub fn failpoints(&self, chosen: &str) {
        self.set_env("FAILPOINTS", chosen);
    }

    /// Processes that are started from now on log all that they can.
    pub fn verbose(&self) {
        self.set_env("RUST_LOG", "debug");
    }

    /// Processes that are started from now on may have so many open files; `None`: as many as they like.
    pub fn descriptors_max(&self, count: Option<usize>) {
        let script = "ulimit -n \"$0\" && exec \"$@\"";
        *self.by.lock().unwrap() = count.map_or_else(Vec::new, |count| ["sh", "-c", script, &count.to_string()].map(String::from).to_vec());
    }

    /// Processes that are started from now on ask this server for names. Only for root.
    pub fn resolve_by(&self, server: &str) {
        let file = self.file("resolv");
        std::fs::write(&file, format!("nameserver {server}\noptions timeout:1 attempts:1\n")).expect("a file");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let by = ["unshare", "--mount", "sh", "-c", script, file.to_str().expect("UTF-8")];
        *self.by.lock().unwrap() = by.map(String::from).to_vec();
    }

    /// Where the server listens.
    pub fn server(&self) -> SocketAddr {
        let (_, rest) = self.url.rsplit_once('@').expect("a URL with a user");
        rest.split(['/', '?']).next().and_then(|address| address.parse().ok()).expect("an address and a port")
    }

    /// The database's URL for one of the roles.
    pub fn url_of(&self, role: &str) -> String {
        let (_, rest) = self.url.rsplit_once('@').expect("a URL with a user");
        format!("postgres://{role}:{ROLE_PASSWORD}@{rest}")
    }

    /// Writes a config: these lines, after the one source.
    pub fn config(&self, lines: &str) -> PathBuf {
        let path = self.file("toml");
        let source = format!("[[source]]\nname = \"mindtickle\"\nprofile = \"mindtickle\"\nsecrets = [\"{SECRET}\"]\n\n");
        std::fs::write(&path, format!("{lines}\n{source}")).expect("a config");
        path
    }

    pub fn file(&self, extension: &str) -> PathBuf {
        self.dir.path().join(format!("{}.{extension}", self.files.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn command(&self, config: Option<&Path>, args: &[&str]) -> Command {
        let mut by = self.by.lock().unwrap().clone();
        by.push(env!("CARGO_BIN_EXE_sluice").into());
        let mut command = Command::new(&by[0]);
        command.args(&by[1..]);
        command.args(args).env("DATABASE_URL", &self.url).env_remove("SLUICE_CONFIG").env_remove("RUST_LOG").stdin(Stdio::null());
        // So that no config is found by chance.
        command.current_dir(self.dir.path()).kill_on_drop(true);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Output {
        self.run_with(None, args).await
    }

    pub async fn run_with(&self, config: Option<&Path>, args: &[&str]) -> Output {
        let output = tokio::time::timeout(PATIENCE, self.command(config, args).output());
        output.await.expect("it ends").expect("it starts")
    }

    fn start(&self, config: &Path, role: &str) -> Process {
        let log = self.file(role);
        let stderr = std::fs::File::create(&log).expect("a log");
        let mut command = self.command(Some(config), &[role]);
        if self.has_roles.load(Ordering::Relaxed) {
            command.env("DATABASE_URL", self.url_of(&format!("sluice_{role}")));
        }
        if let Some(detour) = *self.detour.lock().unwrap() {
            let direct = if self.has_roles.load(Ordering::Relaxed) { self.url_of(&format!("sluice_{role}")) } else { self.url.clone() };
            command.env("DATABASE_URL", direct.replace(&self.server().to_string(), &detour.to_string()));
        }
        command.envs(&*self.env.lock().unwrap());
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("it starts");
        Process { child, log }
    }

    /// A worker with this config.
    pub fn worker(&self, config: &Path) -> Process {
        self.start(config, "worker")
    }

    /// A worker that owns lanes already: with no other worker about, all of them.
    pub async fn working(&self, config: &Path) -> Process {
        let worker = self.worker(config);
        let name = format!("%:{}", worker.pid());
        let owned = format!("select count(*) from sluice.lanes l join sluice.workers w on w.id = l.worker where w.name like '{name}'");
        eventually("the worker owns lanes", async || self.value::<i64>(&owned).await > 0).await;
        worker
    }

    /// Ingest, ready to be posted to.
    pub async fn ingest(&self) -> Ingest {
        self.ingest_with("").await
    }

    /// The same, with these lines in `[ingest]`.
    pub async fn ingest_with(&self, keys: &str) -> Ingest {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        self.ingest_at(address, &self.config(&format!("[ingest]\nlisten = \"{address}\"\n{keys}\n"))).await
    }

    /// Ingest with this config, not listening yet.
    pub fn ingest_process(&self, config: &Path) -> Process {
        self.start(config, "ingest")
    }

    /// The same, with a whole config, which says that it listens there.
    pub async fn ingest_at(&self, address: SocketAddr, config: &Path) -> Ingest {
        let process = self.start(config, "ingest");
        eventually("ingest listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        Ingest { address, process }
    }

    /// One value out of the database.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        let value = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.db).await;
        value.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs a statement as an operator would; returns how many rows it touched.
    pub async fn execute(&self, sql: &str) -> u64 {
        let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&self.db).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    /// Deliveries in this status.
    pub async fn count(&self, status: &str) -> i64 {
        self.value(&format!("select count(*) from sluice.deliveries where status = '{status}'")).await
    }

    /// The status of one event, as the outbox shows it.
    pub async fn status(&self, event_id: &str) -> String {
        self.value(&format!("select status from sluice.outbox where event_id = '{event_id}'")).await
    }

    /// Waits until so many deliveries were delivered, and none is owed any more.
    pub async fn drained(&self, count: i64) {
        let now = async || (self.count("pending").await, self.count("delivered").await);
        let mut last = (0, 0);
        eventually_by(PATIENCE, async || {
            last = now().await;
            last == (0, count)
        })
        .await
        .unwrap_or_else(|()| panic!("not drained in time: {} pending, {} of {count} delivered", last.0, last.1));
    }
}

/// For the test's own questions.
pub fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(4).connect_lazy(url).expect("a URL")
}

/// A process of the binary; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn pid(&self) -> i32 {
        self.child.id().expect("it was not waited for yet") as i32
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it is there");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    pub async fn wait(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("its status")
    }

    /// SIGTERM, and waits for the end, which must be a clean one.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait().await;
        assert!(status.success(), "{status}");
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait().await;
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {}, the end:\n{}", self.log.display(), lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

/// Ingest, ready to be posted to.
pub struct Ingest {
    pub address: SocketAddr,
    pub process: Process,
}

impl Ingest {
    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }
}

/// Asks again and again until it is so.
pub async fn eventually(what: &str, is_so: impl AsyncFnMut() -> bool) {
    eventually_by(PATIENCE, is_so).await.unwrap_or_else(|()| panic!("not in time: {what}"));
}

/// The same, within a bound that is part of the promise.
pub async fn within(bound: Duration, what: &str, is_so: impl AsyncFnMut() -> bool) {
    eventually_by(bound, is_so).await.unwrap_or_else(|()| panic!("not within {bound:?}: {what}"));
}

async fn eventually_by(bound: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Result<(), ()> {
    let began = clock::instant();
    while !is_so().await {
        if clock::instant().saturating_duration_since(began) > bound {
            return Err(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Asserts that it stays so for a while: what a test of something that must not happen has to wait for.
pub async fn holds_for(time: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let stopped_being = eventually_by(time, async || !is_so().await).await;
    assert!(stopped_being.is_err(), "no longer so: {what}");
}

/// A port that nobody listens on, below those that the system gives to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 150) as u16 * 100;
    loop {
        let port = 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A small generator of the tests' own, so that a run can be repeated.
pub struct Random(pub u64);

impl Random {
    /// Less than `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}
