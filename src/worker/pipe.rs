//! One sink in this worker: its queue, its breaker, its rate, and what it has counted.

use super::breaker::Breaker;
use super::objects::Objects;
use super::queue::Queue;
use super::rate::Rate;
use crate::clock;
use crate::config;
use crate::sink::{Delivery, Sink};
use crate::store::sinks::Counts;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Deliveries remembered as having blamed the sink; beyond that the memory starts anew.
const TROUBLED_MAX: usize = 1024;

/// What a try needs beyond its place in the queue.
#[derive(Debug)]
pub struct Item {
    /// What the sink is given; away while it is being tried.
    pub delivery: Option<Delivery>,
    /// Its try was written down before it began.
    pub charged: bool,
    /// It has a row; a fresh one only where a try was written down before it began.
    pub has_row: bool,
    /// The payload was too large to be read ahead, or is gone: so many bytes are read before each try, and let go after it.
    pub payload_left: Option<usize>,
}

/// See the module's documentation.
pub struct Pipe {
    pub name: Arc<str>,
    pub config: config::Sink,
    pub sink: Arc<dyn Sink>,
    /// Tries under way.
    pub in_flight: AtomicUsize,
    /// Deliveries tried whose outcomes are not recorded yet.
    pub unrecorded: AtomicUsize,
    /// The operator's.
    pub paused: AtomicBool,
    /// Something changed that may let a try begin.
    pub wake: Notify,
    pub metrics: super::metrics::SinkMetrics,
    /// Of a sink that keeps a state: what is being changed.
    pub objects: Objects,
    queue: Mutex<Queue<Box<Item>>>,
    breaker: Mutex<Breaker>,
    rate: Option<Mutex<Rate>>,
    counts: Mutex<Counts>,
    successes: AtomicU64,
    /// Rows of earlier epochs of the queue are of another history of the database.
    first_epoch: AtomicU64,
    /// Deliveries that blamed the sink, and how many others had gone through by then.
    troubled: Mutex<HashMap<i64, u64>>,
}

impl Pipe {
    pub fn new(config: config::Sink, sink: Arc<dyn Sink>, rows_max: usize) -> Self {
        let now = clock::instant();
        Self {
            name: config.name.clone(),
            sink,
            in_flight: AtomicUsize::new(0),
            unrecorded: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            wake: Notify::new(),
            metrics: super::metrics::SinkMetrics::new(&config.name),
            objects: Objects::default(),
            queue: Mutex::new(Queue::new(config.ordered, config.concurrency, rows_max)),
            breaker: Mutex::new(Breaker::new(config.breaker.failures, config.concurrency, now)),
            rate: config.rate_per_second.map(|rate| Mutex::new(Rate::new(rate, now))),
            counts: Mutex::default(),
            successes: AtomicU64::new(0),
            first_epoch: AtomicU64::new(0),
            troubled: Mutex::default(),
            config,
        }
    }

    /// Bounds what comes twice when this worker dies. Outcomes are recorded in bulk, so that a few times as many as there are
    /// tries under way can be waiting for it; a sink that answers in its time never gets there.
    pub fn unrecorded_max(&self) -> usize {
        4 * self.config.concurrency * self.sink.batch_max()
    }

    pub fn queue(&self) -> MutexGuard<'_, Queue<Box<Item>>> {
        lock(&self.queue)
    }

    pub fn breaker(&self) -> MutexGuard<'_, Breaker> {
        lock(&self.breaker)
    }

    pub fn rate(&self) -> Option<MutexGuard<'_, Rate>> {
        self.rate.as_ref().map(lock)
    }

    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }

    /// The database has another history, and the queue was emptied for it.
    pub fn forget_history(&self) {
        self.first_epoch.store(self.queue().epoch(), Ordering::Release);
        lock(&self.troubled).clear();
    }

    /// Whether a row is of the database's history as it is now.
    pub fn is_of_this_history(&self, epoch: u64) -> bool {
        epoch >= self.first_epoch.load(Ordering::Acquire)
    }

    /// A delivery went through.
    pub fn note_success(&self, seq: i64) {
        self.successes.fetch_add(1, Ordering::Relaxed);
        let mut troubled = lock(&self.troubled);
        if !troubled.is_empty() {
            troubled.remove(&seq);
        }
    }

    /// A delivery blames the sink. Returns whether others went through since it last did so.
    pub fn note_trouble(&self, seq: i64) -> bool {
        let successes = self.successes.load(Ordering::Relaxed);
        let mut troubled = lock(&self.troubled);
        if troubled.len() >= TROUBLED_MAX {
            troubled.clear();
        }
        troubled.insert(seq, successes).is_some_and(|before| successes > before)
    }
}

/// A panic while one of these locks was held leaves nothing half-done that the database does not set right again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
