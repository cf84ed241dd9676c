//! From a request to an event: signed once, on time, and read. Nothing here waits.

use super::answers::Answer;
use crate::config::{Secret, Source};
use crate::event::NewEvent;
use crate::profile::{Facts, Profile};
use crate::signature::{self, Timestamp};
use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// Timestamps count seconds, so two events with one body can be signed alike and both be genuine. Their first deliveries come
/// soon; a request that comes later than this under a new id is taken for a captured one.
const TWINS_WITHIN: Duration = Duration::from_secs(5 * 60);
/// A provider's clock may be ahead of ours by this much.
const AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

/// A profile's headers, parsed once.
#[derive(Debug)]
pub struct SignedHeaders {
    signature: HeaderName,
    timestamp: HeaderName,
    event_id: HeaderName,
}

impl SignedHeaders {
    /// `Err` is the name that is none.
    pub fn new(profile: &Profile) -> Result<Self, String> {
        let parse = |name: &str| HeaderName::from_bytes(name.as_bytes()).map_err(|_| name.to_owned());
        Ok(Self {
            signature: parse(&profile.signature_header)?,
            timestamp: parse(&profile.timestamp_header)?,
            event_id: parse(&profile.event_id_header)?,
        })
    }

    /// Takes from a request what its verification needs. Refuses what cannot verify before its body is read.
    pub fn read<'a>(&self, headers: &'a HeaderMap) -> Result<Claim<'a>, Answer> {
        let signature = only(headers, &self.signature).ok_or(Answer::Unsigned)?;
        let timestamp = only(headers, &self.timestamp).ok_or(Answer::Unsigned)?;
        let timestamp = std::str::from_utf8(timestamp).ok().and_then(Timestamp::parse).ok_or(Answer::Forbidden)?;
        let event_id = only(headers, &self.event_id);
        let traceparent = only(headers, &HeaderName::from_static("traceparent"))
            .and_then(|value| std::str::from_utf8(value).ok())
            .filter(|value| is_traceparent(value));
        Ok(Claim { signature, timestamp, event_id, traceparent })
    }
}

/// `payloads.headers`: with the secret, enough to verify the payload again.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptHeaders<'a> {
    signature: Cow<'a, str>,
    timestamp: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    event_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    traceparent: Option<Cow<'a, str>>,
}

impl KeptHeaders<'_> {
    /// What the request claimed. `None`: its timestamp is none.
    pub fn claim(&self) -> Option<Claim<'_>> {
        Some(Claim {
            signature: self.signature.as_bytes(),
            timestamp: Timestamp::parse(&self.timestamp)?,
            event_id: self.event_id.as_deref().map(str::as_bytes),
            traceparent: self.traceparent.as_deref(),
        })
    }
}

/// What a request claims, not yet verified.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    signature: &'a [u8],
    timestamp: Timestamp<'a>,
    event_id: Option<&'a [u8]>,
    traceparent: Option<&'a str>,
}

impl Claim<'_> {
    /// Verifies the claim against the body: with `secrets`, which may be newer than those of `source`. What verifies becomes an event,
    /// quarantined where it cannot be processed.
    pub fn verify(&self, source: &Source, secrets: &[Secret<String>], payload: Bytes, now: DateTime<Utc>) -> Result<NewEvent, Answer> {
        let secrets = secrets.iter().map(Secret::expose).map(String::as_bytes);
        if !signature::verify(&source.profile, secrets, self.timestamp, &payload, self.signature) {
            return Err(Answer::Forbidden);
        }
        let facts = source.profile.read(&payload);
        let held = facts.as_ref().ok().and_then(|facts| self.hold(source, facts, now));
        let event_id = self.event_id.and_then(|id| std::str::from_utf8(id).ok());
        let mut event = NewEvent::new(&source.name, event_id, self.timestamp.text(), payload, facts, self.kept_headers());
        if event.quarantine.is_none() {
            event.quarantine = held;
        }
        event.came_late = self.age_ms(now) > TWINS_WITHIN.as_millis() as i128;
        Ok(event)
    }

    /// Why an event that could be read is held back all the same.
    fn hold(&self, source: &Source, facts: &Facts, now: DateTime<Utc>) -> Option<String> {
        match (&source.company_id, &facts.company_id) {
            (Some(_), None) => return Some("the payload names no company".into()),
            (Some(ours), Some(theirs)) if ours != theirs => return Some("it is of another company".into()),
            _ => {}
        }
        let age_ms = self.age_ms(now);
        let ms = |duration: Duration| i128::try_from(duration.as_millis()).unwrap_or(i128::MAX);
        if age_ms > ms(source.timestamp_window) {
            return Some("its timestamp is older than timestamp_window".into());
        }
        (age_ms < -ms(AHEAD_MAX)).then(|| "its timestamp is more than 5 minutes ahead".into())
    }

    fn age_ms(&self, now: DateTime<Utc>) -> i128 {
        i128::from(now.timestamp_millis()) - i128::from(self.timestamp.unix_ms())
    }

    /// `payloads.headers`: with the secret, enough to verify the payload again.
    pub fn kept_headers(&self) -> String {
        let kept = KeptHeaders {
            signature: String::from_utf8_lossy(self.signature),
            timestamp: self.timestamp.text().into(),
            event_id: self.event_id.map(String::from_utf8_lossy),
            traceparent: self.traceparent.map(Cow::from),
        };
        serde_json::to_string(&kept).expect("strings are always JSON")
    }
}

/// The header's value, if it is there exactly once and not empty.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.as_bytes();
    (values.next().is_none() && !value.is_empty()).then_some(value)
}

/// Whether this is a `traceparent` as W3C Trace Context defines it: passed on, so checked.
fn is_traceparent(value: &str) -> bool {
    let hex = |part: &str, length| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let not_zero = |part: &str| part.bytes().any(|byte| byte != b'0');
    match *value.split('-').collect::<Vec<_>>() {
        [version, trace, parent, flags] => {
            hex(version, 2) && version != "ff" && hex(trace, 32) && not_zero(trace) && hex(parent, 16) && not_zero(parent) && hex(flags, 2)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const NOW: i64 = 1_800_000_000;

    fn source() -> Source {
        Source {
            name: Arc::from("mindtickle"),
            profile: Profile::mindtickle(),
            secrets: vec![Secret::new("s3cret".into())],
            company_id: Some("acme".into()),
            timestamp_window: Duration::from_secs(26 * 3600),
        }
    }

    fn signed(timestamp: &str, body: &str, more: &[(&'static str, &str)]) -> HeaderMap {
        let signature = signature::sign(&Profile::mindtickle(), b"s3cret", timestamp, body.as_bytes());
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-mt-webhook-signature", signature.as_str()), ("x-mt-webhook-timestamp", timestamp)].iter().chain(more) {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn receive(headers: &HeaderMap, body: &str) -> Result<NewEvent, Answer> {
        let names = SignedHeaders::new(&Profile::mindtickle()).unwrap();
        names.read(headers)?.verify(
            &source(),
            &source().secrets,
            Bytes::copy_from_slice(body.as_bytes()),
            DateTime::from_timestamp(NOW, 0).unwrap(),
        )
    }

    const BODY: &str = r#"{"event":"course.completed","companyId":"acme","data":{"userId":"u"}}"#;

    #[test]
    fn a_signature_or_timestamp_that_is_missing_empty_or_repeated_is_not_looked_at() {
        let timestamp = NOW.to_string();
        for header in ["x-mt-webhook-signature", "x-mt-webhook-timestamp"] {
            let mut headers = signed(&timestamp, BODY, &[]);
            headers.append(header, headers[header].clone());
            assert_eq!(receive(&headers, BODY).unwrap_err(), Answer::Unsigned);
            headers.insert(header, "".parse().unwrap());
            assert_eq!(receive(&headers, BODY).unwrap_err(), Answer::Unsigned);
            headers.remove(header);
            assert_eq!(receive(&headers, BODY).unwrap_err(), Answer::Unsigned);
        }
    }

    #[test]
    fn a_redelivery_of_some_hours_is_taken_and_what_is_too_old_or_ahead_is_quarantined() {
        let held = |age: i64| receive(&signed(&(NOW - age).to_string(), BODY, &[]), BODY).unwrap().quarantine.is_some();
        assert!(!held(0) && !held(7 * 3600 + 1200) && !held(-200));
        assert!(held(30 * 86400) && held(-600));
        assert!(receive(&signed(&"9".repeat(18), BODY, &[]), BODY).unwrap().quarantine.is_some());
    }

    #[test]
    fn an_event_of_another_company_or_of_none_is_quarantined() {
        let held = |body: &str| receive(&signed(&NOW.to_string(), body, &[]), body).unwrap().quarantine;
        assert_eq!(held(BODY), None);
        assert!(held(&BODY.replace("acme", "other")).is_some());
        assert!(held(r#"{"event":"x"}"#).is_some());
        assert!(held("not JSON").unwrap().starts_with("not JSON"));
    }

    #[test]
    fn the_headers_that_verify_it_again_are_kept_as_they_came() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let id = "x".repeat(201);
        let headers = signed(&NOW.to_string(), BODY, &[("x-mt-event-id", &id), ("traceparent", trace)]);
        let event = receive(&headers, BODY).unwrap();
        assert!(event.derived_id);
        let kept: serde_json::Value = serde_json::from_str(&event.headers).unwrap();
        assert_eq!(kept["timestamp"], NOW.to_string());
        assert_eq!(kept["signature"].as_str().unwrap().len(), 64);
        assert_eq!(kept["event_id"], id);
        assert_eq!(kept["traceparent"], trace);
    }

    #[test]
    fn a_traceparent_is_kept_only_when_it_is_one() {
        assert!(is_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        for bad in [
            "",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-1-2-3",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
