//! What an operator does to a delivery while a worker has it: the operator wins, and nobody else waits for it.

use crate::client::Event;
use crate::sink::{Gate, Reply, Sink};
use crate::system::{Ingest, Process, System, eventually, holds_for, within};
use std::time::Duration;

/// A system whose sink holds the first try of each event until it is let through, and then answers it with `status`.
async fn holding(name: &str, status: u16, keys: &str) -> (System, Sink, Gate, Ingest, Process) {
    let system = System::new(name).await;
    let gate = Gate::new();
    let held = gate.clone();
    let sink = Sink::start(move |a_try| if a_try.of_event == 1 { Reply::After(held.clone(), status) } else { Reply::Status(200) }).await;
    let worker = system.working(&system.config(&sink.config("crm", &format!("timeout = \"60s\"\n{keys}")))).await;
    let ingest = system.ingest().await;
    (system, sink, gate, ingest, worker)
}

/// Generation, status and attempts of the one delivery.
async fn delivery(system: &System) -> (i32, String, i32) {
    sqlx::query_as("select generation, status, attempts from sluice.deliveries").fetch_one(&system.db).await.unwrap()
}

#[tokio::test]
async fn a_reset_while_a_try_is_in_flight_is_not_overwritten_whatever_becomes_of_that_try() {
    for status in [200, 404, 500] {
        let (system, sink, gate, ingest, _worker) = holding(&format!("reset_{status}"), status, "").await;
        ingest.client().store(&Event::of("u-1", 0)).await;
        eventually("it is being tried", async || sink.tries() == 1).await;
        assert_eq!(system.execute("update sluice.deliveries set status = 'pending'").await, 1);
        gate.open();
        system.drained(1).await;
        assert_eq!(delivery(&system).await, (1, "delivered".into(), 1), "after the old try ended with {status}");
        assert_eq!(sink.tries(), 2, "it was asked for again, so it comes again");
    }
}

#[tokio::test]
async fn a_status_set_by_hand_ends_the_tries() {
    let (system, sink, _gate, ingest, _worker) = holding("by_hand", 500, r#"retry = { initial = "50ms", cap = "50ms" }"#).await;
    sink.script(|_| Reply::Status(500));
    ingest.client().store(&Event::of("u-1", 0)).await;
    eventually("it was tried", async || sink.tries() >= 2).await;
    system.execute("update sluice.deliveries set status = 'skipped'").await;
    let tries = sink.tries();
    // One may have been on its way.
    holds_for(Duration::from_secs(2), "no more tries", async || sink.tries() <= tries + 1).await;
    assert_eq!(delivery(&system).await.1, "skipped");
}

#[tokio::test]
async fn a_delivery_skipped_by_hand_while_it_waited_for_its_turn_is_not_tried_any_more() {
    let (system, sink, gate, ingest, _worker) = holding("skipped_turn", 200, "concurrency = 1").await;
    for n in 0..5 {
        ingest.client().store(&Event::of(&format!("u-{n}"), n)).await;
    }
    eventually("the first is being tried", async || sink.tries() == 1).await;
    let first = sink.ledger()[0].event_id.clone();
    // Nothing shows when the worker has read them ahead, nor when it has heard of the change: a poll and a hint are quicker than this.
    let waits = async || holds_for(Duration::from_millis(1500), "nothing else is tried meanwhile", async || sink.tries() == 1).await;
    waits().await;
    system.execute(&format!("update sluice.outbox set status = 'skipped' where event_id <> '{first}'")).await;
    waits().await;
    gate.open();
    system.drained(1).await;
    holds_for(Duration::from_secs(2), "what was skipped by hand stays untried", async || sink.tries() == 1).await;
}

#[tokio::test]
async fn an_operators_open_transaction_stalls_no_other_delivery_and_its_end_is_taken_as_it_comes() {
    for commits in [false, true] {
        let (system, sink, gate, ingest, _worker) = holding(&format!("open_{commits}"), 200, "").await;
        let mut client = ingest.client();
        client.store(&Event::of("u-1", 0)).await;
        eventually("it is being tried", async || sink.tries() == 1).await;
        let mut operator = system.db.begin().await.unwrap();
        sqlx::query("update sluice.deliveries set status = 'pending'").execute(&mut *operator).await.unwrap();
        sink.script(|_| Reply::Status(200));
        gate.open();
        // The outcome of the first cannot be recorded now; all others can.
        for n in 0..50 {
            client.store(&Event::of(&format!("v-{n}"), 0)).await;
        }
        within(Duration::from_secs(10), "all others are delivered", async || system.count("delivered").await == 50).await;
        if commits {
            operator.commit().await.unwrap();
        } else {
            operator.rollback().await.unwrap();
        }
        system.drained(51).await;
        let tries = if commits { 2 } else { 1 };
        assert_eq!((sink.tries_of("u-1:0"), sink.tries()), (tries, 50 + tries));
        let generation: i32 = system.value("select max(generation) from sluice.deliveries").await;
        assert_eq!(generation, i32::from(commits));
    }
}

#[tokio::test]
async fn however_many_rows_an_operators_open_transaction_holds_the_others_are_delivered() {
    let system = System::new("open_many").await;
    let sink = Sink::answering(200).await;
    let worker = system.working(&system.config(&sink.config("crm", "concurrency = 1"))).await;
    let ingest = system.ingest().await;
    system.execute("update sluice.sinks set paused = true").await;
    eventually("the worker knows", async || worker.log().contains("paused=true")).await;
    for n in 0..30 {
        ingest.client().store(&Event::of(&format!("u-{n}"), 0)).await;
    }
    let mut operator = system.db.begin().await.unwrap();
    sqlx::query("update sluice.deliveries set status = 'pending'").execute(&mut *operator).await.unwrap();
    system.execute("update sluice.sinks set paused = false").await;
    for n in 0..5 {
        ingest.client().store(&Event::of(&format!("v-{n}"), 0)).await;
    }
    eventually("the others are delivered", async || system.count("delivered").await == 5).await;
    operator.rollback().await.unwrap();
    system.drained(35).await;
    sink.assert_each_once(35);
}

#[tokio::test]
async fn a_key_whose_waiting_head_was_locked_for_a_while_keeps_its_order() {
    let (system, sink, gate, ingest, _worker) = holding("locked_head", 500, r#"retry = { initial = "1ms", cap = "1ms" }"#).await;
    let mut client = ingest.client();
    for n in 0..3 {
        client.store(&Event::of("u-1", n)).await;
    }
    eventually("the head is being tried", async || sink.tries() == 1).await;
    sink.script(|_| Reply::Status(200));
    let mut operator = system.db.begin().await.unwrap();
    let lock = "update sluice.deliveries set status = 'skipped' where event_seq = (select min(seq) from sluice.log)";
    sqlx::query(lock).execute(&mut *operator).await.unwrap();
    gate.open();
    // Its successors are recorded as parked behind it while its own failure cannot be recorded.
    let waiting = "select count(*) from sluice.delivery_state where key is not null and due_at is null";
    eventually("the successors wait", async || system.value::<i64>(waiting).await == 2).await;
    holds_for(Duration::from_secs(2), "none overtakes", async || sink.tries() == 1).await;
    operator.rollback().await.unwrap();
    system.drained(3).await;
    sink.assert_in_order();
}

/// A worker that slept through its lease wakes up with a failure to record.
#[tokio::test]
async fn a_failure_is_not_recorded_by_a_worker_whose_lanes_are_anothers() {
    let (system, sink, gate, ingest, mut worker) = holding("taken_lanes", 500, "").await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    eventually("it is being tried", async || sink.tries() == 1).await;
    let another = "with other as (insert into sluice.workers (name, epoch, sinks, expires_at, log_version) values ('another', 1, '{crm}', now() + interval '1 hour', 2)
                   returning id) update sluice.lanes set worker = other.id from other";
    system.execute(another).await;
    gate.open();
    // It stops cleanly: whatever it had to record is recorded by then.
    worker.stop().await;
    assert_eq!(delivery(&system).await, (0, "pending".into(), 0));
    assert!(
        system.value::<bool>("select due_at is null and last_error is null from sluice.deliveries").await,
        "its owner must find it fresh"
    );
}
