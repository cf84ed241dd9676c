//! A worker that dies, or sleeps through its lease: the others take its lanes over.

use crate::client::{Event, store_rounds};
use crate::sink::{Gate, Reply, Sink};
use crate::system::{System, eventually, holds_for};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_lanes_are_taken_over_within_a_lease_and_nothing_is_lost_or_out_of_order() {
    let system = System::new("killed").await;
    let healed = Arc::new(AtomicBool::new(false));
    let is_healed = Arc::clone(&healed);
    // Some learners' first events wait for their retries all the while.
    let sink = Sink::start(move |a_try| {
        let refused = a_try.event_id.starts_with("u-1") && !is_healed.load(Ordering::Relaxed);
        Reply::Status(if refused { 500 } else { 200 })
    })
    .await;
    let keys =
        "concurrency = 8\nretry = { initial = \"200ms\", factor = 2, cap = \"2s\", max_attempts = 1000 }\nbreaker = { failures = 1000 }";
    let config = system.config(&sink.config("lms", keys));
    let mut victim = system.working(&config).await;
    let _others = [system.working(&config).await, system.working(&config).await];
    let ingest = system.ingest().await;
    let name = format!("%:{}", victim.pid());
    let lanes_of_the_dead = format!(
        "select count(*) from sluice.lanes l left join sluice.workers w on w.id = l.worker where w.id is null or w.name like '{name}'"
    );

    let kill = async {
        eventually("a good part is delivered", async || system.count("delivered").await > 500).await;
        victim.kill().await;
        // By the database's clock: a busy machine may be slow to ask.
        let killed_at: f64 = system.value("select extract(epoch from clock_timestamp())::float8").await;
        eventually("its lanes are taken over", async || system.value::<i64>(&lanes_of_the_dead).await == 0).await;
        let last: f64 = system.value("select extract(epoch from max(since))::float8 from sluice.lanes").await;
        assert!(last - killed_at < 12.0, "taken over after {} s", last - killed_at);
    };
    tokio::join!(kill, store_rounds(ingest.address, 100, 40));
    // u-1 and u-10 to u-19.
    eventually("all but the held ones are delivered", async || system.count("delivered").await == 89 * 40).await;
    assert!(sink.ledger().iter().all(|receipt| !receipt.event_id.starts_with("u-1") || receipt.event_id.ends_with(":0")));
    healed.store(true, Ordering::Relaxed);
    system.drained(100 * 40).await;

    sink.assert_in_order();
    let successes = sink.successes();
    assert_eq!(successes.len(), 100 * 40);
    let again: usize = successes.values().map(|times| times - 1).sum();
    // Tried, or tried and on their way to being recorded.
    let in_flight = 8 + 4 * 8;
    assert!(again <= in_flight, "{again} came twice, and at most {in_flight} can have been in flight");
}

#[tokio::test]
async fn a_worker_that_slept_through_its_lease_overwrites_nothing_and_works_on_under_a_new_one() {
    let system = System::new("frozen").await;
    let gate = Gate::new();
    let held = gate.clone();
    // The first try of each event hangs.
    let sink = Sink::start(move |a_try| if a_try.of_event == 1 { Reply::After(held.clone(), 500) } else { Reply::Status(200) }).await;
    let config = system.config(&sink.config("lms", "concurrency = 50\ntimeout = \"60s\""));
    let frozen = system.working(&config).await;
    let ingest = system.ingest().await;
    for user in 0..20 {
        ingest.client().store(&Event::of(&format!("u-{user}"), 0)).await;
    }
    eventually("all are being tried", async || sink.tries() == 20).await;
    frozen.signal(Signal::SIGSTOP);
    let _other = system.worker(&config);
    system.drained(20).await;

    // Its tries end badly while it sleeps; it learns of it when it wakes up.
    gate.open();
    frozen.signal(Signal::SIGCONT);
    let workers = "select count(*) from sluice.workers where expires_at > now()";
    eventually("it has a lease again", async || system.value::<i64>(workers).await == 2).await;
    holds_for(Duration::from_secs(1), "what was delivered stays so", async || system.count("delivered").await == 20).await;
    sink.assert_each_once(20);
    let shares = "select count(distinct worker) from sluice.lanes";
    eventually("it has its share again", async || system.value::<i64>(shares).await == 2).await;
}

#[tokio::test]
async fn a_sink_that_is_down_buries_nothing_also_after_its_worker_was_killed() {
    let system = System::new("down_and_killed").await;
    let mut sink = Sink::down(|_| Reply::Status(200));
    let keys =
        "retry = { initial = \"20ms\", cap = \"50ms\", max_attempts = 3 }\nbreaker = { failures = 1, rest = \"20ms\", cap = \"50ms\" }";
    let config = system.config(&sink.config("lms", keys));
    let mut first = system.working(&config).await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    eventually("the sink rests", async || system.value::<i64>("select breaker_trips::bigint from sluice.sinks").await > 3).await;
    assert_eq!(system.count("dead").await, 0);
    first.kill().await;

    let _second = system.working(&config).await;
    let trips: i64 = system.value("select breaker_trips::bigint from sluice.sinks").await;
    let now = "select breaker_trips::bigint from sluice.sinks";
    eventually("the next worker has probed", async || system.value::<i64>(now).await > trips + 10 || system.count("dead").await > 0).await;
    assert_eq!(system.count("dead").await, 0, "an event was given up because its sink is down");
    sink.up().await;
    system.drained(1).await;
}

/// Its commit arrives when its lanes have long been free.
#[tokio::test]
async fn a_worker_frozen_while_it_records_that_rows_wait_leaves_no_key_out_of_order() {
    const KEYS: i64 = 50;
    let system = System::new("frozen_commit").await;
    let gate = Gate::new();
    let held = gate.clone();
    let sink = Sink::start(move |_| Reply::After(held.clone(), 500)).await;
    let keys = "concurrency = 50\ntimeout = \"60s\"\nbreaker = { failures = 1000 }\nretry = { initial = \"25s\", cap = \"25s\" }";
    let config = |read_ahead| system.config(&format!("[worker]\nread_ahead = {read_ahead}\n{}", sink.config("lms", keys)));
    system.failpoints("postponed=1*sleep(100)->1*sleep(4000)->off");
    let frozen = system.working(&config(1_000)).await;
    system.failpoints("");
    let ingest = system.ingest().await;
    store_rounds(ingest.address, KEYS as usize, 4).await;
    eventually("all keys are being tried", async || sink.tries() == KEYS as usize).await;
    gate.open();
    // All but the first few wait, in a transaction that is not committed yet.
    let open = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'
                   and state_change < now() - interval '500 ms'";
    eventually("it records them", async || system.value::<i64>(open).await == 1).await;
    frozen.signal(Signal::SIGSTOP);

    // The next owner has room for a few rows, so most keys are not in its memory. Each is kept until the other's commit is there.
    let gate = Gate::new();
    let held = gate.clone();
    sink.script(move |_| Reply::After(held.clone(), 200));
    let _other = system.worker(&config(10));
    let lease = format!("select count(*) from sluice.workers where name like '%:{}'", frozen.pid());
    eventually("its lease is over", async || system.value::<i64>(&lease).await == 0).await;
    holds_for(Duration::from_secs(1), "and the other has had time to take the lanes", async || true).await;
    frozen.signal(Signal::SIGCONT);
    eventually("its transaction is over", async || system.value::<i64>(open).await == 0).await;
    let waiting = system.value::<i64>("select count(*) from sluice.deliveries where due_at is not null").await;
    // An event more of each key.
    let mut client = ingest.client();
    for user in 0..KEYS {
        client.store(&Event::of(&format!("u-{user}"), 4)).await;
    }
    gate.open();
    system.drained(KEYS * 5).await;
    sink.assert_in_order();
    assert!(waiting >= KEYS, "{waiting} rows waited: too few to show anything");
}

/// Half of the takeover's statements fail; the lanes must not be left to nobody.
#[tokio::test]
async fn lanes_whose_takeover_failed_halfway_are_worked_on_all_the_same() {
    let system = System::new("halfway").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("lms", ""));
    system.working(&config).await.stop().await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u-1", 0)).await;

    // The lanes can be claimed, their waiting heads not be read, and the lanes not be given back.
    let mut deliveries = system.db.begin().await.unwrap();
    sqlx::query("lock table sluice.subscriptions in access exclusive mode").execute(&mut *deliveries).await.unwrap();
    let worker = system.worker(&config);
    let claimed = "select count(*) from sluice.lanes where worker is not null";
    let mut lanes = system.db.begin().await.unwrap();
    eventually("they are claimed", async || sqlx::query_scalar::<_, i64>(claimed).fetch_one(&mut *lanes).await.unwrap() > 0).await;
    sqlx::query("select from sluice.lanes for update").execute(&mut *lanes).await.unwrap();
    eventually("both have failed", async || worker.log().contains("cannot take over lanes")).await;
    lanes.rollback().await.unwrap();
    deliveries.rollback().await.unwrap();
    system.drained(1).await;
}
