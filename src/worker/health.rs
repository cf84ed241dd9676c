//! `/readyz` of a worker, and the gauges that only the database knows.

use super::Shared;
use crate::clock;
use crate::ops::{Readiness, Ready};
use crate::store::health;
use metrics::gauge;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// The database is asked what is owed at most this often, however often `/metrics` is read.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

pub struct Health {
    shared: Arc<Shared>,
    refreshed_at: Mutex<Option<Instant>>,
}

impl Health {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, refreshed_at: Mutex::new(None) }
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
            let mut refreshed_at = self.refreshed_at.lock().await;
            let now = clock::instant();
            if refreshed_at.is_some_and(|at| now.saturating_duration_since(at) < REFRESH_EVERY) {
                return;
            }
            for pipe in &self.shared.pipes {
                pipe.metrics.in_flight.set(pipe.in_flight.load(std::sync::atomic::Ordering::Relaxed) as f64);
            }
            match self.shared.control(async |conn| health::owed(conn).await).await {
                Ok(owed) => {
                    for sink in owed {
                        gauge!("sluice_deliveries_owed", "sink" => sink.sink.clone()).set(sink.pending as f64);
                        gauge!("sluice_oldest_pending_seconds", "sink" => sink.sink).set(sink.oldest_seconds);
                    }
                    *refreshed_at = Some(now);
                }
                Err(error) => tracing::warn!(%error, "cannot read what is owed, for /metrics"),
            }
        })
    }
}
