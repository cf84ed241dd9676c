//! What holds tries back: the operator's pause, the sink's rate, its wishes and its refusals.

use crate::client::Event;
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually, holds_for, within};
use std::time::Duration;

#[tokio::test]
async fn a_paused_sink_is_left_alone_within_a_second_and_loses_nothing() {
    let system = System::new("paused").await;
    let (crm, lms) = (Sink::answering(200).await, Sink::answering(200).await);
    let worker = system.working(&system.config(&(crm.config("crm", "") + &lms.config("lms", "")))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    system.execute("update sluice.sinks set paused = true where name = 'crm'").await;
    within(Duration::from_secs(1), "the worker knows", async || worker.log().contains("paused=true")).await;
    for n in 0..20 {
        client.store(&Event::of("u-1", n)).await;
    }
    eventually("the other sink has them", async || lms.tries() == 20).await;
    holds_for(Duration::from_secs(1), "the paused one is left alone", async || crm.tries() == 0).await;
    assert_eq!(system.value::<i64>("select pending from sluice.backlog where paused").await, 20);

    system.execute("update sluice.sinks set paused = false").await;
    within(Duration::from_secs(3), "all is delivered", async || crm.tries() == 20).await;
    system.drained(40).await;
    crm.assert_in_order();
}

#[tokio::test]
async fn a_sinks_rate_holds_over_all_its_workers() {
    let system = System::new("rate").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("crm", "rate = 40"));
    let _workers = [system.working(&config).await, system.working(&config).await];
    let shares = "select count(distinct worker) from sluice.lanes";
    eventually("both work", async || system.value::<i64>(shares).await == 2).await;
    let ingest = system.ingest().await;
    for user in 0..160 {
        ingest.client().store(&Event::of(&format!("u-{user}"), 0)).await;
    }
    system.drained(160).await;
    let ledger = sink.ledger();
    let took = ledger[159].came_at.saturating_duration_since(ledger[0].came_at).as_secs_f64();
    let rate = 159.0 / took;
    // A little more at first: each worker begins with a token, and saves up a tenth of a second's worth.
    assert!((20.0..46.0).contains(&rate), "{rate} a second");
    sink.assert_each_once(160);
}

#[tokio::test]
async fn a_rate_counts_deliveries_also_where_the_sink_takes_many_at_once() {
    let system = System::new("rate_batch").await;
    let config = system.config("[[sink]]\nname = \"archive\"\nkind = \"null\"\nrate = 40\n");
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    for user in 0..80 {
        ingest.client().store(&Event::of(&format!("u-{user}"), 0)).await;
    }
    system.drained(80).await;
    let took: f64 = system.value("select extract(epoch from max(delivered_at) - min(delivered_at))::float8 from sluice.deliveries").await;
    let rate = 79.0 / took;
    assert!((20.0..46.0).contains(&rate), "{rate} a second");
}

#[tokio::test]
async fn what_a_sink_asks_for_by_retry_after_is_honoured_and_burns_no_attempt() {
    let system = System::new("retry_after").await;
    let sink = Sink::start(|a_try| if a_try.of_all == 1 { Reply::With(429, "retry-after: 3\r\n") } else { Reply::Status(200) }).await;
    let keys =
        "concurrency = 1\nretry = { initial = \"10ms\", cap = \"20ms\", max_attempts = 1 }\nbreaker = { rest = \"10ms\", cap = \"10ms\" }";
    let _worker = system.working(&system.config(&sink.config("crm", keys))).await;
    let ingest = system.ingest().await;
    for user in 0..5 {
        ingest.client().store(&Event::of(&format!("u-{user}"), 0)).await;
    }
    system.drained(5).await;
    let ledger = sink.ledger();
    let waited = ledger[1].came_at.saturating_duration_since(ledger[0].came_at);
    assert!(waited >= Duration::from_millis(2950) && waited < Duration::from_secs(6), "{waited:?}");
    assert_eq!(system.value::<i32>("select max(attempts) from sluice.deliveries").await, 1);
    assert_eq!(sink.tries(), 6);
}

#[tokio::test]
async fn a_retry_after_with_a_503_puts_off_that_events_next_try() {
    let system = System::new("retry_after_503").await;
    let sink = Sink::start(|a_try| if a_try.of_all == 1 { Reply::With(503, "retry-after: 2\r\n") } else { Reply::Status(200) }).await;
    let _worker = system.working(&system.config(&sink.config("crm", r#"retry = { initial = "10ms", cap = "20ms" }"#))).await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    system.drained(1).await;
    let ledger = sink.ledger();
    let waited = ledger[1].came_at.saturating_duration_since(ledger[0].came_at);
    assert!(waited >= Duration::from_millis(1950) && waited < Duration::from_secs(5), "{waited:?}");
}

#[tokio::test]
async fn a_refused_credential_makes_the_sink_rest_and_buries_nothing() {
    let system = System::new("refused").await;
    let sink = Sink::answering(401).await;
    let keys = "concurrency = 4\nretry = { initial = \"10ms\", cap = \"20ms\", max_attempts = 1 }";
    let _worker = system.working(&system.config(&sink.config("crm", keys))).await;
    let ingest = system.ingest().await;
    for user in 0..20 {
        ingest.client().store(&Event::of(&format!("u-{user}"), 0)).await;
    }
    let rests = "select count(*) from sluice.sinks where breaker = 'open' and breaker_reason like '%401%' and breaker_until > now() + interval '5 seconds'";
    eventually("the sink rests", async || system.value::<i64>(rests).await == 1).await;
    holds_for(Duration::from_secs(2), "it is left alone", async || sink.tries() <= 4).await;
    assert_eq!((system.count("dead").await, system.count("pending").await), (0, 20));
    assert_eq!(system.value::<i64>("select sum(attempts)::bigint from sluice.deliveries").await, 0);
    sink.script(|_| Reply::Status(200));
    system.drained(20).await;
    sink.assert_each_once(20);
}

#[tokio::test]
async fn a_replay_holds_up_no_fresh_event() {
    let system = System::new("replay_share").await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("crm", "concurrency = 5\nrate = 100"))).await;
    let ingest = system.ingest().await;
    crate::client::store_rounds(ingest.address, 100, 3).await;
    system.drained(300).await;
    assert_eq!(system.value::<i64>("select sluice.replay(status => 'delivered')").await, 300);
    eventually("the replay is under way", async || sink.tries() > 310).await;
    let before = sink.tries();
    let fresh = (0..40).map(|user| Event::of(&format!("u-{user}"), 3)).collect();
    crate::client::store_all(ingest.address, vec![fresh]).await;
    system.drained(300 + 40).await;
    let last_fresh = sink.ledger().iter().rposition(|receipt| receipt.event_id.ends_with(":3")).unwrap();
    assert!(last_fresh - before < 160, "the 40 fresh events came among the next {} tries", last_fresh - before);
}
