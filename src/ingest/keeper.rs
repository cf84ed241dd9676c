//! Keeps requests that did not verify, for a rotation that went wrong. Nobody waits for it, and it never holds much: what does not fit is let go.

use crate::clock;
use crate::config::KeepUnverified;
use crate::store::servers::{Connection, Servers};
use crate::store::unverified::{self, Kept, Unverified};
use bytes::Bytes;
use metrics::{Counter, counter};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Requests that wait to be kept.
const QUEUE_MAX: usize = 64;
/// A larger body is not kept: of any size, a queue full of them would be much.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How often what has become too old is let go.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// For one statement, and after a failure.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);

/// The doors' side.
#[derive(Debug, Clone)]
pub struct Keeper {
    queue: mpsc::Sender<Unverified>,
    dropped: Counter,
}

impl Keeper {
    /// And its other end, which is to be [run].
    pub fn new() -> (Self, mpsc::Receiver<Unverified>) {
        metrics::describe_counter!(
            "sluice_ingest_unverified_total",
            "Requests that did not verify, by what became of them: kept or dropped."
        );
        let (queue, end) = mpsc::channel(QUEUE_MAX);
        (Self { queue, dropped: counter!("sluice_ingest_unverified_total", "outcome" => "dropped") }, end)
    }

    /// Never waits.
    pub fn keep(&self, source: &Arc<str>, payload: Bytes, headers: String) {
        let fits = payload.len() <= BODY_BYTES_MAX;
        if !fits || self.queue.try_send(Unverified { source: Arc::clone(source), payload, headers }).is_err() {
            self.dropped.increment(1);
        }
    }
}

/// Keeps what comes, for ever.
pub async fn run(mut queue: mpsc::Receiver<Unverified>, servers: Servers, bounds: KeepUnverified) {
    let kept_total = counter!("sluice_ingest_unverified_total", "outcome" => "kept");
    let dropped = counter!("sluice_ingest_unverified_total", "outcome" => "dropped");
    let mut store = Store { servers, conn: None, bounds, kept: Kept::default(), pruned_at: None };
    loop {
        let mut requests = Vec::new();
        tokio::select! {
            count = queue.recv_many(&mut requests, QUEUE_MAX) => if count == 0 { return },
            // Also while nothing comes: what is kept must go when its time is over.
            () = sleep(PRUNE_EVERY) => {}
        }
        match timeout(PATIENCE, store.keep(&mut requests)).await {
            Ok(Ok(kept)) => {
                kept_total.increment(kept as u64);
                dropped.increment(requests.len() as u64);
            }
            failed => {
                store.conn = None;
                dropped.increment(requests.len() as u64);
                let reason = failed.map(|kept| kept.err().map(|error| error.to_string()));
                tracing::warn!(?reason, "cannot keep requests that did not verify");
                sleep(PAUSE).await;
            }
        }
    }
}

struct Store {
    servers: Servers,
    conn: Option<Connection>,
    bounds: KeepUnverified,
    /// As of the last count, and what was added since.
    kept: Kept,
    pruned_at: Option<Instant>,
}

impl Store {
    /// Takes from `requests` what fits, and keeps it. Returns how many.
    async fn keep(&mut self, requests: &mut Vec<Unverified>) -> Result<usize, sqlx::Error> {
        let conn = match &mut self.conn {
            Some(conn) => conn,
            None => self.conn.insert(self.servers.connect().await?),
        };
        let now = clock::instant();
        if self.pruned_at.is_none_or(|at| now.saturating_duration_since(at) >= PRUNE_EVERY) {
            self.kept = unverified::prune(conn, self.bounds.age).await?;
            self.pruned_at = Some(now);
        }
        let mut after = self.kept;
        let fitting = requests.iter().take_while(|request| {
            after.rows += 1;
            after.bytes += request.payload.len() as i64;
            after.rows <= self.bounds.rows_max as i64 && after.bytes <= self.bounds.bytes_max as i64
        });
        let fitting: Vec<Unverified> = requests.drain(..fitting.count()).collect();
        if !fitting.is_empty() {
            unverified::keep(conn, &fitting).await?;
            self.kept.rows += fitting.len() as i64;
            self.kept.bytes += fitting.iter().map(|request| request.payload.len() as i64).sum::<i64>();
        }
        Ok(fitting.len())
    }
}
