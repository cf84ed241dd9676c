//! A token bucket: `rate` tries a second, with bursts of up to a tenth of a second's worth. Pure.

use std::time::{Duration, Instant};

/// See the module's documentation.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    tokens: f64,
    filled_at: Instant,
}

impl Rate {
    /// A bucket with one token.
    pub fn new(per_second: f64, now: Instant) -> Self {
        Self { per_second, tokens: 1.0, filled_at: now }
    }

    /// Changes the rate: this worker's share of the sink's.
    pub fn set(&mut self, per_second: f64) {
        self.per_second = per_second;
    }

    /// Takes a token, or says how long until there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let burst = (self.per_second / 10.0).max(1.0);
        self.tokens = (self.tokens + now.saturating_duration_since(self.filled_at).as_secs_f64() * self.per_second).min(burst);
        self.filled_at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(((1.0 - self.tokens) / self.per_second).min(60.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lets_through_its_rate_and_no_more_over_a_minute() {
        let start = crate::clock::instant();
        let mut rate = Rate::new(20.0, start);
        let let_through = (0..60_000).filter(|ms| rate.take(start + Duration::from_millis(*ms)).is_ok()).count();
        assert!((1195..=1202).contains(&let_through), "{let_through}");
    }

    #[test]
    fn it_says_how_long_until_the_next() {
        let now = crate::clock::instant();
        let mut rate = Rate::new(0.5, now);
        assert_eq!(rate.take(now), Ok(()));
        assert_eq!(rate.take(now), Err(Duration::from_secs(2)));
    }
}
