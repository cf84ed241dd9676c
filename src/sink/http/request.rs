//! The request of a try: built once for the sink, filled in for each delivery.

use super::standard_webhooks::Signer;
use crate::config;
use crate::mapping::{Mapping, Unevaluated};
use crate::sink::{Delivery, OpenError};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::Full;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Uri};
use uuid::Uuid;

const X_EVENT_ID: HeaderName = HeaderName::from_static("x-event-id");
const X_EVENT_TYPE: HeaderName = HeaderName::from_static("x-event-type");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Headers that frame the message or belong to the connection: only the client can know them.
const NOT_CONFIGURABLE: [HeaderName; 7] = [CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// The most headers that [`Template::request`] adds.
const OWN_HEADERS: usize = 7;

/// What the requests to one sink have in common.
pub struct Template {
    uri: Uri,
    headers: HeaderMap,
    signer: Option<Signer>,
    body: Option<Mapping>,
}

impl Template {
    pub fn new(config: &config::HttpSink) -> Result<Self, OpenError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))));
        // After the two above, so that a receiver that wants another content type can have it.
        for (name, value) in &config.headers {
            let header = HeaderName::from_bytes(name.as_bytes()).ok().filter(|header| !NOT_CONFIGURABLE.contains(header));
            let value = HeaderValue::from_str(value.expose());
            let (Some(header), Ok(mut value)) = (header, value) else { return Err(OpenError::Header(name.clone())) };
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        let signer = config.signing_secret.as_ref().map(|secret| Signer::new(secret.expose()));
        Ok(Self { uri: parse(config.url.expose())?, headers, signer, body: config.body.clone() })
    }

    /// Where requests go. Its path and query may be a secret.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// What is sent of an event: its payload, or what `body` makes of it.
    fn content(&self, delivery: &Delivery) -> Result<Bytes, Unevaluated> {
        match &self.body {
            None => Ok(delivery.payload.clone()),
            // Keys in the order of the alphabet: the same bytes on every try.
            Some(body) => Ok(body.evaluate(&delivery.subject()?)?.to_string().into()),
        }
    }

    /// The request of a try at the time `now`, which only the signature's timestamp shows: all else is the same on every try. The error is
    /// what `body` cannot make of this event.
    pub fn request(&self, delivery: &Delivery, now: impl FnOnce() -> DateTime<Utc>) -> Result<Request<Full<Bytes>>, Unevaluated> {
        let content = self.content(delivery)?;
        let mut request = Request::new(Full::new(content.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.reserve(self.headers.len() + OWN_HEADERS);
        headers.extend(self.headers.clone());

        let mut buffer = Uuid::encode_buffer();
        let key = &*delivery.idempotency_key.hyphenated().encode_lower(&mut buffer);
        put(headers, X_EVENT_ID, &delivery.event_id);
        put(headers, IDEMPOTENCY_KEY, key);
        if let Some(event_type) = &delivery.event_type {
            put(headers, X_EVENT_TYPE, event_type);
        }
        let came_with = delivery.traceparent.as_deref().is_some_and(|traceparent| put(headers, TRACEPARENT, traceparent));
        if !came_with {
            put(headers, TRACEPARENT, &derived_traceparent(delivery.idempotency_key));
        }
        if let Some(signer) = &self.signer {
            let timestamp = now().timestamp().to_string();
            // The specification wants an id that is unique for the receiver, the same on every try, and without a full
            // stop. An event id is none of these: two sources may use the same one, and it may hold any character.
            put(headers, WEBHOOK_SIGNATURE, &signer.sign(key, &timestamp, &content));
            put(headers, WEBHOOK_ID, key);
            put(headers, WEBHOOK_TIMESTAMP, &timestamp);
        }
        Ok(request)
    }
}

/// Sets a header if the value can be one, and says whether it could. Only ASCII: beyond it, receivers disagree on the encoding.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) -> bool {
    value.is_ascii() && HeaderValue::from_str(value).map(|value| headers.insert(name, value)).is_ok()
}

/// A trace context for an event that came without one: the same on every try, and found again by the idempotency key,
/// which is the trace id. It is marked as sampled, since an unsampled parent would silence the receiver's own tracing.
fn derived_traceparent(key: Uuid) -> String {
    let trace_id = key.simple();
    let (_, parent_id) = key.as_u64_pair();
    format!("00-{trace_id}-{parent_id:016x}-01")
}

/// Takes an absolute http(s) URL apart, and refuses what could make it mean something else than it says.
pub fn parse(url: &str) -> Result<Uri, OpenError> {
    let uri: Uri = url.parse().map_err(|_| OpenError::Url("is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(OpenError::Url("does not begin with http:// or https://"));
    }
    let authority = uri.authority().ok_or(OpenError::Url("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(OpenError::Url("holds a user name or password: put them into `headers`, as authorization = \"Basic …\""));
    }
    if authority.host().is_empty() {
        return Err(OpenError::Url("names no host"));
    }
    // The parser ignores a port that it cannot read.
    if authority.port_u16().is_none() && authority.as_str() != authority.host() {
        return Err(OpenError::Url("has a port that is not a number up to 65535"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use chrono::TimeZone;

    fn config(url: &str) -> config::HttpSink {
        config::HttpSink { url: Secret::new(url.into()), headers: Vec::new(), allow: Vec::new(), signing_secret: None, body: None }
    }

    fn delivery() -> Delivery {
        Delivery {
            seq: 1,
            source: "mindtickle".into(),
            event_id: "evt_1".into(),
            event_type: Some("course.completed".into()),
            order_key: None,
            received_at: at(1_700_000_000),
            payload: Bytes::from_static(b" {\"a\":1}\n"),
            traceparent: None,
            idempotency_key: crate::sink::idempotency_key("mindtickle", "evt_1", "crm"),
        }
    }

    fn at(unix: i64) -> DateTime<Utc> {
        Utc.timestamp_opt(unix, 0).unwrap()
    }

    #[test]
    fn every_try_sends_the_same_headers_whatever_the_time() {
        let template = Template::new(&config("http://a.example/hook?x=1")).unwrap();
        let request = template.request(&delivery(), || at(1)).unwrap();
        assert_eq!(request.headers(), template.request(&delivery(), || at(2)).unwrap().headers());
        let key = delivery().idempotency_key.to_string();
        let header = |name: &str| request.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(header("x-event-id"), "evt_1");
        assert_eq!(header("x-event-type"), "course.completed");
        assert_eq!(header("idempotency-key"), key);
        assert_eq!(header("traceparent"), format!("00-{}-{}-01", key.replace('-', ""), key[19..].replace('-', "")));
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(request.headers().len(), 6);
    }

    #[test]
    fn a_trace_context_that_came_with_the_event_is_passed_on() {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let delivery = Delivery { traceparent: Some(traceparent.into()), ..delivery() };
        let request = Template::new(&config("http://a.example")).unwrap().request(&delivery, || at(1)).unwrap();
        assert_eq!(request.headers()["traceparent"], traceparent);
    }

    #[test]
    fn a_type_that_no_header_can_hold_is_left_out() {
        let template = Template::new(&config("http://a.example")).unwrap();
        for event_type in [None, Some("a\nx-injected: 1".to_owned()), Some("caf\u{e9}".to_owned())] {
            let request = template.request(&Delivery { event_type, ..delivery() }, || at(1)).unwrap();
            assert!(!request.headers().contains_key("x-event-type"));
        }
    }

    #[test]
    fn a_signed_request_has_a_timestamp_of_its_own_and_the_same_id() {
        let config = config::HttpSink { signing_secret: Some(Secret::new(b"key".to_vec())), ..config("http://a.example") };
        let template = Template::new(&config).unwrap();
        let headers = |unix| template.request(&delivery(), || at(unix)).unwrap().headers().clone();
        let (first, second) = (headers(1_700_000_000), headers(1_700_000_060));
        assert_eq!(first["webhook-id"], second["webhook-id"]);
        assert_eq!(second["webhook-timestamp"], "1700000060");
        assert_ne!(first["webhook-signature"], second["webhook-signature"]);
        let expected = Signer::new(b"key").sign(&delivery().idempotency_key.to_string(), "1700000000", &delivery().payload);
        assert_eq!(first["webhook-signature"], expected);
    }

    #[test]
    fn configured_headers_are_sent_and_hidden_and_cannot_break_the_message() {
        let with = |name: &str, value: &str| {
            let headers = vec![(name.to_owned(), Secret::new(value.to_owned()))];
            Template::new(&config::HttpSink { headers, ..config("http://a.example") })
                .map(|template| template.request(&delivery(), || at(1)).unwrap())
        };
        let request = with("Authorization", "Bearer s3cret").unwrap();
        assert_eq!(request.headers()["authorization"], "Bearer s3cret");
        assert!(!format!("{request:?}").contains("s3cret"));
        assert_eq!(with("content-type", "application/cloudevents+json").unwrap().headers()["content-type"], "application/cloudevents+json");
        assert_eq!(with("X-Event-Id", "forged").unwrap().headers()["x-event-id"], "evt_1");
        for (name, value) in
            [("a b", "x"), ("", "x"), ("x", "s3cret\r\ny: z"), ("Host", "s3cret"), ("content-length", "1"), ("transfer-encoding", "x")]
        {
            let error = with(name, value).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_url_that_is_not_plainly_http_is_refused_without_being_repeated() {
        for url in [
            "",
            "/s3cret",
            "s3cret.example",
            "ftp://s3cret.example/",
            "file:///s3cret",
            "http://",
            "http:///s3cret",
            "http://:80/s3cret",
            "http://user:s3cret@a.example/",
            "http://a.example:s3cret/",
            "http://a.example:65536/s3cret",
            "http://a b/s3cret",
        ] {
            let error = Template::new(&config(url)).err().unwrap_or_else(|| panic!("{url} was taken")).to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        for url in ["http://a.example", "https://a.example:8443/x?y=z", "HTTPS://a.example/", "http://[::1]:80/", "http://[::1]/"] {
            assert!(Template::new(&config(url)).is_ok(), "{url}");
        }
    }
}
