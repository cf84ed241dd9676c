//! `kind = "archive"` against Moto, which speaks S3, against a folder, and, for answers that Moto does not give, against a stub.

use crate::client::{Event, store_all};
use crate::proxy::{Fault, Proxy};
use crate::s3::{self, S3, Script, percent};
use crate::system::{System, eventually};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub const RETRY: &str = "retry = { initial = \"20ms\", cap = \"20ms\", max_attempts = 3 }";

fn bucket(endpoint: SocketAddr, keys: &str) -> String {
    let login = if keys.contains("access_key_id") { "" } else { "access_key_id = \"AKIAEXAMPLE\"\nsecret_access_key = \"s3-s3cret\"" };
    let place = format!("url = \"s3://events/sluice/v1\"\nendpoint = \"http://{endpoint}\"\nallow = [\"127.0.0.0/8\"]\n{login}");
    format!("[[sink]]\nname = \"archive\"\nkind = \"archive\"\n{place}\n{keys}\n\n")
}

fn folder(path: &Path, keys: &str) -> String {
    format!("[[sink]]\nname = \"archive\"\nkind = \"archive\"\nurl = \"file://{}\"\n{keys}\n\n", path.display())
}

/// Not canonical JSON, so that a body which was parsed and written again would show.
pub fn removed(id: &str, user: &str) -> Event {
    let data = json!({ "userId": user, "email": "a@b.example", "score": 0.50, "name": "\u{c4}gypten" });
    Event { id: id.into(), body: format!(r#"{{"event" : "user.deprovisioned", "companyId":"acme","data":{data}}} "#).into_bytes() }
}

pub async fn day(system: &System) -> String {
    system.value("select to_char(min(received_at) at time zone 'utc', 'YYYY-MM-DD') from sluice.events").await
}

pub const ODD: [&str; 7] = ["evt_1", "a/b", "..", "../../up", "100%2F", "with space", "q?x=1&y#z\"'+<>"];
pub const ODD_NAMES: [&str; 7] = [
    "evt_1.json",
    "a%2Fb.json",
    "...json",
    "..%2F..%2Fup.json",
    "100%252F.json",
    "with%20space.json",
    "q%3Fx%3D1%26y%23z%22%27%2B%3C%3E.json",
];

#[tokio::test]
async fn every_event_is_one_object_in_the_bucket_byte_for_byte_whatever_its_id_and_however_often_it_is_sent() {
    let Some(s3) = S3::start().await else { return };
    let system = System::new("archive_journey").await;
    let _worker = system.working(&system.config(&bucket(s3.peer.address, ""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let events: Vec<_> = ODD.iter().map(|id| removed(id, &format!("u-{id}"))).collect();
    for event in &events {
        client.store(event).await;
        assert_eq!(client.post(event).await.text(), r#"{"duplicate":true}"#);
    }
    system.drained(ODD.len() as i64).await;
    let day = day(&system).await;
    let mut expected: Vec<String> = ODD_NAMES.iter().map(|name| format!("sluice/v1/mindtickle/{day}/{name}")).collect();
    expected.sort();
    for replay in 0..2 {
        assert_eq!(s3.keys().await, expected);
        for (event, name) in events.iter().zip(ODD_NAMES) {
            let path = format!("/events/sluice/v1/mindtickle/{day}/{}", percent(name));
            let object = s3.ask("GET", &path, "", "").await;
            assert_eq!((object.status(), object.body == event.body), (200, true), "{name}");
            assert_eq!(object.header("content-type"), Some("application/json"));
        }
        // What is there already counts as delivered, and is not written again.
        let there = format!("select count(*) from sluice.deliveries where last_status = {}", if replay == 0 { 200 } else { 412 });
        assert_eq!(system.value::<i64>(&there).await, ODD.len() as i64);
        system.execute("update sluice.deliveries set status = 'pending'").await;
        system.drained(ODD.len() as i64).await;
    }
}

#[tokio::test]
async fn the_signature_is_one_that_a_strict_store_takes_and_a_wrong_secret_or_bucket_buries_nothing() {
    let Some(s3) = S3::start().await else { return };
    let (id, secret) = s3.be_strict().await;
    let login = |id: &str, secret: &str| bucket(s3.peer.address, &format!("access_key_id = \"{id}\"\nsecret_access_key = \"{secret}\""));
    for (n, (config, said)) in [
        (login(&id, "wr0ng"), "SignatureDoesNotMatch: answered 403"),
        (login("AKIANOBODY", &secret), "InvalidAccessKeyId: answered 403"),
        (login(&id, &secret).replace("s3://events", "s3://elsewhere"), "NoSuchBucket: answered 404"),
        (login(&id, &secret).replace("allow = ", "# "), "may not connect to 127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let system = System::new(&format!("archive_strict_{n}")).await;
        let mut worker = system.working(&system.config(&config)).await;
        let ingest = system.ingest().await;
        ingest.client().store(&removed("a/b %", "u1")).await;
        eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
        assert!(worker.log().contains(said), "{said}: {}", worker.log());
        assert!(!worker.log().contains(&secret) && !worker.log().contains("wr0ng"));
        assert_eq!((system.count("pending").await, system.value::<i32>("select attempts::int4 from sluice.deliveries").await), (1, 0));
        if n == 0 {
            worker.stop().await;
            let _worker = system.working(&system.config(&login(&id, &secret))).await;
            system.drained(1).await;
        }
    }
    s3.be_lenient().await;
    assert_eq!(s3.keys().await.len(), 1);
}

#[tokio::test]
async fn all_objects_are_there_after_the_connections_to_the_store_were_cut_and_its_answers_lost_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    let Some(s3) = S3::start().await else { return };
    let proxy = Proxy::start(s3.peer.address).await;
    let system = System::new("archive_cut").await;
    let keys = "concurrency = 2\nretry = { initial = \"50ms\", cap = \"500ms\", max_attempts = 100 }\nbreaker = { rest = \"50ms\" }";
    let _worker = system.working(&system.config(&bucket(proxy.address, keys))).await;
    let ingest = system.ingest().await;
    let list = |part: usize| (0..COUNT / 10).map(|n| removed(&format!("e{part}-{n}"), &format!("u{part}-{n}"))).collect();
    let storing = tokio::spawn(store_all(ingest.address, (0..10).map(list).collect()));
    for round in 1..=3 {
        eventually("some are delivered", async || system.count("delivered").await > round * 200).await;
        // An answer that is lost: the object is there, and the worker does not know.
        proxy.once("PUT", Fault::Cut);
        eventually("it is lost", async || proxy.met() >= round as usize).await;
        proxy.break_off();
    }
    storing.await.unwrap();
    // Moto serves some two hundred a second: all of them take longer than a test waits for one thing.
    eventually("half of them are delivered", async || system.count("delivered").await > COUNT as i64 / 2).await;
    system.drained(COUNT as i64).await;
    assert_eq!(s3.keys().await.len(), COUNT);
    let there: i64 = system.value("select count(*) from sluice.deliveries where last_status = 412").await;
    eprintln!("{there} of {COUNT} were there already");
    assert!(there >= 1, "what was put before its answer was lost was found there");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn all_files_are_there_and_whole_after_the_worker_was_killed_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    let place = tempfile::tempdir().unwrap();
    let system = System::new("archive_killed").await;
    let config = system.config(&folder(place.path(), "concurrency = 4"));
    let mut worker = system.working(&config).await;
    let ingest = system.ingest().await;
    let list = |part: usize| (0..COUNT / 10).map(|n| removed(&format!("e{part}-{n}"), &format!("u{part}-{n}"))).collect();
    let storing = tokio::spawn(store_all(ingest.address, (0..10).map(list).collect()));
    eventually("some are delivered", async || system.count("delivered").await > 500).await;
    worker.kill().await;
    let _worker = system.worker(&config);
    storing.await.unwrap();
    system.drained(COUNT as i64).await;
    let day = day(&system).await;
    for part in 0..10 {
        for n in 0..COUNT / 10 {
            let file = place.path().join(format!("mindtickle/{day}/e{part}-{n}.json"));
            assert_eq!(std::fs::read(&file).unwrap(), removed("", &format!("u{part}-{n}")).body, "{}", file.display());
        }
    }
    let all = files(place.path());
    eprintln!("{} files beside the {COUNT}: half-written ones of the kill", all.len() - COUNT);
    assert!(all.iter().all(|file| file.extension().is_some_and(|extension| extension.to_string_lossy().starts_with("json"))));
}

#[tokio::test]
async fn a_folder_takes_every_id_as_one_file_and_one_that_is_not_there_is_not_made() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    let system = System::new("archive_folder").await;
    let config = system.config(&folder(&archive, ""));
    let worker = system.working(&config).await;
    let ingest = system.ingest().await;
    for id in ODD {
        ingest.client().store(&removed(id, &format!("u-{id}"))).await;
    }
    ingest.client().store(&removed(&"/".repeat(200), "u-long")).await;
    system.drained(ODD.len() as i64 + 1).await;
    let day = archive.join("mindtickle").join(day(&system).await);
    for (id, name) in ODD.iter().zip(ODD_NAMES) {
        assert_eq!(std::fs::read(day.join(name)).unwrap(), removed(id, &format!("u-{id}")).body, "{name}");
    }
    assert_eq!(files(place.path()).len(), ODD.len() + 1, "nothing is anywhere else");
    system.execute("update sluice.deliveries set status = 'pending'").await;
    system.drained(ODD.len() as i64 + 1).await;
    assert_eq!(files(place.path()).len(), ODD.len() + 1);

    // A folder that is gone while the worker runs is not made again: it may have been unmounted.
    std::fs::remove_dir_all(&archive).unwrap();
    system.execute("update sluice.deliveries set status = 'pending'").await;
    eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
    assert!(worker.log().contains("cannot write into the folder") && !archive.exists(), "{}", worker.log());
    assert_eq!(system.count("pending").await, ODD.len() as i64 + 1);
    drop(worker);

    // Nor is one that is not there at the start.
    let output = system.run_with(Some(&config), &["worker"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is not there: make the folder, or mount it"), "{said}");
    assert!(!archive.exists());
}

#[tokio::test]
async fn each_answer_of_a_stub_s3_has_its_consequence() {
    let cases: [(Script, &str, usize, &str); 16] = [
        (|_| (200, "", ""), "delivered", 1, ""),
        (|_| (412, "", "PreconditionFailed"), "delivered", 1, ""),
        (|before| if before == 0 { (409, "", "ConditionalRequestConflict") } else { (412, "", "") }, "delivered", 2, ""),
        (|before| if before == 0 { (503, "", "SlowDown") } else { (200, "", "") }, "delivered", 2, ""),
        (|before| if before == 0 { (429, "retry-after: 0\r\n", "") } else { (200, "", "") }, "delivered", 2, ""),
        (|before| if before < 2 { (503, "", "ServiceUnavailable") } else { (200, "", "") }, "delivered", 3, ""),
        (|before| if before == 0 { (400, "", "RequestTimeout") } else { (200, "", "") }, "delivered", 2, ""),
        (|_| (500, "", "InternalError"), "dead", 3, "InternalError: answered 500"),
        (|_| (400, "", "EntityTooLarge"), "dead", 1, "EntityTooLarge: answered 400"),
        (|_| (413, "", ""), "dead", 1, "answered 413"),
        (|_| (403, "", "AccessDenied"), "pending", 1, "AccessDenied: answered 403"),
        (|_| (401, "", ""), "pending", 1, "answered 401"),
        (|_| (404, "", "NoSuchBucket"), "pending", 1, "NoSuchBucket: answered 404"),
        (|_| (400, "", "AuthorizationHeaderMalformed"), "pending", 1, "AuthorizationHeaderMalformed: answered 400"),
        (|_| (301, "", "PermanentRedirect"), "pending", 1, "check the sink's `region` and `endpoint`"),
        (|_| (501, "", "NotImplemented"), "pending", 1, "only where there is none"),
    ];
    for (n, (script, became, tries, said)) in cases.into_iter().enumerate() {
        let stub = s3::stub(script).await;
        let system = System::new(&format!("archive_stub_{n}")).await;
        let worker = system.working(&system.config(&bucket(stub.address, RETRY))).await;
        let ingest = system.ingest().await;
        ingest.client().store(&removed("e1", "u1")).await;
        if became == "pending" {
            eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
        } else {
            eventually("it is settled", async || system.count(became).await == 1).await;
        }
        let row = "select status, attempts::int4, coalesce(last_error, '') from sluice.deliveries";
        let (status, attempts, error): (String, i32, String) = sqlx::query_as(row).fetch_one(&system.db).await.unwrap();
        let asked = stub.asked.lock().unwrap().clone();
        assert_eq!((status.as_str(), asked.len()), (became, tries), "{n}: {error}");
        assert!(became != "pending" || attempts == 0, "{n}: a refusal burns no attempt, but it was {attempts}");
        let told = if became == "pending" { worker.log() } else { error };
        assert!(told.contains(said) && !told.contains("s3cret"), "{n}: {told}");
        assert!(asked.iter().all(|put| put.head.starts_with("PUT /events/sluice/v1/mindtickle/") && put.body == removed("e1", "u1").body));
    }
}

#[tokio::test]
async fn a_mistake_in_the_config_is_told_with_its_place_and_route_test_shows_the_put() {
    let system = System::empty("archive_config").await;
    let said = async |lines: &str| {
        let text = format!("[[sink]]\nname = \"archive\"\nkind = \"archive\"\n{lines}\n\n");
        let output = system.run_with(Some(&system.config(&text)), &["config", "check"]).await;
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let login = "access_key_id = \"id\"\nsecret_access_key = \"s3cret\"";
    for (lines, wanted) in [
        (format!("url = \"ftp://bucket\"\n{login}"), ":4:7: `url` must be a bucket such as"),
        (format!("url = \"s3://x\"\n{login}"), ":4:7: `url` must have the bucket's name after its `://`"),
        (format!("url = \"s3://bucket/a//b\"\n{login}"), ":4:7: `url` must have a prefix of"),
        (format!("url = \"s3://bucket/../b\"\n{login}"), ":4:7: `url` must have a prefix of"),
        ("url = \"file://archive\"".to_owned(), ":4:7: `url` must name a whole path after file://"),
        (format!("url = \"file:///tmp\"\n{login}"), ":5:17: `access_key_id` goes with a `url` that begins with s3://"),
        ("url = \"file:///tmp\"\nallow = [\"10.0.0.0/8\"]".to_owned(), ":5:9: `allow` is for a bucket"),
        ("url = \"s3://bucket\"\naccess_key_id = \"id\"".to_owned(), "`secret_access_key` of this sink is missing"),
        (format!("url = \"s3://bucket\"\nregion = \"eu central\"\n{login}"), ":5:10: `region` must be a region"),
        (format!("url = \"s3://bucket\"\nendpoint = \"minio:9000\"\n{login}"), ":5:12: `endpoint` must be an http or https URL"),
        (format!("url = \"s3://bucket\"\nbatch = 0\n{login}"), ":5:9: `batch` must be a whole number from 1 to 100"),
        (format!("url = \"s3://bucket\"\ntext = \"x\"\n{login}"), "`text` is a key of kind ="),
    ] {
        let (valid, said) = said(&lines).await;
        assert!(!valid && said.contains(wanted) && !said.contains("s3cret"), "{wanted}: {said}");
    }
    let file = system.config("[[sink]]\nname = \"archive\"\nkind = \"archive\"\nurl = \"s3://bucket/p\"\nregion = \"eu-central-1\"\naccess_key_id = \"id\"\nsecret_access_key = \"s3cret\"\n");
    let event = file.with_extension("json");
    std::fs::write(&event, removed("", "u1").body).unwrap();
    let output = system.run_with(Some(&file), &["route", "test", "--event", event.to_str().unwrap(), "--id", "a/b"]).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "PUT https://s3.eu-central-1.amazonaws.com/bucket/p/mindtickle/",
        "/a%252Fb.json",
        "if-none-match: *",
        "content-type: application/json",
        "authorization: (signature)",
        "user.deprovisioned",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(!shown.contains("s3cret"), "{shown}");
}
