//! What starting a private Postgres takes.

use sluice::dev::Options;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// A folder that the server's user may enter too.
pub fn folder() -> TempDir {
    let dir = tempfile::Builder::new().prefix("sluice-test-").tempdir().expect("a folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("its permissions");
    dir
}

/// Binaries from the PATH or the usual places.
pub fn options() -> Options {
    Options { search_path: std::env::var_os("PATH"), ..Options::default() }
}
