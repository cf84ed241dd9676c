//! Tries: which row goes next, the try itself, and what follows from its outcome.

use super::Shared;
use super::finish::{What, Write};
use super::objects::deliver_in_turn;
use super::pipe::{Item, Pipe};
use super::queue::{Row, Taken};
use crate::clock;
use crate::delivery::{Blame, Decision, Failure, Outcome, Standing, decide};
use crate::failpoint::failpoint;
use crate::store::deliveries::{self, FailedTry, Finished, Postponed, Target};
use crate::store::sinks;
use chrono::{DateTime, SubsecRound, Utc};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Starts tries of one sink while there are rows, slots, and a lease, until the shutdown begins.
pub async fn run(shared: Arc<Shared>, pipe: Arc<Pipe>) {
    loop {
        let pause = start_tries(&shared, &pipe).await;
        tokio::select! {
            () = shared.shutdown.begun() => return,
            () = pipe.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Nothing to wait for but a wake-up.
const IDLE: Duration = Duration::from_secs(3600);

/// Starts what can be started; returns how long until it is worth looking again without a wake-up.
async fn start_tries(shared: &Arc<Shared>, pipe: &Arc<Pipe>) -> Duration {
    loop {
        if shared.shutdown.is_begun() || pipe.paused.load(Ordering::Relaxed) || shared.store_down.load(Ordering::Relaxed) {
            return IDLE;
        }
        let now = clock::instant();
        let rests_until = pipe.breaker().rests_until();
        if let Some(until) = rests_until {
            if now < until {
                return until - now;
            }
            if !pipe.queue().has_ready() {
                return IDLE;
            }
            match ask_for_probe(shared, pipe).await {
                // That took a while, in which much can have changed.
                None => continue,
                Some(pause) => return pause,
            }
        }
        let Some(tries) = shared.lease.tries() else { return IDLE };
        let room = pipe.breaker().limit().saturating_sub(pipe.in_flight.load(Ordering::Relaxed));
        if room == 0 || pipe.unrecorded.load(Ordering::Relaxed) >= pipe.unrecorded_max() {
            return IDLE;
        }
        if let Some(mut rate) = pipe.rate()
            && pipe.queue().has_ready()
            && let Err(pause) = rate.take(now)
        {
            return pause;
        }
        let batch = next_batch(pipe);
        if batch.is_empty() {
            return IDLE;
        }
        pipe.in_flight.fetch_add(1, Ordering::Relaxed);
        let (shared, pipe) = (shared.clone(), pipe.clone());
        shared.clone().shutdown.spawn(async move {
            // A worker without a lease must not go on: what it was doing belongs to another now.
            let done = tries.run_until_cancelled(attempt(&shared, &pipe, batch)).await.is_some();
            pipe.in_flight.fetch_sub(1, Ordering::Relaxed);
            if !done {
                tracing::warn!(sink = %pipe.name, "a try was abandoned");
            }
            pipe.wake.notify_one();
        });
    }
}

/// Rows of different keys, as many as the sink takes at once. A suspect goes alone, and so does each row where there is a
/// rate: it counts deliveries.
fn next_batch(pipe: &Pipe) -> Vec<Taken<Box<Item>>> {
    let batch_max = if pipe.config.rate_per_second.is_some() { 1 } else { pipe.sink.batch_max() };
    let mut queue = pipe.queue();
    let mut batch = Vec::new();
    while batch.len() < batch_max {
        let Some(taken) = queue.take() else { break };
        let alone = taken.suspect;
        batch.push(taken);
        if alone {
            break;
        }
    }
    batch
}

/// Asks to be the worker that probes. `None`: it is; otherwise how long to wait.
async fn ask_for_probe(shared: &Shared, pipe: &Pipe) -> Option<Duration> {
    let seconds = pipe.config.timeout.as_secs_f64() + 5.0;
    let asked = shared.control(async |conn| sinks::begin_probe(conn, &pipe.name, seconds).await).await;
    match asked {
        Ok(true) => {
            pipe.breaker().probe(clock::instant());
            None
        }
        // Another worker probes, or the operator paused the sink: the next renewal tells.
        Ok(false) => Some(Duration::from_secs(1)),
        Err(error) => {
            tracing::warn!(sink = %pipe.name, %error, "cannot ask for the probe; trying again");
            Some(Duration::from_secs(1))
        }
    }
}

/// One try of a batch, to the end: outcome decided, and on its way to being recorded.
async fn attempt(shared: &Arc<Shared>, pipe: &Arc<Pipe>, batch: Vec<Taken<Box<Item>>>) {
    let mut batch = batch;
    if batch.iter().any(|taken| taken.suspect || taken.row.item.payload_left) {
        // Boxed, because it is seldom needed, and its size would be copied with every try.
        let Some(prepared) = Box::pin(prepare(shared, pipe, batch)).await else { return };
        batch = prepared;
    }
    if pipe.config.when.is_some() {
        batch = sift(shared, pipe, batch);
        if batch.is_empty() {
            return;
        }
    }
    let (started_at, began) = (clock::now(), clock::instant());
    let deliveries: Vec<_> = batch.iter_mut().filter_map(|taken| taken.row.item.delivery.take()).collect();
    failpoint!("try-begins");
    let outcomes = deliver_in_turn(shared, pipe, &deliveries).await;
    failpoint!("try-done");
    let duration = clock::instant().saturating_duration_since(began);
    pipe.metrics.attempt_seconds.record(duration.as_secs_f64());
    let tried = Tried { started_at, duration };
    for ((mut taken, delivery), outcome) in batch.into_iter().zip(deliveries).zip(outcomes) {
        taken.row.item.delivery = Some(delivery);
        if let Some(row) = conclude(shared, pipe, taken, outcome, &tried) {
            Box::pin(put_back(shared, pipe, row)).await;
        }
    }
}

/// When a try began, and how long it took.
struct Tried {
    started_at: DateTime<Utc>,
    duration: Duration,
}

/// What must be there before the try: payloads that were too large to be read ahead, and a suspect's attempt on record.
/// `None`: there is nothing to try, and what that means has been concluded.
async fn prepare(shared: &Arc<Shared>, pipe: &Arc<Pipe>, mut batch: Vec<Taken<Box<Item>>>) -> Option<Vec<Taken<Box<Item>>>> {
    let mut ready = Vec::with_capacity(batch.len());
    for mut taken in batch.drain(..) {
        if taken.row.item.payload_left {
            match shared.control(async |conn| deliveries::payload(conn, taken.row.seq).await).await {
                Ok(Some(payload)) => {
                    if let Some(delivery) = &mut taken.row.item.delivery {
                        delivery.payload = payload.into();
                    }
                }
                Ok(None) => {
                    conclude_untried(shared, pipe, taken, "its payload was erased or pruned");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(sink = %pipe.name, %error, "cannot read a payload; trying again");
                    return_untried(pipe, taken);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    continue;
                }
            }
        }
        if taken.suspect {
            if taken.row.attempts as u32 >= pipe.config.policy.max_attempts {
                conclude_untried(shared, pipe, taken, "each time it was tried its worker ended");
                continue;
            }
            let target = target(pipe, &taken.row);
            match shared.control(async |conn| deliveries::charge(conn, &target).await).await {
                Ok(true) => taken.row.item.charged = true,
                Ok(false) => {
                    forget(shared, pipe, taken);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(sink = %pipe.name, %error, "cannot count a suspect's attempt; trying again");
                    return_untried(pipe, taken);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    continue;
                }
            }
        }
        ready.push(taken);
    }
    (!ready.is_empty()).then_some(ready)
}

/// Keeps what the sink's `when` lets through. The rest is concluded: skipped where it is false, dead where it cannot be told, since a
/// mistake in the expression must not lose events without a sign.
fn sift(shared: &Arc<Shared>, pipe: &Arc<Pipe>, batch: Vec<Taken<Box<Item>>>) -> Vec<Taken<Box<Item>>> {
    let holds = |taken: &Taken<Box<Item>>| match (&pipe.config.when, &taken.row.item.delivery) {
        (Some(when), Some(delivery)) => delivery.subject().and_then(|subject| when.holds(&subject)),
        _ => Ok(true),
    };
    let mut kept = Vec::with_capacity(batch.len());
    for taken in batch {
        match holds(&taken) {
            Ok(true) => kept.push(taken),
            Ok(false) => conclude_unsent(shared, pipe, taken, &Outcome::Skipped { reason: "`when` is false for it".into() }),
            Err(error) => conclude_untried(shared, pipe, taken, &format!("cannot tell whether `when` holds: {error}")),
        }
    }
    kept
}

/// The call to the sink, bounded in time and safe from its panics: one outcome a delivery.
pub async fn deliver(pipe: &Pipe, deliveries: &[crate::sink::Delivery]) -> Vec<Outcome> {
    failpoint!("try-skipped", vec![Outcome::Delivered { status: None }; deliveries.len()]);
    let all = |blame, error: String| {
        let failure = Failure { blame, status: None, error, response: None, retry_after: None };
        vec![Outcome::Failed(failure); deliveries.len()]
    };
    let call = AssertUnwindSafe(async {
        failpoint!("sink-poisoned", if deliveries.iter().any(|delivery| delivery.event_id.starts_with("poison")));
        pipe.sink.deliver(deliveries).await
    })
    .catch_unwind();
    match tokio::time::timeout(pipe.config.timeout, call).await {
        Ok(Ok(outcomes)) if outcomes.len() == deliveries.len() => outcomes,
        Ok(Ok(_)) => all(Blame::Event, "the sink did not answer for each delivery of the batch".into()),
        Ok(Err(_)) => all(Blame::Event, "the sink's code panicked".into()),
        Err(_) => all(Blame::Sink, format!("no answer within {:?}", pipe.config.timeout)),
    }
}

/// A row whose try counts for nothing. A suspect's attempt was counted before the try: that is taken back.
async fn put_back(shared: &Shared, pipe: &Pipe, mut row: Row<Box<Item>>) {
    if row.item.charged {
        let target = target(pipe, &row);
        match shared.control(async |conn| deliveries::uncharge(conn, &target).await).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(sink = %pipe.name, %error, "cannot take back a suspect's attempt: it stays counted");
                row.attempts += 1;
            }
        }
        row.item.charged = false;
    }
    pipe.queue().put_back(row);
}

/// Decides what follows from an outcome, and sends it on to be recorded. Returns the row if its try counts for nothing.
fn conclude(shared: &Arc<Shared>, pipe: &Arc<Pipe>, taken: Taken<Box<Item>>, outcome: Outcome, tried: &Tried) -> Option<Row<Box<Item>>> {
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
fn conclude_untried(shared: &Arc<Shared>, pipe: &Arc<Pipe>, taken: Taken<Box<Item>>, error: &str) {
    conclude_unsent(shared, pipe, taken, &Outcome::Failed(Failure::permanent(error)));
}

/// A delivery that is over before it was sent: skipped or dead. That says nothing about the sink.
fn conclude_unsent(shared: &Arc<Shared>, pipe: &Arc<Pipe>, taken: Taken<Box<Item>>, outcome: &Outcome) {
    let tried = Tried { started_at: clock::now(), duration: Duration::ZERO };
    let decision = if matches!(outcome, Outcome::Skipped { .. }) { Decision::Skipped } else { Decision::Dead };
    let row = taken.row;
    pipe.queue().tried(row.place(), taken.suspect);
    count(pipe, &decision, tried.duration);
    let attempts = row.attempts + i32::from(decision == Decision::Dead);
    record(shared, pipe, row, attempts, outcome, &decision, &tried);
}

/// A row that is not as it was read is read again.
fn forget(shared: &Shared, pipe: &Arc<Pipe>, taken: Taken<Box<Item>>) {
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

fn return_untried(pipe: &Pipe, taken: Taken<Box<Item>>) {
    let mut queue = pipe.queue();
    queue.tried(taken.row.place(), taken.suspect);
    queue.put_back(taken.row);
}

fn target(pipe: &Pipe, row: &Row<Box<Item>>) -> Target {
    let attempts = row.attempts + i32::from(row.item.charged);
    Target { event_seq: row.seq, sink: pipe.name.clone(), generation: row.generation, attempts }
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
            let later = pipe.queue().block(place, due_at);
            let worker = shared.lease.id();
            let what = What::Postpone(Postponed { target: target.clone(), worker, attempts, due_at, last_status, last_error });
            shared.write(Write { pipe: pipe.clone(), place, head: true, counted: false, what, failed });
            for row in later {
                park(shared, pipe, &row, due_at);
            }
            return;
        }
        // The caller puts the row back instead.
        Decision::Rest(_) => return,
    };
    shared.write(Write { pipe: pipe.clone(), place, head: true, counted: false, what, failed });
}

/// Makes a row wait for its predecessor: nothing but its due time changes.
pub fn park(shared: &Shared, pipe: &Arc<Pipe>, row: &Row<Box<Item>>, due_at: DateTime<Utc>) {
    let (target, worker) = (target(pipe, row), shared.lease.id());
    let postponed = Postponed { target, worker, attempts: row.attempts, due_at, last_status: None, last_error: None };
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
