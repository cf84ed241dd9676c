//! A worker that alone loses its database: its tries end before its lease does, so no other's overlap them.

use crate::client::store_rounds;
use crate::proxy::Proxy;
use crate::sink::{Gate, Reply, Sink};
use crate::system::{Process, System, eventually, within};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// When a line that says this was first logged.
fn logged_at(worker: &Process, says: &str) -> Option<DateTime<Utc>> {
    let log = worker.log();
    let line = log.lines().find(|line| line.contains(says))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `cut`: its connections are broken off; otherwise they hang.
async fn its_tries_end_before_anothers_begin(name: &str, cut: bool) {
    let system = System::new(name).await;
    let proxy = Proxy::start(system.server()).await;
    let gate = Gate::new();
    let held = gate.clone();
    let sink = Sink::start(move |a_try| if a_try.of_event == 1 { Reply::After(held.clone(), 200) } else { Reply::Status(200) }).await;
    let config = system.config(&sink.config("lms", "timeout = \"60s\"\nconcurrency = 20\nrate = 1000"));
    system.detour(proxy.address);
    let lonely = system.working(&config).await;
    system.detour(system.server());
    let ingest = system.ingest().await;
    store_rounds(ingest.address, 20, 1).await;
    eventually("all are being tried", async || sink.tries() == 20).await;
    // Some time after a renewal.
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.hold(true);
    if cut {
        proxy.break_off();
    }
    let other = system.worker(&config);
    within(Duration::from_secs(30), "the other delivers", async || system.count("delivered").await == 20).await;
    let ended = logged_at(&lonely, "its tries are abandoned").expect("the first has noticed");
    let taken = logged_at(&other, "took lanes over").expect("the other has its lanes");
    assert!(ended < taken, "its tries ended at {ended}, and its lanes were taken at {taken}");
    assert_eq!(sink.tries(), 40, "each once by the one, and once by the other");
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_of_a_worker_whose_connections_hang_end_before_its_lease() {
    its_tries_end_before_anothers_begin("lease_hangs", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_of_a_worker_that_is_cut_off_end_before_its_lease() {
    its_tries_end_before_anothers_begin("lease_cut", true).await;
}

/// Figures that are old are better than none, and than a scrape that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_answered_within_a_second_while_the_database_hangs() {
    let system = System::new("metrics_hang").await;
    let proxy = Proxy::start(system.server()).await;
    let sink = Sink::answering(200).await;
    let ops = crate::system::free_port();
    let config = system.config(&format!("[worker]\nops_listen = \"127.0.0.1:{ops}\"\n{}", sink.config("lms", "")));
    system.detour(proxy.address);
    let _worker = system.working(&config).await;
    let scrape = async || {
        let mut wire = crate::http::Wire::new(tokio::net::TcpStream::connect(("127.0.0.1", ops)).await.expect("it listens"));
        wire.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("it is read");
        wire.receive().await.expect("an answer").text().to_owned()
    };
    eventually("it has figures", async || scrape().await.contains("sluice_deliveries_owed{sink=\"lms\"} 0")).await;
    proxy.hold(true);
    // Until they are old enough to be asked for again.
    tokio::time::sleep(Duration::from_secs(11)).await;
    for _ in 0..5 {
        let text = tokio::time::timeout(Duration::from_secs(1), scrape()).await.expect("within a second");
        assert!(text.contains("sluice_deliveries_owed{sink=\"lms\"} 0"), "the last figures");
        let age = text.lines().find_map(|line| line.strip_prefix("sluice_backlog_age_seconds ")?.parse::<f64>().ok()).expect("their age");
        assert!(age >= 10.0, "{age} s");
    }
}
