//! The load generator: signed requests over keep-alive connections, as fast as they are answered or at a fixed rate.

use super::events::Requests;
use super::http::{Incoming, status};
use super::report::quantile;
use crate::clock;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

/// For one answer. Ingest gives up a request long before.
const PATIENCE: Duration = Duration::from_secs(15);
/// A connection that fails this often in a row has nobody to talk to.
const FAILURES_MAX: u32 = 50;

/// What to send where. Ends with the requests or with the time, whichever comes first.
#[derive(Debug, Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub requests: Arc<Requests>,
    /// Which of them, by number.
    pub range: Range<usize>,
    pub connections: usize,
    /// Requests a second over all connections; `None`: as fast as they are answered.
    pub per_second: Option<f64>,
    pub time: Duration,
    /// Counts what was answered 200, while it goes on.
    pub taken: Arc<AtomicU64>,
}

/// What became of it.
#[derive(Debug)]
pub struct Sent {
    /// Answered 200.
    pub taken: u64,
    /// Every other answer; 0: none came.
    pub refused: BTreeMap<u16, u64>,
    pub seconds: f64,
    /// From when a request was due to its answer, sorted: one that had to wait for its connection is not let off.
    latencies_us: Vec<u64>,
    pub started_at: Instant,
}

impl Sent {
    fn nothing(started_at: Instant) -> Self {
        Self { taken: 0, refused: BTreeMap::new(), seconds: 0.0, latencies_us: Vec::new(), started_at }
    }

    /// All that was not taken.
    pub fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    pub fn per_second(&self) -> f64 {
        self.taken as f64 / self.seconds.max(f64::EPSILON)
    }

    /// In milliseconds.
    pub fn latency_ms(&self, quantile_of_1: f64) -> f64 {
        quantile(&self.latencies_us, quantile_of_1) as f64 / 1000.0
    }
}

impl Load {
    /// When request number `i` is due, at a fixed rate.
    pub fn due(&self, started_at: Instant, i: usize) -> Option<Instant> {
        self.per_second.map(|per_second| started_at + Duration::from_secs_f64((i - self.range.start) as f64 / per_second))
    }

    /// Sends it all; dropped, it stops at once.
    pub async fn run(&self) -> Sent {
        let next = Arc::new(AtomicUsize::new(self.range.start));
        let started_at = clock::instant();
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            connections.spawn(Connection::new(self.clone(), started_at).run(Arc::clone(&next)));
        }
        let mut sent = Sent::nothing(started_at);
        while let Some(ended) = connections.join_next().await {
            // A task that panicked has sent nothing that counts; its requests are missing from what was taken.
            let Ok(part) = ended else { continue };
            sent.taken += part.taken;
            sent.latencies_us.extend(part.latencies_us);
            part.refused.into_iter().for_each(|(status, times)| *sent.refused.entry(status).or_default() += times);
        }
        sent.seconds = clock::instant().saturating_duration_since(started_at).as_secs_f64();
        sent.latencies_us.sort_unstable();
        sent
    }
}

/// One keep-alive connection, opened anew when it is lost.
struct Connection {
    load: Load,
    started_at: Instant,
    stream: Option<TcpStream>,
    incoming: Incoming,
    request: Vec<u8>,
    sent: Sent,
}

impl Connection {
    fn new(load: Load, started_at: Instant) -> Self {
        Self { load, started_at, stream: None, incoming: Incoming::default(), request: Vec::new(), sent: Sent::nothing(started_at) }
    }

    async fn run(mut self, next: Arc<AtomicUsize>) -> Sent {
        let ends_at = self.started_at + self.load.time;
        let mut failures = 0;
        while failures < FAILURES_MAX {
            let i = next.fetch_add(1, Relaxed);
            let due = self.load.due(self.started_at, i).unwrap_or_else(clock::instant);
            if i >= self.load.range.end || due >= ends_at || clock::instant() >= ends_at + PATIENCE {
                break;
            }
            if self.load.per_second.is_some() {
                sleep_until(due.into()).await;
            }
            match timeout(PATIENCE, self.exchange(i)).await.ok().flatten() {
                Some(200) => {
                    failures = 0;
                    self.sent.taken += 1;
                    self.load.taken.fetch_add(1, Relaxed);
                    self.sent.latencies_us.push(clock::instant().saturating_duration_since(due).as_micros() as u64);
                }
                other => {
                    failures += 1;
                    *self.sent.refused.entry(other.unwrap_or(0)).or_default() += 1;
                    if other.is_none() {
                        self.stream = None;
                    }
                }
            }
        }
        self.sent
    }

    /// Sends one request and returns its answer's status. `None`: the connection is of no use.
    async fn exchange(&mut self, i: usize) -> Option<u16> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                self.incoming = Incoming::default();
                let stream = TcpStream::connect(self.load.address).await.ok()?;
                stream.set_nodelay(true).ok()?;
                self.stream.insert(stream)
            }
        };
        self.load.requests.write(i, &mut self.request);
        stream.write_all(&self.request).await.ok()?;
        self.incoming.message(stream, status).await
    }
}
