//! A provider's contract as data: header names, the signed string, and where the payload names type, company and user. Pure.

use serde_json::Value;

/// How one provider signs its requests and shapes its payloads.
///
/// MindTickle publishes no such contract; the built-in `mindtickle` follows a third party's description. So all of
/// it can be changed in the config.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub name: String,
    /// Header of the signature, lower case.
    pub signature_header: String,
    /// Header of the Unix time that is part of the signed string, lower case.
    pub timestamp_header: String,
    /// Header of the provider's event id, lower case.
    pub event_id_header: String,
    /// What is signed, in order.
    pub signed: Vec<Part>,
    pub encoding: Encoding,
    /// Where the payload names the event's type, company and user.
    pub type_path: Path,
    pub company_path: Path,
    pub user_path: Path,
}

/// A piece of the signed string.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The timestamp header's value, as it came.
    Timestamp,
    /// The raw body.
    Body,
    Literal(String),
}

impl Part {
    /// Parses the signed string's template, `{timestamp}:{body}` for example; every other brace is refused.
    ///
    /// It must hold the body, once: a signature over anything less proves nothing of the event. `Err` says what is wrong.
    pub fn parse_template(template: &str) -> Result<Vec<Part>, &'static str> {
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, reference) = rest.split_at(at);
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let (part, after) = [("{timestamp}", Part::Timestamp), ("{body}", Part::Body)]
                .into_iter()
                .find_map(|(word, part)| Some((part, reference.strip_prefix(word)?)))
                .ok_or("must have no braces but those of `{timestamp}` and `{body}`")?;
            parts.push(part);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        let bodies = parts.iter().filter(|part| **part == Part::Body).count();
        (bodies == 1).then_some(parts).ok_or("must hold `{body}` once")
    }
}

/// How the signature's bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Hex,
    Base64,
}

/// A path into the payload: object keys, joined by dots in the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<String>);

/// What the payload says of the event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub event_type: Option<String>,
    pub company_id: Option<String>,
    pub user: Option<String>,
}

/// Longest type, company or user that is taken: they go into indexes, memory and headers.
const FACT_CHARS_MAX: usize = 200;

impl Profile {
    /// The built-in profile for MindTickle, after one third-party description of its webhooks.
    pub fn mindtickle() -> Self {
        Self {
            name: "mindtickle".into(),
            signature_header: "x-mt-webhook-signature".into(),
            timestamp_header: "x-mt-webhook-timestamp".into(),
            event_id_header: "x-mt-event-id".into(),
            signed: vec![Part::Timestamp, Part::Literal(":".into()), Part::Body],
            encoding: Encoding::Hex,
            type_path: Path::parse("event").expect("a literal path is valid"),
            company_path: Path::parse("companyId").expect("a literal path is valid"),
            user_path: Path::parse("data.userId").expect("a literal path is valid"),
        }
    }

    /// Reads what the payload says of the event; `Err` is the reason why it must be quarantined.
    pub fn read(&self, payload: &[u8]) -> Result<Facts, String> {
        let value: Value = serde_json::from_slice(payload).map_err(|error| format!("not JSON: {}", category(&error)))?;
        if !value.is_object() {
            return Err("not a JSON object".into());
        }
        let event_type = self.type_path.text(&value, "event type")?.ok_or("the payload names no event type")?;
        Ok(Facts {
            event_type: Some(event_type),
            company_id: self.company_path.text(&value, "company")?,
            user: self.user_path.text(&value, "user")?,
        })
    }
}

impl Path {
    /// Parses `a.b.c`; `None` where a part is empty.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        (!parts.iter().any(String::is_empty)).then_some(Self(parts))
    }

    /// The text (or number, written out) at this path. Absent, null, or of another kind: `None`.
    fn text(&self, value: &Value, what: &str) -> Result<Option<String>, String> {
        let found = self.0.iter().try_fold(value, |value, key| value.get(key));
        let text = match found {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return Ok(None),
        };
        if text.chars().count() > FACT_CHARS_MAX {
            return Err(format!("the {what} has more than {FACT_CHARS_MAX} characters"));
        }
        // Postgres text cannot hold NUL, and no name has a control character for a reason.
        if text.chars().any(char::is_control) {
            return Err(format!("the {what} has a control character"));
        }
        Ok(Some(text))
    }
}

/// Says where JSON ends to be JSON, without repeating any of it: it may be personal.
fn category(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        _ => "it cannot be parsed",
    };
    format!("{kind} at line {}, column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &str) -> Result<Facts, String> {
        Profile::mindtickle().read(payload.as_bytes())
    }

    #[test]
    fn the_payload_names_type_company_and_user() {
        let facts = read(r#"{"event":"course.completed","companyId":"acme","data":{"userId":7}}"#).unwrap();
        let expected = Facts { event_type: Some("course.completed".into()), company_id: Some("acme".into()), user: Some("7".into()) };
        assert_eq!(facts, expected);
    }

    #[test]
    fn a_template_names_what_is_signed_and_nothing_that_is_not_known() {
        let literal = |text: &str| Part::Literal(text.into());
        assert_eq!(Part::parse_template("{timestamp}:{body}").unwrap(), Profile::mindtickle().signed);
        assert_eq!(Part::parse_template("{body}").unwrap(), [Part::Body]);
        assert_eq!(
            Part::parse_template("v0:{timestamp}.{timestamp}{body}!").unwrap(),
            [literal("v0:"), Part::Timestamp, literal("."), Part::Timestamp, Part::Body, literal("!")]
        );
        for bad in ["", "{timestamp}", "{body}{body}", "{body", "body}", "{id}{body}", "{{body}}", "{}{body}", "{ body }"] {
            assert!(Part::parse_template(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_processed_has_a_reason_that_repeats_nothing_of_it() {
        for payload in [
            "",
            "secret",
            "[]",
            "null",
            "7",
            "\u{feff}{}",
            "{",
            r#"{"event":7e999}"#,
            "{}",
            r#"{"event":""}"#,
            r#"{"event":"a\u0000b"}"#,
            r#"{"event":"\ud800"}"#,
        ] {
            let reason = read(payload).unwrap_err();
            assert!(!reason.contains("secret"), "{payload}: {reason}");
        }
        assert!(read(&format!(r#"{{"event":"{}"}}"#, "x".repeat(201))).is_err());
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(Profile::mindtickle().read(b"\xff\xfe").is_err());
    }
}
