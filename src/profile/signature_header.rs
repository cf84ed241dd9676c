//! The header that carries the signature: one, or several among other items.

use super::{Encoding, Profile, TimestampPlace};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// HMAC-SHA256 has 32 bytes.
pub const MAC_BYTES: usize = 32;
/// So many signatures of one request are looked at: a provider that rotates its secret sends two.
pub const SIGNATURES_MAX: usize = 8;

/// Which header, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureHeader {
    /// Lower case.
    pub name: String,
    /// What stands between its items; `None`: the whole header is one signature.
    pub separator: Option<char>,
    /// What stands in front of a signature, such as `sha256=` or `v1,`; may be empty. Items without it are none.
    pub prefix: String,
}

impl SignatureHeader {
    /// A header that is one signature and nothing else.
    pub fn plain(name: &str) -> Self {
        Self { name: name.into(), separator: None, prefix: String::new() }
    }

    /// Its items, without the spaces around them. A header without a separator is one item, as it is.
    fn items<'a>(&self, value: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        // Only ASCII is admitted, so a separator is one byte.
        let separator = self.separator.and_then(|separator| u8::try_from(separator).ok());
        let pieces = value.split(move |byte| Some(*byte) == separator);
        pieces.map(move |item| if separator.is_some() { item.trim_ascii() } else { item })
    }

    /// What follows `prefix` in the only item that begins with it.
    pub fn only_item<'a>(&self, value: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
        let mut found = self.items(value).filter_map(|item| item.strip_prefix(prefix.as_bytes()));
        let item = found.next()?;
        (found.next().is_none() && !item.is_empty()).then_some(item)
    }
}

/// The signatures that a header holds, decoded: at most [`SIGNATURES_MAX`], the first ones.
pub struct Claimed {
    macs: [[u8; MAC_BYTES]; SIGNATURES_MAX],
    count: usize,
}

impl Claimed {
    /// Items that are not 32 bytes in the profile's encoding are left out. The claimed signature is no secret, so its shape may be
    /// checked quickly.
    pub fn read(profile: &Profile, value: &[u8]) -> Self {
        let mut claimed = Self { macs: [[0; MAC_BYTES]; SIGNATURES_MAX], count: 0 };
        let items = profile.signature.items(value).filter_map(|item| item.strip_prefix(profile.signature.prefix.as_bytes()));
        for (mac, place) in items.filter_map(|item| profile.encoding.decode(item)).zip(&mut claimed.macs) {
            *place = mac;
            claimed.count += 1;
        }
        claimed
    }

    pub fn macs(&self) -> &[[u8; MAC_BYTES]] {
        self.macs.get(..self.count).unwrap_or_default()
    }
}

impl Encoding {
    /// Decodes to exactly 32 bytes, or not at all.
    pub(crate) fn decode(self, text: &[u8]) -> Option<[u8; MAC_BYTES]> {
        let mut bytes = [0; MAC_BYTES];
        match self {
            Self::Hex => hex::decode_to_slice(text, &mut bytes).ok()?,
            Self::Base64 => {
                // The decoder asks for room for whole groups of three.
                let mut room = [0; MAC_BYTES.div_ceil(3) * 3];
                let count = STANDARD.decode_slice(text, &mut room).ok()?;
                bytes = room.get(..count)?.try_into().ok()?;
            }
        }
        Some(bytes)
    }

    pub(crate) fn encode(self, mac: [u8; MAC_BYTES]) -> String {
        match self {
            Self::Hex => hex::encode(mac),
            Self::Base64 => STANDARD.encode(mac),
        }
    }
}

impl Profile {
    /// The header's value with one signature, and the timestamp where it belongs there.
    pub(crate) fn signature_value(&self, mac: [u8; MAC_BYTES], timestamp: &str) -> String {
        let signature = format!("{}{}", self.signature.prefix, self.encoding.encode(mac));
        match (&self.timestamp, self.signature.separator) {
            (TimestampPlace::Item(prefix), Some(separator)) => format!("{prefix}{timestamp}{separator}{signature}"),
            _ => signature,
        }
    }
}
