//! `kind = "salesforce"`: each event brings one record up to date, by its external id. How events are mapped: [`record`].
//!
//! One record goes by `PATCH {url}/services/data/v{version}/sobjects/{object}/{external_id_field}/{value}`, several by `PATCH
//! …/composite/sobjects/{object}/{external_id_field}` (Collections, at most 200), which answers for each of them. An upsert that comes
//! twice changes nothing; one that comes late would undo a newer one, so the record is this sink's [`Sink::object`].
//!
//! | Salesforce | is taken as |
//! | --- | --- |
//! | answers 204, or 200 or 201 with `success`; or says `success` of a record | delivered |
//! | answers 2xx with anything else, such as a page to log in | trouble of the sink |
//! | answers 401 (`INVALID_SESSION_ID`), also with a new token; 403; 404, 405 or a redirect: the URL, object or field is wrong | a refusal: the sink rests, nothing is buried |
//! | says `REQUEST_LIMIT_EXCEEDED` or `STORAGE_LIMIT_EXCEEDED`; answers 429 | a rate limit: the sink rests for `limit_rest`, and no attempt is burnt unless others go through meanwhile |
//! | says in `Sforce-Limit-Info` that `api_usage_max` of the org's calls are used | the same, from the next batch on |
//! | says `UNABLE_TO_LOCK_ROW`, `ENTITY_IS_DELETED`, `System.LimitException` of a trigger, or `DUPLICATE_VALUE` of the external id; answers 500 | trouble with this event |
//! | says `SERVER_UNAVAILABLE`, `INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE` or `INVALID_READ_ONLY_USER_DML`; answers 408, 502, 503, 504; cannot be resolved or reached; breaks off | trouble of the sink |
//! | answers 300 (several records have the external id); says `INVALID_FIELD`, `REQUIRED_FIELD_MISSING`, `FIELD_CUSTOM_VALIDATION_EXCEPTION`, `DUPLICATES_DETECTED`, `STRING_TOO_LONG` …; answers another 4xx | permanent |
//!
//! Which code is what: `refusal`. A request that is refused as a whole, or runs into a limit of the org's triggers, is halved until the record at fault is alone; after an answer that is
//! about the sink, the rest of the batch is not sent: it fares alike.

pub mod record;
mod refusal;
mod usage;

use super::client::answer::Answer;
use super::client::oauth::Authorization;
use super::client::{Client, is_https};
use super::{Delivery, OpenError, Outcomes, Sink};
use crate::clock;
use crate::config;
use crate::delivery::{Blame, Failure, Outcome};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use record::{Record, Scheme};
use serde_json::{Map, Value, json};
use std::time::Duration;
use usage::{Standing, Usage};

/// As often a batch of 200 can be halved before a record is alone: more 5xx in a row than this are not one record's doing.
const HALVINGS_MAX: u32 = 8;

/// What stands for itself in a URL's path, whatever reads it (RFC 3986, unreserved).
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// See the module's documentation.
pub struct SalesforceSink {
    /// `{url}/services/data/v{version}`.
    data: String,
    scheme: Scheme,
    reader: refusal::Reader,
    usage: Usage,
    batch_max: usize,
    /// How long a batch may be split for; what is left then is tried again.
    split_max: Duration,
    authorization: Authorization,
    client: Client,
}

/// One record, and its delivery's place in the batch.
struct Item {
    at: usize,
    record: Record,
}

impl SalesforceSink {
    /// `concurrency` is how many connections are worth keeping, `timeout` how long the worker waits for a batch.
    pub fn new(config: &config::SalesforceSink, concurrency: usize, timeout: Duration) -> Result<Self, OpenError> {
        let data = format!("{}/services/data/v{}", config.url.expose().trim_end_matches('/'), config.version);
        let uri: Uri = data.parse().map_err(|_| OpenError::Url("is not a URL"))?;
        Ok(Self {
            data,
            scheme: config.scheme.clone(),
            reader: refusal::Reader { external_id_field: config.scheme.external_id_field.clone(), limit_rest: config.limit_rest },
            usage: Usage::new(config.api_usage_max, config.limit_rest),
            batch_max: config.batch_max,
            split_max: timeout / 2,
            authorization: Authorization::open(&config.authorization, &config.allow)?,
            client: Client::new(&config.allow, concurrency, is_https(&uri)).map_err(OpenError::Tls)?,
        })
    }

    /// A request to a place under `/services/data/v{version}`.
    fn request(&self, method: Method, place: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, Failure> {
        let uri: Uri = format!("{}{place}", self.data).parse().map_err(|_| Failure::permanent("the record's URL would be too long"))?;
        let mut request = Request::new(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))));
        Ok(request)
    }

    /// What upserts these records: one by its own URL, in which alone the external id may stand then; several at once.
    fn upsert_of(&self, items: &[Item]) -> Result<Request<Full<Bytes>>, Failure> {
        let Scheme { object, external_id_field: field, .. } = &self.scheme;
        if let [Item { record, .. }] = items {
            let value = utf8_percent_encode(&record.external_id, &UNRESERVED);
            let fields = Value::Object(record.fields.clone());
            return self.request(Method::PATCH, &format!("/sobjects/{object}/{field}/{value}"), Some(&fields));
        }
        let record = |item: &Item| {
            let own = [("attributes".to_owned(), json!({ "type": object })), (field.clone(), json!(item.record.external_id))];
            Value::Object(own.into_iter().chain(item.record.fields.clone()).collect::<Map<_, _>>())
        };
        let records: Vec<Value> = items.iter().map(record).collect();
        let body = json!({ "allOrNone": false, "records": records });
        self.request(Method::PATCH, &format!("/composite/sobjects/{object}/{field}"), Some(&body))
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let answer = self.authorization.call(&self.client, request).await?;
        self.usage.note(&answer.headers, clock::instant());
        Ok(answer)
    }

    /// Whether anything may be sent. Where too many of the org's calls were used when last heard of, it is asked again.
    async fn ask_leave(&self) -> Result<(), Failure> {
        if self.usage.standing(clock::instant()) == Standing::Stale {
            let answer = self.call(self.request(Method::GET, "", None)?).await?;
            if !answer.status.is_success() {
                return Err(self.reader.of_request(&answer));
            }
        }
        match self.usage.standing(clock::instant()) {
            Standing::Spent(left) => Err(self.usage.failure(left)),
            // It has not said anything of it any more.
            Standing::Free | Standing::Stale => Ok(()),
        }
    }

    /// Upserts records at once: an outcome for each, or why the request as a whole was refused.
    async fn upsert(&self, items: &[Item]) -> Result<Vec<Outcome>, Failure> {
        let answer = self.call(self.upsert_of(items)?).await?;
        let status = answer.status.as_u16();
        let says_success = || answer.json().is_some_and(|said| is_success(&said));
        match (status, items) {
            (204, [_]) => Ok(vec![Outcome::Delivered { status: Some(status) }]),
            (200 | 201, [_]) if says_success() => Ok(vec![Outcome::Delivered { status: Some(status) }]),
            (200, [_, _, ..]) => self.results(&answer, items.len()),
            (200..=299, _) => Err(not_salesforce(&answer)),
            _ => Err(self.reader.of_request(&answer)),
        }
    }

    /// The outcomes of several records: results come in the records' order. Where the org's triggers ran into a limit, which hits
    /// each record, it is as if the request had been refused as a whole: fewer records may keep within it.
    fn results(&self, answer: &Answer, count: usize) -> Result<Vec<Outcome>, Failure> {
        let results: Option<Vec<Value>> = serde_json::from_slice(&answer.body).ok();
        let results = match results.filter(|results| results.len() == count) {
            Some(results) => results,
            // Many errors can make it longer than what is read; then its halves are not.
            None if answer.is_cut() => return Err(answer.failure_as(Blame::Event, "its results are longer than what is read")),
            None => return Err(not_salesforce(answer)),
        };
        if results.iter().any(refusal::Reader::is_over_limits) {
            return Err(answer.failure_as(Blame::Event, "triggers of the org ran into a limit (System.LimitException)"));
        }
        let status = answer.status.as_u16();
        let others_succeed = results.iter().any(is_success);
        let outcome = |result: &Value| match is_success(result) {
            true => Outcome::Delivered { status: Some(status) },
            false => Outcome::Failed(self.reader.of_record(status, result, others_succeed)),
        };
        Ok(results.iter().map(outcome).collect())
    }

    /// Sends records, in halves where they are refused as a whole. `tell` is called once for each.
    async fn send(&self, items: &[Item], mut tell: impl FnMut(&Item, Outcome)) {
        let began = clock::instant();
        let mut parts = vec![items];
        let mut troubled = 0;
        while let Some(part) = parts.pop() {
            let failure = match self.upsert(part).await {
                Ok(outcomes) => {
                    troubled = 0;
                    part.iter().zip(outcomes).for_each(|(item, outcome)| tell(item, outcome));
                    continue;
                }
                Err(failure) => failure,
            };
            troubled = if failure.blame == Blame::Event { troubled + 1 } else { 0 };
            let about_records = matches!(failure.blame, Blame::Permanent | Blame::Event) && troubled <= HALVINGS_MAX;
            let in_time = clock::instant().saturating_duration_since(began) <= self.split_max;
            let rest = match part {
                [item] if about_records => {
                    tell(item, Outcome::Failed(failure));
                    if in_time {
                        continue;
                    }
                    not_sent("not sent: its batch held records that Salesforce refuses, and there was no time left")
                }
                _ if about_records && in_time => {
                    let (first, second) = part.split_at(part.len() / 2);
                    // The last is taken next: the batch's order is kept.
                    parts.extend([second, first]);
                    continue;
                }
                _ => {
                    // Refused as a part of a batch says nothing of one record.
                    let blame = if failure.blame == Blame::Permanent { Blame::Event } else { failure.blame };
                    let failure = Failure { blame, ..failure };
                    part.iter().for_each(|item| tell(item, Outcome::Failed(failure.clone())));
                    failure
                }
            };
            parts.drain(..).flatten().for_each(|item| tell(item, Outcome::Failed(rest.clone())));
        }
    }
}

impl Sink for SalesforceSink {
    /// The path is no secret here: it names the record.
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        let item = Item { at: 0, record: self.scheme.record(delivery)? };
        let request = self.upsert_of(&[item]).map_err(Outcome::Failed)?;
        let path = request.uri().path().to_owned();
        Ok(self.authorization.show(request).replacen("/…\n", &format!("{path}\n"), 1))
    }

    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        Box::pin(async move {
            // Each is told of below; a delivery that was not would be tried again.
            let mut outcomes = vec![Outcome::Failed(not_sent("not sent")); batch.len()];
            let mut items = Vec::with_capacity(batch.len());
            for (at, delivery) in batch.iter().enumerate() {
                match self.scheme.record(delivery) {
                    Ok(record) => items.push(Item { at, record }),
                    Err(outcome) => outcomes[at] = outcome,
                }
            }
            if items.is_empty() {
                return outcomes;
            }
            match self.ask_leave().await {
                Ok(()) => self.send(&items, |item, outcome| outcomes[item.at] = outcome).await,
                Err(failure) => items.iter().for_each(|item| outcomes[item.at] = Outcome::Failed(failure.clone())),
            }
            outcomes
        })
    }

    fn object(&self, delivery: &Delivery) -> Option<String> {
        self.scheme.external_id(delivery).ok()
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }
}

/// Of a record's result.
fn is_success(result: &Value) -> bool {
    result["success"] == json!(true)
}

/// An answer of success that says nothing of the records, such as a page to log in: nobody can tell that they were written.
fn not_salesforce(answer: &Answer) -> Failure {
    answer.failure_as(Blame::Sink, "but not as the REST API does: check that the sink's `url` is the org's own, with nothing in between")
}

/// Nothing was sent, and a later try may fare better.
fn not_sent(error: &str) -> Failure {
    Failure { blame: Blame::Event, status: None, error: error.into(), response: None, retry_after: None }
}
