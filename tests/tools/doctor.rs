//! `sluice doctor`: each finding is provoked for real, and is gone, or never there, without its cause.

use crate::client::{self, Event, SECRET, TYPES};
use crate::stub_provider_api::{StubProviderApi, TOKEN};
use crate::system::{PATIENCE, System, eventually, free_port};
use serde_json::{Value, json};
use sluice::profile::Profile;
use sluice::{clock, signature};
use std::path::Path;

/// What the doctor said.
struct Said {
    code: i32,
    findings: Vec<Value>,
    err: String,
}

impl Said {
    /// The findings of one check, each as `level: what | evidence | action`.
    fn of(&self, check: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = |finding: &Value| {
            format!(
                "{}: {} | {} | {}",
                text(&finding["level"]),
                text(&finding["what"]),
                text(&finding["evidence"]),
                text(&finding["action"])
            )
        };
        self.findings.iter().filter(|finding| finding["check"] == check).map(line).collect()
    }

    /// Asserts that a check found this: its line begins so, and holds the rest.
    fn assert(&self, check: &str, begins: &str, holds: &[&str]) {
        let lines = self.of(check);
        let found = lines.iter().any(|line| line.starts_with(begins) && holds.iter().all(|text| line.contains(text)));
        assert!(found, "no {begins:?} with {holds:?} of {check}: {lines:#?}");
    }
}

async fn ask(system: &System, config: Option<&Path>, url: &str, args: &[&str]) -> Said {
    let mut command = system.command(config, &[&["doctor", "--json"][..], args].concat());
    let output = command.env("DATABASE_URL", url).env("CRM_TOKEN", "x").output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it ends").unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let said: Value = serde_json::from_str(&out).unwrap_or_default();
    let findings = said["findings"].as_array().cloned().unwrap_or_default();
    assert!(!out.contains(SECRET) && !err.contains(SECRET));
    Said { code: output.status.code().unwrap(), findings, err }
}

async fn doctor(system: &System) -> Said {
    ask(system, None, &system.url, &[]).await
}

const SINK: &str = "[[sink]]\nname = \"nowhere\"\nkind = \"null\"\n\n";

/// Signed by hand: with this id, or none, and as of so many seconds ago.
fn request(id: Option<&str>, body: &[u8], ago: i64) -> Vec<u8> {
    let timestamp = (clock::now().timestamp() - ago).to_string();
    let signature = signature::sign(&Profile::mindtickle(), SECRET.as_bytes(), &timestamp, body);
    let mut headers = vec![("x-mt-webhook-signature", signature.as_str()), ("x-mt-webhook-timestamp", &timestamp)];
    headers.extend(id.map(|id| ("x-mt-event-id", id)));
    client::request(&headers, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_nothing_is_worse_than_a_note_and_a_reader_is_told_what_it_may_not_see() {
    let system = System::new("doctor_well").await;
    system.use_roles().await;
    let config = system.config(SINK);
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    for (n, event_type) in TYPES.iter().enumerate() {
        ingest.client().store(&Event::new(format!("e-{n}"), event_type, "u", n as u64)).await;
    }
    system.drained(6).await;
    for (url, scores) in
        [(system.url.clone(), "ok: "), (system.url_of("sluice_operator"), "note: "), (system.url_of("sluice_reader"), "note: ")]
    {
        let said = ask(&system, Some(&config), &url, &[]).await;
        let bad: Vec<_> = said.findings.iter().filter(|finding| finding["level"] == "warning" || finding["level"] == "problem").collect();
        assert!(said.code == 0 && bad.is_empty(), "{}: {bad:#?}", said.err);
        for check in [
            "config",
            "schema",
            "durability",
            "connections",
            "roles",
            "sinks",
            "workers",
            "refused",
            "silence",
            "never_seen",
            "ids",
            "quarantined",
        ] {
            said.assert(check, "ok: ", &[]);
        }
        said.assert("scores", scores, &[]);
    }
    let reader = ask(&system, Some(&config), &system.url_of("sluice_reader"), &[]).await;
    reader.assert("scores", "note: could not be looked at", &["this role lacks the right: permission denied for table payloads"]);
    let text = system.run_with(Some(&config), &["doctor"]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("ok       schema") && text.contains("ok       workers"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_a_wrong_profile_and_a_few_strangers_are_told_apart() {
    let system = System::new("doctor_refused").await;
    system.use_roles().await;
    let ingest = system.ingest_with("keep_unverified = {}").await;
    let mut client = ingest.client();
    client.store(&Event::of("u", 0)).await;
    let seen = async |column: &str, count: i64| {
        let sum = format!("select coalesce(sum({column}), 0)::bigint from sluice.refusals");
        eventually("it is written down", async || system.value::<i64>(&sum).await == count).await;
    };
    for n in 1..4 {
        assert_eq!(client.send(&Event::of("u", n).request_signed_with("rotated")).await.status(), 403);
    }
    seen("forbidden", 3).await;
    doctor(&system).await.assert("refused", "note: some requests to mindtickle were refused", &["3 answered 403"]);
    for n in 4..16 {
        assert_eq!(client.send(&Event::of("u", n).request_signed_with("rotated")).await.status(), 403);
    }
    seen("forbidden", 15).await;
    eventually("they are kept", async || system.value::<i64>("select count(*) from sluice.unverified").await == 15).await;
    let said = ask(&system, None, &system.url_of("sluice_reader"), &[]).await;
    let reverify = "then `sluice reverify`: 15 refused requests are kept";
    said.assert("refused", "problem: most deliveries to mindtickle are refused", &["15 answered 403", "was the secret rotated", reverify]);
    assert_eq!(said.code, 1);
    // The last event is long ago: now they are all that comes.
    system.execute("update sluice.log set received_at = now() - interval '3 hours'").await;
    let said = doctor(&system).await;
    said.assert("refused", "problem: all deliveries to mindtickle are refused", &["0 events accepted in the last hour"]);

    system.execute("delete from sluice.refusals").await;
    for _ in 0..12 {
        assert_eq!(client.send(&client::request(&[("x-signature", "0")], b"{}")).await.status(), 401);
    }
    seen("unsigned", 12).await;
    let said = doctor(&system).await;
    said.assert(
        "refused",
        "problem: all deliveries to mindtickle are refused: a signed header is missing",
        &["12 answered 401", "the source's profile"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_event_types_that_never_come_are_told() {
    let system = System::new("doctor_silence").await;
    doctor(&system).await.assert("silence", "note: nothing was ever received", &["sluice mindtickle list"]);
    let config = system.config("[[sink]]\nname = \"nowhere\"\nkind = \"null\"\nevents = [\"quiz.submitted\", \"course.completed\"]\n\n");
    let _worker = system.working(&config).await;
    let ingest = system.ingest().await;
    client::store_rounds(ingest.address, 20, 5).await;
    let said = doctor(&system).await;
    said.assert("never_seen", "warning: sinks wait for event types that have not come: quiz.submitted |", &["100 there", "subscribe"]);
    said.assert("never_seen", "note: ", &["user.provisioned, user.deprovisioned, module.progress, certification.expired"]);
    said.assert("silence", "ok: mindtickle was last heard 0 min ago", &[]);
    // A worker with another source than the provider's waits for none of its types.
    let other = system.file("toml");
    std::fs::write(&other, "[[source]]\nname = \"hub\"\nprofile = \"github\"\nsecrets = [\"x\"]\n").unwrap();
    let said = ask(&system, Some(&other), &system.url, &[]).await;
    assert!(said.of("never_seen").iter().all(|line| !line.contains("user.provisioned")));
    said.assert("silence", "note: nothing has come to hub", &[]);

    system.execute("update sluice.log set received_at = now() - interval '30 hours 10 minutes'").await;
    let said = doctor(&system).await;
    said.assert("silence", "warning: nothing has come to mindtickle for 1 d 6 h", &["suspended"]);
    assert_eq!(said.code, 1);
    ask(&system, None, &system.url, &["--silence", "48h"]).await.assert("silence", "ok: ", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_missing_reused_or_several_for_one_request_are_told() {
    let system = System::new("doctor_ids").await;
    system.use_roles().await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let mut post = async |request: Vec<u8>| assert_eq!(client.send(&request).await.status(), 200);
    // The same body, signed at two times: two events, or one that came twice under new ids.
    for (id, ago) in [("a", 0), ("b", 60)] {
        post(request(Some(id), &Event::of("u", 1).body, ago)).await;
    }
    let said = doctor(&system).await;
    said.assert("repeated_ids", "note: 1 bodies came under several event ids, 2 events in all", &["signed at a time of its own"]);
    assert_eq!(said.code, 0, "{}", said.err);
    // The very same request under another id, and one without any.
    let captured = request(Some("c"), &Event::of("u", 2).body, 0);
    let again = String::from_utf8(captured.clone()).unwrap().replace("x-mt-event-id: c", "x-mt-event-id: d").into_bytes();
    post(captured).await;
    post(again).await;
    post(request(None, &Event::of("u", 3).body, 0)).await;
    // An id with another body is held back.
    post(request(Some("a"), &Event::of("u", 4).body, 0)).await;
    let said = doctor(&system).await;
    said.assert("repeated_ids", "warning: 1 signed requests came under several event ids, 2 events in all", &["d, c", "sluice.repeats"]);
    said.assert("derived_ids", "note: 1 of 6 events carry no usable id", &["`event_id`"]);
    said.assert("quarantined", "warning: 1 events are held back: ", &["id already stored with another body", "example event a"]);
    assert_eq!(said.code, 1);
    let reader = ask(&system, None, &system.url_of("sluice_reader"), &[]).await;
    reader.assert("repeated_ids", "note: 2 bodies came under several event ids, 4 events in all", &["select * from sluice.repeats shows"]);
    reader.assert("repeated_ids", "note: could not be looked at", &["permission denied for table payloads"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_that_are_missing_are_told_from_practice() {
    let system = System::new("doctor_scores").await;
    let ingest = system.ingest().await;
    let quiz = async |id: &str, data: Value| {
        let body = json!({"event": "quiz.submitted", "companyId": "acme", "data": data}).to_string();
        ingest.client().store(&Event { id: id.into(), body: body.into_bytes() }).await;
    };
    quiz("1", json!({"userId": "u", "score": 7, "maxScore": 9})).await;
    doctor(&system).await.assert("scores", "ok: ", &["newest 1 quiz.submitted, 0 are practice"]);
    quiz("2", json!({"userId": "u", "quizType": "Practice"})).await;
    doctor(&system).await.assert("scores", "note: 1 practice quizzes carry no score, as is described", &["has(event.data.score)"]);
    quiz("3", json!({"userId": "u", "score": null})).await;
    quiz("4", json!("not even an object")).await;
    let said = doctor(&system).await;
    said.assert("scores", "warning: 2 quizzes that are no practice carry no score", &["newest 4 quiz.submitted, 1 are practice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_workers_lanes_and_dead_letters_are_held_against_config_and_database() {
    let system = System::new("doctor_house").await;
    let sinks = |names: &[&str]| names.iter().map(|name| SINK.replace("nowhere", name)).collect::<String>();
    let (running, here) =
        (system.config(&sinks(&["crm", "lms"])), system.config(&(sinks(&["lms", "new"]) + &SINK.replace("nowhere", "crm2"))));
    let mut worker = system.working(&running).await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u", 0)).await;
    system.drained(2).await;
    let said = ask(&system, Some(&here), &system.url, &[]).await;
    said.assert("sinks", "warning: sink new is in the config and was never registered", &["start a worker"]);
    said.assert("sinks", "note: sink crm is registered and not in this config", &["0 deliveries"]);
    said.assert("workers", "ok: 1 alive", &[]);

    worker.kill().await;
    system.execute("update sluice.workers set expires_at = now()").await;
    doctor(&system).await.assert("workers", "warning: no worker is alive", &["0 deliveries are owed"]);
    ingest.client().store(&Event::of("u", 1)).await;
    doctor(&system).await.assert("workers", "problem: no worker is alive", &["2 deliveries are owed"]);

    // From here on somebody has a lease, and works on nothing: so all stays as it is put.
    system
        .execute("insert into sluice.workers (name, epoch, sinks, expires_at, log_version) values ('idle:1', 1, '{crm,lms}', now() + interval '1 hour', 2)")
        .await;
    system.execute("update sluice.sinks set retired_at = now() where name = 'lms'").await;
    system.execute("update sluice.sinks set events = '{x}' where name = 'crm'").await;
    let said = ask(&system, Some(&running), &system.url, &[]).await;
    said.assert("sinks", "warning: sink lms is in the config and retired", &["retired_at"]);
    said.assert("sinks", "warning: sink crm subscribes to other events", &["config: all; registered: x", "restart the workers"]);
    system.execute("update sluice.sinks set retired_at = null, events = null").await;

    system.execute("update sluice.sinks set paused = true where name = 'crm'").await;
    system
        .execute("update sluice.sinks set breaker = 'open', breaker_until = now(), breaker_reason = 'answered 503' where name = 'lms'")
        .await;
    let said = doctor(&system).await;
    said.assert("delivery", "warning: sink crm is paused | 1 deliveries are owed to it", &["paused = false"]);
    said.assert("delivery", "warning: sink lms rests", &["answered 503", "1 deliveries are owed"]);

    system.execute("update sluice.deliveries set status = 'dead' where status = 'pending'").await;
    system.execute("update sluice.delivery_state set last_error = 'test' where status = 'dead'").await;
    doctor(&system).await.assert("dead_letters", "note: 1 deliveries to crm are dead", &["0 in the last day", "sluice replay"]);
    system.execute("insert into sluice.counters (sink, minute, dead) values ('crm', now(), 1)").await;
    doctor(&system).await.assert("dead_letters", "warning: 1 deliveries to crm are dead", &["1 in the last day"]);

    system.execute("update sluice.workers set sinks = '{crm}'").await;
    system.execute("update sluice.sinks set paused = false").await;
    ingest.client().store(&Event::of("u", 2)).await;
    system.execute("update sluice.log set received_at = now() - interval '2 hours'").await;
    let said = doctor(&system).await;
    said.assert("lanes", "problem: no live worker has sink lms", &["64 of its 64 lanes", "0 live workers"]);
    said.assert("lanes", "warning: some lanes of sink crm are unowned", &["64 of its 64 lanes", "1 live workers"]);
    said.assert("delivery", "warning: sink crm lags behind by 2 h 0 min | 1 deliveries", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_roles_settings_or_a_config_that_are_not_right_are_told() {
    let system = System::empty("doctor_schema").await;
    let said = doctor(&system).await;
    said.assert("schema", "problem: ", &["run `sluice migrate`"]);
    said.assert("durability", "ok: PostgreSQL ", &[]);
    assert_eq!((said.code, said.of("silence").len()), (1, 0), "nothing else can be looked at");
    system.migrate().await;
    let said = doctor(&system).await;
    said.assert("roles", "note: not every role is set up here", &["sluice migrate --roles"]);
    said.assert("config", "note: there is no config here", &[]);
    assert_eq!(said.code, 0, "{}", said.err);
    system.use_roles().await;
    system.execute("revoke insert on sluice.refusals from sluice_ingest").await;
    doctor(&system).await.assert(
        "roles",
        "problem: roles lack rights that this version needs | sluice_ingest |",
        &["sluice migrate --roles"],
    );
    system.migrate().await;

    let name = system.value::<String>("select current_database()::text").await;
    system.execute(&format!("alter database {name} set synchronous_commit = off")).await;
    let said = doctor(&system).await;
    said.assert("durability", "problem: synchronous_commit is off", &["can be lost in a crash"]);
    system.execute(&format!("alter database {name} set synchronous_commit = on")).await;
    system.execute(&format!("alter role sluice_reader in database {name} set synchronous_commit = off")).await;
    doctor(&system).await.assert("durability", "problem: synchronous_commit is off for some", &["off for: role sluice_reader"]);

    let wrong = system.config("nonsense = 1\n");
    let said = ask(&system, Some(&wrong), &system.url, &[]).await;
    said.assert("config", "problem: the config cannot be used", &[":1:1: unknown key `nonsense`"]);
    let unset = system.config(&SINK.replace("null\"", "http\"\nurl = \"${NOT_SET_ANYWHERE}\""));
    ask(&system, Some(&unset), &system.url, &[]).await.assert("config", "problem: ", &["NOT_SET_ANYWHERE, which is not set"]);
    let down = ask(&system, None, &format!("postgres://x@127.0.0.1:{}/x", free_port()), &[]).await;
    assert!(down.code == 69 && down.err.contains("cannot connect to the database"), "{}: {}", down.code, down.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_watchdog_saw_is_told() {
    let stub = StubProviderApi::start().await;
    stub.add("wh_1", "suspended");
    let system = System::new("doctor_watchdog").await;
    assert!(doctor(&system).await.of("watchdog").is_empty(), "it has never been on");
    let config = system.config(&(SINK.to_owned() + &stub.config(&format!("watchdog = \"1s\"\ntoken = \"{TOKEN}\""))));
    let mut worker = system.working(&config).await;
    eventually("it is re-activated", async || system.value::<i64>("select reactivations from sluice.watchdog").await == 1).await;
    doctor(&system).await.assert("watchdog", "warning: the provider had suspended wh_1; re-activated at ", &["why deliveries failed"]);
    worker.stop().await;
    system.execute("update sluice.watchdog set reactivated_at = now() - interval '2 days', error = 'answered 500'").await;
    doctor(&system).await.assert("watchdog", "warning: the watchdog could not see to", &["answered 500"]);
    system.execute("update sluice.watchdog set error = null").await;
    doctor(&system).await.assert("watchdog", "ok: 1 webhooks are watched", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_is_looked_for_among_the_newest_events_alone_however_many_there_are() {
    let system = System::new("doctor_bound").await;
    let many = "with stored as (
                    insert into sluice.log (seq, lane, source, event_id, type)
                    select nextval('sluice.event_seq'), n % 64, 'mindtickle', n::text,
                           case when n <= 5 then 'quiz.submitted' else 'course.completed' end
                      from generate_series(1, 100005) n
                    returning seq, lane, event_id, source
                )
                insert into sluice.event_ids (seq, lane, event_id, source, payload_hash)
                select seq, lane, event_id, source, sha256(event_id::bytea) from stored";
    system.execute(many).await;
    let said = doctor(&system).await;
    said.assert("never_seen", "note: ", &["quiz.submitted", "among the newest 100000 events"]);
    let ingest = system.ingest().await;
    ingest.client().store(&Event::new("q", "quiz.submitted", "u", 1)).await;
    assert!(doctor(&system).await.of("never_seen").iter().all(|line| !line.contains("quiz.submitted")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_kept_longer_than_the_config_says_is_told_with_what_keeps_it() {
    let system = System::new("doctor_ranges").await;
    system.execute("insert into sluice.sinks (name, kind, owed_earlier) values ('lms', 'null', true)").await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u", 0)).await;
    let config = system.config(&format!("[retention]\ndeliveries = \"1d\"\n{}", SINK.replace("nowhere", "lms")));
    let look = async || ask(&system, Some(&config), &system.url, &[]).await;
    look().await.assert("retention", "ok: 1 ranges of the log, none kept longer", &[]);
    // Its range is full, and its time over.
    system.execute("select setval('sluice.event_seq', (select max(until_seq) from sluice.ranges))").await;
    system.execute("update sluice.log set received_at = now() - interval '3 days'").await;
    let late = "warning: 1 ranges of the log are kept longer than [retention] says, the first is range 0";
    look().await.assert("retention", late, &["sink lms has settled it up to 0 only"]);
    system.execute("update sluice.sinks set retired_at = now()").await;
    look().await.assert("retention", late, &["nothing keeps it", "start a worker"]);
}
