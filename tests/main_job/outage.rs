//! The database goes away and comes back.

use crate::client::{Client, Event};
use crate::private;
use crate::sink::Sink;
use crate::system::{System, eventually, free_port, holds_for};
use sluice::clock;
use sluice::dev::PrivatePostgres;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

async fn start(dir: &Path, port: u16) -> PrivatePostgres {
    let mut options = private::options();
    options.port = Some(port);
    PrivatePostgres::start(dir, options).await.expect("a private Postgres starts")
}

/// A system whose server the test can stop, and start again with the same folder and port.
async fn on_a_server_of_its_own() -> (TempDir, u16, PrivatePostgres, System) {
    let (dir, port) = (private::folder(), free_port());
    let postgres = start(dir.path(), port).await;
    let system = System::on(postgres.url()).await;
    system.migrate().await;
    (dir, port, postgres, system)
}

/// Asserts that a post is refused in time, and in a way that makes the provider try again.
async fn refused(client: &mut Client, event: &Event) {
    let began = clock::instant();
    let answer = client.post(event).await;
    let took = clock::instant().saturating_duration_since(began);
    assert_eq!(answer.status(), 503);
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    // 2.5 s is the promise; the rest is what a busy machine may take to wake the tasks up.
    assert!(took < Duration::from_millis(3500), "{took:?}");
}

/// The status that a process answers a probe with.
async fn probe(ops: SocketAddr, path: &str) -> String {
    Client::new(ops).send(format!("GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.status().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_ingest_answers_503_in_time_and_all_goes_on_by_itself_when_it_is_back() {
    let (dir, port, postgres, system) = on_a_server_of_its_own().await;
    let sink = Sink::answering(200).await;
    let [ingest_ops, worker_ops] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let _worker = system.working(&system.config(&format!("[worker]\nops_listen = \"{worker_ops}\"\n{}", sink.config("crm", "")))).await;
    let ingest = system.ingest_with(&format!("ops_listen = \"{ingest_ops}\"")).await;
    let ready = async |expected| {
        for ops in [ingest_ops, worker_ops] {
            eventually(expected, async || probe(ops, "readyz").await == expected).await;
            assert_eq!(probe(ops, "livez").await, "200");
        }
    };
    let mut client = ingest.client();
    client.store(&Event::of("u-1", 0)).await;
    system.drained(1).await;
    ready("200").await;

    postgres.stop().await.unwrap();
    for _ in 0..2 {
        refused(&mut client, &Event::of("u-1", 1)).await;
    }
    ready("503").await;
    // One that starts without it waits for it too.
    let late = system.ingest().await;
    refused(&mut late.client(), &Event::of("u-1", 1)).await;

    let _postgres = start(dir.path(), port).await;
    for ingest in [&ingest, &late] {
        eventually("it stores again", async || ingest.client().post(&Event::of("u-1", 1)).await.status() == 200).await;
    }
    ready("200").await;
    system.drained(2).await;
    assert!((1..=2).contains(&sink.successes()["u-1:0"]), "a lost record is the only reason to deliver it again");
    assert!(sink.successes().contains_key("u-1:1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_costs_no_request() {
    let system = System::new("lost").await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'sluice ingest' and datname = current_database()";
    for n in 0..6 {
        client.store(&Event::of("u-1", n)).await;
        assert!(system.value::<i64>(end).await > 0, "those that store");
        if n == 3 {
            holds_for(Duration::from_secs(3), "the database was there all the while, longer than a request waits", async || true).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_stays_away_requests_are_refused_after_one_try_and_wait_for_nothing() {
    let (_dir, _port, postgres, system) = on_a_server_of_its_own().await;
    let ingest = system.ingest_with("commit_timeout = \"8s\"").await;
    let mut client = ingest.client();
    postgres.stop().await.unwrap();
    let mut refused_after = async || {
        let began = clock::instant();
        assert_eq!(client.post(&Event::of("u-1", 1)).await.status(), 503);
        clock::instant().saturating_duration_since(began)
    };
    // It might have come back within that time.
    assert!(refused_after().await >= Duration::from_secs(8));
    assert!(refused_after().await < Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_that_end_while_the_database_is_away_are_recorded_when_it_is_back() {
    let (dir, port, postgres, system) = on_a_server_of_its_own().await;
    let gate = crate::sink::Gate::new();
    let held = gate.clone();
    let sink = Sink::start(move |_| crate::sink::Reply::After(held.clone(), 200)).await;
    let worker = system.working(&system.config(&sink.config("crm", ""))).await;
    let ingest = system.ingest().await;
    for user in 0..10 {
        ingest.client().store(&Event::of(&format!("u-{user}"), 0)).await;
    }
    eventually("all are being tried", async || sink.tries() == 10).await;
    postgres.stop().await.unwrap();
    gate.open();
    eventually("it cannot record them", async || worker.log().contains("cannot record outcomes")).await;
    let _postgres = start(dir.path(), port).await;
    system.drained(10).await;
    sink.assert_each_once(10);
}
