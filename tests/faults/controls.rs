//! The checker must fail where a promise is broken: on a build that breaks it, on tables and on ledgers that were tampered with.

use crate::checker::{Checker, Findings};
use crate::client::Event;
use crate::provider::Acknowledged;
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually};
use std::panic::{AssertUnwindSafe, catch_unwind};

struct Stage {
    system: System,
    sink: Sink,
    acknowledged: Acknowledged,
}

impl Stage {
    /// Four learners' events, acknowledged and, unless the failpoints prevent it, delivered.
    async fn set(name: &str, [ingest, worker]: [&str; 2]) -> Self {
        let system = System::new(name).await;
        let sink = Sink::answering(200).await;
        system.failpoints(worker);
        let _worker = system.working(&system.config(&sink.config("lms", ""))).await;
        system.failpoints(ingest);
        let ingest = system.ingest().await;
        let mut acknowledged = Acknowledged::new();
        for n in 0..12 {
            let event = Event::of(&format!("u-{}", n % 4), n / 4);
            ingest.client().store(&event).await;
            acknowledged.insert(event.id, event.body);
        }
        eventually("nothing is owed", async || system.count("pending").await == 0).await;
        eventually("all is delivered", async || {
            system.count("delivered").await == system.value::<i64>("select count(*) from sluice.events").await
        })
        .await;
        Self { system, sink, acknowledged }
    }

    async fn check(&self) -> Findings {
        let sinks = vec![("lms", &self.sink)];
        let checker = Checker { system: &self.system, acknowledged: &self.acknowledged, sinks, again_max: 0, attempts_max: 12 };
        checker.check().await
    }

    /// Asserts that the checker finds this promise broken, and no other.
    async fn assert_broken(&self, promise: &str) {
        let broken = self.check().await.broken;
        assert!(!broken.is_empty() && broken.iter().all(|what| what.starts_with(promise)), "{promise}: {broken:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_finds_nothing_where_nothing_is_broken() {
    let stage = Stage::set("control_sound", ["", ""]).await;
    let findings = stage.check().await;
    assert_eq!((findings.stored, findings.delivered, findings.again), (12, 12, 0));
    assert!(findings.broken.is_empty(), "{:?}", findings.broken);
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn the_checker_fails_an_ingest_that_acknowledges_without_a_commit() {
    let stage = Stage::set("control_commit", ["commit-skipped=5*off->1*return->off", ""]).await;
    let broken = stage.check().await.broken;
    assert_eq!(broken.len(), 2, "{broken:?}");
    assert!(broken[0].starts_with("A: ") && broken[1].starts_with("C: "), "{broken:?}");
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn the_checker_fails_a_worker_that_records_a_success_it_has_not_had() {
    let stage = Stage::set("control_try", ["", "try-skipped=5*off->1*return->off"]).await;
    let broken = stage.check().await.broken;
    assert!(!broken.is_empty() && broken.iter().all(|what| what.starts_with("D: ") || what.starts_with("C: ")), "{broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_fails_tables_that_were_tampered_with() {
    let mut stage = Stage::set("control_tables", ["", ""]).await;
    let one = "event_seq = (select min(event_seq) from sluice.delivery_state)";
    for (promise, tamper, undo) in [
        (
            "A: ",
            "update sluice.payloads set payload = payload || ' '",
            "update sluice.payloads set payload = substr(payload, 1, length(payload) - 1)",
        ),
        (
            "B: ",
            "update sluice.delivery_state set status = 'pending', due_at = 'infinity'",
            "update sluice.delivery_state set status = 'delivered', due_at = null",
        ),
        ("E: ", "update sluice.delivery_state set status = 'dead'", "update sluice.delivery_state set status = 'delivered'"),
        ("E: ", "update sluice.delivery_state set attempts = 13", "update sluice.delivery_state set attempts = 1"),
    ] {
        // No worker is there any more that could mend it.
        stage.system.execute(&format!("{tamper} where {one}")).await;
        stage.assert_broken(promise).await;
        stage.system.execute(&format!("{undo} where {one}")).await;
    }
    stage.system.execute(&format!("delete from sluice.delivery_state where {one}")).await;
    stage.assert_broken("B: ").await;
    // What the provider was told, and nobody stored.
    stage = Stage::set("control_ledger", ["", ""]).await;
    stage.acknowledged.insert("u-9:0".into(), Vec::new());
    let broken = stage.check().await.broken;
    assert_eq!(broken.len(), 2, "{broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_fails_a_log_that_is_settled_beyond_what_is_recorded() {
    let mut stage = Stage::set("control_settled", ["", ""]).await;
    let passed = "B: settled_to has passed deliveries that have no row";
    // It is raised by hand while a fresh event is owed to a sink that is paused: no row says so, and from then on nobody would see that.
    stage.system.execute("update sluice.sinks set paused = true").await;
    let event = Event::of("u-1", 9);
    stage.system.ingest().await.client().store(&event).await;
    stage.acknowledged.insert(event.id, event.body);
    let broken = stage.check().await.broken;
    assert!(!broken.is_empty() && broken.iter().all(|what| !what.starts_with(passed)), "it is owed, and nothing hides that: {broken:?}");
    stage.system.execute("update sluice.lanes set settled_to = (select max(seq) from sluice.log)").await;
    let broken = stage.check().await.broken;
    assert!(broken.contains(&format!("{passed}: 1")), "{broken:?}");
    assert!(broken.iter().all(|what| !what.starts_with("B: deliveries are still owed")), "the views show nothing of it: {broken:?}");

    // What has a row, is quarantined, or is not subscribed to may be passed.
    for (sound, undo) in [
        (
            "insert into sluice.delivery_state (event_seq, sink, lane) select seq, 'lms', lane from sluice.log order by seq desc limit 1",
            "delete from sluice.delivery_state where event_seq = (select max(seq) from sluice.log)",
        ),
        (
            "update sluice.log set quarantine = 'for the test' where seq = (select max(seq) from sluice.log)",
            "update sluice.log set quarantine = null",
        ),
        (
            "update sluice.subscriptions set until_seq = (select max(seq) from sluice.log)",
            "update sluice.subscriptions set until_seq = 9223372036854775807",
        ),
        ("update sluice.subscriptions set types = '{x}'", "update sluice.subscriptions set types = null"),
    ] {
        stage.system.execute(sound).await;
        // Of the last one all twelve are not subscribed to, and all have a row.
        let broken = stage.check().await.broken;
        assert!(broken.iter().all(|what| !what.starts_with(passed)), "{sound}: {broken:?}");
        stage.system.execute(undo).await;
    }
    assert!(stage.check().await.broken.contains(&format!("{passed}: 1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_fails_what_came_again_although_nothing_died() {
    let stage = Stage::set("control_again", ["", ""]).await;
    stage
        .system
        .execute("update sluice.deliveries set status = 'pending' where event_seq = (select min(event_seq) from sluice.deliveries)")
        .await;
    let _worker = stage.system.working(&stage.system.config(&stage.sink.config("lms", ""))).await;
    stage.system.drained(12).await;
    stage.assert_broken("C: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_order_fails_a_sink_that_is_served_without_order() {
    let system = System::new("control_order").await;
    // The first event fails once, so that the second overtakes it.
    let sink = Sink::start(|attempt| Reply::Status(if attempt.event_id == "u-1:0" && attempt.of_event == 1 { 500 } else { 200 })).await;
    let config = system.config(&sink.config("lms", "order = \"none\"\nretry = { initial = \"1s\" }"));
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    for n in 0..3 {
        ingest.client().store(&Event::of("u-1", n)).await;
    }
    system.drained(3).await;
    assert!(catch_unwind(AssertUnwindSafe(|| sink.assert_in_order())).is_err());
}
