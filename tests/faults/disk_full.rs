//! The disk under Postgres fills up: ingest refuses in time, and when there is room again all goes on.

use crate::client::{Client, Event};
use crate::private;
use crate::provider::{Provider, missing};
use crate::sink::Sink;
use crate::system::{Random, System, eventually, free_port, within};
use sluice::clock;
use sluice::dev::PrivatePostgres;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A small file system of its own; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None`, and says so, where we may not mount one.
    fn mount(on: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=192m,mode=755", "tmpfs"]).arg(on).output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(on.to_owned()));
        }
        eprintln!("SKIPPED, because a tmpfs cannot be mounted here (it takes root): {mounted:?}");
        None
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("a file");
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("it is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, so that nothing which still runs there can keep it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// An event of 100 kB that do not compress.
fn bulky(user: &str, n: u64) -> Event {
    let mut random = Random(n);
    let mut event = Event::of(user, n);
    let bulk: String = (0..12_500).map(|_| format!("{:08x}", random.below(1 << 31))).collect();
    event.body = format!(r#"{{"event":"course.completed","companyId":"acme","data":{{"userId":"{user}","bulk":"{bulk}"}}}}"#).into_bytes();
    event
}

/// A server whose log is kept small, so that the tables are what fills the disk, or grows as it likes.
async fn start(dir: &Path, port: u16, log_bytes_max: &str) -> PrivatePostgres {
    let mut options = private::options();
    options.port = Some(port);
    options.settings = vec![("max_wal_size".into(), log_bytes_max.into()), ("min_wal_size".into(), "32MB".into())];
    PrivatePostgres::start(dir, options).await.expect("a private Postgres starts")
}

/// Whether it was refused; if so, in time and in a way that makes the provider try again.
async fn is_refused(client: &mut Client, event: &Event) -> bool {
    let began = clock::instant();
    let answer = client.post(event).await;
    if answer.status() == 200 {
        return false;
    }
    let took = clock::instant().saturating_duration_since(began);
    assert!(answer.status() == 503 && answer.header("retry-after").is_some(), "{}", answer.head);
    // 2.5 s is the promise; the rest is what a busy machine may take to wake the tasks up.
    assert!(took < Duration::from_millis(3500), "{took:?}");
    true
}

/// A folder inside another, for the server too.
fn folder_in(folder: &Path, name: &str) -> PathBuf {
    let dir = folder.join(name);
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_no_acknowledged_event_and_all_goes_on_by_itself_when_there_is_room() {
    let folder = private::folder();
    let Some(disk) = Disk::mount(folder.path()) else { return };
    fill_and_free(&disk, &folder_in(folder.path(), "postgres"), "32MB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_grow_costs_no_acknowledged_event_and_all_goes_on_once_postgres_is_started_again() {
    let folder = private::folder();
    let Some(disk) = Disk::mount(&folder_in(folder.path(), "disk")) else { return };
    let dir = folder_in(folder.path(), "postgres");
    start(&dir, free_port(), "1GB").await.stop().await.unwrap();
    let (log, apart) = (dir.join("pgdata/pg_wal"), disk.0.join("pg_wal"));
    assert!(Command::new("mv").args([&log, &apart]).status().unwrap().success());
    std::os::unix::fs::symlink(&apart, &log).unwrap();
    let panics = fill_and_free(&disk, &dir, "1GB").await;
    assert!(panics > 0, "the contrast to the test above: without room for its log Postgres gives up");
}

/// Returns how often Postgres panicked.
async fn fill_and_free(disk: &Disk, dir: &Path, log_bytes_max: &str) -> usize {
    let port = free_port();
    let mut postgres = Some(start(dir, port, log_bytes_max).await);
    let system = System::on(postgres.as_ref().unwrap().url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let mut worker = system.working(&system.config(&sink.config("lms", "retry = { initial = \"50ms\", cap = \"1s\" }"))).await;
    let mut ingest = system.ingest().await;
    let provider = Provider::sending(ingest.address, bulky);
    let learners = provider.learners(4);
    provider.more(50).await;

    disk.fill();
    let (mut client, mut in_a_row) = (ingest.client(), 0);
    eventually("everything is refused", async || {
        let refused = is_refused(&mut client, &bulky("u-last", 0)).await;
        in_a_row = if refused { in_a_row + 1 } else { 0 };
        in_a_row >= 4
    })
    .await;

    let log = std::fs::read_to_string(postgres.as_ref().unwrap().log_path()).unwrap();
    assert!(log.contains("No space left on device"), "{log}");
    disk.free();
    let (freed, acknowledged) = (clock::instant(), provider.count());
    let mut restarted = 0;
    within(Duration::from_secs(30), "events are acknowledged again", async || {
        // Where the log could not be written Postgres stops, and somebody must start it.
        if postgres.as_mut().unwrap().has_ended() {
            postgres.take().unwrap().stop().await.unwrap();
            postgres = Some(start(dir, port, log_bytes_max).await);
            restarted += 1;
        }
        provider.count() > acknowledged + 20
    })
    .await;
    let took = clock::instant().saturating_duration_since(freed);
    let panics = log.matches("PANIC:").count();
    eprintln!("acknowledged again {took:?} after there was room; Postgres panicked {panics} times and was started {restarted} times");

    let acknowledged: Vec<String> = provider.end(learners).await.into_keys().collect();
    assert_eq!(missing(&system, &acknowledged).await, [""; 0], "acknowledged, and not stored");
    let all: i64 = system.value("select count(*) from sluice.events").await;
    system.drained(all).await;
    let successes = sink.successes();
    assert_eq!(acknowledged.iter().find(|id| !successes.contains_key(*id)), None, "acknowledged, and never delivered");
    sink.assert_in_order();
    // They are the same processes as before.
    worker.stop().await;
    ingest.process.stop().await;
    panics
}
