//! Signatures over raw bytes: parsed strictly, compared in constant time. Pure.

use crate::profile::{Claimed, MAC_BYTES, Part, Profile, Unit};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// A request's timestamp: digits only, kept as it came, because that is what was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp<'a> {
    text: &'a str,
    unix_ms: i64,
}

impl<'a> Timestamp<'a> {
    /// Longest accepted: enough for milliseconds with leading zeros, and far from overflow.
    const DIGITS_MAX: usize = 18;
    /// Seconds reach this in the year 5138; milliseconds passed it in 1973.
    const MILLISECONDS_FROM: i64 = 100_000_000_000;

    /// Parses Unix time in seconds, or in milliseconds by magnitude. `None` for anything but 1–18 digits.
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::parse_in(Unit::Magnitude, text)
    }

    /// Parses Unix time in this unit. `None` for anything but 1–18 digits.
    pub fn parse_in(unit: Unit, text: &'a str) -> Option<Self> {
        if !(1..=Self::DIGITS_MAX).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: i64 = text.parse().ok()?;
        let is_ms = match unit {
            Unit::Magnitude => number >= Self::MILLISECONDS_FROM,
            Unit::Seconds => false,
            Unit::Milliseconds => true,
        };
        let unix_ms = if is_ms { number } else { number.saturating_mul(1000) };
        Some(Self { text, unix_ms })
    }

    /// As it came.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(&self) -> i64 {
        self.unix_ms
    }
}

/// What can be signed of a request. A profile that signs what is not there is never satisfied.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    pub event_id: Option<&'a [u8]>,
    pub timestamp: Option<&'a str>,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Whether `signature`, as the header carried it, holds one that was made with any of `keys`. Every key is tried with every
    /// signature, up to [`crate::profile::SIGNATURES_MAX`] of them, without an early exit.
    pub fn is_signed(&self, profile: &Profile, keys: impl IntoIterator<Item = impl AsRef<[u8]>>, signature: &[u8]) -> bool {
        let claimed = Claimed::read(profile, signature);
        if claimed.macs().is_empty() || !self.is_whole(profile) {
            return false;
        }
        let verified = keys.into_iter().fold(Choice::from(0), |found, key| {
            let mac = self.mac(profile, key.as_ref());
            claimed.macs().iter().fold(found, |found, claimed| found | mac.ct_eq(claimed))
        });
        verified.into()
    }

    /// Signs it as the provider would: the header's value. What is not there is signed as if it were empty.
    pub fn sign(&self, profile: &Profile, key: &[u8]) -> String {
        profile.signature_value(self.mac(profile, key), self.timestamp.unwrap_or_default())
    }

    fn is_whole(&self, profile: &Profile) -> bool {
        profile.signed.iter().all(|part| match part {
            Part::Timestamp => self.timestamp.is_some(),
            Part::EventId => self.event_id.is_some(),
            Part::Body | Part::Literal(_) => true,
        })
    }

    fn mac(&self, profile: &Profile, key: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        for part in &profile.signed {
            match part {
                Part::Timestamp => mac.update(self.timestamp.unwrap_or_default().as_bytes()),
                Part::EventId => mac.update(self.event_id.unwrap_or_default()),
                Part::Body => mac.update(self.body),
                Part::Literal(text) => mac.update(text.as_bytes()),
            }
        }
        mac.finalize().into_bytes().into()
    }
}

/// [`Message::is_signed`] of a timestamp and a body.
pub fn verify(
    profile: &Profile,
    keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    timestamp: Timestamp<'_>,
    body: &[u8],
    signature: &[u8],
) -> bool {
    Message { event_id: None, timestamp: Some(timestamp.text), body }.is_signed(profile, keys, signature)
}

/// [`Message::sign`] of a timestamp and a body.
pub fn sign(profile: &Profile, key: &[u8], timestamp: &str, body: &[u8]) -> String {
    Message { event_id: None, timestamp: Some(timestamp), body }.sign(profile, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Encoding;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn in_base64() -> Profile {
        Profile { encoding: Encoding::Base64, ..Profile::mindtickle() }
    }

    /// `bytes` with one bit turned.
    fn flipped(bytes: &[u8], at: Index) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    }

    proptest! {
        #[test]
        fn what_was_signed_verifies_and_with_any_single_bit_turned_it_does_not(
            secret in vec(any::<u8>(), 1..100), number in "[0-9]{1,18}", body in vec(any::<u8>(), 1..200), at: Index, base64: bool,
        ) {
            let profile = if base64 { in_base64() } else { Profile::mindtickle() };
            let timestamp = Timestamp::parse(&number).unwrap();
            let signature = sign(&profile, &secret, &number, &body);
            let verify = |secret: &[u8], timestamp, body: &[u8], signature: &[u8]| verify(&profile, [secret], timestamp, body, signature);
            prop_assert!(verify(&secret, timestamp, &body, signature.as_bytes()));
            prop_assert!(!verify(&flipped(&secret, at), timestamp, &body, signature.as_bytes()));
            prop_assert!(!verify(&secret, timestamp, &flipped(&body, at), signature.as_bytes()));
            let mac = flipped(&profile.encoding.decode(signature.as_bytes()).unwrap(), at);
            let other = if base64 { STANDARD.encode(&mac) } else { hex::encode(&mac) };
            prop_assert!(!verify(&secret, timestamp, &body, other.as_bytes()));
            // A bit of the text: what is left is another digit, the same one in the other case, or none.
            let other = flipped(signature.as_bytes(), at);
            let same_bytes = !base64 && other.eq_ignore_ascii_case(signature.as_bytes());
            prop_assert_eq!(verify(&secret, timestamp, &body, &other), same_bytes);
            let number = String::from_utf8(flipped(number.as_bytes(), at)).unwrap_or_default();
            prop_assert!(Timestamp::parse(&number).is_none_or(|other| !verify(&secret, other, &body, signature.as_bytes())));
        }

        #[test]
        fn a_header_of_any_bytes_verifies_only_where_it_is_the_signature(header in vec(any::<u8>(), 0..100), text in "[0-9a-fA-F+/=]{43,66}") {
            for profile in [Profile::mindtickle(), in_base64()] {
                let signature = sign(&profile, b"s3cret", "1", b"{}");
                for header in [&header, text.as_bytes(), &[signature.as_bytes(), &header].concat()] {
                    let is_it = header == signature.as_bytes();
                    prop_assert_eq!(verify(&profile, [b"s3cret".as_slice()], Timestamp::parse("1").unwrap(), b"{}", header), is_it);
                }
            }
        }

        #[test]
        fn a_timestamp_is_up_to_18_digits_is_kept_as_it_came_and_never_overflows(digits in "[0-9]{0,25}", text in ".{0,20}") {
            for text in [digits, text] {
                let valid = (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
                let parsed = Timestamp::parse(&text);
                prop_assert_eq!(parsed.map(|timestamp| timestamp.text()), valid.then_some(text.as_str()));
                prop_assert!(parsed.is_none_or(|timestamp| (0..10_i64.pow(18)).contains(&timestamp.unix_ms())));
            }
        }

        #[test]
        fn seconds_and_milliseconds_are_told_apart_from_1973_until_5138(seconds in 100_000_000_i64..100_000_000_000, ms in 0_i64..1000, zeros in "0{0,4}") {
            let exactly = seconds * 1000 + ms;
            prop_assert_eq!(Timestamp::parse(&format!("{zeros}{seconds}")).unwrap().unix_ms(), seconds * 1000);
            prop_assert_eq!(Timestamp::parse(&format!("{zeros}{exactly}")).unwrap().unix_ms(), exactly);
        }
    }

    #[test]
    fn a_timestamp_is_digits_and_nothing_else() {
        for bad in ["", "-1", "+1", "1.0", "1e9", "0x10", "1 2", " 1", "1 ", "\u{0661}", &"1".repeat(19), &"1".repeat(10_000)] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
        assert_eq!(Timestamp::parse("1700000000").unwrap().unix_ms(), 1_700_000_000_000);
        assert_eq!(Timestamp::parse("1700000000123").unwrap().unix_ms(), 1_700_000_000_123);
        assert_eq!(Timestamp::parse("0001700000000").unwrap().unix_ms(), 1_700_000_000_000);
        assert_eq!(Timestamp::parse("0001700000000").unwrap().text(), "0001700000000");
    }

    #[test]
    fn a_signature_verifies_with_any_of_the_secrets_in_either_case_and_not_otherwise() {
        let (profile, timestamp, body) = (Profile::mindtickle(), Timestamp::parse("1700000000").unwrap(), b"{}".as_slice());
        let verify = |secrets: &[&[u8]], signature: &[u8]| verify(&profile, secrets.iter().copied(), timestamp, body, signature);
        let signature = sign(&profile, b"new", "1700000000", body);
        assert!(verify(&[b"old", b"new"], signature.as_bytes()));
        assert!(verify(&[b"new", b"old"], signature.to_uppercase().as_bytes()));
        assert!(verify(&[b"new", b"new"], signature.as_bytes()), "one secret under two names");
        assert!(!verify(&[b"old"], signature.as_bytes()));
        assert!(!verify(&[], signature.as_bytes()));
        for bad in [
            "",
            &signature[1..],
            &format!("{signature}0"),
            &format!("sha256={signature}"),
            &"0".repeat(64),
            &"z".repeat(64),
            &"a".repeat(10_000),
        ] {
            assert!(!verify(&[b"new"], bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn the_signed_string_is_the_published_hmac_of_timestamp_colon_body() {
        // printf '1700000000:{}' | openssl dgst -sha256 -hmac s3cret
        let signature = sign(&Profile::mindtickle(), b"s3cret", "1700000000", b"{}");
        assert_eq!(signature, "60622de3014ee32d4d2aa963447209dd24d8c7d1b842ea441d6171b667750454");
    }
}
