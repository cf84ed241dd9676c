//! Workers that come and go share the lanes; no row is left behind.

use crate::client::store_rounds;
use crate::sink::{Gate, Reply, Sink};
use crate::system::{Process, Random, System, eventually, holds_for};
use sluice::store::lanes;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Set for a run of some minutes: five times as much.
const LONG: &str = "SLUICE_TEST_LONG";

/// Starts and stops up to four workers while so many deliveries are not done; at least one is left.
async fn come_and_go(system: &System, config: &Path, deliveries: i64, random: &mut Random) -> Vec<Process> {
    let mut workers = vec![system.working(config).await];
    let mut next = 0;
    let done = async || system.count("delivered").await;
    while done().await < deliveries * 9 / 10 {
        if workers.len() < 2 || (workers.len() < 4 && random.below(2) == 0) {
            workers.push(system.worker(config));
        } else {
            let mut leaving = workers.swap_remove(random.below(workers.len()));
            // Before it has come that far it cannot stop cleanly, for it has not begun.
            eventually("it has begun", async || leaving.log().contains("working")).await;
            leaving.stop().await;
        }
        next += random.below(deliveries as usize / 20) as i64;
        eventually("they go on", async || done().await >= next.min(deliveries * 9 / 10)).await;
        next = done().await;
    }
    workers
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_come_and_go_lose_nothing_and_deliver_nothing_twice() {
    let system = System::new("come_and_go").await;
    let (crm, lms) = (Sink::answering(200).await, Sink::answering(200).await);
    // Slow enough to be interrupted.
    let config = system.config(&(crm.config("crm", "concurrency = 4") + &lms.config("lms", "concurrency = 4")));
    system.working(&config).await.stop().await;
    let ingest = system.ingest().await;
    let users = if std::env::var_os(LONG).is_some() { 1_000 } else { 200 };
    let events = users as i64 * 50;
    let mut random = Random(7);
    let (workers, ()) = tokio::join!(come_and_go(&system, &config, events * 2, &mut random), store_rounds(ingest.address, users, 50));
    system.drained(events * 2).await;
    for sink in [&crm, &lms] {
        sink.assert_each_once(events as usize);
        sink.assert_in_order();
    }
    for mut worker in workers {
        worker.stop().await;
    }
    assert_eq!(system.value::<i64>("select count(*) from sluice.workers").await, 0, "who stops leaves no lease behind");
    assert_eq!(system.value::<i64>("select count(*) from sluice.lanes where worker is not null").await, 0);
}

#[tokio::test]
async fn a_newcomer_gets_its_fair_share_of_the_lanes() {
    let system = System::new("fair_share").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", ""));
    let mut workers = vec![system.working(&config).await];
    let shares = "select string_agg(n::text, ',' order by n) from (select count(*) as n from sluice.lanes where worker is not null group by worker) s";
    for expected in ["64", "32,32", "20,22,22", "16,16,16,16"] {
        eventually(expected, async || system.value::<Option<String>>(shares).await.as_deref() == Some(expected)).await;
        workers.push(system.worker(&config));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_ask_for_lanes_at_the_same_moment_never_get_the_same_one() {
    let system = System::new("claims").await;
    let sink = Sink::answering(200).await;
    system.working(&system.config(&sink.config("crm", ""))).await.stop().await;
    let owned = Mutex::new(HashSet::new());
    let come_and_go = async |name: &str| {
        let mut conn = system.db.acquire().await.unwrap();
        let worker = lanes::register(&mut conn, name, 1, &["crm".to_owned()]).await.unwrap();
        for round in 0..300 {
            let claimed = lanes::claim(&mut conn, worker, "crm", 20).await.unwrap();
            for lane in &claimed {
                assert!(owned.lock().unwrap().insert(lane.lane), "round {round}: {name} was given another's lane {}", lane.lane);
                assert!(!lane.orphaned, "nobody has died");
            }
            let claimed: Vec<i16> = claimed.iter().map(|claimed| claimed.lane).collect();
            owned.lock().unwrap().retain(|lane| !claimed.contains(lane));
            lanes::release(&mut conn, worker, "crm", &claimed, &[], sluice::store::log::Asker::default()).await.unwrap();
        }
    };
    tokio::join!(come_and_go("a"), come_and_go("b"), come_and_go("c"), come_and_go("d"));
}

#[tokio::test]
async fn lanes_taken_from_a_worker_by_hand_are_noticed_and_owned_again() {
    let system = System::new("by_hand").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", ""));
    let _worker = system.working(&config).await;
    let owners = "select count(*) from sluice.lanes l join sluice.workers w on w.id = l.worker";
    eventually("it owns all", async || system.value::<i64>(owners).await == 64).await;
    system.execute("update sluice.lanes set worker = null where lane < 10").await;
    eventually("it owns all again", async || system.value::<i64>(owners).await == 64).await;
    insert(&mut system.db.acquire().await.unwrap(), 20, Some("acme/u-1")).await;
    system.drained(20).await;
    sink.assert_each_once(20);
}

/// Stores so many events of a key in the shape that ingest gives them, in a lane of the test's choosing.
async fn insert(conn: &mut sqlx::PgConnection, count: i64, order_key: Option<&str>) {
    let insert = "with e as (insert into sluice.log (seq, source, event_id, type, order_key, lane)
              select seq, 'mindtickle', 'late:' || seq, 'course.completed', $2, 5
                from (select nextval('sluice.event_seq') as seq from generate_series(1, $1::bigint)) n returning seq)
         insert into sluice.payloads select seq, '{}', '{}' from e";
    sqlx::query(insert).bind(count).bind(order_key).execute(conn).await.unwrap();
}

#[tokio::test]
async fn an_event_committed_late_is_found_although_its_sink_had_no_room_for_it_at_the_time() {
    let system = System::new("late_commit").await;
    let gate = Gate::new();
    let held = gate.clone();
    let sink = Sink::start(move |_| Reply::After(held.clone(), 200)).await;
    let keys = "concurrency = 2\ntimeout = \"60s\"";
    let config = system.config(&format!("[worker]\nread_ahead = 100\npoll = \"100ms\"\n{}", sink.config("crm", keys)));
    let _worker = system.working(&config).await;

    // Numbered first, committed last.
    let mut late = system.db.begin().await.unwrap();
    insert(&mut late, 1, None).await;
    let mut conn = system.db.acquire().await.unwrap();
    insert(&mut conn, 89, None).await;
    eventually("they are being tried", async || sink.tries() == 2).await;
    // Polls must pass while it is being written, and after it is there.
    let polls = async || {
        let reads =
            "select coalesce(sum(idx_scan), 0)::bigint from pg_stat_user_indexes where indexrelname like 'delivery_state_0_sink_lane_due%'";
        let before: i64 = system.value(reads).await;
        eventually("the worker polls", async || system.value::<i64>(reads).await > before + 640).await;
    };
    polls().await;
    late.commit().await.unwrap();
    polls().await;
    gate.open();
    system.drained(90).await;
    sink.assert_each_once(90);
}

#[tokio::test]
async fn an_event_committed_late_is_tried_before_the_next_one_of_its_key() {
    let system = System::new("late_order").await;
    let sink = Sink::answering(200).await;
    // No poll finds it by chance.
    let config = system.config(&format!("[worker]\npoll = \"20s\"\n{}", sink.config("crm", "")));
    let _worker = system.working(&config).await;
    let wake = || sqlx::query("select pg_notify('sluice_wake', '')");

    // Numbered first, and committed long after others were delivered.
    let mut late = system.db.begin().await.unwrap();
    insert(&mut late, 1, Some("acme/u-1")).await;
    let mut conn = system.db.acquire().await.unwrap();
    for others in 1..9 {
        insert(&mut conn, 1, None).await;
        wake().execute(&mut *conn).await.unwrap();
        eventually("it is delivered", async || sink.tries() == others).await;
        holds_for(Duration::from_millis(50), "and time goes by", async || true).await;
    }
    late.commit().await.unwrap();
    // Acknowledged: the provider may send the next one.
    insert(&mut conn, 1, Some("acme/u-1")).await;
    wake().execute(&mut *conn).await.unwrap();
    system.drained(10).await;
    let order: Vec<String> = sink.ledger().into_iter().map(|receipt| receipt.event_id).skip(8).collect();
    assert_eq!(order, ["late:1", "late:10"]);
}
