//! What Salesforce's errors mean for the event. Pure.
//!
//! Its error codes say more than HTTP's status does, so they come first. The messages beside them repeat what was sent, so that codes and
//! names of fields alone go into an error; the answer's beginning is kept where answers are kept.

use crate::delivery::{Blame, Failure};
use crate::sink::client::answer::{self, Answer};
use serde_json::Value;
use std::time::Duration;

/// How many names of fields an error repeats.
const FIELDS_MAX: usize = 5;

/// Reads the errors of one sink.
pub struct Reader {
    /// The API name of the external id's field.
    pub external_id_field: String,
    /// How long the sink rests when a limit of the org is reached, and the answer does not say for how long.
    pub limit_rest: Duration,
}

/// One error, of a request or of a record.
struct Said<'a> {
    code: &'a str,
    message: &'a str,
    fields: Vec<&'a str>,
}

impl Reader {
    /// What it means that a request was refused as a whole.
    pub fn of_request(&self, answer: &Answer) -> Failure {
        let body = answer.json();
        let said = body.as_ref().and_then(|body| Said::read(body.get(0)?, "errorCode"));
        let status = answer.status.as_u16();
        let (by_status, hint) = match status {
            300 => (Blame::Permanent, "several records have this external id: make its field unique, and merge them"),
            301..=399 | 404 | 405 => {
                (Blame::Refused, "there is no such place: check the sink's `url`, `version`, `object` and `external_id_field`")
            }
            _ => (answer::blame(answer.status), ""),
        };
        let blame = said.as_ref().and_then(|said| self.blame(said)).unwrap_or(by_status);
        // The hint is about the status, and of no use where the code says something else.
        let hint = Some(hint.to_owned()).filter(|hint| blame == by_status && !hint.is_empty());
        let words: Vec<String> = said.iter().map(Said::words).chain(hint).filter(|words| !words.is_empty()).collect();
        self.rested(answer.failure_as(blame, &words.join("; ")))
    }

    /// What it means that one record of a request was refused; `others_succeed`: others of it were not.
    pub fn of_record(&self, status: u16, result: &Value, others_succeed: bool) -> Failure {
        let said = result["errors"].get(0).and_then(|error| Said::read(error, "statusCode"));
        let blame = match said.as_ref().and_then(|said| self.blame(said)) {
            // The credential is good for others, so this is about the record: it must not keep the sink from them.
            Some(Blame::Refused) if others_succeed => Blame::Event,
            blame => blame.unwrap_or(Blame::Permanent),
        };
        let words = said.map_or_else(|| "without a reason".into(), |said| said.words());
        let response = answer::text(result.to_string().as_bytes());
        self.rested(Failure { blame, status: Some(status), error: format!("the record was refused: {words}"), response, retry_after: None })
    }

    /// Whether this record was refused because the org's triggers ran into a limit: which all records of a request share.
    pub fn is_over_limits(result: &Value) -> bool {
        let errors = result["errors"].as_array().into_iter().flatten();
        errors.filter_map(|error| Said::read(error, "statusCode")).any(|said| said.is_over_limits())
    }

    /// What an error code says; `None` where it is none that says more than the status.
    fn blame(&self, said: &Said) -> Option<Blame> {
        Some(match said.code {
            // The calls of a day, or those under way at once; the space for data.
            "REQUEST_LIMIT_EXCEEDED" | "STORAGE_LIMIT_EXCEEDED" => Blame::RateLimit,
            "INVALID_SESSION_ID" | "INVALID_AUTH_HEADER" | "API_DISABLED_FOR_ORG" | "API_CURRENTLY_DISABLED" | "ORG_LOCKED" => {
                Blame::Refused
            }
            "INSUFFICIENT_ACCESS" | "INSUFFICIENT_ACCESS_OR_READONLY" | "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY" => Blame::Refused,
            // The object is the config's, not the event's.
            "INVALID_TYPE" | "NOT_FOUND" => Blame::Refused,
            // The org is read-only for a while: that is nobody's record.
            "SERVER_UNAVAILABLE" | "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE" | "INVALID_READ_ONLY_USER_DML" => Blame::Sink,
            "UNABLE_TO_LOCK_ROW" | "QUERY_TIMEOUT" | "REQUEST_RUNNING_TOO_LONG" | "UNKNOWN_EXCEPTION" => Blame::Event,
            // Deleted while it was written: the next upsert makes it anew.
            "ENTITY_IS_DELETED" => Blame::Event,
            // Two made the same record at once, or in one request, where its field takes no notice of case: the next upsert finds it. Of
            // another unique field, it is the event's fault.
            "DUPLICATE_VALUE" if [self.external_id_field.as_str(), "external id"].iter().any(|own| said.message.contains(own)) => {
                Blame::Event
            }
            // A lock that a trigger of the org ran into comes under the trigger's own code.
            _ if said.message.contains("UNABLE_TO_LOCK_ROW") => Blame::Event,
            // So does what a trigger may use, which may depend on what others do just then.
            _ if said.is_over_limits() => Blame::Event,
            "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"
            | "DUPLICATES_DETECTED"
            | "DUPLICATE_EXTERNAL_ID"
            | "DUPLICATE_VALUE"
            | "FIELD_CUSTOM_VALIDATION_EXCEPTION"
            | "FIELD_INTEGRITY_EXCEPTION"
            | "INVALID_FIELD"
            | "INVALID_FIELD_FOR_INSERT_UPDATE"
            | "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"
            | "JSON_PARSER_ERROR"
            | "MALFORMED_ID"
            | "NUMBER_OUTSIDE_VALID_RANGE"
            | "REQUIRED_FIELD_MISSING"
            | "STRING_TOO_LONG" => Blame::Permanent,
            _ => return None,
        })
    }

    fn rested(&self, mut failure: Failure) -> Failure {
        if failure.blame == Blame::RateLimit {
            failure.retry_after.get_or_insert(self.limit_rest);
        }
        failure
    }
}

impl<'a> Said<'a> {
    /// `key` is what the code is called: another name in each kind of answer.
    fn read(error: &'a Value, key: &str) -> Option<Self> {
        let is_name = |name: &&str| name.len() <= 80 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let code = error.get(key)?.as_str().filter(is_name)?;
        let fields = error["fields"].as_array().map(|fields| fields.iter().filter_map(Value::as_str).filter(is_name).collect());
        Some(Self { code, message: error["message"].as_str().unwrap_or_default(), fields: fields.unwrap_or_default() })
    }

    fn is_over_limits(&self) -> bool {
        self.code == "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY" && self.message.contains("System.LimitException")
    }

    fn words(&self) -> String {
        if self.fields.is_empty() {
            return self.code.to_owned();
        }
        format!("{} ({})", self.code, self.fields[..self.fields.len().min(FIELDS_MAX)].join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::{HeaderMap, StatusCode};
    use serde_json::json;

    const REST: Duration = Duration::from_secs(300);

    fn reader() -> Reader {
        Reader { external_id_field: "External_Id__c".into(), limit_rest: REST }
    }

    fn of_request(status: u16, body: &str) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        reader().of_request(&Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec() })
    }

    fn of_record(code: &str, message: &str, others_succeed: bool) -> Failure {
        let result = json!({"success": false, "errors": [{"statusCode": code, "message": message, "fields": ["Score__c"]}]});
        reader().of_record(200, &result, others_succeed)
    }

    #[test]
    fn every_refusal_of_a_request_has_its_blame() {
        for (status, code, expected) in [
            (401, "INVALID_SESSION_ID", Blame::Refused),
            (403, "REQUEST_LIMIT_EXCEEDED", Blame::RateLimit),
            (403, "API_DISABLED_FOR_ORG", Blame::Refused),
            (403, "SOMETHING_ELSE", Blame::Refused),
            (404, "NOT_FOUND", Blame::Refused),
            (404, "ENTITY_IS_DELETED", Blame::Event),
            (405, "METHOD_NOT_ALLOWED", Blame::Refused),
            (300, "", Blame::Permanent),
            (302, "", Blame::Refused),
            (400, "INVALID_FIELD", Blame::Permanent),
            (400, "REQUIRED_FIELD_MISSING", Blame::Permanent),
            (400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", Blame::Permanent),
            (400, "UNABLE_TO_LOCK_ROW", Blame::Event),
            (400, "SOMETHING_ELSE", Blame::Permanent),
            (500, "UNKNOWN_EXCEPTION", Blame::Event),
            (500, "", Blame::Event),
            (503, "SERVER_UNAVAILABLE", Blame::Sink),
            (400, "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE", Blame::Sink),
            (502, "", Blame::Sink),
            (429, "", Blame::RateLimit),
        ] {
            let failure = of_request(status, &json!([{"errorCode": code, "message": "s3cret"}]).to_string());
            assert_eq!(failure.blame, expected, "{status} {code}: {}", failure.error);
            assert_eq!(failure.retry_after, (expected == Blame::RateLimit).then_some(REST), "{status} {code}");
            assert!(failure.error.contains(code) && !failure.error.contains("s3cret"), "{}", failure.error);
        }
        assert_eq!(of_request(503, "<html>down</html>").blame, Blame::Sink);
        assert_eq!(of_request(400, r#"[{"errorCode":"IT IS s3cret","message":""}]"#).error, "answered 400 Bad Request");
    }

    #[test]
    fn every_refusal_of_a_record_has_its_blame() {
        for (code, message, expected) in [
            ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "", Blame::Permanent),
            ("DUPLICATES_DETECTED", "", Blame::Permanent),
            ("STRING_TOO_LONG", "", Blame::Permanent),
            ("SOMETHING_ELSE", "", Blame::Permanent),
            ("DUPLICATE_VALUE", "duplicate value found: Badge__c duplicates value on record with id: a00", Blame::Permanent),
            ("DUPLICATE_VALUE", "duplicate value found: External_Id__c duplicates value on record with id: a00", Blame::Event),
            ("DUPLICATE_VALUE", "Duplicate external id specified: acme:U:c", Blame::Event),
            ("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "x: trigger: UNABLE_TO_LOCK_ROW, unable to obtain", Blame::Event),
            ("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "x: trigger", Blame::Permanent),
            ("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "x: System.LimitException: Too many SOQL queries: 101", Blame::Event),
            ("INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE", "", Blame::Sink),
            ("INVALID_READ_ONLY_USER_DML", "", Blame::Sink),
            ("UNABLE_TO_LOCK_ROW", "", Blame::Event),
            ("ENTITY_IS_DELETED", "", Blame::Event),
            ("STORAGE_LIMIT_EXCEEDED", "", Blame::RateLimit),
            ("INSUFFICIENT_ACCESS_OR_READONLY", "", Blame::Event),
        ] {
            let failure = of_record(code, message, true);
            assert_eq!(failure.blame, expected, "{code} {message}");
            assert_eq!(failure.error, format!("the record was refused: {code} (Score__c)"));
        }
        assert_eq!(of_record("INSUFFICIENT_ACCESS_OR_READONLY", "", false).blame, Blame::Refused);
        assert_eq!(reader().of_record(200, &json!({"success": false}), true).error, "the record was refused: without a reason");
    }
}
