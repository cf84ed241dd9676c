//! `[[sink]]`: what each kind takes, and its limits.

use super::check::{Names, list, read, required, wrong};
use super::error::Problem;
use super::raw::{self, Item, Scalar, Tree};
use super::values::{self, count, duration, number};
use super::{Breaker, FileSink, HttpSink, Secret, Sink, SinkKind};
use super::{archive, email, message, salesforce, scim, xapi};
use crate::backoff::Backoff;
use crate::delivery::Policy;
use crate::mapping::{Expression, Mapping};
use crate::template::Escape;
use ipnet::IpNet;
use serde_spanned::Spanned;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

/// How long a sink rests when it refuses us, or asks for less without saying for how long.
const REST: Duration = Duration::from_secs(10);
/// The longest wait that a sink's `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = HOUR;

/// For one try.
const TIMEOUT: Duration = Duration::from_secs(8);
/// A mail server may look for viruses and spam before it says that it has the mail. Who does not wait sends it twice: RFC 5321 asks for ten
/// minutes, but in a lane others wait behind.
const EMAIL_TIMEOUT: Duration = Duration::from_secs(60);

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
    let name = names.take(&raw.name, entry.span())?.into();
    let kind = kind(entry)?;
    let timeout = if matches!(kind, SinkKind::Email(_)) { EMAIL_TIMEOUT } else { TIMEOUT };
    Ok(Sink {
        name,
        kind,
        events: list(&raw.events, "events", event_type)?,
        concurrency: read(&raw.concurrency, "concurrency", count(1..=10_000))?.unwrap_or(32),
        timeout: read(&raw.timeout, "timeout", duration(Duration::from_millis(1)..=HOUR))?.unwrap_or(timeout),
        policy: policy(&raw.retry)?,
        ordered,
        on_dead_block,
        when: read(&raw.when, "when", expression)?,
        rate_per_second: read(&raw.rate, "rate", rate)?,
        breaker: breaker(&raw.breaker)?,
    })
}

/// An expression in CEL.
fn expression(value: &Scalar) -> Result<Expression, String> {
    Expression::parse(&values::text(value)?)
}

/// A value whose texts are expressions in CEL; `key` is what it is called.
pub(super) fn mapping(tree: &Spanned<Tree>, key: &str) -> Result<Mapping, Problem> {
    let problem = |message: String| Problem::new(tree.span(), format!("each text of `{key}` {message}"));
    Ok(match tree.get_ref() {
        Tree::Scalar(Scalar::Integer(number)) => Mapping::Constant((*number).into()),
        Tree::Scalar(Scalar::Float(number)) => Mapping::Constant((*number).into()),
        Tree::Scalar(text) => Mapping::Expression(expression(text).map_err(problem)?),
        Tree::Boolean(boolean) => Mapping::Constant((*boolean).into()),
        Tree::List(items) => Mapping::List(items.iter().map(|item| mapping(item, key)).collect::<Result<_, _>>()?),
        Tree::Table(entries) => {
            let entry = |(name, tree): &(Spanned<String>, Spanned<Tree>)| Ok((name.get_ref().clone(), mapping(tree, key)?));
            Mapping::Table(entries.iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}

/// `body` of a sink: a table, since what it makes is a JSON object.
fn body(raw: &raw::Sink) -> Result<Option<Mapping>, Problem> {
    let Some(tree) = &raw.body else { return Ok(None) };
    if !matches!(tree.get_ref(), Tree::Table(_)) {
        return Err(Problem::new(tree.span(), "`body` must be a table: write [sink.body], and a line for each field"));
    }
    mapping(tree, "body").map(Some)
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

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    File,
    Salesforce,
    Slack,
    Teams,
    Email,
    Archive,
    Null,
    Scim,
    Xapi,
    Projection,
}

/// The config's words for the kinds.
const KINDS: &[(&str, Kind)] = &[
    ("http", Kind::Http),
    ("file", Kind::File),
    ("slack", Kind::Slack),
    ("teams", Kind::Teams),
    ("email", Kind::Email),
    ("archive", Kind::Archive),
    ("xapi", Kind::Xapi),
    ("salesforce", Kind::Salesforce),
    ("scim", Kind::Scim),
    ("projection", Kind::Projection),
    ("null", Kind::Null),
];

/// A `[[sink]]` whose kind is known.
pub(super) struct Entry<'a> {
    pub raw: &'a raw::Sink,
    pub table: Range<usize>,
}

impl Entry<'_> {
    /// A key that this kind cannot do without; `hint` is a value that it could have.
    pub fn required<T>(
        &self,
        item: &Option<Item>,
        key: &str,
        parse: impl Fn(&Scalar) -> Result<T, String>,
        hint: &str,
    ) -> Result<T, Problem> {
        let message = format!("`{key}` of this sink is missing: add it, such as {key} = \"{hint}\"");
        required(read(item, key, parse)?, self.table.clone(), &message)
    }

    /// The private ranges that it may reach.
    pub fn allow(&self) -> Result<Vec<IpNet>, Problem> {
        Ok(list(&self.raw.allow, "allow", values::network)?.unwrap_or_default())
    }
}

fn kind(entry: &Spanned<raw::Sink>) -> Result<SinkKind, Problem> {
    let entry = Entry { raw: entry.get_ref(), table: entry.span() };
    let kind = entry.required(&entry.raw.kind, "kind", values::one_of(KINDS), "http")?;
    refuse_other_kinds(entry.raw, kind)?;
    match kind {
        Kind::Http => http(&entry).map(SinkKind::Http),
        Kind::File => {
            let path = entry.required(&entry.raw.path, "path", values::text, "events.ndjson")?;
            Ok(SinkKind::File(FileSink { path: PathBuf::from(path) }))
        }
        Kind::Salesforce => salesforce::salesforce(&entry).map(SinkKind::Salesforce),
        Kind::Slack => message::message(&entry, Escape::Slack).map(SinkKind::Slack),
        Kind::Teams => message::message(&entry, Escape::Plain).map(SinkKind::Teams),
        Kind::Email => email::email(&entry).map(SinkKind::Email),
        Kind::Archive => archive::archive(&entry).map(SinkKind::Archive),
        Kind::Null => Ok(SinkKind::Null),
        Kind::Scim => scim::scim(&entry).map(SinkKind::Scim),
        Kind::Xapi => xapi::xapi(&entry).map(SinkKind::Xapi),
        Kind::Projection => Ok(SinkKind::Projection),
    }
}

fn http(entry: &Entry) -> Result<HttpSink, Problem> {
    Ok(HttpSink {
        url: entry.required(&entry.raw.url, "url", values::http_url, "https://crm.example.com/hook")?,
        headers: headers(&entry.raw.headers)?,
        allow: entry.allow()?,
        signing_secret: read(&entry.raw.signing_secret, "signing_secret", values::signing_secret)?,
        body: body(entry.raw)?,
    })
}

/// A key, where it stands if it is there, and the kinds that take it.
type Key<'a> = (&'a str, Option<Range<usize>>, &'a [Kind]);

/// A key that this kind would ignore is a mistake: whoever wrote it expects it to do something.
fn refuse_other_kinds(raw: &raw::Sink, kind: Kind) -> Result<(), Problem> {
    let span = |item: &Option<Item>| item.as_ref().map(Spanned::span);
    let keys: Vec<Key> = vec![
        (
            "url",
            span(&raw.url),
            &[Kind::Http, Kind::Slack, Kind::Teams, Kind::Xapi, Kind::Salesforce, Kind::Email, Kind::Archive, Kind::Scim],
        ),
        ("headers", raw.headers.as_ref().map(Spanned::span), &[Kind::Http, Kind::Xapi, Kind::Scim]),
        (
            "allow",
            raw.allow.as_ref().map(Spanned::span),
            &[Kind::Http, Kind::Slack, Kind::Teams, Kind::Xapi, Kind::Salesforce, Kind::Email, Kind::Archive, Kind::Scim],
        ),
        ("signing_secret", span(&raw.signing_secret), &[Kind::Http]),
        ("path", span(&raw.path), &[Kind::File]),
        ("body", raw.body.as_ref().map(Spanned::span), &[Kind::Http]),
        ("username", span(&raw.username), &[Kind::Xapi, Kind::Email]),
        ("password", span(&raw.password), &[Kind::Xapi, Kind::Email]),
        ("version", span(&raw.version), &[Kind::Xapi, Kind::Salesforce]),
        ("home_page", span(&raw.home_page), &[Kind::Xapi]),
        ("activity_base", span(&raw.activity_base), &[Kind::Xapi]),
        ("course_score_max", span(&raw.course_score_max), &[Kind::Xapi]),
        ("batch", span(&raw.batch), &[Kind::Xapi, Kind::Salesforce, Kind::Archive]),
        ("token", span(&raw.token), &[Kind::Salesforce, Kind::Scim]),
        ("oauth", raw.oauth.as_ref().map(Spanned::span), &[Kind::Salesforce, Kind::Scim]),
        ("object", span(&raw.object), &[Kind::Salesforce]),
        ("external_id_field", span(&raw.external_id_field), &[Kind::Salesforce]),
        ("external_id", span(&raw.external_id), &[Kind::Salesforce]),
        ("fields", raw.fields.as_ref().map(Spanned::span), &[Kind::Salesforce]),
        ("api_usage_max", span(&raw.api_usage_max), &[Kind::Salesforce]),
        ("limit_rest", span(&raw.limit_rest), &[Kind::Salesforce]),
        ("text", span(&raw.text), &[Kind::Slack, Kind::Teams, Kind::Email]),
        ("title", span(&raw.title), &[Kind::Teams]),
        ("tls", span(&raw.tls), &[Kind::Email]),
        ("from", span(&raw.from), &[Kind::Email]),
        ("to", raw.to.as_ref().map(Spanned::span), &[Kind::Email]),
        ("subject", span(&raw.subject), &[Kind::Email]),
        ("region", span(&raw.region), &[Kind::Archive]),
        ("endpoint", span(&raw.endpoint), &[Kind::Archive]),
        ("access_key_id", span(&raw.access_key_id), &[Kind::Archive]),
        ("secret_access_key", span(&raw.secret_access_key), &[Kind::Archive]),
        ("service_account_key", span(&raw.service_account_key), &[Kind::Archive]),
        ("account", span(&raw.account), &[Kind::Archive]),
        ("access_key", span(&raw.access_key), &[Kind::Archive]),
        ("group", span(&raw.group), &[Kind::Scim]),
        ("on_deprovision", span(&raw.on_deprovision), &[Kind::Scim]),
    ];
    for (key, span, owners) in keys {
        if let Some(span) = span
            && !owners.contains(&kind)
        {
            let owners = KINDS.iter().filter(|(_, kind)| owners.contains(kind)).map(|(word, _)| format!("\"{word}\""));
            let owners = owners.collect::<Vec<_>>().join(" or ");
            return Err(Problem::new(span, format!("`{key}` is a key of kind = {owners} alone: remove it")));
        }
    }
    Ok(())
}

pub(super) type RawHeaders = Option<Spanned<BTreeMap<Spanned<String>, Item>>>;

/// Names in lower case, in their order.
pub(super) fn headers(raw: &RawHeaders) -> Result<Vec<(String, Secret<String>)>, Problem> {
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
