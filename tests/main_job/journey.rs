//! What happens to events on the straight way: stored once, delivered once to each sink, and shown by every view.

use crate::client::{Event, TYPES};
use crate::sink::Sink;
use crate::system::{System, eventually, within};
use std::collections::HashSet;
use std::time::Duration;

/// Events of all types, ten users.
fn events() -> Vec<Event> {
    let of_user = |user: u64| TYPES.iter().map(move |kind| Event::new(format!("{kind}-{user}"), kind, &format!("u-{user}"), user));
    (0..10).flat_map(of_user).collect()
}

#[tokio::test]
async fn each_event_reaches_each_sink_that_subscribes_exactly_once_with_its_own_bytes() {
    let system = System::new("journey").await;
    let (crm, lms) = (Sink::answering(200).await, Sink::answering(200).await);
    let learning = r#"events = ["course.completed", "quiz.submitted"]"#;
    let config = system.config(&(crm.config("crm", "") + &lms.config("lms", learning)));
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;

    let mut client = ingest.client();
    for event in events() {
        client.store(&event).await;
        let again = client.post(&event).await;
        assert_eq!((again.status(), again.text()), (200, r#"{"duplicate":true}"#));
    }
    system.drained(60 + 20).await;
    crm.assert_each_once(60);
    lms.assert_each_once(20);

    for receipt in crm.ledger().iter().chain(&lms.ledger()) {
        let sent = events().into_iter().find(|event| event.id == receipt.event_id).unwrap();
        assert_eq!(receipt.request.body, sent.body, "{}", sent.id);
        assert!(receipt.event_id.starts_with(receipt.request.header("x-event-type").unwrap()));
    }
    let keys: HashSet<String> =
        crm.ledger().iter().chain(&lms.ledger()).map(|receipt| receipt.request.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(keys.len(), 80, "one idempotency key for each event and sink");
}

#[tokio::test]
async fn every_view_tells_what_has_become_of_the_events() {
    let system = System::new("views").await;
    let (crm, lms) = (Sink::answering(200).await, Sink::answering(200).await);
    let config = system.config(&(crm.config("crm", "") + &lms.config("lms", r#"events = ["quiz.submitted"]"#)));
    lms.script(|_| crate::sink::Reply::Status(422));
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    for event in events() {
        ingest.client().store(&event).await;
    }
    eventually("all is over", async || system.count("pending").await == 0).await;

    assert_eq!(system.status("course.completed-3").await, "delivered");
    assert_eq!(system.status("quiz.submitted-3").await, "dead", "one of its two deliveries is");
    let users: i64 =
        system.value("select count(distinct body #>> '{data,userId}') from sluice.bodies where body ->> 'event' = 'quiz.submitted'").await;
    assert_eq!(users, 10);
    let backlog: i64 = system.value("select count(*) from sluice.backlog where pending = 0 and lag is null").await;
    assert_eq!(backlog, 2);
    let (sink, status, count): (String, i16, i64) =
        sqlx::query_as("select sink, last_status, deliveries from sluice.dead_letters").fetch_one(&system.db).await.unwrap();
    assert_eq!((sink.as_str(), status, count), ("lms", 422, 10));
    let timeline: Vec<(String, Option<String>)> =
        sqlx::query_as("select what, sink from sluice.timeline('quiz.submitted-3')").fetch_all(&system.db).await.unwrap();
    let timeline: Vec<_> = timeline.iter().map(|(what, sink)| (what.as_str(), sink.as_deref())).collect();
    assert_eq!(timeline[0], ("received", None));
    for line in [("delivered", Some("crm")), ("attempt failed: dead", Some("lms")), ("dead", Some("lms"))] {
        assert!(timeline.contains(&line), "{line:?} is not in {timeline:?}");
    }
    let at = |what| timeline.iter().position(|line| *line == (what, Some("lms")));
    assert!(at("attempt failed: dead") < at("dead"), "{timeline:?}");
    // The counters are written with each renewal of the lease.
    let health = "select count(*) from sluice.sink_health where (sink, delivered, dead) in (('crm', 60, 0), ('lms', 0, 10))";
    eventually("the counters are there", async || system.value::<i64>(health).await == 2).await;

    let status = system.run(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["received_last_day"]["events"], 60);
    assert_eq!((&status["sinks"][1]["sink"], &status["sinks"][1]["dead"]), (&"lms".into(), &10.into()));
}

#[tokio::test]
async fn an_event_that_nobody_subscribes_to_is_unrouted_until_a_sink_is_added_and_its_status_is_reset() {
    let system = System::new("unrouted").await;
    let (crm, hr) = (Sink::answering(200).await, Sink::answering(200).await);
    let first = crm.config("crm", r#"events = ["course.completed"]"#);
    let _worker = system.working(&system.config(&first)).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&Event::new("evt_1", "user.provisioned", "u-1", 1)).await;
    client.store(&Event::new("evt_2", "something.never.heard.of", "u-1", 2)).await;
    client.store(&Event::new("evt_3", "course.completed", "u-1", 3)).await;
    system.drained(1).await;
    assert_eq!(system.status("evt_1").await, "unrouted");

    // A second worker, whose config has another sink: from now on it is owed what arrives.
    let second = first + &hr.config("hr", "");
    let _other = system.working(&system.config(&second)).await;
    client.store(&Event::new("evt_4", "user.provisioned", "u-1", 4)).await;
    system.drained(2).await;
    assert_eq!((system.status("evt_1").await, system.status("evt_4").await), ("unrouted".into(), "delivered".into()));

    assert_eq!(system.execute("update sluice.outbox set status = 'pending' where status = 'unrouted'").await, 2);
    system.drained(4).await;
    crm.assert_each_once(1);
    hr.assert_each_once(3);
    assert_eq!(hr.tries_of("evt_2"), 1);
    assert_eq!(hr.tries_of("evt_3"), 0, "it arrived before the sink did");
}

#[tokio::test]
async fn an_event_reaches_its_sink_by_a_hint_long_before_the_next_poll() {
    let system = System::new("hinted").await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&format!("[worker]\npoll = \"1m\"\n{}", sink.config("crm", "")))).await;
    let ingest = system.ingest().await;
    for n in 0..3 {
        ingest.client().store(&Event::of("u-1", n)).await;
        within(Duration::from_secs(15), "it is delivered", async || sink.tries_of(&format!("u-1:{n}")) == 1).await;
    }
}
