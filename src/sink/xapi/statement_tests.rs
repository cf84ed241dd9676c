//! The mapping, as a table.

use super::*;
use proptest::prelude::*;

fn scheme(course_score_max: Option<f64>) -> Scheme {
    let iri = |text| Iri::parse(text).unwrap();
    Scheme { home_page: iri("https://{company}.example.com"), activity_base: iri("https://learn.example.com/x"), course_score_max }
}

fn map(payload: &[u8], scheme: &Scheme) -> Result<Value, Unmapped> {
    statement(payload, Uuid::nil(), DateTime::from_timestamp_micros(1_767_323_045_000_900).unwrap(), scheme)
}

fn mapped(event: &str, data: Value) -> Value {
    let payload = json!({ "event": event, "companyId": "ac me", "data": data }).to_string();
    map(payload.as_bytes(), &scheme(Some(200.0))).unwrap()
}

#[test]
fn each_event_has_its_verb_object_and_result() {
    let quiz = "quizzes/q1";
    for (event, data, verb, object, result) in [
        (
            "course.completed",
            json!({"userId": 7, "courseId": "c/1", "score": 92}),
            "completed",
            "courses/c%2F1",
            json!({"completion": true, "score": {"raw": 92, "scaled": 0.46, "max": 200}}),
        ),
        ("course.completed", json!({"userId": 7, "courseId": 1}), "completed", "courses/1", json!({"completion": true})),
        (
            "quiz.submitted",
            json!({"userId": "7", "quizId": "q1", "score": 45, "maxScore": 70, "passed": false}),
            "failed",
            quiz,
            json!({"completion": true, "success": false, "score": {"raw": 45, "scaled": 0.642857, "max": 70}}),
        ),
        (
            "quiz.submitted",
            json!({"userId": "7", "quizId": "q1", "score": 110.5, "maxScore": 100, "passed": true}),
            "passed",
            quiz,
            json!({"completion": true, "success": true, "score": {"raw": 110.5, "scaled": 1}}),
        ),
        (
            "quiz.submitted",
            json!({"userId": "7", "quizId": "q1", "score": 5, "maxScore": 0}),
            "scored",
            quiz,
            json!({"completion": true, "score": {"raw": 5}}),
        ),
        (
            "quiz.submitted",
            json!({"userId": "7", "quizId": "q1", "score": 5, "passed": true, "quizType": "practice"}),
            "attempted",
            quiz,
            Value::Null,
        ),
        ("quiz.submitted", json!({"userId": "7", "quizId": "q1"}), "attempted", quiz, Value::Null),
        (
            "module.progress",
            json!({"userId": "7", "moduleId": "m1", "progressPct": 40.9, "timeSpentSec": 61.5}),
            "progressed",
            "modules/m1",
            json!({"extensions": {PROGRESS: 40}, "duration": "PT61S"}),
        ),
        ("module.progress", json!({"userId": "7", "moduleId": "m1"}), "progressed", "modules/m1", Value::Null),
        ("user.provisioned", json!({"userId": "7", "email": "a@b.example"}), "registered", "", Value::Null),
        (
            "certification.expired",
            json!({"userId": "7", "certName": "Gold \u{e4}"}),
            "expired",
            "certifications/Gold%20%C3%A4",
            Value::Null,
        ),
    ] {
        let statement = mapped(event, data);
        let verb_id = if verb == "expired" { EXPIRED.to_owned() } else { format!("{VERBS}{verb}") };
        assert_eq!(statement["verb"], json!({"id": verb_id, "display": {"en-US": verb}}));
        let home_page = "https://ac%20me.example.com";
        let object = if object.is_empty() { home_page.to_owned() } else { format!("https://learn.example.com/x/{object}") };
        assert_eq!(statement["object"]["id"], json!(object));
        assert_eq!(statement["actor"], json!({"objectType": "Agent", "account": {"homePage": home_page, "name": "7"}}));
        assert_eq!(statement["result"], result, "{statement}");
        assert_eq!((&statement["id"], &statement["timestamp"]), (&json!(Uuid::nil().to_string()), &json!("2026-01-02T03:04:05.000Z")));
        assert!(!statement.to_string().contains("b.example"), "an address is nobody's business but the IdP's");
    }
}

#[test]
fn the_time_is_the_events_own_in_one_form_where_it_can_be_read() {
    for (at, expected) in [
        (json!("2025-12-31T23:59:59.5+02:00"), "2025-12-31T21:59:59.500Z"),
        (json!(1_767_000_000), "2025-12-29T09:20:00.000Z"),
        (json!("yesterday"), "2026-01-02T03:04:05.000Z"),
        (json!(400_000_000_000_000_i64), "2026-01-02T03:04:05.000Z"),
    ] {
        let statement = mapped("course.completed", json!({"userId": "7", "courseId": "c", "completedAt": at}));
        assert_eq!(statement["timestamp"], json!(expected));
    }
}

#[test]
fn names_and_types_go_into_the_definition() {
    let statement = mapped("course.completed", json!({"userId": "7", "courseId": "c", "courseName": "Intro"}));
    assert_eq!(statement["object"]["definition"], json!({"type": format!("{ACTIVITIES}course"), "name": {"und": "Intro"}}));
    let statement = mapped("quiz.submitted", json!({"userId": "7", "quizId": "c"}));
    assert_eq!(statement["object"]["definition"], json!({"type": format!("{ACTIVITIES}assessment")}));
}

#[test]
fn what_has_no_statement_says_why() {
    for (payload, expected) in [
        (r#"{"event":"user.deprovisioned","companyId":"a","data":{"userId":"7"}}"#, Unmapped::Type),
        (r#"{"event":"other","companyId":"a","data":{"userId":"7"}}"#, Unmapped::Type),
        (r#"{"event":"course.completed","companyId":"a","data":{"userId":"7"}}"#, Unmapped::Missing("data.courseId")),
        (r#"{"event":"course.completed","data":{"userId":"7","courseId":"c"}}"#, Unmapped::Missing("companyId")),
        ("no", Unmapped::Shape),
    ] {
        assert_eq!(map(payload.as_bytes(), &scheme(None)), Err(expected), "{payload}");
    }
}

#[test]
fn only_an_absolute_iri_is_taken() {
    for valid in
        ["https://learn.example.com", "http://{company}.example.com/a", "urn:mindtickle:{company}:", "https://lernen.example/\u{e4}"]
    {
        assert!(Iri::parse(valid).is_ok(), "{valid}");
    }
    for wrong in ["", "learn.example.com", "https://", "https://{tenant}.example.com", "https://a b", "1http://x", "mailto"] {
        assert!(Iri::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn statements_are_compared_as_the_specification_does() {
    let ours = mapped("course.completed", json!({"userId": "7", "courseId": "c", "courseName": "Intro", "score": 92}));
    let mut theirs = ours.clone();
    theirs["timestamp"] = json!("2026-01-02T03:04:05Z");
    theirs["stored"] = json!("2026-01-02T03:04:05Z");
    theirs["object"]["definition"] = Value::Null;
    theirs["result"]["score"]["raw"] = json!(92.0);
    assert!(equivalent(&ours, &theirs));
    for (at, value) in [
        ("/verb/id", json!("x")),
        ("/result/score/raw", json!(93)),
        ("/result/success", json!(true)),
        ("/actor/account/name", json!("8")),
        ("/object/id", json!("x")),
        ("/result", Value::Null),
    ] {
        let mut other = theirs.clone();
        match other.pointer_mut(at) {
            Some(place) => *place = value,
            None => other["result"]["success"] = value,
        }
        assert!(!equivalent(&ours, &other), "{at}");
    }
}

proptest! {
    #[test]
    fn a_scaled_score_is_within_its_bounds_and_no_raw_score_is_beyond_its_maximum(raw in -1e9f64..1e9, max in -1e6f64..1e6) {
        let mut result = Map::new();
        put_score(&mut result, Some(raw), Some(max));
        let score = &result["score"];
        prop_assert!(score["scaled"].as_f64().is_none_or(|scaled| (-1.0..=1.0).contains(&scaled)));
        prop_assert!(score["max"].as_f64().is_none_or(|max| score["raw"].as_f64().unwrap() <= max));
    }
}
