//! Where events go. One file a kind, behind one contract.
//!
//! # The contract
//!
//! Delivery is **at least once**: a worker that dies between the sink's answer and the record of it tries again, so a
//! sink must tolerate the same delivery twice. It gets the same [`Delivery::idempotency_key`] and the same bytes on
//! every try and replay, and never the time of day.
//!
//! A sink that keeps a state (a user's, a record's) names the object that an event changes, [`Sink::object`]; then no retry and no
//! replay brings back what a newer event has ended.
//!
//! A sink answers for each delivery of the batch, in the batch's order, and in bounded time: the worker cancels a call
//! that overruns the sink's `timeout` by dropping its future, and counts that as [`Blame::Sink`](crate::delivery::Blame).
//! It does not retry, sleep or log by itself: what should happen next is in the outcome's
//! [`Blame`](crate::delivery::Blame). Its errors name what happened, and never a secret, a payload or a URL's query.

pub mod address;
pub mod archive;
pub mod client;
pub mod email;
pub mod file;
pub mod http;
pub mod message;
pub mod null;
pub mod projection;
pub mod salesforce;
pub mod scim;
pub mod slack;
pub mod teams;
pub mod xapi;

use crate::config;
use crate::delivery::Outcome;
use crate::mapping::{Meta, Subject, Unevaluated};
use crate::store::servers::Servers;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::pin::Pin;
use std::sync::Arc;
use uuid::Uuid;

/// One event owed to one sink, as the sink sees it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// `events.seq`: of two events of one order key, the one acknowledged first has the lower.
    pub seq: i64,
    /// `events.source`.
    pub source: Arc<str>,
    /// `events.event_id`: 1–200 printable ASCII characters.
    pub event_id: String,
    /// `events.type`; `None` where the payload names none.
    pub event_type: Option<String>,
    /// `events.order_key`; `None` for an event without a user.
    pub order_key: Option<String>,
    /// When the event was committed.
    pub received_at: DateTime<Utc>,
    /// The exact signed bytes.
    pub payload: Bytes,
    /// The `traceparent` that the event came with, if any.
    pub traceparent: Option<String>,
    /// The same on every try and replay: see [`idempotency_key`].
    pub idempotency_key: Uuid,
}

impl Delivery {
    /// What expressions of the config see of it.
    pub fn subject(&self) -> Result<Subject<'static>, Unevaluated> {
        let event_type = self.event_type.as_deref();
        Subject::new(&self.payload, &Meta { id: &self.event_id, event_type, source: &self.source, received_at: self.received_at })
    }
}

/// The answers to a batch: one [`Outcome`] for each delivery, in its order.
pub type Outcomes<'a> = Pin<Box<dyn Future<Output = Vec<Outcome>> + Send + 'a>>;

/// Delivers a batch one after another: what a sink does whose protocol knows no batches.
fn one_by_one<'a, F>(batch: &'a [Delivery], attempt: impl Fn(&'a Delivery) -> F + Send + 'a) -> Outcomes<'a>
where
    F: Future<Output = Outcome> + Send + 'a,
{
    Box::pin(async move {
        let mut outcomes = Vec::with_capacity(batch.len());
        for delivery in batch {
            outcomes.push(attempt(delivery).await);
        }
        outcomes
    })
}

/// A sink. See the module's documentation for what it promises.
pub trait Sink: Send + Sync + 'static {
    /// Delivers a batch of 1 to [`Sink::batch_max`] deliveries; no two of one order key.
    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a>;

    /// What would be sent for a delivery, as text for people; or what becomes of it without being sent. Configured headers, and the
    /// path and query of a URL, may be secret and are left out.
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        Ok(String::from_utf8_lossy(&delivery.payload).into_owned())
    }

    /// The object that an event changes, where the sink keeps a state: the same for all events that change it, and of one order key. An
    /// event is skipped as superseded where a newer one has been applied to its object.
    fn object(&self, _delivery: &Delivery) -> Option<String> {
        None
    }

    /// The largest batch that [`Sink::deliver`] takes.
    fn batch_max(&self) -> usize {
        1
    }
}

/// Opens the sink that the config describes; `database` is Sluice's own. Touches no network: an unreachable sink is not a reason not to start.
pub fn open(sink: &config::Sink, database: &Servers) -> Result<Arc<dyn Sink>, OpenError> {
    Ok(match &sink.kind {
        config::SinkKind::Http(http) => Arc::new(http::HttpSink::new(http, sink.concurrency)?),
        config::SinkKind::File(file) => Arc::new(file::FileSink::open(&file.path)?),
        config::SinkKind::Salesforce(salesforce) => Arc::new(salesforce::SalesforceSink::new(salesforce, sink.concurrency, sink.timeout)?),
        config::SinkKind::Slack(slack) => Arc::new(slack::SlackSink::new(slack, sink.concurrency)?),
        config::SinkKind::Teams(teams) => Arc::new(teams::TeamsSink::new(teams, sink.concurrency)?),
        config::SinkKind::Email(email) => Arc::new(email::EmailSink::new(email, sink.concurrency)?),
        config::SinkKind::Archive(archive) => Arc::new(archive::ArchiveSink::new(archive, sink.concurrency)?),
        config::SinkKind::Null => Arc::new(null::NullSink),
        config::SinkKind::Xapi(xapi) => Arc::new(xapi::XapiSink::new(xapi, sink.concurrency, sink.timeout)?),
        config::SinkKind::Scim(scim) => Arc::new(scim::ScimSink::new(scim, sink.concurrency)?),
        config::SinkKind::Projection => Arc::new(projection::ProjectionSink::new(database)),
    })
}

/// Why a sink could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open {path} for appending: {source}; check that its folder exists and is writable")]
    File { path: String, source: std::io::Error },
    #[error("cannot set up TLS: {0}; install the system's CA certificates (Debian: ca-certificates)")]
    Tls(std::io::Error),
    /// Says what is wrong with the URL, and not what it is: it may be a secret.
    #[error("the `url` of an http sink {0}")]
    Url(&'static str),
    #[error("the host in the `url` of an email sink is neither a name nor an address, so no certificate can be for it")]
    MailServer,
    #[error("what the `url` of an archive sink names {0}")]
    Archive(&'static str),
    #[error(
        "the header {0:?} of an http sink cannot be sent: its name or value has a character that no header may have, or it is not yours to set"
    )]
    Header(String),
    #[error("the sink's `token` cannot be sent: it has a character that no header may have")]
    Token,
}

/// UUIDv5 of (source, event id, sink): the same on every try and every replay, different for every sink.
pub fn idempotency_key(source: &str, event_id: &str, sink: &str) -> Uuid {
    // The parts are joined by a byte that none of them can hold, so no two triples share a name.
    Uuid::new_v5(&NAMESPACE, format!("{source}\n{event_id}\n{sink}").as_bytes())
}

/// Sluice's own namespace, a random UUID fixed for ever.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0d_9a52_3c1e_4b7a_9e68_2d51_8f3b_c0a4);
