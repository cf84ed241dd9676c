//! `[mindtickle]`: who reads it, and what the environment has to say.

use super::{CANARY, Config, ConfigError, Duration, parse};
use crate::config::Part as Of;

const WHOLE: &str = "[mindtickle]\napi_url = \"https://api.example.com/x/\"\ntoken = \"${TOKEN}\"\ncompany_id = \"acme\"\ntimeout = \"2s\"\nwatchdog = \"10m\"\nwebhooks = [\"wh_1\"]\n";

#[test]
fn by_default_it_is_the_described_api_without_a_watchdog() {
    let api = parse("").unwrap().mindtickle;
    assert_eq!((api.api_url.as_str(), api.timeout), ("https://api.mindtickle.com", Duration::from_secs(15)));
    assert!(api.token.is_none() && api.company_id.is_none() && api.watchdog.is_none() && api.webhooks.is_none() && api.allow.is_empty());
}

#[test]
fn the_environment_wins_and_no_token_is_shown() {
    let env = |name: &str| match name {
        "TOKEN" => Some("of-the-file".to_owned()),
        "MINDTICKLE_API_TOKEN" => Some(CANARY.into()),
        "MINDTICKLE_COMPANY_ID" => Some("other".into()),
        _ => None,
    };
    let config = Config::parse(WHOLE, "sluice.toml", &env).unwrap();
    assert!(!format!("{config:?}").contains(CANARY));
    let api = config.mindtickle;
    assert_eq!((api.token.unwrap().expose().as_str(), api.company_id.as_deref()), (CANARY, Some("other")));
    assert_eq!((api.api_url.as_str(), api.watchdog), ("https://api.example.com/x", Some(Duration::from_secs(600))));
    let wrong = |name: &str| (name == "MINDTICKLE_API_TOKEN").then(|| format!("{CANARY}\nx"));
    let error = Config::parse("", "sluice.toml", &wrong).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("MINDTICKLE_API_TOKEN in the environment must be printable") && !error.contains(CANARY), "{error}");
}

#[test]
fn only_who_speaks_to_the_provider_needs_its_token() {
    let none = |_: &str| None;
    let part = |text: &str, part| Config::parse_part(text, "sluice.toml", &none, part).map(drop);
    let unwatched = WHOLE.replace("watchdog = \"10m\"\n", "");
    for (text, of, needs) in [
        (WHOLE, Of::All, true),
        (WHOLE, Of::Worker, true),
        (&unwatched, Of::Worker, false),
        (&unwatched, Of::Provider, true),
        (WHOLE, Of::Ingest, false),
        (WHOLE, Of::Neither, false),
    ] {
        let error = part(text, of).err().map(|error: ConfigError| error.to_string());
        assert_eq!(error.is_some_and(|error| error.contains("TOKEN, which is not set")), needs, "{of:?} {text}");
    }
}
