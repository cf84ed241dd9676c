//! `kind = "xapi"`: one statement an event, to any learning record store (LRS). How events are mapped: [`statement`].
//!
//! A batch is one `POST {url}/statements`. A statement's id is the delivery's idempotency key, so an LRS that has it already takes it
//! as the same. An LRS answers for a batch as a whole: one that it does not take is halved until the statement at fault is alone.
//!
//! | the LRS | is taken as |
//! | --- | --- |
//! | answers 200, 204 or another 2xx | delivered |
//! | answers 409 to a statement that is alone | it is asked for that id: delivered if it has an equivalent statement, else permanent |
//! | … and does not find it (404) | trouble with this event: it may not be readable yet |
//! | answers 400, 413, 422 or another 4xx to a statement that is alone | permanent |
//! | answers 500 or another 5xx to a statement that is alone, or to nine parts of a batch in a row | trouble with this event |
//! | answers 408, 502, 503, 504; cannot be resolved or reached; breaks off | trouble of the sink |
//! | answers 429 | a rate limit |
//! | answers 401, 403; or 404, 405, 3xx to a POST, which no LRS does: the URL is wrong | a refusal: the sink rests, nothing is buried |
//!
//! After an answer that is about the sink, the rest of the batch is not sent: it fares alike.

pub mod statement;

use super::client::{self, Client, is_https};
use super::{Delivery, OpenError, Outcomes, Sink};
use crate::clock;
use crate::config;
use crate::delivery::{Blame, Failure, Outcome};
use crate::learning::Unmapped;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use serde_json::Value;
use std::time::Duration;

/// As often a batch of 200 can be halved before a statement is alone: more 5xx in a row than this are not one statement's doing.
const HALVINGS_MAX: u32 = 8;

/// See the module's documentation.
pub struct XapiSink {
    statements: Uri,
    headers: HeaderMap,
    scheme: statement::Scheme,
    batch_max: usize,
    /// How long a batch may be split for; what is left then is tried again.
    split_max: Duration,
    client: Client,
}

/// One statement, and its delivery's place in the batch.
struct Item {
    at: usize,
    statement: Value,
}

impl XapiSink {
    /// `concurrency` is how many connections are worth keeping, `timeout` how long the worker waits for a batch.
    pub fn new(config: &config::XapiSink, concurrency: usize, timeout: Duration) -> Result<Self, OpenError> {
        let statements = format!("{}/statements", config.url.expose().trim_end_matches('/'));
        let statements: Uri = statements.parse().map_err(|_| OpenError::Url("is not a URL"))?;
        let client = Client::new(&config.allow, concurrency, is_https(&statements)).map_err(OpenError::Tls)?;
        let headers = headers(config)?;
        Ok(Self { statements, headers, scheme: config.scheme.clone(), batch_max: config.batch_max, split_max: timeout / 2, client })
    }

    fn request(&self, method: Method, uri: Uri, body: Vec<u8>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// What posts statements at once.
    fn post_of(&self, statements: &[&Value]) -> Result<Request<Full<Bytes>>, Failure> {
        let body = serde_json::to_vec(statements).map_err(|_| Failure::permanent("the statement cannot be written as JSON"))?;
        Ok(self.request(Method::POST, self.statements.clone(), body))
    }

    /// What an event says as a statement; or what becomes of its delivery without one.
    fn statement(&self, delivery: &Delivery) -> Result<Value, Outcome> {
        let statement = statement::statement(&delivery.payload, delivery.idempotency_key, delivery.received_at, &self.scheme);
        statement.map_err(|unmapped| match unmapped {
            Unmapped::Type => Outcome::Skipped { reason: unmapped.to_string() },
            _ => Outcome::Failed(Failure::permanent(unmapped.to_string())),
        })
    }

    /// Posts statements at once; returns the status of success.
    async fn post(&self, items: &[Item]) -> Result<u16, Failure> {
        let statements: Vec<&Value> = items.iter().map(|item| &item.statement).collect();
        let answer = self.client.call(self.post_of(&statements)?).await?;
        match answer.status.as_u16() {
            200..=299 => Ok(answer.status.as_u16()),
            300..=399 | 404 | 405 => {
                let said = "no LRS says so: check the sink's `url`, which ends where `/statements` would follow";
                Err(answer.failure_as(Blame::Refused, said))
            }
            _ => Err(answer.failure()),
        }
    }

    /// What has become of a statement whose id is taken, as the LRS says by `conflict`.
    async fn compare(&self, item: &Item, conflict: Failure) -> Outcome {
        let id = item.statement["id"].as_str().unwrap_or_default();
        let Ok(uri) = format!("{}?statementId={id}", self.statements).parse() else { return Outcome::Failed(conflict) };
        let answer = match self.client.call(self.request(Method::GET, uri, Vec::new())).await {
            Ok(answer) => answer,
            Err(failure) => return Outcome::Failed(failure),
        };
        let said = answer.json();
        // The specification wants the statement itself; some LRSs answer with a list of one.
        let theirs = said.as_ref().and_then(|said| said.get("statements").map_or(Some(said), |list| list.get(0)));
        match (answer.status.as_u16(), theirs) {
            (200, Some(theirs)) if statement::equivalent(&item.statement, theirs) => Outcome::Delivered { status: conflict.status },
            (200, Some(_)) => {
                let error = format!("{}: the LRS has another statement under this id", conflict.error);
                Outcome::Failed(Failure { error, ..conflict })
            }
            (200 | 404, _) => {
                let error = format!("{}, but the LRS does not find the statement that is in the way", conflict.error);
                Outcome::Failed(Failure { blame: Blame::Event, error, ..conflict })
            }
            _ => Outcome::Failed(answer.failure()),
        }
    }

    /// Sends statements, in halves where they are not taken together. `tell` is called once for each.
    async fn send(&self, items: &[Item], mut tell: impl FnMut(&Item, Outcome)) {
        let began = clock::instant();
        let mut parts = vec![items];
        let mut troubled = 0;
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let failure = match self.post(part).await {
                Ok(status) => {
                    troubled = 0;
                    part.iter().for_each(|item| tell(item, Outcome::Delivered { status: Some(status) }));
                    continue;
                }
                Err(failure) => failure,
            };
            troubled = if failure.blame == Blame::Event { troubled + 1 } else { 0 };
            let over = clock::instant().saturating_duration_since(began) > self.split_max;
            let about_items = matches!(failure.blame, Blame::Permanent | Blame::Event) && troubled <= HALVINGS_MAX;
            match part {
                [item] if about_items && failure.status == Some(409) => tell(item, self.compare(item, failure).await),
                [item] if about_items => tell(item, Outcome::Failed(failure)),
                _ if about_items && !over => {
                    let (first, second) = part.split_at(part.len() / 2);
                    // The last is taken next: the batch's order is kept.
                    parts.extend([second, first]);
                    continue;
                }
                _ => {
                    let left = parts.drain(..).chain([part]).flatten();
                    // Refused as a part of a batch says nothing of one statement.
                    let blame = if failure.blame == Blame::Permanent { Blame::Event } else { failure.blame };
                    left.for_each(|item| tell(item, Outcome::Failed(Failure { blame, ..failure.clone() })));
                }
            }
            if over {
                let failure = Failure {
                    blame: Blame::Event,
                    status: None,
                    error: "not sent: its batch held statements that the LRS does not take, and there was no time left".into(),
                    response: None,
                    retry_after: None,
                };
                parts.drain(..).flatten().for_each(|item| tell(item, Outcome::Failed(failure.clone())));
            }
        }
    }
}

impl Sink for XapiSink {
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        let statement = self.statement(delivery)?;
        self.post_of(&[&statement]).map(|request| client::show(&request)).map_err(Outcome::Failed)
    }

    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        Box::pin(async move {
            // Each is told of below; a delivery that was not would be tried again.
            let untold = Failure { blame: Blame::Event, status: None, error: "not sent".into(), response: None, retry_after: None };
            let mut outcomes = vec![Outcome::Failed(untold); batch.len()];
            let mut items = Vec::with_capacity(batch.len());
            for (at, delivery) in batch.iter().enumerate() {
                match self.statement(delivery) {
                    Ok(statement) => items.push(Item { at, statement }),
                    Err(outcome) => outcomes[at] = outcome,
                }
            }
            self.send(&items, |item, outcome| outcomes[item.at] = outcome).await;
            outcomes
        })
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }
}

/// The headers of every request.
fn headers(config: &config::XapiSink) -> Result<HeaderMap, OpenError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))));
    let basic = config.login.as_ref().map(|(username, password)| {
        let login = STANDARD.encode(format!("{username}:{}", password.expose()));
        ("authorization", format!("Basic {login}"))
    });
    let version = [("x-experience-api-version", config.version.clone())];
    let given = config.headers.iter().map(|(name, value)| (name.as_str(), value.expose().clone()));
    for (name, value) in version.into_iter().chain(basic).chain(given) {
        let wrong = || OpenError::Header(name.to_owned());
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}
