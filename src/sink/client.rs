//! The HTTP client of every sink that speaks HTTP: a pool of connections, opened only to addresses that the sink may
//! reach, and what its failures mean.
//!
//! Redirects are not followed, and no proxy is taken from the environment: either would lead past the check of addresses.

pub mod answer;
pub(in crate::sink) mod connect;
pub mod oauth;
mod retry_after;

use super::address::AddressPolicy;
use crate::delivery::{Blame, Failure};
use answer::Answer;
use bytes::Bytes;
use connect::{ConnectError, TcpConnector, TlsConnector};
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::{Client as Pool, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ipnet::IpNet;
use std::error::Error as _;
use std::io;
use std::time::Duration;

/// How long an unused connection is kept. Shorter than the 5 s after which Node.js, the most impatient of the common
/// servers, closes one: a request that crosses with that close is lost, and counts as a failed try.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a busy HTTP/2 connection is asked for a sign of life. Unlike HTTP/1.1's, it outlives a try that is
/// given up, so without this a dead one would fail every later try as well.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests to servers that one sink may reach.
pub struct Client {
    plain: Pool<TcpConnector, Full<Bytes>>,
    /// `None` where no URL of the sink is https: then no certificates need to be there.
    tls: Option<Pool<TlsConnector, Full<Bytes>>>,
}

impl Client {
    /// `allow`: the private ranges that may be reached. `concurrency`: how many connections are worth keeping. `https`: whether any URL
    /// will be; then it must find certificates to trust, which is the only error.
    pub fn new(allow: &[IpNet], concurrency: usize, https: bool) -> io::Result<Self> {
        let tcp = TcpConnector::new(AddressPolicy::new(allow.to_vec()));
        let mut builder = Pool::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(concurrency)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT);
        let tls = https.then(|| TlsConnector::new(tcp.clone())).transpose()?.map(|tls| builder.build(tls));
        Ok(Self { plain: builder.build(tcp), tls })
    }

    /// Sends a request and returns the answer's head, its body still to be read. A request that was given a connection which the peer
    /// has closed meanwhile, before any of it was written, goes to another one.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = match (&self.tls, request.uri().scheme_str()) {
            (Some(tls), Some("https")) => tls.request(request).await,
            _ => self.plain.request(request).await,
        };
        answer.map_err(|error| no_answer(&host, &error))
    }

    /// Sends a request and reads the answer, up to 64 KiB of its body.
    pub async fn call(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = self.send(request).await?;
        Answer::read(answer).await.map_err(|error| {
            let error = format!("the answer of {host} broke off: {error}");
            Failure { blame: Blame::Sink, status: None, error, response: None, retry_after: None }
        })
    }
}

/// Whether a URL is encrypted: what [`Client::new`] wants to know.
pub fn is_https(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

/// A request as text for people, without what may be secret: the URL's path and query, and headers marked as sensitive.
pub fn show(request: &Request<Full<Bytes>>) -> String {
    let uri = request.uri();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut text = format!("{} {}://{authority}/…\n", request.method(), uri.scheme_str().unwrap_or_default());
    for (name, value) in request.headers() {
        let value = if value.is_sensitive() { "(configured)".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        text += &format!("{name}: {value}\n");
    }
    let body = request.body().clone().collect().now_or_never().and_then(Result::ok);
    text + "\n" + &String::from_utf8_lossy(&body.map(|body| body.to_bytes()).unwrap_or_default())
}

/// What it means that there was no answer at all.
fn no_answer(host: &str, error: &Error) -> Failure {
    let causes = || std::iter::successors(error.source(), |&cause| cause.source());
    let (blame, error) = match causes().find_map(|cause| cause.downcast_ref::<ConnectError>()) {
        Some(connect) => (connect.blame(), connect.to_string()),
        // The client's own words come first and are general; the last cause is what the system or the peer said.
        None => (Blame::Sink, format!("no answer from {host}: {}", causes().last().unwrap_or(error))),
    };
    Failure { blame, status: None, error, response: None, retry_after: None }
}
