//! What holds of every text that could be a config: it does not panic, and an error says where, and repeats no value.

use super::super::*;
use super::{CANARY, env, http, parse, sink};
use crate::profile::{Encoding, Part, Path, Place, Profile, SecretForm, SignatureHeader, TimestampPlace, Unit};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Every key of every table, and one that there is not.
const KEYS: [&str; 58] = [
    "database_url",
    "ingest",
    "worker",
    "source",
    "sink",
    "profile",
    "listen",
    "ops_listen",
    "body_max",
    "header_timeout",
    "body_timeout",
    "commit_timeout",
    "connections_max",
    "queue_events",
    "queue_bytes",
    "threads",
    "committers",
    "batch_events",
    "asynchronous_commit",
    "drain_timeout",
    "read_ahead",
    "poll",
    "payloads",
    "deliveries",
    "name",
    "signature_header",
    "timestamp_header",
    "event_id_header",
    "signed",
    "encoding",
    "base",
    "separator",
    "prefix",
    "timestamp",
    "timestamp_unit",
    "secret",
    "event_id",
    "challenge",
    "type",
    "company",
    "user",
    "secrets",
    "company_id",
    "timestamp_window",
    "kind",
    "events",
    "when",
    "concurrency",
    "timeout",
    "order",
    "on_dead",
    "rate",
    "url",
    "headers",
    "allow",
    "signing_secret",
    "path",
    "nonsense",
];

/// Names are repeated in messages, so none of these holds the canary.
const NAMES: [&str; 4] = ["mindtickle", "crm", "a b", "${UNSET}"];

/// Values of every kind, good and bad, some of them secret.
fn any_value() -> impl Strategy<Value = String> {
    let fixed = select(vec![
        "'hunter2'",
        "\"${CANARY}\"",
        "'${UNSET}'",
        "'${hunter2'",
        "'${file:/none}'",
        "['hunter2']",
        "[]",
        "[['hunter2']]",
        "['http', 7]",
        "{}",
        "{ a = 'hunter2' }",
        "{ initial = '2s', cap = '1s' }",
        "{ max_attempts = 0 }",
        "{ failures = 3, rest = 'hunter2' }",
        "true",
        "0",
        "1",
        "-1",
        "0.5",
        "inf",
        "nan",
        "-0.0",
        "1e400",
        "9223372036854775807",
        "-9223372036854775808",
        "0xff",
        "1979-05-27",
        "07:32:00",
        "'null'",
        "'http'",
        "'file'",
        "'key'",
        "'none'",
        "'block'",
        "'hex'",
        "'{timestamp}{body}'",
        "'127.0.0.1:0'",
        "'1s'",
        "'64KiB'",
        "'https://crm.example.com/hunter2'",
        "'postgres://u:hunter2@h/db'",
        "'whsec_hunter2'",
        "''",
        "'\u{e4}'",
        "\"\\u0000\"",
        "'''\n'''",
    ]);
    let numbers = (any::<i64>(), any::<f64>()).prop_flat_map(|(whole, float)| select(vec![whole.to_string(), format!("{float:?}")]));
    prop_oneof![8 => fixed.prop_map(str::to_owned), 1 => numbers, 1 => "[0-9.]{0,6}(ms|s|m|h|d|KiB|MiB)?".prop_map(|text| format!("'{text}'"))]
}

fn any_line() -> impl Strategy<Value = String> {
    let tables = select(vec!["[ingest]", "[worker]", "[[source]]", "[[sink]]", "[[profile]]", "[sink.retry]", "# \u{e4}", ""]);
    prop_oneof![
        2 => tables.prop_map(str::to_owned),
        1 => select(NAMES.to_vec()).prop_map(|name| format!("name = '{name}'")),
        1 => select(vec!["kind = 'http'\nurl = 'https://h'", "kind = 'null'", "secrets = ['hunter2']", "profile = 'mindtickle'"]).prop_map(str::to_owned),
        6 => (select(KEYS.to_vec()).prop_filter("names are shown", |key| *key != "name"), any_value()).prop_map(|(key, value)| format!("{key} = {value}")),
    ]
}

fn any_place() -> impl Strategy<Value = Place> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,9}".prop_map(Place::Header),
        "[a-z\u{e4} _]{1,5}(\\.[a-z]{1,3}){0,3}".prop_filter_map("none is a word", |path| Path::parse(&path)
            .map(Place::Body)
            .filter(|_| path.trim() == path && path != "none")),
    ]
}

/// Any profile that a config could hold.
fn any_profile() -> impl Strategy<Value = Profile> {
    let separator = select(vec![None, Some(','), Some(' '), Some(';')]);
    let timestamp = prop_oneof![
        "[a-z][a-z0-9-]{0,9}".prop_map(TimestampPlace::Header),
        "[A-Z]{1,3}[=:]".prop_map(TimestampPlace::Item),
        Just(TimestampPlace::Nowhere),
    ];
    let signature = ("[a-z][a-z0-9-]{0,9}", separator, "([a-z0-9]{1,5}[=:])?");
    let rest =
        (select(vec![Encoding::Hex, Encoding::Base64]), select(vec![Unit::Magnitude, Unit::Seconds, Unit::Milliseconds]), 1_u64..1_000_000);
    let literal = "[-a-z0-9:.|]{0,4}";
    (signature, timestamp, rest, (literal, literal), [any_place(), any_place(), any_place()]).prop_map(
        |((name, separator, prefix), timestamp, (encoding, timestamp_unit, window_s), (before, between), [event_type, company, user])| {
            let timestamp =
                if separator.is_none() && matches!(timestamp, TimestampPlace::Item(_)) { TimestampPlace::Nowhere } else { timestamp };
            let is_timed = timestamp != TimestampPlace::Nowhere;
            let template = if is_timed { format!("{before}{{timestamp}}{between}{{body}}") } else { format!("{before}{{body}}{between}") };
            Profile {
                name: "own".into(),
                signature: SignatureHeader { name, separator, prefix },
                encoding,
                timestamp,
                timestamp_unit,
                timestamp_window: if is_timed { Duration::from_secs(window_s) } else { Profile::mindtickle().timestamp_window },
                signed: Part::parse_template(&template).unwrap(),
                secret_form: SecretForm::Text,
                event_type,
                company,
                user,
                ..Profile::mindtickle()
            }
        },
    )
}

/// An error tells a place within the text on one line, and no value; what passes shows no secret.
fn judge(text: &str, parsed: Result<Config, ConfigError>) -> Result<(), TestCaseError> {
    match parsed {
        Err(error) => {
            let shown = format!("{error} {error:?}");
            prop_assert!(!shown.contains(CANARY), "{text}\n{shown}");
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
            let ConfigError::Wrong { line, column, .. } = error else { return Err(TestCaseError::fail(format!("{shown} tells no place"))) };
            let lines: Vec<&str> = text.split('\n').collect();
            prop_assert!((1..=lines.len()).contains(&line), "line {line} of {}", lines.len());
            prop_assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "column {column} of {}", lines[line - 1]);
        }
        Ok(config) => {
            for sink in &config.sinks {
                let shown = format!("{:?}", sink.kind);
                prop_assert!(!shown.contains(CANARY) || matches!(sink.kind, SinkKind::File(_)), "{}", shown);
                prop_assert!(
                    sink.policy.max_attempts >= 1 && sink.concurrency >= 1 && sink.policy.backoff.cap >= sink.policy.backoff.initial
                );
            }
            for source in &config.sources {
                prop_assert!(source.secrets.iter().all(|secret| !secret.expose().trim().is_empty()) && !source.secrets.is_empty());
            }
            let shown = format!("{:?} {:?}", config.database_url, config.sources.iter().map(|source| &source.secrets).collect::<Vec<_>>());
            prop_assert!(!shown.contains(CANARY), "{}", shown);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_makes_the_config_panic(text in ".*", value in "[-0-9a-z${}:.\"\\[\\]= é]{0,20}") {
        let _ = parse(&text);
        for key in ["url", "timeout", "rate", "allow", "headers", "retry", "events", "signing_secret"] {
            let _ = parse(&http(&format!("{key} = {value}")));
            let _ = parse(&sink(&format!("kind = \"http\"\n{key} = '{value}'")));
        }
    }

    #[test]
    fn whatever_keys_and_values_meet_a_mistake_has_its_place_and_shows_no_value(lines in vec(any_line(), 0..12)) {
        let text = lines.join("\n");
        judge(&text, parse(&text))?;
    }

    #[test]
    fn any_profile_that_is_written_is_read_back_and_verifies_what_it_signs(profile in any_profile()) {
        let text = super::written(&profile) + &super::source("profile = 'own'\nsecrets = ['a']");
        let read = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(&read.sources[0].profile, &profile);
        let signature = crate::signature::sign(&profile, b"a", "1700000000", b"{}");
        let timestamp = crate::signature::Timestamp::parse("1700000000").unwrap();
        let verifies = crate::signature::verify(&profile, [b"a"], timestamp, b"{}", signature.as_bytes());
        prop_assert!(verifies);
    }

    #[test]
    fn a_good_sink_with_any_one_key_set_to_anything_is_refused_in_its_place_or_taken(key in select(KEYS.to_vec()), value in any_value()) {
        prop_assume!(key != "name");
        for text in [http(&format!("{key} = {value}")), super::source(&format!("secrets = ['a']\n{key} = {value}")), format!("[ingest]\n{key} = {value}")] {
            judge(&text, parse(&text))?;
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_an_error_at_its_place(lines in 0usize..5, indent in " {0,5}", key in "[a-z\u{e4}]{0,5}", name in "[A-Z_][A-Z0-9_]{0,8}") {
        prop_assume!(env(&name).is_none());
        let before = format!("{}{indent}\"{key}\" = ", "# \u{e4}\n".repeat(lines));
        let error = parse(&format!("{before}\"a${{{name}}}\"")).unwrap_err();
        let ConfigError::Wrong { line, column, message, .. } = error else { return Err(TestCaseError::fail("it tells no place")) };
        prop_assert_eq!((line, column), (lines + 1, indent.len() + key.chars().count() + 6));
        prop_assert!(message.contains(&format!("variable {name}, which is not set")), "{}", message);
    }

    #[test]
    fn a_file_of_any_bytes_is_a_config_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let _ = Config::load(Some(file.path()), &env);
    }
}
