//! Ranges of the log: made when they are needed, dropped when nothing of them is owed.

use crate::client::{Event, store_rounds};
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually};

/// The next event gets the first number of the next range but a few.
async fn fill_first_range(system: &System) {
    system.execute("select setval('sluice.event_seq', (select max(until_seq) from sluice.ranges) - 3)").await;
}

async fn ranges(system: &System) -> i64 {
    system.value("select count(*) from sluice.ranges").await
}

#[tokio::test]
async fn events_beyond_the_last_range_are_stored_in_one_that_ingest_makes() {
    let system = System::new("no_range").await;
    let ingest = system.ingest().await;
    fill_first_range(&system).await;
    let before = ranges(&system).await;
    store_rounds(ingest.address, 10, 3).await;
    assert_eq!(system.value::<i64>("select count(*) from sluice.events where quarantine is null").await, 30);
    assert!(ranges(&system).await > before);
}

#[tokio::test]
async fn a_range_is_dropped_when_nothing_of_it_is_owed_and_its_ids_stay_known() {
    let system = System::new("retention").await;
    let sink = Sink::answering(200).await;
    let mut worker = system.working(&system.config(&sink.config("crm", ""))).await;
    let ingest = system.ingest().await;
    store_rounds(ingest.address, 10, 3).await;
    sink.script(|a_try| Reply::Status(if a_try.event_id == "late:0" { 404 } else { 200 }));
    ingest.client().store(&Event::of("late", 0)).await;
    eventually("all is over", async || system.count("pending").await == 0).await;
    fill_first_range(&system).await;
    for n in 0..10 {
        ingest.client().store(&Event::of("next", n)).await;
    }
    eventually("they are delivered", async || system.count("pending").await == 0).await;
    system.execute("update sluice.log set received_at = now() - interval '2 days' where seq < 1000").await;
    let prune = async |more: &[&str]| {
        let output = system.run(&[&["prune", "--before", "2100-01-01", "--yes", "--json"], more].concat()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };

    // While it is owed.
    system.execute("update sluice.sinks set paused = true").await;
    assert_eq!(system.execute("update sluice.deliveries set status = 'pending' where status = 'dead'").await, 1);
    worker.stop().await;
    let report = prune(&[]).await;
    assert_eq!(report["dropped"], serde_json::json!([]));
    assert_eq!(report["kept"][0]["kept_by"], "deliveries in it are pending");

    // Its payloads, when it is over.
    assert_eq!(system.execute("update sluice.deliveries set status = 'skipped' where status = 'pending'").await, 1);
    assert_eq!(prune(&["--payloads", "--dry-run"]).await["could_go"], serde_json::json!([0]));
    assert_eq!(prune(&["--payloads"]).await["dropped"], serde_json::json!([0]));
    assert_eq!(system.value::<i64>("select count(*) from sluice.payloads where event_seq < 1000").await, 0);
    assert_eq!(system.value::<i64>("select count(*) from sluice.deliveries where event_seq < 1000").await, 31);
    assert_eq!(system.execute("update sluice.outbox set status = 'pending' where event_id = 'late:0'").await, 1);
    system.execute("update sluice.sinks set paused = false").await;
    let mut worker = system.working(&system.config(&sink.config("crm", ""))).await;
    eventually("it is told", async || system.count("pending").await == 0).await;
    let told = "select last_error from sluice.deliveries d join sluice.events e on e.seq = d.event_seq where e.event_id = 'late:0'";
    assert_eq!(system.value::<String>(told).await, "its payload was erased or pruned");
    worker.stop().await;

    // And the rest of it.
    assert_eq!(prune(&[]).await["dropped"], serde_json::json!([0]));
    assert_eq!(system.value::<i64>("select count(*) from sluice.events where seq < 1000").await, 0);
    assert_eq!(
        system
            .value::<i64>("select count(*) from pg_tables where tablename in ('log_0', 'payloads_0', 'delivery_state_0', 'attempts_0')")
            .await,
        0
    );
    assert_eq!(ingest.client().post(&Event::of("late", 0)).await.text(), r#"{"duplicate":true}"#);
    assert_eq!(system.value::<i64>("select count(*) from sluice.events where event_id = 'late:0'").await, 0);
}
