//! A sink that is down slows no other, and gets everything when it is back.

use crate::client::{Client, Event};
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually};
use sluice::clock;
use std::time::Duration;

const BREAKER: &str = "concurrency = 4\nbreaker = { failures = 5, rest = \"200ms\", cap = \"1s\" }";

/// Posts `count` events of each of ten users one after another, each when the last one is at the live sinks; returns the median
/// time from the post to the last of them.
async fn median(client: &mut Client, sinks: [&Sink; 2], user: &str, count: u64) -> Duration {
    let mut took = Vec::new();
    for n in 0..count * 10 {
        let event = Event::of(&format!("{user}-{}", n % 10), n / 10);
        let began = clock::instant();
        client.store(&event).await;
        eventually("it is at the live sinks", async || sinks.iter().all(|sink| sink.tries_of(&event.id) == 1)).await;
        let last =
            sinks.iter().flat_map(|sink| sink.ledger()).filter(|receipt| receipt.event_id == event.id).map(|receipt| receipt.came_at).max();
        took.push(last.unwrap().saturating_duration_since(began));
    }
    took.sort();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_down_slows_no_other_burns_few_attempts_and_gets_everything_when_it_is_back() {
    let system = System::new("dead_sink").await;
    let (a, b, mut dead) = (Sink::answering(200).await, Sink::answering(200).await, Sink::answering(200).await);
    let config = a.config("a", "") + &b.config("b", "") + &dead.config("dead", BREAKER);
    let _worker = system.working(&system.config(&format!("[worker]\nread_ahead = 50\n{config}"))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let healthy = median(&mut client, [&a, &b], "before", 10).await;
    eventually("the third has them too", async || dead.successes().len() == 100).await;

    dead.go_down().await;
    let beside = median(&mut client, [&a, &b], "during", 30).await;
    assert!(beside < healthy * 3 + Duration::from_millis(50), "{beside:?} beside a dead sink, {healthy:?} without");
    let (breaker, reason): (String, String) =
        sqlx::query_as("select breaker, breaker_reason from sluice.sinks where name = 'dead'").fetch_one(&system.db).await.unwrap();
    assert!(["open", "half-open"].contains(&breaker.as_str()) && !reason.is_empty(), "{breaker}: {reason}");
    let burnt: i64 = system.value("select coalesce(sum(attempts), 0)::bigint from sluice.deliveries where status = 'pending'").await;
    // What opens the breaker, and what was in flight beside it.
    assert!(burnt <= 5 + 4, "{burnt} attempts were burnt");
    assert_eq!(system.count("dead").await, 0);

    dead.up().await;
    system.drained(3 * 400).await;
    for sink in [&a, &b, &dead] {
        sink.assert_each_once(400);
        sink.assert_in_order();
    }
    let closed = "select count(*) from sluice.sinks where breaker = 'closed' and breaker_trips = 0";
    eventually("the breaker is closed", async || system.value::<i64>(closed).await == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_hangs_slows_no_other() {
    let system = System::new("hanging_sink").await;
    let gate = crate::sink::Gate::new();
    let held = gate.clone();
    let (a, b, hanging) =
        (Sink::answering(200).await, Sink::answering(200).await, Sink::start(move |_| Reply::After(held.clone(), 200)).await);
    let config = a.config("a", "") + &b.config("b", "") + &hanging.config("hanging", "concurrency = 4\ntimeout = \"60s\"");
    let _worker = system.working(&system.config(&format!("[worker]\nread_ahead = 50\n{config}"))).await;
    let ingest = system.ingest().await;
    let median = median(&mut ingest.client(), [&a, &b], "u", 20).await;
    assert!(median < Duration::from_millis(150), "{median:?} beside a sink that hangs");
    gate.open();
    system.drained(600).await;
    hanging.assert_each_once(200);
}
