//! What arrives before there is any sink is owed to the first ones.

use crate::client::{Client, Event, store_rounds};
use crate::sink::Sink;
use crate::system::{System, eventually};
use std::net::SocketAddr;

async fn store_some(address: SocketAddr) {
    store_rounds(address, 20, 5).await;
    Client::new(address).store(&Event::new("other", "nobody.wants.this", "u-1", 1)).await;
}

#[tokio::test]
async fn events_stored_before_any_sink_was_registered_are_routed_by_the_first_worker() {
    let system = System::new("early").await;
    let ingest = system.ingest().await;
    store_some(ingest.address).await;
    let unrouted: i64 = system.value("select count(*) from sluice.outbox where status = 'unrouted'").await;
    assert_eq!(unrouted, 101);

    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", r#"events = ["course.completed"]"#));
    let _workers = [system.worker(&config), system.worker(&config)];
    system.drained(100).await;
    sink.assert_each_once(100);
    sink.assert_in_order();
    assert_eq!(system.status("other").await, "unrouted");
}

#[tokio::test]
async fn a_first_worker_killed_at_its_start_leaves_what_was_stored_to_the_next() {
    let system = System::new("early_kill").await;
    let ingest = system.ingest().await;
    store_some(ingest.address).await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", r#"events = ["course.completed"]"#));

    let mut first = system.worker(&config);
    eventually("the sink is registered", async || system.value::<i64>("select count(*) from sluice.sinks").await == 1).await;
    first.kill().await;

    let _second = system.working(&config).await;
    system.drained(100).await;
}

#[tokio::test]
async fn a_worker_starts_while_an_operators_change_of_a_sink_is_open() {
    let system = System::new("open_change").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", ""));
    system.working(&config).await.stop().await;
    let mut operator = system.db.begin().await.unwrap();
    sqlx::query("update sluice.sinks set paused = false").execute(&mut *operator).await.unwrap();
    system.working(&config).await.stop().await;
    operator.rollback().await.unwrap();
}
