//! A standby that lagged is promoted while both processes run: positions that the old primary gave out are given out again, to other events.

use crate::client::{Client, Event, store_all};
use crate::cluster::Cluster;
use crate::private;
use crate::sink::Sink;
use crate::system::{System, eventually, free_port, pool, within};
use std::time::Duration;

/// Events that the standby lacks, and as many others that come afterwards.
const LOST: usize = 5_000;

/// Events at or below `settled_to` that are owed and have no row.
const PASSED_OVER: &str = "select count(*) from sluice.lanes l join sluice.log e on e.lane = l.lane and e.seq <= l.settled_to
     where e.quarantine is null
       and exists (select from sluice.subscriptions u where u.sink = l.sink and e.seq >= u.from_seq and e.seq < u.until_seq)
       and not exists (select from sluice.delivery_state d where d.event_seq = e.seq and d.sink = l.sink)";

/// Spread over 16 connections; each user's in order.
fn events(name: &str) -> Vec<Vec<Event>> {
    let list = |client: usize| (0..LOST as u64 / 16).map(|n| Event::of(&format!("{name}-{client}"), n)).collect();
    (0..16).map(list).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_timeline_counts_for_what_comes_after_it() {
    let dir = private::folder();
    let mut first = Cluster::primary(dir.path()).await;
    let mut second = Cluster::standby_of(&first, dir.path(), free_port()).await;
    let url = format!("postgres://sluice@127.0.0.1:{},127.0.0.1:{}/sluice?target_session_attrs=read-write", first.port, second.port);
    let mut system = System::between(&url, &first.url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("lms", ""))).await;
    let ingest = system.ingest().await;
    let mut early = ingest.client();
    for n in 0..20 {
        early.store(&Event::of("early", n)).await;
    }
    system.drained(20).await;
    let standby = pool(&second.url());
    eventually("the standby has them", async || {
        let delivered = "select count(*) from sluice.deliveries where status = 'delivered'";
        sqlx::query_scalar(delivered).fetch_one(&standby).await.ok() == Some(20_i64)
    })
    .await;
    standby.close().await;
    second.stop();
    // Stored, delivered and lost.
    let lost = events("lost");
    let count = lost.iter().map(Vec::len).sum::<usize>();
    store_all(ingest.address, lost.clone()).await;
    system.drained(20 + count as i64).await;

    first.kill();
    second.start().await;
    second.promote();
    system.db = pool(&second.url());
    let mut client = ingest.client();
    let probe = Event::of("probe", 0);
    within(Duration::from_secs(20), "it stores again", async || client.post(&probe).await.status() == 200).await;
    store_all(ingest.address, events("new")).await;
    system.drained(20 + 1 + count as i64).await;
    let new = sink.successes().into_keys().filter(|id| id.starts_with("new-")).count();
    assert_eq!(new, count, "delivered, and not only counted as such");
    // What was lost comes again, and is new.
    let mut again = Client::new(ingest.address);
    for event in lost.iter().flatten().step_by(100) {
        again.store(event).await;
    }
    let came_again = lost.iter().flatten().step_by(100).count() as i64;
    system.drained(20 + 1 + count as i64 + came_again).await;
    assert_eq!(system.value::<i64>(PASSED_OVER).await, 0, "settled beyond what is owed");
}

/// A restore of the data alone: the sequence knows nothing of the numbers that are taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_behind_its_tables_is_advanced_before_anything_is_stored() {
    let system = System::new("behind").await;
    let sink = Sink::answering(200).await;
    let config = system.config(&sink.config("lms", ""));
    let mut worker = system.working(&config).await;
    let mut ingest = system.ingest().await;
    for n in 0..50 {
        ingest.client().store(&Event::of("before", n)).await;
    }
    system.drained(50).await;
    worker.stop().await;
    ingest.process.stop().await;
    system.execute("select setval('sluice.event_seq', 7)").await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    for n in 0..50 {
        client.store(&Event::of("after", n)).await;
    }
    // A request that is held back is stored, too, and only then a duplicate.
    let odd = Event { id: "odd".into(), body: b"not json".to_vec() };
    assert_eq!(client.post(&odd).await.text(), r#"{"received":true}"#);
    assert_eq!(system.status("odd").await, "quarantined");
    let _worker = system.working(&config).await;
    system.drained(100).await;
    // While both run.
    system.execute("select setval('sluice.event_seq', 7)").await;
    for n in 50..60 {
        client.store(&Event::of("after", n)).await;
    }
    assert_eq!(client.post(&Event { id: "odder".into(), body: b"not json either".to_vec() }).await.text(), r#"{"received":true}"#);
    system.drained(110).await;
    sink.assert_in_order();
}
