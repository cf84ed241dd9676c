//! A sink of the operator's config, as it is configured: what its kind costs, and how fast its peer is.
//!
//! A first worker meets an empty database: it registers the sink and shows what starting costs. Then events are stored, and a second one
//! delivers them. Both are given the config as it is written but for the other sinks, so that references to the environment, and
//! with them the secrets, are replaced by the worker itself.

use super::lab::{Database, LOOK_EVERY, Lab};
use super::meter::Meter;
use super::processes::{self, Process};
use super::report::{Figure, Figures, Measured, Unit};
use super::samples::{self, Samples};
use super::scrape::Scrape;
use crate::cli::{Context, Failure};
use crate::clock;
use crate::config::{Part, Sink};
use crate::store::bench::{self, Delivered};
use crate::store::health::{self, SinkStatus};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use toml::{Table, Value};

/// See the module's documentation.
#[derive(Debug)]
pub struct Target {
    sink: Sink,
    types: Vec<&'static str>,
    events: u64,
    /// For the worker to deliver them; what is left then is counted as pending.
    bound: Duration,
    /// The config's database, or the environment's.
    database_url: Option<String>,
    /// The config as it is written, with this sink alone.
    written: Table,
}

impl Target {
    /// Looks the sink up in the config. Of `events` events, those of the types that it subscribes to are made in turn.
    pub fn find(context: &Context, name: &str, events: u64, bound: Duration) -> Result<Self, Failure> {
        let config = context.config(Part::Worker)?;
        let names = || config.sinks.iter().map(|sink| &*sink.name).collect::<Vec<_>>().join(", ");
        let at = config.sinks.iter().position(|sink| *sink.name == *name).ok_or_else(|| {
            Failure::config(format!("the config has no [[sink]] named {name}: correct --sink, or the config; it has: {}", names()))
        })?;
        let sink = config.sinks[at].clone();
        let types = samples::types(sink.events.as_deref());
        if types.is_empty() {
            return Err(Failure::config(format!(
                "the sink {name} subscribes to none of the event types that there are samples of: {}",
                samples::types(None).join(", ")
            )));
        }
        let path = context.config.as_deref().unwrap_or(Path::new("sluice.toml"));
        let written = alone(path, at).ok_or_else(|| Failure::config(format!("{} has changed meanwhile: try again", path.display())))?;
        let database_url = config.database_url.as_ref().map(|url| url.expose().clone());
        Ok(Self { sink, types, events, bound, database_url, written })
    }

    pub fn name(&self) -> &str {
        &self.sink.name
    }

    /// The server on which a database is made for each run; `None`: a private one is to be started.
    pub fn database_url(&self) -> Option<String> {
        self.database_url.clone()
    }

    pub fn measured(&self) -> Measured {
        Measured { name: self.sink.name.to_string(), kind: self.sink.kind.name(), events: self.events, types: self.types.clone() }
    }

    /// One run.
    pub async fn measure(&self, lab: &Lab) -> Result<Vec<Figure>, Failure> {
        let name = self.name();
        eprintln!("measuring the sink {name} with {} events ...", self.events);
        let mut database = lab.database("sink").await?;
        let starting = self.start_and_stop(lab, &database).await?;
        let samples = Samples::new(&self.types);
        database.fill(self.events, move |i| samples.event(i)).await?;
        let meter = Meter::start(&mut database.conn).await?;
        let mut worker = self.worker(lab, &database).await?;
        let is_done = self.watch(&mut database, &mut worker).await?;
        let cpu = worker.cpu().zip(starting).map(|(whole, starting)| whole.saturating_sub(starting));
        let scrape = Scrape::new(worker.metrics().await?);
        let delivered = bench::delivered(&mut database.conn).await.map_err(unseen)?;
        if delivered.deliveries == 0 {
            return Err(self.nothing(&mut database, &scrape).await);
        }
        let mut figures = Figures::default();
        figures.begin(self.sink.kind.name());
        report(&delivered, &scrape, cpu, self.events, &mut figures);
        meter.report(&mut database.conn, self.events, "", &mut figures).await?;
        if let Some(mib) = worker.peak_mib() {
            figures.add("peak memory of the worker", mib, Unit::Mebibytes);
        }
        if let Some(error) = bench::commonest_error(&mut database.conn).await.map_err(unseen)? {
            eprintln!("not all were delivered; most often: {error}");
        }
        if is_done {
            worker.stop().await?;
        } else {
            eprintln!("{} s were over before all events were: the rest counts as pending (--seconds N waits longer)", self.bound.as_secs());
            worker.kill().await;
        }
        lab.clean().await;
        Ok(figures.into_figures())
    }

    /// A worker that finds nothing to do. Returns the processor time that it takes to get there.
    async fn start_and_stop(&self, lab: &Lab, database: &Database) -> Result<Option<Duration>, Failure> {
        let worker = self.worker(lab, database).await?;
        let cpu = worker.cpu();
        worker.stop().await?;
        Ok(cpu)
    }

    async fn worker(&self, lab: &Lab, database: &Database) -> Result<Process, Failure> {
        processes::worker_as(lab.folder(), database.url(), |ops| self.config(ops)).await
    }

    fn config(&self, ops: SocketAddr) -> String {
        let mut config = self.written.clone();
        let worker = config.entry("worker").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(worker) = worker {
            worker.insert("ops_listen".into(), ops.to_string().into());
        }
        config.to_string()
    }

    /// Waits until every delivery is decided, or the time is over: then false. An error: the sink takes nothing at all.
    async fn watch(&self, database: &mut Database, worker: &mut Process) -> Result<bool, Failure> {
        let ends_at = clock::instant() + self.bound;
        while !database.is_done().await? {
            worker.check()?;
            let status = self.status(database).await?;
            if status.breaker != "closed" && !has_answered(&Scrape::new(worker.metrics().await?)) {
                return Err(Failure::unavailable(format!(
                    "the sink {} takes nothing: {}; is its server running, and is it right in the config?",
                    self.name(),
                    status.breaker_reason.unwrap_or_else(|| "it rests".into())
                )));
            }
            if clock::instant() >= ends_at {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(true)
    }

    async fn status(&self, database: &mut Database) -> Result<SinkStatus, Failure> {
        let sinks = health::sinks(&mut database.conn).await.map_err(unseen)?;
        sinks.into_iter().next().ok_or_else(|| Failure::failed(format!("the worker has not registered the sink {}", self.name())))
    }

    /// Why there is no rate to tell.
    async fn nothing(&self, database: &mut Database, scrape: &Scrape) -> Failure {
        let error = match bench::commonest_error(&mut database.conn).await {
            Ok(Some(error)) => format!("; most often: {error}"),
            // Without it the message is still true.
            Ok(None) | Err(_) => String::new(),
        };
        let (skipped, dead) = (scrape.sum(TERMINAL, r#"status="skipped""#), scrape.sum(TERMINAL, r#"status="dead""#));
        Failure::failed(format!(
            "of {} events the sink {} took none ({skipped} skipped, {dead} dead){error}; \
             `sluice route test --event FILE` shows what becomes of an event",
            self.events,
            self.name(),
        ))
    }
}

/// The config as it is written, without what a worker does not read, and with its sink number `at` alone.
fn alone(path: &Path, at: usize) -> Option<Table> {
    let mut table: Table = std::fs::read_to_string(path).ok()?.parse().ok()?;
    // Not least the watchdog: a fresh database would let this worker ask the real provider at once.
    for key in ["database_url", "ingest", "source", "mindtickle"] {
        table.remove(key);
    }
    let sinks = table.get_mut("sink")?.as_array_mut()?;
    let sink = (at < sinks.len()).then(|| sinks.swap_remove(at))?;
    *sinks = vec![sink];
    Some(table)
}

const TERMINAL: &str = "sluice_deliveries_terminal_total";
const TRIES: &str = "sluice_attempts_total";
const TRY_SECONDS: &str = "sluice_attempt_seconds";

/// Whether anything was decided.
fn has_answered(scrape: &Scrape) -> bool {
    scrape.sum(TERMINAL, "") > 0.0
}

fn report(delivered: &Delivered, scrape: &Scrape, cpu: Option<Duration>, events: u64, figures: &mut Figures) {
    if delivered.after_first > 0 && delivered.seconds > 0.0 {
        figures.rate("delivered", delivered.after_first as f64 / delivered.seconds);
    } else {
        eprintln!("all deliveries were recorded at once: too few to tell a rate (--events N sends more)");
    }
    let (skipped, dead) = (scrape.sum(TERMINAL, r#"status="skipped""#), scrape.sum(TERMINAL, r#"status="dead""#));
    let decided = delivered.deliveries as f64 + skipped + dead;
    if let Some(cpu) = cpu {
        figures.add("CPU of the worker, a delivery", cpu.as_secs_f64() * 1e6 / decided, Unit::Microseconds);
    }
    for (what, part) in [("a try, p50", 0.5), ("a try, p99", 0.99)] {
        if let Some(seconds) = scrape.quantile(TRY_SECONDS, part) {
            figures.add(what, seconds * 1000.0, Unit::Milliseconds);
        }
    }
    figures.add("deliveries tried", scrape.sum(TRIES, ""), Unit::Count);
    figures.add("in so many tries (a batch is one)", scrape.count(TRY_SECONDS), Unit::Count);
    figures.add("delivered in all", delivered.deliveries as f64, Unit::Count);
    figures.add("skipped", skipped, Unit::Count);
    figures.add("dead", dead, Unit::Count);
    figures.add("pending", (events as f64 - decided).max(0.0), Unit::Count);
}

fn unseen(error: sqlx::Error) -> Failure {
    Failure::database("cannot see what became of the deliveries", &error)
}
