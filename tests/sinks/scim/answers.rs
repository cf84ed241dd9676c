//! Answers that no real IdP gives on demand, and what follows from each.

use super::stub::{Answer, Script, StubIdp, method_and_path};
use super::{TOKEN, deprovisioned, expired, provisioned};
use crate::client::Event;
use crate::system::{System, eventually};
use serde_json::{Value, json};

fn list(users: &[Value]) -> Answer {
    (200, "", json!({"totalResults": users.len(), "Resources": users}).to_string())
}

/// The user of the events, as active and unchanged as can be.
fn user() -> Value {
    json!({"id": "1", "userName": "ada@b.example", "externalId": "u1", "active": true, "meta": {"version": "W/\"7\""}})
}

fn error(status: u16, scim_type: &str, detail: &str) -> Answer {
    let schema = "urn:ietf:params:scim:api:messages:2.0:Error";
    (status, "", json!({"schemas": [schema], "status": status.to_string(), "scimType": scim_type, "detail": detail}).to_string())
}

fn empty(status: u16) -> Answer {
    (status, "", String::new())
}

/// What becomes of one event at an IdP with this script: status, requests, and what the error says.
struct Case {
    event: &'static str,
    script: Script,
    status: &'static str,
    methods: &'static str,
    says: &'static str,
}

const fn case(event: &'static str, script: Script, status: &'static str, methods: &'static str, says: &'static str) -> Case {
    Case { event, script, status, methods, says }
}

pub const PROVISION: &str = "user.provisioned";
pub const DEPROVISION: &str = "user.deprovisioned";
pub const EXPIRE: &str = "certification.expired";

const CASES: [Case; 33] = [
    case(PROVISION, |_, _, _| error(401, "", "no"), "pending", "GET", ""),
    case(PROVISION, |_, _, _| error(403, "", "no"), "pending", "GET", ""),
    case(PROVISION, |_, _, _| error(404, "", "no"), "pending", "GET", ""),
    case(
        PROVISION,
        |_, _, before| if before == 0 { (429, "retry-after: 0\r\n", String::new()) } else { list(&[user()]) },
        "delivered",
        "GET GET PATCH",
        "",
    ),
    case(PROVISION, |_, _, _| error(500, "", "oops"), "dead", "GET GET GET", "500 Internal Server Error: oops"),
    case(PROVISION, |_, _, before| if before < 2 { empty(503) } else { list(&[user()]) }, "delivered", "GET GET GET PATCH", ""),
    case(PROVISION, |_, _, _| (200, "", "<html>".into()), "dead", "GET GET GET", "not with a SCIM list"),
    case(PROVISION, |_, _, _| (200, "", "[1]".into()), "dead", "GET GET GET", "not with a SCIM list"),
    case(PROVISION, |_, _, _| list(&[user(), user()]), "dead", "GET", "several users have the event's e-mail address"),
    case(
        PROVISION,
        |_, _, _| error(400, "invalidFilter", "'ADA@b.example' of u1"),
        "dead",
        "GET",
        "400 Bad Request: invalidFilter: '…' of …",
    ),
    // Another was faster.
    case(
        PROVISION,
        |method, _, before| match (method, before) {
            ("GET", 0) => list(&[]),
            ("POST", _) => error(409, "uniqueness", "taken"),
            _ => list(&[user()]),
        },
        "delivered",
        "GET POST GET PATCH",
        "",
    ),
    case(
        PROVISION,
        |method, _, _| if method == "GET" { list(&[]) } else { error(409, "uniqueness", "ada@b.example is taken") },
        "dead",
        "GET POST GET POST GET POST GET POST GET POST GET POST",
        "409 Conflict: uniqueness: … is taken",
    ),
    // Changed, or deleted, between the look-up and the change.
    case(
        PROVISION,
        |method, _, before| if method == "GET" { list(&[user()]) } else { empty(if before == 1 { 412 } else { 204 }) },
        "delivered",
        "GET PATCH GET PATCH",
        "",
    ),
    case(
        PROVISION,
        |method, _, _| if method == "GET" { list(&[user()]) } else { empty(412) },
        "dead",
        "GET PATCH GET PATCH GET PATCH GET PATCH GET PATCH GET PATCH",
        "412",
    ),
    case(
        PROVISION,
        |method, _, before| match (method, before) {
            ("GET", 0) => list(&[user()]),
            ("GET", _) => list(&[]),
            ("PATCH", _) => empty(404),
            _ => empty(201),
        },
        "delivered",
        "GET PATCH GET POST",
        "",
    ),
    // The filter is passed over: others must come to no harm.
    case(
        PROVISION,
        |_, _, _| (200, "", json!({"totalResults": 9, "Resources": [{"id": "2", "userName": "eve@b.example"}]}).to_string()),
        "pending",
        "GET",
        "",
    ),
    case(
        DEPROVISION,
        |method, _, _| {
            if method == "GET" { list(&[json!({"id": "2", "userName": "eve@b.example", "externalId": "u2"})]) } else { empty(500) }
        },
        "dead",
        "GET",
        "end access by hand",
    ),
    case(
        DEPROVISION,
        |method, _, _| if method == "GET" { list(&[user()]) } else { (200, "", user().to_string()) },
        "dead",
        "GET PATCH GET PATCH GET PATCH",
        "still has the user as active",
    ),
    case(
        DEPROVISION,
        |method, _, _| if method == "GET" { list(&[user()]) } else { empty(404) },
        "dead",
        "GET PATCH GET PATCH GET PATCH GET PATCH GET PATCH GET PATCH",
        "404",
    ),
    case(
        DEPROVISION,
        |method, _, _| {
            if method == "GET" { list(&[json!({"id": "1", "userName": "ada@b.example", "active": "False"})]) } else { empty(500) }
        },
        "delivered",
        "GET",
        "",
    ),
    // A whole list of others: nobody, to one who comes.
    case(
        PROVISION,
        |method, _, _| if method == "GET" { list(&[json!({"id": "2", "userName": "eve@b.example"})]) } else { empty(201) },
        "delivered",
        "GET POST",
        "",
    ),
    case(DEPROVISION, |_, _, _| list(&[json!({"userName": "ada@b.example", "active": true})]), "dead", "GET", "cannot be told"),
    case(
        DEPROVISION,
        |method, path, _| match (method, path) {
            ("GET", _) => list(&[json!({"id": 1, "userName": "ada@b.example", "active": true})]),
            (_, "/v2/Users/1") => empty(204),
            _ => empty(500),
        },
        "delivered",
        "GET PATCH",
        "",
    ),
    case(DEPROVISION, |_, _, _| (200, "", " ".repeat(70_000)), "dead", "GET GET GET", "more than the 64 KiB"),
    case(DEPROVISION, |method, _, _| if method == "GET" { list(&[user()]) } else { empty(405) }, "pending", "GET PATCH", ""),
    case(DEPROVISION, |method, _, _| if method == "GET" { list(&[user()]) } else { empty(501) }, "pending", "GET PATCH", ""),
    // Known by the event's `externalId` alone.
    case(
        DEPROVISION,
        |_, path, _| {
            if path.contains("userName") { list(&[]) } else { list(&[json!({"id": "1", "externalId": "u1", "emails": ["eve@b.example"]})]) }
        },
        "dead",
        "GET GET",
        "by hand",
    ),
    case(
        DEPROVISION,
        |method, path, _| match (method, path.contains("userName")) {
            ("GET", true) => list(&[]),
            ("GET", false) => list(&[json!({"id": "1", "externalId": "u1", "emails": [{"value": "Ada@b.example"}]})]),
            _ => empty(204),
        },
        "delivered",
        "GET GET PATCH",
        "",
    ),
    case(EXPIRE, |_, _, _| list(&[]), "dead", "GET", "provision the user, and replay"),
    case(EXPIRE, |_, _, _| list(&[user(), user()]), "dead", "GET", "several users"),
    case(
        EXPIRE,
        |_, path, _| if path.contains("/Users") { list(&[user()]) } else { list(&[]) },
        "dead",
        "GET GET",
        "no group that is named",
    ),
    case(
        EXPIRE,
        |method, path, _| match (method, path.contains("/Users")) {
            ("GET", true) => list(&[user()]),
            ("GET", false) => list(&[json!({"id": "g", "displayName": "Re-certification"})]),
            _ => empty(404),
        },
        "dead",
        "GET GET PATCH",
        "not have the group, or the user",
    ),
    case(
        EXPIRE,
        |_, path, _| {
            let member = json!({"id": "1", "externalId": "u1", "groups": [{"value": "g"}]});
            if path.contains("/Users") { list(&[member]) } else { list(&[json!({"id": "g", "displayName": "re-certification"})]) }
        },
        "delivered",
        "GET GET",
        "",
    ),
];

/// The event of a type.
pub fn event_of(kind: &str) -> Event {
    match kind {
        PROVISION => provisioned("e1", "u1", "ada@b.example", "Sales Rep"),
        DEPROVISION => deprovisioned("e2", "u1", Some("ada@b.example")),
        _ => expired("e3", "u1", "Gold"),
    }
}

#[tokio::test]
async fn each_answer_of_a_stub_idp_has_its_consequence() {
    let mut stubs = Vec::new();
    let mut config = String::new();
    for (n, case) in CASES.iter().enumerate() {
        let stub = StubIdp::start(case.script).await;
        let retry = "retry = { initial = \"20ms\", cap = \"20ms\", max_attempts = 3 }\nbreaker = { failures = 100 }";
        let keys =
            format!("token = \"{TOKEN}\"\nallow = [\"127.0.0.0/8\"]\ngroup = \"Re-certification\"\nevents = [\"{}\"]\n{retry}", case.event);
        config += &format!("[[sink]]\nname = \"idp-{n}\"\nkind = \"scim\"\nurl = \"http://{}/v2\"\n{keys}\n\n", stub.address);
        stubs.push(stub);
    }
    let system = System::new("scim_stub").await;
    let worker = system.working(&system.config(&config)).await;
    let registered = format!("select count(*) = {} from sluice.sinks", CASES.len());
    eventually("all sinks are registered", async || system.value::<bool>(&registered).await).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    for kind in [PROVISION, DEPROVISION, EXPIRE] {
        client.store(&event_of(kind)).await;
    }
    for (n, (case, stub)) in CASES.iter().zip(&stubs).enumerate() {
        let row = format!("select status from sluice.deliveries where sink = 'idp-{n}'");
        // A delivery that stays pending is settled once the sink rests: nothing else tells of it.
        let rests = || worker.log().lines().any(|line| line.contains("the sink rests") && line.contains(&format!("idp-{n} ")));
        let is_settled = async || system.value::<String>(&row).await == case.status && (case.status != "pending" || rests());
        eventually(&format!("case {n} is {}", case.status), is_settled).await;
        let told = format!(
            "select coalesce(last_error, '') || coalesce((select string_agg(error || coalesce(response, ''), ' ') from sluice.attempts a \
             where a.sink = d.sink), '') from sluice.deliveries d where sink = 'idp-{n}'"
        );
        let told: String = system.value(&told).await;
        let asked = stub.asked.lock().unwrap().clone();
        let methods: Vec<_> = asked.iter().map(|request| method_and_path(request).0).collect();
        assert_eq!(methods.join(" "), case.methods, "case {n}: {told}");
        assert!(told.contains(case.says), "case {n}: {told}");
        assert!(!told.to_lowercase().contains("ada@") && !told.contains("u1") && !told.contains(TOKEN), "case {n}: {told}");
        assert!(stub.wrong.lock().unwrap().is_empty(), "case {n}: {:?}", stub.wrong.lock().unwrap());
        let versions: Vec<_> = asked.iter().filter_map(|request| request.header("if-match")).collect();
        assert!(versions.iter().all(|version| *version == "W/\"7\""), "{versions:?}");
    }
    let attempts = "select coalesce(sum(attempts), 0)::int8 from sluice.deliveries where status = 'pending'";
    assert_eq!(system.value::<i64>(attempts).await, 0, "a refusal burns no attempt");
}

/// A 404 of a user who is deleted is success; one of the token endpoint, on the way there, is not.
#[tokio::test]
async fn a_leaver_is_not_taken_for_deleted_because_the_token_endpoint_has_gone() {
    let script: Script = |method, path, before| match (method, path) {
        (_, "/token") if before == 0 => (200, "", json!({"access_token": TOKEN, "expires_in": "3599"}).to_string()),
        (_, "/token") => empty(404),
        ("GET", _) => list(&[user()]),
        _ => empty(401),
    };
    let stub = StubIdp::start(script).await;
    let address = stub.address;
    let oauth = format!("[sink.oauth]\ntoken_url = \"http://{address}/token\"\nclient_id = \"x\"\nclient_secret = \"y\"");
    let keys = "on_deprovision = \"delete\"\nretry = { max_attempts = 1 }";
    let system = System::new("scim_token_gone").await;
    let worker = system.working(&system.config(&super::config_with(address, &format!("{keys}\n{oauth}")))).await;
    let ingest = system.ingest().await;
    ingest.client().store(&event_of(DEPROVISION)).await;
    eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
    assert_eq!((system.count("pending").await, system.count("delivered").await), (1, 0));
    let asked = stub.asked.lock().unwrap().clone();
    let methods: Vec<_> = asked.iter().take(4).map(|request| method_and_path(request).0).collect();
    assert_eq!(methods.join(" "), "POST GET DELETE POST");
    assert!(worker.log().contains("no access token: answered 404"), "{}", worker.log());
}
