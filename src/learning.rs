//! The six events of the learning platform, typed: what built-in mappings are made of. Pure.
//!
//! Shapes after the same third-party description as the built-in profile. A payload that lacks what a mapping needs is
//! refused with the name of the field, never with its value: it may be personal.

use chrono::{DateTime, Utc};
use serde::Deserialize;

/// A payload: `{"event": …, "companyId": …, "data": {…}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Learning {
    /// `companyId`; `None` where the payload names none.
    pub company_id: Option<String>,
    /// `data.userId`, as text also where it is a number.
    pub user_id: String,
    pub event: Event,
}

/// `data`, by the event's name. Times are `None` where the payload has none or one that cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `course.completed`.
    CourseCompleted { course: Named, score: Option<f64>, completed_at: Option<DateTime<Utc>> },
    /// `quiz.submitted`.
    QuizSubmitted { quiz: Named, score: Option<f64>, score_max: Option<f64>, passed: Option<bool>, practice: bool },
    /// `user.provisioned`.
    UserProvisioned { email: String, role: Option<String>, team_id: Option<String>, provisioned_by: Option<String> },
    /// `user.deprovisioned`.
    UserDeprovisioned { email: Option<String>, reason: Option<String>, deprovisioned_at: Option<DateTime<Utc>> },
    /// `module.progress`: whole percent, 0 to 100, and seconds.
    ModuleProgress { module: Named, percent: Option<f64>, time_spent_secs: Option<f64> },
    /// `certification.expired`.
    CertificationExpired { name: String, expired_at: Option<DateTime<Utc>>, renewal_deadline: Option<DateTime<Utc>> },
}

/// A course, quiz or module: its id, and its name, where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: String,
    pub name: Option<String>,
}

/// Why a payload has no typed event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmapped {
    #[error("no built-in mapping for events of this type")]
    Type,
    #[error("the payload has no usable `{0}`")]
    Missing(&'static str),
    #[error("the payload is not JSON of the expected shape")]
    Shape,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    event: String,
    #[serde(default, deserialize_with = "lenient::text")]
    company_id: Option<String>,
    #[serde(default)]
    data: Data,
}

/// All fields of all events. A field of another kind than expected counts as absent.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Data {
    #[serde(deserialize_with = "lenient::text")]
    user_id: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    course_id: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    course_name: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    quiz_id: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    quiz_name: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    quiz_type: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    module_id: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    module_name: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    email: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    role: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    team_id: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    provisioned_by: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    reason: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    cert_name: Option<String>,
    #[serde(deserialize_with = "lenient::number")]
    score: Option<f64>,
    #[serde(deserialize_with = "lenient::number")]
    max_score: Option<f64>,
    #[serde(deserialize_with = "lenient::number")]
    progress_pct: Option<f64>,
    #[serde(deserialize_with = "lenient::number")]
    time_spent_sec: Option<f64>,
    #[serde(deserialize_with = "lenient::boolean")]
    passed: Option<bool>,
    #[serde(deserialize_with = "lenient::time")]
    completed_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "lenient::time")]
    deprovisioned_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "lenient::time")]
    expired_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "lenient::time")]
    renewal_deadline: Option<DateTime<Utc>>,
}

impl Learning {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Unmapped> {
        let Envelope { event, company_id, data } = serde_json::from_slice(payload).map_err(|_| Unmapped::Shape)?;
        let user_id = data.user_id.clone();
        let event = data.typed(&event)?;
        Ok(Self { company_id, user_id: user_id.ok_or(Unmapped::Missing("data.userId"))?, event })
    }
}

impl Data {
    fn typed(self, event: &str) -> Result<Event, Unmapped> {
        let named = |id: Option<String>, name, key| Ok(Named { id: id.ok_or(Unmapped::Missing(key))?, name });
        Ok(match event {
            "course.completed" => Event::CourseCompleted {
                course: named(self.course_id, self.course_name, "data.courseId")?,
                score: self.score,
                completed_at: self.completed_at,
            },
            "quiz.submitted" => Event::QuizSubmitted {
                quiz: named(self.quiz_id, self.quiz_name, "data.quizId")?,
                score: self.score,
                score_max: self.max_score,
                passed: self.passed,
                practice: self.quiz_type.is_some_and(|kind| kind.to_ascii_lowercase().contains("practice")),
            },
            "user.provisioned" => Event::UserProvisioned {
                email: self.email.ok_or(Unmapped::Missing("data.email"))?,
                role: self.role,
                team_id: self.team_id,
                provisioned_by: self.provisioned_by,
            },
            "user.deprovisioned" => {
                Event::UserDeprovisioned { email: self.email, reason: self.reason, deprovisioned_at: self.deprovisioned_at }
            }
            "module.progress" => Event::ModuleProgress {
                module: named(self.module_id, self.module_name, "data.moduleId")?,
                percent: self.progress_pct.filter(|percent| (0.0..=100.0).contains(percent)),
                time_spent_secs: self.time_spent_sec.filter(|seconds| *seconds >= 0.0),
            },
            "certification.expired" => Event::CertificationExpired {
                name: self.cert_name.ok_or(Unmapped::Missing("data.certName"))?,
                expired_at: self.expired_at,
                renewal_deadline: self.renewal_deadline,
            },
            _ => return Err(Unmapped::Type),
        })
    }
}

/// Fields of strangers: what is not of the expected kind counts as absent.
mod lenient {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer};
    use serde_json::Value;

    pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::String(text) if !text.is_empty() => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }

    pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Value::deserialize(deserializer)?.as_f64().filter(|number| number.is_finite()))
    }

    pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
        Ok(Value::deserialize(deserializer)?.as_bool())
    }

    /// RFC 3339, or Unix time in seconds or milliseconds by magnitude.
    pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::String(text) => DateTime::parse_from_rfc3339(&text).ok().map(|time| time.with_timezone(&Utc)),
            Value::Number(number) => number.as_i64().and_then(|number| {
                if number.abs() >= 100_000_000_000 { DateTime::from_timestamp_millis(number) } else { DateTime::from_timestamp(number, 0) }
            }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(payload: &str) -> Result<Learning, Unmapped> {
        Learning::parse(payload.as_bytes())
    }

    #[test]
    fn all_six_events_are_read() {
        for (payload, expected) in [
            (
                r#"{"event":"course.completed","companyId":"acme","data":{"userId":7,"courseId":"c1","courseName":"Intro","score":92,"completedAt":"2026-01-02T03:04:05Z"}}"#,
                Event::CourseCompleted {
                    course: Named { id: "c1".into(), name: Some("Intro".into()) },
                    score: Some(92.0),
                    completed_at: DateTime::from_timestamp(1_767_323_045, 0),
                },
            ),
            (
                r#"{"event":"quiz.submitted","data":{"userId":"7","quizId":"q1","quizType":"PRACTICE","score":null}}"#,
                Event::QuizSubmitted {
                    quiz: Named { id: "q1".into(), name: None },
                    score: None,
                    score_max: None,
                    passed: None,
                    practice: true,
                },
            ),
            (
                r#"{"event":"user.provisioned","data":{"userId":"7","email":"a@b.example","role":"rep","teamId":"t","provisionedBy":"x"}}"#,
                Event::UserProvisioned {
                    email: "a@b.example".into(),
                    role: Some("rep".into()),
                    team_id: Some("t".into()),
                    provisioned_by: Some("x".into()),
                },
            ),
            (
                r#"{"event":"user.deprovisioned","data":{"userId":"7","deprovisionedAt":1767323045000}}"#,
                Event::UserDeprovisioned { email: None, reason: None, deprovisioned_at: DateTime::from_timestamp(1_767_323_045, 0) },
            ),
            (
                r#"{"event":"module.progress","data":{"userId":"7","moduleId":1,"progressPct":140,"timeSpentSec":12}}"#,
                Event::ModuleProgress { module: Named { id: "1".into(), name: None }, percent: None, time_spent_secs: Some(12.0) },
            ),
            (
                r#"{"event":"certification.expired","data":{"userId":"7","certName":"Gold","expiredAt":"yesterday"}}"#,
                Event::CertificationExpired { name: "Gold".into(), expired_at: None, renewal_deadline: None },
            ),
        ] {
            let learning = parse(payload).unwrap();
            assert_eq!((learning.user_id.as_str(), learning.event), ("7", expected), "{payload}");
        }
    }

    #[test]
    fn what_a_payload_lacks_is_named_and_nothing_of_it_repeated() {
        for (payload, expected) in [
            ("s3cret", Unmapped::Shape),
            ("[]", Unmapped::Shape),
            (r#"{"event":"other","data":{"userId":"7"}}"#, Unmapped::Type),
            (r#"{"event":"course.completed"}"#, Unmapped::Missing("data.courseId")),
            (r#"{"event":"user.deprovisioned","data":{}}"#, Unmapped::Missing("data.userId")),
            (r#"{"event":"user.provisioned","data":{"userId":"7","email":["s3cret"]}}"#, Unmapped::Missing("data.email")),
        ] {
            assert_eq!(parse(payload), Err(expected), "{payload}");
        }
    }
}
