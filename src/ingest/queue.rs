//! Where verified events wait for their commit: one queue a committer, one bound for all of them.

use super::answers::Answer;
use crate::event::{NewEvent, fnv1a};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// What became of an event: all three are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    Received,
    Quarantined,
    Duplicate,
}

impl From<Receipt> for Answer {
    fn from(receipt: Receipt) -> Self {
        match receipt {
            Receipt::Received => Self::Received,
            Receipt::Quarantined => Self::Quarantined,
            Receipt::Duplicate => Self::Duplicate,
        }
    }
}

/// An event that waits, and the request that waits for it. Dropping it without an answer says that it could not be committed.
#[derive(Debug)]
pub struct Job {
    pub event: NewEvent,
    answer: oneshot::Sender<Receipt>,
    place: Place,
}

impl Job {
    /// Tells the request what became of its event.
    pub fn answer(self, receipt: Receipt) {
        // The request may have given up meanwhile. The event is committed all the same.
        let _ = self.answer.send(receipt);
    }

    /// False when the request has timed out, or its client has gone: then the event need not be stored.
    pub fn is_waited_for(&self) -> bool {
        !self.answer.is_closed()
    }

    /// What it counts for in the queue.
    pub fn bytes(&self) -> usize {
        self.place.bytes
    }
}

/// The way in: hands events to their committers.
#[derive(Debug)]
pub struct Queues {
    committers: Vec<mpsc::UnboundedSender<Job>>,
    room: Arc<Room>,
    commit_timeout: Duration,
}

impl Queues {
    /// Queues for as many committers as `count`, and their other ends.
    pub fn new(count: usize, room: Arc<Room>, commit_timeout: Duration) -> (Self, Vec<mpsc::UnboundedReceiver<Job>>) {
        // Unbounded one by one, because `room` bounds them together.
        let (committers, ends) = (0..count.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        (Self { committers, room, commit_timeout }, ends)
    }

    /// Waits until the event is committed, for `commit_timeout` at most.
    pub async fn commit(&self, event: NewEvent) -> Result<Receipt, Answer> {
        let place = Room::take(&self.room, event.payload.len()).ok_or(Answer::Busy)?;
        let (answer, receipt) = oneshot::channel();
        let committer = &self.committers[self.committer_of(&event)];
        committer.send(Job { event, answer, place }).map_err(|_| Answer::Unavailable)?;
        match timeout(self.commit_timeout, receipt).await {
            Ok(Ok(receipt)) => Ok(receipt),
            Ok(Err(_)) | Err(_) => Err(Answer::Unavailable),
        }
    }

    /// An order key has one committer, so that its events get their seq in the order of arrival. Events without one have no order;
    /// they go by their request, so that the same request finds the committer that remembers it.
    fn committer_of(&self, event: &NewEvent) -> usize {
        let hash = match &event.order_key {
            Some(key) => fnv1a(key),
            None => u64::from_le_bytes(*event.request_hash.first_chunk().expect("a request hash has 16 bytes")),
        };
        // Not the low bits: they choose the lane, and each committer should write to all lanes.
        ((hash >> 32) % self.committers.len() as u64) as usize
    }
}

/// What may wait for its commit at once, in all queues together, batches under way included.
#[derive(Debug)]
pub struct Room {
    events: AtomicUsize,
    bytes: AtomicUsize,
    events_max: usize,
    bytes_max: usize,
}

impl Room {
    pub fn new(events_max: usize, bytes_max: usize) -> Self {
        Self { events: AtomicUsize::new(0), bytes: AtomicUsize::new(0), events_max, bytes_max }
    }

    /// How many events, and how many bytes of payload, wait now.
    pub fn used(&self) -> (usize, usize) {
        (self.events.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// A place for an event; `None` where it is full. The last one in may overshoot the bytes, so that no payload is too large for ever.
    fn take(room: &Arc<Self>, bytes: usize) -> Option<Place> {
        let events_before = room.events.fetch_add(1, Ordering::Relaxed);
        let bytes_before = room.bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = Place { room: Arc::clone(room), bytes };
        // A refused place is given back by its drop.
        (events_before < room.events_max && bytes_before < room.bytes_max).then_some(place)
    }
}

/// Given back when dropped.
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.events.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The next batch: whatever has queued, up to `events_max` events or `bytes_max` bytes. Waits for the first only, so a lone request is
/// committed at once, and a crowd in crowds. `None`: nothing more will come.
pub async fn next_batch(queue: &mut mpsc::UnboundedReceiver<Job>, events_max: usize, bytes_max: usize) -> Option<Vec<Job>> {
    let first = queue.recv().await?;
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while batch.len() < events_max && bytes < bytes_max {
        let Ok(job) = queue.try_recv() else { break };
        bytes += job.bytes();
        batch.push(job);
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn event(body: &'static str) -> NewEvent {
        NewEvent::new(&Arc::from("mindtickle"), None, "1", Bytes::from_static(body.as_bytes()), Err("no".into()), "{}".into())
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_at_once_and_a_place_is_given_back_with_its_answer() {
        let (queues, mut ends) = Queues::new(1, Arc::new(Room::new(2, 10)), Duration::from_secs(60));
        let queues = Arc::new(queues);
        let waiting = tokio::spawn({
            let queues = Arc::clone(&queues);
            async move { queues.commit(event("0123456789")).await }
        });
        let mut batch = next_batch(&mut ends[0], 10, 10).await.unwrap();
        assert_eq!(queues.commit(event("x")).await, Err(Answer::Busy));
        assert_eq!(queues.room.used(), (1, 10));
        batch.pop().unwrap().answer(Receipt::Received);
        assert_eq!(waiting.await.unwrap(), Ok(Receipt::Received));
        assert_eq!(queues.room.used(), (0, 0));
    }

    #[tokio::test]
    async fn a_request_gives_up_in_time_and_its_event_is_no_longer_waited_for() {
        let (queues, mut ends) = Queues::new(1, Arc::new(Room::new(2, 10)), Duration::ZERO);
        assert_eq!(queues.commit(event("x")).await, Err(Answer::Unavailable));
        let batch = next_batch(&mut ends[0], 10, 10).await.unwrap();
        assert!(!batch[0].is_waited_for());
    }

    #[tokio::test]
    async fn a_job_dropped_without_an_answer_is_not_mistaken_for_a_commit() {
        let (queues, mut ends) = Queues::new(1, Arc::new(Room::new(2, 10)), Duration::from_secs(60));
        let (answer, _) = tokio::join!(queues.commit(event("x")), async { drop(next_batch(&mut ends[0], 10, 10).await) });
        assert_eq!(answer, Err(Answer::Unavailable));
    }
}
