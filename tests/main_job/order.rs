//! Events of one learner come in the order in which they were acknowledged, whatever fails.

use crate::client::{Event, store_rounds};
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const RETRY: &str = r#"retry = { initial = "50ms", factor = 1.5, cap = "500ms", max_attempts = 100 }"#;

/// Every seventh try fails, one half as the sink's trouble, the other as the event's.
fn every_seventh_fails(sink: &Sink) {
    sink.script(|a_try| match (a_try.of_all % 7, a_try.of_all % 2) {
        (0, 0) => Reply::Status(503),
        (0, _) => Reply::Status(500),
        _ => Reply::Status(200),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn each_learners_events_come_in_order_although_every_seventh_try_fails() {
    let system = System::new("order").await;
    let sink = Sink::answering(200).await;
    every_seventh_fails(&sink);
    let _worker = system.working(&system.config(&sink.config("lms", RETRY))).await;
    let ingest = system.ingest().await;
    store_rounds(ingest.address, 200, 50).await;
    system.drained(10_000).await;
    sink.assert_each_once(10_000);
    sink.assert_in_order();
    assert!(sink.tries() > 11_000, "a seventh of the tries failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_learners_many_events_come_in_order_from_a_backlog() {
    let system = System::new("hot_key").await;
    let sink = Sink::answering(200).await;
    every_seventh_fails(&sink);
    let ingest = system.ingest().await;
    let config = system.config(&sink.config("lms", RETRY));
    // So that the backlog is one of fresh rows.
    system.working(&config).await.stop().await;
    store_rounds(ingest.address, 3, 400).await;
    let _worker = system.working(&config).await;
    system.drained(1_200).await;
    sink.assert_each_once(1_200);
    sink.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_whose_event_keeps_failing_holds_up_no_other() {
    let system = System::new("held_up").await;
    let healed = Arc::new(AtomicBool::new(false));
    let is_healed = Arc::clone(&healed);
    let sink = Sink::start(move |a_try| {
        let refused = a_try.event_id.starts_with("u-3:") && !is_healed.load(Ordering::Relaxed);
        Reply::Status(if refused { 500 } else { 200 })
    })
    .await;
    let _worker = system.working(&system.config(&sink.config("lms", RETRY))).await;
    let ingest = system.ingest().await;
    store_rounds(ingest.address, 20, 20).await;
    eventually("all others were delivered", async || system.count("delivered").await == 380).await;
    let of_the_learner = sink.ledger().iter().filter(|receipt| receipt.event_id.starts_with("u-3:")).count();
    assert_eq!(sink.tries_of("u-3:0"), of_the_learner, "only the first of its events was tried");
    healed.store(true, Ordering::Relaxed);
    system.drained(400).await;
    sink.assert_in_order();
}

#[tokio::test]
async fn a_dead_event_lets_its_successors_go() {
    let system = System::new("dead_head").await;
    let sink = Sink::start(|a_try| Reply::Status(if a_try.event_id == "u-1:0" { 500 } else { 200 })).await;
    let keys = r#"retry = { initial = "20ms", cap = "100ms", max_attempts = 3 }"#;
    let _worker = system.working(&system.config(&sink.config("lms", keys))).await;
    let ingest = system.ingest().await;
    for n in 0..5 {
        ingest.client().store(&Event::of("u-1", n)).await;
    }
    system.drained(4).await;
    assert_eq!((system.count("dead").await, sink.tries_of("u-1:0")), (1, 3));
    let order: Vec<String> = sink.ledger().into_iter().filter(|receipt| receipt.is_success()).map(|receipt| receipt.event_id).collect();
    assert_eq!(order, ["u-1:1", "u-1:2", "u-1:3", "u-1:4"]);
}
