//! `Retry-After` (RFC 9110, 10.2.3): how long a sink asks us to wait. Pure.

use chrono::{DateTime, Utc};
use std::time::Duration;

/// Longer wishes are cut to this, so that no one who adds them to a time overflows. The sink's own limit is far lower.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads seconds or an HTTP date relative to `now`. A date that has passed is no wait; `None`: it is neither.
pub fn parse(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return None;
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // All digits, so the only way to fail is a number that is too large.
        return Some(value.parse().map_or(WAIT_MAX, Duration::from_secs).min(WAIT_MAX));
    }
    let date = DateTime::<Utc>::from(httpdate::parse_http_date(value).ok()?);
    Some((date - now).to_std().unwrap_or(Duration::ZERO).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;
    use proptest::prelude::*;

    fn now() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 20, 10, 0, 0).unwrap()
    }

    #[test]
    fn seconds_and_all_three_forms_of_a_date_are_understood() {
        for (value, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 120 ", 120),
            ("00007", 7),
            ("Fri, 20 Nov 2026 10:02:00 GMT", 120),
            ("Friday, 20-Nov-26 10:02:00 GMT", 120),
            ("Fri Nov 20 10:02:00 2026", 120),
        ] {
            assert_eq!(parse(value, now()), Some(Duration::from_secs(seconds)), "{value}");
        }
    }

    #[test]
    fn a_date_that_has_passed_is_no_wait() {
        for value in ["Fri, 20 Nov 2026 10:00:00 GMT", "Fri, 20 Nov 2026 09:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(parse(value, now()), Some(Duration::ZERO), "{value}");
        }
    }

    #[test]
    fn a_huge_wait_is_cut() {
        for value in ["99999999999", "18446744073709551616", &"9".repeat(5000), "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(parse(value, now()), Some(WAIT_MAX), "{value}");
        }
    }

    #[test]
    fn junk_is_no_wish() {
        for value in
            ["", " ", "soon", "-1", "+1", "1.5", "1e3", "0x10", "1 2", "\u{0661}", "2026-11-20T10:02:00Z", "Fri, 32 Nov 2026 10:02:00 GMT"]
        {
            assert_eq!(parse(value, now()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_sink_can_send_panics_or_passes_the_limit(
            value in "[0-9]{1,30}|[A-Za-z]{3,9},? [0-9]{1,2}[ -][A-Z][a-z]{2}[ -][0-9]{2,5} [0-9]{2}:[0-9]{2}:[0-9]{2} ?(GMT)?|.{0,60}",
            at in 0i64..4_000_000_000,
        ) {
            let now = Utc.timestamp_opt(at, 0).unwrap();
            prop_assert!(parse(&value, now).is_none_or(|wait| wait <= WAIT_MAX));
        }

        #[test]
        fn seconds_are_as_long_as_they_say_up_to_the_limit(seconds: u64, zeros in "0{0,5}", blanks in "[ \t]{0,3}") {
            let expected = Duration::from_secs(seconds).min(WAIT_MAX);
            prop_assert_eq!(parse(&format!("{blanks}{zeros}{seconds}{blanks}"), now()), Some(expected));
        }

        #[test]
        fn a_date_in_any_of_its_forms_is_as_far_as_it_says(at in 0i64..2_000_000_000, wait in 0i64..31_000_000) {
            let (now, date) = (Utc.timestamp_opt(at, 0).unwrap(), Utc.timestamp_opt(at + wait, 0).unwrap());
            for form in ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"] {
                let value = date.format(form).to_string();
                prop_assert_eq!(parse(&value, now), Some(Duration::from_secs(wait as u64)), "{}", value);
                prop_assert_eq!(parse(&value, date), Some(Duration::ZERO));
            }
        }
    }
}
