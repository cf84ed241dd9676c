//! Replay is a status reset: by SQL in three ways, and by `sluice replay`.

use crate::client::Event;
use crate::sink::{Reply, Sink};
use crate::system::{Ingest, Process, System, eventually};

/// Two sinks, of which the second has refused all ten events for good.
async fn with_dead_letters(name: &str) -> (System, Sink, Sink, Ingest, Process) {
    let system = System::new(name).await;
    let (crm, lms) = (Sink::answering(200).await, Sink::answering(404).await);
    let worker = system.working(&system.config(&(crm.config("crm", "") + &lms.config("lms", "")))).await;
    let ingest = system.ingest().await;
    for n in 0..10 {
        ingest.client().store(&Event::of("u-1", n)).await;
    }
    eventually("all is over", async || system.count("pending").await == 0).await;
    assert_eq!((system.count("delivered").await, system.count("dead").await), (10, 10));
    lms.script(|_| Reply::Status(200));
    (system, crm, lms, ingest, worker)
}

#[tokio::test]
async fn a_permanent_refusal_is_dead_at_once_with_its_reason_and_on_record() {
    let (system, _crm, lms, _ingest, _worker) = with_dead_letters("refusal").await;
    assert_eq!(lms.tries(), 10, "one try each");
    let (error, count): (String, i64) =
        sqlx::query_as("select last_error, deliveries from sluice.dead_letters").fetch_one(&system.db).await.unwrap();
    assert_eq!((error.as_str(), count), ("answered 404 Not Found", 10));
    let kept: i64 = system
        .value("select count(*) from sluice.attempts where outcome = 'dead' and status = 404 and number = 1 and response = 'ok'")
        .await;
    assert_eq!(kept, 10);
}

#[tokio::test]
async fn deliveries_reset_by_an_update_are_delivered_again_and_keep_the_record_of_their_earlier_tries() {
    let (system, crm, lms, _ingest, _worker) = with_dead_letters("r_deliveries").await;
    let reset = system.execute("update sluice.deliveries set status = 'pending' where sink = 'lms' and status = 'dead'").await;
    assert_eq!(reset, 10);
    system.drained(20).await;
    lms.assert_each_once(10);
    crm.assert_each_once(10);
    let complete: i64 = system
        .value("select count(*) from sluice.deliveries where sink = 'lms' and generation = 1 and attempts = 1 and last_error is null and due_at is null")
        .await;
    assert_eq!(complete, 10);
    assert_eq!(system.value::<i64>("select count(*) from sluice.attempts where generation = 0").await, 10);
    let keys: std::collections::HashSet<String> =
        lms.ledger().iter().map(|receipt| receipt.request.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(keys.len(), 10, "the idempotency key is the same on every try and replay");
}

#[tokio::test]
async fn an_event_reset_in_the_outbox_goes_to_every_sink_again() {
    let (system, crm, lms, _ingest, _worker) = with_dead_letters("r_outbox").await;
    system.execute("update sluice.outbox set status = 'pending' where event_id = 'u-1:4'").await;
    eventually("it was delivered again", async || system.status("u-1:4").await == "delivered").await;
    assert_eq!((crm.tries_of("u-1:4"), lms.tries_of("u-1:4")), (2, 2));
    assert_eq!((crm.tries(), lms.tries()), (11, 11), "and no other event was");
    for nonsense in [
        "update sluice.outbox set status = 'nonsense'",
        "update sluice.outbox set event_id = 'x'",
        "delete from sluice.outbox",
        "insert into sluice.outbox (event_id) values ('x')",
    ] {
        assert!(sqlx::query(nonsense).execute(&system.db).await.is_err(), "{nonsense}");
    }
}

#[tokio::test]
async fn replay_counts_in_a_dry_run_and_resets_what_it_counted_otherwise() {
    let (system, crm, lms, _ingest, _worker) = with_dead_letters("r_function").await;
    let replay = |more: &str| format!("select sluice.replay(sink => 'lms', since => now() - interval '6 hours'{more})");
    assert_eq!(system.value::<i64>(&replay(", until => null, status => 'dead', dry_run => true")).await, 10);
    assert_eq!(system.value::<i64>(&replay(", until => now() - interval '1 hour'")).await, 0);
    assert_eq!(system.count("dead").await, 10, "nothing was changed");

    assert_eq!(system.value::<i64>(&replay("")).await, 10);
    system.drained(20).await;
    lms.assert_each_once(10);
    assert_eq!(system.value::<i64>("select sluice.replay(sink => 'crm', status => 'delivered')").await, 10);
    eventually("they came again", async || crm.tries() == 20).await;
    for nonsense in ["select sluice.replay(sink => 'nobody')", "select sluice.replay(status => 'nonsense')"] {
        assert!(sqlx::query(nonsense).execute(&system.db).await.is_err(), "{nonsense}");
    }
}

#[tokio::test]
async fn the_replay_command_shows_asks_and_resets() {
    let (system, _crm, lms, _ingest, _worker) = with_dead_letters("r_command").await;
    let dry = system.run(&["replay", "--sink", "lms", "--since", "6h", "--dry-run"]).await;
    assert!(dry.status.success());
    assert!(String::from_utf8_lossy(&dry.stdout).contains("10 dead deliveries of sink lms"), "{dry:?}");
    let unasked = system.run(&["replay", "--sink", "lms"]).await;
    assert_eq!(unasked.status.code(), Some(1), "nobody was there to confirm it");
    let misspelt = system.run(&["replay", "--sink", "lsm", "--yes"]).await;
    assert_eq!(misspelt.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&misspelt.stderr).contains("there are: crm, lms"), "{misspelt:?}");
    assert_eq!(system.count("dead").await, 10);

    let done = system.run(&["replay", "--sink", "lms", "--yes", "--json"]).await;
    let done: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["replayed"], 10);
    system.drained(20).await;
    lms.assert_each_once(10);
}
