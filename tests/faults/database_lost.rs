//! What lies between a process and its database fails: answers are cut or swallowed, hints are lost, the network stands still.

use crate::client::Event;
use crate::proxy::{Fault, Proxy};
use crate::sink::Sink;
use crate::system::{Ingest, PATIENCE, Process, System, eventually, within};
use std::time::Duration;

/// What only the committers' connections say.
const STORES: &str = "sluice.store_events";
/// What only the finisher's connection says.
const RECORDS: &str = "case when u.status = 'delivered'";
/// What only the listener's connection says.
const LISTENS: &str = "LISTEN";

struct Stage {
    system: System,
    proxy: Proxy,
    sink: Sink,
    ingest: Ingest,
    worker: Process,
}

impl Stage {
    /// Both processes reach the server by way of a proxy; the first event has come through.
    async fn set(name: &str) -> Self {
        Self::with(name, "").await
    }

    async fn with(name: &str, worker: &str) -> Self {
        let system = System::new(name).await;
        let proxy = Proxy::start(system.server()).await;
        system.detour(proxy.address);
        let sink = Sink::answering(200).await;
        let worker = system.working(&system.config(&format!("{worker}\n{}", sink.config("lms", "")))).await;
        let ingest = system.ingest().await;
        ingest.client().store(&Event::of("u-0", 0)).await;
        system.drained(1).await;
        Self { system, proxy, sink, ingest, worker }
    }

    /// Posts an event until it is acknowledged. Every answer on the way says that it should be tried again, and none hangs.
    async fn post(&self, event: &Event) {
        let mut client = self.ingest.client();
        eventually("it is acknowledged", async || {
            let answer = client.post(event).await;
            assert!(answer.status() == 200 || (answer.status() == 503 && answer.header("retry-after").is_some()), "{}", answer.head);
            answer.status() == 200
        })
        .await;
    }

    async fn assert_stored_once(&self, event: &Event) {
        let rows = "select count(*) from sluice.events e join sluice.payloads p on p.event_seq = e.seq where e.event_id";
        assert_eq!(self.system.value::<i64>(&format!("{rows} = '{}'", event.id)).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_commits_answer_is_cut_is_stored_once_and_acknowledged() {
    let stage = Stage::set("commit_cut").await;
    let event = Event::of("u-1", 0);
    stage.proxy.once(STORES, Fault::Cut);
    stage.post(&event).await;
    assert_eq!(stage.proxy.met(), 1, "it was committed, and its answer cut");
    stage.assert_stored_once(&event).await;
    stage.system.drained(2).await;
    stage.sink.assert_each_once(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_commits_answer_is_swallowed_is_stored_once_and_no_request_hangs() {
    let stage = Stage::set("commit_swallowed").await;
    let event = Event::of("u-1", 0);
    stage.proxy.once(STORES, Fault::Swallow);
    // The client's own bound fails the test where an answer takes too long.
    stage.post(&event).await;
    assert_eq!(stage.proxy.met(), 1);
    stage.assert_stored_once(&event).await;
    stage.system.drained(2).await;
    stage.sink.assert_each_once(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_whose_records_answer_is_cut_or_swallowed_is_recorded_and_its_event_comes_once() {
    let stage = Stage::set("record_cut").await;
    for (n, fault) in [Fault::Cut, Fault::Swallow].into_iter().enumerate() {
        stage.proxy.once(RECORDS, fault);
        stage.post(&Event::of("u-1", n as u64)).await;
        eventually("the answer is lost", async || stage.proxy.met() == n + 1).await;
        stage.system.drained(2 + n as i64).await;
    }
    // Recorded again by the worker itself, it changes nothing.
    stage.sink.assert_each_once(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_hints_a_worker_finds_events_by_polling() {
    let stage = Stage::set("hints_lost").await;
    stage.proxy.on(LISTENS, Fault::Swallow);
    for n in 0..3 {
        stage.post(&Event::of("u-1", n)).await;
        within(Duration::from_secs(5), "it comes without a hint", async || stage.sink.tries_of(&format!("u-1:{n}")) == 1).await;
    }
    assert!(stage.proxy.met() >= 1, "hints were swallowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_hears_nothing_any_more_is_replaced() {
    // So seldom that only hints make it look.
    let stage = Stage::with("listener_deaf", "[worker]\npoll = \"1m\"").await;
    stage.proxy.once(LISTENS, Fault::Swallow);
    stage.post(&Event::of("u-1", 0)).await;
    eventually("it comes all the same", async || stage.sink.tries_of("u-1:0") == 1).await;
    stage.post(&Event::of("u-1", 1)).await;
    within(Duration::from_secs(5), "the next one has a hint again", async || stage.sink.tries_of("u-1:1") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_processes_lose_the_database_at_once_all_goes_on_by_itself_when_it_is_back() {
    let stage = Stage::set("partition").await;
    for (n, breaks) in [(0, false), (1, true)] {
        stage.proxy.hold(true);
        if breaks {
            stage.proxy.break_off();
        }
        let event = Event::of("u-1", n);
        let answer = stage.ingest.client().post(&event).await;
        assert_eq!((answer.status(), answer.header("retry-after").is_some()), (503, true));
        stage.proxy.hold(false);
        stage.post(&event).await;
        within(PATIENCE, "it comes", async || stage.sink.successes().contains_key(&event.id)).await;
        stage.assert_stored_once(&event).await;
    }
    stage.system.drained(3).await;
    stage.sink.assert_in_order();
    assert!(!stage.worker.log().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_hints_keeps_no_event_waiting() {
    let stage = Stage::set("hint_storm").await;
    for _ in 0..20 {
        stage
            .system
            .execute("select pg_notify('sluice_wake', n::text), pg_notify('sluice_control', n::text) from generate_series(1, 2000) n")
            .await;
    }
    stage.post(&Event::of("u-1", 0)).await;
    within(Duration::from_secs(5), "an event comes in the midst of it", async || stage.sink.tries_of("u-1:0") == 1).await;
}
