//! How far the log is settled: never beyond what is owed and has no row.

use crate::client::{Event, store_rounds};
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually, holds_for, within};
use std::time::Duration;

/// Events at or below `settled_to` that are owed and have no row: there must be none, at any time.
const PASSED_OVER: &str = "select count(*) from sluice.lanes l join sluice.log e on e.lane = l.lane and e.seq <= l.settled_to
     where e.quarantine is null
       and exists (select from sluice.subscriptions u where u.sink = l.sink and e.seq >= u.from_seq and e.seq < u.until_seq
                      and (u.types is null or e.type = any (u.types)))
       and not exists (select from sluice.delivery_state d where d.event_seq = e.seq and d.sink = l.sink)";

/// Lanes are settled every 10 s.
const SETTLES: Duration = Duration::from_secs(20);

/// Waits until every lane is settled up to the last event.
async fn settled(system: &System) {
    let lowest = "select min(settled_to) >= (select max(seq) from sluice.log) from sluice.lanes";
    within(SETTLES, "every lane is settled to the end", async || system.value::<bool>(lowest).await).await;
}

#[tokio::test]
async fn what_was_delivered_at_the_first_try_was_written_once() {
    let system = System::new("written_once").await;
    let sink = Sink::answering(200).await;
    let mut worker = system.working(&system.config(&sink.config("crm", ""))).await;
    let ingest = system.ingest().await;
    store_rounds(ingest.address, 50, 20).await;
    system.drained(1000).await;
    worker.stop().await;
    // Figures of a table are reported when a connection has been idle for a moment, or ends.
    eventually("all is in the figures", async || {
        system.value::<i64>("select sum(n_tup_ins)::bigint from pg_stat_user_tables where relname like 'delivery_state_%'").await == 1000
    })
    .await;
    let changed = "select sum(n_tup_upd + n_tup_del)::bigint from pg_stat_user_tables where relname like 'delivery_state_%'";
    assert_eq!(system.value::<i64>(changed).await, 0, "a delivery that succeeds at first leaves no dead version");
    assert_eq!(system.value::<i64>(PASSED_OVER).await, 0);
}

/// Trap: a position that is given out and not committed for long.
#[tokio::test]
async fn nothing_is_settled_beyond_a_commit_that_hangs() {
    let system = System::new("hanging_commit").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", ""));
    let mut worker = system.working(&config).await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("first", 0)).await;
    settled(&system).await;

    let mut slow = system.db.begin().await.unwrap();
    let insert = "with e as (insert into sluice.log (seq, source, event_id, type, order_key, lane)
              select nextval('sluice.event_seq'), 'mindtickle', 'slow:1', 'course.completed', 'acme/slow', 5 returning seq)
         insert into sluice.payloads select seq, '{}', '{}' from e";
    sqlx::query(insert).execute(&mut *slow).await.unwrap();
    store_rounds(ingest.address, 20, 5).await;
    eventually("the others are delivered", async || sink.tries() == 101).await;
    // Longer than lanes go without being settled.
    let beyond = "select max(settled_to) >= (select max(seq) from sluice.log where event_id = 'first:0') + 1 from sluice.lanes";
    holds_for(Duration::from_secs(13), "its place is not passed", async || !system.value::<bool>(beyond).await).await;
    worker.kill().await;
    slow.commit().await.unwrap();
    let _next = system.working(&config).await;
    system.drained(102).await;
    settled(&system).await;
    assert_eq!(system.value::<i64>(PASSED_OVER).await, 0);
}

/// Trap: a type that is added while the lanes are settled under the old rules.
#[tokio::test]
async fn a_type_that_is_added_is_owed_from_then_on_and_nothing_before() {
    let system = System::new("added_type").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", r#"events = ["course.completed"]"#));
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&Event::new("before", "quiz.submitted", "u-1", 1)).await;
    client.store(&Event::of("u-1", 2)).await;
    system.drained(1).await;
    system.execute("update sluice.sinks set events = '{course.completed,quiz.submitted}'").await;
    client.store(&Event::new("after", "quiz.submitted", "u-1", 3)).await;
    client.store(&Event::of("u-1", 4)).await;
    system.drained(3).await;
    let tried: Vec<String> = sink.ledger().into_iter().map(|receipt| receipt.event_id).collect();
    assert_eq!(tried, ["u-1:2", "after", "u-1:4"]);
    assert_eq!(system.status("before").await, "unrouted");

    system.execute("update sluice.sinks set events = '{quiz.submitted}'").await;
    client.store(&Event::of("u-1", 5)).await;
    client.store(&Event::new("last", "quiz.submitted", "u-1", 6)).await;
    system.drained(4).await;
    assert_eq!(system.status("u-1:5").await, "unrouted");
    settled(&system).await;
    assert_eq!(system.value::<i64>(PASSED_OVER).await, 0);
}

/// Trap: a waiting row whose event was deleted by the schema's owner.
#[tokio::test]
async fn a_waiting_delivery_whose_event_was_deleted_is_dead_and_wedges_nothing() {
    let system = System::new("deleted_event").await;
    let sink = Sink::start(|a_try| Reply::Status(if a_try.event_id == "u-1:0" { 500 } else { 200 })).await;
    let keys = "retry = { initial = \"2s\", cap = \"2s\", max_attempts = 1000 }\nbreaker = { failures = 1000 }";
    let _worker = system.working(&system.config(&sink.config("crm", keys))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&Event::of("u-1", 0)).await;
    client.store(&Event::of("u-1", 1)).await;
    eventually("the first waits", async || {
        system.value::<i64>("select count(*) from sluice.deliveries where due_at is not null").await == 1
    })
    .await;
    system.execute("delete from sluice.log where event_id = 'u-1:0'").await;
    eventually("the second is delivered", async || system.status("u-1:1").await == "delivered").await;
    let dead = "select last_error from sluice.deliveries where status = 'dead'";
    assert_eq!(system.value::<String>(dead).await, "its event was deleted");
}

/// A head that fails with many events of its user behind it: each of those is written once, however often the head is tried.
#[tokio::test]
async fn a_failing_head_rewrites_none_of_its_many_successors_and_stops_no_other_key() {
    const DEEP: u64 = 2000;
    let system = System::new("deep_key").await;
    let sink = Sink::start(|a_try| Reply::Status(if a_try.event_id == "hot:0" && a_try.of_event < 8 { 500 } else { 200 })).await;
    let keys = "retry = { initial = \"300ms\", cap = \"300ms\" }\nbreaker = { failures = 1000 }";
    let mut worker = system.working(&system.config(&sink.config("crm", keys))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&Event::of("hot", 0)).await;
    eventually("the head waits", async || sink.tries() >= 1).await;
    for n in 1..DEEP {
        client.store(&Event::of("hot", n)).await;
    }
    store_rounds(ingest.address, 20, 5).await;
    system.drained(DEEP as i64 + 100).await;
    sink.assert_in_order();
    worker.stop().await;
    eventually("all is in the figures", async || {
        system.value::<i64>("select sum(n_tup_ins)::bigint from pg_stat_user_tables where relname like 'delivery_state_%'").await
            == DEEP as i64 + 100
    })
    .await;
    // Once more when it is done, each; and the head at each of its tries.
    let updates = system.value::<i64>("select sum(n_tup_upd)::bigint from pg_stat_user_tables where relname like 'delivery_state_%'").await;
    assert!(updates <= DEEP as i64 + 20, "{updates} updates");
}

/// A key's head ends, and its worker dies before it has asked for what is parked behind.
#[tokio::test]
async fn parked_events_whose_head_was_ended_by_hand_go_on() {
    let system = System::new("parked_go_on").await;
    let sink = Sink::answering(500).await;
    let keys = "retry = { initial = \"1h\", cap = \"1h\" }\nbreaker = { failures = 1000 }";
    let config = system.config(&sink.config("crm", keys));
    let mut worker = system.working(&config).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    for n in 0..5 {
        client.store(&Event::of("u-1", n)).await;
    }
    let parked = "select count(*) from sluice.delivery_state where status = 'pending' and due_at is null and key is not null";
    eventually("four are parked", async || system.value::<i64>(parked).await == 4).await;
    sink.script(|_| Reply::Status(200));
    worker.kill().await;
    // Nobody hears of it.
    system.execute("update sluice.deliveries set status = 'dead' where due_at is not null").await;
    let _next = system.working(&config).await;
    eventually("they go on", async || system.count("delivered").await == 4).await;
    let tried: Vec<String> = sink.ledger().into_iter().map(|receipt| receipt.event_id).collect();
    assert_eq!(tried, ["u-1:0", "u-1:1", "u-1:2", "u-1:3", "u-1:4"]);
}

#[tokio::test]
async fn a_sink_that_is_retired_gets_nothing_and_stops_no_other() {
    let system = System::new("retired").await;
    let (crm, lms) = (Sink::answering(200).await, Sink::answering(200).await);
    let config = system.config(&(crm.config("crm", "") + &lms.config("lms", "")));
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&Event::of("u-1", 0)).await;
    system.drained(2).await;
    system.execute("update sluice.sinks set retired_at = now() where name = 'lms'").await;
    client.store(&Event::of("u-1", 1)).await;
    system.drained(3).await;
    let owned = "select count(*) from sluice.lanes where sink = 'lms' and worker is not null";
    eventually("nobody works on it", async || system.value::<i64>(owned).await == 0).await;

    system.execute("update sluice.sinks set retired_at = null where name = 'lms'").await;
    client.store(&Event::of("u-1", 2)).await;
    system.drained(5).await;
    assert_eq!((crm.tries(), lms.tries()), (3, 2), "what came while it was retired is not owed to it");
}
