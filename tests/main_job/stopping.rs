//! A process that is told to stop finishes what it has begun; one that cannot work says so and ends.

use crate::client::Event;
use crate::sink::{Gate, Reply, Sink};
use crate::system::{System, eventually};
use nix::sys::signal::Signal;

#[tokio::test]
async fn a_worker_told_to_stop_finishes_and_records_its_tries_and_begins_no_others() {
    let system = System::new("stop").await;
    let gate = Gate::new();
    let held = gate.clone();
    let sink = Sink::start(move |_| Reply::After(held.clone(), 200)).await;
    let config = system.config(&sink.config("crm", "concurrency = 8"));
    let mut worker = system.working(&config).await;
    let ingest = system.ingest().await;
    for user in 0..30 {
        ingest.client().store(&Event::of(&format!("u-{user}"), 0)).await;
    }
    eventually("eight are being tried", async || sink.tries() == 8).await;
    worker.signal(Signal::SIGTERM);
    eventually("it has heard", async || worker.log().contains("stopping")).await;
    gate.open();
    assert!(worker.wait().await.success());
    assert_eq!((sink.tries(), system.count("delivered").await, system.count("pending").await), (8, 8, 22));

    let _next = system.working(&config).await;
    system.drained(30).await;
    sink.assert_each_once(30);
}

#[tokio::test]
async fn a_second_signal_stops_a_worker_at_once_and_its_tries_are_made_again() {
    let system = System::new("stop_twice").await;
    let gate = Gate::new();
    let held = gate.clone();
    let sink = Sink::start(move |a_try| if a_try.of_event == 1 { Reply::After(held.clone(), 200) } else { Reply::Status(200) }).await;
    let config = system.config(&sink.config("crm", "timeout = \"60s\""));
    let mut worker = system.working(&config).await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    eventually("it is being tried", async || sink.tries() == 1).await;
    worker.signal(Signal::SIGTERM);
    eventually("it has heard", async || worker.log().contains("stopping")).await;
    worker.signal(Signal::SIGTERM);
    worker.wait().await;
    assert_eq!(system.count("pending").await, 1);
    let _next = system.working(&config).await;
    system.drained(1).await;
    assert_eq!(sink.tries(), 2);
}

#[tokio::test]
async fn both_processes_refuse_to_work_on_a_database_without_the_schema_and_say_what_to_do() {
    let system = System::empty("no_schema").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", ""));
    for role in ["ingest", "worker"] {
        let output = system.run_with(Some(&config), &[role]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("run `sluice migrate`"), "{role}: {said}");
    }
}

#[tokio::test]
async fn a_config_that_is_wrong_ends_a_process_with_78_and_says_where() {
    let system = System::empty("no_config").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", "concurency = 3"));
    for args in [["config", "check"].as_slice(), &["worker"]] {
        let output = system.run_with(Some(&config), args).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(78) && said.contains("concurency"), "{args:?}: {said}");
    }
    let none = system.run(&["worker"]).await;
    assert_eq!(none.status.code(), Some(78), "there is no config at all");
}

#[tokio::test]
async fn ingest_refuses_a_role_whose_commits_are_not_on_disk_when_they_are_reported_unless_told_otherwise() {
    let system = System::new("not_durable").await;
    let database: String = system.value("select current_database()::text").await;
    system.execute(&format!("alter database {database} set synchronous_commit = off")).await;
    let output = system.run_with(Some(&system.config("")), &["ingest"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("synchronous_commit is off") && said.contains("asynchronous_commit"), "{said}");
    let ingest = system.ingest_with("asynchronous_commit = \"allow\"").await;
    ingest.client().store(&Event::of("u-1", 0)).await;
}

#[tokio::test]
async fn ingest_that_finds_later_that_commits_are_not_on_disk_acknowledges_nothing() {
    let system = System::new("durable_no_more").await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    let database: String = system.value("select current_database()::text").await;
    system.execute(&format!("alter database {database} set synchronous_commit = off")).await;
    // Settings reach a session when it begins.
    system.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sluice ingest'").await;
    assert_eq!(ingest.client().post(&Event::of("u-1", 1)).await.status(), 503);
    assert_eq!(system.value::<i64>("select count(*) from sluice.events").await, 1);
}
