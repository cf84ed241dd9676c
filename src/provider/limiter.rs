//! The provider's limits, kept on our side: so many requests a second, and so many a minute. Pure: time is an argument.
//!
//! A request counts from when its answer came, not from when it was sent. The provider counted it at some moment in between, so
//! however long it was under way, the provider never sees more of them in its own seconds and minutes. Requests go one at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Any of these many answers, and how long ago the first of them must be.
const LIMITS: [(usize, Duration); 2] = [(4, Duration::from_secs(1)), (60, Duration::from_secs(60))];

/// When the next request may go.
#[derive(Debug, Default)]
pub struct Limiter {
    /// When the last answers came, the oldest first; as many as the largest limit is about.
    answered: VecDeque<Instant>,
    /// The provider asked for a rest until then.
    not_before: Option<Instant>,
}

impl Limiter {
    /// How long the next request must wait; zero: it may go now.
    pub fn wait(&self, now: Instant) -> Duration {
        let of_limit = |(count, time): (usize, Duration)| Some(self.answered[self.answered.len().checked_sub(count)?] + time);
        let free_at = LIMITS.into_iter().filter_map(of_limit).chain(self.not_before).max();
        free_at.map_or(Duration::ZERO, |free_at| free_at.saturating_duration_since(now))
    }

    /// A request ended: it was answered, or given up.
    pub fn ended(&mut self, now: Instant) {
        self.answered.push_back(now);
        let most = LIMITS.map(|(count, _)| count).into_iter().max().unwrap_or_default();
        while self.answered.len() > most {
            self.answered.pop_front();
        }
    }

    /// The provider asked for nothing more until then.
    pub fn rest_until(&mut self, until: Instant) {
        self.not_before = self.not_before.max(Some(until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Sends requests that take so long each; returns when each was sent and answered, as times after the start.
    fn run(takes: &[Duration]) -> Vec<(Duration, Duration)> {
        let start = clock::instant();
        let (mut limiter, mut now) = (Limiter::default(), start);
        let mut log = Vec::new();
        for &takes in takes {
            now += limiter.wait(now);
            assert_eq!(limiter.wait(now), Duration::ZERO, "having waited, it may go");
            let sent = now;
            now += takes;
            limiter.ended(now);
            log.push((sent - start, now - start));
        }
        log
    }

    #[test]
    fn four_go_at_once_and_the_fifth_a_second_after_the_first_answer() {
        let log = run(&[ms(10); 9]);
        let sent: Vec<_> = log.iter().map(|(sent, _)| *sent).collect();
        assert_eq!(sent, [0, 10, 20, 30, 1010, 1020, 1030, 1040, 2020].map(ms));
    }

    #[test]
    fn the_sixty_first_goes_a_minute_after_the_first_answer() {
        let log = run(&[ms(0); 61]);
        assert_eq!(log[59].0, ms(14_000), "fifteen seconds' worth at four a second");
        assert_eq!(log[60].0, ms(60_000));
    }

    #[test]
    fn a_rest_that_is_asked_for_is_kept_and_never_shortened() {
        let now = clock::instant();
        let mut limiter = Limiter::default();
        limiter.rest_until(now + ms(7000));
        limiter.rest_until(now + ms(3000));
        assert_eq!(limiter.wait(now + ms(1000)), ms(6000));
        assert_eq!(limiter.wait(now + ms(7000)), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn wherever_between_sending_and_answer_the_provider_counts_it_never_counts_too_many(
            requests in proptest::collection::vec((0u64..3000, 0.0f64..1.0), 1..200),
        ) {
            let takes: Vec<_> = requests.iter().map(|(takes, _)| ms(*takes)).collect();
            let counted: Vec<_> =
                run(&takes).into_iter().zip(&requests).map(|((sent, answered), (_, at))| sent + (answered - sent).mul_f64(*at)).collect();
            for (count, time) in LIMITS {
                let crowded = counted.windows(count + 1).any(|window| window[count] - window[0] < time);
                prop_assert!(!crowded, "more than {} in {:?}", count, time);
            }
        }
    }
}
