//! A server of a test's own that can be copied, killed and promoted: a primary, or a standby of one.

use crate::system::{eventually, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The superuser, who needs no password, and the database.
const NAME: &str = "sluice";

/// See the module's documentation. Killed when dropped.
pub struct Cluster {
    data: PathBuf,
    pub port: u16,
    server: Option<Child>,
}

impl Cluster {
    /// A primary with an empty database. `dir` is one that the server's user may enter.
    pub async fn primary(dir: &Path) -> Self {
        let mut cluster = Self::in_folder(dir, free_port());
        cluster.tool(
            "initdb",
            [
                "-D".as_ref(),
                cluster.data.as_os_str(),
                "-U".as_ref(),
                NAME.as_ref(),
                "--auth=trust".as_ref(),
                "-EUTF8".as_ref(),
                "--no-sync".as_ref(),
            ],
        );
        cluster.start().await;
        cluster.tool("createdb", ["-h", "127.0.0.1", "-p", &cluster.port.to_string(), "-U", NAME, NAME]);
        cluster
    }

    /// A standby that follows `primary`, on a port of its own, or on one that a server has left.
    pub async fn standby_of(primary: &Self, dir: &Path, port: u16) -> Self {
        let mut cluster = Self::in_folder(dir, port);
        let from = format!("host=127.0.0.1 port={} user={NAME}", primary.port);
        let data = cluster.data.as_os_str();
        cluster.tool(
            "pg_basebackup",
            ["-D".as_ref(), data, "-d".as_ref(), from.as_ref(), "-R".as_ref(), "--checkpoint=fast".as_ref(), "--no-sync".as_ref()],
        );
        cluster.start().await;
        cluster
    }

    fn in_folder(dir: &Path, port: u16) -> Self {
        let data = dir.join(format!("cluster-{port}-{}", std::fs::read_dir(dir).expect("a folder").count()));
        std::fs::DirBuilder::new().create(&data).expect("a folder");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&data, mode).expect("its permissions");
        if let Some(user) = user() {
            chown(&data, Some(user.uid), Some(user.gid)).expect("root may");
        }
        Self { data, port, server: None }
    }

    pub async fn start(&mut self) {
        let log = std::fs::File::create(self.data.with_extension("log")).expect("a log");
        let mut command = command("postgres");
        command.arg("-D").arg(&self.data).args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        command.args(["-c", &format!("port={}", self.port)]).stdout(Stdio::null()).stderr(log);
        let pidfile = self.data.join("postmaster.pid");
        // A server that was killed leaves its own.
        let _ = std::fs::remove_file(&pidfile);
        self.server = Some(command.spawn().expect("postgres starts"));
        eventually("the server takes connections", async || {
            let text = std::fs::read_to_string(&pidfile).unwrap_or_default();
            text.lines().nth(7).is_some_and(|status| ["ready", "standby"].contains(&status.trim()))
        })
        .await;
    }

    /// SIGKILL. Its backends end by themselves.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// A fast shutdown.
    pub fn stop(&mut self) {
        self.end(Signal::SIGINT);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut server) = self.server.take() {
            let _ = kill(Pid::from_raw(server.id() as i32), signal);
            let _ = server.wait();
        }
    }

    /// Makes a standby a primary; returns when it takes writes.
    pub fn promote(&self) {
        self.tool("pg_ctl", ["promote".as_ref(), "-D".as_ref(), self.data.as_os_str()]);
    }

    pub fn url(&self) -> String {
        format!("postgres://{NAME}@127.0.0.1:{}/{NAME}", self.port)
    }

    fn tool<S: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = S>) {
        let output = command(name).args(args).output().expect("it runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // An immediate shutdown.
        self.end(Signal::SIGQUIT);
    }
}

/// One of Postgres' programs, under a user that it agrees to run as.
fn command(name: &str) -> Command {
    let program = sluice::dev::find_program(std::env::var_os("PATH").as_deref(), name).unwrap_or_else(|| panic!("{name} is not installed"));
    command_of(&program)
}

/// Any program, under that user.
pub fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    if let Some(user) = user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// `None`: we ourselves.
fn user() -> Option<User> {
    geteuid().is_root().then(|| ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten()).expect("a user"))
}
