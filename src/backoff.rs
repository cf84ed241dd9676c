//! How long to wait before the next try. Pure: randomness is an argument.

use std::time::Duration;

/// Exponential backoff with full jitter, capped.
///
/// Full jitter spreads the tries of many deliveries that failed together over the whole interval, which is what
/// lets a sink come back: see Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015).
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    /// Upper bound of the wait after the first failure.
    pub initial: Duration,
    /// The bound grows by this much with each further failure; at least 1.
    pub factor: f64,
    /// The bound never grows past this.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after failure number `failures` (1 is the first), for a `jitter` uniform in `[0, 1)`.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        self.bound(failures).mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// The longest wait after failure number `failures`.
    pub fn bound(&self, failures: u32) -> Duration {
        let exponent = failures.saturating_sub(1).min(1000) as i32;
        let seconds = self.initial.as_secs_f64() * self.factor.powi(exponent);
        // An overflow to infinity compares as larger than any cap.
        if seconds < self.cap.as_secs_f64() { Duration::from_secs_f64(seconds) } else { self.cap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_wait_never_passes_the_cap_and_its_bound_never_shrinks(failures in 0u32..5000, jitter in 0.0f64..1.0, initial_ms in 0u64..100_000, factor in 1.0f64..10.0, cap_ms in 0u64..10_000_000) {
            let backoff = Backoff { initial: Duration::from_millis(initial_ms), factor, cap: Duration::from_millis(cap_ms) };
            prop_assert!(backoff.delay(failures, jitter) <= backoff.cap);
            prop_assert!(backoff.bound(failures) <= backoff.bound(failures + 1));
        }
    }

    #[test]
    fn the_bound_grows_by_the_factor_up_to_the_cap() {
        let backoff = Backoff { initial: Duration::from_secs(2), factor: 3.0, cap: Duration::from_secs(3600) };
        let bounds: Vec<u64> = (1..=9).map(|n| backoff.bound(n).as_secs()).collect();
        assert_eq!(bounds, [2, 6, 18, 54, 162, 486, 1458, 3600, 3600]);
    }
}
