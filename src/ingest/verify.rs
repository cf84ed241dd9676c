//! From a request to an event: signed once, on time, and read. Nothing here waits.

use super::answers::Answer;
use crate::config::{Secret, Source};
use crate::event::NewEvent;
use crate::profile::{Carried, Facts, Part, Place, Profile, SignatureHeader, TimestampPlace, Unit};
use crate::signature::{Message, Timestamp};
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
    /// To find a timestamp among its items.
    signature_header: SignatureHeader,
    timestamp: TimestampIn,
    timestamp_unit: Unit,
    /// Without its id, a request cannot verify.
    id_is_signed: bool,
    /// `None`: the profile looks elsewhere.
    event_id: Option<HeaderName>,
    event_type: Option<HeaderName>,
    company: Option<HeaderName>,
    user: Option<HeaderName>,
}

/// [`TimestampPlace`], parsed.
#[derive(Debug)]
enum TimestampIn {
    Header(HeaderName),
    /// Of the signature's header: the item with this prefix.
    Item(String),
    Nowhere,
}

impl SignedHeaders {
    /// `Err` is the name that is none.
    pub fn new(profile: &Profile) -> Result<Self, String> {
        let parse = |name: &str| HeaderName::from_bytes(name.as_bytes()).map_err(|_| name.to_owned());
        let header = |place: &Place| place.header().map(parse).transpose();
        Ok(Self {
            signature: parse(&profile.signature.name)?,
            signature_header: profile.signature.clone(),
            timestamp: match &profile.timestamp {
                TimestampPlace::Header(name) => TimestampIn::Header(parse(name)?),
                TimestampPlace::Item(prefix) => TimestampIn::Item(prefix.clone()),
                TimestampPlace::Nowhere => TimestampIn::Nowhere,
            },
            timestamp_unit: profile.timestamp_unit,
            id_is_signed: profile.signed.contains(&Part::EventId),
            event_id: header(&profile.event_id)?,
            event_type: header(&profile.event_type)?,
            company: header(&profile.company)?,
            user: header(&profile.user)?,
        })
    }

    /// Takes from a request what its verification needs. Refuses what cannot verify before its body is read.
    pub fn read<'a>(&self, headers: &'a HeaderMap) -> Result<Claim<'a>, Answer> {
        let signature = only(headers, &self.signature).ok_or(Answer::Unsigned)?;
        let timestamp = match &self.timestamp {
            TimestampIn::Header(name) => Some(only(headers, name).ok_or(Answer::Unsigned)?),
            TimestampIn::Item(prefix) => Some(self.signature_header.only_item(signature, prefix).ok_or(Answer::Unsigned)?),
            TimestampIn::Nowhere => None,
        };
        let parse = |text| std::str::from_utf8(text).ok().and_then(|text| Timestamp::parse_in(self.timestamp_unit, text));
        let timestamp = timestamp.map(|text| parse(text).ok_or(Answer::Forbidden)).transpose()?;
        let optional = |name: &Option<HeaderName>| name.as_ref().and_then(|name| only(headers, name));
        let event_id = optional(&self.event_id);
        if self.id_is_signed && event_id.is_none() {
            return Err(Answer::Unsigned);
        }
        let traceparent = only(headers, &HeaderName::from_static("traceparent"))
            .and_then(|value| std::str::from_utf8(value).ok())
            .filter(|value| is_traceparent(value));
        Ok(Claim {
            signature,
            timestamp,
            event_id,
            event_type: optional(&self.event_type),
            company: optional(&self.company),
            user: optional(&self.user),
            traceparent,
        })
    }
}

/// `payloads.headers`: with the secret, enough to verify the payload again, and what else the profile takes from headers.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptHeaders<'a> {
    signature: Cow<'a, str>,
    /// Also where it came within the signature's header.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    event_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    event_type: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    company: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    user: Option<Cow<'a, str>>,
}

impl KeptHeaders<'_> {
    /// What the request claimed, its timestamp counted as `profile` says. `None`: that is no timestamp.
    pub fn claim(&self, profile: &Profile) -> Option<Claim<'_>> {
        fn bytes<'a>(text: &'a Option<Cow<'_, str>>) -> Option<&'a [u8]> {
            text.as_deref().map(str::as_bytes)
        }
        let timestamp = match (&profile.timestamp, &self.timestamp) {
            (TimestampPlace::Nowhere, _) => None,
            (_, text) => Some(Timestamp::parse_in(profile.timestamp_unit, text.as_deref()?)?),
        };
        Some(Claim {
            signature: self.signature.as_bytes(),
            timestamp,
            event_id: bytes(&self.event_id),
            event_type: bytes(&self.event_type),
            company: bytes(&self.company),
            user: bytes(&self.user),
            traceparent: self.traceparent.as_deref(),
        })
    }
}

/// What a request claims, not yet verified.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    signature: &'a [u8],
    /// `None`: the profile has none.
    timestamp: Option<Timestamp<'a>>,
    event_id: Option<&'a [u8]>,
    event_type: Option<&'a [u8]>,
    company: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    traceparent: Option<&'a str>,
}

impl Claim<'_> {
    /// Verifies the claim against the body: with `secrets`, which may be newer than those of `source`. What verifies becomes an event,
    /// quarantined where it cannot be processed.
    pub fn verify(&self, source: &Source, secrets: &[Secret<String>], payload: Bytes, now: DateTime<Utc>) -> Result<NewEvent, Answer> {
        let profile = &source.profile;
        let keys = secrets.iter().filter_map(|secret| profile.secret_form.key(secret.expose()));
        let timestamp = self.timestamp.map(|timestamp| timestamp.text());
        let message = Message { event_id: self.event_id, timestamp, body: &payload };
        if !message.is_signed(profile, keys, self.signature) {
            return Err(Answer::Forbidden);
        }
        let carried = self.carried();
        let mut facts = profile.read_with(&payload, carried);
        let held = facts.as_ref().ok().and_then(|facts| self.hold(source, facts, now));
        let of_body = facts.as_mut().ok().and_then(|facts| facts.event_id.take());
        let event_id = text(self.event_id).or(of_body.as_deref());
        // Without a timestamp, one body may still stand for two events: Shopify sends an order under several topics.
        let stamp = timestamp.or(carried.event_type).unwrap_or_default();
        let mut event = NewEvent::new(&source.name, event_id, stamp, payload, facts, self.kept_headers());
        if event.quarantine.is_none() {
            event.quarantine = held;
        }
        event.came_late = self.age_ms(now).is_none_or(|age_ms| age_ms > TWINS_WITHIN.as_millis() as i128);
        Ok(event)
    }

    /// Why an event that could be read is held back all the same.
    fn hold(&self, source: &Source, facts: &Facts, now: DateTime<Utc>) -> Option<String> {
        match (&source.company_id, &facts.company_id) {
            (Some(_), None) => return Some("the payload names no company".into()),
            (Some(ours), Some(theirs)) if ours != theirs => return Some("it is of another company".into()),
            _ => {}
        }
        let age_ms = self.age_ms(now)?;
        let ms = |duration: Duration| i128::try_from(duration.as_millis()).unwrap_or(i128::MAX);
        if age_ms > ms(source.timestamp_window) {
            return Some("its timestamp is older than timestamp_window".into());
        }
        (age_ms < -ms(AHEAD_MAX)).then(|| "its timestamp is more than 5 minutes ahead".into())
    }

    /// `None`: nothing says when it was signed.
    fn age_ms(&self, now: DateTime<Utc>) -> Option<i128> {
        self.timestamp.map(|timestamp| i128::from(now.timestamp_millis()) - i128::from(timestamp.unix_ms()))
    }

    /// What the headers say, where they can be read.
    fn carried(&self) -> Carried<'_> {
        Carried { event_type: text(self.event_type), company: text(self.company), user: text(self.user) }
    }

    /// As [`KeptHeaders`], in JSON.
    pub fn kept_headers(&self) -> String {
        let kept = KeptHeaders {
            signature: String::from_utf8_lossy(self.signature),
            timestamp: self.timestamp.map(|timestamp| timestamp.text().into()),
            event_id: self.event_id.map(String::from_utf8_lossy),
            traceparent: self.traceparent.map(Cow::from),
            event_type: self.event_type.map(String::from_utf8_lossy),
            company: self.company.map(String::from_utf8_lossy),
            user: self.user.map(String::from_utf8_lossy),
        };
        serde_json::to_string(&kept).expect("strings are always JSON")
    }
}

/// A header's value, where it can be read.
fn text(value: Option<&[u8]>) -> Option<&str> {
    value.and_then(|value| std::str::from_utf8(value).ok())
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
    use crate::signature;
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
