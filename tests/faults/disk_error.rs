//! The disk under Postgres answers with an error when the log is to be written: Postgres panics and recovers, and nothing that
//! was acknowledged is missing afterwards.

use crate::private;
use crate::provider::{Provider, missing};
use crate::sink::Sink;
use crate::system::{System, eventually, within};
use sluice::dev::PrivatePostgres;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Makes the next write-through of each of these processes fail; `None`, and says so, where nobody can.
fn fail_next_write(pids: &[i32]) -> Option<Child> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=1"]);
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    match command.stdin(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(strace) => Some(strace),
        Err(error) => {
            eprintln!("SKIPPED, because there is no strace here: {error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_under_postgres_costs_no_acknowledged_event_and_all_goes_on_by_itself() {
    let folder = private::folder();
    let postgres = PrivatePostgres::start(folder.path(), private::options()).await.expect("a private Postgres starts");
    let system = System::on(postgres.url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("lms", "retry = { initial = \"50ms\", cap = \"1s\" }"));
    let (mut worker, mut ingest) = (system.working(&config).await, system.ingest().await);
    let provider = Provider::new(ingest.address);
    let learners = provider.learners(4);
    provider.more(50).await;

    let pids: Vec<i32> =
        sqlx::query_scalar("select pid from pg_stat_activity where application_name like 'sluice%' or backend_type = 'walwriter'")
            .fetch_all(&system.db)
            .await
            .unwrap();
    let Some(mut strace) = fail_next_write(&pids) else { return };
    eventually("Postgres has panicked", async || {
        assert!(strace.try_wait().is_ok_and(|ended| ended.is_none_or(|status| status.success())), "strace may trace");
        std::fs::read_to_string(postgres.log_path()).unwrap().contains("PANIC:")
    })
    .await;
    let acknowledged = provider.count();
    within(Duration::from_secs(30), "events are acknowledged again", async || provider.count() > acknowledged + 50).await;

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
    strace.wait().expect("it ends with what it traced");
}
