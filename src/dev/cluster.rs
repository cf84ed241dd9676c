//! The data folder: who may use it, what is in it, and how it is made.
//!
//! The folder itself stays with the user we are; only `pgdata` is given to the user the server runs as. So a root program
//! never writes, or reads a password, where an unprivileged user could have laid a link.

use super::account::Account;
use super::binaries::Binaries;
use super::error::{Error, IoContext};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The role that owns everything, and the database made on the first start.
pub(super) const ROLE: &str = "sluice";

/// The data folder, absolute and without links.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder where it is missing: open to pass through for a root program, whose server is another user.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        if !dir.exists() {
            let mode = if nix::unistd::geteuid().is_root() { 0o755 } else { 0o700 };
            DirBuilder::new().recursive(true).mode(mode).create(dir).at("cannot be created", dir)?;
        }
        Ok(Self(dir.canonicalize().at("cannot be resolved", dir)?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// PGDATA.
    pub(super) fn data(&self) -> PathBuf {
        self.0.join("pgdata")
    }

    /// What the server printed since its last start.
    pub(super) fn log(&self) -> PathBuf {
        self.0.join("server.log")
    }

    /// Holds the password, in the form that psql reads (PGPASSFILE).
    pub(super) fn passfile(&self) -> PathBuf {
        self.0.join("pgpass")
    }

    /// Holds the folder for this program. The system lets go of it when the program ends, however that happens.
    pub(super) fn lock(&self) -> Result<File, Error> {
        let path = self.0.join("lock");
        let file = private_file().truncate(false).open(&path).at("cannot be opened", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { dir: self.0.clone() }),
            Err(TryLockError::Error(source)) => Err(Error::Io { what: "cannot be locked", path, source }),
        }
    }

    /// The major version that made the cluster; `None` where there is none yet.
    pub(super) fn cluster_major(&self) -> Result<Option<u32>, Error> {
        let path = self.data().join("PG_VERSION");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { what: "cannot be read", path, source }),
        }
    }

    /// The stored password.
    pub(super) fn password(&self) -> Result<String, Error> {
        let file = self.passfile();
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let password = text.trim_end().rsplit(':').next().unwrap_or_default().to_owned();
        if password.is_empty() { Err(Error::PasswordLost { dir: self.0.clone(), file }) } else { Ok(password) }
    }

    fn store_password(&self, password: &str) -> Result<(), Error> {
        let path = self.passfile();
        write_private(&path, &format!("127.0.0.1:*:*:{ROLE}:{password}\n"))
    }

    /// A fresh log; the one before it is kept beside it.
    pub(super) fn new_log(&self) -> Result<File, Error> {
        let path = self.log();
        if path.exists() {
            let kept = self.0.join("server.log.1");
            std::fs::rename(&path, &kept).at("cannot be renamed", &path)?;
        }
        private_file().append(true).open(&path).at("cannot be created", path)
    }

    /// The last lines of the log, for an error.
    pub(super) fn log_tail(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Makes the cluster, in UTF-8 and the C locale, with a password of its own. It is made under another name and renamed
    /// when complete, so that a program killed midway leaves nothing that looks like a cluster.
    pub(super) fn init(&self, binaries: &Binaries, account: &Account) -> Result<(), Error> {
        let unfinished = self.0.join("pgdata.unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).at("cannot be removed", &unfinished)?;
        }
        DirBuilder::new().mode(0o700).create(&unfinished).at("cannot be created", &unfinished)?;
        account.own(&unfinished)?;
        let password = new_password();
        self.store_password(&password)?;
        let passed = self.0.join("initdb.password");
        write_private(&passed, &password)?;
        account.own(&passed)?;
        let made = run_initdb(binaries, account, &unfinished, &passed);
        std::fs::remove_file(&passed).at("cannot be removed", &passed)?;
        made?;
        std::fs::rename(&unfinished, self.data()).at("cannot be renamed", &unfinished)
    }
}

fn run_initdb(binaries: &Binaries, account: &Account, data: &Path, password_file: &Path) -> Result<(), Error> {
    let program = binaries.program("initdb");
    let mut command = Command::new(&program);
    command.arg("-D").arg(data).arg("-U").arg(ROLE).arg("--pwfile").arg(password_file);
    command.args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]);
    clean(&mut command, data);
    account.apply(&mut command);
    let output = command.stdin(Stdio::null()).output().at("cannot be run", &program)?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::ToolFailed {
        program: program.display().to_string(),
        status: output.status,
        output: String::from_utf8_lossy(&text).trim().into(),
    })
}

/// Starts a program in `dir` with an environment that holds no setting of another Postgres.
pub(super) fn clean(command: &mut Command, dir: &Path) {
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C").current_dir(dir);
}

/// 244 random bits from the system's generator, as hexadecimal digits: nothing to escape in a URL or a password file.
fn new_password() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).mode(0o600);
    options
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let mut file = private_file().truncate(true).open(path).at("cannot be written", path)?;
    // The mode above counts only for a new file.
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).at("cannot be made private", path)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).at("cannot be written", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_stored_for_its_owner_alone_and_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        assert!(matches!(folder.password(), Err(Error::PasswordLost { .. })));
        folder.store_password("s3cret").unwrap();
        assert_eq!(folder.password().unwrap(), "s3cret");
        assert_eq!(folder.passfile().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_folder_is_held_by_one_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let held = folder.lock().unwrap();
        assert!(matches!(folder.lock(), Err(Error::InUse { .. })));
        drop(held);
        folder.lock().unwrap();
    }

    #[test]
    fn passwords_differ() {
        assert_ne!(new_password(), new_password());
    }
}
