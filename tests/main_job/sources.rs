//! The built-in sources: each takes what its vendor sends, as it was published or made by the vendor's own library.

use crate::client::Client;
use crate::http::Message;
use crate::system::{Ingest, System, eventually};
use serde::Deserialize;
use sluice::profile::{Profile, TimestampPlace};
use sluice::{clock, signature};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// See tests/vectors/make.sh.
#[derive(Deserialize, Clone)]
struct Vector {
    source: String,
    secret: String,
    headers: BTreeMap<String, String>,
    body: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    id: Option<String>,
    company: Option<String>,
    user: Option<String>,
    held: Option<String>,
    challenge: Option<String>,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../vectors/sources.json")).unwrap()
}

fn profile(name: &str) -> Profile {
    Profile::built_in().into_iter().find(|profile| profile.name == name).unwrap()
}

impl Vector {
    fn bytes(&self) -> Vec<u8> {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        request(&self.source, &headers, self.body.as_bytes())
    }

    fn without(&self, header: &str) -> Self {
        let mut other = self.clone();
        other.headers.remove(header).expect("it is there");
        other
    }
}

fn request(source: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("POST /webhooks/{source} HTTP/1.1\r\nhost: sluice\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        writeln!(head, "{name}: {value}\r").unwrap();
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// One source for each vendor, with the secrets of all its vectors; with these keys where its requests have a timestamp.
fn sources(keys: &str) -> String {
    let mut text = String::new();
    for profile in Profile::built_in().iter().skip(1) {
        let vectors = vectors().into_iter().filter(|vector| vector.source == profile.name);
        let secrets: Vec<_> = vectors.map(|vector| vector.secret).collect::<BTreeSet<_>>().into_iter().collect();
        let keys = if profile.timestamp == TimestampPlace::Nowhere { "" } else { keys };
        writeln!(text, "\n[[source]]\nname = \"{0}\"\nprofile = \"{0}\"\nsecrets = {secrets:?}\n{keys}", profile.name).unwrap();
    }
    text
}

struct Stored {
    event_type: Option<String>,
    company: Option<String>,
    order_key: Option<String>,
    quarantine: Option<String>,
    headers: serde_json::Value,
}

/// The event with this body, and how it is stored.
async fn stored(system: &System, body: &str) -> (String, Stored) {
    let row: (String, Option<String>, Option<String>, Option<String>, Option<String>, serde_json::Value) = sqlx::query_as(
        "select event_id, type, company_id, order_key, quarantine, headers
           from sluice.events e join sluice.payloads p on p.event_seq = e.seq where payload = $1 order by seq limit 1",
    )
    .bind(body.as_bytes())
    .fetch_one(&system.db)
    .await
    .unwrap();
    (row.0, Stored { event_type: row.1, company: row.2, order_key: row.3, quarantine: row.4, headers: row.5 })
}

const RECEIVED: &str = r#"{"received":true}"#;
const DUPLICATE: &str = r#"{"duplicate":true}"#;

#[tokio::test]
async fn each_built_in_source_takes_its_vendors_requests_and_finds_type_id_and_key() {
    let system = System::new("s_vectors").await;
    // The vectors are years old.
    let ingest = system.ingest_with(&sources("timestamp_window = \"3650d\"")).await;
    let mut client = ingest.client();
    let mut bodies = BTreeSet::new();
    for vector in vectors() {
        let name = &vector.source;
        let answer = client.send(&vector.bytes()).await;
        let is_new = bodies.insert(vector.body.clone());
        let body = vector.challenge.as_deref().unwrap_or(if is_new { RECEIVED } else { DUPLICATE });
        assert_eq!((answer.status(), answer.text()), (200, body), "{name}");
        let content_type = if vector.challenge.is_some() { "text/plain; charset=utf-8" } else { "application/json" };
        assert_eq!(answer.header("content-type"), Some(content_type), "{name}");

        let (id, row) = stored(&system, &vector.body).await;
        assert!(vector.id.as_ref().is_none_or(|expected| *expected == id), "{name}: {id}");
        assert_eq!((&row.event_type, &row.company), (&vector.event_type, &vector.company), "{name}");
        let key = vector.user.as_ref().map(|user| format!("{}/{user}", vector.company.as_deref().unwrap_or("")));
        assert_eq!(row.order_key, key, "{name}");
        match &vector.held {
            None => assert_eq!(row.quarantine, None, "{name}"),
            Some(part) => assert!(row.quarantine.as_ref().is_some_and(|reason| reason.contains(part)), "{name}: {:?}", row.quarantine),
        }
        // With the secret, this is enough to verify the payload again.
        if is_new {
            assert_eq!(row.headers["signature"], vector.headers[&profile(name).signature.name].as_str(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_vendors_request_with_another_body_is_refused_and_so_is_one_without_its_headers() {
    let system = System::new("s_refused").await;
    let ingest = system.ingest_with(&sources("timestamp_window = \"3650d\"")).await;
    let mut client = ingest.client();
    for vector in vectors() {
        let profile = profile(&vector.source);
        let mut other = vector.clone();
        other.body.push(' ');
        assert_eq!(client.send(&other.bytes()).await.status(), 403, "{}: another body", vector.source);

        let mut needed = vec![profile.signature.name.clone()];
        if let TimestampPlace::Header(name) = &profile.timestamp {
            needed.push(name.clone());
        }
        if vector.source == "standard-webhooks" {
            needed.push("webhook-id".into());
            // It is signed.
            let mut renamed = vector.clone();
            renamed.headers.insert("webhook-id".into(), "msg_another".into());
            assert_eq!(client.send(&renamed.bytes()).await.status(), 403, "another id");
        }
        for header in needed {
            assert_eq!(client.send(&vector.without(&header).bytes()).await.status(), 401, "{} without {header}", vector.source);
        }
    }
    let stripe = vectors().into_iter().find(|vector| vector.source == "stripe").unwrap();
    let header = &stripe.headers["stripe-signature"];
    let (time, signature) = header.split_once(',').unwrap();
    for (spoilt, status) in [
        (signature.to_owned(), 401),
        (format!("{time},{header}"), 401),
        (format!("t=,{signature}"), 401),
        (format!("t=1e9,{signature}"), 403),
        (format!("t=1,{signature}"), 403),
        (time.to_owned(), 403),
        (format!("{time},v0{}", &signature[2..]), 403),
        (",".repeat(5000), 401),
    ] {
        let sent = request("stripe", &[("stripe-signature", &spoilt)], stripe.body.as_bytes());
        assert_eq!(client.send(&sent).await.status(), status, "{spoilt}");
    }
    assert_eq!(system.value::<i64>("select count(*) from sluice.events").await, 0);
}

/// Signs as the vendor would, so many seconds ago, and sends.
async fn send(client: &mut Client, name: &str, secret: &str, id: &str, ago: i64, more: &[(&str, &str)], body: &str) -> Message {
    let profile = profile(name);
    let timestamp = (clock::now().timestamp() - ago).to_string();
    let key = profile.secret_form.key(secret).unwrap();
    let message = signature::Message { event_id: Some(id.as_bytes()), timestamp: Some(&timestamp), body: body.as_bytes() };
    let signature = message.sign(&profile, &key);
    let headers = [profile.headers(&signature, &timestamp, id).as_slice(), more].concat();
    client.send(&request(name, &headers, body.as_bytes())).await
}

/// A source of each vendor, all with this secret.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn sources_of_one_secret(secret: &str) -> String {
    let names = ["standard-webhooks", "github", "stripe", "shopify", "slack"];
    names.map(|name| format!("\n[[source]]\nname = \"{name}\"\nprofile = \"{name}\"\nsecrets = [\"{secret}\"]\n")).concat()
}

#[tokio::test]
async fn a_request_that_its_vendors_own_library_would_find_too_old_is_quarantined() {
    let system = System::new("s_old").await;
    let ingest = system.ingest_with(&sources_of_one_secret(SECRET)).await;
    let mut client = ingest.client();
    for name in ["standard-webhooks", "stripe", "slack"] {
        for (ago, held) in [(0, false), (250, false), (360, true), (-360, true)] {
            let body = format!(r#"{{"type":"a","id":"{name}{ago}","event_id":"{name}{ago}","event":{{"type":"a"}}}}"#);
            let answer = send(&mut client, name, SECRET, &format!("{name}{ago}"), ago, &[], &body).await;
            assert_eq!((answer.status(), answer.text()), (200, RECEIVED), "{name} {ago}");
            let (id, row) = stored(&system, &body).await;
            assert_eq!((id, row.quarantine.is_some()), (format!("{name}{ago}"), held), "{name} {ago}: {:?}", row.quarantine);
        }
    }
}

#[tokio::test]
async fn without_a_timestamp_the_same_body_under_another_id_is_a_duplicate_and_under_another_topic_an_event() {
    let system = System::new("s_untimed").await;
    let ingest = system.ingest_with(&sources_of_one_secret(SECRET)).await;
    let mut client = ingest.client();
    let body = r#"{"admin_graphql_api_id":"gid://shopify/Order/1"}"#;
    for (id, topic, expected) in [
        ("w-1", "orders/create", RECEIVED),
        ("w-1", "orders/create", DUPLICATE),
        ("captured", "orders/create", DUPLICATE),
        ("w-2", "orders/updated", RECEIVED),
    ] {
        let topic = [("x-shopify-topic", topic), ("x-shopify-shop-domain", "a.myshopify.com")];
        let answer = send(&mut client, "shopify", SECRET, id, 0, &topic, body).await;
        assert_eq!((answer.status(), answer.text()), (200, expected), "{id}");
    }
    let answer = send(&mut client, "github", SECRET, "d-1", 0, &[("x-github-event", "push")], body).await;
    assert_eq!(answer.text(), RECEIVED, "another source's event is its own");
    // Without a type, it is held back.
    send(&mut client, "github", SECRET, "d-2", 0, &[], "{}").await;
    assert_eq!(stored(&system, "{}").await.1.quarantine.as_deref(), Some("no header names the event type"));
    let ids = "select string_agg(event_id, ' ' order by seq) from sluice.events where quarantine is null";
    assert_eq!(system.value::<String>(ids).await, "w-1 w-2 d-1");
}

#[tokio::test]
async fn what_was_refused_for_an_old_secret_is_let_in_with_the_new_one_whatever_the_source() {
    let system = System::new("s_reverify").await;
    let ingest = system.ingest_with(&format!("keep_unverified = {{}}\n{}", sources_of_one_secret("b2xk"))).await;
    let mut client = ingest.client();
    let body = r#"{"type":"a","id":"i","event_id":"i","event":{"type":"a"},"n":1}"#;
    for name in ["standard-webhooks", "github", "stripe", "shopify", "slack"] {
        let types = [("x-github-event", "a"), ("x-shopify-topic", "a")];
        assert_eq!(send(&mut client, name, SECRET, "i", 0, &types, body).await.status(), 403, "{name}");
    }
    eventually("they are kept", async || system.value::<i64>("select count(*) from sluice.unverified").await == 5).await;
    let config = system.config(&sources_of_one_secret(SECRET));
    let output = system.run_with(Some(&config), &["reverify"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "5 let in, 0 were stored already, 0 quarantined as conflicts; 0 do not verify\n");
    let found = "select count(*) from sluice.events where event_id = 'i' and type = 'a' and quarantine is null";
    assert_eq!(system.value::<i64>(found).await, 5, "each with its id and type");
}

#[tokio::test]
async fn sluice_send_signs_for_any_source_and_a_profile_of_the_config_is_as_good_as_a_built_in_one() {
    let system = System::new("s_send").await;
    let own = r#"
[[profile]]
name = "own"
base = "stripe"
signature_header = "X-Own"
separator = ";"
timestamp = "item:at="
timestamp_unit = "milliseconds"
signed = "{event_id}|{timestamp}|{body}"
secret = "base64"
encoding = "base64"
event_id_header = "x-own-id"
type = "header:X-Own-Type"

[[source]]
name = "own"
profile = "own"
secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
"#;
    let (ingest, config) = listening(&system, &format!("{}{own}", sources_of_one_secret(SECRET))).await;
    let body = system.file("json");
    std::fs::write(&body, r#"{"type":"a","id":"evt","event_id":"evt","event":{"type":"a"}}"#).unwrap();
    for name in ["standard-webhooks", "github", "stripe", "shopify", "slack", "own"] {
        let file = body.to_str().unwrap();
        let types = ["--header", "x-github-event: a", "--header", "x-shopify-topic: a", "--header", "x-own-type: a"];
        let args = [&["send", "--source", name, "--event-id", "evt", "--file", file], &types[..]].concat();
        let output = system.run_with(Some(&config), &args).await;
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    }
    let found = "select count(*) from sluice.events where event_id = 'evt' and type = 'a' and quarantine is null";
    assert_eq!(system.value::<i64>(found).await, 6);
    drop(ingest);
}

/// Ingest with these sources, and its config.
async fn listening(system: &System, sources: &str) -> (Ingest, std::path::PathBuf) {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = system.config(&format!("[ingest]\nlisten = \"{address}\"\n{sources}\n"));
    (system.ingest_at(address, &config).await, config)
}
