//! `kind = "http"`: posts the payload as it came.
//!
//! | the sink | is taken as |
//! | --- | --- |
//! | answers 2xx | delivered |
//! | answers 408, 502, 503, 504, or a CDN's 521–526 and 530; cannot be resolved or reached; breaks off | trouble of the sink |
//! | answers 500 or another 5xx | trouble with this event |
//! | answers 429 | a rate limit |
//! | answers 401 or 403; resolves only to addresses that the config does not allow | a refusal: the sink rests, nothing is buried |
//! | answers 3xx or another 4xx | permanent |
//!
//! Redirects are not followed, and no proxy is taken from the environment: either would lead past the check of addresses.

mod answer;
mod connect;
mod request;
mod retry_after;
mod standard_webhooks;

use super::address::AddressPolicy;
use super::{Delivery, OpenError, Outcomes, Sink};
use crate::clock;
use crate::config;
use crate::delivery::{Blame, Failure, Outcome};
use bytes::Bytes;
use connect::{ConnectError, TcpConnector, TlsConnector};
use http_body_util::Full;
use hyper::Request;
use hyper_util::client::legacy::{Client, Error, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use request::Template;
use std::error::Error as _;
use std::time::Duration;

/// How long an unused connection is kept. Shorter than the 5 s after which Node.js, the most impatient of the common
/// servers, closes one: a request that crosses with that close is lost, and counts as a failed try.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a busy HTTP/2 connection is asked for a sign of life. Unlike HTTP/1.1's, it outlives a try that is
/// given up, so without this a dead one would fail every later try as well.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Posts each event to one URL.
pub struct HttpSink {
    template: Template,
    client: Transport,
}

/// A pool of connections, plain or encrypted.
enum Transport {
    Plain(Client<TcpConnector, Full<Bytes>>),
    Tls(Client<TlsConnector, Full<Bytes>>),
}

impl HttpSink {
    /// Checks URL, headers and, for https, that there are certificates to trust. `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::HttpSink, concurrency: usize) -> Result<Self, OpenError> {
        let template = Template::new(config)?;
        let tcp = TcpConnector::new(AddressPolicy::new(config.allow.clone()));
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(concurrency)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT);
        let client = if template.is_https() {
            Transport::Tls(builder.build(TlsConnector::new(tcp).map_err(OpenError::Tls)?))
        } else {
            Transport::Plain(builder.build(tcp))
        };
        Ok(Self { template, client })
    }

    async fn attempt(&self, delivery: &Delivery) -> Outcome {
        match self.client.send(self.template.request(delivery, clock::now)).await {
            Ok(answer) => answer::judge(answer).await,
            Err(error) => Outcome::Failed(self.no_answer(&error)),
        }
    }

    /// What it means that there was no answer at all.
    fn no_answer(&self, error: &Error) -> Failure {
        let causes = || std::iter::successors(error.source(), |&cause| cause.source());
        let (blame, error) = match causes().find_map(|cause| cause.downcast_ref::<ConnectError>()) {
            Some(connect) => (connect.blame(), connect.to_string()),
            // The client's own words come first and are general; the last cause is what the system or the peer said.
            None => (Blame::Sink, format!("no answer from {}: {}", self.template.host(), causes().last().unwrap_or(error))),
        };
        Failure { blame, status: None, error, response: None, retry_after: None }
    }
}

impl Sink for HttpSink {
    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(batch.len());
            for delivery in batch {
                outcomes.push(self.attempt(delivery).await);
            }
            outcomes
        })
    }
}

impl Transport {
    /// A request that was given a connection which the peer has closed meanwhile, before any of it was written, goes to another one.
    fn send(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match self {
            Self::Plain(client) => client.request(request),
            Self::Tls(client) => client.request(request),
        }
    }
}
