//! What can be wrong with a config, said with file, line and column, and without any of its values: they may be secret.

use std::ops::Range;

/// Why a config cannot be used. The message says where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no config file {path}: create it, or name yours with --config or in SLUICE_CONFIG")]
    Missing { path: String },
    #[error("cannot read the config file {path}: {source}; correct that, or name another with --config or in SLUICE_CONFIG")]
    Unreadable { path: String, source: std::io::Error },
    /// Line and column count from 1; the column counts characters.
    #[error("{file}:{line}:{column}: {message}")]
    Wrong { file: String, line: usize, column: usize, message: String },
    #[error("DATABASE_URL in the environment {message}")]
    DatabaseUrl { message: String },
    #[error("{name} in the environment {message}")]
    Environment { name: &'static str, message: String },
}

/// A mistake at a place in the text: bytes from its beginning.
pub(super) struct Problem {
    span: Range<usize>,
    message: String,
}

impl Problem {
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into() }
    }

    /// What the TOML parser found wrong with the text's syntax. It tells of characters it expected, never of those it found.
    pub fn syntax(error: &toml::de::Error) -> Self {
        Self::new(error.span().unwrap_or(0..0), format!("this is not TOML: {}", error.message()))
    }

    /// What serde found wrong with the shape. Its messages repeat the value (`invalid type: string "…"`), so only what was
    /// expected is taken over.
    pub fn shape(error: &toml::de::Error) -> Self {
        let message = error.message();
        let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
        let message = match expected {
            _ if message.starts_with("unknown field ") => message.replacen("unknown field", "unknown key", 1),
            Some("a sequence") if message.starts_with("invalid type: map") => {
                "must be a list: where it is one of tables, write its name in two brackets, such as [[sink]]".into()
            }
            Some("a sequence") => "must be a list, such as [\"…\"]".into(),
            Some("a map") => "must be a table such as { name = \"value\" }".into(),
            Some(expected) => format!("must be {expected}"),
            None => "has a value that cannot be used here".into(),
        };
        Self::new(error.span().unwrap_or(0..0), message)
    }

    /// Tells where in `text` it is.
    pub fn locate(self, text: &str, file: &str) -> ConfigError {
        let before = text.get(..self.span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::Wrong {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: self.message,
        }
    }
}
