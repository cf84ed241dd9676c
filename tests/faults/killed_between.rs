//! A process dies exactly between two steps. See src/failpoint.rs.

use crate::client::{Client, Event};
use crate::sink::Sink;
use crate::system::{Process, System, eventually, within};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a failpoint is set to: to act the first time, or the time after so many.
fn after(times: usize, name: &str) -> String {
    if times == 0 { format!("{name}=return") } else { format!("{name}={times}*off->return") }
}

async fn ended(process: &mut Process) {
    assert!(!process.wait().await.success(), "it died of its failpoint");
}

/// Ingest dies at the failpoint while a request waits. What follows is a new ingest, to which the provider sends the event again.
async fn ingest_dies_at(failpoint: &str) -> (System, bool, String) {
    let system = System::new(&failpoint.replace('-', "_")).await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("lms", ""))).await;
    system.failpoints(&after(1, failpoint));
    let mut ingest = system.ingest().await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    let event = Event::of("u-1", 1);
    assert!(Client::new(ingest.address).try_send(&event.request()).await.is_none(), "nothing was acknowledged");
    ended(&mut ingest.process).await;
    let stored = system.value::<i64>("select count(*) from sluice.events").await == 2;

    system.failpoints("");
    let answer = system.ingest().await.client().post(&event).await;
    assert_eq!(answer.status(), 200);
    system.drained(2).await;
    assert_eq!(system.value::<i64>("select count(*) from sluice.events").await, 2);
    sink.assert_each_once(2);
    (system, stored, answer.text().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_that_dies_before_the_commit_has_acknowledged_nothing_and_takes_the_event_when_it_comes_again() {
    let (_system, stored, answer) = ingest_dies_at("commit-begins").await;
    assert_eq!((stored, answer.as_str()), (false, r#"{"received":true}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_that_dies_between_commit_and_answer_takes_the_event_for_a_duplicate_when_it_comes_again() {
    let (_system, stored, answer) = ingest_dies_at("commit-done").await;
    assert_eq!((stored, answer.as_str()), (true, r#"{"duplicate":true}"#));
}

struct Deliveries {
    system: System,
    sinks: [Sink; 2],
    config: PathBuf,
}

impl Deliveries {
    /// Two sinks, with this many events stored.
    async fn of(name: &str, events: u64) -> Self {
        let system = System::new(name).await;
        let sinks = [Sink::answering(200).await, Sink::answering(200).await];
        let keys = "retry = { initial = \"50ms\", cap = \"200ms\", max_attempts = 4 }";
        let config = system.config(&(sinks[0].config("lms", keys) + &sinks[1].config("crm", keys)));
        system.working(&config).await.stop().await;
        let ingest = system.ingest().await;
        for n in 0..events {
            ingest.client().store(&Event::of(&format!("u-{}", n % 3), n / 3)).await;
        }
        Self { system, sinks, config }
    }

    /// A worker that dies at the failpoint; then one that goes on. Returns how often events came again.
    async fn worker_dies_at(&self, failpoint: &str) -> usize {
        self.system.failpoints(failpoint);
        ended(&mut self.system.worker(&self.config)).await;
        self.system.failpoints("");
        let events: i64 = self.system.value("select count(*) from sluice.events").await;
        let _worker = self.system.worker(&self.config);
        self.system.drained(2 * events).await;
        for sink in &self.sinks {
            sink.assert_in_order();
            assert_eq!(sink.successes().len() as i64, events);
        }
        self.sinks.iter().map(Sink::tries).sum::<usize>() - 2 * events as usize
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_before_the_send_makes_nothing_come_twice() {
    let deliveries = Deliveries::of("try_begins", 12).await;
    // The first try of all: none can have been sent.
    assert_eq!(deliveries.worker_dies_at(&after(0, "try-begins")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_a_sinks_2xx_and_before_the_record_makes_no_more_come_twice_than_was_in_flight() {
    let deliveries = Deliveries::of("try_done", 12).await;
    let again = deliveries.worker_dies_at(&after(0, "try-done")).await;
    // Of three learners' events to two sinks one each can be in flight.
    assert!((1..=6).contains(&again), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_two_records_delivers_the_rest() {
    let deliveries = Deliveries::of("record_done", 12).await;
    let again = deliveries.worker_dies_at(&after(1, "record-done")).await;
    assert!(again <= 6 + 6, "{again}: in flight, or on their way to being recorded");
}

/// Restarts the worker whenever it dies, as a supervisor would, until nothing is owed.
async fn supervised(system: &System, config: &Path) -> usize {
    let mut deaths = 0;
    let mut worker = system.worker(config);
    eventually("nothing is owed", async || {
        if !worker.is_running() {
            deaths += 1;
            worker = system.worker(config);
        }
        system.count("pending").await == 0
    })
    .await;
    deaths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_aborts_the_process_again_and_again_is_dead_in_the_end_and_its_neighbours_are_delivered() {
    let system = System::new("aborts").await;
    let sink = Sink::answering(200).await;
    // Few attempts, because after each death the lease of the dead worker runs out first.
    let config = system.config(&sink.config("lms", "retry = { initial = \"50ms\", max_attempts = 2 }"));
    system.working(&config).await.stop().await;
    let ingest = system.ingest().await;
    for n in 0..12 {
        ingest.client().store(&Event::of(&format!("u-{}", n % 3), n / 3)).await;
    }
    ingest.client().store(&Event::new("poison:0", "course.completed", "poison", 0)).await;
    system.failpoints("sink-poisoned=return");
    let deaths = supervised(&system, &config).await;
    assert_eq!(deaths, 4, "unseen, among all suspects, among half of them, and alone");
    let dead = "select count(*) from sluice.deliveries d join sluice.events e on e.seq = d.event_seq where d.status = 'dead'";
    assert_eq!(system.value::<i64>(&format!("{dead} and e.event_id = 'poison:0' and d.last_error is not null")).await, 1);
    assert_eq!(system.value::<i64>(dead).await, 1);
    assert_eq!((sink.successes().len(), sink.tries_of("poison:0")), (12, 0));
    sink.assert_in_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_panics_a_sinks_code_is_dead_after_its_attempts_and_its_neighbours_are_delivered() {
    let deliveries = Deliveries::of("panics", 12).await;
    let system = &deliveries.system;
    system.ingest().await.client().store(&Event::new("poison:0", "course.completed", "poison", 0)).await;
    system.failpoints("sink-poisoned=panic");
    assert_eq!(supervised(system, &deliveries.config).await, 0, "the process survives");
    let attempts = "select min(attempts) from sluice.deliveries where status = 'dead' and last_error = 'the sink''s code panicked'";
    assert_eq!(system.value::<i32>(attempts).await, 4);
    assert_eq!((system.count("dead").await, system.count("delivered").await), (2, 24));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_heard_that_its_claim_of_lanes_went_through_gives_them_up_and_works_on_within_seconds() {
    let Deliveries { system, sinks, config } = Deliveries::of("claim_unheard", 10).await;
    system.failpoints("claim-unheard=1*return");
    let worker = system.worker(&config);
    // Without giving them up, nobody would work on them until the lease ends, after 10 s.
    within(Duration::from_secs(6), "all is delivered", async || system.count("delivered").await == 20).await;
    sinks.iter().for_each(|sink| sink.assert_each_once(10));
    assert!(worker.log().contains("does not work on the lanes that it owns in the database"));
}
