//! Who the server runs as. PostgreSQL refuses to run as root, so a root program runs it as an unprivileged user.

use super::error::{Error, IoContext};
use nix::unistd::{Gid, Uid, User, chown, geteuid};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// `None` inside: the user we are.
#[derive(Debug, Clone)]
pub(super) struct Account(Option<Dropped>);

#[derive(Debug, Clone)]
struct Dropped {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// Ourselves, or, for root, `postgres` where that user exists, else `nobody`.
    pub(super) fn choose() -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Ok(Self(None));
        }
        let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.filter(|user| !user.uid.is_root()).ok_or(Error::NoUser)?;
        Ok(Self(Some(Dropped { name: user.name, uid: user.uid, gid: user.gid })))
    }

    /// The user we are, root or not: for programs that do not mind.
    #[cfg(test)]
    pub(super) fn ourselves() -> Self {
        Self(None)
    }

    /// Makes `command` run as this account. For root this also drops every supplementary group.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Some(dropped) = &self.0 {
            command.uid(dropped.uid.as_raw()).gid(dropped.gid.as_raw());
        }
    }

    /// Gives one file or folder to the account.
    pub(super) fn own(&self, path: &Path) -> Result<(), Error> {
        match &self.0 {
            Some(dropped) => {
                chown(path, Some(dropped.uid), Some(dropped.gid)).map_err(Into::into).at("cannot be given to the server's user", path)
            }
            None => Ok(()),
        }
    }

    /// Gives a folder and all that is in it to the account, unless the folder is its own already: that is a cluster which
    /// another user made. Links are given as links, never followed.
    pub(super) fn own_tree(&self, dir: &Path) -> Result<(), Error> {
        let Some(dropped) = &self.0 else { return Ok(()) };
        let owner = dir.symlink_metadata().at("cannot be read", dir)?.uid();
        if owner == dropped.uid.as_raw() {
            return Ok(());
        }
        self.own_recursively(dir, dropped)
    }

    fn own_recursively(&self, dir: &Path, dropped: &Dropped) -> Result<(), Error> {
        for entry in std::fs::read_dir(dir).at("cannot be read", dir)? {
            let path = entry.at("cannot be read", dir)?.path();
            if path.symlink_metadata().at("cannot be read", &path)?.is_dir() {
                self.own_recursively(&path, dropped)?;
            } else {
                std::os::unix::fs::lchown(&path, Some(dropped.uid.as_raw()), Some(dropped.gid.as_raw()))
                    .at("cannot be given to the server's user", &path)?;
            }
        }
        self.own(dir)
    }

    /// Fails on the first folder above (and including) `dir` that the account may not enter. `dir` is absolute, without links.
    pub(super) fn check_can_enter(&self, dir: &Path) -> Result<(), Error> {
        let Some(dropped) = &self.0 else { return Ok(()) };
        let mut parents: Vec<&Path> = dir.ancestors().collect();
        parents.reverse();
        for parent in parents {
            let meta = parent.metadata().at("cannot be read", parent)?;
            let needed = if meta.uid() == dropped.uid.as_raw() {
                0o100
            } else if meta.gid() == dropped.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if meta.mode() & needed == 0 {
                return Err(Error::NotTraversable { user: dropped.name.clone(), parent: parent.to_path_buf() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_that_the_servers_user_cannot_enter_is_named() {
        let account = Account(Some(Dropped { name: "postgres".into(), uid: Uid::from_raw(61_000), gid: Gid::from_raw(61_000) }));
        let temp = tempfile::tempdir().unwrap();
        let closed = temp.path().canonicalize().unwrap().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let refused = account.check_can_enter(&closed).unwrap_err().to_string();
        assert!(
            refused.contains("postgres") && refused.contains(closed.to_str().unwrap()) && refused.contains("SLUICE_DEV_DIR"),
            "{refused}"
        );
    }
}
