//! Every recipe of `recipes/`: checked, tried out on paper by `sluice route test`, and run as it stands through real processes. A recipe that
//! is not in the table fails the tests.

use crate::messages::messages;
use crate::scim;
use crate::sink::Sink as Stub;
use crate::system::{Ingest, Process, System, eventually, free_port};
use crate::xapi::Lrs;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;

/// What a recipe needs, and what it makes of an event that it is for and of one that it is not for.
struct Recipe {
    name: &'static str,
    /// What it needs in the environment, beside what all need.
    env: &'static [(&'static str, &'static str)],
    /// Name and kind of its sink, of the first where it has several.
    sink: (&'static str, &'static str),
    taken: (&'static str, Value),
    /// Parts of the request that is made of it.
    request: &'static [&'static str],
    left: (&'static str, Value),
    /// What becomes of that one: result and reason.
    because: (&'static str, &'static str),
}

/// Every recipe.
fn recipes() -> Vec<Recipe> {
    let not_subscribed = ("not subscribed", "`events` does not list its type");
    vec![
        Recipe {
            name: "lms-xapi",
            env: &[],
            sink: ("lms", "xapi"),
            taken: ("course.completed", json!({ "userId": "u-1", "courseId": "c-7", "score": 80, "completedAt": "2026-11-20T10:00:00Z" })),
            request: &["POST http://127.0.0.1:8100/…", "adlnet.gov/expapi/verbs/completed", "acme.learn.example.com/courses/c-7", "u-1"],
            left: ("user.deprovisioned", json!({ "userId": "u-1" })),
            because: not_subscribed,
        },
        Recipe {
            name: "coaching-slack",
            env: &[("SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T0/B0/t0k3n")],
            sink: ("coaching", "slack"),
            taken: ("quiz.submitted", json!({ "userId": "u-1", "quizId": "q-7", "score": 45, "maxScore": 100 })),
            request: &["POST", "blocks", "*Low score*: u-1 has 45 in q-7", "Event evt_test"],
            left: ("quiz.submitted", json!({ "userId": "u-1", "quizId": "q-7", "score": 70, "maxScore": 100 })),
            because: ("skipped", "`when` is false for it"),
        },
        Recipe {
            name: "manager-teams",
            env: &[("TEAMS_WEBHOOK_URL", "https://prod.example.com/workflows/t0k3n")],
            sink: ("manager", "teams"),
            taken: ("certification.expired", json!({ "userId": "u-1", "certName": "MEDDIC", "expiredAt": "2026-11-20T10:00:00Z" })),
            request: &["POST", "AdaptiveCard", "u-1: MEDDIC, to be renewed by no set date", "Event evt_test"],
            left: ("course.completed", json!({ "userId": "u-1", "courseId": "c-7" })),
            because: not_subscribed,
        },
        Recipe {
            name: "leaderboards",
            env: &[],
            sink: ("figures", "projection"),
            taken: ("module.progress", json!({ "userId": "u-1", "moduleId": "m-7", "progressPct": 45, "timeSpentSec": 60 })),
            request: &["m-7", "45"],
            left: ("badge.awarded", json!({ "userId": "u-1" })),
            because: not_subscribed,
        },
        Recipe {
            name: "crm-salesforce",
            env: &[("SALESFORCE_URL", "https://acme.my.example.com"), ("SALESFORCE_CLIENT_SECRET", "t0k3n")],
            sink: ("crm", "salesforce"),
            taken: ("course.completed", json!({ "userId": "u-1", "courseId": "c-7", "score": 80, "completedAt": "2026-11-20T10:00:00Z" })),
            request: &["PATCH https://acme.my.example.com/services/data/", "/External_Id__c/acme%3Au-1%3Ac-7", "Completed_At__c"],
            left: ("quiz.submitted", json!({ "userId": "u-1", "quizId": "q-7", "score": 45 })),
            because: not_subscribed,
        },
        Recipe {
            name: "idp-scim",
            env: &[("SCIM_TOKEN", "t0k3n")],
            sink: ("idp", "scim"),
            taken: ("user.provisioned", json!({ "userId": "u-1", "email": "u-1@example.com", "role": "learner", "teamId": "t-7" })),
            request: &["GET http://127.0.0.1:8101/…", "authorization: (configured)", "u-1@example.com"],
            left: ("course.completed", json!({ "userId": "u-1", "courseId": "c-7" })),
            because: not_subscribed,
        },
        Recipe {
            name: "manager-email",
            env: &[],
            sink: ("low-scores", "email"),
            taken: ("quiz.submitted", json!({ "userId": "u-1", "quizId": "q-7", "score": 45, "maxScore": 60 })),
            request: &["To: managers@example.com", "Subject: Low score in q-7", "u-1 has 45 of 60 in q-7."],
            left: ("quiz.submitted", json!({ "userId": "u-1", "quizId": "q-7", "score": 70, "maxScore": 100 })),
            because: ("skipped", "`when` is false for it"),
        },
        Recipe {
            name: "archive-s3",
            env: &[("AWS_SECRET_ACCESS_KEY", "t0k3n")],
            sink: ("archive", "archive"),
            taken: ("user.deprovisioned", json!({ "userId": "u-1", "email": "u-1@example.com", "reason": "left" })),
            request: &["PUT", "evt_test.json", r#""reason":"left""#],
            left: ("course.completed", json!({ "userId": "u-1", "courseId": "c-7" })),
            because: not_subscribed,
        },
        Recipe {
            name: "any-http",
            env: &[("ANY_SIGNING_SECRET", "whsec_dDBrM24=")],
            sink: ("any", "http"),
            taken: ("quiz.submitted", json!({ "userId": "u-1", "quizId": "q-7", "score": 45, "maxScore": 60 })),
            request: &[
                "POST",
                "webhook-signature",
                r#""learner":"acme:u-1""#,
                r#""score":45"#,
                r#""out_of":60"#,
                r#""type":"quiz.submitted""#,
            ],
            left: ("user.provisioned", json!({ "userId": "u-1", "email": "u-1@example.com" })),
            because: not_subscribed,
        },
    ]
}

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn file(name: &str) -> PathBuf {
    at(&format!("recipes/{name}.toml"))
}

/// Runs a command with a recipe and nothing in the environment but what the recipe needs.
async fn sluice(recipe: &Recipe, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(args).arg("--config").arg(file(recipe.name)).env_clear().envs(recipe.env.iter().copied());
    command.env("MINDTICKLE_WEBHOOK_SECRET", SECRET).env("DATABASE_URL", "postgres://sluice@127.0.0.1/sluice");
    command.output().await.expect("it starts")
}

#[test]
fn every_recipe_is_in_the_table_and_has_a_walkthrough_and_a_line_in_the_index() {
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let there: BTreeSet<String> = std::fs::read_dir(at("recipes")).unwrap().map(|entry| stem(entry.unwrap().path())).collect();
    let known: BTreeSet<String> = recipes().iter().map(|recipe| recipe.name.to_owned()).collect();
    assert_eq!(there, known, "recipes/ beside the table of this test: a new recipe needs an entry there");
    let index = std::fs::read_to_string(at("docs/recipes/README.md")).unwrap();
    for name in there {
        assert!(index.contains(&format!("recipes/{name}.toml)")), "docs/recipes/README.md has no line for {name}");
        let walkthrough = std::fs::read_to_string(at(&format!("docs/recipes/{name}.md")));
        assert!(walkthrough.is_ok_and(|text| text.contains(&format!("recipes/{name}.toml"))), "docs/recipes/{name}.md");
    }
}

#[tokio::test]
async fn every_recipe_passes_its_check_with_the_variables_it_names_and_no_others() {
    for recipe in recipes() {
        let output = sluice(&recipe, &["config", "check"]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}: {}", recipe.name, String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(&format!("sinks: {}", recipe.sink.0)) && text.contains("sources: mindtickle\n"), "{text}");
        let text = std::fs::read_to_string(file(recipe.name)).unwrap();
        assert!(text.contains("listen = \"${SLUICE_LISTEN:-127.0.0.1:8080}\""), "{}: it cannot listen elsewhere", recipe.name);
        for (variable, _) in recipe.env {
            let said = text.lines().take_while(|line| line.starts_with('#')).any(|line| line.contains(variable));
            assert!(said, "{}: its first lines do not name {variable}", recipe.name);
        }
    }
}

#[tokio::test]
async fn every_recipe_makes_a_request_of_an_event_that_it_is_for_and_none_of_another() {
    let folder = tempfile::tempdir().unwrap();
    for recipe in recipes() {
        let (name, kind) = recipe.sink;
        let route = async |(event_type, data): &(&str, Value)| -> Value {
            let event = folder.path().join("event.json");
            std::fs::write(&event, json!({ "event": event_type, "companyId": "acme", "data": data }).to_string()).unwrap();
            let output = sluice(&recipe, &["route", "test", "--json", "--event", event.to_str().unwrap()]).await;
            assert!(output.status.success(), "{}: {}", recipe.name, String::from_utf8_lossy(&output.stderr));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let sink = report["sinks"].as_array().unwrap().iter().find(|sink| sink["sink"] == name);
            let sink = sink.unwrap_or_else(|| panic!("{}: no sink {name}: {report}", recipe.name));
            assert_eq!(sink["kind"], kind);
            sink.clone()
        };
        let taken = route(&recipe.taken).await;
        assert_eq!(taken["result"], "sent", "{}: {taken}", recipe.name);
        let request = taken["request"].as_str().expect("a request");
        for part in recipe.request {
            assert!(request.contains(part), "{}: {part} is missing:\n{request}", recipe.name);
        }
        for secret in ["t0k3n", "lrs-s3cret", "scim-s3cret", "dDBrM24"] {
            assert!(!request.contains(secret), "{}: the request shows a secret:\n{request}", recipe.name);
        }
        let left = route(&recipe.left).await;
        assert_eq!((&left["result"], &left["reason"]), (&json!(recipe.because.0), &json!(recipe.because.1)), "{}", recipe.name);
        assert!(left.get("request").is_none());
    }
}

const SECRET: &str = "s3cret";

/// A recipe at work: all processes with its file, and samples of all six types sent by `sluice send`.
struct Running {
    system: System,
    _worker: Process,
    _ingest: Ingest,
}

impl Running {
    /// `config` is the recipe's file. Sends two samples of each type, and waits until all is decided.
    async fn start(name: &str, config: &Path, env: &[(&str, &str)]) -> Self {
        let system = System::empty(&format!("recipe_{name}")).await;
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen_at = listen.to_string();
        let env: Vec<_> = env.iter().copied().chain([("MINDTICKLE_WEBHOOK_SECRET", SECRET), ("SLUICE_LISTEN", &listen_at)]).collect();
        env.iter().for_each(|(name, value)| system.set_env(name, value));
        system.migrate().await;
        let worker = system.working(config).await;
        let ingest = system.ingest_at(listen, config).await;
        let sent = system.command(Some(config), &["send", "--count", "12"]).envs(env.iter().copied()).output().await.unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        assert_eq!(system.value::<i64>("select count(*) from sluice.events where quarantine is null").await, 12);
        eventually("all is decided", async || system.count("pending").await == 0).await;
        Self { system, _worker: worker, _ingest: ingest }
    }

    async fn assert_delivered(&self, count: i64) {
        let others =
            "select coalesce(string_agg(concat_ws(' ', status, last_error), '; '), '') from sluice.deliveries where status <> 'delivered'";
        let others: String = self.system.value(others).await;
        assert_eq!((self.system.count("delivered").await, others), (count, String::new()));
    }
}

#[tokio::test]
async fn the_recipe_lms_xapi_as_it_stands_leaves_a_statement_of_each_learning_event_with_the_lrs() {
    let Some(lrs) = Lrs::start().await else { return };
    let url = format!("http://{}/xAPI", lrs.address());
    let running = Running::start("lms_xapi", &file("lms-xapi"), &[("LRS_URL", &url)]).await;
    running.assert_delivered(10).await;
    lrs.assert_each_once(10);
}

#[tokio::test]
async fn the_recipe_idp_scim_as_it_stands_leaves_users_with_the_idp_and_those_whose_certification_expired_in_the_group() {
    let Some(idp) = scim::Idp::start().await else { return };
    idp.create_group("Re-certification").await;
    let url = format!("http://{}/v2", idp.address);
    let running = Running::start("idp_scim", &file("idp-scim"), &[("SCIM_URL", &url), ("SCIM_TOKEN", scim::TOKEN)]).await;
    // Each sample is of another user: those whose certification expired were never provisioned.
    let system = &running.system;
    assert_eq!((system.count("delivered").await, system.count("dead").await), (4, 2));
    for user in ["u-5", "u-11"] {
        idp.create_user(json!({ "userName": format!("{user}@example.com"), "externalId": user, "active": true })).await;
    }
    system.execute("update sluice.deliveries set status = 'pending' where status = 'dead'").await;
    system.drained(6).await;
    let names = ["u-11@example.com", "u-2@example.com", "u-5@example.com", "u-8@example.com"];
    assert_eq!(idp.active().await, names.map(|name| (name.to_owned(), true)));
    assert_eq!(idp.members("Re-certification").await.len(), 2);
}

#[tokio::test]
async fn the_recipe_leaderboards_as_it_stands_fills_its_tables() {
    let running = Running::start("leaderboards", &file("leaderboards"), &[]).await;
    running.assert_delivered(12).await;
    let rows = "select concat_ws(' ', (select count(*) from sluice.course_completions), (select count(*) from sluice.quiz_results),
        (select count(*) from sluice.learner_progress), (select count(*) from sluice.certifications),
        (select count(*) from sluice.learners where active), (select points from sluice.leaderboard order by rank limit 1))";
    assert_eq!(running.system.value::<String>(rows).await, "2 2 2 2 2 100");
}

#[tokio::test]
async fn the_recipe_any_http_as_it_stands_posts_signed_bodies_in_its_own_shape() {
    const KEY: &[u8] = b"t0k3n";
    let stub = Stub::answering(200).await;
    let (url, secret) = (format!("http://{}/hook", stub.address), format!("whsec_{}", STANDARD.encode(KEY)));
    let running = Running::start("any_http", &file("any-http"), &[("ANY_URL", &url), ("ANY_SIGNING_SECRET", &secret)]).await;
    running.assert_delivered(8).await;
    stub.assert_each_once(8);
    for receipt in stub.ledger() {
        let header = |name: &str| receipt.request.header(name).expect("a header").to_owned();
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY).unwrap();
        mac.update(format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).as_bytes());
        mac.update(&receipt.request.body);
        assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
        let body: Value = serde_json::from_slice(&receipt.request.body).unwrap();
        let fields: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["data", "id", "learner", "origin", "out_of", "received_at", "score", "type", "version"]);
        assert_eq!((&body["id"], &body["origin"], &body["version"]), (&json!(receipt.event_id), &json!("mindtickle"), &json!(1)));
        assert_eq!(body["learner"], json!(format!("acme:{}", body["data"]["userId"].as_str().unwrap())));
    }
}

/// A recipe for a service on the Internet reaches no stub on this machine: this lets it, and changes nothing else.
fn allowing_loopback(system_file: &Path, name: &str) -> PathBuf {
    let text = std::fs::read_to_string(file(name)).unwrap();
    assert_eq!(text.matches("[[sink]]\n").count(), 1);
    std::fs::write(system_file, text.replace("[[sink]]\n", "[[sink]]\nallow = [\"127.0.0.0/8\"]\n")).unwrap();
    system_file.to_owned()
}

#[tokio::test]
async fn the_recipe_coaching_slack_tells_a_stub_of_slack_of_the_low_scores() {
    let (stub, folder) = (Stub::answering(200).await, tempfile::tempdir().unwrap());
    let config = allowing_loopback(&folder.path().join("recipe.toml"), "coaching-slack");
    let url = format!("http://{}/services/t0k3n", stub.address);
    let running = Running::start("coaching_slack", &config, &[("SLACK_WEBHOOK_URL", &url)]).await;
    running.assert_delivered(2).await;
    let mut said: Vec<String> = messages("slack", &stub).iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect();
    said.sort();
    assert_eq!(said, ["*Low score*: u-1 has 1 in Objection Handling", "*Low score*: u-7 has 7 in Objection Handling"]);
}

#[tokio::test]
async fn the_recipe_manager_teams_shows_a_stub_of_teams_a_card_of_each_expired_certification() {
    let (stub, folder) = (Stub::answering(202).await, tempfile::tempdir().unwrap());
    let config = allowing_loopback(&folder.path().join("recipe.toml"), "manager-teams");
    let url = format!("http://{}/workflows/t0k3n", stub.address);
    let running = Running::start("manager_teams", &config, &[("TEAMS_WEBHOOK_URL", &url)]).await;
    running.assert_delivered(2).await;
    let text = |card: &Value| card["attachments"][0]["content"]["body"][1]["inlines"][0]["text"].as_str().unwrap().to_owned();
    let mut said: Vec<String> = messages("teams", &stub).iter().map(text).collect();
    said.sort();
    assert_eq!(said, ["u-11: MEDDIC, to be renewed by 2026-12-20T10:00:00Z", "u-5: MEDDIC, to be renewed by 2026-12-20T10:00:00Z"]);
}
