//! `sluice ingest` and `sluice worker` as processes of their own, as in production: this very program, with a config for the occasion.

use super::events::{SECRET, SOURCE};
use super::lab::Folder;
use crate::cli::Failure;
use nix::sys::signal::{Signal, kill};
#[cfg(target_os = "linux")]
use nix::time::ClockId;
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// For a process to get ready.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// For a process to stop after SIGTERM; then it is killed. A worker that drains has nothing but null and our own sink to wait for.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// The one sink that is measured.
pub const SINK: &str = "bench";
const IN_FLIGHT: usize = 64;

/// Where a worker delivers to.
#[derive(Debug, Clone, Copy)]
pub enum Destination {
    Null,
    Http(SocketAddr),
}

impl Destination {
    /// The sink's kind, by the config's word.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Http(_) => "http",
        }
    }
}

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    ops: SocketAddr,
}

/// Starts ingest; returns where it listens.
pub async fn ingest(folder: &Folder, database_url: &str) -> Result<(Process, SocketAddr), Failure> {
    let (listen, ops) = (free_address()?, free_address()?);
    let config = format!(
        "[ingest]\nlisten = \"{listen}\"\nops_listen = \"{ops}\"\n\n\
         [[source]]\nname = \"{SOURCE}\"\nprofile = \"mindtickle\"\nsecrets = [\"{SECRET}\"]\ncompany_id = \"acme\"\n"
    );
    Ok((Process::start("ingest", folder, &config, database_url, ops).await?, listen))
}

/// Starts a worker with this config, which is told where `/readyz` and `/metrics` are to be.
pub async fn worker_as(folder: &Folder, database_url: &str, config: impl FnOnce(SocketAddr) -> String) -> Result<Process, Failure> {
    let ops = free_address()?;
    Process::start("worker", folder, &config(ops), database_url, ops).await
}

/// Starts a worker with one sink that takes everything.
pub async fn worker(folder: &Folder, database_url: &str, to: Destination) -> Result<Process, Failure> {
    let ops = free_address()?;
    let mut config = format!("[worker]\nops_listen = \"{ops}\"\n\n[[sink]]\nname = \"{SINK}\"\nconcurrency = {IN_FLIGHT}\n");
    config += &match to {
        Destination::Null => "kind = \"null\"\n".to_owned(),
        Destination::Http(address) => format!("kind = \"http\"\nurl = \"http://{address}/hook\"\nallow = [\"127.0.0.0/8\"]\n"),
    };
    Process::start("worker", folder, &config, database_url, ops).await
}

impl Process {
    async fn start(name: &'static str, folder: &Folder, config: &str, database_url: &str, ops: SocketAddr) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot start sluice {name}: {error}"));
        let config = folder.write(&format!("{name}.toml"), config)?;
        let log = folder.path().join(format!("{name}.log"));
        let stderr = std::fs::File::create(&log).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("--config").arg(config).arg(name);
        command.env("DATABASE_URL", database_url).env("RUST_LOG", "warn,sqlx::postgres::notice=off").env_remove("SLUICE_LOG_FORMAT");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).kill_on_drop(true);
        let mut process = Self { name, child: command.spawn().map_err(failed)?, log, ops };
        let ready = async {
            while !is_ready(ops).await {
                process.check()?;
                sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, Failure>(())
        };
        match timeout(START_PATIENCE, ready).await {
            Ok(ready) => ready?,
            Err(_) => return Err(Failure::failed(format!("sluice {name} does not get ready; its log ends: {}", process.log_tail()))),
        }
        Ok(process)
    }

    /// An error once the process has ended by itself.
    pub fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Failure::failed(format!("sluice {} ended ({status}); its log ends: {}", self.name, self.log_tail()))),
            Err(error) => Err(Failure::failed(format!("cannot watch sluice {}: {error}", self.name))),
        }
    }

    /// The most memory it has had so far, in MiB; `None` where the system does not tell.
    pub fn peak_mib(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let kib: f64 = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())?;
        Some(kib / 1024.0)
    }

    /// The time it has had of the processors so far, in user and system mode, all threads together; `None` where the system does not tell.
    #[cfg(target_os = "linux")]
    pub fn cpu(&self) -> Option<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()?).ok()?);
        ClockId::pid_cpu_clock_id(pid).and_then(ClockId::now).ok().map(Duration::from)
    }

    /// See the other one.
    #[cfg(not(target_os = "linux"))]
    pub fn cpu(&self) -> Option<Duration> {
        None
    }

    /// Its `/metrics`.
    pub async fn metrics(&self) -> Result<String, Failure> {
        get(self.ops, "/metrics").await.ok_or_else(|| Failure::failed(format!("sluice {} does not show its metrics", self.name)))
    }

    /// Stops it as an operator does: SIGTERM, and patience.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.check()?;
        self.signal(Signal::SIGTERM);
        if timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            let message = format!("sluice {} did not stop within {} s of SIGTERM", self.name, STOP_PATIENCE.as_secs());
            self.kill().await;
            return Err(Failure::failed(message));
        }
        Ok(())
    }

    /// Ends it as a crash does.
    pub async fn kill(mut self) {
        // It fails only where the process is gone already.
        let _ = self.child.kill().await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // Not yet waited for, so the number is still its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Its log holds no secret and no payload.
    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// Whether `/readyz` says so.
async fn is_ready(ops: SocketAddr) -> bool {
    get(ops, "/readyz").await.is_some()
}

/// What is answered with 200 in 2 s.
async fn get(ops: SocketAddr, path: &str) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect(ops).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    };
    timeout(Duration::from_secs(2), ask).await.ok().flatten()
}

/// An address on loopback that was free a moment ago.
fn free_address() -> Result<SocketAddr, Failure> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map_err(|error| Failure::failed(format!("no free port on 127.0.0.1: {error}")))
}
