//! Servers of the tests' own, on real sockets, and the sink that talks to them.

use sluice::config::{HttpSink as Config, Secret};
use sluice::delivery::{Failure, Outcome};
use sluice::sink::http::HttpSink;
use sluice::sink::{Delivery, Sink, idempotency_key};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A payload that must arrive as it is: not canonical JSON, and not to be seen in any error.
pub const PAYLOAD: &[u8] = b" {\"event\" : \"course.completed\",\n\"data\":{\"userId\":\"p4yl0ad\"}}\n";

pub fn delivery(event_id: &str) -> Delivery {
    Delivery {
        seq: 1,
        source: "mindtickle".into(),
        event_id: event_id.into(),
        event_type: Some("course.completed".into()),
        order_key: Some("acme/u-1".into()),
        received_at: sluice::clock::now(),
        payload: PAYLOAD.into(),
        traceparent: None,
        idempotency_key: idempotency_key("mindtickle", event_id, "crm"),
    }
}

pub fn config(url: &str) -> Config {
    let allow = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    Config { url: Secret::new(url.into()), headers: Vec::new(), allow, signing_secret: None, body: None }
}

pub fn sink(url: &str) -> HttpSink {
    HttpSink::new(&config(url), 4).unwrap()
}

/// A URL whose path and query must not be seen in any error.
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}/hook/s3cret?token=s3cret")
}

/// What every try here must end in, by far: there is no worker that would give one up.
const TRY_MAX: Duration = Duration::from_secs(10);

pub async fn deliver(sink: &HttpSink, event_id: &str) -> Outcome {
    let mut outcomes = tokio::time::timeout(TRY_MAX, sink.deliver(&[delivery(event_id)])).await.expect("no try hangs");
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

/// Delivers where it must fail, and checks what holds for every failure.
pub async fn fail(sink: &HttpSink) -> Failure {
    match deliver(sink, "evt_1").await {
        Outcome::Failed(failure) => {
            assert!(!failure.error.contains("s3cret") && !failure.error.contains("p4yl0ad"), "{}", failure.error);
            failure
        }
        other => panic!("{other:?} is no failure"),
    }
}

pub fn delivered(status: u16) -> Outcome {
    Outcome::Delivered { status: Some(status) }
}

/// A request as it was on the wire.
#[derive(Debug)]
pub struct Seen {
    /// Request line and headers.
    pub head: String,
    pub body: Vec<u8>,
    /// 0 for the first connection that was accepted.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A connection to a test's server.
pub struct Peer {
    pub stream: TcpStream,
    pub number: usize,
    seen: UnboundedSender<Seen>,
}

impl Peer {
    /// Reads a request; `None` when the client has closed the connection.
    pub async fn request(&mut self) -> Option<()> {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if self.stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let body = bytes.split_off(head_end);
        let head = String::from_utf8(bytes).unwrap();
        let mut seen = Seen { head, body, connection: self.number };
        let length: usize = seen.header("content-length").unwrap().parse().unwrap();
        while seen.body.len() < length {
            self.stream.read_buf(&mut seen.body).await.ok()?;
        }
        self.seen.send(seen).ok();
        Some(())
    }

    pub async fn answer(&mut self, bytes: impl AsRef<[u8]>) {
        // The client may have gone; some tests are about that.
        self.stream.write_all(bytes.as_ref()).await.ok();
    }

    /// Waits until the client has closed the connection.
    pub async fn closed(&mut self) {
        let mut rest = [0; 1024];
        while matches!(self.stream.read(&mut rest).await, Ok(1..)) {}
    }
}

/// Starts a server that treats every connection as `serve` says; returns its address and what it sees.
pub async fn serve<F, S>(serve: F) -> (SocketAddr, UnboundedReceiver<Seen>)
where
    F: Fn(Peer) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = unbounded_channel();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(Peer { stream, number, seen: seen.clone() }));
        }
    });
    (address, requests)
}

/// A well-behaved server that gives every request the same answer.
pub async fn answering(answer: impl Into<String>) -> (SocketAddr, UnboundedReceiver<Seen>) {
    let answer = answer.into();
    serve(move |mut peer| {
        let answer = answer.clone();
        async move {
            while peer.request().await.is_some() {
                peer.answer(&answer).await;
            }
        }
    })
    .await
}

/// An answer with a body and further header lines.
pub fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}
