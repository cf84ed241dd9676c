//! Tries: which row goes next, and the try itself. What follows from it: [`super::conclude`].

use super::Shared;
use super::conclude::{Tried, conclude, conclude_unsent, conclude_untried, forget, return_untried, target};
use super::objects::deliver_in_turn;
use super::pipe::{Item, Pipe};
use super::queue::{Row, Taken};
use crate::clock;
use crate::delivery::{Blame, Failure, Outcome};
use crate::failpoint::failpoint;
use crate::store::sinks;
use crate::store::{deliveries, outcomes};
use bytes::Bytes;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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
        // Boxed here: the future of a try is kilobytes large, and each layer that it is handed through would move it.
        shared.clone().shutdown.spawn(Box::pin(async move {
            // A worker without a lease must not go on: what it was doing belongs to another now.
            let done = tries.run_until_cancelled(attempt(&shared, &pipe, batch)).await.is_some();
            pipe.in_flight.fetch_sub(1, Ordering::Relaxed);
            if !done {
                tracing::warn!(sink = %pipe.name, "a try was abandoned");
            }
            pipe.wake.notify_one();
        }));
    }
}

/// A batch ends with the payload that makes it so large, of those that were too large to be read ahead.
const BATCH_BYTES_MAX: usize = 2 << 20;

/// Rows of different keys, as many as the sink takes at once. A suspect goes alone, and so does each row where there is a
/// rate: it counts deliveries.
fn next_batch(pipe: &Pipe) -> Vec<Taken<Box<Item>>> {
    let batch_max = if pipe.config.rate_per_second.is_some() { 1 } else { pipe.sink.batch_max() };
    let mut queue = pipe.queue();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < batch_max {
        let Some(taken) = queue.take() else { break };
        let alone = taken.suspect;
        bytes += taken.row.item.payload_left.unwrap_or(0);
        batch.push(taken);
        if alone || bytes >= BATCH_BYTES_MAX {
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
    // Kept until the try is over.
    let _room = shared.payload_room(batch.iter().filter_map(|taken| taken.row.item.payload_left).sum()).await;
    if batch.iter().any(|taken| taken.suspect || taken.row.item.payload_left.is_some()) {
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

/// What must be there before the try: payloads that were too large to be read ahead, and a suspect's try on record.
/// `None`: there is nothing to try, and what that means has been concluded.
async fn prepare(shared: &Arc<Shared>, pipe: &Arc<Pipe>, mut batch: Vec<Taken<Box<Item>>>) -> Option<Vec<Taken<Box<Item>>>> {
    let mut ready = Vec::with_capacity(batch.len());
    for mut taken in batch.drain(..) {
        if taken.row.item.delivery.is_none() {
            conclude_untried(shared, pipe, taken, "its event was deleted");
            continue;
        }
        if taken.row.item.payload_left.is_some() {
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
            if usize::from(taken.row.mark) >= outcomes::MARKS.len() {
                conclude_untried(shared, pipe, taken, "each time it was tried its worker ended, three times in a row, the last time alone");
                continue;
            }
            let (target, worker) = (target(pipe, &taken.row), shared.lease.id());
            match shared.control(async |conn| outcomes::charge(conn, &target, taken.row.key, worker, taken.row.mark).await).await {
                Ok(true) => (taken.row.item.charged, taken.row.item.has_row) = (true, true),
                Ok(false) => {
                    forget(shared, pipe, taken);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(sink = %pipe.name, %error, "cannot write down a suspect's try; trying again");
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

/// A row whose try counts for nothing. What was written down before a suspect's is taken back.
async fn put_back(shared: &Shared, pipe: &Pipe, mut row: Row<Box<Item>>) {
    if row.item.charged {
        let target = target(pipe, &row);
        if let Err(error) = shared.control(async |conn| outcomes::uncharge(conn, &target).await).await {
            tracing::warn!(sink = %pipe.name, %error, "cannot take back what was written down of a suspect's try");
        }
        row.item.charged = false;
    }
    if row.item.payload_left.is_some()
        && let Some(delivery) = &mut row.item.delivery
    {
        // Read again before its next try: whoever waits holds no large payload.
        delivery.payload = Bytes::new();
    }
    pipe.queue().put_back(row);
}
