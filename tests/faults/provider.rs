//! The provider under load: learners whose events are sent until they are acknowledged, and the ledger of what was.

use crate::client::{Client, Event};
use crate::system::{System, eventually};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Events that were answered 2xx, by id, with the bytes that were signed.
pub type Acknowledged = BTreeMap<String, Vec<u8>>;

/// What the provider knows: where ingest is, and what it has acknowledged.
pub struct Provider {
    address: Mutex<SocketAddr>,
    acknowledged: Mutex<Acknowledged>,
    acknowledgements: AtomicUsize,
    enough: AtomicBool,
    event: fn(&str, u64) -> Event,
    /// Between two events of one learner, in microseconds.
    pause_us: AtomicUsize,
}

impl Provider {
    pub fn new(address: SocketAddr) -> Arc<Self> {
        Self::sending(address, Event::of)
    }

    /// Its events are made by `event`, of a user and a number.
    pub fn sending(address: SocketAddr, event: fn(&str, u64) -> Event) -> Arc<Self> {
        Arc::new(Self {
            address: Mutex::new(address),
            acknowledged: Mutex::default(),
            acknowledgements: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
            event,
            pause_us: AtomicUsize::new(0),
        })
    }

    /// Each learner rests so long after each event: a load that the workers of a build without optimizations keep up with.
    pub fn pace(&self, pause: Duration) {
        self.pause_us.store(pause.as_micros() as usize, Ordering::Relaxed);
    }

    /// Ingest is there from now on.
    pub fn move_to(&self, address: SocketAddr) {
        *self.address.lock().unwrap() = address;
    }

    /// So many learners, each with events of their own.
    pub fn learners(self: &Arc<Self>, count: usize) -> Vec<JoinHandle<()>> {
        (0..count).map(|user| tokio::spawn(self.clone().run(format!("u-{user}")))).collect()
    }

    /// How many events were acknowledged so far.
    pub fn count(&self) -> usize {
        self.acknowledgements.load(Ordering::Relaxed)
    }

    /// Waits until that are so many more.
    pub async fn more(&self, count: usize) {
        let goal = self.count() + count;
        eventually("events are acknowledged", async || self.count() >= goal).await;
    }

    /// Sends nothing more; returns what was acknowledged, once all is answered.
    pub async fn end(&self, learners: Vec<JoinHandle<()>>) -> Acknowledged {
        self.enough.store(true, Ordering::Relaxed);
        for learner in learners {
            learner.await.unwrap();
        }
        self.acknowledged.lock().unwrap().clone()
    }

    /// One learner's events, one after another: each is sent until it is acknowledged.
    async fn run(self: Arc<Self>, user: String) {
        let mut n = 0;
        while !self.enough.load(Ordering::Relaxed) {
            let event = (self.event)(&user, n);
            while !self.send(&event).await {
                tokio::task::yield_now().await;
            }
            self.acknowledged.lock().unwrap().insert(event.id, event.body);
            self.acknowledgements.fetch_add(1, Ordering::Relaxed);
            n += 1;
            let pause = self.pause_us.load(Ordering::Relaxed) as u64;
            if pause > 0 {
                tokio::time::sleep(Duration::from_micros(pause)).await;
            }
        }
    }

    /// Whether it was acknowledged. A refused or broken connection is none.
    async fn send(&self, event: &Event) -> bool {
        let address = *self.address.lock().unwrap();
        Client::new(address).try_send(&event.request()).await.is_some_and(|answer| answer.status() == 200)
    }
}

/// Which of these are not stored.
pub async fn missing(system: &System, acknowledged: &[String]) -> Vec<String> {
    let missing = "select id from unnest($1::text[]) as id
                    where not exists (select from sluice.events where event_id = id and quarantine is null)";
    sqlx::query_scalar(missing).bind(acknowledged).fetch_all(&system.db).await.unwrap()
}
