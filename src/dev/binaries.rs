//! Finds installed server binaries.

use super::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest major version that Sluice runs on.
const MAJOR_MIN: u32 = crate::store::migrate::SERVER_MAJOR_MIN;

/// Folders that hold one folder for each installed version: the parent, what a version's name begins with, and where the
/// binaries are inside it.
const VERSIONED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A folder with `initdb` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The binaries to run: those of version `cluster`, where there is a cluster already, else the first ones found in the order
/// PATH, `pg_config --bindir`, the systems' usual places (newest first).
pub(super) fn find(search_path: Option<&OsStr>, cluster: Option<(u32, &Path)>) -> Result<Binaries, Error> {
    let candidates = candidate_dirs(search_path);
    let found: Vec<Binaries> = candidates.iter().filter_map(|dir| probe(dir)).collect();
    if found.iter().all(|b| b.major < MAJOR_MIN) {
        let mut looked_in: Vec<String> = vec!["PATH".into(), "pg_config --bindir".into()];
        looked_in.extend(VERSIONED.iter().map(|(parent, prefix, bin)| format!("{parent}/{prefix}*/{bin}")));
        return Err(Error::NotInstalled { min: MAJOR_MIN, looked_in: looked_in.join(", ") });
    }
    pick(found, cluster)
}

/// A program of PostgreSQL's, `pgbench` for example: the one beside the server's binaries, else the one in the PATH.
pub fn find_program(search_path: Option<&OsStr>, name: &str) -> Option<PathBuf> {
    let beside = find(search_path, None).ok().map(|binaries| binaries.program(name));
    let in_path = search_path.into_iter().flat_map(std::env::split_paths).map(|dir| dir.join(name));
    beside.into_iter().chain(in_path).find(|program| program.is_file())
}

fn pick(found: Vec<Binaries>, cluster: Option<(u32, &Path)>) -> Result<Binaries, Error> {
    let mut installed: Vec<String> = found.iter().map(|b| b.major.to_string()).collect();
    installed.dedup();
    let wanted = |b: &Binaries| b.major >= MAJOR_MIN && cluster.is_none_or(|(major, _)| b.major == major);
    match (found.into_iter().find(wanted), cluster) {
        (Some(binaries), _) => Ok(binaries),
        (None, Some((cluster, dir))) => Err(Error::OtherVersion { dir: dir.to_path_buf(), cluster, installed: installed.join(", ") }),
        (None, None) => Err(Error::NotInstalled { min: MAJOR_MIN, looked_in: format!("versions found: {}", installed.join(", ")) }),
    }
}

fn candidate_dirs(search_path: Option<&OsStr>) -> Vec<PathBuf> {
    let path_dirs: Vec<PathBuf> = search_path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    let mut dirs = path_dirs.clone();
    dirs.extend(path_dirs.iter().map(|dir| dir.join("pg_config")).find(|file| file.is_file()).and_then(|file| bindir_of(&file)));
    for (parent, prefix, bin) in VERSIONED {
        dirs.extend(versions_in(Path::new(parent), prefix).into_iter().map(|version| version.join(bin)));
    }
    dirs
}

fn bindir_of(pg_config: &Path) -> Option<PathBuf> {
    let output = Command::new(pg_config).arg("--bindir").stdin(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Folders `{parent}/{prefix}{number}`, the highest number first.
fn versions_in(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path())))
        .collect();
    versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    versions.into_iter().map(|(_, path)| path).collect()
}

/// `None` unless the folder holds both programs and `postgres --version` answers.
fn probe(dir: &Path) -> Option<Binaries> {
    if !dir.join("initdb").is_file() || !dir.join("postgres").is_file() {
        return None;
    }
    let output = Command::new(dir.join("postgres")).arg("--version").stdin(Stdio::null()).output().ok()?;
    let major = major_of(&String::from_utf8(output.stdout).ok()?)?;
    // A link in PATH may lead to one of the two alone: both are taken from where the server really is.
    let program = std::fs::canonicalize(dir.join("postgres")).ok()?;
    let dir = program.parent().filter(|dir| dir.join("initdb").is_file())?.to_path_buf();
    Some(Binaries { dir, major })
}

/// 15 of `postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)`, 18 of `postgres (PostgreSQL) 18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits: &str = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binaries(major: u32) -> Binaries {
        Binaries { dir: PathBuf::from(format!("/pg/{major}")), major }
    }

    #[test]
    fn versions_are_read_from_every_form_that_postgres_prints() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("postgres (PostgreSQL)"), None);
    }

    #[test]
    fn the_first_binaries_that_are_new_enough_are_taken() {
        assert_eq!(pick(vec![binaries(13), binaries(15), binaries(17)], None).unwrap(), binaries(15));
    }

    #[test]
    fn a_cluster_is_run_by_the_version_that_made_it_even_when_a_newer_one_comes_first() {
        let dir = Path::new("/data");
        assert_eq!(pick(vec![binaries(17), binaries(15)], Some((15, dir))).unwrap(), binaries(15));
    }

    #[test]
    fn a_cluster_of_a_version_that_is_not_installed_is_refused_by_name() {
        let refused = pick(vec![binaries(17)], Some((14, Path::new("/data")))).unwrap_err().to_string();
        assert!(refused.contains("PostgreSQL 14") && refused.contains("only 17"), "{refused}");
    }

    #[test]
    fn the_highest_number_comes_first_and_other_folders_are_passed_over() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["9", "14", "17", "16", "common"] {
            std::fs::create_dir(parent.path().join(name)).unwrap();
        }
        let names: Vec<_> = versions_in(parent.path(), "").iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["17", "16", "14", "9"]);
    }

    #[test]
    fn where_nothing_is_installed_the_error_says_what_to_install() {
        let nothing = Error::NotInstalled { min: MAJOR_MIN, looked_in: "PATH".into() }.to_string();
        assert!(nothing.contains("apt-get install postgresql") && nothing.contains("brew install postgresql"), "{nothing}");
    }
}
