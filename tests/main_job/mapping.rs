//! What a sink's config makes of an event: `when` filters it, `body` maps it, and `sluice route test` shows both beforehand.

use crate::client::Event;
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually};
use serde_json::{Value, json};

fn quiz(id: &str, score: &Value) -> Event {
    let body = json!({"event": "quiz.submitted", "companyId": "acme", "data": {"userId": id, "quizName": "\" + 1", "score": score, "maxScore": 100}});
    Event { id: id.into(), body: body.to_string().into_bytes() }
}

#[tokio::test]
async fn a_sink_gets_what_its_filter_holds_for_and_what_the_filter_cannot_tell_is_dead_with_the_reason() {
    let system = System::new("filters").await;
    let (coach, all) = (Sink::answering(200).await, Sink::answering(200).await);
    let config = system.config(&(coach.config("coach", "when = 'event.data.score < 70'") + &all.config("all", "")));
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    for (id, score) in [("low", json!(45)), ("high", json!(92.5)), ("none", Value::Null)] {
        ingest.client().store(&quiz(id, &score)).await;
    }
    eventually("all is over", async || system.count("pending").await == 0).await;
    assert_eq!((coach.tries(), coach.tries_of("low")), (1, 1));
    all.assert_each_once(3);
    let became = async |id: &str| {
        let of = format!("from sluice.deliveries d join sluice.events e on e.seq = d.event_seq where sink = 'coach' and event_id = '{id}'");
        system.value::<String>(&format!("select status || ', ' || attempts || ': ' || coalesce(last_error, '') {of}")).await
    };
    assert_eq!(became("low").await, "delivered, 1: ");
    assert_eq!(became("high").await, "skipped, 0: `when` is false for it");
    let dead = became("none").await;
    assert!(dead.starts_with("dead, 1: cannot tell whether `when` holds: "), "{dead}");
}

#[tokio::test]
async fn a_body_is_made_of_typed_values_and_is_the_same_on_every_try() {
    let system = System::new("bodies").await;
    let crm = Sink::start(|of| Reply::Status(if of.of_event == 1 { 500 } else { 200 })).await;
    let body = "retry = { initial = \"10ms\" }\n[sink.body]\nname = 'event.data.quizName'\npercent = 'event.data.score * 100 / event.data.maxScore'\nkind = '\"quiz\"'\nversion = 2\nnested = { id = 'meta.id', list = ['event.companyId', true] }\n";
    let _worker = system.working(&system.config(&crm.config("crm", body))).await;
    let ingest = system.ingest().await;
    ingest.client().store(&quiz("q-1", &json!(45))).await;
    system.drained(1).await;
    let sent: Vec<Value> = crm.ledger().iter().map(|receipt| serde_json::from_slice(&receipt.request.body).unwrap()).collect();
    let expected = json!({"name": "\" + 1", "percent": 45, "kind": "quiz", "version": 2, "nested": {"id": "q-1", "list": ["acme", true]}});
    assert_eq!(sent, [expected.clone(), expected]);
    assert_eq!(crm.ledger()[0].request.body, crm.ledger()[1].request.body);
}

#[tokio::test]
async fn route_test_shows_where_an_event_would_go_and_the_request_without_secrets() {
    let system = System::new("route").await;
    let (crm, coach, other) = (Sink::answering(200).await, Sink::answering(200).await, Sink::answering(200).await);
    let config = crm.config("crm", "headers = { authorization = 'Bearer hunter2' }")
        + &coach.config("coach", "when = 'event.data.score < 40'")
        + &other.config("other", "events = ['user.provisioned']");
    let config = system.config(&config);
    let event = system.file("json");
    std::fs::write(&event, quiz("u-1", &json!(45)).body).unwrap();
    let args = ["route", "test", "--event", event.to_str().unwrap(), "--id", "evt_7"];
    let output = system.run_with(Some(&config), &args).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "type: quiz.submitted",
        "order key: acme/u-1",
        "crm (http): sent",
        "x-event-id: evt_7",
        "authorization: (configured)",
        "\"score\":45",
        "coach (http): skipped: `when` is false for it",
        "other (http): not subscribed",
    ] {
        assert!(text.contains(expected), "{expected} is missing:\n{text}");
    }
    assert!(!text.contains("hunter2"));

    let json = system.run_with(Some(&config), &[&args[..], &["--json"]].concat()).await;
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&report["sinks"][0]["result"], &report["sinks"][2]["result"]), (&json!("sent"), &json!("not subscribed")));
    assert_eq!([&crm, &coach, &other].map(Sink::tries), [0; 3], "nothing was sent");
}
