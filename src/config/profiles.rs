//! `[[profile]]`: from its keys to a [`Profile`] that can work.

use super::check::{Names, WINDOW, read, wrong};
use super::error::Problem;
use super::raw::{self, Item, Scalar};
use super::values::{self, duration};
use crate::profile::{Encoding, Part, Path, Place, Profile, SecretForm, SignatureHeader, TimestampPlace, Unit};
use serde_spanned::Spanned;

/// The built-in profiles, and those of the config.
pub(super) fn profiles(raw: &[Spanned<raw::Profile>]) -> Result<Vec<Profile>, Problem> {
    let mut profiles = Profile::built_in().to_vec();
    let mut names = Names::new("profile");
    for profile in &profiles {
        names.reserve(&profile.name);
    }
    for entry in raw {
        profiles.push(profile(entry, &mut names)?);
    }
    Ok(profiles)
}

/// What a profile does not say is as in its `base`.
fn profile(entry: &Spanned<raw::Profile>, names: &mut Names) -> Result<Profile, Problem> {
    let raw = entry.get_ref();
    let name = names.take(&raw.name, entry.span())?;
    let base = read(&raw.base, "base", base)?.unwrap_or_else(Profile::mindtickle);
    let encodings = values::one_of(&[("hex", Encoding::Hex), ("base64", Encoding::Base64)]);
    let separators = values::one_of(&[(",", Some(',')), (" ", Some(' ')), (";", Some(';')), ("none", None)]);
    let units = values::one_of(&[("auto", Unit::Magnitude), ("seconds", Unit::Seconds), ("milliseconds", Unit::Milliseconds)]);
    let forms = values::one_of(&[("text", SecretForm::Text), ("base64", SecretForm::Base64)]);
    let profile = Profile {
        name,
        signature: SignatureHeader {
            name: read(&raw.signature_header, "signature_header", values::header_name)?.unwrap_or(base.signature.name),
            separator: read(&raw.separator, "separator", separators)?.unwrap_or(base.signature.separator),
            prefix: read(&raw.prefix, "prefix", prefix)?.unwrap_or(base.signature.prefix),
        },
        encoding: read(&raw.encoding, "encoding", encodings)?.unwrap_or(base.encoding),
        timestamp: of_two(
            (&raw.timestamp_header, "timestamp_header", |value| values::header_name(value).map(TimestampPlace::Header)),
            (&raw.timestamp, "timestamp", timestamp_place),
        )?
        .unwrap_or(base.timestamp),
        timestamp_unit: read(&raw.timestamp_unit, "timestamp_unit", units)?.unwrap_or(base.timestamp_unit),
        timestamp_window: read(&raw.timestamp_window, "timestamp_window", duration(WINDOW))?.unwrap_or(base.timestamp_window),
        signed: read(&raw.signed, "signed", signed)?.unwrap_or(base.signed),
        secret_form: read(&raw.secret, "secret", forms)?.unwrap_or(base.secret_form),
        event_id: of_two(
            (&raw.event_id_header, "event_id_header", |value| values::header_name(value).map(Place::Header)),
            (&raw.event_id, "event_id", place),
        )?
        .unwrap_or(base.event_id),
        event_type: read(&raw.r#type, "type", type_place)?.unwrap_or(base.event_type),
        company: read(&raw.company, "company", place)?.unwrap_or(base.company),
        user: read(&raw.user, "user", place)?.unwrap_or(base.user),
        challenge: read(&raw.challenge, "challenge", |value| path(&values::text(value)?))?.or(base.challenge),
    };
    fits_together(entry, &profile)?;
    Ok(profile)
}

/// Finds what could never verify, or never say when.
fn fits_together(entry: &Spanned<raw::Profile>, profile: &Profile) -> Result<(), Problem> {
    let raw = entry.get_ref();
    // At the first of these keys that is there: what the base says cannot be wrong.
    let at = |keys: &[&Option<Item>], message: &str| {
        let item = keys.iter().find_map(|item| item.as_ref());
        Problem::new(item.map_or_else(|| entry.span(), Spanned::span), message)
    };
    let (signs_time, signs_id) = (profile.signed.contains(&Part::Timestamp), profile.signed.contains(&Part::EventId));
    if signs_time && profile.timestamp == TimestampPlace::Nowhere {
        let message = "`signed` must not hold `{timestamp}` where `timestamp` is \"none\": write what is signed, such as \"{body}\"";
        return Err(at(&[&raw.signed, &raw.timestamp], message));
    }
    if signs_id && profile.event_id.header().is_none() {
        let message = "`signed` must not hold `{event_id}` where no header has it: name it in `event_id_header`";
        return Err(at(&[&raw.signed, &raw.event_id], message));
    }
    match (&profile.timestamp, profile.signature.separator) {
        (TimestampPlace::Item(_), None) => {
            let message = "`timestamp` must not be an item where the signature's header has one alone: add `separator`, such as \",\"";
            return Err(at(&[&raw.timestamp], message));
        }
        (TimestampPlace::Item(item), Some(separator)) if item.contains(separator) || *item == profile.signature.prefix => {
            let message = "`timestamp` must be told from the signatures, and not hold the `separator`: correct one of them";
            return Err(at(&[&raw.timestamp, &raw.separator, &raw.prefix], message));
        }
        _ => {}
    }
    if profile.signature.separator.is_some_and(|separator| profile.signature.prefix.contains(separator)) {
        return Err(at(&[&raw.prefix, &raw.separator], "`prefix` must not hold the `separator`: it would never be found"));
    }
    if profile.timestamp == TimestampPlace::Nowhere && raw.timestamp_window.is_some() {
        return Err(at(&[&raw.timestamp_window], "`timestamp_window` must be left out where `timestamp` is \"none\""));
    }
    Ok(())
}

fn base(value: &Scalar) -> Result<Profile, String> {
    let wanted = values::text(value)?;
    let known = || Profile::built_in().map(|profile| format!("\"{}\"", profile.name)).join(" or ");
    Profile::built_in().into_iter().find(|profile| profile.name == wanted).ok_or_else(|| format!("must be {}", known()))
}

fn prefix(value: &Scalar) -> Result<String, String> {
    let text = values::text(value)?;
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    printable.then_some(text).ok_or_else(|| "must be printable ASCII without spaces, such as \"sha256=\"".into())
}

fn signed(value: &Scalar) -> Result<Vec<Part>, String> {
    let wrong = |problem| format!("{problem}: write what is signed, such as \"{{timestamp}}:{{body}}\"");
    Part::parse_template(&values::text(value)?).map_err(wrong)
}

fn path(text: &str) -> Result<Path, String> {
    Path::parse(text).ok_or_else(|| "must be object keys joined by dots, such as \"data.userId\"".into())
}

/// `none`, `header:NAME` or a path into the payload.
fn place(value: &Scalar) -> Result<Place, String> {
    match values::text(value)?.as_str() {
        "none" => Ok(Place::Nowhere),
        text => match text.strip_prefix("header:") {
            Some(name) => values::header_name(&Scalar::Text(name.trim().to_owned())).map(Place::Header),
            None => path(text).map(Place::Body),
        },
    }
}

/// The same, but somewhere: an event without a type is quarantined.
fn type_place(value: &Scalar) -> Result<Place, String> {
    let place = place(value)?;
    let message = "must not be \"none\": every event without a type is quarantined";
    (place != Place::Nowhere).then_some(place).ok_or_else(|| message.into())
}

/// `none`, `header:NAME` or `item:PREFIX`.
fn timestamp_place(value: &Scalar) -> Result<TimestampPlace, String> {
    let text = values::text(value)?;
    match text.split_once(':') {
        None if text == "none" => Ok(TimestampPlace::Nowhere),
        Some(("header", name)) => values::header_name(&Scalar::Text(name.trim().to_owned())).map(TimestampPlace::Header),
        Some(("item", item)) => prefix(&Scalar::Text(item.to_owned())).map(TimestampPlace::Item),
        _ => Err("must be \"header:NAME\", \"item:PREFIX\" such as \"item:t=\", or \"none\"".into()),
    }
}

/// A key, its name, and how it is read.
type Key<'a, T> = (&'a Option<Item>, &'static str, fn(&Scalar) -> Result<T, String>);

/// Two keys that say the same, of which one at most is there.
fn of_two<T>(short: Key<'_, T>, long: Key<'_, T>) -> Result<Option<T>, Problem> {
    let read = |(item, name, parse): Key<'_, T>| read(item, name, parse);
    if short.0.is_some() && long.0.is_some() {
        return Err(wrong(long.0, &format!("`{}` must be left out where `{}` is there: they say the same", long.1, short.1)));
    }
    Ok(match read(short)? {
        Some(value) => Some(value),
        None => read(long)?,
    })
}
