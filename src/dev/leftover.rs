//! Stops a server that an earlier program left behind: its guard was killed too, or it is still shutting down.

use super::error::{Error, IoContext};
use super::guard::wait_until;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// For a fast shutdown, which writes a checkpoint.
const FAST_PATIENCE: Duration = Duration::from_secs(30);
/// For an immediate one, which does not.
const IMMEDIATE_PATIENCE: Duration = Duration::from_secs(10);

/// After this no server runs on `data`. The caller holds the folder's lock, so no new one can begin meanwhile.
pub(super) fn clear(data: &Path) -> Result<(), Error> {
    let pidfile = data.join("postmaster.pid");
    let Some(pid) = read_pid(&pidfile) else { return Ok(()) };
    if !is_alive(pid) {
        // A crash left the file. Postgres clears it away itself, after checks that only it can make.
        return Ok(());
    }
    if !serves(pid, data) {
        // The number has been given to another program since (usual in a container, where they start over): signalling it
        // would hit a stranger, and Postgres would refuse to start because of it.
        return std::fs::remove_file(&pidfile).at("cannot be removed", &pidfile);
    }
    for (signal, patience) in [(Signal::SIGINT, FAST_PATIENCE), (Signal::SIGQUIT, IMMEDIATE_PATIENCE)] {
        // Failing to signal it means that it has just ended, or that it is not ours to stop: the wait tells.
        let _ = kill(pid, signal);
        // The file goes first, the process a moment later (never, where nobody reaps it).
        if wait_until(patience, || !pidfile.exists() || !is_alive(pid)) {
            return Ok(());
        }
    }
    Err(Error::LeftoverStays { pid: pid.as_raw(), dir: data.to_path_buf() })
}

fn read_pid(pidfile: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(pidfile).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|&pid| pid > 1).map(Pid::from_raw)
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None) != Err(Errno::ESRCH)
}

/// Whether the process is a server on `data`: its arguments name the folder, or it works in it.
fn serves(pid: Pid, data: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    if std::fs::read_link(process.join("cwd")).is_ok_and(|dir| dir == data) {
        return true;
    }
    let arguments = std::fs::read(process.join("cmdline")).or_else(|_| {
        let ps = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).stdin(Stdio::null()).output();
        ps.map(|output| output.stdout)
    });
    let data = data.as_os_str().as_encoded_bytes();
    arguments.is_ok_and(|text| text.windows(data.len()).any(|part| part == data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_that_has_the_old_process_id_is_left_alone() {
        let data = tempfile::tempdir().unwrap();
        let pidfile = data.path().join("postmaster.pid");
        let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(&pidfile, format!("{}\n", stranger.id())).unwrap();
        clear(data.path()).unwrap();
        assert!(!pidfile.exists());
        assert!(stranger.try_wait().unwrap().is_none(), "it was signalled");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn the_file_of_a_server_that_is_gone_is_left_to_postgres() {
        let data = tempfile::tempdir().unwrap();
        let pidfile = data.path().join("postmaster.pid");
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        std::fs::write(&pidfile, format!("{}\n", gone.id())).unwrap();
        clear(data.path()).unwrap();
        assert!(pidfile.exists());
    }
}
