//! The config as its users meet it: through [`Config::load`] and [`Config::parse`].

mod mistakes;
mod properties;
mod provider;
mod salesforce;

use super::*;
use crate::profile::{Encoding, Part, Place, Profile, SecretForm, SignatureHeader, TimestampPlace, Unit};

/// Must never show in an error or a `Debug`, wherever it stands.
const CANARY: &str = "hunter2";

fn env(name: &str) -> Option<String> {
    match name {
        "MINDTICKLE_WEBHOOK_SECRET" | "CANARY" => Some(CANARY.into()),
        "CRM_TOKEN" | "CRM_SIGNING_SECRET" | "MULTILINE" => Some(format!("{CANARY}\"]\n[[sink]]\nname = \"injected\"")),
        "CONCURRENCY" => Some("7".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "sluice.toml", &env)
}

/// A config with one sink, of these keys.
fn sink(keys: &str) -> String {
    format!("[[sink]]\nname = \"crm\"\n{keys}\n")
}

fn http(keys: &str) -> String {
    sink(&format!("kind = \"http\"\nurl = \"https://crm.example.com/hook\"\n{keys}"))
}

fn source(keys: &str) -> String {
    format!("[[source]]\nname = \"mindtickle\"\n{keys}\n")
}

fn profile(keys: &str) -> String {
    format!("[[profile]]\nname = \"other\"\n{keys}\n")
}

#[test]
fn the_sample_works_once_the_webhook_secret_is_set_and_so_does_what_it_comments_out() {
    let sample = include_str!("../../sluice.toml");
    let config = parse(sample).unwrap();
    assert_eq!((config.sources.len(), config.sinks.len()), (1, 1));
    assert_eq!(config.sources[0].secrets, [Secret::new(CANARY.to_string())]);
    assert!(matches!(Config::parse(sample, "sluice.toml", &|_| None), Err(ConfigError::Wrong { .. })));

    let uncommented = |line: &str| match line.strip_prefix("# ") {
        Some(key) if key.starts_with("[[") || key.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => key.to_owned() + "\n",
        _ => line.to_owned() + "\n",
    };
    let whole: String = sample.lines().filter(|line| !line.contains("database_url")).map(uncommented).collect();
    let env = |name: &str| (name != "DATABASE_URL").then(|| name.to_lowercase());
    let config = Config::parse(&whole, "sluice.toml", &env).unwrap();
    assert_eq!((config.sources.len(), config.sinks.len()), (1, 2));
    assert_eq!(config.sources[0].company_id.as_deref(), Some("acme"));
}

#[test]
fn an_empty_config_is_valid_and_has_the_documented_defaults() {
    let config = parse("").unwrap();
    assert!(config.database_url.is_none() && config.sources.is_empty() && config.sinks.is_empty());
    let ingest = config.ingest;
    assert_eq!(ingest.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!((ingest.ops_listen, ingest.body_bytes_max, ingest.connections_max), (None, 1 << 20, 8192));
    assert_eq!((ingest.header_timeout, ingest.body_timeout), (Duration::from_secs(10), Duration::from_secs(10)));
    assert_eq!((ingest.commit_timeout, ingest.drain_timeout), (Duration::from_millis(2500), Duration::from_secs(20)));
    assert_eq!((ingest.queue_events_max, ingest.queue_bytes_max, ingest.committers, ingest.batch_events_max), (8192, 64 << 20, 1, 1000));
    assert_eq!(ingest.threads, 1);
    let worker = config.worker;
    assert_eq!((worker.ops_listen, worker.drain_timeout), (None, Duration::from_secs(20)));
    assert_eq!((worker.read_ahead, worker.poll), (4000, Duration::from_secs(1)));
    assert_eq!(config.retention, Retention::default(), "nothing is ever dropped");

    let source = &parse(&source("secrets = [\"s\"]")).unwrap().sources[0];
    assert_eq!((&source.profile, &source.company_id), (&Profile::mindtickle(), &None));
    assert_eq!(source.timestamp_window, Duration::from_secs(26 * 3600));

    let sink = &parse(&sink("kind = \"null\"")).unwrap().sinks[0];
    assert_eq!((&*sink.name, sink.kind.name(), &sink.events), ("crm", "null", &None));
    assert_eq!((sink.concurrency, sink.timeout, sink.rate_per_second), (32, Duration::from_secs(8), None));
    assert!(sink.ordered && !sink.on_dead_block && sink.when.is_none());
    assert_eq!((sink.policy.max_attempts, sink.policy.backoff.factor), (12, 3.0));
    assert_eq!((sink.policy.backoff.initial, sink.policy.backoff.cap), (Duration::from_secs(2), Duration::from_secs(3600)));
    assert_eq!(sink.breaker, Breaker { failures: 5, rest: Duration::from_secs(1), cap: Duration::from_secs(30) });
    let email = "kind = \"email\"\nurl = \"smtp://mail.example\"\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]";
    for (more, expected) in [("", 60), ("\ntimeout = \"8s\"", 8)] {
        assert_eq!(parse(&self::sink(&format!("{email}{more}"))).unwrap().sinks[0].timeout, Duration::from_secs(expected));
    }
}

#[test]
fn every_key_of_the_ingest_and_the_worker_is_read() {
    let config = parse(
        r#"
        database_url = "postgres://u:${CANARY}@h/db"
        [ingest]
        listen = "[::1]:0"
        ops_listen = "0.0.0.0:9000"
        body_max = "2MiB"
        header_timeout = "1s"
        body_timeout = "2s"
        commit_timeout = "3s"
        connections_max = 4
        queue_events = 5
        queue_bytes = 6000000
        threads = 2
        committers = 7
        batch_events = "${CONCURRENCY}"
        drain_timeout = "0s"
        [worker]
        ops_listen = "0.0.0.0:9001"
        drain_timeout = "1m30s"
        read_ahead = 10
        poll = "50ms"
        [retention]
        payloads = "90d"
        deliveries = "400d"
        "#,
    )
    .unwrap();
    assert_eq!(config.database_url.unwrap().expose(), "postgres://u:hunter2@h/db");
    let ingest = config.ingest;
    assert_eq!((ingest.listen.to_string(), ingest.ops_listen.unwrap().to_string()), ("[::1]:0".into(), "0.0.0.0:9000".into()));
    assert_eq!((ingest.header_timeout.as_secs(), ingest.body_timeout.as_secs(), ingest.commit_timeout.as_secs()), (1, 2, 3));
    assert_eq!((ingest.body_bytes_max, ingest.connections_max, ingest.queue_events_max), (2 << 20, 4, 5));
    assert_eq!((ingest.queue_bytes_max, ingest.committers, ingest.batch_events_max), (6_000_000, 7, 7));
    assert_eq!((ingest.threads, ingest.drain_timeout), (2, Duration::ZERO));
    let worker = config.worker;
    assert_eq!((worker.ops_listen.unwrap().port(), worker.drain_timeout.as_secs()), (9001, 90));
    assert_eq!((worker.read_ahead, worker.poll.as_millis()), (10, 50));
    let days = |days: u64| Some(Duration::from_secs(days * 24 * 3600));
    assert_eq!((config.retention.payloads, config.retention.deliveries), (days(90), days(400)));
}

#[test]
fn every_key_of_a_sink_is_read() {
    let text = http(
        r#"
        events = ["course.completed", "${KIND:-quiz.submitted}"]
        concurrency = 3
        timeout = "2s"
        retry = { max_attempts = 4, initial = "1s", factor = 1.5, cap = "1m" }
        order = "key"
        on_dead = "continue"
        rate = 0.5
        breaker = { failures = 9, rest = "2s", cap = "3s" }
        headers = { Authorization = "Bearer ${CANARY}", x-team = "a" }
        signing_secret = "whsec_aHVudGVyMg=="
        allow = ["127.0.0.0/8", "::1/128"]
        "#,
    );
    let sink = &parse(&text).unwrap().sinks[0];
    assert_eq!(sink.events.as_deref().unwrap(), ["course.completed", "quiz.submitted"]);
    assert_eq!((sink.concurrency, sink.timeout.as_secs(), sink.rate_per_second), (3, 2, Some(0.5)));
    assert_eq!((sink.policy.max_attempts, sink.policy.backoff.initial.as_secs()), (4, 1));
    assert_eq!((sink.policy.backoff.factor, sink.policy.backoff.cap.as_secs()), (1.5, 60));
    assert!(sink.ordered && !sink.on_dead_block);
    assert_eq!(sink.breaker, Breaker { failures: 9, rest: Duration::from_secs(2), cap: Duration::from_secs(3) });
    let SinkKind::Http(http) = &sink.kind else { panic!("kind = \"http\"") };
    assert_eq!(http.url.expose(), "https://crm.example.com/hook");
    let headers: Vec<(&str, &str)> = http.headers.iter().map(|(name, value)| (name.as_str(), value.expose().as_str())).collect();
    assert_eq!(headers, [("authorization", "Bearer hunter2"), ("x-team", "a")]);
    assert_eq!(http.signing_secret.as_ref().unwrap().expose(), b"hunter2");
    assert_eq!(http.allow, ["127.0.0.0/8".parse().unwrap(), "::1/128".parse::<IpNet>().unwrap()]);

    let raw_secret = &parse(&super::tests::http("signing_secret = \"raw\"\norder = \"none\"")).unwrap().sinks[0];
    assert!(!raw_secret.ordered);
    assert!(matches!(&raw_secret.kind, SinkKind::Http(http) if http.signing_secret.as_ref().unwrap().expose() == b"raw"));
    let file = &parse(&super::tests::sink("kind = \"file\"\npath = \"/tmp/x\"")).unwrap().sinks[0];
    assert!(matches!(&file.kind, SinkKind::File(file) if file.path == Path::new("/tmp/x")));
}

#[test]
fn a_source_takes_a_profile_of_the_config_that_says_only_what_differs() {
    let text = profile("signature_header = \"X-Sig\"\nsigned = \"v0:{timestamp}:{body}\"\nencoding = \"base64\"\nuser = \"who.id\"")
        + &source("profile = \"other\"\nsecrets = [\"a\", \"b\"]\ncompany_id = \"acme\"\ntimestamp_window = \"1h\"");
    let source = &parse(&text).unwrap().sources[0];
    let expected = Profile {
        name: "other".into(),
        signature: SignatureHeader::plain("x-sig"),
        signed: vec![Part::Literal("v0:".into()), Part::Timestamp, Part::Literal(":".into()), Part::Body],
        encoding: Encoding::Base64,
        user: Place::Body(crate::profile::Path::parse("who.id").unwrap()),
        ..Profile::mindtickle()
    };
    assert_eq!(source.profile, expected);
    assert_eq!((source.secrets.len(), source.company_id.as_deref(), source.timestamp_window.as_secs()), (2, Some("acme"), 3600));
}

/// A profile, in the config's words.
fn written(profile: &Profile) -> String {
    let place = |place: &Place| match place {
        Place::Header(name) => format!("header:{name}"),
        Place::Body(path) => path.to_string(),
        Place::Nowhere => "none".into(),
    };
    let signed: String = profile
        .signed
        .iter()
        .map(|part| match part {
            Part::Timestamp => "{timestamp}".into(),
            Part::EventId => "{event_id}".into(),
            Part::Body => "{body}".into(),
            Part::Literal(text) => text.clone(),
        })
        .collect();
    let timestamp = match &profile.timestamp {
        TimestampPlace::Header(name) => format!("header:{name}"),
        TimestampPlace::Item(prefix) => format!("item:{prefix}"),
        TimestampPlace::Nowhere => "none".into(),
    };
    let encoding = if profile.encoding == Encoding::Hex { "hex" } else { "base64" };
    let unit = match profile.timestamp_unit {
        Unit::Magnitude => "auto",
        Unit::Seconds => "seconds",
        Unit::Milliseconds => "milliseconds",
    };
    let form = if profile.secret_form == SecretForm::Text { "text" } else { "base64" };
    let separator = profile.signature.separator.map_or("none".into(), String::from);
    let window = format!("{}ms", profile.timestamp_window.as_millis());
    let mut keys = vec![
        ("name", profile.name.clone()),
        ("signature_header", profile.signature.name.clone()),
        ("separator", separator),
        ("signed", signed),
        ("encoding", encoding.into()),
        ("timestamp", timestamp),
        ("timestamp_unit", unit.into()),
        ("secret", form.into()),
        ("event_id", place(&profile.event_id)),
        ("type", place(&profile.event_type)),
        ("company", place(&profile.company)),
        ("user", place(&profile.user)),
    ];
    keys.extend((!profile.signature.prefix.is_empty()).then(|| ("prefix", profile.signature.prefix.clone())));
    keys.extend((profile.timestamp != TimestampPlace::Nowhere).then_some(("timestamp_window", window)));
    keys.extend(profile.challenge.as_ref().map(|path| ("challenge", path.to_string())));
    keys.into_iter().fold("[[profile]]\n".into(), |text, (key, value)| text + &format!("{key} = {value:?}\n"))
}

#[test]
fn each_built_in_profile_can_be_written_in_the_config() {
    for profile in Profile::built_in() {
        let same = Profile { name: format!("own-{}", profile.name), ..profile };
        let text = written(&same) + &source(&format!("profile = {:?}\nsecrets = [\"aGk=\"]", same.name));
        let config = parse(&text).unwrap();
        assert_eq!(config.sources[0].profile, same, "{text}");
        assert_eq!(config.sources[0].timestamp_window, same.timestamp_window);
        // And begun from, with nothing changed.
        let base = same.name.strip_prefix("own-").unwrap();
        let text = profile_of(&same.name, base) + &source(&format!("profile = {:?}\nsecrets = [\"aGk=\"]", same.name));
        assert_eq!(parse(&text).unwrap().sources[0].profile, same, "{text}");
    }
}

fn profile_of(name: &str, base: &str) -> String {
    format!("[[profile]]\nname = \"{name}\"\nbase = \"{base}\"\n")
}

#[test]
fn what_a_variable_holds_cannot_add_to_the_config() {
    let config = parse(&source("secrets = [\"${MULTILINE}\"]")).unwrap();
    assert!(config.sinks.is_empty());
    assert_eq!(*config.sources[0].secrets[0].expose(), env("MULTILINE").unwrap());
}

#[test]
fn debug_of_a_config_shows_no_secret() {
    let text = "database_url = \"postgres://u:${CANARY}@h/db\"\n".to_owned()
        + &source("secrets = [\"${CANARY}\"]")
        + &sink("kind = \"http\"\nurl = \"http://h/${CANARY}\"\nheaders = { a = \"${CANARY}\" }\nsigning_secret = \"${CANARY}\"");
    let shown = format!("{:?}", parse(&text).unwrap());
    assert!(!shown.contains(CANARY) && shown.contains("***"), "{shown}");
}

#[test]
fn database_url_in_the_environment_wins_and_is_checked() {
    let parse = |url: &'static str| {
        Config::parse("database_url = \"postgres://file/db\"", "x", &|name| (name == "DATABASE_URL").then(|| url.into()))
    };
    assert_eq!(parse("postgresql://env/db").unwrap().database_url.unwrap().expose(), "postgresql://env/db");
    assert_eq!(parse("").unwrap().database_url.unwrap().expose(), "postgres://file/db");
    let error = parse("hunter2").unwrap_err();
    assert!(matches!(error, ConfigError::DatabaseUrl { .. }));
    assert!(!error.to_string().contains(CANARY) && error.to_string().contains("DATABASE_URL"));
}

#[test]
fn the_file_is_the_one_asked_for_then_the_environments_and_its_absence_says_how_to_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, port: u16| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("[ingest]\nlisten = \"127.0.0.1:{port}\"")).unwrap();
        path
    };
    let (asked, from_env) = (write("asked.toml", 1), write("env.toml", 2));
    let env = |name: &str| (name == "SLUICE_CONFIG").then(|| from_env.display().to_string());
    assert_eq!(Config::load(Some(&asked), &env).unwrap().ingest.listen.port(), 1);
    assert_eq!(Config::load(None, &env).unwrap().ingest.listen.port(), 2);

    let missing = Config::load(Some(&folder.path().join("none.toml")), &env).unwrap_err().to_string();
    assert!(["none.toml", "--config", "SLUICE_CONFIG"].iter().all(|part| missing.contains(part)), "{missing}");
    assert!(matches!(Config::load(Some(folder.path()), &env), Err(ConfigError::Unreadable { .. })));
    std::fs::write(&asked, "x = 1").unwrap();
    assert!(Config::load(Some(&asked), &env).unwrap_err().to_string().contains("asked.toml:1:1: "));
}
