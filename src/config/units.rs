//! Durations and sizes as people write them. Pure.

use std::time::Duration;

/// Units of a duration and their nanoseconds, the largest first.
const DURATION_UNITS: [(&str, u128); 5] =
    [("d", 86_400_000_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];

/// Units of a size and their bytes.
const SIZE_UNITS: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Parses `26h`, `2.5s`, `500ms`, `1h30m`: numbers with the units d, h, m, s, ms, each at most once and the largest first.
///
/// `None` for anything else, and for what has no unit: a bare number leaves open what it counts.
pub fn duration(text: &str) -> Option<Duration> {
    let mut nanos: u128 = 0;
    let mut units = DURATION_UNITS.as_slice();
    let mut rest = text;
    loop {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("0", after),
        };
        // These many digits are far beyond use, and keep the arithmetic below far from overflow.
        if !(1..=15).contains(&whole.len()) || !(1..=9).contains(&fraction.len()) {
            return None;
        }
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let index = units.iter().position(|(unit, _)| *unit == &after[..unit_end])?;
        let (_, unit_nanos) = units[index];
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        nanos += whole.parse::<u128>().ok()? * unit_nanos + fraction.parse::<u128>().ok()? * unit_nanos / scale;
        units = &units[index + 1..];
        rest = &after[unit_end..];
        if rest.is_empty() {
            return u64::try_from(nanos).ok().map(Duration::from_nanos);
        }
    }
}

/// Writes a duration so that [`duration`] reads it back, exactly.
pub(super) fn show_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let mut text = String::new();
    for (count, unit) in [(seconds / 3600, "h"), (seconds / 60 % 60, "m")] {
        if count > 0 {
            text += &format!("{count}{unit}");
        }
    }
    match (seconds % 60, nanos) {
        (0, 0) if text.is_empty() => text += "0s",
        (0, 0) => {}
        (0, nanos) if nanos % 1_000_000 == 0 => text += &format!("{}ms", nanos / 1_000_000),
        (seconds, 0) => text += &format!("{seconds}s"),
        (seconds, nanos) => text += &format!("{}s", format!("{seconds}.{nanos:09}").trim_end_matches('0')),
    }
    text
}

/// Parses `1048576`, `64KiB`, `1MiB`, `1GiB`: bytes. `None` for anything else, decimal units such as MB among it.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = digits(text);
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Writes a size so that [`size`] reads it back, exactly.
pub(super) fn show_size(bytes: u64) -> String {
    let fits = |(_, unit_bytes): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit_bytes);
    let (unit, unit_bytes) = SIZE_UNITS.iter().rev().find(fits).copied().unwrap_or(("", 1));
    format!("{}{unit}", bytes / unit_bytes)
}

/// Splits after the leading ASCII digits.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in [
            ("26h", 93_600_000),
            ("2.5s", 2_500),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("1d", 86_400_000),
            ("1m0.001s", 60_001),
            ("90m", 5_400_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let long = format!("{}s", "9".repeat(400));
        for text in
            ["", "5", "s", "5 s", "-1s", "+1s", "1.s", ".5s", "1e3s", "1h1h", "30m1h", "1H", "5sec", "1s ", "١s", "999999999999999d", &long]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them_and_nothing_else_is() {
        for (text, bytes) in [("1MiB", 1 << 20), ("64KiB", 1 << 16), ("1048576", 1 << 20), ("0", 0), ("7B", 7), ("2GiB", 2 << 30)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "1MB", "1 MiB", "1.5MiB", "-1", "+1", "1mib", "99999999999999999999", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_duration_survives_being_written_and_read(nanos: u64) {
            let any = Duration::from_nanos(nanos);
            prop_assert_eq!(duration(&show_duration(any)), Some(any));
        }

        #[test]
        fn any_size_survives_being_written_and_read(bytes: u64) {
            prop_assert_eq!(size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".*", near in "[0-9.]{0,30}(d|h|m|s|ms|KiB|GiB|é)?[0-9.]{0,12}(d|h|m|s|ms)?") {
            for text in [&text, &near] {
                duration(text);
                size(text);
            }
        }
    }
}
