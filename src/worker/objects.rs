//! Sinks that keep a state: no event may change an object that a newer one has changed already.
//!
//! Order by key is not enough for that: a replay, and an event that was dead while its successors went through, come after
//! them on purpose. So the newest event applied to each object is on record (`sluice.applied`), an older one is skipped as
//! *superseded*, and no two tries change one object at a time: what is decided before a try must still hold at its end.

use super::Shared;
use super::attempt::deliver;
use super::pipe::Pipe;
use crate::delivery::{Blame, Failure, Outcome};
use crate::sink::Delivery;
use crate::store::applied;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Objects that are being changed by this worker. Another has none of them: it has other lanes.
#[derive(Default)]
pub struct Objects {
    busy: Mutex<HashSet<String>>,
    freed: Notify,
}

/// Objects that are one try's alone, until it is dropped.
struct Hold<'a> {
    objects: &'a Objects,
    names: Vec<String>,
}

impl Objects {
    /// Waits until none of these is busy. All at once: who holds some never waits for others.
    async fn hold(&self, names: Vec<String>) -> Hold<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
                if !names.iter().any(|name| busy.contains(name)) {
                    busy.extend(names.iter().cloned());
                    return Hold { objects: self, names };
                }
            }
            freed.await;
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut busy = self.objects.busy.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            busy.remove(name);
        }
        drop(busy);
        self.objects.freed.notify_waiters();
    }
}

/// [`deliver`], in rounds in which no object comes twice; what is superseded is not sent.
pub async fn deliver_in_turn(shared: &Shared, pipe: &Pipe, deliveries: &[Delivery]) -> Vec<Outcome> {
    let objects: Vec<Option<String>> = deliveries.iter().map(|delivery| pipe.sink.object(delivery)).collect();
    if objects.iter().all(Option::is_none) {
        return deliver(pipe, deliveries).await;
    }
    let mut outcomes: Vec<Option<Outcome>> = vec![None; deliveries.len()];
    while let round @ [_, ..] = &*next_round(&objects, &outcomes) {
        for (&n, outcome) in round.iter().zip(deliver_round(shared, pipe, deliveries, &objects, round).await) {
            outcomes[n] = Some(outcome);
        }
    }
    outcomes.into_iter().flatten().collect()
}

/// Which deliveries are next: those without an outcome, the first of each object.
fn next_round(objects: &[Option<String>], outcomes: &[Option<Outcome>]) -> Vec<usize> {
    let mut seen = HashSet::new();
    (0..objects.len()).filter(|&n| outcomes[n].is_none() && objects[n].as_ref().is_none_or(|object| seen.insert(object))).collect()
}

async fn deliver_round(shared: &Shared, pipe: &Pipe, all: &[Delivery], objects: &[Option<String>], round: &[usize]) -> Vec<Outcome> {
    let names: Vec<&str> = round.iter().filter_map(|&n| objects[n].as_deref()).collect();
    let _hold = pipe.objects.hold(names.iter().map(|name| (*name).to_owned()).collect()).await;
    let newest = match shared.control(async |conn| applied::newest(conn, &pipe.name, &names).await).await {
        Ok(newest) => newest,
        Err(error) => return vec![unknown("cannot ask what was applied already", &error); round.len()],
    };
    let is_superseded = |n: usize| objects[n].as_ref().and_then(|object| newest.get(object)).is_some_and(|&seq| seq > all[n].seq);
    let sent: Vec<usize> = round.iter().copied().filter(|&n| !is_superseded(n)).collect();
    let batch: Vec<Delivery> = sent.iter().map(|&n| all[n].clone()).collect();
    let mut answers = if batch.is_empty() { Vec::new() } else { deliver(pipe, &batch).await };

    let applied = sent.iter().zip(&answers).filter(|(_, outcome)| matches!(outcome, Outcome::Delivered { .. }));
    let (changed, seqs): (Vec<&str>, Vec<i64>) = applied.filter_map(|(&n, _)| Some((objects[n].as_deref()?, all[n].seq))).unzip();
    if !changed.is_empty()
        && let Err(error) = shared.control(async |conn| applied::record(conn, &pipe.name, &changed, &seqs).await).await
    {
        // It is there, and nothing says so: it is sent again, which changes nothing.
        for answer in answers.iter_mut().filter(|answer| matches!(answer, Outcome::Delivered { .. })) {
            *answer = unknown("it was applied, which could not be recorded", &error);
        }
    }
    let mut answers = answers.into_iter();
    let superseded = || Outcome::Skipped { reason: "superseded".into() };
    round.iter().map(|&n| if is_superseded(n) { superseded() } else { answers.next().unwrap_or_else(superseded) }).collect()
}

fn unknown(what: &str, error: &sqlx::Error) -> Outcome {
    Outcome::Failed(Failure { blame: Blame::Event, status: None, error: format!("{what}: {error}"), response: None, retry_after: None })
}
