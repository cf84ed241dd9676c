//! A person is erased, and nothing that was planted ever shows in an output.

use crate::client::{Client, Event, request};
use crate::private;
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually, free_port};
use sluice::dev::PrivatePostgres;
use std::net::SocketAddr;
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_erased_but_for_what_is_owed_and_a_redelivery_is_still_known() {
    let system = System::new("erase").await;
    let sink = Sink::start(|attempt| Reply::Status(if attempt.event_id.starts_with("u-1") { 410 } else { 200 })).await;
    let worker = system.working(&system.config(&sink.config("lms", "retry = { max_attempts = 1 }"))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let events = [Event::of("u-1", 0), Event::of("u-1", 1), Event::of("u-10", 0), Event::of("u-2", 0)];
    for event in &events {
        client.store(event).await;
    }
    // Held back, because it says nothing of its type: no profile has read whom it is about.
    let held = Event { id: "held".into(), body: br#"{"companyId":"acme","about":{"who":["u-1"]}}"#.to_vec() };
    client.store(&held).await;
    eventually("all is done", async || system.count("pending").await == 0).await;
    drop(worker);
    system
        .execute(
            "update sluice.deliveries set status = 'pending' where event_seq = (select seq from sluice.events where event_id = 'u-1:1')",
        )
        .await;

    // As a sink that keeps a state would leave it.
    system
        .execute(
            "insert into sluice.applied select 'idp', 'user ' || order_key, seq from sluice.events where event_id in ('u-1:0', 'u-2:0')",
        )
        .await;

    let erase = async |args: &[&str]| {
        let output = system.run(&[&["erase", "--user", "u-1"], args].concat()).await;
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (_, preview) = erase(&["--dry-run"]).await;
    assert!(preview.starts_with("2 events can be erased, 1 are still owed"), "{preview}");
    assert!(!erase(&[]).await.0, "nobody is there to confirm it");
    assert_eq!(system.value::<i64>("select count(*) from sluice.payloads").await, 5);
    assert!(erase(&["--yes"]).await.0);

    let left = "select string_agg(e.event_id, ' ' order by e.seq) from sluice.payloads p join sluice.events e on e.seq = p.event_seq";
    assert_eq!(system.value::<String>(left).await, "u-1:1 u-10:0 u-2:0");
    assert_eq!(system.value::<String>("select string_agg(object, ' ') from sluice.applied").await, "user acme/u-2");
    let traces = "select count(*) from sluice.events e left join sluice.attempts a on a.event_seq = e.seq where e.event_id in ('u-1:0', 'held') and (e.order_key is not null or a.response is not null)";
    assert_eq!(system.value::<i64>(traces).await, 0);
    assert_eq!(system.value::<i64>("select rows from sluice.audit where what = 'person erased' and detail is null").await, 2);
    assert_eq!(client.post(&events[0]).await.text(), r#"{"duplicate":true}"#);
}

const SECRET: &str = "canary-secret-8c1f";
const SINK_SECRET: &str = "whsec_Y2FuYXJ5LXNpbmstc2VjcmV0LTU1NTU1NTU1";
const TOKEN: &str = "canary-token-71d0";
const EMAIL: &str = "canary.person@example.com";

/// Files below a folder, as text.
fn texts(dir: &Path, into: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        match std::fs::read(&path) {
            Ok(bytes) => into.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned())),
            Err(_) if path.is_dir() => texts(&path, into),
            Err(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_secret_and_a_planted_address_show_in_no_output_of_any_process() {
    let dir = private::folder();
    let postgres = PrivatePostgres::start(dir.path(), private::options()).await.expect("a private Postgres starts");
    let system = System::on(postgres.url()).await;
    system.migrate().await;
    system.verbose();
    // It says back what it was sent, with every kind of failure.
    let echo =
        Sink::start(|attempt| Reply::Saying(if attempt.of_all == 5 { 401 } else { [500, 400, 503, 410][attempt.of_all % 4] }, EMAIL)).await;
    let (listen, ops, worker_ops) = (free_port(), free_port(), free_port());
    let config = system.file("conf");
    let source = format!("[[source]]\nname = \"mindtickle\"\nprofile = \"mindtickle\"\nsecrets = [\"{SECRET}\"]\ncompany_id = \"acme\"\n");
    let sink =
        echo.config("lms", &format!("signing_secret = \"{SINK_SECRET}\"\nheaders = {{ authorization = \"Bearer {TOKEN}\" }}\nbreaker = {{ rest = \"50ms\", cap = \"100ms\" }}\nretry = {{ initial = \"10ms\", cap = \"20ms\", max_attempts = 3 }}"));
    let processes = format!(
        "[ingest]\nlisten = \"127.0.0.1:{listen}\"\nops_listen = \"127.0.0.1:{ops}\"\nkeep_unverified = {{}}\n[worker]\nops_listen = \"127.0.0.1:{worker_ops}\"\n"
    );
    std::fs::write(&config, processes + &source + &sink).unwrap();
    let worker = system.working(&config).await;
    let address = SocketAddr::from(([127, 0, 0, 1], listen));
    let mut ingest = system.ingest_at(address, &config).await;

    let mut outputs: Vec<(String, String)> = Vec::new();
    let mut signatures = Vec::new();
    let mut client = Client::new(address);
    let body = |company: &str, n: usize| {
        format!(r#"{{"event":"user.provisioned","companyId":"{company}","data":{{"userId":"{EMAIL}","email":"{EMAIL}","n":{n}}}}}"#)
            .into_bytes()
    };
    for n in 0..12 {
        let company = if n % 4 == 3 { "another" } else { "acme" };
        let event = Event { id: format!("e-{n}"), body: body(company, n) };
        let mut requests = vec![event.request_signed_with(SECRET), event.request_signed_with("wrong")];
        // Another body under its id; a signature of nonsense; a body that is no JSON, and one that no text column can hold.
        requests.push(Event { id: format!("e-{n}"), body: body("acme", 1000 + n) }.request_signed_with(SECRET));
        requests.push(request(&[("x-mt-webhook-signature", SECRET), ("x-mt-webhook-timestamp", EMAIL)], &event.body));
        requests.push(Event { id: format!("f-{n}"), body: format!("{EMAIL} is no JSON").into_bytes() }.request_signed_with(SECRET));
        requests.push(
            Event { id: format!("g-{n}"), body: format!(r#"{{"event":"\u0000{EMAIL}","companyId":"acme"}}"#).into_bytes() }
                .request_signed_with(SECRET),
        );
        for request in requests {
            let head = String::from_utf8_lossy(&request).into_owned();
            signatures.extend(head.lines().find_map(|line| Some(line.strip_prefix("x-mt-webhook-signature: ")?.to_owned())));
            let answer = client.send(&request).await;
            outputs
                .push((format!("an answer of ingest, {}", answer.status()), answer.head.clone() + &String::from_utf8_lossy(&answer.body)));
        }
    }
    eventually("the sink has refused some", async || echo.tries() > 12).await;
    // A statement that fails while it stores events: the server logs it.
    system.execute("create function fails() returns trigger language plpgsql as $$ begin raise exception 'canary trigger'; end $$").await;
    system.execute("create trigger fails before insert on sluice.payloads for each row execute function fails()").await;
    let refused = Client::new(address).send(&Event { id: "h".into(), body: body("acme", 1) }.request_signed_with(SECRET)).await;
    assert_eq!(refused.status(), 503);
    system.execute("drop trigger fails on sluice.payloads").await;

    for (port, path) in [(ops, "/metrics"), (ops, "/readyz"), (ops, "/livez"), (worker_ops, "/metrics"), (worker_ops, "/readyz")] {
        let answer = Client::new(([127, 0, 0, 1], port).into())
            .send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await;
        outputs.push((path.into(), answer.text().to_owned()));
    }
    std::fs::write(system.file("toml"), "").unwrap();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["replay", "--dry-run"],
        &["replay", "--yes"],
        &["config", "check"],
        &["reverify", "--dry-run"],
        &["reverify"],
        &["erase", "--user", "nobody", "--yes"],
        &["migrate", "status"],
    ] {
        let output = system.run_with(Some(&config), args).await;
        outputs.push((args.join(" "), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()));
    }
    let broken = system.file("broken");
    std::fs::write(&broken, std::fs::read_to_string(&config).unwrap() + "nonsense = [").unwrap();
    let output = system.run_with(Some(&broken), &["config", "check"]).await;
    outputs.push(("config check of a broken one".into(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()));
    ingest.process.stop().await;
    outputs.push(("log of ingest".into(), ingest.process.log()));
    outputs.push(("log of the worker".into(), worker.log()));
    postgres.stop().await.unwrap();
    let mut logs = Vec::new();
    texts(dir.path(), &mut logs);
    outputs.extend(logs.into_iter().filter(|(path, _)| path.ends_with(".log")));
    assert!(
        outputs.iter().any(|(name, text)| name.ends_with(".log") && text.contains("canary trigger")),
        "the server's log has the failed statement"
    );
    // The other bodies under ids that are taken: what finds them out is no error to the server.
    assert!(!outputs.iter().any(|(name, text)| name.ends_with(".log") && text.contains("duplicate key")));

    let mut planted = [SECRET, TOKEN, SINK_SECRET, &SINK_SECRET[6..], EMAIL].map(str::to_owned).to_vec();
    // As Postgres would print bytes.
    planted.push(EMAIL.bytes().map(|byte| format!("{byte:02x}")).collect());
    planted.extend(signatures);
    for (name, text) in &outputs {
        for planted in &planted {
            let shows = text.lines().find(|line| line.contains(planted));
            assert_eq!(shows, None, "{name} shows {planted}");
        }
    }
    assert!(outputs.iter().any(|(name, text)| name == "log of the worker" && !text.is_empty()));
}
