//! Whatever dies under load, and when: what was acknowledged is stored, and comes to its sink.
//!
//! The ledgers are the test's own: what the provider was told, and what the sink has seen. A run that fails says its seed;
//! `SLUICE_TEST_SEED` repeats its choices.

use crate::client::{Client, Event};
use crate::private;
use crate::sink::Sink;
use crate::system::{Ingest, Process, Random, System, eventually, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::clock;
use sluice::dev::PrivatePostgres;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const SEED: &str = "SLUICE_TEST_SEED";
/// A longer run: this many faults.
const FAULTS: &str = "SLUICE_TEST_FAULTS";

const CONCURRENCY: usize = 8;

/// What the provider knows: where ingest is, and what it has acknowledged.
struct Provider {
    address: Mutex<SocketAddr>,
    acknowledged: Mutex<Vec<String>>,
    acknowledgements: AtomicUsize,
    enough: AtomicBool,
}

impl Provider {
    /// One learner's events, one after another: each is sent until it is acknowledged.
    async fn run(self: Arc<Self>, user: String) {
        let mut n = 0;
        while !self.enough.load(Ordering::Relaxed) {
            let event = Event::of(&user, n);
            while !self.send(&event).await {
                tokio::task::yield_now().await;
            }
            self.acknowledged.lock().unwrap().push(event.id.clone());
            self.acknowledgements.fetch_add(1, Ordering::Relaxed);
            n += 1;
        }
    }

    /// Whether it was acknowledged. A refused or broken connection is none.
    async fn send(&self, event: &Event) -> bool {
        let address = *self.address.lock().unwrap();
        Client::new(address).try_send(&event.request()).await.is_some_and(|answer| answer.status() == 200)
    }
}

/// All that can die.
struct Stage {
    system: System,
    dir: PathBuf,
    port: u16,
    config: PathBuf,
    postgres: Option<PrivatePostgres>,
    ingest: Ingest,
    workers: Vec<Process>,
    provider: Arc<Provider>,
    workers_killed: usize,
    servers_killed: usize,
}

impl Stage {
    async fn kill_ingest(&mut self) {
        self.ingest.kill().await;
        self.ingest = self.system.ingest().await;
        *self.provider.address.lock().unwrap() = self.ingest.address;
    }

    async fn kill_a_worker(&mut self, n: usize) {
        self.workers.swap_remove(n).kill().await;
        self.workers.push(self.system.worker(&self.config));
        self.workers_killed += 1;
    }

    async fn kill_postgres(&mut self) {
        let pid = std::fs::read_to_string(self.dir.join("pgdata/postmaster.pid")).unwrap();
        kill(Pid::from_raw(pid.lines().next().unwrap().trim().parse().unwrap()), Signal::SIGKILL).unwrap();
        self.restart_postgres().await;
        self.servers_killed += 1;
    }

    async fn restart_postgres(&mut self) {
        self.postgres.take().unwrap().stop().await.unwrap();
        self.postgres = Some(start(&self.dir, self.port).await);
    }
}

async fn start(dir: &Path, port: u16) -> PrivatePostgres {
    let mut options = private::options();
    options.port = Some(port);
    PrivatePostgres::start(dir, options).await.expect("a private Postgres starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_under_load_what_was_acknowledged_is_stored_and_delivered_in_order() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    let seed = number(SEED).unwrap_or_else(|| clock::now().timestamp_micros() as usize);
    eprintln!("{SEED}={seed}");
    let mut random = Random(seed as u64);

    let (dir, port) = (private::folder(), free_port());
    let postgres = start(dir.path(), port).await;
    let system = System::on(postgres.url()).await;
    system.migrate().await;
    let sink = Sink::answering(200).await;
    let config =
        system.config(&sink.config("lms", &format!("concurrency = {CONCURRENCY}\nretry = {{ initial = \"50ms\", cap = \"1s\" }}")));
    let workers = vec![system.working(&config).await, system.working(&config).await];
    let ingest = system.ingest().await;
    let provider = Arc::new(Provider {
        address: Mutex::new(ingest.address),
        acknowledged: Mutex::default(),
        acknowledgements: AtomicUsize::new(0),
        enough: AtomicBool::new(false),
    });
    let learners: Vec<_> = (0..8).map(|user| tokio::spawn(provider.clone().run(format!("u-{user}")))).collect();
    let dir_path = dir.path().to_owned();
    let mut stage = Stage {
        system,
        dir: dir_path,
        port,
        config,
        postgres: Some(postgres),
        ingest,
        workers,
        provider: provider.clone(),
        workers_killed: 0,
        servers_killed: 0,
    };

    for _ in 0..number(FAULTS).unwrap_or(8) {
        let goal = provider.acknowledgements.load(Ordering::Relaxed) + 50 + random.below(200);
        eventually("events are acknowledged", async || provider.acknowledgements.load(Ordering::Relaxed) >= goal).await;
        match random.below(5) {
            0 | 1 => stage.kill_ingest().await,
            2 => stage.kill_a_worker(random.below(2)).await,
            3 => stage.kill_postgres().await,
            _ => stage.restart_postgres().await,
        }
    }
    provider.enough.store(true, Ordering::Relaxed);
    for learner in learners {
        learner.await.unwrap();
    }

    let system = &stage.system;
    let acknowledged = provider.acknowledged.lock().unwrap().clone();
    let stored: i64 = sqlx::query_scalar("select count(*) from sluice.events where event_id = any ($1) and quarantine is null")
        .bind(&acknowledged)
        .fetch_one(&system.db)
        .await
        .unwrap();
    assert_eq!(stored as usize, acknowledged.len(), "acknowledged, and not stored");
    let all: i64 = system.value("select count(*) from sluice.events").await;
    system.drained(all).await;
    let successes = sink.successes();
    for id in &acknowledged {
        assert!(successes.contains_key(id), "{id} was acknowledged, and the sink has not seen it");
    }
    sink.assert_in_order();
    // What was in flight at each worker that died, and, where Postgres did, at both.
    let again: usize = successes.values().map(|times| times - 1).sum();
    let in_flight = CONCURRENCY + 4 * CONCURRENCY;
    let bound = in_flight * (stage.workers_killed + 2 * stage.servers_killed);
    assert!(again <= bound, "{again} came twice, and at most {bound} can have been in flight");
}
