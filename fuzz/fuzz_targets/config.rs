//! Any text as a config: it is one, or an error at a place within it that shows no value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::config::{Config, ConfigError, parse_duration};
use sluice::profile::{Part, Path};

/// What the environment holds: the text cannot know it, so where it shows it was put in.
const CANARY: &str = "hunter2-of-the-environment";

fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some(CANARY.into()),
        "URL" => Some(format!("http://h/{CANARY}")),
        "EMPTY" => Some(String::new()),
        "NUMBER" => Some("7".into()),
        _ => None,
    }
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = (Part::parse_template(text), Path::parse(text), parse_duration(text));
    // It would be read, and some files never end.
    if text.contains("file:") {
        return;
    }
    match Config::parse(text, "fuzz.toml", &env) {
        Ok(config) => check(&config),
        Err(error) => {
            let message = error.to_string();
            // Names are no secrets, and are repeated.
            assert!(text.contains("name") || !format!("{message}{error:?}").contains(CANARY), "{message}");
            assert!(!message.contains('\n'), "{message}");
            let ConfigError::Wrong { line, column, .. } = error else { panic!("it tells no place: {message}") };
            let line = text.split('\n').nth(line - 1).expect("a line of the text");
            assert!((1..=line.chars().count() + 1).contains(&column), "{message}");
        }
    }
});

/// What gets past the parser cannot be wrong.
fn check(config: &Config) {
    assert!(config.ingest.queue_bytes_max >= config.ingest.body_bytes_max && config.ingest.committers >= 1);
    for source in &config.sources {
        assert!(!source.secrets.is_empty() && source.secrets.iter().all(|secret| !secret.expose().trim().is_empty()));
        assert_eq!(source.profile.signed.iter().filter(|part| **part == Part::Body).count(), 1);
    }
    for sink in &config.sinks {
        assert!(sink.concurrency >= 1 && sink.policy.max_attempts >= 1 && !sink.timeout.is_zero());
        assert!(sink.policy.backoff.initial <= sink.policy.backoff.cap && sink.breaker.rest <= sink.breaker.cap);
        assert!(sink.policy.backoff.delay(u32::MAX, 1.0) <= sink.policy.backoff.cap);
    }
    assert!(
        !format!("{:?}", (&config.database_url, config.sources.iter().map(|source| &source.secrets).collect::<Vec<_>>())).contains(CANARY)
    );
}
