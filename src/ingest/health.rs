//! Whether ingest can commit: known from its commits while there are any, asked of the database otherwise.

use crate::clock;
use crate::ops::{Readiness, Ready};
use crate::shutdown::Shutdown;
use crate::store::ping::Ping;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A commit proves this much: within it nobody asks the database.
const FRESH: Duration = Duration::from_secs(2);

/// What the committers saw last.
#[derive(Debug, Default)]
pub struct Commits {
    last: Mutex<Option<Instant>>,
}

impl Commits {
    /// A batch was committed.
    pub fn succeeded(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::instant());
    }

    /// A batch was not.
    pub fn failed(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_fresh(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| clock::instant().duration_since(at) < FRESH)
    }
}

/// `/readyz` of ingest.
pub struct Health {
    pub commits: Arc<Commits>,
    pub ping: Ping,
    pub shutdown: Shutdown,
}

impl Readiness for Health {
    fn ready(&self) -> Ready<'_> {
        Box::pin(async {
            if self.shutdown.is_begun() {
                return Err("stopping".into());
            }
            if self.commits.is_fresh() {
                return Ok(());
            }
            self.ping.check().await.map_err(|reason| reason.to_string())
        })
    }
}
