//! Ingest's metrics. Handles are made once: looking one up by its labels costs more than the rest of a count.

use super::answers::Answer;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use std::collections::HashMap;
use std::time::Duration;

/// Names of sources become labels; nothing of a request does.
pub struct SourceMetrics {
    requests: HashMap<&'static str, Counter>,
    refusals_spike: Gauge,
}

impl SourceMetrics {
    pub fn new(source: &str) -> Self {
        metrics::describe_counter!("sluice_ingest_requests_total", "Requests by source and outcome.");
        let of = |answer: Answer| {
            let outcome = answer.outcome();
            (outcome, counter!("sluice_ingest_requests_total", "source" => source.to_owned(), "outcome" => outcome))
        };
        metrics::describe_gauge!(
            "sluice_ingest_refusals_spike",
            "1 while most requests of a source do not verify, as after a rotated secret."
        );
        let refusals_spike = gauge!("sluice_ingest_refusals_spike", "source" => source.to_owned());
        refusals_spike.set(0.0);
        Self { requests: Answer::OF_SOURCE.into_iter().map(of).collect(), refusals_spike }
    }

    pub fn refusals_spike(&self, is_spike: bool) {
        self.refusals_spike.set(f64::from(u8::from(is_spike)));
    }

    pub fn count(&self, answer: Answer) {
        if let Some(counter) = self.requests.get(answer.outcome()) {
            counter.increment(1);
        }
    }
}

/// One set a committer.
pub struct CommitMetrics {
    batch_events: Histogram,
    commit_seconds: Histogram,
    queue_events: Gauge,
    queue_bytes: Gauge,
}

impl CommitMetrics {
    pub fn new() -> Self {
        metrics::describe_histogram!("sluice_ingest_batch_events", "Events in one commit.");
        metrics::describe_histogram!("sluice_ingest_commit_seconds", "From a batch's statement to its commit.");
        metrics::describe_gauge!("sluice_ingest_queue_events", "Verified events that wait for their commit.");
        metrics::describe_gauge!("sluice_ingest_queue_bytes", "Bytes of payload that wait for their commit.");
        Self {
            batch_events: histogram!("sluice_ingest_batch_events"),
            commit_seconds: histogram!("sluice_ingest_commit_seconds"),
            queue_events: gauge!("sluice_ingest_queue_events"),
            queue_bytes: gauge!("sluice_ingest_queue_bytes"),
        }
    }

    pub fn batch(&self, events: usize, took: Duration) {
        self.batch_events.record(events as f64);
        self.commit_seconds.record(took.as_secs_f64());
    }

    pub fn queued(&self, (events, bytes): (usize, usize)) {
        self.queue_events.set(events as f64);
        self.queue_bytes.set(bytes as f64);
    }
}
