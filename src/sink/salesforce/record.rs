//! From an event to its record. Pure.
//!
//! Built in is `course.completed`; [`Scheme::fields`] and [`Scheme::external_id`] map any event.
//!
//! | field | of `course.completed` |
//! | --- | --- |
//! | the external id | `companyId:userId:courseId`; a `:` or `%` within one of them is percent-encoded |
//! | `User_Id__c`, `Course_Id__c`, `Course_Name__c` | as they came |
//! | `Score__c` | the score |
//! | `Completed_At__c` | `completedAt`; where there is none, when the event was received |
//! | `Status__c` | `Completed` |
//!
//! Each of these is sent, null where the event has none: a record says what its newest event says, and nothing that is left over.

use crate::delivery::{Failure, Outcome};
use crate::learning::{Event, Learning, Unmapped};
use crate::mapping::{Expression, Mapping, Unevaluated};
use crate::sink::Delivery;
use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

/// What an external id's field can hold at most.
const EXTERNAL_ID_CHARS_MAX: usize = 255;

/// Which object an event becomes a record of, and how.
#[derive(Debug, Clone)]
pub struct Scheme {
    /// The object's API name.
    pub object: String,
    /// The API name of the field by which Salesforce finds the record.
    pub external_id_field: String,
    /// That field's value; `None`: the built-in one.
    pub external_id: Option<Expression>,
    /// The other fields; `None`: the built-in ones.
    pub fields: Option<Mapping>,
}

/// What is written: all of its fields but the external id.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Fit for a URL and a field.
    pub external_id: String,
    pub fields: Map<String, Value>,
}

impl Scheme {
    /// The record of an event; or what becomes of its delivery without one.
    pub fn record(&self, delivery: &Delivery) -> Result<Record, Outcome> {
        let external_id = self.external_id(delivery)?;
        let fields = match &self.fields {
            None => Completion::of(delivery)?.fields(delivery),
            Some(mapping) => {
                let made = delivery.subject().and_then(|subject| mapping.evaluate(&subject)).map_err(|error| unmade("fields", &error))?;
                match made {
                    Value::Object(fields) => fields,
                    _ => return Err(Outcome::Failed(Failure::permanent("cannot make the `fields`: they are no table"))),
                }
            }
        };
        Ok(Record { external_id, fields })
    }

    /// The external id of an event's record: the same for all events that change it.
    pub fn external_id(&self, delivery: &Delivery) -> Result<String, Outcome> {
        let Some(expression) = &self.external_id else { return fit(Completion::of(delivery)?.external_id()) };
        let value = delivery.subject().and_then(|subject| expression.evaluate(&subject)).map_err(|error| unmade("external_id", &error))?;
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) if !number.is_f64() => number.to_string(),
            _ => String::new(),
        };
        if text.is_empty() {
            return Err(Outcome::Failed(Failure::permanent("cannot make the `external_id`: it must give a text or a whole number")));
        }
        fit(text)
    }
}

/// Refuses what can be no record's external id, before it is one's name anywhere: neither Salesforce nor the database takes each text.
fn fit(external_id: String) -> Result<String, Outcome> {
    let wrong = if external_id.chars().any(char::is_control) {
        "it has a control character"
    } else if external_id.chars().count() > EXTERNAL_ID_CHARS_MAX {
        "it has more than 255 characters, which is all that a field can hold"
    } else if matches!(external_id.as_str(), "." | "..") {
        "`.` and `..` name no record in a URL"
    } else {
        return Ok(external_id);
    };
    Err(Outcome::Failed(Failure::permanent(format!("cannot make the external id: {wrong}"))))
}

fn unmade(key: &str, error: &Unevaluated) -> Outcome {
    Outcome::Failed(Failure::permanent(format!("cannot make the `{key}`: {error}")))
}

/// `course.completed`, with what a record needs of it.
struct Completion {
    company: String,
    user: String,
    course: String,
    course_name: Option<String>,
    score: Option<f64>,
    /// RFC 3339; `None` where the event does not say.
    completed_at: Option<String>,
}

impl Completion {
    fn of(delivery: &Delivery) -> Result<Self, Outcome> {
        let unmapped = |unmapped: Unmapped| match unmapped {
            Unmapped::Type => Outcome::Skipped { reason: unmapped.to_string() },
            _ => Outcome::Failed(Failure::permanent(unmapped.to_string())),
        };
        let learning = Learning::parse(&delivery.payload).map_err(unmapped)?;
        let Event::CourseCompleted { course, score, completed_at } = learning.event else { return Err(unmapped(Unmapped::Type)) };
        Ok(Self {
            company: learning.company_id.ok_or_else(|| unmapped(Unmapped::Missing("companyId")))?,
            user: learning.user_id,
            course: course.id,
            course_name: course.name,
            score,
            completed_at: completed_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
        })
    }

    fn external_id(&self) -> String {
        // Two learners must not share a record because one's id ends where another's begins.
        let part = |part: &str| part.replace('%', "%25").replace(':', "%3A");
        format!("{}:{}:{}", part(&self.company), part(&self.user), part(&self.course))
    }

    fn fields(self, delivery: &Delivery) -> Map<String, Value> {
        let received_at = || delivery.received_at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let fields = [
            ("User_Id__c", json!(self.user)),
            ("Course_Id__c", json!(self.course)),
            ("Course_Name__c", json!(self.course_name)),
            ("Score__c", json!(self.score)),
            ("Completed_At__c", json!(self.completed_at.unwrap_or_else(received_at))),
            ("Status__c", json!("Completed")),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn delivery(payload: &str) -> Delivery {
        Delivery {
            seq: 1,
            source: "mindtickle".into(),
            event_id: "e1".into(),
            event_type: Some("course.completed".into()),
            order_key: None,
            received_at: DateTime::from_timestamp(1_767_323_045, 0).unwrap(),
            payload: payload.to_owned().into(),
            traceparent: None,
            idempotency_key: uuid::Uuid::nil(),
        }
    }

    fn scheme(external_id: Option<&str>) -> Scheme {
        Scheme {
            object: "Training_Status__c".into(),
            external_id_field: "External_Id__c".into(),
            external_id: external_id.map(|source| Expression::parse(source).unwrap()),
            fields: external_id
                .map(|_| Mapping::Table(vec![("Score__c".into(), Mapping::Expression(Expression::parse("event.data.score").unwrap()))])),
        }
    }

    #[test]
    fn a_completed_course_has_all_its_fields_null_where_it_says_nothing() {
        let whole = r#"{"event":"course.completed","companyId":"acme","data":{"userId":"u","courseId":"c","courseName":"Intro","score":92,"completedAt":"2026-01-02T03:04:05+01:00"}}"#;
        let record = scheme(None).record(&delivery(whole)).unwrap();
        assert_eq!(record.external_id, "acme:u:c");
        let expected = json!({
            "User_Id__c": "u", "Course_Id__c": "c", "Course_Name__c": "Intro", "Score__c": 92.0,
            "Completed_At__c": "2026-01-02T02:04:05.000Z", "Status__c": "Completed",
        });
        assert_eq!(Value::Object(record.fields), expected);
        let bare = r#"{"event":"course.completed","companyId":"acme","data":{"userId":"u","courseId":"c"}}"#;
        let fields = Value::Object(scheme(None).record(&delivery(bare)).unwrap().fields);
        assert_eq!((&fields["Score__c"], &fields["Course_Name__c"]), (&Value::Null, &Value::Null));
        assert_eq!(fields["Completed_At__c"], "2026-01-02T03:04:05.000Z");
    }

    #[test]
    fn no_two_of_company_user_and_course_share_an_external_id() {
        let id = |company: &str, user: &str, course: &str| {
            let payload = json!({"event": "course.completed", "companyId": company, "data": {"userId": user, "courseId": course}});
            scheme(None).external_id(&delivery(&payload.to_string())).unwrap()
        };
        assert_eq!(id("a:b", "c", "d"), "a%3Ab:c:d");
        assert_ne!(id("a:b", "c", "d"), id("a", "b:c", "d"));
        assert_ne!(id("a%3Ab", "c", "d"), id("a:b", "c", "d"));
    }

    #[test]
    fn what_no_record_can_be_made_of_is_skipped_or_permanent_and_says_why() {
        for (payload, external_id, says) in [
            (
                r#"{"event":"quiz.submitted","companyId":"a","data":{"userId":"u","quizId":"q"}}"#,
                None,
                "Skipped { reason: \"no built-in mapping",
            ),
            (r#"{"event":"other","data":{}}"#, None, "Skipped { reason: \"no built-in mapping"),
            (r#"{"event":"course.completed","data":{"userId":"u","courseId":"c"}}"#, None, "no usable `companyId`"),
            (r#"{"data":{"score":1,"key":""}}"#, Some("event.data.key"), "cannot make the `external_id`: it must give"),
            (r#"{"data":{"score":1,"key":0.5}}"#, Some("event.data.key"), "cannot make the `external_id`: it must give"),
            (r#"{"data":{"score":1,"key":"a\u0000b"}}"#, Some("event.data.key"), "it has a control character"),
            (r#"{"data":{"score":1,"key":".."}}"#, Some("event.data.key"), "name no record in a URL"),
            (r#"{"data":{"score":1,"key":"."}}"#, Some("event.data.key"), "name no record in a URL"),
            (
                r#"{"event":"course.completed","companyId":"a","data":{"userId":"u\u0007","courseId":"c"}}"#,
                None,
                "cannot make the external id: it has a control character",
            ),
            (r#"{"data":{"score":1}}"#, Some("event.data.key"), "cannot make the `external_id`: the event has no `key`"),
            (r#"{"data":{"key":7}}"#, Some("event.data.key"), "cannot make the `fields`: the event has no `score`"),
        ] {
            let outcome = format!("{:?}", scheme(external_id).record(&delivery(payload)).unwrap_err());
            assert!(outcome.contains(says), "{payload}: {outcome}");
        }
        let sized =
            |chars: usize| scheme(Some("event.data.key")).external_id(&delivery(&json!({"data": {"key": "ü".repeat(chars)}}).to_string()));
        assert!(sized(255).is_ok() && format!("{:?}", sized(256)).contains("more than 255 characters"));
        let keyed = scheme(Some("event.data.key")).record(&delivery(r#"{"data":{"score":1,"key":7}}"#)).unwrap();
        assert_eq!((keyed.external_id.as_str(), Value::Object(keyed.fields)), ("7", json!({"Score__c": 1})));
    }
}
