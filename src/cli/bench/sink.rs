//! A sink that answers 204 to everything, counts, and remembers when each event came.

use super::events;
use super::http::{Incoming, header};
use crate::clock;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Listens on a port of its own until it is dropped.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    seen: Arc<Seen>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Seen {
    started_at: Instant,
    requests: AtomicU64,
    /// Microseconds from the start, plus one, to when each event first came; 0: it has not.
    first_at_us: Vec<AtomicU64>,
}

impl Sink {
    /// Remembers when each of the first `events` events came.
    pub async fn start(events: usize) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let first_at_us = std::iter::repeat_with(AtomicU64::default).take(events).collect();
        let seen = Arc::new(Seen { started_at: clock::instant(), requests: AtomicU64::new(0), first_at_us });
        Ok(Self { address, server: tokio::spawn(serve(listener, Arc::clone(&seen))), seen })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests so far, those of repeated deliveries included.
    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Relaxed)
    }

    /// When an event first came.
    pub fn first_at(&self, number: usize) -> Option<Instant> {
        let after_us = self.seen.first_at_us.get(number)?.load(Relaxed).checked_sub(1)?;
        Some(self.seen.started_at + Duration::from_micros(after_us))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // With the task goes its set of connections.
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(answer(stream, Arc::clone(&seen)))),
                // Out of descriptors, for example: it fails again until a connection ends.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, seen: Arc<Seen>) {
    // Without it, answers may wait for acknowledgements; with an error, they do.
    let _ = stream.set_nodelay(true);
    let mut incoming = Incoming::default();
    while let Some(number) = incoming.message(&mut stream, |head| header(head, "x-event-id").and_then(events::number_of)).await {
        seen.requests.fetch_add(1, Relaxed);
        if let Some(first_at_us) = number.and_then(|number| seen.first_at_us.get(number)) {
            let after_us = clock::instant().saturating_duration_since(seen.started_at).as_micros() as u64;
            let _ = first_at_us.compare_exchange(0, after_us + 1, Relaxed, Relaxed);
        }
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}
