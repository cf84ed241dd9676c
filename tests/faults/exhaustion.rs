//! What is used up: connections, descriptors, the database's connections. Others are served meanwhile, and all recovers by itself.

use crate::client::{Client, Event};
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually, within};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use std::str::FromStr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Resident memory of a process, in MiB: now, and at its peak.
fn memory(pid: i32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let of = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_cost_little_memory_and_keep_nobody_out() {
    sluice::server::raise_open_files_limit();
    let system = System::new("idle_connections").await;
    // Shorter than the default, so that the test is.
    let ingest = system.ingest_with("header_timeout = \"5s\"\nconnections_max = 12000").await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    let (before, _) = memory(ingest.process.pid());
    let mut idle = Vec::new();
    for _ in 0..10_000 {
        idle.push(TcpStream::connect(ingest.address).await.expect("it is taken, or waits in the queue"));
    }
    let mut client = ingest.client();
    for n in 1..50 {
        client.store(&Event::of("u-1", n)).await;
    }
    let (_, peak) = memory(ingest.process.pid());
    // Mostly the buffer that a request is read into. A build without optimizations needs twice as much as a release.
    assert!(peak - before < 300, "{before} MiB before, {peak} MiB with 10,000 connections");
    // None of them said a word: all are closed.
    for (n, mut stream) in idle.into_iter().enumerate() {
        let closed = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut [0; 512])).await;
        assert!(closed.is_ok(), "connection {n} is still open");
    }
    ingest.client().store(&Event::of("u-1", 50)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_connections_max_clients_wait_until_idle_ones_are_closed() {
    let system = System::new("connections_max").await;
    let ingest = system.ingest_with("header_timeout = \"2s\"\nconnections_max = 10").await;
    let idle: Vec<_> = {
        let connect = (0..10).map(|_| TcpStream::connect(ingest.address));
        futures_util::future::join_all(connect).await
    };
    // The client's own bound is 15 s.
    ingest.client().store(&Event::of("u-1", 0)).await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_left_ingest_serves_those_it_has_and_recovers_by_itself() {
    let system = System::new("descriptors").await;
    system.descriptors_max(Some(64));
    let ingest = system.ingest_with("header_timeout = \"2s\"").await;
    system.descriptors_max(None);
    let mut client = ingest.client();
    client.store(&Event::of("u-1", 0)).await;
    let idle: Vec<_> = futures_util::future::join_all((0..100).map(|_| TcpStream::connect(ingest.address))).await;
    for n in 1..20 {
        client.store(&Event::of("u-1", n)).await;
    }
    eventually("it says what is missing", async || ingest.process.log().contains("raise the limit of open files")).await;
    drop(idle);
    within(Duration::from_secs(15), "new clients are served", async || {
        Client::new(ingest.address).try_send(&Event::of("u-2", 0).request()).await.is_some_and(|answer| answer.status() == 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_connections_left_at_the_database_ingest_answers_503_in_time_and_both_processes_recover_by_themselves() {
    let dir = crate::private::folder();
    let postgres = sluice::dev::PrivatePostgres::start(dir.path(), crate::private::options()).await.expect("a private Postgres starts");
    let system = System::on(postgres.url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let worker = system.working(&system.config(&sink.config("lms", ""))).await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    system.drained(1).await;

    // Whoever else is on that server takes all there are, and what Sluice had is lost.
    let options = sqlx::postgres::PgConnectOptions::from_str(postgres.url()).expect("a URL").application_name("greedy");
    let mut greedy: Vec<PgConnection> = Vec::new();
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'sluice%'";
    let full = async |greedy: &mut Vec<PgConnection>| {
        while let Ok(conn) = options.connect().await {
            greedy.push(conn);
        }
    };
    full(&mut greedy).await;
    sqlx::query(terminate).execute(&mut greedy[0]).await.expect("a superuser may");
    full(&mut greedy).await;
    let mut client = ingest.client();
    eventually("ingest is refused, and says 503 in time", async || {
        let answer = client.post(&Event::of("u-1", 1)).await;
        assert!(answer.status() == 200 || answer.header("retry-after").is_some(), "{}", answer.head);
        full(&mut greedy).await;
        answer.status() == 503
    })
    .await;
    for conn in greedy {
        conn.close().await.ok();
    }
    within(Duration::from_secs(15), "it stores again", async || ingest.client().post(&Event::of("u-1", 2)).await.status() == 200).await;
    within(Duration::from_secs(30), "its event comes", async || sink.successes().contains_key("u-1:2")).await;
    drop(worker);
}

/// Set for a run of some minutes: 1,000,000 rows.
const LONG: &str = "SLUICE_TEST_LONG";

#[tokio::test(flavor = "multi_thread")]
async fn however_many_rows_wait_behind_a_dead_sink_the_worker_stays_small_serves_the_other_and_drains_when_it_is_back() {
    let rows = if std::env::var_os(LONG).is_some() { 1_000_000 } else { 20_000 };
    let system = System::new("behind_a_dead_sink").await;
    let (mut idp, lms) = (Sink::down(|_| Reply::Status(200)), Sink::answering(200).await);
    let breaker = "breaker = { failures = 2, rest = \"50ms\", cap = \"500ms\" }";
    let config = system.config(&(idp.config("idp", breaker) + &lms.config("lms", "events = [\"course.completed\"]")));
    // Registers the sinks.
    system.working(&config).await.stop().await;
    let stored = format!(
        "with stored as (
             insert into sluice.log (seq, lane, source, event_id, type, company_id, order_key)
             select nextval('sluice.event_seq'), n % 1000 % 64, 'mindtickle', 'b-' || n % 1000 || ':' || n / 1000, 'module.progress', 'acme',
                    'acme/b-' || n % 1000
               from generate_series(0, {rows} - 1) as n
             returning seq
         )
         insert into sluice.payloads (event_seq, payload, headers) select seq, '{{\"event\":\"module.progress\"}}', '{{}}' from stored"
    );
    system.execute(&stored).await;
    assert_eq!(system.count("pending").await, rows, "all of it is owed to the one sink that subscribes to it");
    system.execute("analyze").await;

    let mut worker = system.working(&config).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    for n in 0..50 {
        client.store(&Event::of("u-1", n)).await;
        eventually("the other sink is served", async || lms.successes().len() as u64 == n + 1).await;
    }
    let breaker: String = system.value("select breaker from sluice.sinks where name = 'idp'").await;
    assert_ne!(breaker, "closed");
    let (_, peak) = memory(worker.pid());
    // Without optimizations; a release needs less.
    assert!(peak < 150, "{peak} MiB with {rows} rows behind a dead sink");

    idp.up().await;
    let enough = rows.min(20_000);
    eventually("it drains", async || idp.tries() as i64 >= enough).await;
    assert_eq!(system.count("dead").await, 0, "nothing was buried");
    idp.assert_in_order();
    worker.stop().await;
}
