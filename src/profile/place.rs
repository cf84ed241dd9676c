//! Where a request names something: a header, a path into the payload, or nowhere.

use serde_json::Value;
use std::fmt;

/// Where a request names its id, type, company or user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In this header; lower case.
    Header(String),
    Body(Path),
    Nowhere,
}

/// A path into the payload: object keys, joined by dots in the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<String>);

/// Longest type, company or user that is taken: they go into indexes, memory and headers.
const FACT_CHARS_MAX: usize = 200;

/// As the config writes it.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl Place {
    /// The header's name, where it is one.
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Header(name) => Some(name),
            Self::Body(_) | Self::Nowhere => None,
        }
    }

    /// What it holds, checked: `carried` is the header's value. Absent, empty, null, or of another kind: `None`.
    pub(super) fn text(&self, payload: &Value, carried: Option<&str>, what: &str) -> Result<Option<String>, String> {
        let Some(text) = self.any_text(payload, carried) else { return Ok(None) };
        if text.chars().count() > FACT_CHARS_MAX {
            return Err(format!("the {what} has more than {FACT_CHARS_MAX} characters"));
        }
        // Postgres text cannot hold NUL, and no name has a control character for a reason.
        if text.chars().any(char::is_control) {
            return Err(format!("the {what} has a control character"));
        }
        Ok(Some(text))
    }

    /// The text (or number, written out) that it holds.
    pub(super) fn any_text(&self, payload: &Value, carried: Option<&str>) -> Option<String> {
        let text = match self {
            Self::Header(_) => carried?.to_owned(),
            Self::Body(path) => match path.find(payload)? {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return None,
            },
            Self::Nowhere => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

impl Path {
    /// Parses `a.b.c`; `None` where a part is empty.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        (!parts.iter().any(String::is_empty)).then_some(Self(parts))
    }

    /// What is at this path.
    pub(super) fn find<'a>(&self, payload: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(payload, |value, key| value.get(key))
    }
}
