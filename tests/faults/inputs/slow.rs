//! Clients that take their time, or never end: each is closed in time, and nobody else waits for them.

use crate::client::{Event, SECRET, request};
use crate::system::System;
use sluice::profile::Profile;
use sluice::{clock, server, signature};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The promise is 10 s by default. The limits that keep it are set shorter here, so that CI waits less.
const LIMITS: &str = "header_timeout = \"2s\"\nbody_timeout = \"2s\"\nbody_max = \"64KiB\"";
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// What a slow client does.
#[derive(Debug, Clone)]
struct Slow {
    name: &'static str,
    /// Sent at once.
    first: Vec<u8>,
    /// Sent again and again, with a pause between.
    then: &'static [u8],
    /// The beginning of all that it is answered before the connection is closed.
    answer: &'static str,
}

/// The connection's end: all that came over it.
async fn end_of(ingest: SocketAddr, slow: &Slow) -> String {
    let (mut read, mut write) = TcpStream::connect(ingest).await.expect("ingest listens").into_split();
    write.write_all(&slow.first).await.expect("it is read");
    let drip = async {
        while !slow.then.is_empty() && write.write_all(slow.then).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut came = Vec::new();
    tokio::select! {
        // Reset or closed: either is an end.
        _ = read.read_to_end(&mut came) => {}
        () = drip => {}
    }
    String::from_utf8_lossy(&came).into_owned()
}

/// A signed request's head, with these lines for the body's length.
fn head(length: &str) -> Vec<u8> {
    let timestamp = clock::now().timestamp().to_string();
    let signature = signature::sign(&Profile::mindtickle(), SECRET.as_bytes(), &timestamp, b"{}");
    let headers = format!("x-mt-webhook-signature: {signature}\r\nx-mt-webhook-timestamp: {timestamp}\r\n");
    format!("POST /webhooks/mindtickle HTTP/1.1\r\nhost: sluice\r\n{length}\r\n{headers}\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_never_ends_is_closed_in_time_and_others_are_served_meanwhile() {
    let system = System::new("slow").await;
    let ingest = system.ingest_with(LIMITS).await;
    let unfinished = b"POST /webhooks/mindtickle HTTP/1.1\r\nhost: sluice\r\n".to_vec();
    let slow = |name, first: Vec<u8>, then, answer| Slow { name, first, then, answer };
    let (length, chunks) = ("content-length: 1000", "transfer-encoding: chunked");
    let kinds = [
        slow("a silent one", vec![], b"", ""),
        slow("one that is done, and stays", request(&[], b""), b"", "HTTP/1.1 401"),
        slow("a head that stops", unfinished.clone(), b"", ""),
        slow("a head a byte at a time", unfinished.clone(), b"x", ""),
        slow("headers without an end", unfinished, b"x: y\r\n", ""),
        slow("line ends without an end", vec![], b"\r\n", ""),
        slow("no body", head(length), b"", "HTTP/1.1 408"),
        slow("a body a byte at a time", head(length), b" ", "HTTP/1.1 408"),
        slow("chunks that stop", [head(chunks), b"1\r\n{\r\n".to_vec()].concat(), b"", "HTTP/1.1 408"),
        slow("chunks without an end", head(chunks), b"1\r\n \r\n", "HTTP/1.1 408"),
        slow("large chunks without an end", head(chunks), &[b'1'; 15], "HTTP/1.1 400"),
        slow("a chunk's length without an end", head(chunks), b"0", "HTTP/1.1 408"),
        slow("a chunk's extension without an end", [head(chunks), b"1;".to_vec()].concat(), b"x", "HTTP/1.1 408"),
        slow("trailers without an end", [head(chunks), b"2\r\n{}\r\n0\r\n".to_vec()].concat(), b"x: y\r\n", "HTTP/1.1 408"),
    ];
    let mut ends = Vec::new();
    for kind in kinds {
        for _ in 0..20 {
            let (kind, address) = (kind.clone(), ingest.address);
            ends.push(tokio::spawn(async move {
                let end = timeout(CLOSED_WITHIN, end_of(address, &kind)).await;
                let end = end.unwrap_or_else(|_| panic!("{}: not closed in time", kind.name));
                // Where it goes on sending after the answer, the close may overtake the answer.
                let is_lost = end.is_empty() && !kind.then.is_empty() && kind.answer.ends_with("408");
                assert!(is_lost || end.starts_with(kind.answer) && end.is_empty() == kind.answer.is_empty(), "{}: {end}", kind.name);
            }));
        }
    }
    for n in 0..20 {
        let served = timeout(Duration::from_secs(2), ingest.client().store(&Event::of("u-1", n))).await;
        assert!(served.is_ok(), "others are served meanwhile");
    }
    for end in ends {
        end.await.unwrap();
    }
    assert_eq!(system.value::<i64>("select count(*) from sluice.events").await, 20);
}

#[tokio::test]
async fn two_thousand_idle_connections_hold_up_nobody_and_are_closed_in_time() {
    server::raise_open_files_limit();
    let system = System::new("idle").await;
    let ingest = system.ingest_with(LIMITS).await;
    let mut idle = Vec::new();
    for _ in 0..2000 {
        idle.push(TcpStream::connect(ingest.address).await.expect("there is room"));
    }
    let served = timeout(Duration::from_secs(2), ingest.client().store(&Event::of("u-1", 0))).await;
    assert!(served.is_ok(), "others are served meanwhile");
    let closed = timeout(CLOSED_WITHIN, async {
        for stream in &mut idle {
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "closed, without an answer");
        }
    });
    assert!(closed.await.is_ok(), "not closed in time");
}

#[tokio::test]
async fn where_all_connections_are_taken_the_next_one_waits_for_an_idle_one_to_be_closed() {
    let system = System::new("taken").await;
    let ingest = system.ingest_with("connections_max = 4\nheader_timeout = \"1s\"").await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(TcpStream::connect(ingest.address).await.unwrap());
    }
    let began = clock::instant();
    ingest.client().store(&Event::of("u-1", 0)).await;
    let waited = clock::instant().saturating_duration_since(began);
    assert!(waited > Duration::from_millis(500) && waited < CLOSED_WITHIN, "{waited:?}");
}

#[tokio::test]
async fn a_body_that_is_broken_off_is_not_stored_and_whoever_still_listens_is_told() {
    let system = System::new("cut_off").await;
    let ingest = system.ingest_with(LIMITS).await;
    for (length, begun) in [("content-length: 3", "{}"), ("transfer-encoding: chunked", "2\r\n{}\r\n"), ("content-length: 2", "")] {
        let mut stream = TcpStream::connect(ingest.address).await.unwrap();
        stream.write_all(&[head(length).as_slice(), begun.as_bytes()].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(CLOSED_WITHIN, stream.read_to_string(&mut answer)).await.expect("closed in time").unwrap();
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("broke off"), "{length} {begun}: {answer}");
    }
    // The same, without waiting for the answer; and one that is sent whole is stored, whether or not its sender waits.
    for (length, body) in [("content-length: 3", "{}"), ("content-length: 2", "{}")] {
        let mut stream = TcpStream::connect(ingest.address).await.unwrap();
        stream.write_all(&[head(length).as_slice(), body.as_bytes()].concat()).await.unwrap();
        stream.set_zero_linger().unwrap();
    }
    ingest.client().store(&Event::of("u-1", 0)).await;
    let others = "select count(*) from sluice.events where derived_id";
    assert!(system.value::<i64>(others).await <= 1);
}

#[tokio::test]
async fn a_client_that_sends_and_never_reads_its_answers_is_closed_in_time() {
    let system = System::new("deaf").await;
    let ingest = system.ingest_with(LIMITS).await;
    let mut deaf = TcpStream::connect(ingest.address).await.unwrap();
    let requests = request(&[], b"").repeat(100);
    // As long as there is room on the way, it goes on. Then nothing moves any more.
    loop {
        match timeout(CLOSED_WITHIN, deaf.write_all(&requests)).await {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => break,
            Err(_) => panic!("not closed in time"),
        }
    }
    ingest.client().store(&Event::of("u-1", 0)).await;
}
