//! `[[sink]]`: what each kind takes, and its limits.

use super::check::{Names, list, read, required, wrong};
use super::error::Problem;
use super::raw::{self, Item, Scalar};
use super::values::{self, count, duration, number};
use super::{Breaker, FileSink, HttpSink, Secret, Sink, SinkKind};
use crate::backoff::Backoff;
use crate::delivery::Policy;
use serde_spanned::Spanned;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// How long a sink rests when it refuses us, or asks for less without saying for how long.
const REST: Duration = Duration::from_secs(10);
/// The longest wait that a sink's `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = HOUR;

const HOUR: Duration = Duration::from_secs(3600);
/// Waits between tries: at least something, lest it be a busy loop, at most what an operator could still be waiting for.
const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(30 * 24 * 3600);

/// Headers that Sluice or HTTP itself sets on each request: a second value would contradict the first.
const HEADERS_TAKEN: [&str; 16] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-event-id",
    "x-event-type",
];

pub(super) fn sinks(raw: &[Spanned<raw::Sink>]) -> Result<Vec<Sink>, Problem> {
    let mut names = Names::new("sink");
    raw.iter().map(|entry| sink(entry, &mut names)).collect()
}

fn sink(entry: &Spanned<raw::Sink>, names: &mut Names) -> Result<Sink, Problem> {
    let raw = entry.get_ref();
    if raw.when.is_some() {
        return Err(wrong(&raw.when, "`when` is not built yet: remove it, and filter in the sink or by `events`"));
    }
    let ordered = read(&raw.order, "order", values::one_of(&[("key", true), ("none", false)]))?.unwrap_or(true);
    let on_dead_block = read(&raw.on_dead, "on_dead", values::one_of(&[("continue", false), ("block", true)]))?.unwrap_or(false);
    if on_dead_block && !ordered {
        return Err(wrong(
            &raw.on_dead,
            "`on_dead` must not be \"block\" where `order` is \"none\": nothing waits there that could be held",
        ));
    }
    if on_dead_block {
        return Err(wrong(&raw.on_dead, "`on_dead = \"block\"` is not built yet: leave it at \"continue\""));
    }
    let rate = number("a number of tries a second, above 0 and at most 1000000", |rate| rate > 0.0 && rate <= 1e6);
    Ok(Sink {
        name: names.take(&raw.name, entry.span())?.into(),
        kind: kind(entry)?,
        events: list(&raw.events, "events", event_type)?,
        concurrency: read(&raw.concurrency, "concurrency", count(1..=10_000))?.unwrap_or(32),
        timeout: read(&raw.timeout, "timeout", duration(Duration::from_millis(1)..=HOUR))?.unwrap_or(Duration::from_secs(8)),
        policy: policy(&raw.retry)?,
        ordered,
        on_dead_block,
        when: None,
        rate_per_second: read(&raw.rate, "rate", rate)?,
        breaker: breaker(&raw.breaker)?,
    })
}

/// An event type as an event can carry it.
fn event_type(value: &Scalar) -> Result<String, String> {
    let name = values::text(value)?;
    let valid = name.chars().count() <= 200 && !name.chars().any(char::is_control);
    valid.then_some(name).ok_or_else(|| "must be an event type, such as \"course.completed\"".into())
}

fn policy(raw: &raw::Retry) -> Result<Policy, Problem> {
    let factor = number("a number from 1 to 100", |factor| (1.0..=100.0).contains(&factor));
    let backoff = Backoff {
        initial: read(&raw.initial, "initial", duration(WAIT))?.unwrap_or(Duration::from_secs(2)),
        factor: read(&raw.factor, "factor", factor)?.unwrap_or(3.0),
        cap: read(&raw.cap, "cap", duration(WAIT))?.unwrap_or(HOUR),
    };
    if backoff.cap < backoff.initial {
        let item = if raw.cap.is_some() { &raw.cap } else { &raw.initial };
        return Err(wrong(item, "`cap` of `retry` must be at least `initial`: it is 1h where it is not given"));
    }
    let max_attempts = read(&raw.max_attempts, "max_attempts", count(1..=10_000))?.unwrap_or(12);
    Ok(Policy { max_attempts, backoff, rest: REST, retry_after_max: RETRY_AFTER_MAX })
}

fn breaker(raw: &raw::Breaker) -> Result<Breaker, Problem> {
    let breaker = Breaker {
        failures: read(&raw.failures, "failures", count(1..=1_000_000))?.unwrap_or(5),
        rest: read(&raw.rest, "rest", duration(WAIT))?.unwrap_or(Duration::from_secs(1)),
        cap: read(&raw.cap, "cap", duration(WAIT))?.unwrap_or(Duration::from_secs(30)),
    };
    if breaker.cap < breaker.rest {
        let item = if raw.cap.is_some() { &raw.cap } else { &raw.rest };
        return Err(wrong(item, "`cap` of `breaker` must be at least `rest`: it is 30s where it is not given"));
    }
    Ok(breaker)
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    File,
    Null,
}

fn kind(entry: &Spanned<raw::Sink>) -> Result<SinkKind, Problem> {
    let raw = entry.get_ref();
    let missing = |key: &str, hint: &str| format!("`{key}` of this sink is missing: add it, such as {key} = \"{hint}\"");
    let kinds = values::one_of(&[("http", Kind::Http), ("file", Kind::File), ("null", Kind::Null)]);
    let kind = required(read(&raw.kind, "kind", kinds)?, entry.span(), &missing("kind", "http"))?;
    refuse_other_kinds(raw, kind)?;
    Ok(match kind {
        Kind::Http => {
            let url = read(&raw.url, "url", values::http_url)?;
            SinkKind::Http(HttpSink {
                url: required(url, entry.span(), &missing("url", "https://crm.example.com/hook"))?,
                headers: headers(&raw.headers)?,
                allow: list(&raw.allow, "allow", values::network)?.unwrap_or_default(),
                signing_secret: read(&raw.signing_secret, "signing_secret", values::signing_secret)?,
            })
        }
        Kind::File => {
            let path = required(read(&raw.path, "path", values::text)?, entry.span(), &missing("path", "events.ndjson"))?;
            SinkKind::File(FileSink { path: PathBuf::from(path) })
        }
        Kind::Null => SinkKind::Null,
    })
}

/// A key that this kind would ignore is a mistake: whoever wrote it expects it to do something.
fn refuse_other_kinds(raw: &raw::Sink, kind: Kind) -> Result<(), Problem> {
    let span = |item: &Option<Item>| item.as_ref().map(Spanned::span);
    let of_http = [
        ("url", span(&raw.url)),
        ("headers", raw.headers.as_ref().map(Spanned::span)),
        ("allow", raw.allow.as_ref().map(Spanned::span)),
        ("signing_secret", span(&raw.signing_secret)),
    ];
    let of_file = [("path", span(&raw.path))];
    let (http, file) = (of_http.into_iter().map(|key| (key, "http")), of_file.into_iter().map(|key| (key, "file")));
    let foreign: Vec<_> = match kind {
        Kind::Http => file.collect(),
        Kind::File => http.collect(),
        Kind::Null => http.chain(file).collect(),
    };
    match foreign.into_iter().find_map(|((key, span), owner)| Some((key, span?, owner))) {
        Some((key, span, owner)) => Err(Problem::new(span, format!("`{key}` is a key of kind = \"{owner}\" alone: remove it"))),
        None => Ok(()),
    }
}

type RawHeaders = Option<Spanned<BTreeMap<Spanned<String>, Item>>>;

/// Names in lower case, in their order.
fn headers(raw: &RawHeaders) -> Result<Vec<(String, Secret<String>)>, Problem> {
    let mut headers: Vec<(String, Secret<String>)> = Vec::new();
    for (key, item) in raw.iter().flat_map(|headers| headers.get_ref()) {
        let problem = |message: String| Problem::new(key.span(), format!("each name of `headers` {message}"));
        let name = values::header_name(&Scalar::Text(key.get_ref().clone())).map_err(problem)?;
        if HEADERS_TAKEN.contains(&name.as_str()) {
            return Err(problem("must be none that Sluice sets by itself: remove it".into()));
        }
        if headers.iter().any(|(taken, _)| *taken == name) {
            return Err(problem("must be given once, in whatever case: remove one of the two".into()));
        }
        let wrong = |message| Problem::new(item.span(), format!("each value of `headers` {message}"));
        headers.push((name, values::header_value(item.get_ref()).map_err(wrong)?));
    }
    Ok(headers)
}
