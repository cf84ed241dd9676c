//! What `sluice doctor` looks at. However large the tables are, a look costs about the same: it goes over the newest
//! [`EVENTS_MAX`] events, counts rows of `deliveries` up to [`ROWS_MAX`] by their partial indexes, and parses [`QUIZZES_MAX`] payloads at most.
//!
//! Each look is a statement of its own, so that what a role may not see, or what takes too long, leaves the others as they are.

mod house;
mod provider;

pub use house::*;
pub use provider::*;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// How far back events are looked at.
pub const EVENTS_MAX: i64 = 100_000;
/// Rows are counted up to this; one more means "more".
pub const ROWS_MAX: i64 = 10_000;
/// Payloads that are parsed, of up to 64 KiB each.
pub const QUIZZES_MAX: i64 = 1_000;

/// Session settings of the connection. Every look is meant to go by an index, and none may hold anybody up.
pub const SETTINGS: &[(&str, &str)] = &[
    ("statement_timeout", "15s"),
    ("lock_timeout", "2s"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("default_transaction_read_only", "on"),
];

/// The time, by the database's clock.
pub async fn now(conn: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(r#"select now() as "now!""#).fetch_one(conn).await
}
