//! The private Postgres for real: what is kept, and that it never outlives its program.

#[path = "support/private.rs"]
mod private;

use sluice::dev::{Error, PrivatePostgres};
use sqlx::{Connection, Executor, PgConnection};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set for the child process that holds a server until it is killed.
const HOLD_DIR: &str = "SLUICE_TEST_HOLD_DIR";

async fn start(dir: &Path) -> PrivatePostgres {
    PrivatePostgres::start(dir, private::options()).await.unwrap()
}

async fn connect(postgres: &PrivatePostgres) -> PgConnection {
    PgConnection::connect(postgres.url()).await.unwrap()
}

/// First line of postmaster.pid.
fn server_pid(dir: &Path) -> i32 {
    let text = std::fs::read_to_string(dir.join("pgdata/postmaster.pid")).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

fn parent_of(pid: i32) -> i32 {
    let output = Command::new("ps").args(["-o", "ppid=", "-p", &pid.to_string()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Polls, because what is waited for happens in processes that are not ours.
#[expect(clippy::disallowed_methods, reason = "a test that waits for another process has no other clock")]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Another program (this one, again) that runs a server on `dir` and waits to be killed.
fn holder(dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_holds_a_server", "--nocapture"])
        .env(HOLD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("holding")), "the child did not start its server");
    child
}

/// Not a test of its own: what [`holder`] runs.
#[tokio::test]
async fn child_that_holds_a_server() {
    if let Some(dir) = std::env::var_os(HOLD_DIR) {
        let _postgres = start(Path::new(&dir)).await;
        // On a line of its own, whatever the test runner has printed before.
        println!("\nholding");
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn data_is_kept_from_one_start_to_the_next() {
    let dir = private::folder();
    let first = start(dir.path()).await;
    connect(&first).await.execute("create table kept as select 42 as answer").await.unwrap();
    first.stop().await.unwrap();
    assert!(!dir.path().join("pgdata/postmaster.pid").exists());

    let second = start(dir.path()).await;
    let answer: i32 = sqlx::query_scalar("select answer from kept").fetch_one(&mut connect(&second).await).await.unwrap();
    assert_eq!(answer, 42);
}

#[tokio::test]
async fn the_server_is_durable_private_and_in_utf8() {
    let dir = private::folder();
    let mut options = private::options();
    options.settings = vec![("max_wal_size".into(), "3GB".into())];
    let postgres = PrivatePostgres::start(dir.path(), options).await.unwrap();
    let mut conn = connect(&postgres).await;
    for (name, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("server_encoding", "UTF8"),
        ("password_encryption", "scram-sha-256"),
        ("max_wal_size", "3GB"),
    ] {
        let shown: String = sqlx::query_scalar("select current_setting($1)").bind(name).fetch_one(&mut conn).await.unwrap();
        assert_eq!(shown, value, "{name}");
    }
    let wrong = postgres.url().replace("sluice:", "sluice:x");
    assert!(PgConnection::connect(&wrong).await.is_err(), "any password is taken");
    let shown = format!("{postgres:?} {}", postgres.psql_line());
    let password = postgres.url().split([':', '@']).nth(2).unwrap();
    assert!(!shown.contains(password), "{shown}");
}

#[tokio::test]
async fn a_dropped_server_has_stopped() {
    let dir = private::folder();
    drop(start(dir.path()).await);
    assert!(!dir.path().join("pgdata/postmaster.pid").exists());
}

#[tokio::test]
async fn a_program_killed_with_kill_9_takes_its_server_along() {
    let dir = private::folder();
    let mut child = holder(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    // A shutdown removes the file; a crash of the server would leave it.
    eventually("the server shuts down", || !dir.path().join("pgdata/postmaster.pid").exists());
}

#[tokio::test]
async fn a_new_start_at_once_after_kill_9_waits_for_the_old_server_to_end() {
    let dir = private::folder();
    let mut child = holder(dir.path());
    let old = server_pid(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let postgres = start(dir.path()).await;
    connect(&postgres).await.ping().await.unwrap();
    assert_ne!(server_pid(dir.path()), old);
}

#[tokio::test]
async fn a_server_left_over_because_its_guard_was_killed_too_is_stopped_first() {
    let dir = private::folder();
    let mut child = holder(dir.path());
    let old = server_pid(dir.path());
    signal(parent_of(old), nix::sys::signal::Signal::SIGKILL);
    child.kill().unwrap();
    child.wait().unwrap();
    let postgres = start(dir.path()).await;
    connect(&postgres).await.ping().await.unwrap();
    assert_ne!(server_pid(dir.path()), old);
}

#[tokio::test]
async fn a_server_that_was_killed_itself_is_noticed_and_recovers_at_the_next_start() {
    let dir = private::folder();
    let mut first = start(dir.path()).await;
    connect(&first).await.execute("create table kept as select 42 as answer").await.unwrap();
    assert!(!first.has_ended());
    signal(server_pid(dir.path()), nix::sys::signal::Signal::SIGKILL);
    eventually("the guard notices", || first.has_ended());
    first.stop().await.unwrap();

    let second = start(dir.path()).await;
    let answer: i32 = sqlx::query_scalar("select answer from kept").fetch_one(&mut connect(&second).await).await.unwrap();
    assert_eq!(answer, 42);
}

#[tokio::test]
async fn a_folder_in_use_is_refused_and_its_server_runs_on() {
    let dir = private::folder();
    let postgres = start(dir.path()).await;
    let refused = PrivatePostgres::start(dir.path(), private::options()).await.unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }), "{refused}");
    connect(&postgres).await.ping().await.unwrap();
}

#[tokio::test]
async fn data_of_another_major_version_is_refused_by_name() {
    let dir = private::folder();
    std::fs::create_dir(dir.path().join("pgdata")).unwrap();
    std::fs::write(dir.path().join("pgdata/PG_VERSION"), "7\n").unwrap();
    let refused = PrivatePostgres::start(dir.path(), private::options()).await.unwrap_err();
    assert!(refused.to_string().contains("was made by PostgreSQL 7"), "{refused}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_with_the_servers_own_words() {
    let dir = private::folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = private::options();
    options.port = Some(taken.local_addr().unwrap().port());
    let refused = PrivatePostgres::start(dir.path(), options).await.unwrap_err();
    assert!(refused.to_string().contains("Address already in use"), "{refused}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_root_programs_server_runs_without_any_of_its_rights() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = private::folder();
    let _postgres = start(dir.path()).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", server_pid(dir.path()))).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(!field("Uid:").split_whitespace().any(|uid| uid == "0"), "{status}");
    assert!(!field("Gid:").split_whitespace().any(|gid| gid == "0"), "{status}");
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("CapEff:"), "0000000000000000");
}
