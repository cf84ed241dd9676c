//! The config: one TOML file, parsed and checked once, at the edge. What gets past [`Config::load`] cannot be wrong.
//!
//! Text to tree (`toml`), references replaced in it (`interpolate`), tree to keys with their places (`raw`), keys to what they
//! mean (`check`, `sinks`, by way of `values` and `units`).

mod archive;
mod check;
mod email;
mod error;
mod interpolate;
mod message;
mod mindtickle;
mod oauth;
mod profiles;
mod raw;
mod salesforce;
mod scim;
mod sinks;
#[cfg(test)]
mod tests;
mod units;
mod values;
mod xapi;

pub use archive::{ArchivePlace, ArchiveSink, Bucket, Store};
pub use email::{EmailSink, MailServer, Tls};
pub use error::ConfigError;
pub use message::MessageSink;
pub use mindtickle::{COMPANY_VARIABLE, Mindtickle, TOKEN_VARIABLE};
pub use oauth::{Authorization, Grant, OAuth};
pub use salesforce::SalesforceSink;
pub use scim::{Group, OnDeprovision, ScimSink};
pub use units::duration as parse_duration;
pub use xapi::XapiSink;

use crate::delivery::Policy;
use crate::mapping::{Expression, Mapping};
use crate::profile::Profile;
use error::Problem;
use ipnet::IpNet;
use serde::Deserialize as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A value that must not be shown: its `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> std::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The whole config.
#[derive(Debug, Clone)]
pub struct Config {
    /// `DATABASE_URL`, else `database_url`; `None` where neither is given (only `sluice dev` and `config check` can do without).
    pub database_url: Option<Secret<String>>,
    pub ingest: Ingest,
    pub worker: Worker,
    pub retention: Retention,
    pub mindtickle: Mindtickle,
    pub sources: Vec<Source>,
    pub sinks: Vec<Sink>,
}

/// Which part of a config a process needs. Two processes can share one file, and each has only its own secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    /// Everything but the sinks and the provider's API: ingest holds no address and no secret of theirs.
    Ingest,
    /// Everything but the sources, and the provider's API where it is not watched: a worker holds no signing secret.
    Worker,
    /// The provider's API, without sources and sinks.
    Provider,
    /// None of the three: an operator needs the database only.
    Neither,
}

impl Part {
    /// Takes out of the file what this part does not need.
    fn keep(self, file: &mut toml::de::DeTable<'_>) {
        let is_watched = file.get("mindtickle").and_then(|table| table.get_ref().get("watchdog")).is_some();
        let left_out: &[&str] = match self {
            Part::All => &[],
            Part::Ingest => &["sink", "mindtickle"],
            Part::Worker if is_watched => &["source"],
            Part::Worker => &["source", "mindtickle"],
            Part::Provider => &["source", "sink"],
            Part::Neither => &["source", "sink", "mindtickle"],
        };
        for &table in left_out {
            file.remove(table);
        }
    }
}

impl Config {
    /// Reads the config from `path`, else from where `SLUICE_CONFIG` says, else from `sluice.toml`.
    ///
    /// `env` is the environment: only `main` reads the real one. A variable that is set but empty counts as not set.
    pub fn load(path: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::load_part(path, env, Part::All)
    }

    /// The same, of one part of the config: what the other parts refer to need not be there.
    pub fn load_part(path: Option<&Path>, env: &dyn Fn(&str) -> Option<String>, part: Part) -> Result<Self, ConfigError> {
        let from_env = || env("SLUICE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = path.map(Path::to_path_buf).or_else(from_env).unwrap_or_else(|| PathBuf::from("sluice.toml"));
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ConfigError::Missing { path: name.clone() },
            _ => ConfigError::Unreadable { path: name.clone(), source },
        })?;
        Self::parse_part(&text, &name, env, part)
    }

    /// Parses and checks a config; `name` is what errors call it. `env` as in [`Config::load`]. Reads the files that
    /// `${file:PATH}` names, and nothing else.
    pub fn parse(text: &str, name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::parse_part(text, name, env, Part::All)
    }

    fn parse_part(text: &str, name: &str, env: &dyn Fn(&str) -> Option<String>, part: Part) -> Result<Self, ConfigError> {
        let given = match part {
            Part::Ingest | Part::Neither => mindtickle::Given::default(),
            Part::All | Part::Worker | Part::Provider => mindtickle::Given::read(env)?,
        };
        let mut config = Self::parse_text(text, env, part, given).map_err(|problem| problem.locate(text, name))?;
        if let Some(url) = env("DATABASE_URL").filter(|url| !url.is_empty()) {
            let url = values::database_url(&raw::Scalar::Text(url)).map_err(|message| ConfigError::DatabaseUrl { message })?;
            config.database_url = Some(url);
        }
        Ok(config)
    }

    fn parse_text(text: &str, env: &dyn Fn(&str) -> Option<String>, part: Part, given: mindtickle::Given) -> Result<Self, Problem> {
        let mut table = toml::de::DeTable::parse(text).map_err(|error| Problem::syntax(&error))?;
        part.keep(table.get_mut());
        let mut tree = serde_spanned::Spanned::new(table.span(), toml::de::DeValue::Table(table.into_inner()));
        interpolate::expand_all(&mut tree, &interpolate::Lookup { env, file: &interpolate::read_file })?;
        let file = raw::File::deserialize(toml::de::ValueDeserializer::from(tree)).map_err(|error| Problem::shape(&error))?;
        check::config(&file, given)
    }
}

/// `[ingest]`: the process that takes events in.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// Where webhooks are received. Default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`; not served when absent.
    pub ops_listen: Option<SocketAddr>,
    /// Largest request body, in bytes: `body_max`, default 1 MiB.
    pub body_bytes_max: usize,
    /// For the whole request head: `header_timeout`, default 10 s. Also how long a connection is kept that is idle, or whose client does
    /// not read its answers.
    pub header_timeout: Duration,
    /// For the whole body: `body_timeout`, default 10 s.
    pub body_timeout: Duration,
    /// From the verified request to its commit; after that 503: `commit_timeout`, default 2.5 s.
    pub commit_timeout: Duration,
    /// Open connections at once: `connections_max`, default 8192. Further ones wait in the listen queue.
    pub connections_max: usize,
    /// Verified events that wait for their commit: `queue_events`, default 8192. Beyond it: 503.
    pub queue_events_max: usize,
    /// The same in bytes: `queue_bytes`, default 64 MiB.
    pub queue_bytes_max: usize,
    /// Threads that serve requests and commit: `threads`, default 1.
    pub threads: usize,
    /// Connections that commit: `committers`, default 1.
    pub committers: usize,
    /// Events in one commit: `batch_events`, default 1000. A batch also ends at 4 MiB.
    pub batch_events_max: usize,
    /// Whether a server that reports commits before they are on disk will do: `asynchronous_commit`, "refuse" by default.
    pub allows_asynchronous_commit: bool,
    /// Whether requests that do not verify are kept for `sluice reverify`: `keep_unverified`, off by default.
    pub keep_unverified: Option<KeepUnverified>,
    /// After SIGTERM, for requests under way: `drain_timeout`, default 20 s.
    pub drain_timeout: Duration,
}

/// `keep_unverified`: how much is kept. Beyond it, and of bodies over 64 KiB, nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepUnverified {
    /// `rows`, default 10,000.
    pub rows_max: usize,
    /// Of all payloads together: `bytes`, default 64 MiB.
    pub bytes_max: usize,
    /// `age`, default 24 h.
    pub age: Duration,
}

/// `[worker]`: the process that delivers.
#[derive(Debug, Clone)]
pub struct Worker {
    /// `/livez`, `/readyz`, `/metrics`; not served when absent.
    pub ops_listen: Option<SocketAddr>,
    /// After SIGTERM, for tries in flight: `drain_timeout`, default 20 s.
    pub drain_timeout: Duration,
    /// Rows read ahead for each sink: `read_ahead`, default 4000.
    pub read_ahead: usize,
    /// How often an idle worker asks for rows: `poll`, default 1 s.
    pub poll: Duration,
}

/// `[retention]`: how long things are kept. Whole ranges of the log go at once, so each stays somewhat longer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// `payloads`; `None`: as long as the deliveries. Then a replay says that the payload is gone.
    pub payloads: Option<Duration>,
    /// `deliveries`: events, deliveries and attempts; `None`: for ever. Event ids are kept for ever in any case.
    pub deliveries: Option<Duration>,
}

/// `[[source]]`: one route, `/webhooks/{name}`.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: Arc<str>,
    pub profile: Profile,
    /// At least one, none empty. All are tried, so that one can be rotated.
    pub secrets: Vec<Secret<String>>,
    /// Events of any other company are quarantined; `None`: all are taken.
    pub company_id: Option<String>,
    /// Older requests are quarantined: `timestamp_window`, default as in the profile.
    pub timestamp_window: Duration,
}

/// `[[sink]]`: where events go.
#[derive(Debug, Clone)]
pub struct Sink {
    /// Letters, digits, `.`, `_`, `-`; at most 63.
    pub name: Arc<str>,
    pub kind: SinkKind,
    /// Event types routed to it; `None`: all.
    pub events: Option<Vec<String>>,
    /// Deliveries in flight at once, in each worker process: default 32.
    pub concurrency: usize,
    /// For one try: default 8 s.
    pub timeout: Duration,
    /// `retry = { max_attempts, initial, factor, cap }`: default 12, 2 s, 3, 1 h.
    pub policy: Policy,
    /// `order`: "key" (default) or "none".
    pub ordered: bool,
    /// `on_dead`: "continue" (default), or "block": a dead delivery holds its key's later ones.
    pub on_dead_block: bool,
    /// `when`: deliveries of events for which it is false are skipped.
    pub when: Option<Expression>,
    /// Tries a second for the sink as a whole, over all workers: `rate`; `None`: no limit.
    pub rate_per_second: Option<f64>,
    pub breaker: Breaker,
}

/// `breaker = { failures, rest, cap }` of a sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    /// This many failures in a row that blame the sink open it: default 5.
    pub failures: u32,
    /// How long it rests at first: default 1 s. Doubled each time a probe fails.
    pub rest: Duration,
    /// The longest rest: default 30 s.
    pub cap: Duration,
}

/// What is particular to each kind of sink.
#[derive(Debug, Clone)]
pub enum SinkKind {
    Http(HttpSink),
    File(FileSink),
    Salesforce(SalesforceSink),
    Slack(MessageSink),
    Teams(MessageSink),
    Email(EmailSink),
    Archive(ArchiveSink),
    Null,
    Scim(ScimSink),
    Xapi(XapiSink),
    /// Tables in Sluice's own database; it has no keys of its own.
    Projection,
}

/// `kind = "http"`.
#[derive(Debug, Clone)]
pub struct HttpSink {
    /// http or https; may itself be a secret.
    pub url: Secret<String>,
    /// Sent with every request: `headers`.
    pub headers: Vec<(String, Secret<String>)>,
    /// Private ranges it may reach: `allow`; none by default.
    pub allow: Vec<IpNet>,
    /// When set, requests carry Standard Webhooks headers: `signing_secret`, raw or `whsec_` + base64.
    pub signing_secret: Option<Secret<Vec<u8>>>,
    /// When set, this is sent instead of the payload: `body`.
    pub body: Option<Mapping>,
}

/// `kind = "file"`.
#[derive(Debug, Clone)]
pub struct FileSink {
    /// Created when absent; lines are appended.
    pub path: PathBuf,
}

impl SinkKind {
    /// The config's word for it.
    pub fn name(&self) -> &'static str {
        match self {
            SinkKind::Http(_) => "http",
            SinkKind::File(_) => "file",
            SinkKind::Salesforce(_) => "salesforce",
            SinkKind::Slack(_) => "slack",
            SinkKind::Teams(_) => "teams",
            SinkKind::Email(_) => "email",
            SinkKind::Archive(_) => "archive",
            SinkKind::Null => "null",
            SinkKind::Scim(_) => "scim",
            SinkKind::Xapi(_) => "xapi",
            SinkKind::Projection => "projection",
        }
    }
}
