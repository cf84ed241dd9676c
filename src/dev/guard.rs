//! Ties the server's life to the program's.
//!
//! The server is the child of a small shell, the guard, which holds the read end of a pipe whose write end only we have.
//! When we end, even by kill -9, the system closes our end, the guard's read returns, and the server gets a fast shutdown.
//! Guard and server have a process group of their own, so that Ctrl-C at a terminal reaches us alone and we decide the order.

use super::account::Account;
use super::cluster::clean;
use super::error::{Error, IoContext};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

/// The server's exit ends the guard too, so that we see it. The watcher signals the shell rather than the server: the shell
/// alone knows that the server's process id is still the server's. `wait` returns early when the trap has run, hence the loop.
const SCRIPT: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
server=$!
trap 'kill -INT "$server"' TERM
{ read -r line <&3; kill -TERM "$$"; } >/dev/null 2>&1 &
watcher=$!
exec 3<&- </dev/null
while :; do
    wait "$server"
    code=$?
    kill -0 "$server" 2>/dev/null || break
done
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// A running program that ends when this value is dropped, or when our process ends.
#[derive(Debug)]
pub(super) struct Guarded {
    guard: Child,
    // The write end: std opens it close-on-exec, so no other child of ours keeps it open after we are gone.
    lifeline: Option<ChildStdin>,
}

impl Guarded {
    /// Runs `command` (program, then arguments) in `dir` as `account`; what it prints goes to `log`.
    pub(super) fn spawn(command: &[OsString], dir: &Path, account: &Account, log: File) -> Result<Self, Error> {
        let shell = Path::new("/bin/sh");
        let second = log.try_clone().at("cannot be opened twice", dir)?;
        let mut guarded = Command::new(shell);
        guarded.arg("-c").arg(SCRIPT).arg("sluice-guard").args(command);
        clean(&mut guarded, dir);
        account.apply(&mut guarded);
        guarded.process_group(0).stdin(Stdio::piped()).stdout(log).stderr(second);
        let mut guard = guarded.spawn().at("cannot be run", shell)?;
        let lifeline = guard.stdin.take();
        Ok(Self { guard, lifeline })
    }

    /// Whether the program (and so its guard) has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        // An error means that the guard is no child of ours any more: it was waited for already.
        self.guard.try_wait().map_or(true, |status| status.is_some())
    }

    /// Asks the program to end and waits; false if it has not within `patience`.
    pub(super) fn stop(&mut self, patience: Duration) -> bool {
        drop(self.lifeline.take());
        wait_until(patience, || self.has_ended())
    }
}

/// Looks every 10 ms until `done`; false if it is not within `patience`. Blocks the thread.
pub(super) fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = crate::clock::instant();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(command: &[&str], log: &Path) -> Guarded {
        let command: Vec<OsString> = command.iter().map(Into::into).collect();
        let account = Account::ourselves();
        Guarded::spawn(&command, Path::new("/"), &account, File::create(log).unwrap()).unwrap()
    }

    #[test]
    fn a_program_that_ends_by_itself_ends_its_guard() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut brief = guarded(&["true"], log.path());
        assert!(wait_until(Duration::from_secs(10), || brief.has_ended()));
    }
}
