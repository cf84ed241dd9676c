//! The command line: one file a command, each of which parses, calls and prints.

pub mod bench;
pub mod completions;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod erase;
pub mod ingest;
pub mod migrate;
pub mod mindtickle;
pub mod projection;
pub mod prune;
pub mod replay;
pub mod reverify;
pub mod route;
mod samples;
pub mod send;
pub mod status;
pub mod worker;

use crate::config::{Config, ConfigError, Part};
use crate::shutdown::Shutdown;
use crate::store::pooler;
use crate::store::servers::{self, Connection, Servers};
use crate::telemetry;
use clap::{Parser, Subcommand, ValueEnum};
use std::io::{BufRead, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime;

/// A durable webhook inbox: signed events in, committed to Postgres before they are acknowledged, delivered to every sink.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about, max_term_width = 110)]
pub struct Cli {
    /// The config file [default: sluice.toml]
    #[arg(long, short, global = true, env = "SLUICE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines are written, on stderr; RUST_LOG filters them
    #[arg(long, global = true, env = "SLUICE_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

/// See [`Cli`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// What `sluice` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// All in one, for a first look: a private Postgres, ingest, a worker and a file sink
    Dev(dev::Args),
    /// Bring the database's schema up to this version
    Migrate(migrate::Args),
    /// Receive webhooks
    Ingest,
    /// Deliver what was received
    Worker,
    /// Sign and post sample events, or a file
    Send(send::Args),
    /// What each sink is owed, and how it is doing
    Status(status::Args),
    /// Deliver again what was given up, or what was delivered in a stretch of time
    Replay(replay::Args),
    /// Try out where events would go
    Route(route::Args),
    /// Let in requests that were kept because they did not verify, and do with the secrets of today
    Reverify(reverify::Args),
    /// Remove what is stored of a person
    Erase(erase::Args),
    /// Drop what was received before a day and is owed to nobody
    Prune(prune::Args),
    /// The tables that projection sinks keep
    Projection(projection::Args),
    /// Measure this machine: single inserts by pgbench, then ingest, drain, both at once, latency and cost
    Bench(bench::Args),
    /// Look for what is wrong: config, database, workers, sinks, and signs of trouble at the provider
    Doctor(doctor::Args),
    /// The provider's own API: its webhooks
    ///
    /// With MINDTICKLE_API_TOKEN, and MINDTICKLE_COMPANY_ID to register; both can stand in the config, too, as `token` and
    /// `company_id` of `[mindtickle]`.
    Mindtickle(mindtickle::Args),
    /// Look at the config
    Config(config::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// What every command is given: the only reader of the environment.
#[derive(Debug)]
pub struct Context {
    config: Option<PathBuf>,
    log_format: LogFormat,
}

impl Cli {
    pub fn context(&self) -> Context {
        Context { config: self.config.clone(), log_format: self.log_format }
    }
}

impl Context {
    /// Runs a command on a runtime of its own, with a thread for each core.
    pub fn run(&self, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        self.run_in(&mut runtime::Builder::new_multi_thread(), command)
    }

    /// The same with this many threads.
    pub fn run_on(&self, threads: usize, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        self.run_in(runtime::Builder::new_multi_thread().worker_threads(threads), command)
    }

    fn run_in(&self, builder: &mut runtime::Builder, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let _logs = telemetry::init_logs(matches!(self.log_format, LogFormat::Json));
        let runtime = builder.enable_all().build().map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        runtime.block_on(command)
    }

    /// Whether a config file was named.
    fn names_config(&self) -> bool {
        self.config.is_some()
    }

    fn config(&self, part: Part) -> Result<Config, Failure> {
        Ok(self.load_config(part)?)
    }

    /// The same, for who can do without.
    fn load_config(&self, part: Part) -> Result<Config, ConfigError> {
        Config::load_part(self.config.as_deref(), &env, part)
    }

    /// The database's URL: `DATABASE_URL`, else the config's, else that of a running `sluice dev`.
    fn database_url(&self) -> Result<String, Failure> {
        if let Some(url) = env("DATABASE_URL") {
            return Ok(url);
        }
        let configured = match Config::load_part(self.config.as_deref(), &env, Part::Neither) {
            Ok(config) => config.database_url.map(|url| url.expose().clone()),
            // One that is there and wrong may name a database: another must not be taken instead.
            Err(ConfigError::Missing { .. }) if !self.names_config() => None,
            Err(error) => return Err(error.into()),
        };
        configured.or_else(dev::kept_url).ok_or_else(|| {
            let dev = dev::data_dir()
                .map(|dir| format!(", and no `sluice dev` is running in {} (SLUICE_DEV_DIR names another folder)", dir.display()));
            Failure::config(format!(
                "no database is configured: set DATABASE_URL, or database_url in the config{}",
                dev.unwrap_or_default()
            ))
        })
    }
}

/// A variable of the environment; one that is empty counts as not set.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Why a command ends without having done what it was asked to.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    const FAILED: u8 = 1;
    /// EX_UNAVAILABLE: a dependency is down.
    const UNAVAILABLE: u8 = 69;
    /// EX_CONFIG.
    const CONFIG: u8 = 78;

    fn failed(message: impl Into<String>) -> Self {
        Self { code: Self::FAILED, message: message.into() }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        Self { code: Self::UNAVAILABLE, message: message.into() }
    }

    fn config(message: impl Into<String>) -> Self {
        Self { code: Self::CONFIG, message: message.into() }
    }

    /// A database error: unreachable is another matter than refused.
    fn database(what: &str, error: &sqlx::Error) -> Self {
        if let Some(refusal) = pooler::refusal(error) {
            return Self::config(refusal.to_string());
        }
        match error {
            sqlx::Error::Database(error) => {
                // No such database, no such role, a wrong password: the URL's, or nobody's yet.
                let advice = match error.code().as_deref() {
                    Some("3D000") => "; create it, or correct DATABASE_URL",
                    Some("28000" | "28P01") => "; correct the user and password in DATABASE_URL",
                    _ => "",
                };
                Self::failed(format!("{what}: {}{advice}", error.message()))
            }
            error => Self::unavailable(format!("{what}: {error}; is Postgres running, and is DATABASE_URL right?")),
        }
    }

    /// The same, and what else was tried.
    fn and(&self, more: &str) -> Self {
        Self { code: self.code, message: format!("{}; {more}", self.message) }
    }

    /// Says on stderr what went wrong; returns the code to exit with.
    pub fn report(&self) -> ExitCode {
        eprintln!("sluice: {}", self.message);
        ExitCode::from(self.code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::config(error.to_string())
    }
}

/// Binds a listener, or says who may be in the way.
async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::failed(format!("cannot listen on {address} ({key}): {error}; stop what uses that port, or choose another"))
    })
}

/// Stops on SIGTERM and SIGINT, softly at first.
fn shutdown(bound: Duration) -> Result<Shutdown, Failure> {
    Shutdown::on_signals(bound).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))
}

/// Prints data on stdout: a closed pipe is not an error worth a word.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints a value as JSON on stdout.
fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => eprintln!("sluice: cannot write JSON: {error}"),
    }
}

/// Asks whoever sits at the terminal.
fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::failed("nobody is there to confirm it: add --yes (or --dry-run to look only)"));
    }
    print(&format!("{question} [y/N] "));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// How long a process waits for its database when it starts: one that swallows packets must not keep it from starting, or from saying so.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Connects as a process that starts, to look around.
async fn connect_at_start(servers: &Servers, name: &str) -> Result<Connection, sqlx::Error> {
    let servers = servers.session(name, servers::AT_START);
    let connected = tokio::time::timeout(START_PATIENCE, servers.connect()).await;
    connected.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within 5 s"))))
}

/// Connects as the operator who typed the command, and refuses a schema that this binary does not know.
async fn operator(context: &Context) -> Result<Connection, Failure> {
    let url = context.database_url()?;
    let servers = Servers::parse(&url).map_err(|error| Failure::config(error.to_string()))?;
    let mut conn = servers
        .session("sluice operator", &[])
        .connect()
        .await
        .map_err(|error| Failure::database("cannot connect to the database", &error))?;
    check_schema(&mut conn).await?;
    Ok(conn)
}

async fn check_schema(conn: &mut sqlx::PgConnection) -> Result<(), Failure> {
    crate::store::migrate::check(conn).await.map_err(|error| match error {
        crate::store::migrate::SchemaError::Database(error) => Failure::database("cannot look at the schema", &error),
        error => Failure::failed(error.to_string()),
    })
}
