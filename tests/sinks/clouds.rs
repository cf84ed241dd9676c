//! `kind = "archive"` in Azure, against Azurite, and in Google Cloud Storage, against a stub.

use crate::archive::{ODD, ODD_NAMES, RETRY, day, removed};
use crate::azure::{self, Azurite};
use crate::client::store_all;
use crate::google;
use crate::proxy::{Fault, Proxy};
use crate::s3::percent;
use crate::system::{System, eventually};
use std::net::SocketAddr;
use std::path::PathBuf;

fn container(endpoint: SocketAddr, key: &str, keys: &str) -> String {
    let login = format!("account = \"{}\"\naccess_key = \"{key}\"", azure::ACCOUNT);
    sink(&format!("url = \"az://events/sluice/v1\"\nendpoint = \"http://{endpoint}/{}\"\n{login}\n{keys}", azure::ACCOUNT))
}

fn google_bucket(system: &System, endpoint: SocketAddr) -> String {
    let key = system.config("").with_extension("key.json");
    std::fs::write(&key, google::service_account_key()).unwrap();
    let login = format!("service_account_key = \"${{file:{}}}\"", key.display());
    sink(&format!("url = \"gs://events/sluice/v1\"\nendpoint = \"http://{endpoint}\"\n{login}\n{RETRY}"))
}

fn sink(lines: &str) -> String {
    format!("[[sink]]\nname = \"archive\"\nkind = \"archive\"\nallow = [\"127.0.0.0/8\"]\n{lines}\n\n")
}

#[tokio::test]
async fn every_event_is_one_blob_in_the_container_byte_for_byte_and_a_replay_writes_none_again() {
    let Some(azurite) = Azurite::start().await else { return };
    let system = System::new("azure_journey").await;
    let _worker = system.working(&system.config(&container(azurite.peer.address, azure::KEY, ""))).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    let events: Vec<_> = ODD.iter().map(|id| removed(id, &format!("u-{id}"))).collect();
    for event in &events {
        client.store(event).await;
    }
    system.drained(ODD.len() as i64).await;
    let day = day(&system).await;
    let mut expected: Vec<String> = ODD_NAMES.iter().map(|name| format!("sluice/v1/mindtickle/{day}/{name}")).collect();
    expected.sort();
    for status in [200, 412] {
        assert_eq!(azurite.names().await, expected);
        for (event, name) in events.iter().zip(ODD_NAMES) {
            let blob = azurite.get(&format!("sluice/v1/mindtickle/{day}/{}", percent(name))).await;
            assert_eq!((blob.status(), blob.body == event.body), (200, true), "{name}");
            assert_eq!(blob.header("content-type"), Some("application/json"));
        }
        let there = format!("select count(*) from sluice.deliveries where last_status = {status}");
        assert_eq!(system.value::<i64>(&there).await, ODD.len() as i64);
        system.execute("update sluice.deliveries set status = 'pending'").await;
        system.drained(ODD.len() as i64).await;
    }
}

#[tokio::test]
async fn a_wrong_key_or_container_of_azure_buries_nothing() {
    let Some(azurite) = Azurite::start().await else { return };
    let wrong = "d3JvbmcgYXp1cml0ZSBrZXkgd3JvbmcgYXp1cml0ZSBrZXkgd3JvbmcgYXp1cml0ZSBrZXkgd3JvbmcgYXp1cg==";
    let right = container(azurite.peer.address, azure::KEY, "");
    for (n, (config, said)) in [
        (container(azurite.peer.address, wrong, ""), "AuthorizationFailure: answered 403"),
        (right.replace("az://events", "az://elsewhere"), "ContainerNotFound: answered 404"),
    ]
    .into_iter()
    .enumerate()
    {
        let system = System::new(&format!("azure_strict_{n}")).await;
        let mut worker = system.working(&system.config(&config)).await;
        let ingest = system.ingest().await;
        ingest.client().store(&removed("e1", "u1")).await;
        eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
        assert!(worker.log().contains(said), "{said}: {}", worker.log());
        assert!(!worker.log().contains(wrong) && !worker.log().contains(azure::KEY));
        assert_eq!((system.count("pending").await, system.value::<i32>("select attempts::int4 from sluice.deliveries").await), (1, 0));
        worker.stop().await;
        let _worker = system.working(&system.config(&right)).await;
        system.drained(1).await;
    }
}

#[tokio::test]
async fn all_blobs_are_there_after_azurite_was_restarted_and_its_answers_lost_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    let Some(mut azurite) = Azurite::start().await else { return };
    let proxy = Proxy::start(azurite.peer.address).await;
    let system = System::new("azure_restart").await;
    let keys = "concurrency = 2\nretry = { initial = \"50ms\", cap = \"500ms\", max_attempts = 100 }\nbreaker = { rest = \"50ms\" }";
    let _worker = system.working(&system.config(&container(proxy.address, azure::KEY, keys))).await;
    let ingest = system.ingest().await;
    let list = |part: usize| (0..COUNT / 10).map(|n| removed(&format!("e{part}-{n}"), &format!("u{part}-{n}"))).collect();
    let storing = tokio::spawn(store_all(ingest.address, (0..10).map(list).collect()));
    eventually("some are delivered", async || system.count("delivered").await > 200).await;
    // An answer that is lost: the blob is there, and the worker does not know.
    proxy.once("PUT", Fault::Cut);
    eventually("it is lost", async || proxy.met() >= 1).await;
    eventually("more are delivered", async || system.count("delivered").await > 800).await;
    azurite.restart().await;
    storing.await.unwrap();
    eventually("half of them are delivered", async || system.count("delivered").await > COUNT as i64 / 2).await;
    system.drained(COUNT as i64).await;
    assert_eq!(azurite.names().await.len(), COUNT);
    let there: i64 = system.value("select count(*) from sluice.deliveries where last_status = 412").await;
    eprintln!("{there} of {COUNT} were there already");
    assert!(there >= 1, "what was put before its answer was lost was found there");
}

#[tokio::test]
async fn a_service_accounts_key_signs_each_put_to_google_and_a_replay_writes_no_object_again() {
    let (stub, objects) = google::stub(|_| None).await;
    let system = System::new("google_journey").await;
    let _worker = system.working(&system.config(&google_bucket(&system, stub.address))).await;
    let ingest = system.ingest().await;
    let events: Vec<_> = ODD.iter().map(|id| removed(id, &format!("u-{id}"))).collect();
    for event in &events {
        ingest.client().store(event).await;
    }
    system.drained(ODD.len() as i64).await;
    system.execute("update sluice.deliveries set status = 'pending'").await;
    system.drained(ODD.len() as i64).await;
    assert_eq!(system.value::<i64>("select count(*) from sluice.deliveries where last_status = 412").await, ODD.len() as i64);
    let day = day(&system).await;
    let objects = objects.lock().unwrap().clone();
    assert_eq!(objects.len(), ODD.len());
    for (event, name) in events.iter().zip(ODD_NAMES) {
        assert_eq!(objects[&format!("/events/sluice/v1/mindtickle/{day}/{name}")], event.body, "{name}");
    }
}

#[tokio::test]
async fn each_answer_of_a_stub_google_has_its_consequence() {
    let cases: [(google::Script, &str, usize, &str); 6] = [
        (|before| (before == 0).then_some((429, "")), "delivered", 2, ""),
        (|before| (before < 2).then_some((503, "ServiceUnavailable")), "delivered", 3, ""),
        (|_| Some((500, "InternalError")), "dead", 3, "InternalError: answered 500"),
        (|_| Some((401, "AuthenticationRequired")), "pending", 1, "AuthenticationRequired: answered 401"),
        (|_| Some((403, "AccessDenied")), "pending", 1, "AccessDenied: answered 403"),
        (|_| Some((404, "NoSuchBucket")), "pending", 1, "NoSuchBucket: answered 404"),
    ];
    for (n, (script, became, tries, said)) in cases.into_iter().enumerate() {
        let (stub, _) = google::stub(script).await;
        let system = System::new(&format!("google_stub_{n}")).await;
        let worker = system.working(&system.config(&google_bucket(&system, stub.address))).await;
        let ingest = system.ingest().await;
        ingest.client().store(&removed("e1", "u1")).await;
        if became == "pending" {
            eventually("the sink rests", async || worker.log().contains("the sink rests")).await;
        } else {
            eventually("it is settled", async || system.count(became).await == 1).await;
        }
        let row = "select status, coalesce(last_error, '') from sluice.deliveries";
        let (status, error): (String, String) = sqlx::query_as(row).fetch_one(&system.db).await.unwrap();
        assert_eq!((status.as_str(), stub.asked.lock().unwrap().len()), (became, tries), "{n}: {error}");
        let told = if became == "pending" { worker.log() } else { error };
        assert!(told.contains(said) && !told.contains("s3cret") && !told.contains("PRIVATE"), "{n}: {told}");
    }
}

#[tokio::test]
async fn a_mistake_in_what_a_cloud_needs_is_told_with_its_place_and_route_test_shows_the_put() {
    let system = System::new("clouds_config").await;
    let key = system.config("").with_extension("key.json");
    std::fs::write(&key, google::service_account_key()).unwrap();
    let google = format!("url = \"gs://bucket/p\"\nservice_account_key = \"${{file:{}}}\"", key.display());
    let azure = format!("url = \"az://container/p\"\naccount = \"acct\"\naccess_key = \"{}\"", azure::KEY);
    let run = async |lines: &str, command: &[&str]| {
        let text = format!("[[sink]]\nname = \"archive\"\nkind = \"archive\"\n{lines}\n\n");
        let output = system.run_with(Some(&system.config(&text)), command).await;
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    for (lines, wanted) in [
        ("url = \"gs://bucket\"".to_owned(), "`service_account_key` of this sink is missing"),
        ("url = \"az://container\"\naccount = \"acct\"".to_owned(), "`access_key` of this sink is missing"),
        (azure.replace("acct", "Acct"), ":5:11: `account` must be a storage account's name"),
        (format!("{azure}\nregion = \"us-east-1\""), ":7:10: `region` goes with a `url` that begins with s3://"),
        (format!("{google}\naccess_key = \"s3cret\""), ":6:14: `access_key` goes with a `url` that begins with az://"),
        ("url = \"file:///tmp\"\nendpoint = \"http://127.0.0.1\"".to_owned(), ":5:12: `endpoint` is for a bucket"),
    ] {
        let (valid, said) = run(&lines, &["config", "check"]).await;
        assert!(!valid && said.contains(wanted) && !said.contains("s3cret"), "{wanted}: {said}");
    }
    for (lines, wanted) in [
        ("url = \"gs://bucket\"\nservice_account_key = \"{s3cret\"", "`service_account_key` that cannot be used"),
        ("url = \"az://container\"\naccount = \"acct\"\naccess_key = \"s3cret\"", "`access_key` that cannot be used"),
    ] {
        let (valid, said) = run(lines, &["worker"]).await;
        assert!(!valid && said.contains(wanted) && !said.contains("s3cret"), "{wanted}: {said}");
    }
    let event: PathBuf = system.config("").with_extension("event.json");
    std::fs::write(&event, removed("", "u1").body).unwrap();
    for (lines, wanted) in [
        (&google, ["PUT https://storage.googleapis.com/bucket/p%2Fmindtickle%2F", "x-goog-if-generation-match: 0"]),
        (&azure, ["PUT https://acct.blob.core.windows.net/container/p/mindtickle/", "if-none-match: *"]),
    ] {
        let (shows, shown) = run(lines, &["route", "test", "--event", event.to_str().unwrap(), "--id", "a/b"]).await;
        for line in
            wanted.into_iter().chain(["a%252Fb", "content-type: application/json", "authorization: (signature)", "user.deprovisioned"])
        {
            assert!(shows && shown.contains(line), "{line}: {shown}");
        }
        assert!(!shown.contains("PRIVATE") && !shown.contains(azure::KEY), "{shown}");
    }
}
