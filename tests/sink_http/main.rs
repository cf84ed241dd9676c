//! The HTTP sink against real sockets: what it sends, and what it survives.

mod server;
mod tls;

use server::*;
use sluice::config::Secret;
use sluice::delivery::{Blame, Outcome};
use sluice::sink::http::HttpSink;
use sluice::sink::{Sink, idempotency_key};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;

#[tokio::test]
async fn the_payload_arrives_as_it_came_with_headers_that_are_the_same_on_every_try() {
    let (address, mut requests) = answering(answer(200, "", "thanks")).await;
    let config = sluice::config::HttpSink {
        headers: vec![("Authorization".into(), Secret::new("Bearer t0ken".into()))],
        signing_secret: Some(Secret::new(b"key".to_vec())),
        ..config(&url(address))
    };
    let sink = HttpSink::new(&config, 4).unwrap();
    let mut tries = Vec::new();
    for _ in 0..2 {
        assert_eq!(deliver(&sink, "evt_1").await, delivered(200));
        tries.push(requests.recv().await.unwrap());
    }
    let key = idempotency_key("mindtickle", "evt_1", "crm").to_string();
    for request in &tries {
        assert!(request.head.starts_with("POST /hook/s3cret?token=s3cret HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.body, PAYLOAD);
        for (name, value) in [
            ("host", address.to_string().as_str()),
            ("content-type", "application/json"),
            ("user-agent", concat!("sluice/", env!("CARGO_PKG_VERSION"))),
            ("x-event-id", "evt_1"),
            ("x-event-type", "course.completed"),
            ("idempotency-key", &key),
            ("webhook-id", &key),
            ("authorization", "Bearer t0ken"),
        ] {
            assert_eq!(request.header(name), Some(value), "{name}");
        }
        assert!(request.header("webhook-signature").unwrap().starts_with("v1,"));
        assert_eq!(request.connection, 0, "a connection whose answer was read is used again");
    }
    assert_eq!(tries[0].header("traceparent"), tries[1].header("traceparent"));
}

#[tokio::test]
async fn an_answer_decides_what_follows_and_its_beginning_is_kept() {
    for (status, blame) in [
        (400, Blame::Permanent),
        (401, Blame::Refused),
        (403, Blame::Refused),
        (404, Blame::Permanent),
        (408, Blame::Sink),
        (410, Blame::Permanent),
        (413, Blame::Permanent),
        (422, Blame::Permanent),
        (429, Blame::RateLimit),
        (500, Blame::Event),
        (502, Blame::Sink),
        (503, Blame::Sink),
        (504, Blame::Sink),
    ] {
        let (address, mut requests) = answering(answer(status, "", &format!("because\0{}", "x".repeat(2000)))).await;
        let sink = sink(&url(address));
        for _ in 0..2 {
            let failure = fail(&sink).await;
            assert_eq!((failure.blame, failure.status, failure.retry_after), (blame, Some(status), None));
            assert!(failure.error.starts_with(&format!("answered {status}")), "{}", failure.error);
            assert_eq!(failure.response, Some(format!("because {}", "x".repeat(992))));
            assert_eq!(requests.recv().await.unwrap().connection, 0, "a failure is no reason for a new connection");
        }
    }
}

#[tokio::test]
async fn a_sink_may_say_when_to_come_back() {
    let now = std::time::SystemTime::from(sluice::clock::now());
    let in_an_hour = httpdate::fmt_http_date(now + Duration::from_secs(3600));
    let hour_ago = httpdate::fmt_http_date(now - Duration::from_secs(3600));
    for (value, expected) in [
        ("7", Some(7..=7)),
        (&*in_an_hour, Some(3500..=3600)),
        (&*hour_ago, Some(0..=0)),
        ("99999999999999999999999", Some(365 * 86400..=365 * 86400)),
        ("soon", None),
        ("\u{ff}", None),
    ] {
        for status in [429, 503] {
            let (address, _) = answering(answer(status, &format!("Retry-After: {value}\r\n"), "")).await;
            let after = fail(&sink(&url(address))).await.retry_after;
            assert_eq!(after.is_some(), expected.is_some(), "{value}");
            assert!(after.iter().zip(&expected).all(|(after, expected)| expected.contains(&after.as_secs())), "{value}: {after:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let inner = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    inner.set_nonblocking(true).unwrap();
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: http://{}/s3cret\r\n", inner.local_addr().unwrap());
        let (address, _) = answering(answer(status, &location, "")).await;
        let failure = fail(&sink(&url(address))).await;
        assert_eq!(failure.blame, Blame::Permanent);
        assert!(failure.error.contains("to http://127.0.0.1; redirects are not followed"), "{}", failure.error);
    }
    assert_eq!(inner.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn an_inner_address_is_not_even_connected_to_unless_it_is_allowed() {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Names and numbers are all resolved before they are judged, so no way of writing an address hides it.
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
    ] {
        let config = sluice::config::HttpSink { allow: Vec::new(), ..config(&format!("http://{host}:{port}/hook/s3cret")) };
        let failure = fail(&HttpSink::new(&config, 4).unwrap()).await;
        assert_eq!(failure.blame, Blame::Refused, "{host}: {}", failure.error);
        assert!(failure.error.contains("to the sink's `allow`"), "{host}: {}", failure.error);
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_body_that_drips_does_not_change_what_the_status_said() {
    for (status, blame) in [(200, None), (400, Some(Blame::Permanent)), (500, Some(Blame::Event))] {
        let (address, _) = serve(move |mut peer| async move {
            peer.request().await;
            peer.answer(format!("HTTP/1.1 {status} X\r\ncontent-length: 1000\r\n\r\nthe beginning")).await;
            peer.closed().await;
        })
        .await;
        match (deliver(&sink(&url(address)), "evt_1").await, blame) {
            (outcome, None) => assert_eq!(outcome, delivered(200)),
            (Outcome::Failed(failure), Some(blame)) => {
                assert_eq!((failure.blame, failure.response.as_deref()), (blame, Some("the beginning")));
            }
            (other, _) => panic!("{status} became {other:?}"),
        }
    }
}

#[tokio::test]
async fn of_a_gigabyte_only_the_beginning_is_taken() {
    for status in [200, 500] {
        let sent = Arc::new(AtomicU64::new(0));
        let done = Arc::new(Notify::new());
        let (address, _) = serve({
            let (sent, done) = (sent.clone(), done.clone());
            move |mut peer| {
                let (sent, done) = (sent.clone(), done.clone());
                async move {
                    peer.request().await;
                    peer.answer(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", 1 << 30)).await;
                    while tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &[b'x'; 65536]).await.is_ok() {
                        sent.fetch_add(65536, Ordering::Relaxed);
                    }
                    done.notify_one();
                }
            }
        })
        .await;
        let outcome = deliver(&sink(&url(address)), "evt_1").await;
        if status == 200 {
            assert_eq!(outcome, delivered(200));
        } else {
            let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
            assert_eq!(failure.response, Some("x".repeat(1000)));
        }
        done.notified().await;
        // What the kernel's buffers took is not ours.
        assert!(sent.load(Ordering::Relaxed) < 64 << 20, "{sent:?} bytes were taken");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_off_or_talks_nonsense_is_the_sinks_trouble() {
    // Closing with the request unread resets the connection.
    let (reset, _) = serve(|peer| async move { peer.stream.readable().await.unwrap() }).await;
    let (silent, _) = serve(|mut peer| async move { peer.request().await.unwrap() }).await;
    let (nonsense, _) = answering("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    let (half, _) = serve(|mut peer| async move {
        peer.request().await;
        peer.answer("HTTP/1.1 200 OK\r\ncontent-le").await;
    })
    .await;
    let (endless, _) = serve(|mut peer| async move {
        peer.request().await;
        peer.answer("HTTP/1.1 200 OK\r\n").await;
        while tokio::io::AsyncWriteExt::write_all(&mut peer.stream, b"x-more: more\r\n").await.is_ok() {}
    })
    .await;
    for address in [reset, silent, nonsense, half, endless] {
        let failure = fail(&sink(&url(address))).await;
        assert_eq!((failure.blame, failure.status), (Blame::Sink, None));
        assert!(failure.error.starts_with("no answer from 127.0.0.1: "), "{}", failure.error);
    }
}

#[tokio::test]
async fn a_sink_that_is_not_there_is_the_sinks_trouble_and_the_error_names_the_stage() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = fail(&sink(&url(closed))).await;
    assert_eq!(failure.blame, Blame::Sink);
    assert!(failure.error.starts_with("cannot connect to 127.0.0.1: "), "{}", failure.error);
    let failure = fail(&sink("http://nowhere.invalid/hook/s3cret")).await;
    assert_eq!(failure.blame, Blame::Sink);
    assert!(failure.error.starts_with("cannot resolve nowhere.invalid: "), "{}", failure.error);
}

#[tokio::test]
async fn a_connection_that_the_sink_closed_while_it_was_idle_costs_no_try() {
    let closed = Arc::new(Notify::new());
    let (address, mut requests) = serve({
        let closed = closed.clone();
        move |mut peer| {
            let closed = closed.clone();
            async move {
                peer.request().await;
                peer.answer(answer(200, "", "")).await;
                drop(peer);
                closed.notify_one();
            }
        }
    })
    .await;
    let sink = sink(&url(address));
    for connection in 0..20 {
        assert_eq!(deliver(&sink, "evt_1").await, delivered(200));
        assert_eq!(requests.recv().await.unwrap().connection, connection);
        closed.notified().await;
        // Long enough for the runtime to look at its sockets.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_try_that_is_given_up_leaves_nothing_behind_for_the_next() {
    // Given up before the answer, and in the middle of it.
    for begun in ["", "HTTP/1.1 500 X\r\ncontent-length: 100\r\n\r\nbegun"] {
        let (reached, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (address, mut requests) = serve({
            let (reached, gone) = (reached.clone(), gone.clone());
            move |mut peer| {
                let (reached, gone) = (reached.clone(), gone.clone());
                async move {
                    peer.request().await;
                    if peer.number == 0 {
                        peer.answer(begun).await;
                        reached.notify_one();
                        peer.closed().await;
                        gone.notify_one();
                    } else {
                        peer.answer(answer(202, "", "")).await;
                    }
                }
            }
        })
        .await;
        let sink = sink(&url(address));
        let deliveries = [delivery("given_up")];
        let given_up = sink.deliver(&deliveries);
        tokio::select! {
            outcome = given_up => panic!("{outcome:?}"),
            () = reached.notified() => {}
        }
        gone.notified().await;
        assert_eq!(deliver(&sink, "next").await, delivered(202));
        let seen = [requests.recv().await.unwrap(), requests.recv().await.unwrap()];
        assert_eq!(
            seen.map(|seen| (seen.connection, seen.header("x-event-id").unwrap().to_owned())),
            [(0, "given_up".into()), (1, "next".into())]
        );
    }
}

#[tokio::test]
async fn deliveries_at_once_get_their_own_answers() {
    let (address, _) = serve(|mut peer| async move {
        while peer.request().await.is_some() {
            peer.answer(answer(200 + (peer.number % 50) as u16, "", &"x".repeat(3000))).await;
        }
    })
    .await;
    let sink = Arc::new(sink(&url(address)));
    let mut tries = tokio::task::JoinSet::new();
    for n in 0..200 {
        let sink = sink.clone();
        tries.spawn(async move { deliver(&sink, &format!("evt_{n}")).await });
    }
    assert!(tries.join_all().await.iter().all(|outcome| matches!(outcome, Outcome::Delivered { .. })));
}
