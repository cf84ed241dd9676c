//! Group commit: takes what has queued, stores it in one statement, and answers each request after the commit.
//!
//! A committer outlives its database. While it cannot commit, requests give up by themselves after `commit_timeout` (503), it drops the events
//! that nobody waits for any more, and it tries again with the rest: a restart of Postgres within that time costs no request. Storing
//! a batch again is harmless whatever became of the first try, because what is there already is found to be a duplicate.

use super::database::Database;
use super::health::Commits;
use super::metrics::CommitMetrics;
use super::queue::{Job, Receipt, Room, next_batch};
use super::recent::{Recent, Request};
use super::wake::Wake;
use crate::clock;
use crate::event::NewEvent;
use crate::failpoint::failpoint;
use crate::store::events::Trouble;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// A batch ends here: larger ones commit no more bytes a second, and make their neighbours wait.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// After a failure, before the next try.
const PAUSE: Duration = Duration::from_millis(100);
/// `events.quarantine` of an event whose id is another's.
pub const CONFLICT: &str = "id already stored with another body";

/// One of a few: see the module's documentation.
pub struct Committer {
    pub database: Database,
    pub recent: Recent,
    pub wake: Wake,
    pub commits: Arc<Commits>,
    pub room: Arc<Room>,
    pub metrics: CommitMetrics,
    pub batch_events_max: usize,
    /// How long the database may be away before a request is refused after one try, instead of waiting for its return.
    pub commit_timeout: Duration,
    /// Since when nothing could be committed.
    pub failing_since: Option<Instant>,
}

/// An event to be stored, and the requests that wait for it.
struct Item {
    job: Job,
    /// The very same signed request, sent again while the first one waits.
    repeats: Vec<Job>,
    /// Whether it was cut down to what can always be stored: see [`Item::bared`].
    is_bare: bool,
}

/// What is to be done next, in this order: a stack, its top is the last.
enum Step {
    Insert(Vec<Item>),
    /// Their ids are taken: are they the same events?
    Compare(Vec<Item>),
}

impl Committer {
    /// Commits until the queue is closed and empty.
    pub async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        self.database.warm_up().await;
        while let Some(jobs) = next_batch(&mut queue, self.batch_events_max, BATCH_BYTES_MAX).await {
            self.commit(jobs).await;
            self.metrics.queued(self.room.used());
        }
        self.database.close().await;
    }

    async fn commit(&mut self, jobs: Vec<Job>) {
        if jobs.iter().any(|job| job.event.came_late) {
            // Only these are answered from memory, and only while the database is the one that it is of.
            self.database.confirm().await;
            self.follow_history();
        }
        let mut steps = vec![Step::Insert(self.group(jobs))];
        while let Some(step) = steps.pop() {
            let (mut items, is_insert) = match step {
                Step::Insert(items) => (items, true),
                Step::Compare(items) => (items, false),
            };
            items.retain(Item::is_waited_for);
            if items.is_empty() {
                continue;
            }
            let failed = if is_insert { self.insert(items, &mut steps).await } else { self.compare(items, &mut steps).await };
            let Err((trouble, items)) = failed else { continue };
            let again = |items| if is_insert { Step::Insert(items) } else { Step::Compare(items) };
            match trouble {
                Trouble::Again => steps.push(again(items)),
                Trouble::Data { code } => bisect(items, &code, &mut steps),
                Trouble::Unavailable { reason } => {
                    if !self.wait_for_database(&reason).await {
                        // Dropping the steps tells all requests in them that they are not committed.
                        return;
                    }
                    steps.push(again(items));
                }
            }
        }
    }

    /// Answers what is known to be committed, and lets repeats of a request within the batch wait for the first.
    fn group(&self, jobs: Vec<Job>) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::with_capacity(jobs.len());
        let mut first_at: HashMap<Request, usize> = HashMap::with_capacity(jobs.len());
        for job in jobs {
            // A quarantined request is found by its unique index. It must not stand for a genuine one.
            if job.event.quarantine.is_none() {
                if job.event.came_late && self.recent.contains(Request::of(&job.event)) {
                    job.answer(Receipt::Duplicate);
                    continue;
                }
                let request = Request::of_event(&job.event);
                if let Some(&first) = first_at.get(&request) {
                    items[first].repeats.push(job);
                    continue;
                }
                first_at.insert(request, items.len());
            }
            items.push(Item::new(job));
        }
        items
    }

    /// Stores the items and answers those that were stored; the others' ids are to be compared.
    async fn insert(&mut self, items: Vec<Item>, steps: &mut Vec<Step>) -> Result<(), (Trouble, Vec<Item>)> {
        let began = clock::instant();
        let events: Vec<&NewEvent> = items.iter().map(|item| &item.job.event).collect();
        let stored = match self.database.insert(&events).await {
            Ok(stored) => stored,
            Err(trouble) => return Err((trouble, items)),
        };
        failpoint!("commit-done");
        self.follow_history();
        self.committed();
        self.metrics.batch(items.len(), clock::instant().duration_since(began));
        let count = stored.iter().filter(|stored| **stored).count();
        if count > 0 {
            self.wake.hint(count);
        }
        let mut taken = Vec::new();
        for (item, stored) in items.into_iter().zip(stored) {
            match (stored, item.job.event.quarantine.is_some()) {
                (true, false) => {
                    self.recent.remember(Request::of(&item.job.event));
                    item.answer(Receipt::Received);
                }
                (true, true) => item.answer(Receipt::Quarantined),
                // Only the same quarantined request, or the same body under the same id, is in its way.
                (false, true) => item.answer(Receipt::Duplicate),
                (false, false) => taken.push(item),
            }
        }
        if !taken.is_empty() {
            steps.push(Step::Compare(taken));
        }
        Ok(())
    }

    /// Tells a redelivery from another event under the same id.
    async fn compare(&mut self, items: Vec<Item>, steps: &mut Vec<Step>) -> Result<(), (Trouble, Vec<Item>)> {
        let events: Vec<&NewEvent> = items.iter().map(|item| &item.job.event).collect();
        let hashes = match self.database.stored_hashes(&events).await {
            Ok(hashes) => hashes,
            Err(trouble) => return Err((trouble, items)),
        };
        let mut again = Vec::new();
        for (mut item, hash) in items.into_iter().zip(hashes) {
            match hash {
                Some(hash) if hash == item.job.event.payload_hash => {
                    self.recent.remember(Request::of(&item.job.event));
                    item.answer(Receipt::Duplicate);
                }
                Some(_) => {
                    item.job.event.quarantine = Some(CONFLICT.into());
                    // The same request may be genuine under another id, so each repeat is decided by itself.
                    let repeats = std::mem::take(&mut item.repeats);
                    again.push(item);
                    again.extend(repeats.into_iter().map(Item::new));
                }
                // What was in the way is gone: erased, or released from quarantine and renamed.
                None => again.push(item),
            }
        }
        if !again.is_empty() {
            steps.push(Step::Insert(again));
        }
        Ok(())
    }

    /// What is remembered may be what the database's history of now has lost.
    fn follow_history(&mut self) {
        if self.database.has_turned() {
            self.recent.forget();
        }
    }

    fn committed(&mut self) {
        self.commits.succeeded();
        if self.failing_since.take().is_some() {
            tracing::info!("events are committed again");
        }
    }

    /// Waits a moment before the next try; false when there should be none, because the database has been away for long.
    async fn wait_for_database(&mut self, reason: &str) -> bool {
        self.commits.failed();
        let Some(since) = self.failing_since else {
            // Often it is only this connection that was lost, and a new one works at once.
            self.failing_since = Some(clock::instant());
            tracing::warn!(reason, "could not commit events; trying again, and answering 503 where that takes too long");
            return true;
        };
        let away = clock::instant().duration_since(since);
        sleep(PAUSE).await;
        away < self.commit_timeout
    }
}

impl Item {
    fn new(job: Job) -> Self {
        Self { job, repeats: Vec::new(), is_bare: false }
    }

    fn is_waited_for(&self) -> bool {
        self.job.is_waited_for() || self.repeats.iter().any(Job::is_waited_for)
    }

    fn answer(self, receipt: Receipt) {
        self.job.answer(receipt);
        for repeat in self.repeats {
            // Of an event that was received now, only the first request received it.
            repeat.answer(Receipt::Duplicate);
        }
    }

    /// Cuts a row that the database refuses down to its payload, quarantined, under an id of our own.
    fn bared(mut self, code: &str) -> Self {
        let event = &mut self.job.event;
        *event = event.bared(format!("the database refused it (SQLSTATE {code})"));
        self.is_bare = true;
        self
    }
}

/// Splits a batch that holds a row which cannot be stored, until that row is alone: it never fails its neighbours.
fn bisect(mut items: Vec<Item>, code: &str, steps: &mut Vec<Step>) {
    if items.len() > 1 {
        let rest = items.split_off(items.len() / 2);
        steps.push(Step::Insert(rest));
        steps.push(Step::Insert(items));
    } else if let Some(item) = items.pop().filter(|item| !item.is_bare) {
        tracing::error!(code, "the database refused an event's columns; quarantining its payload alone");
        steps.push(Step::Insert(vec![item.bared(code)]));
    } else {
        tracing::error!(code, "the database refused an event even without its columns; answering 503");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::answers::Answer;
    use crate::ingest::queue::Queues;
    use bytes::Bytes;

    /// As many jobs as there are `bodies`, each with a request that waits for it.
    async fn items(bodies: &[&'static str]) -> (Vec<Item>, Vec<tokio::task::JoinHandle<Result<Receipt, Answer>>>) {
        let (queues, mut ends) = Queues::new(1, Arc::new(Room::new(100, 100)), Duration::from_secs(60));
        let queues = Arc::new(queues);
        let (mut items, mut requests) = (Vec::new(), Vec::new());
        for &body in bodies {
            let queues = Arc::clone(&queues);
            let event = NewEvent::new(&Arc::from("s"), Some(body), "1", Bytes::from_static(body.as_bytes()), Err("no".into()), "{}".into());
            requests.push(tokio::spawn(async move { queues.commit(event).await }));
            items.extend(next_batch(&mut ends[0], 1, 1).await.unwrap().into_iter().map(Item::new));
        }
        (items, requests)
    }

    fn ids(step: &Step) -> Vec<&str> {
        let (Step::Insert(items) | Step::Compare(items)) = step;
        items.iter().map(|item| item.job.event.event_id.as_str()).collect()
    }

    #[tokio::test]
    async fn a_refused_batch_is_halved_and_its_first_half_comes_first() {
        let (batch, _requests) = items(&["a", "b", "c", "d", "e"]).await;
        let mut steps = Vec::new();
        bisect(batch, "22021", &mut steps);
        assert_eq!(steps.iter().rev().map(ids).collect::<Vec<_>>(), [vec!["a", "b"], vec!["c", "d", "e"]]);
    }

    #[tokio::test]
    async fn a_refused_event_is_tried_once_more_without_its_columns_and_then_given_up() {
        let (batch, mut requests) = items(&["a"]).await;
        let mut steps = Vec::new();
        bisect(batch, "22021", &mut steps);
        let Some(Step::Insert(bare)) = steps.pop() else { panic!("it should be inserted again") };
        assert!(bare[0].is_bare && bare[0].job.event.derived_id);
        bisect(bare, "22021", &mut steps);
        assert!(steps.is_empty());
        assert_eq!(requests.pop().unwrap().await.unwrap(), Err(Answer::Unavailable));
    }
}
