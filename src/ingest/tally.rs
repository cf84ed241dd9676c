//! Writes down what is refused, by the minute, for `sluice doctor` and for a look in SQL: a metric is gone with its process, and
//! whoever looks for the cause of a silence comes later.
//!
//! Where nothing is refused, nothing is written and no connection is open.

use super::answers::Answer;
use crate::store::refusals::{self, Refused};
use crate::store::servers::Servers;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Between two writes: the first refusal is written at once, and a flood of them costs no more than this.
const APART: Duration = Duration::from_secs(5);
/// For connecting and writing.
const PATIENCE: Duration = Duration::from_secs(10);

/// All sources' counts.
#[derive(Debug, Default)]
pub struct Tally {
    sources: Vec<OfSource>,
    wake: Arc<Notify>,
}

/// One source's counts since they were last written.
#[derive(Debug, Clone)]
pub struct OfSource {
    source: Arc<str>,
    counts: Arc<Counts>,
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Counts {
    forbidden: AtomicU64,
    unsigned: AtomicU64,
}

impl Tally {
    /// The counts of one more source.
    pub fn of(&mut self, source: &Arc<str>) -> OfSource {
        let counts = OfSource { source: Arc::clone(source), counts: Arc::default(), wake: Arc::clone(&self.wake) };
        self.sources.push(counts.clone());
        counts
    }

    /// Writes for ever what there is to write.
    pub async fn run(self, servers: Servers) {
        loop {
            self.wake.notified().await;
            let refused = self.take();
            let written = timeout(PATIENCE, async { refusals::count(&mut *servers.connect().await?, &refused).await });
            let failed = match written.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the database did not answer in 10 s".into()),
            };
            // Lost counts are lost figures, not lost events: no second try.
            if let Some(error) = failed {
                tracing::warn!(error, "cannot write down how many requests were refused");
            }
            sleep(APART).await;
        }
    }

    fn take(&self) -> Vec<Refused> {
        let take = |count: &AtomicU64| i64::try_from(count.swap(0, Ordering::Relaxed)).unwrap_or(i64::MAX);
        let of = |of: &OfSource| Refused {
            source: Arc::clone(&of.source),
            forbidden: take(&of.counts.forbidden),
            unsigned: take(&of.counts.unsigned),
        };
        self.sources.iter().map(of).filter(|refused| refused.forbidden + refused.unsigned > 0).collect()
    }
}

impl OfSource {
    /// Counts an answer, if it is a refusal.
    pub fn count(&self, answer: Answer) {
        let count = match answer {
            Answer::Forbidden => &self.counts.forbidden,
            Answer::Unsigned => &self.counts.unsigned,
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }
}
