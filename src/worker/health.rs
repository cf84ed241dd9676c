//! `/readyz` of a worker, and the gauges that only the database knows.

use super::Shared;
use crate::clock;
use crate::ops::{Readiness, Ready};
use crate::store::health;
use metrics::{describe_gauge, gauge};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The database is asked what is owed at most this often, however often `/metrics` is read.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// How long `/metrics` waits for it. Then it shows the last figures, and how old they are.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(500);

/// See the module's documentation.
pub struct Health {
    shared: Arc<Shared>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    refreshed_at: Mutex<Option<Instant>>,
    /// The database is being asked.
    asking: AtomicBool,
}

impl State {
    fn refreshed_at(&self) -> Option<Instant> {
        *self.refreshed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    pub fn new(shared: Arc<Shared>) -> Self {
        describe_gauge!("sluice_backlog_age_seconds", "How long ago sluice_deliveries_owed and sluice_oldest_pending_seconds were read.");
        Self { shared, state: Arc::default() }
    }

    /// Asks the database, unless that is under way. The answer comes when it comes: a database that hangs is asked once, not once a scrape.
    fn ask(&self) -> Option<tokio::task::JoinHandle<()>> {
        if self.state.asking.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (shared, state) = (self.shared.clone(), self.state.clone());
        Some(tokio::spawn(async move {
            match shared.control(async |conn| health::owed(conn).await).await {
                // Another worker is asking just now.
                Ok(owed) if owed.is_empty() => {}
                Ok(owed) => {
                    for sink in owed {
                        gauge!("sluice_deliveries_owed", "sink" => sink.sink.clone()).set(sink.pending as f64);
                        gauge!("sluice_oldest_pending_seconds", "sink" => sink.sink).set(sink.oldest_seconds);
                    }
                    *state.refreshed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::instant());
                }
                Err(error) => tracing::warn!(%error, "cannot read what is owed, for /metrics"),
            }
            state.asking.store(false, Ordering::Release);
        }))
    }
}

impl Readiness for Health {
    fn ready(&self) -> Ready<'_> {
        Box::pin(async {
            if self.shared.shutdown.is_begun() {
                return Err("stopping".into());
            }
            if !self.shared.lease.is_live() {
                return Err("no lease: the database cannot be reached, or did not answer in time".into());
            }
            Ok(())
        })
    }

    fn refresh(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            for pipe in &self.shared.pipes {
                pipe.metrics.in_flight.set(pipe.in_flight.load(Ordering::Relaxed) as f64);
            }
            let is_old = self.state.refreshed_at().is_none_or(|at| clock::instant().saturating_duration_since(at) >= REFRESH_EVERY);
            if is_old && let Some(asking) = self.ask() {
                let _ = tokio::time::timeout(REFRESH_TIMEOUT, asking).await;
            }
            if let Some(at) = self.state.refreshed_at() {
                gauge!("sluice_backlog_age_seconds").set(clock::instant().saturating_duration_since(at).as_secs_f64());
            }
        })
    }
}
