//! What ingest answers to whatever comes, and what it stores: over raw sockets, so that nothing tidies the requests up.

use crate::client::{Client, Event, SECRET, request};
use crate::http::Wire;
use crate::sink::Sink;
use crate::system::System;
use sluice::profile::Profile;
use sluice::{clock, signature};
use std::time::Duration;
use tokio::net::TcpStream;

const SIGNATURE: &str = "x-mt-webhook-signature";
const TIMESTAMP: &str = "x-mt-webhook-timestamp";
const ID: &str = "x-mt-event-id";

const BODY: &[u8] = br#"{"event":"course.completed","companyId":"acme","data":{"userId":"u-1"}}"#;

/// Seconds since 1970, so long ago.
fn seconds(ago: i64) -> String {
    (clock::now().timestamp() - ago).to_string()
}

fn sign(timestamp: &str, body: &[u8]) -> String {
    signature::sign(&Profile::mindtickle(), SECRET.as_bytes(), timestamp, body)
}

/// A request whose signature verifies, as of this timestamp.
fn signed(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    request(&[(SIGNATURE, &sign(timestamp, body)), (TIMESTAMP, timestamp), (ID, id)], body)
}

/// How an event is stored: byte-equal to `body`, and quarantined or not. `None`: it is not there.
async fn stored(system: &System, id: &str, body: &[u8]) -> Option<bool> {
    let found: Option<(Vec<u8>, bool)> = sqlx::query_as(
        "select payload, quarantine is not null from sluice.events e join sluice.payloads p on p.event_seq = e.seq where event_id = $1",
    )
    .bind(id)
    .fetch_optional(&system.db)
    .await
    .unwrap();
    found.map(|(payload, quarantined)| {
        assert_eq!(payload, body, "{id} is stored byte for byte");
        quarantined
    })
}

#[tokio::test]
async fn what_does_not_verify_is_refused_with_one_answer_for_every_cause_and_not_stored() {
    let system = System::new("a_refused").await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let now = seconds(0);
    let good = sign(&now, BODY);
    let unsigned: [&[(&str, &str)]; 6] = [
        &[],
        &[(TIMESTAMP, &now)],
        &[(SIGNATURE, &good)],
        &[(SIGNATURE, ""), (TIMESTAMP, &now)],
        &[(SIGNATURE, &good), (TIMESTAMP, "")],
        &[(SIGNATURE, &good), (SIGNATURE, &good), (TIMESTAMP, &now)],
    ];
    for headers in unsigned {
        assert_eq!(client.send(&request(headers, BODY)).await.status(), 401, "{headers:?}");
    }

    let (other_bytes, base64) = (good.chars().rev().collect::<String>(), "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=".to_owned());
    let (prefixed, long) = (format!("sha256={good}"), "a".repeat(10_000));
    let of_another_body = sign(&now, b"{}");
    let one_more = format!("{good}0");
    for bad in [&good[..63], &one_more, "zz", &other_bytes, &base64, &prefixed, &long, &of_another_body] {
        let answer = client.send(&request(&[(SIGNATURE, bad), (TIMESTAMP, &now)], BODY)).await;
        assert_eq!((answer.status(), answer.text()), (403, r#"{"error":"the signature does not verify"}"#), "{bad}");
    }
    for bad in ["-1", "+1", "1.0", "1e9", "0x65000000", "17 00", "\u{661}", &"1".repeat(10_000)] {
        // Signed as it is: it must be refused all the same.
        let answer = client.send(&signed("evt_bad", bad, BODY)).await;
        assert_eq!((answer.status(), answer.text()), (403, r#"{"error":"the signature does not verify"}"#), "{bad}");
    }
    assert_eq!(system.value::<i64>("select count(*) from sluice.events").await, 0);
}

#[tokio::test]
async fn whatever_verifies_is_stored_byte_for_byte_and_held_back_where_it_cannot_be_processed() {
    let system = System::new("a_stored").await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let now = seconds(0);

    let upper = request(&[(SIGNATURE, &sign(&now, BODY).to_uppercase()), (TIMESTAMP, &now), (ID, "upper")], BODY);
    assert_eq!(client.send(&upper).await.status(), 200);
    assert_eq!(stored(&system, "upper", BODY).await, Some(false));
    let (milliseconds, zeros) = (format!("{now}123"), format!("000{now}"));
    // One body each: the same request under another id is a repeat.
    for (id, timestamp, quarantined) in [
        ("milliseconds", milliseconds, false),
        ("zeros", zeros, false),
        ("late", seconds(7 * 3600 + 1200), false),
        ("old", seconds(30 * 86_400), true),
        ("ahead", seconds(-600), true),
    ] {
        let body = format!(r#"{{"event":"course.completed","companyId":"acme","data":{{"userId":"{id}"}}}}"#).into_bytes();
        assert_eq!(client.send(&signed(id, &timestamp, &body)).await.status(), 200, "{id}");
        assert_eq!(stored(&system, id, &body).await, Some(quarantined), "{id}");
    }

    let odd: [&[u8]; 16] = [
        b"",
        b"not JSON",
        b"{\"event\":\"course.compl",
        b"7",
        b"[]",
        b"null",
        b"\"text\"",
        b"\xef\xbb\xbf{\"event\":\"x\"}",
        b"{\"event\":\"\xff\xfe\"}",
        b"{\"event\":\"a\\u0000b\"}",
        b"{\"event\":\"x\",\"data\":{\"name\":\"\\ud800\"}}",
        b"{\"event\":\"x\",\"n\":1e400}",
        b"{\"event\":\"x\",\"n\":9007199254740993}",
        b"{\"event\":\"x\",\"event\":\"y\"}",
        b"{\"event\":\"x\",\"data\":{\"name\":\"\\u0000\"}}",
        b"{\"event\":\"never.heard.of\",\"companyId\":\"other\",\"data\":null}",
    ];
    for (n, body) in odd.into_iter().enumerate() {
        let id = format!("odd-{n}");
        assert_eq!(client.send(&signed(&id, &now, body)).await.status(), 200, "{n}");
        assert!(stored(&system, &id, body).await.is_some(), "{n} is stored");
    }
    assert_eq!(system.value::<i64>("select count(*) from sluice.bodies").await, 6 + 16, "no body makes a view fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_stands_for_one_event_and_nothing_that_is_held_back_takes_it_from_the_genuine_one() {
    let system = System::new("a_ids").await;
    let sink = Sink::answering(200).await;
    let _worker = system.working(&system.config(&sink.config("crm", ""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let now = seconds(0);

    // A hundred times at once.
    let at_once = (0..100).map(|_| {
        let (address, request) = (ingest.address, signed("many", &now, BODY));
        tokio::spawn(async move { Client::new(address).send(&request).await.status() })
    });
    for answered in at_once.collect::<Vec<_>>() {
        assert_eq!(answered.await.unwrap(), 200);
    }
    assert_eq!(system.value::<i64>("select count(*) from sluice.events").await, 1);

    let other = br#"{"event":"course.completed","companyId":"acme","data":{"userId":"u-2"}}"#;
    assert_eq!(client.send(&signed("many", &now, other)).await.status(), 200);
    let conflict = "select count(*) from sluice.events where event_id = 'many' and quarantine is not null";
    assert_eq!(system.value::<i64>(conflict).await, 1, "the same id with another body is a conflict");
    assert_eq!(client.send(&signed("many", &now, other)).await.status(), 200);
    assert_eq!(system.value::<i64>(conflict).await, 1, "and the same again is no other row");

    // Signed alike within a second, each is an event of its own, and can be seen afterwards.
    let twin = client.send(&signed("twin", &now, BODY)).await;
    assert_eq!((twin.status(), twin.text()), (200, r#"{"received":true}"#));
    assert_eq!(system.value::<i64>("select count(*) from sluice.repeats where event_ids = '{many,twin}'").await, 1);
    // Ten minutes later only who has captured it sends it under another id.
    let earlier = seconds(600);
    assert_eq!(client.send(&signed("earlier", &earlier, BODY)).await.text(), r#"{"received":true}"#);
    assert_eq!(client.send(&signed("captured", &earlier, BODY)).await.text(), r#"{"duplicate":true}"#);

    let genuine = br#"{"event":"course.completed","companyId":"acme","data":{"userId":"u-3"}}"#;
    assert_eq!(client.send(&signed("squatted", &now, b"not JSON")).await.status(), 200);
    assert_eq!(client.send(&signed("squatted", &now, genuine)).await.status(), 200);

    let anonymous = br#"{"event":"course.completed","companyId":"acme","data":{"userId":"u-4"}}"#;
    let without_id = request(&[(SIGNATURE, &sign(&now, anonymous)), (TIMESTAMP, &now)], anonymous);
    for expected in [r#"{"received":true}"#, r#"{"duplicate":true}"#] {
        assert_eq!(client.send(&without_id).await.text(), expected);
    }
    assert_eq!(system.value::<i64>("select count(*) from sluice.events where derived_id and event_id like 'derived-%'").await, 1);

    system.drained(5).await;
    sink.assert_each_once(5);
    assert_eq!((sink.tries_of("many"), sink.tries_of("squatted"), sink.tries_of("captured")), (1, 1, 0));
}

#[tokio::test]
async fn sizes_methods_and_paths_have_their_answers_and_nothing_hangs() {
    let system = System::new("a_limits").await;
    let ingest = system.ingest_with("body_max = \"64KiB\"\nbody_timeout = \"1s\"\nheader_timeout = \"1s\"").await;
    let mut client = ingest.client();
    let now = seconds(0);
    for (bytes, status) in [(64 * 1024, 200), (64 * 1024 + 1, 413), (10 * 1024 * 1024, 413)] {
        let body = vec![b' '; bytes];
        assert_eq!(client.send(&signed(&format!("of-{bytes}"), &now, &body)).await.status(), status, "{bytes} bytes");
    }
    for (request, status) in [
        ("GET /webhooks/mindtickle HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        ("POST /webhooks/nobody HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", 404),
        ("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", 404),
        ("this is not HTTP\r\n\r\n", 400),
    ] {
        assert_eq!(ingest.client().send(request.as_bytes()).await.status(), status, "{request}");
    }

    // Bodies and heads that never end: answered or closed in time, by the limits set above.
    let endless = String::from_utf8(signed("endless", &now, BODY)).unwrap();
    let short = endless.replace("content-length: ", "content-length: 1");
    assert_eq!(ingest.client().send(short.as_bytes()).await.status(), 408);
    let mut silent = Wire::new(TcpStream::connect(ingest.address).await.unwrap());
    silent.send(b"POST /webhooks/mindtickle HTTP/1.1\r\nhost:").await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(10), async { while silent.receive().await.is_some() {} }).await;
    assert!(closed.is_ok(), "a head that never ends is not waited for");
}

#[tokio::test]
async fn what_cannot_be_committed_in_time_is_answered_503_and_taken_when_it_comes_again() {
    let system = System::new("a_locked").await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let event = Event::of("u-1", 1);
    let mut lock = system.db.begin().await.unwrap();
    sqlx::query("lock table sluice.log in access exclusive mode").execute(&mut *lock).await.unwrap();
    let began = clock::instant();
    let answer = client.post(&event).await;
    assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")));
    assert!(clock::instant().saturating_duration_since(began) < Duration::from_millis(3500));
    lock.rollback().await.unwrap();
    assert_eq!(client.post(&event).await.status(), 200);
    assert_eq!(stored(&system, &event.id, &event.body).await, Some(false));
}
