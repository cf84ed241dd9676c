//! From the keys as written to the config as meant: defaults, limits, and what must fit together.

use super::error::Problem;
use super::raw::{self, Item, List, Scalar};
use super::values::{self, duration};
use super::{Config, Ingest, KeepUnverified, Retention, Secret, Source, Worker, mindtickle, profiles, sinks};
use crate::profile::{Profile, TimestampPlace};
use serde_spanned::Spanned;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a `timestamp_window` may be.
pub(super) const WINDOW: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(10 * YEAR.as_secs());

pub(super) fn config(raw: &raw::File, given: mindtickle::Given) -> Result<Config, Problem> {
    let profiles = profiles::profiles(&raw.profile)?;
    Ok(Config {
        database_url: read(&raw.database_url, "database_url", values::database_url)?,
        ingest: ingest(&raw.ingest)?,
        worker: worker(&raw.worker)?,
        retention: retention(&raw.retention)?,
        mindtickle: mindtickle::mindtickle(&raw.mindtickle, given)?,
        sources: sources(&raw.source, &profiles)?,
        sinks: sinks::sinks(&raw.sink)?,
    })
}

fn ingest(raw: &raw::Ingest) -> Result<Ingest, Problem> {
    let default_listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
    let listen = read(&raw.listen, "listen", values::address)?.unwrap_or(default_listen);
    let ops_listen = read(&raw.ops_listen, "ops_listen", values::address)?;
    if ops_listen == Some(listen) && listen.port() != 0 {
        return Err(wrong(&raw.ops_listen, "`ops_listen` must differ from `listen`: webhooks are received there"));
    }
    let asynchronous = values::one_of(&[("refuse", false), ("allow", true)]);
    let body_bytes_max = read(&raw.body_max, "body_max", values::size(1..=64 * MIB))?.unwrap_or(MIB);
    let queue_bytes_max = read(&raw.queue_bytes, "queue_bytes", values::size(KIB..=64 * GIB))?.unwrap_or(64 * MIB);
    if queue_bytes_max < body_bytes_max {
        let item = raw.queue_bytes.as_ref().or(raw.body_max.as_ref());
        let message = "`queue_bytes` must be at least `body_max`: a larger body could never be queued";
        return Err(Problem::new(item.map_or(0..0, Spanned::span), message));
    }
    Ok(Ingest {
        listen,
        ops_listen,
        body_bytes_max,
        header_timeout: read(&raw.header_timeout, "header_timeout", duration(MILLISECOND..=HOUR))?.unwrap_or(Duration::from_secs(10)),
        body_timeout: read(&raw.body_timeout, "body_timeout", duration(MILLISECOND..=HOUR))?.unwrap_or(Duration::from_secs(10)),
        // A commit that is still possible keeps workers from settling what comes after it, so it may not grow without limit.
        commit_timeout: read(&raw.commit_timeout, "commit_timeout", duration(MILLISECOND..=MINUTE))?.unwrap_or(Duration::from_millis(2500)),
        connections_max: read(&raw.connections_max, "connections_max", values::count(1..=1_000_000))?.unwrap_or(8192),
        queue_events_max: read(&raw.queue_events, "queue_events", values::count(1..=10_000_000))?.unwrap_or(8192),
        queue_bytes_max,
        threads: read(&raw.threads, "threads", values::count(1..=64))?.unwrap_or(1),
        committers: read(&raw.committers, "committers", values::count(1..=64))?.unwrap_or(1),
        batch_events_max: read(&raw.batch_events, "batch_events", values::count(1..=100_000))?.unwrap_or(1000),
        allows_asynchronous_commit: read(&raw.asynchronous_commit, "asynchronous_commit", asynchronous)?.unwrap_or(false),
        keep_unverified: raw.keep_unverified.as_ref().map(keep_unverified).transpose()?,
        drain_timeout: read(&raw.drain_timeout, "drain_timeout", duration(Duration::ZERO..=HOUR))?.unwrap_or(Duration::from_secs(20)),
    })
}

fn keep_unverified(raw: &raw::KeepUnverified) -> Result<KeepUnverified, Problem> {
    Ok(KeepUnverified {
        rows_max: read(&raw.rows, "rows", values::count(1..=1_000_000))?.unwrap_or(10_000),
        bytes_max: read(&raw.bytes, "bytes", values::size(KIB..=10 * GIB))?.unwrap_or(64 * MIB),
        age: read(&raw.age, "age", duration(MINUTE..=YEAR))?.unwrap_or(24 * HOUR),
    })
}

fn worker(raw: &raw::Worker) -> Result<Worker, Problem> {
    Ok(Worker {
        ops_listen: read(&raw.ops_listen, "ops_listen", values::address)?,
        drain_timeout: read(&raw.drain_timeout, "drain_timeout", duration(Duration::ZERO..=HOUR))?.unwrap_or(Duration::from_secs(20)),
        read_ahead: read(&raw.read_ahead, "read_ahead", values::count(1..=100_000))?.unwrap_or(4000),
        poll: read(&raw.poll, "poll", duration(MILLISECOND..=MINUTE))?.unwrap_or(Duration::from_secs(1)),
    })
}

fn retention(raw: &raw::Retention) -> Result<Retention, Problem> {
    let kept = |item, key| read(item, key, duration(HOUR..=100 * YEAR));
    let retention = Retention { payloads: kept(&raw.payloads, "payloads")?, deliveries: kept(&raw.deliveries, "deliveries")? };
    if retention.deliveries.is_some_and(|deliveries| retention.payloads.is_some_and(|payloads| payloads > deliveries)) {
        return Err(wrong(&raw.payloads, "`payloads` must not be longer than `deliveries`: they are dropped with them"));
    }
    Ok(retention)
}

fn sources(raw: &[Spanned<raw::Source>], profiles: &[Profile]) -> Result<Vec<Source>, Problem> {
    let mut names = Names::new("source");
    raw.iter().map(|entry| source(entry, profiles, &mut names)).collect()
}

fn source(entry: &Spanned<raw::Source>, profiles: &[Profile], names: &mut Names) -> Result<Source, Problem> {
    let raw = entry.get_ref();
    let name = names.take(&raw.name, entry.span())?;
    let profile = read(&raw.profile, "profile", |value| {
        let wanted = values::text(value)?;
        let known = || profiles.iter().map(|profile| format!("\"{}\"", profile.name)).collect::<Vec<_>>().join(" or ");
        let found = profiles.iter().find(|profile| profile.name == wanted).cloned();
        found.ok_or_else(|| format!("must be {}, or the name of a [[profile]] of this file", known()))
    })?;
    let profile = profile.unwrap_or_else(Profile::mindtickle);
    let secret = |value: &Scalar| {
        let text = values::text(value)?;
        let wanted = || format!("must be base64, with or without `whsec_` in front, as its profile \"{}\" has them", profile.name);
        profile.secret_form.key(&text).map(drop).ok_or_else(wanted)?;
        Ok(Secret::new(text))
    };
    let secrets = required(list(&raw.secrets, "secrets", secret)?, entry.span(), "`secrets` of this source is missing: list at least one")?;
    let window = read(&raw.timestamp_window, "timestamp_window", duration(WINDOW))?;
    if window.is_some() && profile.timestamp == TimestampPlace::Nowhere {
        let message =
            "`timestamp_window` must be left out: the requests of this source's profile carry no timestamp, so their age is not known";
        return Err(wrong(&raw.timestamp_window, message));
    }
    Ok(Source {
        name: name.into(),
        secrets,
        company_id: read(&raw.company_id, "company_id", values::text)?,
        timestamp_window: window.unwrap_or(profile.timestamp_window),
        profile,
    })
}

/// The names of one kind of table: each has one, and none has another's.
pub(super) struct Names {
    what: &'static str,
    seen: HashSet<String>,
}

impl Names {
    pub fn new(what: &'static str) -> Self {
        Self { what, seen: HashSet::new() }
    }

    /// No table may have this one.
    pub fn reserve(&mut self, name: &str) {
        self.seen.insert(name.to_owned());
    }

    /// The `name` of the table at `table`.
    pub fn take(&mut self, item: &Option<Item>, table: Range<usize>) -> Result<String, Problem> {
        let what = self.what;
        let name = required(read(item, "name", values::name)?, table, &format!("`name` of this {what} is missing: add it"))?;
        if !self.seen.insert(name.clone()) {
            return Err(wrong(item, &format!("`name` must differ from that of every other {what}: \"{name}\" is taken")));
        }
        Ok(name)
    }
}

/// Reads a key that may be absent. An error of `parse` becomes a sentence that begins with the key.
pub(super) fn read<T>(item: &Option<Item>, key: &str, parse: impl Fn(&Scalar) -> Result<T, String>) -> Result<Option<T>, Problem> {
    item.as_ref().map(|item| parse(item.get_ref()).map_err(|message| Problem::new(item.span(), format!("`{key}` {message}")))).transpose()
}

/// Reads a list that may be absent, but not empty.
pub(super) fn list<T>(items: &Option<List>, key: &str, parse: impl Fn(&Scalar) -> Result<T, String>) -> Result<Option<Vec<T>>, Problem> {
    let Some(list) = items else { return Ok(None) };
    if list.get_ref().is_empty() {
        return Err(Problem::new(list.span(), format!("`{key}` must not be an empty list: add to it, or leave the key out")));
    }
    let item = |item: &Item| parse(item.get_ref()).map_err(|message| Problem::new(item.span(), format!("each of `{key}` {message}")));
    list.get_ref().iter().map(item).collect::<Result<_, _>>().map(Some)
}

pub(super) fn required<T>(value: Option<T>, table: Range<usize>, message: &str) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::new(table, message))
}

/// A problem with a key that is there.
pub(super) fn wrong(item: &Option<Item>, message: &str) -> Problem {
    Problem::new(item.as_ref().map_or(0..0, Spanned::span), message)
}
