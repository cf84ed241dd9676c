//! `kind = "http"` and `kind = "file"`, broken off in the middle. What else they promise: `tests/sink_http` and `tests/main_job`.

use crate::client::store_rounds;
use crate::sink::Sink;
use crate::system::{System, eventually};
use std::collections::HashSet;

const KEYS: &str = "retry = { initial = \"10ms\", cap = \"500ms\", max_attempts = 100 }\nbreaker = { rest = \"50ms\", cap = \"500ms\" }";

#[tokio::test(flavor = "multi_thread")]
async fn all_payloads_are_there_in_order_after_the_server_was_gone_in_the_middle_of_5_000() {
    let system = System::new("http_gone").await;
    let mut server = Sink::answering(200).await;
    let _worker = system.working(&system.config(&server.config("any", KEYS))).await;
    let ingest = system.ingest().await;
    let storing = tokio::spawn(store_rounds(ingest.address, 50, 100));
    eventually("some have come", async || server.successes().len() > 500).await;
    server.go_down().await;
    storing.await.expect("all are stored");
    assert!(system.count("pending").await > 0, "nothing was left for the time after");
    server.up().await;
    system.drained(5000).await;
    assert_eq!(server.successes().len(), 5000);
    server.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_lines_are_there_after_the_worker_was_killed_in_the_middle_of_5_000() {
    let system = System::new("file_killed").await;
    let path = system.file("ndjson");
    // Slow enough to have a middle.
    let lines = format!("[[sink]]\nname = \"events\"\nkind = \"file\"\npath = \"{}\"\nrate = 2000\n", path.display());
    let config = system.config(&lines);
    let mut worker = system.working(&config).await;
    let ingest = system.ingest().await;
    store_rounds(ingest.address, 50, 100).await;
    eventually("some are written", async || system.count("delivered").await > 500).await;
    worker.kill().await;
    assert!(system.count("pending").await > 0, "nothing was left for the time after");
    let _worker = system.working(&config).await;
    system.drained(5000).await;
    let written = std::fs::read_to_string(&path).expect("the file is there");
    // What was being written when it was killed may be part of a line: a reader skips it.
    let (whole, broken): (Vec<_>, Vec<_>) = written.lines().map(serde_json::from_str::<serde_json::Value>).partition(Result::is_ok);
    assert!(broken.len() <= 1, "{} lines are broken", broken.len());
    let ids = whole.into_iter().flatten().map(|line| line["event_id"].as_str().expect("each line names its event").to_owned());
    assert_eq!(ids.collect::<HashSet<_>>().len(), 5000);
}
