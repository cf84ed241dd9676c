//! Looks for webhooks that the provider has suspended, and switches them on again: `[mindtickle] watchdog`, off by default.
//!
//! Of all workers one does each round, whoever takes it on in `sluice.watchdog`; that row also keeps what the round saw. A webhook that
//! somebody switched off by hand is not suspended, and stays off.

use super::Shared;
use crate::config::Mindtickle;
use crate::provider::{Api, ApiError, List, Webhook};
use crate::store::watchdog::{self, Round};
use metrics::{Counter, Gauge, counter, gauge};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// For one round. Less than after which another worker would begin one.
const ROUND_MAX: Duration = Duration::from_secs(240);
/// For writing down what was seen, on the way out.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// Between two looks at whose turn it is, at least and at most.
const LOOK_MIN: Duration = Duration::from_millis(200);
const LOOK_MAX: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub struct Watchdog {
    api: Api,
    config: Mindtickle,
    every: Duration,
    metrics: Metrics,
}

struct Metrics {
    rounds: Counter,
    failed: Counter,
    reactivated: Counter,
    suspended: Gauge,
}

impl Watchdog {
    /// `None`: it is off.
    pub fn open(config: &Mindtickle) -> Result<Option<Self>, ApiError> {
        let Some(every) = config.watchdog else { return Ok(None) };
        metrics::describe_counter!("sluice_watchdog_rounds_total", "Times that the provider was asked about its webhooks, by outcome.");
        metrics::describe_counter!("sluice_watchdog_reactivated_total", "Suspended webhooks that were re-activated.");
        metrics::describe_gauge!("sluice_watchdog_suspended", "Suspended webhooks that this process found when it last asked.");
        let metrics = Metrics {
            rounds: counter!("sluice_watchdog_rounds_total", "outcome" => "done"),
            failed: counter!("sluice_watchdog_rounds_total", "outcome" => "failed"),
            reactivated: counter!("sluice_watchdog_reactivated_total"),
            suspended: gauge!("sluice_watchdog_suspended"),
        };
        Ok(Some(Self { api: Api::open(config)?, config: config.clone(), every, metrics }))
    }

    /// Watches until the shutdown begins.
    pub async fn run(self, shared: Arc<Shared>) {
        while !shared.shutdown.is_begun() {
            let wait = self.turn(&shared).await;
            tokio::select! {
                () = shared.shutdown.begun() => {}
                () = sleep(wait.clamp(LOOK_MIN, LOOK_MAX)) => {}
            }
        }
    }

    /// Does a round, if it is this worker's turn; returns how long to wait before looking again.
    async fn turn(&self, shared: &Shared) -> Duration {
        let claimed = tokio::select! {
            claimed = shared.control(async |conn| watchdog::claim(conn, &shared.name, self.every.as_secs_f64()).await) => claimed,
            () = shared.shutdown.begun() => return LOOK_MIN,
        };
        match claimed {
            Ok(turn) if turn.is_ours => {}
            // Not positive, or not a number: another worker is taking it on.
            Ok(turn) => return turn.seconds_left.and_then(|left| Duration::try_from_secs_f64(left).ok()).unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "the watchdog cannot tell whose turn it is");
                return LOOK_MAX;
            }
        }
        // Outlives what is broken off below: what was done is done.
        let mut round = Round::default();
        let is_over = tokio::select! {
            in_time = timeout(ROUND_MAX, self.round(&mut round)) => Some(in_time.is_ok()),
            () = shared.shutdown.begun() => None,
        };
        match is_over {
            Some(true) => {}
            Some(false) => round.error = Some("it took too long".into()),
            None => round.is_cut_short = true,
        }
        let recording = shared.control(async |conn| watchdog::record(conn, &round).await);
        let recorded = match shared.shutdown.is_begun() {
            true => timeout(LEAVE_MAX, recording).await.unwrap_or(Ok(())),
            false => recording.await,
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, "the watchdog cannot write down what it saw");
        }
        self.every
    }

    /// Asks, and switches on what is suspended.
    async fn round(&self, round: &mut Round) {
        let List { webhooks, unseen } = match self.api.list().await {
            Ok(list) => list,
            Err(error) => return self.failed(round, error.to_string()),
        };
        if let Some(unseen) = unseen {
            self.failed(round, unseen);
        }
        let watched: Vec<_> = webhooks.iter().filter(|webhook| self.is_watched(webhook)).collect();
        let suspended: Vec<_> = watched.iter().filter(|webhook| webhook.is_suspended()).collect();
        let count = |of: usize| i32::try_from(of).unwrap_or(i32::MAX);
        round.seen = Some((count(watched.len()), count(suspended.len())));
        self.metrics.suspended.set(suspended.len() as f64);
        for webhook in suspended {
            let id = &webhook.webhook_id;
            match self.api.reactivate(id).await {
                Ok(_) => {
                    tracing::warn!(webhook = %id, "the provider had suspended this webhook: it was re-activated. What it gave up meanwhile is lost");
                    self.metrics.reactivated.increment(1);
                    round.reactivated.push(id.to_string());
                }
                Err(error) => self.failed(round, error.to_string()),
            }
        }
        if round.error.is_none() {
            self.metrics.rounds.increment(1);
        }
    }

    fn failed(&self, round: &mut Round, error: String) {
        tracing::warn!(error, "the watchdog could not see to the provider's webhooks");
        self.metrics.failed.increment(1);
        round.error = Some(error);
    }

    fn is_watched(&self, webhook: &Webhook) -> bool {
        let of_us = match (&self.config.company_id, &webhook.company_id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        of_us && self.config.webhooks.as_ref().is_none_or(|named| named.contains(&webhook.webhook_id))
    }
}
