//! Any request: only its own signature verifies, and what verifies becomes an event that can be stored.
//!
//! The input is readable, so that seeds and findings are: timestamp, signature and event id, a line each, then the payload.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sluice::event::{self, NewEvent};
use sluice::profile::{Carried, Encoding, Part, Profile};
use sluice::signature::{Message, Timestamp};
use std::sync::{Arc, LazyLock};

const SECRET: &[u8] = b"s3cret";
const OTHER: &[u8] = b"another";

/// The built-in profiles, and one that differs in all that a config can change about signing.
static PROFILES: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    let signed = Part::parse_template("v0:{timestamp}.{body}!").expect("a template");
    let other = Profile { signed, encoding: Encoding::Base64, ..Profile::mindtickle() };
    Profile::built_in().into_iter().chain([other]).collect()
});

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(4, |byte| *byte == b'\n');
    let [timestamp, signature, id, payload] = [(); 4].map(|()| parts.next().unwrap_or_default());
    for profile in &*PROFILES {
        // Items are looked for in anything.
        let _ = profile.signature.only_item(signature, "t=");
        let timestamp = std::str::from_utf8(timestamp).ok();
        let Some(timestamp) = timestamp.and_then(|text| Timestamp::parse_in(profile.timestamp_unit, text)) else { continue };
        verify(profile, &Message { event_id: Some(id), timestamp: Some(timestamp.text()), body: payload }, signature);
        read(profile, timestamp, id, payload);
    }
});

fn verify(profile: &Profile, message: &Message<'_>, claimed: &[u8]) {
    let genuine = message.sign(profile, SECRET);
    let verifies = |keys: &[&[u8]], signature: &[u8]| message.is_signed(profile, keys, signature);
    assert!(verifies(&[OTHER, SECRET], genuine.as_bytes()));
    assert!(!verifies(&[OTHER], genuine.as_bytes()));
    // One of several: the last item of the genuine header is the signature.
    let separator = profile.signature.separator;
    let item = separator.and_then(|separator| genuine.rsplit(separator).next()).unwrap_or(&genuine);
    let is_genuine = |claimed: &[u8]| match profile.encoding {
        Encoding::Hex => {
            let digits = |item: &[u8]| item.strip_prefix(profile.signature.prefix.as_bytes()).map(<[u8]>::to_ascii_lowercase);
            digits(claimed).is_some_and(|claimed| Some(claimed) == digits(item.as_bytes()))
        }
        Encoding::Base64 => item.as_bytes() == claimed,
    };
    match separator {
        None => assert_eq!(verifies(&[OTHER, SECRET], claimed), is_genuine(claimed)),
        // Beyond the first eight it may not be looked at.
        Some(separator) => {
            let holds = claimed.split(|byte| *byte == separator as u8).any(|item| is_genuine(item.trim_ascii()));
            assert!(holds || !verifies(&[OTHER, SECRET], claimed));
        }
    }
}

fn read(profile: &Profile, timestamp: Timestamp<'_>, id: &[u8], payload: &[u8]) {
    let carried = std::str::from_utf8(id).ok();
    let facts = profile.read_with(payload, Carried { event_type: carried, company: carried, user: carried });
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
