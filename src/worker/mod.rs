//! The worker: delivers what the log owes to the sinks.
//!
//! A process takes a lease ([`lease`]) and with it some lanes of each of its sinks. One task reads the log, and what waits,
//! ([`fetch`]) into each sink's queue ([`queue`]); one task a sink starts tries ([`attempt`]) as far as its breaker,
//! its rate and its slots let it; one task records what became of them ([`finish`]), and one how far the log is done with
//! ([`settle`]). Hints ([`wake`]) make it quick, the poll makes it sure.

mod attempt;
mod breaker;
mod conclude;
mod fetch;
mod finish;
mod health;
mod keeper;
mod lane;
mod lease;
mod metrics;
mod objects;
mod pipe;
mod queue;
mod rate;
mod reading;
mod session;
mod settle;
mod tail;
mod wake;
mod watchdog;

use crate::clock;
use crate::config::Config;
use crate::provider::ApiError;
use crate::shutdown::Shutdown;
use crate::sink::{self, OpenError};
use crate::store::log::Asker;
use crate::store::servers::{Servers, UrlError};
use crate::store::{self, deliveries, sinks};
use crate::{ops, telemetry};
use chrono::{DateTime, Utc};
use pipe::Pipe;
use session::Connections;
use sqlx::PgConnection;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use watchdog::Watchdog;

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("the config has no [[sink]]: a worker needs at least one")]
    NoSink,
    #[error("sink {name}: {source}")]
    Sink { name: String, source: OpenError },
    #[error("the watchdog: {0}")]
    Watchdog(#[from] ApiError),
    #[error("no database is configured: set DATABASE_URL, or database_url in the config")]
    NoDatabase,
    #[error(transparent)]
    DatabaseUrl(#[from] UrlError),
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("cannot register the sinks: {0}")]
    Register(#[from] sqlx::Error),
}

/// Connections of one worker, besides the listener's: the fetcher's, the finisher's, the renewer's, and two for all else.
const CONNECTIONS: usize = 5;

/// Payloads that are too large to be read ahead, in the memory of a worker at once, whatever the number of its sinks: in KiB. What a sink
/// makes of one can be several times as large.
const PAYLOADS_KIB_MAX: usize = 16 << 10;

/// What every connection of a worker is set to, beside the planner's settings. Times are bounded, so that no lock and no
/// forgotten transaction can hold a worker up for ever; a statement that the worker has given up ends with it.
const SETTINGS: [(&str, &str); 4] =
    [("sluice.worker", "on"), ("lock_timeout", "200ms"), ("statement_timeout", "15s"), ("idle_in_transaction_session_timeout", "15s")];

/// What the tasks of one worker share.
struct Shared {
    /// host:pid.
    name: String,
    connections: Arc<Connections>,
    pipes: Vec<Arc<Pipe>>,
    lease: lease::Lease,
    clock: DatabaseClock,
    shutdown: Shutdown,
    poll: Duration,
    writes: mpsc::UnboundedSender<finish::Write>,
    /// There may be something to read.
    fetch: Notify,
    /// Events have arrived.
    hinted: AtomicBool,
    /// An operator changed deliveries: rows in memory may be out of date.
    changed: AtomicBool,
    /// Deliveries were reset: due rows may lie anywhere.
    reset: AtomicBool,
    /// What was seen of the log's end is of another history.
    lost_tail: AtomicBool,
    /// The connection that has asked what is known of the log's end: see [`lanes::settle`](store::lanes::settle).
    asker: Mutex<Asker>,
    /// Workers, lanes or sinks have changed.
    renew: Notify,
    /// Room for payloads that are too large to be read ahead, in KiB.
    payloads: Arc<Semaphore>,
    /// Outcomes cannot be recorded: no further tries until they can.
    store_down: AtomicBool,
    /// The lease is given up.
    left: CancellationToken,
}

impl Shared {
    fn hint(&self) {
        self.hinted.store(true, Ordering::Relaxed);
        self.fetch.notify_one();
    }

    /// Room for large payloads of so many bytes; waits for it. One that is larger than all of it goes alone.
    async fn payload_room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = bytes.div_ceil(1024).min(PAYLOADS_KIB_MAX);
        if kib == 0 {
            return None;
        }
        // It is never closed.
        self.payloads.clone().acquire_many_owned(kib as u32).await.ok()
    }

    fn set_asker(&self, asker: Asker) {
        *self.asker.lock().unwrap_or_else(PoisonError::into_inner) = asker;
    }

    fn asker(&self) -> Asker {
        *self.asker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        for pipe in &self.pipes {
            pipe.wake.notify_one();
        }
    }

    /// Sends a row on to be recorded. The channel has no bound of its own: what is in it is held in a queue, which has.
    fn write(&self, mut write: finish::Write) {
        if write.head {
            write.count();
        }
        // The finisher outlives every sender but those of an abandoned shutdown, whose outcomes are not recorded anyway.
        let _ = self.writes.send(write);
    }

    /// Runs a statement that is neither reading due rows nor recording outcomes.
    async fn control<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        session::Session::new(self.connections.clone()).run(work).await
    }

    fn metrics_lease(&self, renewal: &store::lanes::Renewal) {
        ::metrics::gauge!("sluice_workers").set(renewal.sinks.iter().map(|sink| sink.workers).max().unwrap_or(1) as f64);
    }
}

/// The database's clock, by which due times are set and judged, estimated between renewals.
struct DatabaseClock {
    /// Microseconds that it is ahead of ours.
    ahead_us: AtomicI64,
}

impl DatabaseClock {
    fn now(&self) -> DateTime<Utc> {
        clock::now() + chrono::Duration::microseconds(self.ahead_us.load(Ordering::Relaxed))
    }

    /// The database said `now` at some moment between these two.
    fn set(&self, now: DateTime<Utc>, sent: Instant, received: Instant) {
        let half = chrono::Duration::from_std(received.saturating_duration_since(sent) / 2).unwrap_or_default();
        let ahead = now + half - clock::now();
        self.ahead_us.store(ahead.num_microseconds().unwrap_or(0), Ordering::Relaxed);
    }

    /// The moment here when it will be `due` there.
    fn instant_of(&self, due: DateTime<Utc>) -> Instant {
        clock::instant() + (due - self.now()).to_std().unwrap_or_default()
    }
}

/// Works until the shutdown: registers the config's sinks, then delivers what is owed to them.
///
/// `/livez`, `/readyz` and `/metrics` are served on `ops`, where given.
pub async fn run(config: &Config, ops: Option<TcpListener>, shutdown: Shutdown) -> Result<(), WorkerError> {
    if config.sinks.is_empty() {
        return Err(WorkerError::NoSink);
    }
    let metrics = telemetry::metrics_handle()?;
    let watchdog = Watchdog::open(&config.mindtickle)?;
    let connections = Arc::new(connections(config)?);
    let mut pipes = Vec::new();
    for sink in &config.sinks {
        let opened = sink::open(sink, connections.servers()).map_err(|source| WorkerError::Sink { name: sink.name.to_string(), source })?;
        pipes.push(Arc::new(Pipe::new(sink.clone(), opened, config.worker.read_ahead)));
    }
    register(config, &connections).await?;
    let (writes, outcomes) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        name: format!("{}:{}", nix::unistd::gethostname().unwrap_or_default().to_string_lossy(), std::process::id()),
        connections,
        pipes,
        lease: lease::Lease::new(),
        clock: DatabaseClock { ahead_us: AtomicI64::new(0) },
        shutdown: shutdown.clone(),
        poll: config.worker.poll,
        writes,
        fetch: Notify::new(),
        hinted: AtomicBool::new(true),
        changed: AtomicBool::new(false),
        reset: AtomicBool::new(true),
        lost_tail: AtomicBool::new(false),
        asker: Mutex::default(),
        renew: Notify::new(),
        payloads: Arc::new(Semaphore::new(PAYLOADS_KIB_MAX)),
        store_down: AtomicBool::new(false),
        left: CancellationToken::new(),
    });
    let last = shutdown.last_part();
    if let Some(ops) = ops {
        last.spawn(ops::serve(ops, metrics, Arc::new(health::Health::new(shared.clone())), last.clone()));
    }
    let (seen, sees) = watch::channel(None);
    let renewer = tokio::spawn(lease::renew(shared.clone(), seen));
    let balancer = tokio::spawn(lease::balance(shared.clone(), sees));
    let deadline = tokio::spawn(lease::watch_deadline(shared.clone()));
    let mut readers =
        vec![tokio::spawn(fetch::run(shared.clone())), tokio::spawn(wake::run(shared.clone())), tokio::spawn(settle::run(shared.clone()))];
    readers.push(tokio::spawn(keeper::run(shared.clone(), config.retention)));
    readers.extend(watchdog.map(|watchdog| tokio::spawn(watchdog.run(shared.clone()))));
    readers.extend(shared.pipes.iter().map(|pipe| tokio::spawn(attempt::run(shared.clone(), pipe.clone()))));
    let finisher = tokio::spawn(finish::run(shared.clone(), outcomes));
    tracing::info!(sinks = shared.pipes.len(), name = shared.name, "working");

    shutdown.begun().await;
    for task in readers {
        let _ = task.await;
    }
    let _ = balancer.await;
    drain(&shared).await;
    lease::leave(&shared).await;
    finisher.abort();
    renewer.abort();
    deadline.abort();
    last.begin();
    last.finish(ops::DRAIN).await;
    tracing::info!("stopped");
    Ok(())
}

fn connections(config: &Config) -> Result<Connections, WorkerError> {
    let url = config.database_url.as_ref().ok_or(WorkerError::NoDatabase)?.expose();
    let settings: Vec<(&str, &str)> = deliveries::PLANNER.into_iter().chain(SETTINGS).collect();
    Ok(Connections::new(Servers::parse(url)?.session("sluice worker", &settings), CONNECTIONS))
}

/// Waits for tries in flight to end and to be recorded; when the shutdown loses its patience, for neither.
async fn drain(shared: &Shared) {
    let quiet = async {
        while !shared.pipes.iter().all(|pipe| pipe.queue().is_quiet()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = quiet => {}
        () = shared.shutdown.aborted() => tracing::warn!("stopping with tries in flight: they will be tried again"),
    }
}

/// Makes the config's sinks known.
async fn register(config: &Config, connections: &Connections) -> Result<(), sqlx::Error> {
    let definitions: Vec<sinks::Definition> = config
        .sinks
        .iter()
        .map(|sink| sinks::Definition {
            name: sink.name.to_string(),
            kind: sink.kind.name(),
            events: sink.events.clone(),
            ordered: sink.ordered,
        })
        .collect();
    let mut conn = connections.take().await?;
    sinks::register(&mut conn, &definitions).await
}
