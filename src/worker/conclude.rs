//! What follows from an outcome: decided, counted, told to the breaker, and sent on to be recorded.

use super::Shared;
use super::finish::{What, Write};
use super::pipe::{Item, Pipe};
use super::queue::{Row, Taken};
use crate::clock;
use crate::delivery::{Blame, Decision, Failure, Outcome, Standing, decide};
use crate::store::deliveries::Origin;
use crate::store::outcomes::{FailedTry, Finished, Postponed, Target};
use crate::store::sinks;
use chrono::{DateTime, SubsecRound, Utc};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When a try began, and how long it took.
pub struct Tried {
    pub started_at: DateTime<Utc>,
    pub duration: Duration,
}

/// Decides what follows from an outcome, and sends it on to be recorded. Returns the row if its try counts for nothing.
pub fn conclude(
    shared: &Arc<Shared>,
    pipe: &Arc<Pipe>,
    taken: Taken<Box<Item>>,
    outcome: Outcome,
    tried: &Tried,
) -> Option<Row<Box<Item>>> {
    let row = taken.row;
    let attempt = row.attempts as u32 + 1;
    let now = clock::instant();
    let decision = {
        let resting = pipe.breaker().is_resting();
        let others_succeed = blames_sink(&outcome, resting) && pipe.note_trouble(row.seq);
        decide(&outcome, attempt, &pipe.config.policy, Standing { resting, others_succeed }, clock::jitter())
    };
    pipe.queue().tried(row.place(), taken.suspect);
    count(pipe, &decision, tried.duration);
    match (&decision, &outcome) {
        (Decision::Delivered | Decision::Skipped, _) => {
            pipe.note_success(row.seq);
            if pipe.breaker().succeeded(now) {
                close_breaker(shared, pipe);
            }
        }
        (Decision::Rest(rest), Outcome::Failed(failure)) => {
            // Its own wish or refusal makes the sink rest; stragglers of a sink that rests already do not prolong it,
            // but a probe that failed does.
            let asks = matches!(failure.blame, Blame::RateLimit | Blame::Refused);
            if asks || pipe.breaker().failed() {
                open_breaker(shared, pipe, asks.then_some(*rest), &failure.error, now);
            }
        }
        (Decision::Retry(_) | Decision::Dead, Outcome::Failed(failure)) if failure.blame != Blame::Permanent => {
            if pipe.breaker().failed() {
                open_breaker(shared, pipe, None, &failure.error, now);
            }
        }
        // A permanent failure is an answer: the sink is well.
        _ => {
            if pipe.breaker().succeeded(now) {
                close_breaker(shared, pipe);
            }
        }
    }
    if let Decision::Rest(_) = decision {
        return Some(row);
    }
    record(shared, pipe, row, attempt as i32, &outcome, &decision, tried);
    None
}

/// Whether an outcome would be charged to the sink.
fn blames_sink(outcome: &Outcome, resting: bool) -> bool {
    match outcome {
        Outcome::Failed(failure) => matches!(failure.blame, Blame::RateLimit | Blame::Refused) || (resting && failure.blame == Blame::Sink),
        _ => false,
    }
}

/// A delivery that cannot be tried at all is dead.
pub fn conclude_untried(shared: &Arc<Shared>, pipe: &Arc<Pipe>, taken: Taken<Box<Item>>, error: &str) {
    conclude_unsent(shared, pipe, taken, &Outcome::Failed(Failure::permanent(error)));
}

/// A delivery that is over before it was sent: skipped or dead. That says nothing about the sink.
pub fn conclude_unsent(shared: &Arc<Shared>, pipe: &Arc<Pipe>, taken: Taken<Box<Item>>, outcome: &Outcome) {
    let tried = Tried { started_at: clock::now(), duration: Duration::ZERO };
    let decision = if matches!(outcome, Outcome::Skipped { .. }) { Decision::Skipped } else { Decision::Dead };
    let row = taken.row;
    pipe.queue().tried(row.place(), taken.suspect);
    count(pipe, &decision, tried.duration);
    let attempts = row.attempts + i32::from(decision == Decision::Dead);
    record(shared, pipe, row, attempts, outcome, &decision, &tried);
}

/// A row that is not as it was read is read again.
pub fn forget(shared: &Shared, pipe: &Arc<Pipe>, taken: Taken<Box<Item>>) {
    let place = taken.row.place();
    pipe.queue().tried(place, taken.suspect);
    shared.write(Write {
        pipe: pipe.clone(),
        place,
        head: true,
        counted: false,
        what: What::Nothing(target(pipe, &taken.row)),
        failed: None,
    });
}

pub fn return_untried(pipe: &Pipe, taken: Taken<Box<Item>>) {
    let mut queue = pipe.queue();
    queue.tried(taken.row.place(), taken.suspect);
    queue.put_back(taken.row);
}

pub fn target(pipe: &Pipe, row: &Row<Box<Item>>) -> Target {
    // One whose try was written down before it began has a row by that.
    let is_fresh = row.origin == Origin::Fresh && !row.item.has_row;
    Target { event_seq: row.seq, sink: pipe.name.clone(), generation: row.generation, attempts: row.attempts, lane: row.lane, is_fresh }
}

/// Sends what became of a row on to the finisher, and with it the later events of its key, if they must wait now.
fn record(shared: &Shared, pipe: &Arc<Pipe>, row: Row<Box<Item>>, attempts: i32, outcome: &Outcome, decision: &Decision, tried: &Tried) {
    let (place, target) = (row.place(), target(pipe, &row));
    let (last_status, last_error) = match outcome {
        Outcome::Delivered { status } => (status.map(|status| status as i16), None),
        Outcome::Skipped { reason } => (None, Some(reason.clone())),
        Outcome::Failed(failure) => (failure.status.map(|status| status as i16), Some(failure.error.clone())),
    };
    let failed = match outcome {
        Outcome::Failed(failure) => Some(FailedTry {
            target: target.clone(),
            number: attempts,
            started_at: tried.started_at,
            duration_ms: tried.duration.as_millis() as i64,
            outcome: if matches!(decision, Decision::Dead) { "dead" } else { "retry" },
            status: last_status,
            error: failure.error.clone(),
            response: failure.response.clone(),
        }),
        _ => None,
    };
    let finish = |status, last_error| What::Finish(Finished { target: target.clone(), status, attempts, last_status, last_error });
    let what = match decision {
        Decision::Delivered => finish("delivered", last_error),
        Decision::Skipped => finish("skipped", last_error),
        Decision::Dead => finish("dead", last_error),
        Decision::Retry(after) => {
            // To the microsecond, as the database keeps it: what comes back must not seem to be due earlier.
            let due_at = (shared.clock.now() + *after).trunc_subsecs(6);
            // The lease first: where it is lost in between, the row is not the next one's to postpone.
            let (worker, due_at) = (shared.lease.id(), Some(due_at));
            let later = pipe.queue().block(place);
            let what =
                What::Postpone(Postponed { target: target.clone(), worker, attempts, due_at, key: row.key, last_status, last_error });
            shared.write(Write { pipe: pipe.clone(), place, head: true, counted: false, what, failed });
            for row in later {
                park(shared, pipe, &row, worker);
            }
            return;
        }
        // The caller puts the row back instead.
        Decision::Rest(_) => return,
    };
    shared.write(Write { pipe: pipe.clone(), place, head: true, counted: false, what, failed });
}

/// Makes a row wait for its predecessors: it has no time of its own. `worker`: the lease under which that was found, asked for before.
pub fn park(shared: &Shared, pipe: &Arc<Pipe>, row: &Row<Box<Item>>, worker: i64) {
    let target = target(pipe, row);
    let postponed = Postponed { target, worker, attempts: row.attempts, due_at: None, key: row.key, last_status: None, last_error: None };
    shared.write(Write {
        pipe: pipe.clone(),
        place: row.place(),
        head: false,
        counted: false,
        what: What::Postpone(postponed),
        failed: None,
    });
}

fn count(pipe: &Pipe, decision: &Decision, duration: Duration) {
    let (mut counts, metrics) = (pipe.counts(), &pipe.metrics);
    counts.duration_ms += duration.as_millis() as i64;
    match decision {
        Decision::Delivered => {
            counts.delivered += 1;
            metrics.delivered.increment(1);
            metrics.attempts_delivered.increment(1);
        }
        Decision::Skipped => {
            counts.skipped += 1;
            metrics.skipped.increment(1);
        }
        Decision::Dead => {
            counts.dead += 1;
            metrics.dead.increment(1);
            metrics.attempts_dead.increment(1);
        }
        Decision::Retry(_) => {
            counts.retried += 1;
            metrics.attempts_retry.increment(1);
        }
        Decision::Rest(_) => metrics.attempts_rest.increment(1),
    }
}

/// Makes the sink rest, here at once and everywhere through the database. `asked`: for as long as the sink asked.
fn open_breaker(shared: &Arc<Shared>, pipe: &Arc<Pipe>, asked: Option<Duration>, reason: &str, now: Instant) {
    let rest = asked.unwrap_or(pipe.config.breaker.rest);
    pipe.breaker().open(rest, now);
    pipe.metrics.breaker_open.set(1.0);
    let (shared, pipe, reason) = (shared.clone(), pipe.clone(), reason.to_owned());
    shared.clone().shutdown.spawn(async move {
        let (seconds, cap) = (rest.as_secs_f64(), pipe.config.breaker.cap.as_secs_f64());
        let opened = shared.control(async |conn| sinks::open_breaker(conn, &pipe.name, seconds, cap, asked.is_some(), &reason).await).await;
        match opened {
            Ok(left) => {
                tracing::warn!(sink = %pipe.name, rest_seconds = left, reason, "the sink rests");
                pipe.breaker().open(Duration::from_secs_f64(left.max(0.0)), clock::instant());
            }
            Err(error) => tracing::warn!(sink = %pipe.name, reason, %error, "the sink rests; other workers could not be told"),
        }
        pipe.wake.notify_one();
    });
}

fn close_breaker(shared: &Arc<Shared>, pipe: &Arc<Pipe>) {
    pipe.metrics.breaker_open.set(0.0);
    let (shared, pipe) = (shared.clone(), pipe.clone());
    shared.clone().shutdown.spawn(async move {
        match shared.control(async |conn| sinks::close_breaker(conn, &pipe.name).await).await {
            Ok(()) => tracing::info!(sink = %pipe.name, "the sink is back"),
            Err(error) => tracing::warn!(sink = %pipe.name, %error, "the sink is back; other workers could not be told"),
        }
    });
}
