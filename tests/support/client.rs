//! The provider, as far as the tests need one: signs events and posts them.

use crate::http::{Message, Wire};
use serde_json::{Value, json};
use sluice::profile::Profile;
use sluice::{clock, signature};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

pub const SECRET: &str = "s3cret";

/// No request may hang: see [`Client::send`].
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// All event types that the provider is known to send.
pub const TYPES: [&str; 6] =
    ["course.completed", "quiz.submitted", "user.provisioned", "user.deprovisioned", "module.progress", "certification.expired"];

/// An event, before it is signed.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    pub body: Vec<u8>,
}

impl Event {
    /// Event number `n` of a user. Not canonical JSON, so that a body which was parsed and written again would show.
    pub fn new(id: impl Into<String>, event_type: &str, user: &str, n: u64) -> Self {
        let data: Value = json!({ "userId": user, "n": n, "score": 0.50, "name": "\u{c4}gypten" });
        Self { id: id.into(), body: format!(r#"{{"event" : "{event_type}", "companyId":"acme","data":{data}}} "#).into_bytes() }
    }

    /// One of `course.completed`, named after its user and number.
    pub fn of(user: &str, n: u64) -> Self {
        Self::new(format!("{user}:{n}"), "course.completed", user, n)
    }

    /// User and number, from an id as [`Event::of`] makes it.
    pub fn parse(id: &str) -> (&str, u64) {
        let (user, n) = id.rsplit_once(':').expect("an id of Event::of");
        (user, n.parse().expect("a number"))
    }

    /// The signed request, as of now.
    pub fn request(&self) -> Vec<u8> {
        self.request_signed_with(SECRET)
    }

    pub fn request_signed_with(&self, secret: &str) -> Vec<u8> {
        let timestamp = clock::now().timestamp().to_string();
        let signature = signature::sign(&Profile::mindtickle(), secret.as_bytes(), &timestamp, &self.body);
        let headers = [
            ("x-mt-webhook-signature", signature.as_str()),
            ("x-mt-webhook-timestamp", &timestamp),
            ("x-mt-event-id", &self.id),
            ("content-type", "application/json"),
        ];
        request(&headers, &self.body)
    }
}

/// A request with these headers, to the source `mindtickle`.
pub fn request(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("POST /webhooks/mindtickle HTTP/1.1\r\nhost: sluice\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// A kept-alive connection to ingest.
pub struct Client {
    address: SocketAddr,
    wire: Option<Wire>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, wire: None }
    }

    /// Sends bytes and reads the answer.
    pub async fn send(&mut self, bytes: &[u8]) -> Message {
        self.try_send(bytes).await.expect("ingest listens, and every request is answered")
    }

    /// The same; `None`: nobody listens, or the connection broke off.
    pub async fn try_send(&mut self, bytes: &[u8]) -> Option<Message> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::new(TcpStream::connect(self.address).await.ok()?),
        };
        let answer = tokio::time::timeout(ANSWER_MAX, async {
            // Ingest may refuse, and close, before it has read all.
            wire.send(bytes).await.ok();
            wire.receive().await
        });
        let answer = answer.await.expect("no request hangs")?;
        if answer.header("connection") != Some("close") {
            self.wire = Some(wire);
        }
        Some(answer)
    }

    pub async fn post(&mut self, event: &Event) -> Message {
        self.send(&event.request()).await
    }

    /// Posts an event that must be stored now for the first time.
    pub async fn store(&mut self, event: &Event) {
        let answer = self.post(event).await;
        assert_eq!((answer.status(), answer.text()), (200, r#"{"received":true}"#), "{}", event.id);
    }
}

/// Posts events over as many connections as there are lists, each list in its order, one after another.
pub async fn store_all(address: SocketAddr, lists: Vec<Vec<Event>>) {
    let posting = lists.into_iter().map(|events| {
        tokio::spawn(async move {
            let mut client = Client::new(address);
            for event in &events {
                client.store(event).await;
            }
        })
    });
    for posted in posting.collect::<Vec<_>>() {
        posted.await.expect("all were stored");
    }
}

/// `count` events of each of `users` users, spread over 16 connections; one user's in order, on one connection.
pub async fn store_rounds(address: SocketAddr, users: usize, count: u64) {
    let mut lists = vec![Vec::new(); 16];
    for n in 0..count {
        for user in 0..users {
            lists[user % 16].push(Event::of(&format!("u-{user}"), n));
        }
    }
    store_all(address, lists).await;
}
