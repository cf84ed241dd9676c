//! The one object of the stub's org: its fields, and the org's own rules.

use serde_json::{Map, Value, json};

pub const OBJECT: &str = "Training_Status__c";
pub const EXTERNAL_ID: &str = "External_Id__c";

/// Of a field: what it holds.
#[derive(Clone, Copy)]
enum Holds {
    Text { chars_max: usize },
    Number,
    Time,
}

const FIELDS: [(&str, Holds); 7] = [
    (EXTERNAL_ID, Holds::Text { chars_max: 255 }),
    ("User_Id__c", Holds::Text { chars_max: 80 }),
    ("Course_Id__c", Holds::Text { chars_max: 80 }),
    ("Course_Name__c", Holds::Text { chars_max: 120 }),
    ("Score__c", Holds::Number),
    ("Completed_At__c", Holds::Time),
    ("Status__c", Holds::Text { chars_max: 40 }),
];
const REQUIRED: &str = "User_Id__c";

/// Why a record is not written.
pub struct Fault {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    pub fields: Vec<&'static str>,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<String>, fields: Vec<&'static str>) -> Self {
        Self { status: 400, code, message: message.into(), fields }
    }
}

/// A value of another type than its field's: the parser then refuses the request as a whole.
pub fn mistyped(fields: &Map<String, Value>) -> Option<String> {
    let is_wrong = |(name, value): (&String, &Value)| {
        let (_, holds) = FIELDS.iter().find(|(field, _)| field == name)?;
        let time = |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap_or_default()).is_ok();
        let fits = match holds {
            _ if value.is_null() => true,
            Holds::Text { .. } => value.is_string(),
            Holds::Number => value.is_number(),
            Holds::Time => time(value),
        };
        (!fits).then(|| format!("Cannot deserialize instance of {name} from {value}"))
    };
    fields.iter().find_map(is_wrong)
}

/// The object's fields, and the org's rules.
pub fn check(external_id: &str, fields: &Map<String, Value>, is_new: bool) -> Result<(), Fault> {
    for (name, value) in fields {
        let Some(&(field, holds)) = FIELDS.iter().find(|(field, _)| field == name) else {
            return Err(Fault::new("INVALID_FIELD", format!("No such column '{name}' on sobject of type {OBJECT}"), Vec::new()));
        };
        let chars = value.as_str().map_or(0, |text| text.chars().count());
        if matches!(holds, Holds::Text { chars_max } if chars > chars_max) {
            return Err(Fault::new("STRING_TOO_LONG", format!("{name}: data value too large: {value}"), vec![field]));
        }
    }
    if external_id.chars().count() > 255 {
        return Err(Fault::new("STRING_TOO_LONG", format!("{EXTERNAL_ID}: data value too large"), vec![EXTERNAL_ID]));
    }
    match fields.get(REQUIRED) {
        Some(Value::Null) => {
            return Err(Fault::new("REQUIRED_FIELD_MISSING", format!("Required fields are missing: [{REQUIRED}]"), vec![REQUIRED]));
        }
        None if is_new => {
            return Err(Fault::new("REQUIRED_FIELD_MISSING", format!("Required fields are missing: [{REQUIRED}]"), vec![REQUIRED]));
        }
        _ => {}
    }
    if fields.get("Score__c").and_then(Value::as_f64).is_some_and(|score| score > 100.0) {
        let message = format!("{}: a score is at most 100", fields["Score__c"]);
        return Err(Fault::new("FIELD_CUSTOM_VALIDATION_EXCEPTION", message, vec!["Score__c"]));
    }
    if fields.get("Course_Name__c") == Some(&json!("duplicate")) {
        return Err(Fault::new("DUPLICATES_DETECTED", "Use one of these records?", Vec::new()));
    }
    Ok(())
}
