//! A storm under load: whatever dies, freezes or is cut off, and when, what was acknowledged is stored, and comes to its sinks.
//!
//! A run prints its seed; `SLUICE_TEST_SEED` repeats its choices. `SLUICE_TEST_MINUTES` makes it a long one (`make faults`), which
//! waits for the recovery from each fault before the next one, measures it, and prints a table.

use crate::checker::Checker;
use crate::private;
use crate::provider::Provider;
use crate::proxy::Proxy;
use crate::sink::Sink;
use crate::system::{Ingest, Process, Random, System, eventually, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::clock;
use sluice::dev::PrivatePostgres;
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEED: &str = "SLUICE_TEST_SEED";
const MINUTES: &str = "SLUICE_TEST_MINUTES";
/// Of a short run.
const FAULTS: usize = 8;

const CONCURRENCY: usize = 8;
const SINKS: [&str; 2] = ["lms", "crm"];
const LEARNERS: usize = 8;

/// The lease is 10 s, and a takeover comes within 12 s: a frozen worker loses its lanes.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(14);
/// What a long run grants for each recovery.
const AFTER_A_WORKERS_DEATH: Duration = Duration::from_secs(15);
const AFTER_ALL_ELSE: Duration = Duration::from_secs(5);

/// What happens. All but the first two happen to both processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    IngestKilled,
    IngestFrozen,
    WorkerKilled,
    WorkerFrozen,
    PostgresKilled,
    PostgresRestarted,
    BackendsTerminated,
    ConnectionsCut,
    NetworkStill,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::IngestKilled,
        Self::IngestFrozen,
        Self::WorkerKilled,
        Self::WorkerFrozen,
        Self::PostgresKilled,
        Self::PostgresRestarted,
        Self::BackendsTerminated,
        Self::ConnectionsCut,
        Self::NetworkStill,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::IngestKilled => "ingest: kill -9",
            Self::IngestFrozen => "ingest: frozen for 1 s",
            Self::WorkerKilled => "a worker: kill -9",
            Self::WorkerFrozen => "a worker: frozen beyond its lease",
            Self::PostgresKilled => "Postgres: kill -9",
            Self::PostgresRestarted => "Postgres: restarted",
            Self::BackendsTerminated => "Postgres: all backends terminated",
            Self::ConnectionsCut => "network: all connections cut",
            Self::NetworkStill => "network: nothing passes for 3 s",
        }
    }

    /// From when it is over (from the kill of a worker, which nothing heals) until all that was acknowledged before is delivered.
    fn recovery_max(self) -> Duration {
        match self {
            Self::WorkerKilled | Self::WorkerFrozen => AFTER_A_WORKERS_DEATH,
            _ => AFTER_ALL_ELSE,
        }
    }

    /// How many processes may have lost what they had in flight.
    fn loses(self) -> usize {
        match self {
            Self::IngestKilled | Self::IngestFrozen => 0,
            Self::WorkerKilled | Self::WorkerFrozen => 1,
            _ => 2,
        }
    }
}

/// All that can be hit.
struct Stage {
    system: System,
    dir: PathBuf,
    port: u16,
    config: PathBuf,
    proxy: Proxy,
    postgres: Option<PrivatePostgres>,
    ingest: Ingest,
    workers: Vec<Process>,
    provider: Arc<Provider>,
}

impl Stage {
    /// Lets it happen; returns when it is over.
    async fn suffer(&mut self, fault: Fault, random: &mut Random) {
        match fault {
            Fault::IngestKilled => {
                self.ingest.kill().await;
                self.ingest = self.system.ingest().await;
                self.provider.move_to(self.ingest.address);
            }
            Fault::IngestFrozen => freeze(&self.ingest.process, Duration::from_secs(1)).await,
            Fault::WorkerKilled => {
                self.workers.swap_remove(random.below(self.workers.len())).kill().await;
                self.workers.push(self.system.worker(&self.config));
            }
            Fault::WorkerFrozen => freeze(&self.workers[random.below(self.workers.len())], BEYOND_THE_LEASE).await,
            Fault::PostgresKilled => {
                let pid = std::fs::read_to_string(self.dir.join("pgdata/postmaster.pid")).unwrap();
                kill(Pid::from_raw(pid.lines().next().unwrap().trim().parse().unwrap()), Signal::SIGKILL).unwrap();
                self.restart_postgres().await;
            }
            Fault::PostgresRestarted => self.restart_postgres().await,
            Fault::BackendsTerminated => {
                let others = "backend_type = 'client backend' and pid <> pg_backend_pid() and application_name like 'sluice%'";
                self.system.execute(&format!("select pg_terminate_backend(pid) from pg_stat_activity where {others}")).await;
            }
            Fault::ConnectionsCut => self.proxy.break_off(),
            Fault::NetworkStill => {
                self.proxy.hold(true);
                tokio::time::sleep(Duration::from_secs(3)).await;
                self.proxy.hold(false);
            }
        }
    }

    async fn restart_postgres(&mut self) {
        self.postgres.take().unwrap().stop().await.unwrap();
        self.postgres = Some(start(&self.dir, self.port).await);
    }

    /// How long until all lanes have an owner that is alive, and all that is stored by then has been delivered. Without the first a dead
    /// worker that owed nothing at its death would be put down to the next fault.
    async fn recovery(&self, since: Instant) -> Duration {
        let pids: Vec<String> = self.workers.iter().map(|worker| worker.pid().to_string()).collect();
        let owned = format!(
            "select bool_and(coalesce(split_part(w.name, ':', 2) = any ('{{{}}}'), false)) from sluice.lanes l left join sluice.workers w on w.id = l.worker",
            pids.join(",")
        );
        let is_owned = async || sqlx::query_scalar(AssertSqlSafe(owned.clone())).fetch_one(&self.system.db).await.is_ok_and(|owned| owned);
        eventually("all lanes are owned by workers that live", is_owned).await;
        eventually("the last event can be asked for", async || self.last().await.is_some()).await;
        let last = self.last().await.unwrap_or_default();
        let owed = format!("select exists (select from sluice.deliveries where status = 'pending' and event_seq <= {last})");
        eventually("all of it is delivered", async || !self.system.value::<bool>(&owed).await).await;
        clock::instant().saturating_duration_since(since)
    }

    async fn last(&self) -> Option<i64> {
        sqlx::query_scalar("select coalesce(max(seq), 0) from sluice.events").fetch_one(&self.system.db).await.ok()
    }
}

async fn freeze(process: &Process, time: Duration) {
    process.signal(Signal::SIGSTOP);
    tokio::time::sleep(time).await;
    process.signal(Signal::SIGCONT);
}

async fn start(dir: &Path, port: u16) -> PrivatePostgres {
    let mut options = private::options();
    options.port = Some(port);
    PrivatePostgres::start(dir, options).await.expect("a private Postgres starts")
}

async fn set(dir: &Path, sinks: &[Sink; 2]) -> Stage {
    let port = free_port();
    let postgres = start(dir, port).await;
    let system = System::on(postgres.url()).await;
    system.migrate().await;
    let proxy = Proxy::start(system.server()).await;
    system.detour(proxy.address);
    let keys = format!("concurrency = {CONCURRENCY}\nretry = {{ initial = \"50ms\", cap = \"1s\" }}");
    let config = system.config(&(sinks[0].config(SINKS[0], &keys) + &sinks[1].config(SINKS[1], &keys)));
    let workers = vec![system.working(&config).await, system.working(&config).await];
    let ingest = system.ingest().await;
    let provider = Provider::new(ingest.address);
    Stage { system, dir: dir.to_owned(), port, config, proxy, postgres: Some(postgres), ingest, workers, provider }
}

/// How often each fault came, and the worst recovery from it.
type Table = BTreeMap<Fault, (usize, Duration)>;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_under_load_what_was_acknowledged_is_stored_and_delivered_in_order() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    let seed = number(SEED).unwrap_or_else(|| clock::now().timestamp_micros() as usize);
    eprintln!("{SEED}={seed}");
    let mut random = Random(seed as u64);
    let long = number(MINUTES).map(|minutes| clock::instant() + Duration::from_secs(60 * minutes as u64));

    let (dir, sinks) = (private::folder(), [Sink::answering(200).await, Sink::answering(200).await]);
    let mut stage = set(dir.path(), &sinks).await;
    let provider = stage.provider.clone();
    if long.is_some() {
        // What is measured is the recovery, not how far behind a backlog was before.
        provider.pace(Duration::from_millis(25));
    }
    let learners = provider.learners(LEARNERS);

    let (mut table, mut losses) = (Table::new(), 0);
    for n in 0.. {
        if long.map_or(n >= FAULTS, |until| clock::instant() >= until) {
            break;
        }
        provider.more(50 + random.below(200)).await;
        // A short run has no time for leases to run out.
        let fault = match Fault::ALL[random.below(Fault::ALL.len())] {
            Fault::WorkerFrozen if long.is_none() => Fault::WorkerKilled,
            fault => fault,
        };
        let began = clock::instant();
        stage.suffer(fault, &mut random).await;
        losses += fault.loses();
        let row = table.entry(fault).or_default();
        row.0 += 1;
        if long.is_some() {
            let since = if fault == Fault::WorkerKilled { began } else { clock::instant() };
            let recovery = stage.recovery(since).await;
            if recovery > fault.recovery_max() {
                eprintln!("fault {n}, {}: {:.1} s", fault.name(), recovery.as_secs_f64());
                for worker in &stage.workers {
                    let log = worker.log();
                    let last: Vec<&str> = log.lines().rev().take(15).collect();
                    eprintln!("--- worker {}, the end of its log:", worker.pid());
                    last.iter().rev().for_each(|line| eprintln!("{line}"));
                }
            }
            row.1 = row.1.max(recovery);
        }
    }
    let acknowledged = provider.end(learners).await;

    let system = &stage.system;
    let all: i64 = system.value("select count(*) from sluice.events").await;
    system.drained(all * SINKS.len() as i64).await;
    let in_flight = CONCURRENCY + 4 * CONCURRENCY;
    let checker = Checker {
        system,
        acknowledged: &acknowledged,
        sinks: SINKS.into_iter().zip(&sinks).collect(),
        again_max: in_flight * losses,
        attempts_max: 12,
    };
    let findings = checker.check().await;
    eprintln!(
        "acknowledged {}, stored {}, delivered {}, came again {} (at most {}), broken promises {}",
        acknowledged.len(),
        findings.stored,
        findings.delivered,
        findings.again,
        checker.again_max * SINKS.len(),
        findings.broken.len()
    );
    for (fault, (times, worst)) in &table {
        eprintln!("| {} | {times} | {:.1} s |", fault.name(), worst.as_secs_f64());
    }
    assert!(findings.broken.is_empty(), "{:#?}", &findings.broken[..findings.broken.len().min(10)]);
    sinks.iter().for_each(Sink::assert_in_order);
    for (fault, (_, worst)) in table {
        assert!(worst <= fault.recovery_max(), "{}: {worst:?}", fault.name());
    }
}
