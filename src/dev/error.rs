use std::io;
use std::path::PathBuf;

/// Why there is no private Postgres. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no PostgreSQL server found (initdb and postgres, version {min} or newer). Looked in: {looked_in}.\n\
         Install it: `sudo apt-get install postgresql` on Debian or Ubuntu, `brew install postgresql@17` on macOS; \
         or set DATABASE_URL to a server that runs already"
    )]
    NotInstalled { min: u32, looked_in: String },

    #[error(
        "the data in {} was made by PostgreSQL {cluster}, and only {installed} is installed. \
         Install PostgreSQL {cluster}, or move the folder away to start afresh",
        dir.display()
    )]
    OtherVersion { dir: PathBuf, cluster: u32, installed: String },

    #[error("{} is in use by another program that runs its own Postgres there: stop it, or choose another folder with SLUICE_DEV_DIR", dir.display())]
    InUse { dir: PathBuf },

    #[error(
        "PostgreSQL refuses to run as root, and the user {user}, whom it is run as instead, cannot enter {}. \
         Let everyone pass through it (`chmod o+x {}`), or choose another folder with SLUICE_DEV_DIR, for example /var/lib/sluice-dev",
        parent.display(), parent.display()
    )]
    NotTraversable { user: String, parent: PathBuf },

    #[error(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor a user `nobody` to run it as: create one, or start Sluice as another user"
    )]
    NoUser,

    #[error("the password of the Postgres in {} is lost ({} cannot be used): restore it, or move the folder away to start afresh", dir.display(), file.display())]
    PasswordLost { dir: PathBuf, file: PathBuf },

    #[error("{program} failed ({status}): {output}")]
    ToolFailed { program: String, status: std::process::ExitStatus, output: String },

    #[error("Postgres did not start; the end of {} says:\n{tail}", log.display())]
    NotStarted { log: PathBuf, tail: String },

    #[error(
        "Postgres did not get ready within {seconds} s (recovery after a crash can take long); it is stopped again. \
         The end of {} says:\n{tail}",
        log.display()
    )]
    StartTooSlow { seconds: u64, log: PathBuf, tail: String },

    #[error("a Postgres (process {pid}) that an earlier program left behind in {} does not stop: end it by hand", dir.display())]
    LeftoverStays { pid: i32, dir: PathBuf },

    #[error("{}: {what}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("Postgres runs, but its database could not be made: {0}")]
    Database(#[from] crate::store::migrate::Error),
}

/// Names the file and the step in an I/O error.
pub(super) trait IoContext<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, Error>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what, path: path.into(), source })
    }
}
