//! The only place, with `main`, that reads the time or makes randomness. Everything else takes them as arguments.

use chrono::{DateTime, Utc};
use std::time::Instant;

/// Wall-clock time: for what is stored and signed.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Monotonic time: for deadlines and durations.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
pub fn instant() -> Instant {
    Instant::now()
}

/// Uniform in `[0, 1)`, for jitter.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes randomness")]
pub fn jitter() -> f64 {
    rand::random()
}
