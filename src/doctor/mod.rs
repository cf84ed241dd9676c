//! What is wrong, from what was seen. Pure: [`crate::store::doctor`] looks, this judges, and the command prints.
//!
//! [`house`] is about what is the operator's own: server, roles, sinks, workers. [`provider`] is about what the provider sends, or
//! ceases to send.

pub mod house;
pub mod provider;

use serde::Serialize;

/// How bad it is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing. Also what could not be looked at.
    Note,
    /// Likely to need somebody.
    Warning,
    /// Events are being lost, or nothing gets through.
    Problem,
}

impl Level {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// Which check it is of: a name that does not change, for scripts.
    pub check: &'static str,
    /// What is so.
    pub what: String,
    /// What shows it.
    pub evidence: Option<String>,
    /// What to do about it.
    pub action: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, what: what.into(), evidence: None, action: None }
    }

    pub fn new(level: Level, check: &'static str, what: impl Into<String>, evidence: impl Into<String>, action: impl Into<String>) -> Self {
        Self { level, check, what: what.into(), evidence: Some(evidence.into()), action: Some(action.into()) }
    }

    /// It could not be looked at.
    pub fn unseen(check: &'static str, why: impl Into<String>) -> Self {
        Self { level: Level::Note, check, what: "could not be looked at".into(), evidence: Some(why.into()), action: None }
    }
}

/// A count that was given up at a limit.
fn counted(count: i64, max: i64) -> String {
    if count > max { format!("more than {max}") } else { count.to_string() }
}

/// A stretch of time, in its two largest units: `3 d 4 h`.
fn stretch(time: chrono::Duration) -> String {
    let minutes = time.num_minutes().max(0);
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}
