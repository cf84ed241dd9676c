//! Slack and Teams, from a signed event to what a stub of theirs was posted. No such server can be had: the stub notes each message, and the
//! tests hold it against the published shapes and limits; what the real services answer, the stub's script answers.

use crate::client::{Event, store_all};
use crate::sink::{Reply, Sink as Stub};
use crate::system::{System, eventually};
use serde_json::{Value, json};

fn quiz(id: &str, user: &str, score: u32) -> Event {
    let data = json!({ "userId": user, "quizId": "q-7", "quizName": "Safety", "score": score, "maxScore": 100 });
    event(id, "quiz.submitted", &data)
}

fn event(id: &str, event_type: &str, data: &Value) -> Event {
    Event { id: id.into(), body: json!({ "event": event_type, "companyId": "acme", "data": data }).to_string().into_bytes() }
}

/// The lines of a config for a sink of this kind at the stub. `keys` are further lines.
fn config(kind: &str, stub: &Stub, keys: &str) -> String {
    let url = format!("http://{}/hook/token", stub.address);
    format!("[[sink]]\nname = \"{kind}\"\nkind = \"{kind}\"\nurl = \"{url}\"\nallow = [\"127.0.0.0/8\"]\n{keys}\n\n")
}

/// What was posted, in its order, each held against the published shape.
pub fn messages(kind: &str, stub: &Stub) -> Vec<Value> {
    let posted = stub.ledger().into_iter().map(|receipt| {
        assert_eq!(receipt.request.header("content-type"), Some("application/json"));
        let message = serde_json::from_slice(&receipt.request.body).expect("JSON");
        if kind == "slack" {
            assert_slack_takes(&message);
        } else {
            assert_teams_takes(&message, receipt.request.body.len());
        }
        message
    });
    posted.collect()
}

fn assert_slack_takes(message: &Value) {
    assert!(message["text"].as_str().is_some_and(|text| !text.is_empty()), "{message}");
    let blocks = message["blocks"].as_array().expect("blocks");
    assert!((1..=50).contains(&blocks.len()));
    for block in blocks {
        let (text, max) = match block["type"].as_str() {
            Some("section") => (&block["text"], 3000),
            Some("context") => (&block["elements"][0], 3000),
            other => panic!("a block that Slack does not have: {other:?}"),
        };
        assert!(matches!(text["type"].as_str(), Some("mrkdwn" | "plain_text")), "{text}");
        let length = text["text"].as_str().expect("a text").chars().count();
        assert!((1..=max).contains(&length), "{length} characters");
    }
}

fn assert_teams_takes(message: &Value, size: usize) {
    assert!(size <= 28 * 1024, "{size} bytes");
    assert_eq!(message["type"], "message");
    let attachment = &message["attachments"][0];
    assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
    let card = &attachment["content"];
    assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
    assert_eq!(card["$schema"], "http://adaptivecards.io/schemas/adaptive-card.json");
    for block in card["body"].as_array().expect("a body") {
        assert_eq!((&block["type"], &block["inlines"][0]["type"]), (&json!("RichTextBlock"), &json!("TextRun")), "{block}");
        assert!(block["inlines"][0]["text"].as_str().is_some_and(|text| !text.is_empty()), "{block}");
    }
}

#[tokio::test]
async fn a_low_score_is_told_to_slack_once_and_a_high_one_is_skipped_and_a_replay_says_the_same_again() {
    let system = System::new("slack_low_score").await;
    let stub = Stub::answering(200).await;
    let keys = "events = [\"quiz.submitted\"]\nwhen = \"event.data.score < 70\"";
    let _worker = system.working(&system.config(&config("slack", &stub, keys))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let low = quiz("evt_low", "<!channel> & co", 45);
    client.store(&low).await;
    client.store(&quiz("evt_high", "u-2", 90)).await;
    // The provider delivers once more: stored already, so it says nothing twice.
    client.post(&low).await;
    eventually("both are decided", async || system.count("pending").await == 0 && system.count("skipped").await == 1).await;
    assert_eq!((system.status("evt_low").await.as_str(), system.status("evt_high").await.as_str()), ("delivered", "skipped"));

    let said = messages("slack", &stub);
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["text"], "Quiz submitted: Safety, by &lt;!channel&gt; &amp; co, with a score of 45 of 100");
    assert_eq!(said[0]["blocks"][0]["text"]["text"], said[0]["text"]);
    assert_eq!(said[0]["blocks"][1]["elements"][0]["text"], "Event evt_low");

    system.execute("update sluice.deliveries set status = 'pending' where status = 'delivered'").await;
    eventually("it is told again", async || stub.tries() == 2 && system.count("pending").await == 0).await;
    let ledger = stub.ledger();
    assert_eq!(ledger[0].request.body, ledger[1].request.body, "the same bytes on every try");
}

#[tokio::test]
async fn an_expired_certification_is_told_to_teams_in_a_card_with_the_configured_words() {
    let system = System::new("teams_card").await;
    let stub = Stub::answering(202).await;
    let keys = "title = \"{{ event.data.certName }} expired\"\ntext = \"\"\"Learner {{ event.data.userId }}\nDeadline {{ event.data.renewalDeadline | default('open') }}\"\"\"";
    let _worker = system.working(&system.config(&config("teams", &stub, keys))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&event("evt_1", "certification.expired", &json!({ "userId": "[u-1](http://evil)", "certName": "Forklift" }))).await;
    system.drained(1).await;
    let said = messages("teams", &stub);
    let body = said[0]["attachments"][0]["content"]["body"].as_array().unwrap();
    let texts: Vec<_> = body.iter().map(|block| block["inlines"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["Forklift expired", "Learner [u-1](http://evil)", "Deadline open", "Event evt_1"]);
}

#[tokio::test]
async fn what_slack_answers_decides_what_becomes_of_a_delivery() {
    let system = System::new("slack_answers").await;
    let stub = Stub::start(|this| match (this.event_id, this.of_event) {
        ("evt_blocks", _) => Reply::Saying(400, "invalid_blocks"),
        ("evt_service", _) => Reply::Saying(404, "no_service"),
        ("evt_archived", _) => Reply::Saying(410, "channel_is_archived"),
        ("evt_500", 1) => Reply::Saying(500, "rollup_error"),
        ("evt_503", 1) => Reply::Status(503),
        ("evt_429", 1) => Reply::With(429, "retry-after: 1\r\n"),
        ("evt_403", 1) => Reply::With(403, "retry-after: 1\r\n"),
        _ => Reply::Status(200),
    })
    .await;
    let _worker = system.working(&system.config(&config("slack", &stub, "retry = { initial = \"10ms\" }\nconcurrency = 1"))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    for name in ["blocks", "service", "archived", "500", "503", "429", "403"] {
        client.store(&quiz(&format!("evt_{name}"), &format!("u-{name}"), 1)).await;
    }
    client.store(&event("evt_unknown", "badge.awarded", &json!({ "userId": "u-9" }))).await;
    client.store(&event("evt_lacking", "quiz.submitted", &json!({ "userId": "u-9" }))).await;
    eventually("all are decided", async || system.count("pending").await == 0).await;
    let error = async |id: &str| -> String {
        let sql =
            "select coalesce(d.last_error, '') from sluice.deliveries d join sluice.events e on e.seq = d.event_seq where e.event_id =";
        system.value(&format!("{sql} '{id}'")).await
    };
    for (id, said) in [("evt_blocks", "400"), ("evt_service", "404"), ("evt_archived", "410"), ("evt_lacking", "`data.quizId`")] {
        assert_eq!(system.status(id).await, "dead", "{id}");
        assert!(error(id).await.contains(said), "{id}: {}", error(id).await);
        assert!(stub.tries_of(id) <= 1, "{id}");
    }
    for id in ["evt_500", "evt_503", "evt_429", "evt_403"] {
        assert_eq!((system.status(id).await.as_str(), stub.tries_of(id)), ("delivered", 2), "{id}");
    }
    assert_eq!(system.status("evt_unknown").await, "skipped");
    assert_eq!(stub.tries_of("evt_unknown"), 0);
    messages("slack", &stub);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_messages_are_there_after_the_service_was_gone_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    for kind in ["slack", "teams"] {
        let system = System::new(&format!("{kind}_gone")).await;
        let mut stub = Stub::answering(200).await;
        let keys = "retry = { initial = \"10ms\", cap = \"500ms\", max_attempts = 100 }\nbreaker = { rest = \"50ms\", cap = \"500ms\" }";
        let _worker = system.working(&system.config(&config(kind, &stub, keys))).await;
        let ingest = system.ingest().await;
        let list = |user: usize| (0..COUNT / 10).map(|n| quiz(&format!("u-{user}:{n}"), &format!("u-{user}"), 1)).collect();
        let storing = tokio::spawn(store_all(ingest.address, (0..10).map(list).collect()));
        eventually("some are told", async || stub.successes().len() > 500).await;
        stub.go_down().await;
        storing.await.expect("all are stored");
        assert!(system.count("pending").await > 0, "{kind}: nothing was left for the time after");
        stub.up().await;
        system.drained(COUNT as i64).await;
        assert_eq!(stub.successes().len(), COUNT, "{kind}");
        stub.assert_in_order();
        messages(kind, &stub);
    }
}

#[tokio::test]
async fn a_template_that_names_what_there_is_not_is_refused_at_the_start_with_its_place() {
    let system = System::empty("slack_config").await;
    let stub = Stub::down(|_| Reply::Status(200));
    for (kind, keys, wanted) in [
        ("slack", "text = \"{{ evnt.data.score }}\"", ":6:8: `text` knows `event` and `meta` alone"),
        ("teams", "title = \"{{ event.data.\"", ":6:9: `title` must be a template"),
        ("slack", "title = \"x\"", ":6:9: `title` is a key of kind = \"teams\" alone"),
    ] {
        let config = system.config(&config(kind, &stub, keys));
        let output = system.run_with(Some(&config), &["config", "check"]).await;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && said.contains(wanted), "{said}");
    }
}
