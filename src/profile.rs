//! A provider's contract as data: where its requests carry what, how they are signed, and what the payload says. Pure.

mod built_in;
mod place;
mod signature_header;
mod template;
#[cfg(test)]
mod tests;

pub use place::{Path, Place};
pub(crate) use signature_header::{Claimed, MAC_BYTES};
pub use signature_header::{SIGNATURES_MAX, SignatureHeader};
pub use template::Part;

use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use serde_json::Value;
use std::borrow::Cow;
use std::time::Duration;

/// How one provider signs its requests and shapes its payloads.
///
/// The built-in ones are [`Profile::built_in`]. MindTickle publishes no such contract; the built-in `mindtickle` follows a third
/// party's description. So all of it can be changed in the config.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub name: String,
    pub signature: SignatureHeader,
    /// Of each signature in that header.
    pub encoding: Encoding,
    /// Where the Unix time is that is part of the signed string.
    pub timestamp: TimestampPlace,
    pub timestamp_unit: Unit,
    /// Older requests are quarantined, where the source does not say otherwise. Without a timestamp there is no such check.
    pub timestamp_window: Duration,
    /// What is signed, in order.
    pub signed: Vec<Part>,
    pub secret_form: SecretForm,
    /// Where the request says which event it is, of which type, company and user.
    pub event_id: Place,
    pub event_type: Place,
    pub company: Place,
    pub user: Place,
    /// Where a request that is no event holds a text to be sent back: see [`Profile::challenge`].
    pub challenge: Option<Path>,
}

/// How a signature's bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Hex,
    Base64,
}

/// Where a request carries its timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimestampPlace {
    /// In a header of its own: its name, lower case.
    Header(String),
    /// In the signature's header, as the item with this prefix.
    Item(String),
    /// Nowhere: a request's age is not known.
    Nowhere,
}

/// What a timestamp counts since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds or milliseconds, told apart by magnitude.
    Magnitude,
    Seconds,
    Milliseconds,
}

/// How the provider hands out its secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretForm {
    /// The text's bytes are the key, whatever it begins with.
    Text,
    /// Base64 of the key, with or without `whsec_` in front.
    Base64,
}

impl Unit {
    /// Milliseconds in one, of those that are written now.
    pub fn ms_each(self) -> i64 {
        match self {
            Self::Magnitude | Self::Seconds => 1000,
            Self::Milliseconds => 1,
        }
    }
}

impl SecretForm {
    /// The key that a secret stands for; `None`: it is not written like this, or it is empty.
    pub fn key(self, secret: &str) -> Option<Cow<'_, [u8]>> {
        let key = match self {
            Self::Text => Cow::Borrowed(secret.as_bytes()),
            Self::Base64 => Cow::Owned(PADDED_OR_NOT.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()?),
        };
        (!key.is_empty()).then_some(key)
    }
}

/// What a request's headers say of the event, where the profile looks there. Not signed, except what [`Part::EventId`] makes so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried<'a> {
    pub event_type: Option<&'a str>,
    pub company: Option<&'a str>,
    pub user: Option<&'a str>,
}

/// What the request says of the event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// From the payload, where the profile has it there; usable or not.
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    pub company_id: Option<String>,
    pub user: Option<String>,
}

/// Secrets are copied by hand, and lose their `=`; a signature may not.
const PADDED_OR_NOT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Longest text that is sent back.
const CHALLENGE_CHARS_MAX: usize = 200;

impl Profile {
    /// Reads what the payload alone says of the event; `Err` is the reason why it must be quarantined.
    pub fn read(&self, payload: &[u8]) -> Result<Facts, String> {
        self.read_with(payload, Carried::default())
    }

    /// Reads what payload and headers say of the event; `Err` is the reason why it must be quarantined.
    pub fn read_with(&self, payload: &[u8], carried: Carried<'_>) -> Result<Facts, String> {
        let value: Value = serde_json::from_slice(payload).map_err(|error| format!("not JSON: {}", category(&error)))?;
        if !value.is_object() {
            return Err("not a JSON object".into());
        }
        let untyped = match &self.event_type {
            Place::Header(_) => "no header names the event type",
            Place::Body(_) | Place::Nowhere => "the payload names no event type",
        };
        let event_type = self.event_type.text(&value, carried.event_type, "event type")?.ok_or(untyped)?;
        Ok(Facts {
            event_id: self.event_id.any_text(&value, None),
            event_type: Some(event_type),
            company_id: self.company.text(&value, carried.company, "company")?,
            user: self.user.text(&value, carried.user, "user")?,
        })
    }

    /// What a provider asks to have sent back before it sends events: a text of printable ASCII without spaces. To be asked only of
    /// a verified request that names no event type.
    pub fn challenge(&self, payload: &[u8]) -> Option<String> {
        let path = self.challenge.as_ref()?;
        let value: Value = serde_json::from_slice(payload).ok()?;
        let text = path.find(&value).and_then(Value::as_str)?;
        let valid = (1..=CHALLENGE_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then(|| text.to_owned())
    }

    /// The headers of a request: where its signature, timestamp and id go. `signature` is the header's value, as
    /// [`crate::signature::sign`] makes it. An id that the profile has in the body is not among them.
    pub fn headers<'a>(&'a self, signature: &'a str, timestamp: &'a str, event_id: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut headers = vec![(self.signature.name.as_str(), signature)];
        if let TimestampPlace::Header(name) = &self.timestamp {
            headers.push((name, timestamp));
        }
        if let Place::Header(name) = &self.event_id {
            headers.push((name, event_id));
        }
        headers
    }
}

/// Says where JSON ends to be JSON, without repeating any of it: it may be personal.
fn category(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        _ => "it cannot be parsed",
    };
    format!("{kind} at line {}, column {}", error.line(), error.column())
}
