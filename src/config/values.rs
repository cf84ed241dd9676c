//! What a single value of the config may be. Each parser's error ends a sentence that begins with the key, says what the key
//! wants, and repeats nothing of what it got.

use super::Secret;
use super::raw::Scalar;
use super::units;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// A text that is not blank.
pub(super) fn text(value: &Scalar) -> Result<String, String> {
    match value {
        Scalar::Text(text) if text.trim().is_empty() => Err("must not be empty: give it a value, or leave the key out".into()),
        Scalar::Text(text) => Ok(text.clone()),
        _ => Err("must be a text in quotes".into()),
    }
}

/// The name of a source, a sink or a profile: it goes into routes, metrics and SQL.
pub(super) fn name(value: &Scalar) -> Result<String, String> {
    let name = text(value)?;
    let valid = name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    valid.then_some(name).ok_or_else(|| "must be 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit".into())
}

/// A whole number in `range`.
pub(super) fn count<T>(range: RangeInclusive<T>) -> impl Fn(&Scalar) -> Result<T, String>
where
    T: FromStr + TryFrom<i64> + PartialOrd + Display,
{
    move |value| {
        let number = match value {
            Scalar::Integer(number) => T::try_from(*number).ok(),
            Scalar::Text(text) => text.parse().ok(),
            Scalar::Float(_) => None,
        };
        let wanted = || format!("must be a whole number from {} to {}", range.start(), range.end());
        number.filter(|number| range.contains(number)).ok_or_else(wanted)
    }
}

/// A number of which `valid` holds; `wanted` says so in words.
pub(super) fn number(wanted: &'static str, valid: impl Fn(f64) -> bool) -> impl Fn(&Scalar) -> Result<f64, String> {
    move |value| {
        let number = match value {
            // Exact up to 2^53, and no key takes more.
            Scalar::Integer(number) => Some(*number as f64),
            Scalar::Float(number) => Some(*number),
            Scalar::Text(text) => text.parse().ok(),
        };
        number.filter(|number| number.is_finite() && valid(*number)).ok_or_else(|| format!("must be {wanted}"))
    }
}

/// Bytes, in `range`.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&Scalar) -> Result<usize, String> {
    move |value| {
        let bytes = match value {
            Scalar::Integer(bytes) => usize::try_from(*bytes).ok(),
            Scalar::Text(text) => units::size(text).and_then(|bytes| usize::try_from(bytes).ok()),
            Scalar::Float(_) => None,
        };
        let wanted = || {
            let (least, most) = (units::show_size(*range.start() as u64), units::show_size(*range.end() as u64));
            format!("must be a size in bytes, such as \"64KiB\", \"1MiB\" or 1048576, from {least} to {most}")
        };
        bytes.filter(|bytes| range.contains(bytes)).ok_or_else(wanted)
    }
}

/// A duration in `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Scalar) -> Result<Duration, String> {
    move |value| {
        let duration = match value {
            Scalar::Text(text) => units::duration(text),
            // What would it count? Seconds, milliseconds?
            Scalar::Integer(_) | Scalar::Float(_) => None,
        };
        let wanted = || {
            let (least, most) = (units::show_duration(*range.start()), units::show_duration(*range.end()));
            format!("must be a duration such as \"500ms\", \"2.5s\", \"1h30m\" or \"26h\", from {least} to {most}")
        };
        duration.filter(|duration| range.contains(duration)).ok_or_else(wanted)
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Scalar) -> Result<T, String> {
    move |value| {
        let found = words.iter().find(|(word, _)| matches!(value, Scalar::Text(text) if text == word));
        let wanted = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        found.map(|(_, meaning)| *meaning).ok_or_else(|| format!("must be {}", wanted()))
    }
}

/// An address to listen at.
pub(super) fn address(value: &Scalar) -> Result<SocketAddr, String> {
    text(value)?.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:8080\"".into())
}

/// A range of addresses.
pub(super) fn network(value: &Scalar) -> Result<IpNet, String> {
    text(value)?.parse().map_err(|_| "must be a network such as \"10.0.0.0/8\", or \"10.1.2.3/32\" for one address".into())
}

/// A header's name, in lower case.
pub(super) fn header_name(value: &Scalar) -> Result<String, String> {
    let wanted = "must be the name of an HTTP header: letters, digits and `-`";
    Ok(HeaderName::from_bytes(text(value)?.as_bytes()).map_err(|_| wanted)?.as_str().to_owned())
}

/// A header's value.
pub(super) fn header_value(value: &Scalar) -> Result<Secret<String>, String> {
    let text = text(value)?;
    HeaderValue::from_str(&text).map_err(|_| "must be printable ASCII, on one line: that is all an HTTP header can hold")?;
    Ok(Secret::new(text))
}

/// Where an HTTP sink is reached. What it says may be secret as a whole: chat services put their token into the path.
pub(super) fn http_url(value: &Scalar) -> Result<Secret<String>, String> {
    let text = text(value)?;
    let wanted = "must be an http or https URL with a host, such as \"https://crm.example.com/hook\"";
    let uri: Uri = text.parse().map_err(|_| wanted)?;
    let authority = uri.authority().ok_or(wanted)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wanted.into());
    }
    if authority.as_str().contains('@') {
        return Err("must not hold a user or password: send them with `headers = { authorization = \"…\" }`".into());
    }
    if text.contains('#') {
        return Err("must not have a `#…` at its end: it would not be sent".into());
    }
    // The parser lets a port pass that is none.
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    let port_valid = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if authority.host().is_empty() || !port_valid {
        return Err(wanted.into());
    }
    Ok(Secret::new(text))
}

/// Where Postgres is reached. What comes after the scheme is left to the driver, which knows more of it.
pub(super) fn database_url(value: &Scalar) -> Result<Secret<String>, String> {
    let text = text(value)?;
    let known = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
    known.then(|| Secret::new(text)).ok_or_else(|| "must be a URL such as \"postgres://user:password@host:5432/database\"".into())
}

/// A secret to sign with: as it is, or `whsec_` and its base64, the way Standard Webhooks hands them out.
pub(super) fn signing_secret(value: &Scalar) -> Result<Secret<Vec<u8>>, String> {
    let text = text(value)?;
    let Some(encoded) = text.strip_prefix("whsec_") else { return Ok(Secret::new(text.into_bytes())) };
    let bytes = STANDARD.decode(encoded).ok().filter(|bytes| !bytes.is_empty());
    bytes.map(Secret::new).ok_or_else(|| "must have base64 after `whsec_`: copy it again, whole".into())
}
