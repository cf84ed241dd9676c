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

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        (0u64..100_000, 1.0f64..100.0, 0u64..10_000_000).prop_map(|(initial_ms, factor, cap_ms)| Backoff {
            initial: Duration::from_millis(initial_ms),
            factor,
            cap: Duration::from_millis(cap_ms),
        })
    }

    proptest! {
        #[test]
        fn the_wait_never_passes_its_bound_nor_the_bound_the_cap_and_no_bound_is_smaller_than_the_one_before(
            backoff in any_backoff(), failures in prop_oneof![0u32..60, any::<u32>()], jitter in 0.0f64..1.0,
        ) {
            let bound = backoff.bound(failures);
            prop_assert!(backoff.delay(failures, jitter) <= bound && bound <= backoff.cap);
            prop_assert!(bound <= backoff.bound(failures.saturating_add(1)));
            prop_assert!(bound >= backoff.initial.min(backoff.cap));
        }

        #[test]
        fn full_jitter_reaches_from_nothing_to_the_bound_evenly(backoff in any_backoff(), failures in 1u32..60, jitter in 0.0f64..0.5) {
            prop_assert_eq!(backoff.delay(failures, 0.0), Duration::ZERO);
            prop_assert_eq!(backoff.delay(failures, 1.0), backoff.bound(failures));
            // Twice the jitter is twice the wait, but for rounding.
            let (once, twice) = (backoff.delay(failures, jitter), backoff.delay(failures, 2.0 * jitter));
            prop_assert!((once * 2).abs_diff(twice) <= Duration::from_micros(1));
        }
    }

    #[test]
    fn the_bound_grows_by_the_factor_up_to_the_cap() {
        let backoff = Backoff { initial: Duration::from_secs(2), factor: 3.0, cap: Duration::from_secs(3600) };
        let bounds: Vec<u64> = (1..=9).map(|n| backoff.bound(n).as_secs()).collect();
        assert_eq!(bounds, [2, 6, 18, 54, 162, 486, 1458, 3600, 3600]);
    }
}
