//! The watchdog, in real workers under their own role, against a stub of the provider's API.

use crate::stub_provider_api::{Instead, StubProviderApi, TOKEN};
use crate::system::{System, eventually};
use serde_json::json;
use std::path::PathBuf;

const SINK: &str = "[[sink]]\nname = \"nowhere\"\nkind = \"null\"\n\n";

fn config(system: &System, stub: &StubProviderApi, lines: &str) -> PathBuf {
    system.config(&(SINK.to_owned() + &stub.config(&format!("watchdog = \"1s\"\n{lines}"))))
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_webhooks_are_switched_on_again_by_one_of_two_workers_within_the_limits_and_it_is_told() {
    let stub = StubProviderApi::start().await;
    for n in 1..=9 {
        stub.add(&format!("wh_{n}"), "suspended");
    }
    stub.add("wh_off", "disabled");
    let system = System::new("watchdog").await;
    system.use_roles().await;
    system.set_env("MINDTICKLE_API_TOKEN", TOKEN);
    let config = config(&system, &stub, "");
    let workers = [system.worker(&config), system.worker(&config)];
    let suspended = || stub.fields("status").iter().filter(|(_, status)| status == "suspended").count();
    eventually("all are active", async || suspended() == 0).await;
    let reactivations = async || system.value::<i64>("select reactivations from sluice.watchdog").await;
    eventually("it is written down", async || reactivations().await == 9).await;
    assert_eq!(stub.count("PATCH"), 9, "each once");
    assert_eq!(stub.fields("status").last().unwrap().1, json!("disabled"), "somebody switched that one off");

    stub.suspend("wh_3");
    eventually("it is active again", async || suspended() == 0).await;
    eventually("it is written down", async || reactivations().await == 10).await;
    assert_eq!(stub.count("PATCH"), 10);
    let row = "select (reactivated = '{wh_3}' and webhooks = 10 and error is null and checked_at >= reactivated_at) from sluice.watchdog";
    assert!(system.value::<bool>(row).await);
    let rounds: Vec<_> = stub.asked().into_iter().filter(|asked| asked.what.starts_with("GET")).map(|asked| asked.at).collect();
    assert!(rounds.windows(3).all(|three| (three[2] - three[0]).as_secs_f64() > 1.5), "one round a second, whoever does it");
    let log: String = workers.iter().map(|worker| worker.log()).collect();
    assert!(log.contains("the provider had suspended this webhook: it was re-activated") && log.contains("wh_3"), "{log}");
    assert!(!log.contains(TOKEN) && !log.contains("in.example"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_in_trouble_is_told_and_asked_again_and_only_the_named_webhooks_are_touched() {
    let stub = StubProviderApi::scripted(|_| Some(Instead::Answer(500, "", format!("<title>trouble with {TOKEN}</title>")))).await;
    stub.add("wh_ours", "suspended");
    stub.add("wh_theirs", "suspended");
    let system = System::new("watchdog_trouble").await;
    let config = config(&system, &stub, &format!("token = \"{TOKEN}\"\nwebhooks = [\"wh_ours\"]"));
    let mut worker = system.working(&config).await;
    let error = "select coalesce(error, '') from sluice.watchdog";
    let says = "500 Internal Server Error (trouble with ***)";
    eventually("the error is written down", async || system.value::<String>(error).await.contains(says)).await;
    assert!(system.value::<bool>("select checked_at is null from sluice.watchdog").await, "it has not answered");
    stub.script(|_| None);
    eventually("it is written down", async || system.value::<i64>("select reactivations from sluice.watchdog").await == 1).await;
    eventually("that is over", async || system.value::<String>(error).await.is_empty()).await;
    assert_eq!(stub.fields("status"), [("wh_ours".to_owned(), json!("active")), ("wh_theirs".to_owned(), json!("suspended"))]);
    assert!(!worker.log().contains(TOKEN));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_at_once_while_the_provider_hangs_and_without_a_watchdog_needs_no_token() {
    let stub = StubProviderApi::scripted(|_| Some(Instead::Hang)).await;
    let system = System::new("watchdog_hangs").await;
    system.set_env("MINDTICKLE_API_TOKEN", TOKEN);
    let mut worker = system.working(&config(&system, &stub, "")).await;
    eventually("it was asked", async || !stub.asked().is_empty()).await;
    worker.stop().await;
    assert!(worker.log().contains("stopped"), "{}", worker.log());

    system.set_env("MINDTICKLE_API_TOKEN", "");
    let off = system.config(&(SINK.to_owned() + &stub.config("token = \"${NOT_SET_ANYWHERE}\"")));
    system.working(&off).await.stop().await;
    let mut without = system.worker(&config(&system, &stub, ""));
    assert_eq!(without.wait().await.code(), Some(78));
    assert!(without.log().contains("`watchdog` needs a token: set MINDTICKLE_API_TOKEN"), "{}", without.log());
}
