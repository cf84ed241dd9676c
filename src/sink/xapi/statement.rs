//! From an event to its xAPI statement. Pure.
//!
//! | event | verb | object | result |
//! | --- | --- | --- | --- |
//! | `course.completed` | completed | the course | completion; score, scaled where the config says out of how much |
//! | `quiz.submitted` | passed, failed; scored where `passed` is absent | the quiz, an assessment | completion, success, score |
//! | … a practice quiz, or one with neither score nor `passed` | attempted | the quiz | – |
//! | `module.progress` | progressed | the module | cmi5's progress in whole percent; duration |
//! | `user.provisioned` | registered | the platform, by the actor's home page | – |
//! | `certification.expired` | expired | the certification | – |
//! | `user.deprovisioned`, any other | none: skipped | | |

use crate::learning::{Event, Learning, Named, Unmapped};
use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use uuid::Uuid;

const VERBS: &str = "http://adlnet.gov/expapi/verbs/";
const ACTIVITIES: &str = "http://adlnet.gov/expapi/activities/";
/// ADL has no verb for it.
const EXPIRED: &str = "http://id.tincanapi.com/verb/expired";
const PROGRESS: &str = "https://w3id.org/xapi/cmi5/result/extensions/progress";
/// The language of names that come without one: "undetermined" of RFC 5646.
const UNKNOWN_LANGUAGE: &str = "und";

/// Stands for the company in an IRI of the config.
const COMPANY: &str = "{company}";

/// An IRI of the config, which may hold `{company}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iri(String);

impl Iri {
    /// The error ends a sentence that begins with the key.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let wanted = "must be an absolute IRI such as \"https://learn.example.com\", in which only {company} is replaced";
        let rest = text.replace(COMPANY, "x");
        let (scheme, path) = rest.split_once(':').ok_or(wanted)?;
        let scheme_valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let no_iri = |char: char| char.is_whitespace() || char.is_control() || "<>\"{}|\\^`".contains(char);
        let valid = scheme_valid && !path.trim_start_matches('/').is_empty() && !path.contains(no_iri);
        valid.then(|| Self(text.to_owned())).ok_or(wanted)
    }

    fn of(&self, company: Option<&str>) -> Result<String, Unmapped> {
        if !self.0.contains(COMPANY) {
            return Ok(self.0.clone());
        }
        let company = company.ok_or(Unmapped::Missing("companyId"))?;
        Ok(self.0.replace(COMPANY, &encoded(company)))
    }
}

/// What the config adds to an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheme {
    /// `homePage` of the actor's account.
    pub home_page: Iri,
    /// What the ids of activities begin with.
    pub activity_base: Iri,
    /// The best score of a course; above 0.
    pub course_score_max: Option<f64>,
}

/// What an event says, before it is written as a statement.
struct Said<'a> {
    verb: &'static str,
    /// What is done, or has expired; `None`: the platform itself.
    activity: Option<Activity<'a>>,
    result: Map<String, Value>,
    at: Option<DateTime<Utc>>,
}

struct Activity<'a> {
    /// The step of its IRI between base and id.
    folder: &'static str,
    /// Under [`ACTIVITIES`], where ADL has a type for it.
    kind: Option<&'static str>,
    id: &'a str,
    name: Option<&'a str>,
}

/// The statement of an event: the same on every try. `id` is the delivery's idempotency key; `received_at` its time where it names none.
pub fn statement(payload: &[u8], id: Uuid, received_at: DateTime<Utc>, scheme: &Scheme) -> Result<Value, Unmapped> {
    let learning = Learning::parse(payload)?;
    let said = said(&learning.event, scheme.course_score_max)?;
    let company = learning.company_id.as_deref();
    let home_page = scheme.home_page.of(company)?;
    // A year of more than four digits is none that a timestamp can hold.
    let at = said.at.filter(|at| (0..=9999).contains(&at.year())).unwrap_or(received_at);
    let verb_id = if said.verb == "expired" { EXPIRED.to_owned() } else { format!("{VERBS}{}", said.verb) };
    let object = match &said.activity {
        Some(activity) => object(&scheme.activity_base.of(company)?, activity),
        None => json!({ "objectType": "Activity", "id": home_page }),
    };
    let mut statement = json!({
        "id": id.hyphenated().to_string(),
        "timestamp": at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "actor": { "objectType": "Agent", "account": { "homePage": home_page, "name": learning.user_id } },
        "verb": { "id": verb_id, "display": { "en-US": said.verb } },
        "object": object,
    });
    if !said.result.is_empty() {
        statement["result"] = Value::Object(said.result);
    }
    Ok(statement)
}

fn said(event: &Event, course_score_max: Option<f64>) -> Result<Said<'_>, Unmapped> {
    let mut result = Map::new();
    Ok(match event {
        Event::CourseCompleted { course, score, completed_at } => {
            result.insert("completion".into(), true.into());
            put_score(&mut result, *score, course_score_max);
            Said { verb: "completed", activity: Some(named("courses", "course", course)), result, at: *completed_at }
        }
        Event::QuizSubmitted { quiz, score, score_max, passed, practice } => {
            let verb = match (practice, passed, score) {
                (true, _, _) | (false, None, None) => "attempted",
                (false, Some(true), _) => "passed",
                (false, Some(false), _) => "failed",
                (false, None, Some(_)) => "scored",
            };
            if verb != "attempted" {
                result.insert("completion".into(), true.into());
                passed.map(|passed| result.insert("success".into(), passed.into()));
                put_score(&mut result, *score, *score_max);
            }
            Said { verb, activity: Some(named("quizzes", "assessment", quiz)), result, at: None }
        }
        Event::ModuleProgress { module, percent, time_spent_secs } => {
            if let Some(percent) = percent {
                result.insert("extensions".into(), json!({ PROGRESS: percent.floor() as u8 }));
            }
            if let Some(seconds) = time_spent_secs {
                result.insert("duration".into(), format!("PT{}S", seconds.floor() as u64).into());
            }
            Said { verb: "progressed", activity: Some(named("modules", "module", module)), result, at: None }
        }
        Event::UserProvisioned { .. } => Said { verb: "registered", activity: None, result, at: None },
        Event::CertificationExpired { name, expired_at, .. } => {
            let activity = Activity { folder: "certifications", kind: None, id: name, name: Some(name) };
            Said { verb: "expired", activity: Some(activity), result, at: *expired_at }
        }
        Event::UserDeprovisioned { .. } => return Err(Unmapped::Type),
    })
}

fn named<'a>(folder: &'static str, kind: &'static str, named: &'a Named) -> Activity<'a> {
    Activity { folder, kind: Some(kind), id: &named.id, name: named.name.as_deref() }
}

fn object(base: &str, activity: &Activity) -> Value {
    let joint = if base.ends_with(['/', '#', ':', '=']) { "" } else { "/" };
    let mut definition = Map::new();
    if let Some(kind) = activity.kind {
        definition.insert("type".into(), format!("{ACTIVITIES}{kind}").into());
    }
    if let Some(name) = activity.name {
        definition.insert("name".into(), json!({ UNKNOWN_LANGUAGE: name }));
    }
    let mut object = json!({ "objectType": "Activity", "id": format!("{base}{joint}{}/{}", activity.folder, encoded(activity.id)) });
    if !definition.is_empty() {
        object["definition"] = Value::Object(definition);
    }
    object
}

/// `score`, as far as it is known. A score beyond its own maximum is kept as it is, without the maximum that it would contradict.
fn put_score(result: &mut Map<String, Value>, raw: Option<f64>, max: Option<f64>) {
    let Some(raw) = raw else { return };
    let mut score = Map::from_iter([("raw".to_owned(), number(raw))]);
    if let Some(max) = max.filter(|max| *max > 0.0) {
        // Six digits: as many as an LRS has to keep.
        let scaled = ((raw / max).clamp(-1.0, 1.0) * 1e6).round() / 1e6;
        score.insert("scaled".into(), number(scaled));
        if raw <= max {
            score.insert("max".into(), number(max));
        }
    }
    result.insert("score".into(), Value::Object(score));
}

/// A whole number without a point: what every reader takes as it is.
fn number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { (number as i64).into() } else { number.into() }
}

/// One step of an IRI: all but unreserved characters percent-encoded, so that no id can end its step.
fn encoded(step: &str) -> String {
    let mut encoded = String::with_capacity(step.len());
    // Steps of dots alone would lead elsewhere.
    let leads_elsewhere = matches!(step, "." | "..");
    for byte in step.bytes() {
        if byte.is_ascii_alphanumeric() || (b"-._~".contains(&byte) && !leads_elsewhere) {
            encoded.push(byte as char);
        } else {
            // Writing to a text cannot fail.
            write!(encoded, "%{byte:02X}").ok();
        }
    }
    encoded
}

/// Whether an LRS's statement says what ours does, as the specification compares them: but for what an LRS may set or rewrite
/// (timestamp, authority, version, the definition of the activity, how the verb is displayed).
pub fn equivalent(ours: &Value, theirs: &Value) -> bool {
    ["/actor/account/homePage", "/actor/account/name", "/verb/id", "/object/id", "/result"].iter().all(|at| {
        let nothing = Value::Null;
        same(ours.pointer(at).unwrap_or(&nothing), theirs.pointer(at).unwrap_or(&nothing))
    })
}

/// Equality of JSON that takes 92 and 92.0 for one number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        (Value::Array(one), Value::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other)),
        _ => one == other,
    }
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
