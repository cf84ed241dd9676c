//! Any request: only its own signature verifies, and what verifies becomes an event that can be stored.
//!
//! The input is readable, so that seeds and findings are: timestamp, signature and event id, a line each, then the payload.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sluice::event::{self, NewEvent};
use sluice::profile::{Encoding, Part, Profile};
use sluice::signature::{self, Timestamp};
use std::sync::{Arc, LazyLock};

const SECRET: &[u8] = b"s3cret";
const OTHER: &[u8] = b"another";

/// The built-in profile, and one that differs in all that a config can change about signing.
static PROFILES: LazyLock<[Profile; 2]> = LazyLock::new(|| {
    let signed = Part::parse_template("v0:{timestamp}.{body}!").expect("a template");
    [Profile::mindtickle(), Profile { signed, encoding: Encoding::Base64, ..Profile::mindtickle() }]
});

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(4, |byte| *byte == b'\n');
    let [timestamp, signature, id, payload] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let Some(timestamp) = std::str::from_utf8(timestamp).ok().and_then(Timestamp::parse) else { return };
    for profile in &*PROFILES {
        verify(profile, timestamp, signature, payload);
        read(profile, timestamp, id, payload);
    }
});

fn verify(profile: &Profile, timestamp: Timestamp<'_>, claimed: &[u8], payload: &[u8]) {
    let genuine = signature::sign(profile, SECRET, timestamp.text(), payload);
    let verifies = |secrets: &[&[u8]], signature: &[u8]| signature::verify(profile, secrets.iter().copied(), timestamp, payload, signature);
    assert!(verifies(&[OTHER, SECRET], genuine.as_bytes()));
    assert!(!verifies(&[OTHER], genuine.as_bytes()));
    let is_genuine = match profile.encoding {
        Encoding::Hex => genuine.as_bytes().eq_ignore_ascii_case(claimed),
        Encoding::Base64 => genuine.as_bytes() == claimed,
    };
    assert_eq!(verifies(&[OTHER, SECRET], claimed), is_genuine);
}

fn read(profile: &Profile, timestamp: Timestamp<'_>, id: &[u8], payload: &[u8]) {
    let facts = profile.read(payload);
    match &facts {
        Ok(facts) => {
            assert!(facts.event_type.is_some());
            for fact in [&facts.event_type, &facts.company_id, &facts.user].into_iter().flatten() {
                assert!((1..=200).contains(&fact.chars().count()) && !fact.chars().any(char::is_control), "{fact:?}");
            }
        }
        // Written by us alone: nothing of the payload is repeated.
        Err(reason) => assert!(reason.len() < 100 && reason.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{reason:?}"),
    }

    let is_read = facts.is_ok();
    let payload = Bytes::copy_from_slice(payload);
    let event = NewEvent::new(&Arc::from("fuzz"), std::str::from_utf8(id).ok(), timestamp.text(), payload.clone(), facts, "{}".into());
    assert_eq!(event.quarantine.is_none(), is_read);
    assert!(event.derived_id || event.event_id.as_bytes() == id);
    for event in [&event, &event.bared("refused".into())] {
        assert_eq!(event.payload, payload);
        assert_eq!(event.lane, event::lane(event.key()));
        assert!((0..64).contains(&event.lane));
        assert!((1..=200).contains(&event.event_id.len()) && event.event_id.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }
}
