//! `kind = "salesforce"`, from a signed event to the records of an org, which is a stub: see `stub_salesforce.rs`.

#[path = "stub_salesforce.rs"]
pub mod stub;

use crate::client::{Event, store_all};
use crate::system::{Process, System, eventually, free_port, holds_for};
use ring::signature::{KeyPair, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use stub::{AUDIENCE, CLIENT_ID, CLIENT_SECRET, Org, Stub, USERNAME};

/// The key that signs assertions; the stub has its public half.
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sinks/stub_salesforce/key.pem");

async fn start() -> Stub {
    Stub::start(SocketAddr::from(([127, 0, 0, 1], free_port())), Arc::new(Org::default())).await
}

/// Client credentials, at the stub's token endpoint.
fn credentials(address: SocketAddr) -> String {
    format!(
        "[sink.oauth]\ntoken_url = \"http://{address}/services/oauth2/token\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret = \"{CLIENT_SECRET}\"\n"
    )
}

/// The lines of a config; `tables` come after its own keys.
fn config_with(address: SocketAddr, keys: &str, tables: &str) -> String {
    format!("[[sink]]\nname = \"crm\"\nkind = \"salesforce\"\nurl = \"http://{address}\"\nallow = [\"127.0.0.0/8\"]\n{keys}\n{tables}\n\n")
}

fn config(address: SocketAddr, keys: &str) -> String {
    config_with(address, keys, &credentials(address))
}

fn event(id: &str, event: &str, data: &Value) -> Event {
    Event { id: id.into(), body: json!({ "event": event, "companyId": "acme", "data": data }).to_string().into_bytes() }
}

fn completed(id: &str, user: &str, score: Value) -> Event {
    let data = json!({"userId": user, "courseId": "c1", "courseName": "Intro", "score": score, "completedAt": "2026-01-02T03:04:05Z"});
    event(id, "course.completed", &data)
}

/// A worker that registers the sink, and stops: events gather to a batch for the next one.
async fn registered(system: &System, config: &str) -> PathBuf {
    let config = system.config(config);
    system.working(&config).await.stop().await;
    config
}

async fn settled(system: &System) {
    eventually("all is over", async || system.count("pending").await == 0).await;
}

/// Status, tries charged, and error of one event's delivery.
async fn fate(system: &System, event_id: &str) -> (String, i32, String) {
    let query = "select status, attempts::int4, coalesce(last_error, '') from sluice.deliveries d join sluice.events e on e.seq = d.event_seq where e.event_id = $1";
    sqlx::query_as(query).bind(event_id).fetch_one(&system.db).await.unwrap()
}

async fn rests(worker: &Process) {
    eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
}

fn assert_no_complaint(stub: &Stub) {
    assert_eq!(stub.state().complaints, Vec::<String>::new());
}

#[tokio::test]
async fn a_completed_course_is_read_back_from_the_org_and_neither_redelivery_nor_replay_doubles_it() {
    let stub = start().await;
    let system = System::new("salesforce_journey").await;
    let _worker = system.working(&system.config(&config(stub.address, ""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    // A user whose id would be another path, were it not encoded.
    for (id, user) in [("e1", "u1"), ("e2", "../ü 100%/x?y#z")] {
        let event = completed(id, user, json!(92));
        client.store(&event).await;
        assert_eq!(client.post(&event).await.text(), r#"{"duplicate":true}"#);
    }
    client.store(&event("e3", "quiz.submitted", &json!({"userId": "u3", "quizId": "q1"}))).await;
    system.drained(2).await;
    assert_eq!(fate(&system, "e3").await.0, "skipped");
    for replay in 0..2 {
        {
            let state = stub.state();
            assert_eq!((state.writes["acme:u1:c1"], state.records.len()), (replay + 1, 2));
            let record = state.record("acme:u1:c1").cloned().unwrap();
            let expected = json!({
                "Id": record["Id"], "User_Id__c": "u1", "Course_Id__c": "c1", "Course_Name__c": "Intro", "Score__c": 92.0,
                "Completed_At__c": "2026-01-02T03:04:05.000Z", "Status__c": "Completed",
            });
            assert_eq!(Value::Object(record), expected);
            assert!(state.record("acme:../ü 100%25/x?y#z:c1").is_some(), "{:?}", state.records.keys());
        }
        assert_eq!(system.execute("update sluice.deliveries set status = 'pending' where status = 'delivered'").await, 2);
        system.drained(2).await;
    }
    assert_eq!(stub.state().tokens_given, 1);
    assert_no_complaint(&stub);
}

#[tokio::test]
async fn an_older_event_that_comes_after_a_newer_one_is_superseded() {
    let stub = start().await;
    let system = System::new("salesforce_superseded").await;
    let _worker = system.working(&system.config(&config(stub.address, "retry = { initial = \"10ms\", cap = \"10ms\" }"))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    // The first is dead, for the org's rule; the newer one goes through. Then the rule is mended, and the dead one replayed.
    client.store(&completed("old", "u1", json!(140))).await;
    client.store(&completed("new", "u1", json!(80))).await;
    settled(&system).await;
    assert_eq!((fate(&system, "old").await.0, fate(&system, "new").await.0), ("dead".into(), "delivered".into()));
    system.execute("update sluice.deliveries set status = 'pending' where status = 'dead'").await;
    settled(&system).await;
    assert_eq!(fate(&system, "old").await, ("skipped".into(), 1, "superseded".into()));
    assert_eq!(stub.state().record("acme:u1:c1").unwrap()["Score__c"], 80.0);
    assert_eq!(stub.state().writes["acme:u1:c1"], 1);
    let applied: String = system.value("select object from sluice.applied where sink = 'crm'").await;
    assert_eq!(applied, "acme:u1:c1");
}

#[tokio::test]
async fn one_bad_record_of_a_batch_harms_only_itself() {
    let stub = start().await;
    stub.state().twins("acme:u3:c1");
    stub.state().locks.insert("acme:u4:c1".into(), 1);
    let system = System::new("salesforce_batch").await;
    let ingest = system.ingest().await;
    let config = registered(&system, &config(stub.address, "concurrency = 1\nretry = { initial = \"10ms\", cap = \"10ms\" }")).await;
    let mut client = ingest.client();
    for n in 0..20 {
        let score = if n == 5 { 140 } else { 90 + n % 10 };
        client.store(&completed(&format!("e{n}"), &format!("u{n}"), json!(score))).await;
    }
    client.store(&completed("twice", "u0", json!(7))).await;
    let _worker = system.working(&config).await;
    settled(&system).await;
    let [(three, _, said_three), (five, _, said_five)] = [fate(&system, "e3").await, fate(&system, "e5").await];
    assert_eq!((three.as_str(), five.as_str(), system.count("delivered").await), ("dead", "dead", 19));
    assert_eq!(said_three, "the record was refused: DUPLICATE_EXTERNAL_ID (External_Id__c)");
    assert_eq!(said_five, "the record was refused: FIELD_CUSTOM_VALIDATION_EXCEPTION (Score__c)");
    assert_eq!(fate(&system, "e4").await.0, "delivered", "its row was locked for a moment");
    let state = stub.state();
    for n in (0..20).filter(|n| ![0, 3, 5].contains(n)) {
        assert_eq!(state.record(&format!("acme:u{n}:c1")).unwrap()["Score__c"], f64::from(90 + n % 10), "results are matched in order");
        assert_eq!(state.writes[&format!("acme:u{n}:c1")], 1);
    }
    assert_eq!(state.record("acme:u0:c1").unwrap()["Score__c"], 7.0);
    assert!(state.upserts.iter().any(|&records| records >= 10), "they went together: {:?}", state.upserts);
    drop(state);
    assert_no_complaint(&stub);
}

#[tokio::test]
async fn of_a_batch_that_is_refused_as_a_whole_only_the_record_at_fault_is_dead() {
    let stub = start().await;
    let system = System::new("salesforce_split").await;
    let ingest = system.ingest().await;
    let fields = "[sink.fields]\nUser_Id__c = \"event.data.userId\"\nScore__c = \"event.data.score\"\n";
    let keys = "concurrency = 1\nexternal_id = \"event.data.userId\"";
    let config = registered(&system, &config_with(stub.address, keys, &(fields.to_owned() + &credentials(stub.address)))).await;
    let mut client = ingest.client();
    for n in 0..20 {
        // A text in a field of numbers: Salesforce cannot read the request.
        client.store(&completed(&format!("e{n}"), &format!("u{n}"), if n == 11 { json!("high") } else { json!(n) })).await;
    }
    let _worker = system.working(&config).await;
    settled(&system).await;
    assert_eq!((system.count("delivered").await, system.count("dead").await), (19, 1));
    let (status, attempts, error) = fate(&system, "e11").await;
    assert_eq!((status.as_str(), attempts, error.as_str()), ("dead", 1, "answered 400 Bad Request: JSON_PARSER_ERROR"));
    assert_eq!(stub.state().records.len(), 19);
    assert_no_complaint(&stub);
}

#[tokio::test]
async fn a_batch_that_is_too_much_for_the_orgs_triggers_goes_in_parts_and_one_that_is_answered_by_another_server_is_not_believed() {
    let stub = start().await;
    let system = System::new("salesforce_batch_answers").await;
    let ingest = system.ingest().await;
    let keys = "concurrency = 1\nretry = { initial = \"10ms\", cap = \"10ms\", max_attempts = 30 }\nbreaker = { failures = 100 }";
    let config = registered(&system, &config(stub.address, keys)).await;
    let mut client = ingest.client();
    for n in 0..20 {
        client.store(&completed(&format!("e{n}"), &format!("u{n}"), json!(n))).await;
    }
    stub.state().triggers_max = 3;
    let mut worker = system.working(&config).await;
    system.drained(20).await;
    let attempts: i64 = system.value("select count(*) from sluice.attempts").await;
    assert_eq!((stub.state().records.len(), attempts), (20, 0));
    worker.stop().await;
    for n in 20..24 {
        client.store(&completed(&format!("e{n}"), &format!("u{n}"), json!(n))).await;
    }
    // Such as a page to log in, with a status of success.
    stub.state().script = vec![(200, ""); 10].into();
    let _worker = system.working(&config).await;
    system.drained(24).await;
    assert_eq!(stub.state().records.len(), 24, "what is delivered is there");
    assert_no_complaint(&stub);
}

#[tokio::test]
async fn any_event_becomes_a_record_as_the_config_maps_it() {
    let stub = start().await;
    let system = System::new("salesforce_mapped").await;
    let fields = "[sink.fields]\nUser_Id__c = \"event.data.userId\"\nCourse_Name__c = \"event.data.certName\"\nStatus__c = \"'Expired'\"\n";
    let keys =
        "events = [\"certification.expired\"]\nexternal_id = \"event.companyId + ':' + event.data.userId + ':' + event.data.certName\"";
    let config = system.config(&config_with(stub.address, keys, &(fields.to_owned() + &credentials(stub.address))));
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    let expired = event("e1", "certification.expired", &json!({"userId": "u1", "certName": "Gold"}));
    ingest.client().store(&expired).await;
    ingest.client().store(&event("e2", "certification.expired", &json!({"userId": "u2"}))).await;
    settled(&system).await;
    let (status, _, error) = fate(&system, "e2").await;
    assert!(status == "dead" && error.starts_with("cannot make the `external_id`: the event has no `certName`"), "{status}: {error}");
    let record = stub.state().record("acme:u1:Gold").cloned().unwrap();
    assert_eq!((&record["Status__c"], &record["Course_Name__c"]), (&json!("Expired"), &json!("Gold")));
    assert_no_complaint(&stub);

    let file = system.file("json");
    std::fs::write(&file, &expired.body).unwrap();
    let output = system.run_with(Some(&config), &["route", "test", "--event", file.to_str().unwrap()]).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = format!("PATCH http://{}/services/data/v62.0/sobjects/Training_Status__c/External_Id__c/acme%3Au1%3AGold", stub.address);
    assert!(shown.contains(&line) && shown.contains("authorization: (configured)") && !shown.contains("s3cret"), "{shown}");
}

/// What is answered how often; what becomes of the delivery, how many tries it was charged, and how many upserts it took.
const CASES: [(u16, &str, usize, &str, i32, usize); 20] = [
    (500, "UNKNOWN_EXCEPTION", 2, "delivered", 3, 3),
    (500, "UNKNOWN_EXCEPTION", 9, "dead", 4, 4),
    (503, "SERVER_UNAVAILABLE", 2, "delivered", 3, 3),
    (503, "", 1, "delivered", 2, 2),
    // Without a word that it was written, it was not.
    (200, "", 1, "delivered", 2, 2),
    (201, "", 1, "delivered", 2, 2),
    (400, "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE", 2, "delivered", 3, 3),
    (400, "UNABLE_TO_LOCK_ROW", 2, "delivered", 3, 3),
    (400, "INVALID_FIELD", 1, "dead", 1, 1),
    (400, "REQUIRED_FIELD_MISSING", 1, "dead", 1, 1),
    (400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", 1, "dead", 1, 1),
    (400, "DUPLICATES_DETECTED", 1, "dead", 1, 1),
    (400, "STRING_TOO_LONG", 1, "dead", 1, 1),
    (400, "ENTITY_IS_DELETED", 1, "delivered", 2, 2),
    (300, "", 1, "dead", 1, 1),
    (401, "INVALID_SESSION_ID", 1, "delivered", 1, 2),
    (401, "INVALID_SESSION_ID", 99, "pending", 0, 2),
    (403, "API_DISABLED_FOR_ORG", 99, "pending", 0, 1),
    (403, "REQUEST_LIMIT_EXCEEDED", 99, "pending", 0, 1),
    (404, "NOT_FOUND", 99, "pending", 0, 1),
];

#[tokio::test]
async fn each_refusal_of_a_stub_org_has_its_consequence() {
    // A sink and an org for each case; one event goes to all of them.
    let mut stubs = Vec::new();
    let mut lines = String::new();
    for (n, (status, code, times, ..)) in CASES.into_iter().enumerate() {
        let stub = start().await;
        stub.state().script = vec![(status, code); times].into();
        let keys = "retry = { initial = \"10ms\", cap = \"10ms\", max_attempts = 4 }\nbreaker = { failures = 100 }";
        lines += &config(stub.address, keys).replace("\"crm\"", &format!("\"crm-{n}\""));
        stubs.push(stub);
    }
    let system = System::new("salesforce_refusals").await;
    let worker = system.working(&system.config(&lines)).await;
    let ingest = system.ingest().await;
    ingest.client().store(&completed("e1", "u1", json!(92))).await;
    let resting: Vec<usize> = (0..CASES.len()).filter(|&n| CASES[n].3 == "pending").collect();
    eventually("the others are over", async || system.count("pending").await == resting.len() as i64).await;
    let says_so = |n: &usize| worker.log().contains(&format!("the sink rests sink=crm-{n} "));
    eventually("these rest", async || resting.iter().all(says_so)).await;
    for (n, (status, code, _, became, charged, upserts)) in CASES.into_iter().enumerate() {
        let query = "select status, attempts::int4, coalesce(last_error, '') from sluice.deliveries where sink = $1";
        let row = sqlx::query_as(query).bind(format!("crm-{n}")).fetch_one(&system.db).await.unwrap();
        let (is, attempts, error): (String, i32, String) = row;
        assert_eq!((is.as_str(), attempts), (became, charged), "{status} {code}: {error}");
        // A sink that rests is tried again now and then.
        let tried = stubs[n].state().upserts.len();
        assert!(tried == upserts || (became == "pending" && tried > upserts), "{status} {code}: {tried} upserts");
        assert!(became != "dead" || error.contains(code), "{error}");
        if code == "REQUEST_LIMIT_EXCEEDED" {
            let query = format!("select extract(epoch from breaker_until - now())::float8 from sluice.sinks where name = 'crm-{n}'");
            let rest: f64 = system.value(&query).await;
            assert!((200.0..=300.0).contains(&rest), "{rest} s");
        }
    }
    assert!(!worker.log().contains("s3cret"));
}

#[tokio::test]
async fn an_org_whose_calls_are_used_up_is_left_alone_and_no_attempt_is_burnt() {
    let stub = start().await;
    // The org's own limit is reached twice; then its calls are used up to the share that the config allows.
    stub.state().script = vec![(403, "REQUEST_LIMIT_EXCEEDED"); 2].into();
    let system = System::new("salesforce_usage").await;
    let keys = "limit_rest = \"200ms\"\napi_usage_max = 0.9\nconcurrency = 1\nretry = { max_attempts = 1 }";
    let worker = system.working(&system.config(&config(stub.address, keys))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    client.store(&completed("e1", "u1", json!(1))).await;
    system.drained(1).await;
    {
        let mut state = stub.state();
        (state.calls, state.calls_max) = (899, 1000);
    }
    client.store(&completed("e2", "u2", json!(2))).await;
    system.drained(2).await;
    client.store(&completed("e3", "u3", json!(3))).await;
    eventually("it says why it rests", async || worker.log().contains("90 % of the org's API calls are used")).await;
    let asked = stub.state().calls;
    eventually("it asks how things are", async || stub.state().calls > asked + 1).await;
    holds_for(Duration::from_millis(300), "nothing is sent", async || stub.state().records.len() == 2).await;
    stub.state().calls = 0;
    system.drained(3).await;
    let burnt: i64 = system.value("select count(*) from sluice.attempts").await;
    assert_eq!(burnt, 0);
    assert_no_complaint(&stub);
}

#[tokio::test]
async fn sessions_that_end_midway_are_renewed_by_either_grant_and_cost_no_attempt() {
    let pem = std::fs::read(KEY).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).unwrap();
    let public_key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap().public_key().as_ref().to_vec();
    for (n, grant) in ["credentials", "jwt"].into_iter().enumerate() {
        let stub = start().await;
        {
            let mut state = stub.state();
            state.session_calls = 3;
            state.public_key = public_key.clone();
        }
        let jwt = format!("username = \"{USERNAME}\"\naudience = \"{AUDIENCE}\"\nprivate_key = \"${{file:{KEY}}}\"\n");
        let oauth =
            format!("[sink.oauth]\ntoken_url = \"http://{}/services/oauth2/token\"\nclient_id = \"{CLIENT_ID}\"\n{jwt}", stub.address);
        let oauth = if grant == "jwt" { oauth } else { credentials(stub.address) };
        let system = System::new(&format!("salesforce_session_{n}")).await;
        let config = system.config(&config_with(stub.address, "concurrency = 1\nbatch = 20\nretry = { max_attempts = 1 }", &oauth));
        let _worker = system.working(&config).await;
        let ingest = system.ingest().await;
        let events = (0..200).map(|n| completed(&format!("e{n}"), &format!("u{n}"), json!(n % 100))).collect();
        store_all(ingest.address, vec![events]).await;
        stub.state().end_sessions();
        system.drained(200).await;
        assert_eq!(stub.state().records.len(), 200);
        let tokens = stub.state().tokens_given;
        let upserts = stub.state().upserts.len();
        assert!(tokens > 1 && tokens >= upserts / 3, "{tokens} tokens for {upserts} upserts");
        assert_eq!(system.value::<i64>("select count(*) from sluice.attempts").await, 0, "{grant}");
        assert_no_complaint(&stub);
    }
}

#[tokio::test]
async fn a_credential_that_the_org_does_not_know_lets_the_sink_rest_and_buries_nothing() {
    let stub = start().await;
    let system = System::new("salesforce_credential").await;
    let wrong = credentials(stub.address).replace(CLIENT_SECRET, "0ther-s3cret");
    let worker = system.working(&system.config(&config_with(stub.address, "retry = { max_attempts = 1 }", &wrong))).await;
    let ingest = system.ingest().await;
    ingest.client().store(&completed("e1", "u1", json!(1))).await;
    rests(&worker).await;
    assert!(worker.log().contains("invalid_client") && !worker.log().contains("0ther-s3cret"), "{}", worker.log());
    let (status, attempts, _) = fate(&system, "e1").await;
    assert_eq!((status.as_str(), attempts, stub.state().upserts.len()), ("pending", 0, 0));
}

#[tokio::test]
async fn the_recipe_works_as_it_stands() {
    let stub = start().await;
    let system = System::new("salesforce_recipe").await;
    system.set_env("MINDTICKLE_WEBHOOK_SECRET", crate::client::SECRET);
    system.set_env("SALESFORCE_URL", &format!("http://{}", stub.address));
    let _worker = system.working(&Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/crm-salesforce.toml")).await;
    let ingest = system.ingest().await;
    ingest.client().store(&completed("e1", "u1", json!(92))).await;
    system.drained(1).await;
    assert_eq!(stub.state().record("acme:u1:c1").unwrap()["Status__c"], "Completed");
}

#[tokio::test]
async fn all_records_are_there_after_the_org_was_cut_off_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    let stub = start().await;
    let system = System::new("salesforce_killed").await;
    let keys = "concurrency = 4\ntimeout = \"30s\"\nretry = { initial = \"50ms\", cap = \"500ms\", max_attempts = 100 }";
    let _worker = system.working(&system.config(&config(stub.address, keys))).await;
    let ingest = system.ingest().await;
    let list = |part: usize| (0..COUNT / 10).map(|n| completed(&format!("e{part}-{n}"), &format!("u{part}-{n}"), json!(n % 100))).collect();
    let storing = tokio::spawn(store_all(ingest.address, (0..10).map(list).collect()));
    eventually("some are delivered", async || system.count("delivered").await > 500).await;
    // The last that it does is not heard of.
    let heard_of = {
        let mut state = stub.state();
        state.is_unheard = true;
        state.records.len()
    };
    eventually("something is written and not answered", async || stub.state().records.len() > heard_of).await;
    let (address, org) = stub.kill();
    eventually("its port is free again", async || tokio::net::TcpListener::bind(address).await.is_ok()).await;
    let before = org.state().records.len();
    {
        // Its sessions are gone with it.
        let mut state = org.state();
        state.is_unheard = false;
        state.end_sessions();
    }
    let stub = Stub::start(address, org).await;
    storing.await.unwrap();
    system.drained(COUNT as i64).await;
    let state = stub.state();
    assert!((500..COUNT).contains(&before), "it was cut off in the middle: {before}");
    assert_eq!((state.records.len(), state.records.values().all(|records| records.len() == 1)), (COUNT, true));
    let again = state.writes.values().filter(|&&writes| writes > 1).count();
    assert!(again > 0, "what was not answered is sent again");
    eprintln!("{COUNT} records in {} upserts; {again} were written again, {before} were there when it was cut off", state.upserts.len());
    drop(state);
    assert_no_complaint(&stub);
}
