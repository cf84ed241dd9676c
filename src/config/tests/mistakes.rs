//! Each mistake is told at its line and column, says what to do, and repeats no value.

use super::{CANARY, http, parse, profile, sink, source};

/// Parses a config with a mistake that is marked by `‸`, and returns the message about it.
pub(super) fn mistake(marked: &str) -> String {
    let (before, after) = marked.split_once('‸').expect("the mistake is marked");
    let here = format!("sluice.toml:{}:{}: ", before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap().chars().count() + 1);
    let error = parse(&format!("{before}{after}")).map(drop).expect_err(marked);
    let (shown, debug) = (error.to_string(), format!("{error:?}"));
    assert!(!shown.contains(CANARY) && !debug.contains(CANARY), "{shown}");
    assert!(!shown.contains('\n'), "{shown}");
    let message = shown.strip_prefix(&here);
    message.unwrap_or_else(|| panic!("{marked}\nis wrong at {here}, but: {shown}")).to_owned()
}

#[test]
fn a_mistake_of_shape_is_an_error_at_its_place_and_repeats_no_value() {
    for (marked, says) in [
        ("# ä\ndatabase_url = ‸hunter2", "not TOML"),
        ("database_url = \"hunter2‸", "not TOML"),
        ("database_url = \"postgres://\"\n‸database_url = \"hunter2\"", "duplicate key"),
        ("‸sinks = \"hunter2\"", "unknown key `sinks`, expected one of"),
        ("[ingest]\n‸body_bytes = 1", "unknown key `body_bytes`"),
        ("[worker]\n‸ä = 1", "not TOML"),
        ("[mindtickle]\nwatchdog = ‸\"10m\"", "`watchdog` needs a token: set MINDTICKLE_API_TOKEN"),
        ("[mindtickle]\ntoken = \"t\"\nwebhooks = [‸\"../x\"]", "each of `webhooks` must be a webhook's id"),
        ("[mindtickle]\napi_url = ‸\"https://api.example.com?x=1\"", "must not have a `?…`"),
        (&http("‸retrys = { cap = \"hunter2\" }"), "unknown key `retrys`"),
        (&http("retry = { initial = \"1s\", ‸max = \"hunter2\" }"), "unknown key `max`, expected one of `max_attempts`"),
        (&source("‸secret = \"hunter2\""), "unknown key `secret`"),
        (&source("secrets = ‸\"hunter2\""), "must be a list"),
        (&source("secrets = ‸\"hunter2, expected x\""), "must be a list"),
        (&source("secrets = [‸[\"hunter2\"]]"), "must be a text in quotes or a number"),
        (&http("retry = ‸\"hunter2\""), "must be a table such as { max_attempts"),
        (&http("headers = ‸\"hunter2\""), "must be a table"),
        (&http("timeout = ‸true"), "must be a text in quotes or a number"),
        ("‸[sink]\nname = \"x\"", "[[sink]]"),
        ("ingest = ‸\"hunter2\"", "[ingest]"),
        (&http("concurrency = ‸9223372036854775808"), "must be a text in quotes or a number"),
        (&http("signing_secret = ‸\"${UNSET}\""), "UNSET, which is not set"),
        (&source("secrets = [\"a\",\n  ‸\"hunter2${\"]"), "$${"),
        (&http("headers = { a = ‸\"${file:/none/such}\" }"), "/none/such"),
    ] {
        let message = mistake(marked);
        assert!(message.contains(says), "{marked}\n{message}");
    }
}

#[test]
fn a_wrong_value_is_an_error_at_its_place_and_is_not_repeated() {
    for (marked, says) in [
        ("database_url = ‸\"mysql://u:hunter2@h/db\"", "`database_url` must be a URL such as"),
        ("[ingest]\nlisten = ‸\"hunter2:8080\"", "`listen` must be an IP address"),
        ("[ingest]\nops_listen = ‸\"127.0.0.1:8080\"", "must differ from `listen`"),
        ("[ingest]\nbody_max = ‸\"1MB\"", "`body_max` must be a size"),
        ("[ingest]\nbody_max = ‸0", "from 1B to 64MiB"),
        ("[ingest]\nqueue_bytes = ‸\"1023KiB\"", "at least `body_max`"),
        ("[ingest]\ncommitters = ‸0", "from 1 to 64"),
        ("[retention]\npayloads = ‸\"1m\"", "from 1h to 876000h"),
        ("[retention]\ndeliveries = \"30d\"\npayloads = ‸\"31d\"", "must not be longer than `deliveries`"),
        ("[ingest]\ncommitters = ‸1.0", "a whole number"),
        ("[worker]\npoll = ‸\"0s\"", "from 1ms to 1m"),
        ("[worker]\npoll = ‸1", "`poll` must be a duration such as"),
        (&source("secrets = ‸[]"), "must not be an empty list"),
        (&source("secrets = [\"ä\", ‸\"\"]"), "each of `secrets` must not be empty"),
        (&source("secrets = [\"a\", ‸\"${EMPTY}\"]"), "each of `secrets` must not be empty"),
        (&source("secrets = [‸5]"), "must be a text in quotes"),
        ("‸[[source]]\nname = \"mindtickle\"", "`secrets` of this source is missing"),
        ("‸[[source]]\nsecrets = [\"hunter2\"]", "`name` of this source is missing"),
        ("[[source]]\nname = ‸\"a/b\"\nsecrets = [\"hunter2\"]", "`name` must be 1 to 63"),
        (&source("secrets = [\"a\"]\nprofile = ‸\"hunter2\""), "`profile` must be \"mindtickle\" or \"standard-webhooks\" or"),
        (&source("secrets = [\"a\"]\ncompany_id = ‸\" \""), "`company_id` must not be empty"),
        ("[[profile]]\nname = ‸\"mindtickle\"", "is taken"),
        (&profile("signed = ‸\"{timestamp}\""), "must hold `{body}` once"),
        (&profile("signed = ‸\"{id}{body}\""), "braces"),
        (&profile("encoding = ‸\"hunter2\""), "must be \"hex\" or \"base64\""),
        (&profile("user = ‸\"a..b\""), "joined by dots"),
        (&profile("signature_header = ‸\"x sig\""), "name of an HTTP header"),
        ("[[profile]]\nname = ‸\"stripe\"", "is taken"),
        (&profile("base = ‸\"hunter2\""), "`base` must be \"mindtickle\" or \"standard-webhooks\""),
        (&profile("separator = ‸\"hunter2\""), "must be \",\" or \" \" or \";\" or \"none\""),
        (&profile("prefix = ‸\"v0 =\""), "printable ASCII without spaces"),
        (&profile("prefix = ‸\"v1,\"\nseparator = \",\""), "must not hold the `separator`"),
        (&profile("timestamp = ‸\"hunter2\""), "\"item:PREFIX\""),
        (&profile("timestamp = ‸\"header:x sig\""), "name of an HTTP header"),
        (&profile("timestamp = ‸\"item:t=\""), "add `separator`"),
        (&profile("timestamp = ‸\"item:t=\"\nseparator = \",\"\nprefix = \"t=\""), "must be told from the signatures"),
        (&profile("timestamp = ‸\"none\""), "must not hold `{timestamp}`"),
        (&profile("timestamp = \"none\"\nsigned = ‸\"{timestamp}{body}\""), "must not hold `{timestamp}`"),
        (&profile("timestamp = \"none\"\nsigned = \"{body}\"\ntimestamp_window = ‸\"1h\""), "must be left out"),
        (&profile("timestamp_header = \"x\"\ntimestamp = ‸\"none\""), "must be left out where `timestamp_header`"),
        (&profile("timestamp_unit = ‸\"hunter2\""), "must be \"auto\" or \"seconds\" or \"milliseconds\""),
        (&profile("timestamp_window = ‸\"0s\""), "from 1ms"),
        (&profile("signed = ‸\"{event_id}{body}\"\nevent_id = \"id\""), "name it in `event_id_header`"),
        (&profile("event_id_header = \"x\"\nevent_id = ‸\"id\""), "must be left out where `event_id_header`"),
        (&profile("type = ‸\"none\""), "every event without a type is quarantined"),
        (&profile("company = ‸\"header:\""), "must not be empty"),
        (&profile("secret = ‸\"hunter2\""), "must be \"text\" or \"base64\""),
        (&profile("challenge = ‸\"a..b\""), "joined by dots"),
        (&source("profile = \"standard-webhooks\"\nsecrets = [\"aGk=\", ‸\"hunter2!\"]"), "must be base64"),
        (&source("profile = \"github\"\nsecrets = [\"a\"]\ntimestamp_window = ‸\"1h\""), "carry no timestamp"),
    ] {
        let message = mistake(marked);
        assert!(message.contains(says), "{marked}\n{message}");
    }
}

#[test]
fn a_wrong_value_of_a_sink_is_an_error_at_its_place_and_is_not_repeated() {
    for (marked, says) in [
        (sink("kind = \"null\"") + "[[sink]]\nname = ‸\"crm\"", "\"crm\" is taken"),
        ("‸[[sink]]\nname = \"crm\"".into(), "`kind` of this sink is missing"),
        ("‸[[sink]]\nname = \"crm\"\nkind = \"http\"".into(), "`url` of this sink is missing"),
        ("‸[[sink]]\nname = \"crm\"\nkind = \"file\"".into(), "`path` of this sink is missing"),
        (sink("kind = ‸\"hunter2\""), "`kind` must be \"http\" or \"file\" or \"slack\" or \"teams\""),
        (http("path = ‸\"hunter2\""), "`path` is a key of kind = \"file\" alone"),
        (sink("kind = \"null\"\nurl = ‸\"hunter2\""), "`url` is a key of kind = \"http\" or \"slack\" or \"teams\" or "),
        (sink("kind = \"file\"\npath = \"x\"\nheaders = ‸{ a = \"hunter2\" }"), "`headers` is a key of kind"),
        (http("when = ‸\"event.data.score hunter2\""), "column 18 on"),
        (http("events = ‸[]"), "must not be an empty list"),
        (http("events = [‸\"a\\u0000\"]"), "must be an event type"),
        (http("concurrency = ‸0"), "from 1 to 10000"),
        (http("concurrency = ‸-1"), "from 1 to 10000"),
        (http("concurrency = ‸\"${CANARY}\""), "from 1 to 10000"),
        (http("rate = ‸0"), "above 0"),
        (http("rate = ‸-0.5"), "above 0"),
        (http("rate = ‸nan"), "above 0"),
        (http("rate = ‸inf"), "above 0"),
        (http("timeout = ‸\"8 s\""), "`timeout` must be a duration"),
        (http("timeout = ‸\"0s\""), "from 1ms to 1h"),
        (http("order = ‸\"fifo\""), "must be \"key\" or \"none\""),
        (http("on_dead = ‸\"stop\""), "must be \"continue\" or \"block\""),
        (http("order = \"none\"\non_dead = ‸\"block\""), "must not be \"block\""),
        (http("retry = { max_attempts = ‸0 }"), "`max_attempts` must be"),
        (http("retry = { factor = ‸0.5 }"), "from 1 to 100"),
        (http("retry = { initial = ‸\"2h\" }"), "`cap` of `retry`"),
        (http("retry = { initial = \"2s\", cap = ‸\"1s\" }"), "`cap` of `retry`"),
        (http("breaker = { rest = ‸\"31s\" }"), "`cap` of `breaker`"),
        (http("breaker = { failures = ‸0 }"), "`failures` must be"),
        (http("allow = [‸\"10.0.0.1\"]"), "must be a network such as"),
        (http("signing_secret = ‸\"whsec_hunter2!\""), "base64 after `whsec_`"),
        (http("signing_secret = ‸\"whsec_\""), "base64 after `whsec_`"),
        (http("headers = { ‸\"a b\" = \"hunter2\" }"), "name of an HTTP header"),
        (http("headers = { ‸Idempotency-Key = \"hunter2\" }"), "none that Sluice sets"),
        (http("headers = { X-A = \"hunter2\", ‸x-a = \"hunter2\" }"), "given once"),
        (http("headers = { x-a = ‸\"${MULTILINE}\" }"), "printable ASCII"),
    ] {
        let message = mistake(&marked);
        assert!(message.contains(says), "{marked}\n{message}");
    }
}

#[test]
fn an_http_sink_takes_a_url_that_can_be_reached_and_holds_no_password() {
    let sink = |url: &str| sink(&format!("kind = \"http\"\nurl = ‸\"{url}\""));
    for url in ["http://127.0.0.1:9900/hook", "https://h", "http://[::1]:80/?a=b", "HTTPS://h/x"] {
        assert!(parse(&sink(url).replace('‸', "")).is_ok(), "{url}");
    }
    for url in [
        "hunter2",
        "/hunter2",
        "ftp://h/hunter2",
        "http://",
        "http:///x",
        "http://h:0/",
        "http://h:99999/",
        "http://h:x/",
        "h:80",
        "http://h h/",
    ] {
        assert!(mistake(&sink(url)).contains("must be an http or https URL"), "{url}");
    }
    assert!(mistake(&sink("http://u:hunter2@h/")).contains("user or password"));
    assert!(mistake(&sink("http://h/#hunter2")).contains('#'));
}
