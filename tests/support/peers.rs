//! Peers: servers that others wrote, installed by `make peers` into `.peers/`, each in a folder of its own.

use crate::system::{eventually, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Set where a test must not pass without its peer, as in CI.
const REQUIRED: &str = "SLUICE_TEST_PEERS";

/// A program of a peer: `program("ralph", "bin/ralph")`. `None`, and a line that says so, where it is not installed.
pub fn program(peer: &str, path: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".peers");
    let program = folder.join(peer).join(path);
    if program.exists() {
        return Some(program);
    }
    assert!(std::env::var_os(REQUIRED).is_none(), "the peer {peer} is not installed: run `make peers`");
    eprintln!("SKIPPED: the peer {peer} is not installed: run `make peers`");
    None
}

/// A peer that runs, killed when it is dropped.
pub struct Peer {
    pub address: SocketAddr,
    child: Child,
}

impl Peer {
    /// Starts a command that will listen at a free port of 127.0.0.1, which `command` is told.
    pub async fn start(command: impl FnOnce(u16) -> Command) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], free_port())), command).await
    }

    /// The same at an address, as after [`Peer::kill`].
    pub async fn start_at(address: SocketAddr, command: impl FnOnce(u16) -> Command) -> Self {
        let mut command = command(address.port());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("the peer starts");
        eventually("the peer listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        Self { address, child }
    }

    /// Asks it to end, waits until it has, and starts it again where it was.
    pub async fn restart(&mut self, command: impl FnOnce(u16) -> Command) {
        let pid = Pid::from_raw(self.child.id().expect("it runs").cast_signed());
        kill(pid, Signal::SIGTERM).expect("it runs");
        self.child.wait().await.expect("it ends");
        *self = Self::start_at(self.address, command).await;
    }

    /// Ends it at once, as `kill -9` does; returns where it listened.
    pub async fn kill(mut self) -> SocketAddr {
        self.child.kill().await.expect("it runs");
        self.address
    }
}
