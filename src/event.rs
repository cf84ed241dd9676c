//! An event between the verifier and the store: its id, its key, its lane. Pure.

use crate::profile::Facts;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Lanes are fixed for the installation: they are stored with every event.
pub const LANES: u16 = 64;

/// An event id is 1–200 printable ASCII characters: it goes into headers, logs and SQL as it is.
const ID_CHARS_MAX: usize = 200;

/// A verified request, ready to be committed.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Name of the `[[source]]` that received it.
    pub source: Arc<str>,
    pub event_id: String,
    /// The request carried no usable id, so `event_id` is derived from what `request_hash` is made of.
    pub derived_id: bool,
    pub event_type: Option<String>,
    pub company_id: Option<String>,
    /// `company/user`; `None` without a user: unordered.
    pub order_key: Option<String>,
    /// 0–63: see [`lane`].
    pub lane: i16,
    /// Why it is held back from every sink; `None`: it is not.
    pub quarantine: Option<String>,
    /// The exact signed bytes.
    pub payload: Bytes,
    /// First 16 bytes of SHA-256 of the payload.
    pub payload_hash: [u8; 16],
    /// First 16 bytes of SHA-256 of `stamp:payload` (see [`NewEvent::new`]): the same for the very same signed request under another id.
    pub request_hash: [u8; 16],
    /// It came so long after it was signed that only a redelivery (same id) or a captured request (another id) can be the cause; or
    /// nothing says when it was signed.
    pub came_late: bool,
    /// `payloads.headers`, as JSON text: what verifies the payload again.
    pub headers: String,
}

impl NewEvent {
    /// Builds an event from a verified request. `facts` is what the profile found in it, or why it found nothing.
    ///
    /// `stamp` tells the request from another one with the same body: its timestamp, or without one the event type that its header names.
    pub fn new(
        source: &Arc<str>,
        event_id: Option<&str>,
        stamp: &str,
        payload: Bytes,
        facts: Result<Facts, String>,
        headers: String,
    ) -> Self {
        let payload_hash = first16(Sha256::digest(&payload).into());
        let request_hash = first16(Sha256::new().chain_update(stamp).chain_update(b":").chain_update(&payload).finalize().into());
        let usable = event_id.filter(|id| is_usable_id(id));
        let event_id = usable.map_or_else(|| derived_id(&request_hash), str::to_owned);
        let (facts, quarantine) = match facts {
            Ok(facts) => (facts, None),
            Err(reason) => (Facts::default(), Some(reason)),
        };
        let mut event = Self {
            source: Arc::clone(source),
            event_id,
            derived_id: usable.is_none(),
            order_key: facts.user.as_ref().map(|user| format!("{}/{user}", facts.company_id.as_deref().unwrap_or(""))),
            event_type: facts.event_type,
            company_id: facts.company_id,
            lane: 0,
            quarantine,
            payload,
            payload_hash,
            request_hash,
            came_late: false,
            headers,
        };
        event.lane = lane(event.order_key.as_deref().unwrap_or(&event.event_id));
        event
    }

    /// The same payload without anything else of the request, quarantined: for a row that could not be stored as it was.
    pub fn bared(&self, quarantine: String) -> Self {
        let event_id = derived_id(&self.request_hash);
        Self {
            source: Arc::clone(&self.source),
            lane: lane(&event_id),
            event_id,
            derived_id: true,
            event_type: None,
            company_id: None,
            order_key: None,
            quarantine: Some(quarantine),
            payload: self.payload.clone(),
            payload_hash: self.payload_hash,
            request_hash: self.request_hash,
            came_late: self.came_late,
            headers: "{}".into(),
        }
    }

    /// What decides order and lane: the order key, or the id where there is none.
    pub fn key(&self) -> &str {
        self.order_key.as_deref().unwrap_or(&self.event_id)
    }
}

/// The id of an event that came without one: the same for the same request.
fn derived_id(request_hash: &[u8; 16]) -> String {
    format!("derived-{}", hex::encode(request_hash))
}

/// Whether an id can be used as it came.
fn is_usable_id(id: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// FNV-1a, 64 bits: small, well known, and easy to repeat in any language that wants to find a lane.
pub fn fnv1a(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The slice of a sink's deliveries that a key belongs to, 0–63.
pub fn lane(key: &str) -> i16 {
    (fnv1a(key) % u64::from(LANES)) as i16
}

fn first16(hash: [u8; 32]) -> [u8; 16] {
    let (first, _) = hash.split_at(16);
    first.try_into().expect("the first half of 32 bytes is 16 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_those_of_the_published_fnv1a() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
        assert!((0..64).contains(&lane("acme/u-1")));
    }

    #[test]
    fn an_event_without_a_usable_id_gets_one_from_timestamp_and_body() {
        let event = |id, timestamp| {
            NewEvent::new(&Arc::from("mindtickle"), id, timestamp, Bytes::from_static(b"{}"), Err("no".into()), "{}".into())
        };
        for unusable in [None, Some(""), Some("caf\u{e9}"), Some("a\u{0}")] {
            assert!(event(unusable, "1").derived_id);
        }
        let long = "x".repeat(201);
        assert!(event(Some(&long), "1").derived_id);
        assert!(!event(Some(&long[1..]), "1").derived_id);
        assert_eq!(event(None, "1").event_id, event(None, "1").event_id);
        assert_ne!(event(None, "1").event_id, event(None, "2").event_id);
    }
    #[test]
    fn a_bared_event_keeps_its_payload_and_is_found_again_by_its_request() {
        let facts = Facts { event_id: None, event_type: Some("t".into()), company_id: Some("c".into()), user: Some("u".into()) };
        let event = NewEvent::new(&Arc::from("mindtickle"), Some("evt-1"), "1", Bytes::from_static(b"{}"), Ok(facts), "{}".into());
        let bared = event.bared("refused".into());
        assert_eq!((&bared.payload, bared.request_hash), (&event.payload, event.request_hash));
        assert_eq!((bared.event_type, bared.company_id, bared.order_key), (None, None, None));
        assert!(bared.derived_id && bared.quarantine.is_some());
    }
}
