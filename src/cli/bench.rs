//! `sluice bench`: measures the whole, on a real server, in processes of their own, beside a yardstick of the same run.
//!
//! Each scenario has a fresh database. [`lab`] makes those, [`processes`] runs ingest and workers, [`load`] sends signed requests, [`sink`]
//! counts what arrives, [`meter`] asks the server what it cost; [`inbound`] and [`outbound`] put them together, [`report`] prints.
//! [`configured`] measures a sink of the operator's config instead, at its real peer, with [`samples`] of what it subscribes to.
//! Load and sink run in this process, so they take their part of the machine's cores: figures compare only with their like.

mod configured;
mod events;
mod http;
mod inbound;
mod lab;
mod load;
mod meter;
mod outbound;
mod processes;
mod report;
mod samples;
mod scrape;
mod sink;
mod yardstick;

use super::{Context, Failure, confirmed, env, print, print_json, shutdown};
use clap::ValueEnum;
use configured::Target;
use lab::Lab;
use report::{Figure, Figures, Report};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Few seconds and few events each: to see that it works, not to compare
    #[arg(long)]
    quick: bool,
    /// Measure only this; can be given several times. Ratios need the yardstick
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Scenario>,
    /// Measure this sink of the config instead, as it is configured: sends it sample events of the types that it subscribes to, for
    /// real, and has a worker process of its own deliver them
    #[arg(long, value_name = "NAME", conflicts_with_all = ["only", "quick"])]
    sink: Option<String>,
    /// How many events to send to --sink
    #[arg(long, value_name = "N", requires = "sink", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    events: u64,
    /// Do not ask before sending to --sink
    #[arg(long, requires = "sink")]
    yes: bool,
    /// How long each timed measurement lasts; `both` and `steady` last six times as long; --sink: at most
    /// [default: 10; with --quick 2; with --sink 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Do everything this often, and print medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=50))]
    repeat: u8,
    /// The folder in which the private Postgres, used where DATABASE_URL is not set, keeps its data meanwhile: on the disk that is
    /// to be measured, not in memory [default: the one of `sluice dev`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What can be measured, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Single-row inserts by pgbench, 16 and 64 clients
    Yardstick,
    /// Verified events over HTTP, 64 and 256 connections
    Ingest,
    /// A backlog delivered to an HTTP sink, and to null
    Drain,
    /// Ingest and drain at once, as fast as it goes, from a fresh database
    Both,
    /// The same at a fixed 15,000 events a second
    Steady,
    /// The time from sender to sink at 500 events a second
    Latency,
    /// What is asked of the database when nothing happens
    Idle,
    /// The cost of reading due rows, of 10,000 and of 1,000,000, mid-drain and after a takeover
    Fetch,
    /// 1,000,000 deliveries drained, without and with a transaction held open
    Backlog,
}

/// How much of everything.
#[derive(Debug)]
struct Plan {
    seconds: u64,
    together_seconds: u64,
    idle_seconds: u64,
    steady_per_second: u64,
    drain_events: u64,
    backlog_small: u64,
    backlog_large: u64,
}

impl Plan {
    fn new(quick: bool, seconds: Option<u64>) -> Self {
        if quick {
            let seconds = seconds.unwrap_or(2);
            return Self {
                seconds,
                together_seconds: seconds * 2,
                idle_seconds: seconds,
                steady_per_second: 1000,
                drain_events: 5000,
                backlog_small: 5000,
                backlog_large: 20_000,
            };
        }
        let seconds = seconds.unwrap_or(10);
        Self {
            seconds,
            together_seconds: seconds * 6,
            idle_seconds: seconds,
            steady_per_second: 15_000,
            drain_events: 300_000,
            backlog_small: 10_000,
            backlog_large: 1_000_000,
        }
    }
}

/// For the children to be stopped after Ctrl-C; a second one cuts it short.
const INTERRUPT_BOUND: Duration = Duration::from_secs(30);

impl Args {
    /// Measures and prints. A scenario that fails is named on stderr, and the others are measured all the same.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let target = self.sink.as_ref().map(|name| Target::find(context, name, self.events, self.bound())).transpose()?;
        if let Some(target) = &target
            && !self.may_send(target)?
        {
            return Err(Failure::failed("nothing was sent"));
        }
        let url = match &target {
            Some(target) => target.database_url(),
            None if env("DATABASE_URL").is_some() || context.names_config() => Some(context.database_url()?),
            None => None,
        };
        let lab = Lab::open(url, self.data_dir.clone()).await?;
        let interrupted = shutdown(INTERRUPT_BOUND)?;
        let (mut runs, mut failed) = (Vec::new(), Vec::new());
        let measured = async {
            for _ in 0..self.repeat {
                let (figures, failures) = match &target {
                    Some(target) => (target.measure(&lab).await?, Vec::new()),
                    None => self.once(&lab).await,
                };
                runs.push(figures);
                failed.extend(failures);
            }
            Ok::<(), Failure>(())
        };
        // Dropping what is being measured kills its processes and closes its sink.
        let measured = tokio::select! {
            measured = measured => measured,
            () = interrupted.begun() => Err(Failure::failed("interrupted before everything was measured")),
        };
        let report = self.report(&lab, target.as_ref(), runs);
        lab.close().await?;
        measured?;
        match (report.figures.is_empty(), self.json) {
            (true, _) => {}
            (_, true) => print_json(&report),
            (_, false) => print(&report::table(&report)),
        }
        if failed.is_empty() { Ok(()) } else { Err(Failure::failed(format!("not measured: {}", failed.join(", ")))) }
    }

    /// Every scenario once; returns the names of those that failed.
    async fn once(&self, lab: &Lab) -> (Vec<Figure>, Vec<&'static str>) {
        let plan = Plan::new(self.quick, self.seconds);
        let (mut figures, mut failed) = (Figures::default(), Vec::new());
        for &scenario in Scenario::value_variants() {
            if !self.only.is_empty() && !self.only.contains(&scenario) {
                continue;
            }
            eprintln!("measuring {} ...", scenario.name());
            figures.begin(scenario.name());
            if let Err(failure) = scenario.measure(lab, &plan, &mut figures).await {
                eprintln!("{}: {}", scenario.name(), failure.message);
                failed.push(scenario.name());
            }
            lab.clean().await;
        }
        (figures.into_figures(), failed)
    }

    /// The longest that one run with a sink may take.
    fn bound(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(60))
    }

    /// Whoever sits at a terminal is asked: the sink may be the production's. A script has named it.
    fn may_send(&self, target: &Target) -> Result<bool, Failure> {
        if self.yes || !std::io::stdin().is_terminal() {
            return Ok(true);
        }
        confirmed(&format!("This sends made-up events to {}, for real, {} in each run. Go on?", target.name(), self.events))
    }

    fn report(&self, lab: &Lab, target: Option<&Target>, runs: Vec<Vec<Figure>>) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            server: lab.server().clone(),
            quick: self.quick,
            sink: target.map(Target::measured),
            runs: runs.len(),
            figures: report::medians(runs),
        }
    }
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::Yardstick => "yardstick",
            Self::Ingest => "ingest",
            Self::Drain => "drain",
            Self::Both => "both",
            Self::Steady => "steady",
            Self::Latency => "latency",
            Self::Idle => "idle",
            Self::Fetch => "fetch",
            Self::Backlog => "backlog",
        }
    }

    async fn measure(self, lab: &Lab, plan: &Plan, figures: &mut Figures) -> Result<(), Failure> {
        match self {
            Self::Yardstick => yardstick::measure(lab, plan.seconds, figures).await,
            Self::Ingest => inbound::ingest(lab, plan, figures).await,
            Self::Drain => outbound::drain(lab, plan, figures).await,
            Self::Both => inbound::together(lab, plan, None, figures).await,
            Self::Steady => inbound::together(lab, plan, Some(plan.steady_per_second), figures).await,
            Self::Latency => inbound::latency(lab, plan, figures).await,
            Self::Idle => inbound::idle(lab, plan, figures).await,
            Self::Fetch => outbound::fetch(lab, plan, figures).await,
            Self::Backlog => outbound::backlog(lab, plan, figures).await,
        }
    }
}

/// How long a drain of this many events may take: at a rate so low that there is nothing left to measure.
fn drain_patience(events: u64) -> Duration {
    Duration::from_secs(60 + events / 2000)
}

fn no_sink(error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot listen on 127.0.0.1: {error}"))
}
