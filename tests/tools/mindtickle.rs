//! `sluice mindtickle`, as a real process against a stub of the provider's API.

use crate::stub_provider_api::{COMPANY, Instead, StubProviderApi, TOKEN};
use crate::system::{PATIENCE, free_port};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;

/// What a run of the command left.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{} {}", self.out, self.err))
    }
}

/// `sluice mindtickle …` with this config, and these variables besides.
async fn run_with(config: &str, env: &[(&str, &str)], args: &[&str]) -> Ran {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("sluice.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command
        .arg("mindtickle")
        .args(args)
        .current_dir(dir.path())
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let ran = Ran { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) };
    assert!(!ran.out.contains(TOKEN) && !ran.err.contains(TOKEN), "the token is shown: {} {}", ran.out, ran.err);
    ran
}

async fn run(stub: &StubProviderApi, args: &[&str]) -> Ran {
    stub.another_process();
    run_with(&stub.config(""), &[("MINDTICKLE_API_TOKEN", TOKEN), ("MINDTICKLE_COMPANY_ID", COMPANY)], args).await
}

const URL: &str = "https://in.example/webhooks/mindtickle";

#[tokio::test]
async fn a_webhook_is_registered_listed_subscribed_and_switched_on_again() {
    let stub = StubProviderApi::start().await;
    let registered = run(&stub, &["register", "--url", URL, "--json"]).await;
    assert_eq!((registered.code, &registered.json()["webhook_id"]), (0, &json!("wh_1")), "{}", registered.err);
    assert_eq!(stub.fields("events")[0].1.as_array().unwrap().len(), 6, "all that are described, unless said otherwise");
    let second = run(&stub, &["register", "--url", URL, "--events", "quiz.submitted, course.completed"]).await;
    assert_eq!((second.code, second.out.starts_with("registered: wh_2")), (0, true), "{}", second.err);

    let subscribed = run(&stub, &["subscribe", "wh_2", "--events", "user.provisioned,course.complete"]).await;
    assert!(subscribed.code == 0 && subscribed.err.contains("course.complete is none of the event types"), "{}", subscribed.err);
    assert_eq!(stub.fields("events")[1].1, json!(["user.provisioned", "course.complete"]));

    stub.suspend("wh_2");
    let listed = run(&stub, &["list", "--json"]).await.json();
    assert_eq!(listed["webhooks"][1]["status"], "suspended");
    let reactivated = run(&stub, &["reactivate", "wh_2", "--json"]).await.json();
    assert_eq!((&reactivated["webhook_id"], &reactivated["status"]), (&json!("wh_2"), &json!("active")));
    let listed = run(&stub, &["list"]).await;
    assert!(listed.out.contains("wh_2  active  https://in.example/"), "{}", listed.out);
}

#[tokio::test]
async fn whatever_the_body_of_an_error_is_its_message_is_short_and_says_what_to_do() {
    let page = format!("<!DOCTYPE html><html><head><title>502 Bad\n Gateway</title></head><body>{}</body></html>", "x".repeat(100_000));
    for (status, headers, body, code, says) in [
        (401, "", r#"{"error": {"message": "expired"}}"#.to_owned(), 1, "401 Unauthorized (expired); correct MINDTICKLE_API_TOKEN"),
        (403, "", format!("token {TOKEN} may not"), 1, "(token *** may not); correct MINDTICKLE_API_TOKEN"),
        (400, "", "unknown event\r\n\x1b[31m type".into(), 1, "400 Bad Request (unknown event [31m type)"),
        (404, "content-type: text/html\r\n", page.clone(), 1, "is the webhook's id right"),
        (301, "location: https://elsewhere.example/secret\r\n", String::new(), 1, "redirects are not followed"),
        (502, "content-type: text/html\r\n", page, 69, "502 Bad Gateway (502 Bad Gateway); try again later"),
        (500, "", String::new(), 69, "500 Internal Server Error; try again later"),
        (503, "", "[1, 2".into(), 69, "503 Service Unavailable ([1, 2)"),
        (200, "", "<html>log in</html>".into(), 1, "no list of webhooks"),
        (200, "", r#"[{"url": "https://in.example"}]"#.into(), 1, "no list of webhooks"),
        (200, "", "\u{fffd}\0".into(), 1, "no list of webhooks"),
    ] {
        let stub = StubProviderApi::scripted(move |_| Some(Instead::Answer(status, headers, body.clone()))).await;
        let ran = run(&stub, &["list"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{status}: {}", ran.err);
        assert!(ran.err.contains(says) && ran.err.lines().count() == 1 && ran.err.len() < 500, "{status}: {}", ran.err);
        assert_eq!(stub.asked().len(), 1, "{status} is not tried again");
    }
}

#[tokio::test]
async fn a_429_is_waited_for_as_long_as_it_asks_and_a_long_one_is_told() {
    let limited = |after: &'static str| Instead::Answer(429, after, "slow down".into());
    let stub = StubProviderApi::scripted(move |n| (n == 1).then(|| limited("retry-after: 1\r\n"))).await;
    let ran = run(&stub, &["list", "--json"]).await;
    assert_eq!((ran.code, &ran.json()["webhooks"]), (0, &json!([])), "{}", ran.err);
    let asked = stub.asked();
    assert!(asked.len() == 2 && asked[1].at - asked[0].at >= Duration::from_secs(1));

    for (after, requests, says) in
        [("retry-after: 3600\r\n", 1, "a rest of 3600 s"), ("retry-after: 0\r\n", 3, "429 Too Many Requests (slow down)")]
    {
        let stub = StubProviderApi::scripted(move |_| Some(limited(after))).await;
        let ran = run(&stub, &["register", "--url", URL]).await;
        assert_eq!((ran.code, stub.asked().len()), (69, requests), "{}", ran.err);
        assert!(ran.err.contains(says) && !ran.err.contains("may have been registered"), "{}", ran.err);
    }
}

#[tokio::test]
async fn an_api_that_is_down_or_hangs_is_exit_69_and_a_registration_that_may_have_been_done_is_not_tried_again() {
    let stub = StubProviderApi::scripted(|_| Some(Instead::Hang)).await;
    let config = stub.config("timeout = \"300ms\"\ncompany_id = \"acme\"\ntoken = \"${MINDTICKLE_TOKEN}\"");
    let env = [("MINDTICKLE_TOKEN", TOKEN)];
    for (args, says) in [(&["list"][..], "did not answer in 0.3 s"), (&["register", "--url", URL], "may have been registered all the same")]
    {
        let ran = run_with(&config, &env, args).await;
        assert!(ran.code == 69 && ran.err.contains(says), "{}: {}", ran.code, ran.err);
    }
    assert_eq!(stub.asked().len(), 2);
    let nobody = format!("[mindtickle]\napi_url = \"http://127.0.0.1:{}\"\nallow = [\"127.0.0.0/8\"]", free_port());
    let ran = run_with(&nobody, &[("MINDTICKLE_API_TOKEN", TOKEN)], &["list"]).await;
    assert!(ran.code == 69 && ran.err.contains("the provider's API is down: cannot connect to 127.0.0.1"), "{}: {}", ran.code, ran.err);
}

#[tokio::test]
async fn what_is_missing_or_wrong_here_is_told_before_anything_is_asked() {
    let stub = StubProviderApi::start().await;
    let token = ("MINDTICKLE_API_TOKEN", TOKEN);
    let inner = format!("[mindtickle]\napi_url = \"http://{}\"", stub.address);
    for (config, env, args, code, says) in [
        (stub.config(""), &[][..], &["list"][..], 78, "set MINDTICKLE_API_TOKEN"),
        (String::new(), &[], &["list"], 78, "set MINDTICKLE_API_TOKEN"),
        (stub.config(""), &[token], &["register", "--url", URL], 78, "Set MINDTICKLE_COMPANY_ID"),
        (
            stub.config(""),
            &[("MINDTICKLE_API_TOKEN", "two\nlines")],
            &["list"],
            78,
            "MINDTICKLE_API_TOKEN in the environment must be printable",
        ),
        (stub.config("api_urls = 1"), &[token], &["list"], 78, "unknown key `api_urls`"),
        (inner, &[token], &["list"], 78, "`allow` of [mindtickle]"),
        (stub.config(""), &[token], &["reactivate", "../x"], 2, "must be a webhook's id"),
        (stub.config(""), &[token], &["register", "--url", "in.example"], 2, "http or https URL"),
        (stub.config(""), &[token], &["subscribe", "wh_1"], 2, "--events"),
    ] {
        let ran = run_with(&config, env, args).await;
        assert!(ran.code == code && ran.err.contains(says), "{args:?}: {}: {}", ran.code, ran.err);
    }
    assert!(stub.asked().is_empty());
    // Sources and sinks are not looked at, so that their secrets need not be here.
    let config = stub.config("token = \"wrong\"") + "[[source]]\nname = \"m\"\nsecrets = [\"${UNSET}\"]\n";
    assert_eq!(run_with(&config, &[token], &["list"]).await.code, 0, "the environment wins");
}
