//! `kind = "xapi"` against Ralph, an LRS, and, for answers that it does not give, against a stub.

use crate::client::{Client, Event, store_all};
use crate::http::{Message, Wire};
use crate::peers::{self, Peer};
use crate::stub::Stub;
use crate::system::{System, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use uuid::Uuid;

/// Base64 of `sluice:lrs-s3cret`.
const LOGIN: &str = "Basic c2x1aWNlOmxycy1zM2NyZXQ=";

/// The LRS, which keeps its statements in a folder.
pub struct Lrs {
    peer: Option<Peer>,
    folder: TempDir,
}

impl Lrs {
    pub async fn start() -> Option<Self> {
        let python = peers::program("ralph", "bin/python")?;
        let folder = tempfile::tempdir().unwrap();
        let peer = Peer::start(|port| Self::command(&python, folder.path(), port)).await;
        Some(Self { peer: Some(peer), folder })
    }

    fn command(python: &Path, folder: &Path, port: u16) -> Command {
        let mut command = Command::new(python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sinks/lrs.py")).arg(folder).arg(port.to_string());
        command
    }

    pub fn address(&self) -> SocketAddr {
        self.peer.as_ref().expect("it runs").address
    }

    async fn restart(&mut self) {
        let address = self.peer.take().expect("it runs").kill().await;
        let python = peers::program("ralph", "bin/python").expect("it was there");
        self.peer = Some(Peer::start_at(address, |port| Self::command(&python, self.folder.path(), port)).await);
    }

    /// What is asked at `/xAPI/statements`.
    async fn ask(&self, method: &str, query: &str, body: &Value) -> Message {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!("{method} /xAPI/statements{query} HTTP/1.1\r\nhost: lrs\r\nauthorization: {LOGIN}\r\nconnection: close\r\n");
        let request = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut wire = Wire::new(TcpStream::connect(self.address()).await.unwrap());
        wire.send(request.as_bytes()).await.unwrap();
        wire.receive().await.expect("an answer")
    }

    /// The statement of an event, by its id.
    async fn statement(&self, event_id: &str) -> Value {
        let answer = self.ask("GET", &format!("?statementId={}", key(event_id)), &Value::Null).await;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        answer["statements"][0].clone()
    }

    /// The ids of all that it keeps.
    fn ids(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(self.folder.path().join("fs_lrs.jsonl")).unwrap();
        let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        let mut ids: Vec<String> = lines.lines().map(id).collect();
        ids.sort();
        ids
    }

    pub fn assert_each_once(&self, count: usize) {
        let ids = self.ids();
        assert_eq!(ids.len(), count, "statements");
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "a statement is there twice");
    }
}

fn key(event_id: &str) -> Uuid {
    sluice::sink::idempotency_key("mindtickle", event_id, "lms")
}

fn config(address: SocketAddr, keys: &str) -> String {
    let login = "username = \"sluice\"\npassword = \"lrs-s3cret\"\nhome_page = \"https://{company}.example.com\"";
    format!("[[sink]]\nname = \"lms\"\nkind = \"xapi\"\nurl = \"http://{address}/xAPI\"\nallow = [\"127.0.0.0/8\"]\n{login}\n{keys}\n\n")
}

fn event(id: &str, event: &str, data: Value) -> Event {
    Event { id: id.into(), body: json!({ "event": event, "companyId": "acme", "data": data }).to_string().into_bytes() }
}

fn completed(id: &str, user: &str) -> Event {
    event(id, "course.completed", json!({"userId": user, "courseId": "c1", "score": 92, "completedAt": "2026-01-02T03:04:05Z"}))
}

#[tokio::test]
async fn every_mapped_event_is_read_back_from_the_lrs_and_neither_redelivery_nor_replay_doubles_it() {
    let Some(lrs) = Lrs::start().await else { return };
    let system = System::new("xapi_journey").await;
    let _worker = system.working(&system.config(&config(lrs.address(), "course_score_max = 100"))).await;
    let ingest = system.ingest().await;
    let adl = |verb: &str| format!("http://adlnet.gov/expapi/verbs/{verb}");
    let progress = "https://w3id.org/xapi/cmi5/result/extensions/progress";
    let cases = [
        (
            completed("e1", "u1"),
            adl("completed"),
            "/courses/c1",
            json!({"completion": true, "score": {"raw": 92.0, "scaled": 0.92, "max": 100.0}}),
        ),
        (
            event("e2", "quiz.submitted", json!({"userId": "u2", "quizId": "q1", "score": 45, "maxScore": 60, "passed": true})),
            adl("passed"),
            "/quizzes/q1",
            json!({"completion": true, "success": true, "score": {"raw": 45.0, "scaled": 0.75, "max": 60.0}}),
        ),
        (
            event("e3", "module.progress", json!({"userId": "u3", "moduleId": "m1", "progressPct": 40, "timeSpentSec": 61})),
            adl("progressed"),
            "/modules/m1",
            json!({"extensions": {progress: 40}, "duration": "PT61S"}),
        ),
        (event("e4", "user.provisioned", json!({"userId": "u4", "email": "a@b.example"})), adl("registered"), "", Value::Null),
        (
            event("e5", "certification.expired", json!({"userId": "u5", "certName": "Gold", "expiredAt": "2026-01-02T03:04:05Z"})),
            "http://id.tincanapi.com/verb/expired".into(),
            "/certifications/Gold",
            Value::Null,
        ),
    ];
    let mut client = ingest.client();
    for (event, ..) in &cases {
        client.store(event).await;
        assert_eq!(client.post(event).await.text(), r#"{"duplicate":true}"#);
    }
    client.store(&event("e6", "user.deprovisioned", json!({"userId": "u6"}))).await;
    system.drained(5).await;
    assert_eq!(system.count("skipped").await, 1);
    for _replay in 0..2 {
        for (event, verb, object, result) in &cases {
            let statement = lrs.statement(&event.id).await;
            let user = event.id.replace('e', "u");
            assert_eq!(statement["verb"]["id"], json!(verb), "{statement}");
            assert_eq!(statement["object"]["id"], json!(format!("https://acme.example.com{object}")));
            assert_eq!(statement["actor"]["account"], json!({"homePage": "https://acme.example.com", "name": user}));
            let floats = |value: &Value| value.to_string().replace(".0,", ",").replace(".0}", "}");
            assert_eq!(floats(&statement["result"]), floats(result));
        }
        lrs.assert_each_once(5);
        assert_eq!(system.execute("update sluice.deliveries set status = 'pending' where status = 'delivered'").await, 5);
        system.drained(5).await;
    }
    assert_eq!(lrs.statement("e1").await["timestamp"], json!("2026-01-02T03:04:05.000Z"));
}

#[tokio::test]
async fn one_statement_that_the_lrs_refuses_harms_no_other_of_its_batch() {
    let Some(lrs) = Lrs::start().await else { return };
    let system = System::new("xapi_batch").await;
    let ingest = system.ingest().await;
    // The LRS has another statement under one event's id, and an equivalent one, its time written otherwise, under a second's.
    let taken = |event_id: &str, verb: &str, user: &str| {
        json!({
            "id": key(event_id).to_string(), "timestamp": "2026-01-02T03:04:05Z", "result": {"completion": true, "score": {"raw": 92.0}},
            "actor": {"objectType": "Agent", "account": {"homePage": "https://acme.example.com", "name": user}},
            "verb": {"id": format!("http://adlnet.gov/expapi/verbs/{verb}")},
            "object": {"objectType": "Activity", "id": "https://acme.example.com/courses/c1"},
        })
    };
    let there = json!([taken("e7", "failed", "u7"), taken("e11", "completed", "u11")]);
    assert_eq!(lrs.ask("POST", "", &there).await.status(), 200);
    // A worker registers the sink and stops, so that the events have gathered to a batch when the next one starts.
    let config = system.config(&config(lrs.address(), "concurrency = 1"));
    let mut worker = system.working(&config).await;
    worker.stop().await;
    for n in 0..20 {
        ingest.client().store(&completed(&format!("e{n}"), &format!("u{n}"))).await;
    }
    let _worker = system.working(&config).await;
    eventually("all is over", async || system.count("pending").await == 0).await;
    assert_eq!((system.count("delivered").await, system.count("dead").await), (19, 1));
    assert_eq!(system.status("e7").await, "dead");
    let error: String = system.value("select last_error from sluice.deliveries where status = 'dead'").await;
    assert!(error.contains("another statement under this id"), "{error}");
    lrs.assert_each_once(20);
}

#[tokio::test]
async fn all_statements_are_there_after_the_lrs_was_killed_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    let Some(mut lrs) = Lrs::start().await else { return };
    let system = System::new("xapi_killed").await;
    let retry = "concurrency = 4\nretry = { initial = \"50ms\", cap = \"500ms\", max_attempts = 100 }\ntimeout = \"30s\"";
    let _worker = system.working(&system.config(&config(lrs.address(), &format!("{retry}\nbatch = 200")))).await;
    let ingest = system.ingest().await;
    let list = |part: usize| (0..COUNT / 10).map(|n| completed(&format!("e{part}-{n}"), &format!("u{part}-{n}"))).collect();
    let storing = tokio::spawn(store_all(ingest.address, (0..10).map(list).collect()));
    eventually("some are delivered", async || system.count("delivered").await > 500).await;
    lrs.restart().await;
    storing.await.unwrap();
    system.drained(COUNT as i64).await;
    lrs.assert_each_once(COUNT);
}

/// One event to a stub with this script; the delivery's status, attempts and error once `settled`, and the requests.
async fn fate(
    name: &str,
    script: fn(&Message, usize) -> (u16, &'static str, String),
    settled: &str,
) -> (String, i32, String, Vec<Message>) {
    let stub = Stub::start(move |request, before| {
        let (status, headers, body) = script(request, before);
        (status, headers.to_owned(), body)
    })
    .await;
    let system = System::new(name).await;
    let keys = "retry = { initial = \"20ms\", cap = \"20ms\", max_attempts = 3 }";
    let worker = system.working(&system.config(&config(stub.address, keys))).await;
    let ingest = system.ingest().await;
    Client::new(ingest.address).store(&completed("e1", "u1")).await;
    let query = format!("select count(*) from sluice.deliveries where {settled}");
    // A delivery that stays pending is settled once the sink rests: nothing else tells of it.
    let is_settled =
        async || system.value::<i64>(&query).await == 1 && (!settled.contains("pending") || worker.log().contains("the sink rests"));
    eventually("it is settled", is_settled).await;
    let row = "select status, attempts::int4, coalesce(last_error, '') from sluice.deliveries";
    let (status, attempts, error) = sqlx::query_as(row).fetch_one(&system.db).await.unwrap();
    let asked = stub.asked.lock().unwrap().clone();
    (status, attempts, error, asked)
}

#[tokio::test]
async fn each_answer_of_a_stub_lrs_has_its_consequence() {
    for (n, (script, settled, status, tries)) in [
        ((|_, _| (204, "", String::new())) as fn(&Message, usize) -> (u16, &'static str, String), "status = 'delivered'", "delivered", 1),
        (|_, _| (400, "", "bad verb".into()), "status = 'dead'", "dead", 1),
        (|_, _| (413, "", String::new()), "status = 'dead'", "dead", 1),
        (|_, _| (422, "", String::new()), "status = 'dead'", "dead", 1),
        (|_, _| (500, "", String::new()), "status = 'dead'", "dead", 3),
        (|_, before| (if before < 2 { 503 } else { 200 }, "", "[]".into()), "status = 'delivered'", "delivered", 3),
        (|_, before| (if before == 0 { 429 } else { 200 }, "retry-after: 0\r\n", "[]".into()), "status = 'delivered'", "delivered", 2),
        (|_, _| (401, "", String::new()), "status = 'pending'", "pending", 1),
        (|_, _| (403, "", String::new()), "status = 'pending'", "pending", 1),
        (|_, _| (404, "", String::new()), "status = 'pending'", "pending", 1),
        (|request, _| (if request.head.starts_with("GET") { 404 } else { 409 }, "", String::new()), "status = 'dead'", "dead", 6),
    ]
    .into_iter()
    .enumerate()
    {
        let (became, attempts, error, asked) = fate(&format!("xapi_stub_{n}"), script, settled).await;
        assert_eq!((became.as_str(), asked.len()), (status, tries), "{n}: {error}");
        assert!(became != "pending" || attempts == 0, "{n}: a refusal burns no attempt, but it was {attempts}");
        assert!(!error.contains("s3cret"), "{error}");
        let posts: Vec<_> = asked.iter().filter(|request| request.head.starts_with("POST /xAPI/statements HTTP")).collect();
        assert!(posts.iter().all(|post| post.body == posts[0].body), "the same bytes on every try");
        assert_eq!(posts[0].header("x-experience-api-version"), Some("1.0.3"));
        assert_eq!(posts[0].header("authorization"), Some(LOGIN));
    }
}
