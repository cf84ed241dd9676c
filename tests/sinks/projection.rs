//! `kind = "projection"`, against a real Postgres.

use crate::client::{Event, store_all};
use crate::private;
use crate::system::{System, eventually, free_port};
use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use sluice::dev::PrivatePostgres;
use sluice::sink::projection::observe;
use sluice::store::projections::{Observation, apply_all};

const SINK: &str = "[[sink]]\nname = \"figures\"\nkind = \"projection\"\n";

/// All tables, as one text.
const FIGURES: &str = "select concat_ws(' ',
    (select json_agg(t order by t.company_id, t.user_id) from sluice.learners t),
    (select json_agg(t order by t.company_id, t.user_id, t.module_id) from sluice.learner_progress t),
    (select json_agg(t order by t.company_id, t.user_id, t.course_id) from sluice.course_completions t),
    (select json_agg(t order by t.event_seq) from sluice.quiz_results t),
    (select json_agg(t order by t.company_id, t.user_id, t.name) from sluice.certifications t))";

const EMPTY: &str =
    "truncate sluice.learners, sluice.learner_progress, sluice.course_completions, sluice.quiz_results, sluice.certifications";

fn event(id: &str, kind: &str, data: &Value) -> Event {
    Event { id: id.into(), body: json!({ "event": kind, "companyId": "acme", "data": data }).to_string().into_bytes() }
}

/// Two people of one team and one who leaves.
fn story() -> Vec<Event> {
    let mut events: Vec<Event> = ["ann", "bob", "eve"]
        .iter()
        .map(|user| event(&format!("p-{user}"), "user.provisioned", &json!({ "userId": user, "email": "x@example.com", "teamId": "blue" })))
        .collect();
    events.extend([
        event("c1", "course.completed", &json!({ "userId": "ann", "courseId": "c", "completedAt": "2026-01-02T03:04:05Z" })),
        event("c2", "course.completed", &json!({ "userId": "eve", "courseId": "c", "completedAt": "2026-01-02T03:04:05Z" })),
        event("q1", "quiz.submitted", &json!({ "userId": "ann", "quizId": "q", "score": 4, "maxScore": 10, "passed": false })),
        event("q2", "quiz.submitted", &json!({ "userId": "ann", "quizId": "q", "score": 8, "maxScore": 10, "passed": true })),
        event("q3", "quiz.submitted", &json!({ "userId": "bob", "quizId": "q", "score": 9, "maxScore": 10, "passed": true })),
        event("m1", "module.progress", &json!({ "userId": "ann", "moduleId": "m", "progressPct": 60, "timeSpentSec": 30 })),
        event("m2", "module.progress", &json!({ "userId": "bob", "moduleId": "m", "progressPct": 40, "timeSpentSec": 30 })),
        event("e1", "certification.expired", &json!({ "userId": "bob", "certName": "Gold", "expiredAt": "2026-01-01T00:00:00Z" })),
        event("d1", "user.deprovisioned", &json!({ "userId": "eve" })),
    ]);
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_events_make_a_leaderboard_that_redelivery_replay_and_rebuild_leave_as_it_is_and_erasure_clears() {
    let system = System::new("projection").await;
    system.use_roles().await;
    let _worker = system.working(&system.config(SINK)).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    for event in story() {
        client.store(&event).await;
        client.post(&event).await;
    }
    client.store(&event("bad", "course.completed", &json!({ "userId": "ann" }))).await;
    client.store(&event("nul", "course.completed", &json!({ "userId": "ann", "courseId": "c\u{0}" }))).await;
    client.store(&event("other", "something.else", &json!({ "userId": "ann" }))).await;
    eventually("all is over", async || system.count("pending").await == 0).await;
    let dead = "select string_agg(last_error, '; ' order by event_seq) from sluice.deliveries where status = 'dead'";
    assert_eq!(system.value::<String>(dead).await, "the payload has no usable `data.courseId`; the payload has no usable `data.courseId`");
    assert_eq!((system.count("delivered").await, system.count("skipped").await), (12, 1));

    let board = "select string_agg(concat_ws(' ', rank, user_id, points, courses_completed, quizzes_passed, average_best_percent), ', ' order by rank) from sluice.leaderboard";
    assert_eq!(system.value::<String>(board).await, "1 ann 180 1 1 80.0, 2 bob 90 0 1 90.0");
    let teams =
        "select concat_ws(' ', team_id, learners, average_percent, courses_completed, quizzes_passed, points) from sluice.team_progress";
    assert_eq!(system.value::<String>(teams).await, "blue 2 50.0 1 2 270");
    assert!(!system.value::<bool>("select active from sluice.learners where user_id = 'eve'").await);

    let before: String = system.value(FIGURES).await;
    system.execute("update sluice.deliveries set status = 'pending' where status = 'delivered'").await;
    eventually("all is delivered again", async || system.count("pending").await == 0 && system.count("delivered").await == 12).await;
    assert_eq!(system.value::<String>(FIGURES).await, before);

    system.execute("update sluice.learner_progress set percent = 1").await;
    let output = system.run(&["projection", "rebuild", "--yes", "--json"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&counts["events"], &counts["applied"], &counts["left_out"]), (&json!(15), &json!(12), &json!(3)));
    assert_eq!(system.value::<String>(FIGURES).await, before);

    assert!(system.run(&["erase", "--user", "ann", "--yes"]).await.status.success());
    assert!(!system.value::<String>(FIGURES).await.contains("ann"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_event_is_skipped_as_superseded() {
    let system = System::new("superseded").await;
    let _worker = system.working(&system.config(SINK)).await;
    let ingest = system.ingest().await;
    let mut client = ingest.client();
    for (id, percent, time) in [("new", 60, 30), ("newer", 80, 40)] {
        let data = json!({ "userId": "ann", "moduleId": "m", "progressPct": percent, "timeSpentSec": time });
        client.store(&event(id, "module.progress", &data)).await;
    }
    eventually("both are delivered", async || system.count("delivered").await == 2).await;
    system.execute("update sluice.deliveries set status = 'pending'").await;
    eventually("the older is skipped", async || (system.count("delivered").await, system.count("skipped").await) == (1, 1)).await;
    let reason = "select last_error from sluice.deliveries where status = 'skipped'";
    assert_eq!(system.value::<String>(reason).await, "superseded");
    assert_eq!(system.value::<f64>("select percent from sluice.learner_progress").await, 80.0);
}

/// Any event of two people about two objects, with times that coincide now and then.
fn any_event() -> impl Strategy<Value = (String, Value)> {
    let types = prop::sample::select(crate::client::TYPES.to_vec());
    (types, 0..2, 0..2, 0..4, 0..100, any::<bool>()).prop_map(
        |(kind, user, object, day, number, flag): (&str, i32, i32, i32, i32, bool)| {
            let at = format!("2026-01-0{}T00:00:00Z", day + 1);
            let data = json!({
                "userId": format!("u{user}"), "courseId": object, "quizId": object, "moduleId": object, "certName": format!("k{object}"),
                "moduleName": flag.then(|| number.to_string()), "courseName": number.to_string(), "email": format!("{number}@example.com"),
                "teamId": flag.then_some("t"), "score": number, "maxScore": 100, "progressPct": flag.then_some(number),
                "timeSpentSec": 100 - number, "completedAt": flag.then_some(&at), "expiredAt": &at, "deprovisionedAt": &at, "passed": flag,
            });
            (kind.to_owned(), data)
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_and_any_repetition_of_the_same_events_leave_the_same_figures() {
    let system = System::new("any_order").await;
    let mut conn = system.db.acquire().await.unwrap();
    let mut runner = TestRunner::deterministic();
    for _ in 0..40 {
        let events = prop::collection::vec(any_event(), 1..40).new_tree(&mut runner).unwrap().current();
        let received = |seq: usize| DateTime::<Utc>::from_timestamp(1_767_300_000 + seq as i64 * 9_000, 0).unwrap();
        let seen: Vec<Observation> = events
            .iter()
            .enumerate()
            .map(|(seq, (kind, data))| observe(&event("", kind, data).body, seq as i64 + 1, received(seq)).unwrap())
            .collect();
        sqlx::query(EMPTY).execute(&mut *conn).await.unwrap();
        for one in &seen {
            apply_all(&mut conn, std::slice::from_ref(one)).await.unwrap();
        }
        let in_order: String = system.value(FIGURES).await;
        sqlx::query(EMPTY).execute(&mut *conn).await.unwrap();
        let repeated = Just([seen.clone(), seen].concat()).prop_shuffle().new_tree(&mut runner).unwrap().current();
        for batch in repeated.chunks(7) {
            assert!(apply_all(&mut conn, batch).await.unwrap().iter().all(Result::is_ok));
        }
        assert_eq!(system.value::<String>(FIGURES).await, in_order, "{repeated:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_figures_are_there_after_the_database_was_killed_in_the_middle_of_5_000() {
    const COUNT: usize = 5000;
    let (dir, port) = (private::folder(), free_port());
    let start = async || {
        let mut options = private::options();
        options.port = Some(port);
        PrivatePostgres::start(dir.path(), options).await.expect("a private Postgres starts")
    };
    let postgres = start().await;
    let system = System::on(postgres.url()).await;
    system.migrate().await;
    // Slow enough to have a middle.
    let keys = "concurrency = 1\nrate = 2000\nretry = { initial = \"10ms\", cap = \"500ms\", max_attempts = 100 }\n";
    let _worker = system.working(&system.config(&format!("{SINK}{keys}"))).await;
    let ingest = system.ingest().await;
    let completed = |user: usize, n: usize| {
        let data = json!({ "userId": format!("u-{user}"), "courseId": format!("c-{n}"), "score": n });
        event(&format!("u-{user}:{n}"), "course.completed", &data)
    };
    let list = |user: usize| (0..COUNT / 10).map(|n| completed(user, n)).collect();
    store_all(ingest.address, (0..10).map(list).collect()).await;
    eventually("some are applied", async || system.value::<i64>("select count(*) from sluice.course_completions").await > 200).await;
    let pid = std::fs::read_to_string(dir.path().join("pgdata/postmaster.pid")).expect("it runs");
    let pid = pid.lines().next().and_then(|pid| pid.trim().parse().ok()).expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    drop(postgres);
    let _postgres = start().await;
    system.drained(COUNT as i64).await;
    let figures = "select concat_ws(' ', count(*), sum(score)) from sluice.course_completions";
    assert_eq!(system.value::<String>(figures).await, format!("{COUNT} {}", 10 * (0..500).sum::<i32>()));
}
