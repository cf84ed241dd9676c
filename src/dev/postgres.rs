use super::account::Account;
use super::binaries::{self, Binaries};
use super::cluster::{Folder, ROLE};
use super::error::{Error, IoContext};
use super::guard::Guarded;
use super::leftover;
use crate::store::migrate;
use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For a start, with recovery after a crash.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// For a fast shutdown. After it the server is stopped at once; nothing committed is lost either way.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Starts that fail for a passing reason are tried again this often in all.
const START_TRIES: u32 = 5;

/// How to run it. The default is right for `sluice dev`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The environment's PATH, where server binaries are looked for first.
    pub search_path: Option<OsString>,
    /// The port on 127.0.0.1; `None`: a free one, another at each start.
    pub port: Option<u16>,
    /// Server settings, name and value, for example `("shared_buffers", "512MB")`. They come after, and win over, our own.
    pub settings: Vec<(String, String)>,
}

/// A Postgres server of this program's own, on 127.0.0.1, with fsync on and its data kept from one start to the next.
///
/// It runs until [`PrivatePostgres::stop`], a drop, or the end of this process, even by kill -9.
pub struct PrivatePostgres {
    server: Option<Guarded>,
    folder: Folder,
    port: u16,
    url: String,
    // Held until the server has stopped: fields are dropped after `Drop::drop`.
    _lock: File,
}

impl std::fmt::Debug for PrivatePostgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the url: it carries the password.
        f.debug_struct("PrivatePostgres").field("folder", &self.folder).field("port", &self.port).finish_non_exhaustive()
    }
}

impl PrivatePostgres {
    /// Starts a server on the data in `data_dir`, making both where they are missing, with an empty database `sluice`.
    ///
    /// # Errors
    /// No usable binaries; data of another major version; the folder held by another program, or closed to the user that the
    /// server must run as; a server that does not start.
    pub async fn start(data_dir: &Path, options: Options) -> Result<Self, Error> {
        let data_dir = data_dir.to_path_buf();
        let started = tokio::task::spawn_blocking(move || Self::start_blocking(&data_dir, &options)).await;
        let mut postgres = started.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
        postgres.url = migrate::create_database(&postgres.url, ROLE).await?;
        Ok(postgres)
    }

    /// The database `sluice`, as its owner, a superuser. It contains the password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A shell line that opens psql on it. The password stays in the file it names.
    pub fn psql_line(&self) -> String {
        let passfile = self.folder.passfile().display().to_string().replace('\'', r"'\''");
        format!("PGPASSFILE='{passfile}' psql -h 127.0.0.1 -p {} -U {ROLE} {ROLE}", self.port)
    }

    /// The server's log, of this start only; the last start's is beside it.
    pub fn log_path(&self) -> PathBuf {
        self.folder.log()
    }

    /// Whether the server is gone although nobody stopped it.
    pub fn has_ended(&mut self) -> bool {
        self.server.as_mut().is_none_or(Guarded::has_ended)
    }

    /// Stops the server and waits for its end: a fast shutdown, then, after 30 s, an immediate one.
    ///
    /// # Errors
    /// It runs on in spite of both.
    pub async fn stop(mut self) -> Result<(), Error> {
        let stopped = tokio::task::spawn_blocking(move || self.stop_blocking()).await;
        stopped.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }

    fn stop_blocking(&mut self) -> Result<(), Error> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        if server.stop(STOP_PATIENCE) { Ok(()) } else { leftover::clear(&self.folder.data()) }
    }

    fn start_blocking(data_dir: &Path, options: &Options) -> Result<Self, Error> {
        let folder = Folder::open(data_dir)?;
        let lock = folder.lock()?;
        let account = Account::choose()?;
        account.check_can_enter(folder.path())?;
        let data = folder.data();
        let cluster = folder.cluster_major()?;
        let binaries = binaries::find(options.search_path.as_deref(), cluster.map(|major| (major, data.as_path())))?;
        if cluster.is_none() {
            folder.init(&binaries, &account)?;
        }
        account.own_tree(&data)?;
        leftover::clear(&data)?;
        let password = folder.password()?;
        let (server, port) = start_server(&folder, &binaries, &account, options)?;
        let url = format!("postgres://{ROLE}:{password}@127.0.0.1:{port}/postgres");
        Ok(Self { server: Some(server), folder, port, url, _lock: lock })
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Err(error) = self.stop_blocking() {
            tracing::warn!(%error, "the private Postgres could not be stopped");
        }
    }
}

/// Starts the server; again, where the port was taken between our choice and its use, or where the processes of a server that
/// was killed are still ending.
fn start_server(folder: &Folder, binaries: &Binaries, account: &Account, options: &Options) -> Result<(Guarded, u16), Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let port = match options.port {
            Some(port) => port,
            None => free_port().at("no free port on 127.0.0.1 for", binaries.program("postgres"))?,
        };
        match start_once(folder, binaries, account, port, &options.settings) {
            Ok(server) => return Ok((server, port)),
            Err(Error::NotStarted { tail, .. }) if tries < START_TRIES && is_passing(&tail, options.port.is_some()) => {
                tracing::debug!(tries, "the private Postgres did not start; once more");
                std::thread::sleep(Duration::from_millis(500));
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_passing(log_tail: &str, port_given: bool) -> bool {
    log_tail.contains("is still in use") || (!port_given && log_tail.contains("Address already in use"))
}

fn start_once(folder: &Folder, binaries: &Binaries, account: &Account, port: u16, settings: &[(String, String)]) -> Result<Guarded, Error> {
    let data = folder.data();
    let pidfile = data.join("postmaster.pid");
    let before = std::fs::read_to_string(&pidfile).unwrap_or_default();
    let command = server_command(binaries, &data, port, settings);
    let mut server = Guarded::spawn(&command, &data, account, folder.new_log()?)?;
    // Postgres says in this file when it takes connections. A crash leaves the old file, "ready" included.
    let is_ready = || std::fs::read_to_string(&pidfile).is_ok_and(|now| now != before && now.trim_end().ends_with("ready"));
    let mut ended = false;
    let ready = super::guard::wait_until(START_PATIENCE, || {
        ended = server.has_ended();
        ended || is_ready()
    });
    match (ended, ready) {
        (false, true) => Ok(server),
        (true, _) => Err(Error::NotStarted { log: folder.log(), tail: folder.log_tail() }),
        (false, false) => {
            server.stop(STOP_PATIENCE);
            leftover::clear(&data)?;
            Err(Error::StartTooSlow { seconds: START_PATIENCE.as_secs(), log: folder.log(), tail: folder.log_tail() })
        }
    }
}

/// Settings go on the command line, where nothing in the data folder overrides them.
fn server_command(binaries: &Binaries, data: &Path, port: u16, settings: &[(String, String)]) -> Vec<OsString> {
    let port = port.to_string();
    let ours = [
        ("listen_addresses", "127.0.0.1"),
        ("port", port.as_str()),
        // No socket: its path may be too long, and its folder another user's.
        ("unix_socket_directories", ""),
        ("fsync", "on"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
    ];
    let mut command = vec![binaries.program("postgres").into_os_string(), "-D".into(), data.into()];
    for (name, value) in ours.into_iter().chain(settings.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
        command.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    command
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// What [`default_data_dir`] needs of the environment, which only the command line reads.
#[derive(Debug, Clone, Default)]
pub struct DataDirEnv {
    /// `SLUICE_DEV_DIR`: the folder itself.
    pub sluice_dev_dir: Option<OsString>,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
}

/// Where `sluice dev` keeps its Postgres: `SLUICE_DEV_DIR`; for root /var/lib/sluice-dev; else the user's folder for data.
/// `None` where the environment names no home: ask for `SLUICE_DEV_DIR` then.
pub fn default_data_dir(env: &DataDirEnv) -> Option<PathBuf> {
    data_dir(env, nix::unistd::geteuid().is_root())
}

fn data_dir(env: &DataDirEnv, is_root: bool) -> Option<PathBuf> {
    let given = |value: &Option<OsString>| value.as_ref().filter(|v| !v.is_empty()).map(PathBuf::from);
    let absolute = |value: &Option<OsString>| given(value).filter(|path| path.is_absolute());
    if let Some(dir) = given(&env.sluice_dev_dir) {
        return Some(dir);
    }
    if is_root {
        return Some("/var/lib/sluice-dev".into());
    }
    let in_home = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
    let base = absolute(&env.xdg_data_home).or_else(|| absolute(&env.home).map(|home| home.join(in_home)));
    base.map(|base| base.join("sluice-dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(dir: &str, xdg: &str, home: &str) -> DataDirEnv {
        DataDirEnv { sluice_dev_dir: Some(dir.into()), xdg_data_home: Some(xdg.into()), home: Some(home.into()) }
    }

    #[test]
    fn the_data_dir_is_the_one_asked_for_then_the_systems_then_the_users() {
        assert_eq!(data_dir(&env("/a", "/b", "/c"), true), Some("/a".into()));
        assert_eq!(data_dir(&env("", "/b", "/c"), true), Some("/var/lib/sluice-dev".into()));
        assert_eq!(data_dir(&env("", "/b", "/c"), false), Some("/b/sluice-dev".into()));
        assert!(data_dir(&env("", "relative", "/c"), false).is_some_and(|dir| dir.starts_with("/c") && dir.ends_with("sluice-dev")));
        assert_eq!(data_dir(&DataDirEnv::default(), false), None);
    }

    #[test]
    fn settings_given_come_after_our_own_so_that_they_win() {
        let binaries = Binaries { dir: "/pg".into(), major: 15 };
        let command = server_command(&binaries, Path::new("/data"), 5555, &[("fsync".into(), "off".into())]);
        let position = |text: &str| command.iter().position(|arg| arg == text).unwrap();
        assert!(position("fsync=off") > position("fsync=on"));
        assert!(position("port=5555") > 0);
    }
}
