//! What a worker counts, for `/metrics`.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// One sink's figures. Handles are made once: a look-up by name a delivery would cost more than the count.
pub struct SinkMetrics {
    pub delivered: Counter,
    pub skipped: Counter,
    pub dead: Counter,
    pub attempts_delivered: Counter,
    pub attempts_retry: Counter,
    pub attempts_dead: Counter,
    pub attempts_rest: Counter,
    pub attempt_seconds: Histogram,
    pub in_flight: Gauge,
    pub breaker_open: Gauge,
    pub lanes: Gauge,
}

impl SinkMetrics {
    pub fn new(sink: &str) -> Self {
        let sink = sink.to_owned();
        let terminal = |status: &'static str| counter!("sluice_deliveries_terminal_total", "sink" => sink.clone(), "status" => status);
        let attempts = |outcome: &'static str| counter!("sluice_attempts_total", "sink" => sink.clone(), "outcome" => outcome);
        Self {
            delivered: terminal("delivered"),
            skipped: terminal("skipped"),
            dead: terminal("dead"),
            attempts_delivered: attempts("delivered"),
            attempts_retry: attempts("retry"),
            attempts_dead: attempts("dead"),
            attempts_rest: attempts("sink_trouble"),
            attempt_seconds: histogram!("sluice_attempt_seconds", "sink" => sink.clone()),
            in_flight: gauge!("sluice_attempts_in_flight", "sink" => sink.clone()),
            breaker_open: gauge!("sluice_breaker_open", "sink" => sink.clone()),
            lanes: gauge!("sluice_lanes_owned", "sink" => sink),
        }
    }
}
