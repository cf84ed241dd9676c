//! One sink's breaker and ramp, as this worker sees them. Pure; the state that all workers share is in `sinks`.
//!
//! Closed, tries go out, up to a limit that grows with each success. Open, nothing goes out. Probing, one try at a time,
//! until one goes through.

use std::time::{Duration, Instant};

/// See the module's documentation.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Failures in a row that open it.
    failures_max: u32,
    concurrency: usize,
    /// When this worker last changed the state by itself. What the database said before then is out of date.
    changed_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32, limit: usize },
    Open { until: Instant },
    Probing,
}

/// What the database says of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    Closed,
    /// Open, or being probed by another worker, until then.
    Open {
        until: Instant,
    },
}

impl Breaker {
    /// A closed breaker at full speed.
    pub fn new(failures_max: u32, concurrency: usize, now: Instant) -> Self {
        Self { state: State::Closed { failures: 0, limit: concurrency }, failures_max, concurrency, changed_at: now }
    }

    /// How many tries may be in flight.
    pub fn limit(&self) -> usize {
        match self.state {
            State::Closed { limit, .. } => limit,
            State::Open { .. } => 0,
            State::Probing => 1,
        }
    }

    /// Whether trouble that blames the sink is charged to the sink.
    pub fn is_resting(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// Until when it rests, if it does: then it is time to ask for the probe.
    pub fn rests_until(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    /// A try went through. Returns whether this closes the breaker, which the database must be told.
    pub fn succeeded(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Closed { failures, limit } => {
                *failures = 0;
                *limit = (*limit + 1).min(self.concurrency);
                false
            }
            // A straggler from before it opened proves nothing.
            State::Open { .. } => false,
            State::Probing => {
                self.change(State::Closed { failures: 0, limit: 1 }, now);
                true
            }
        }
    }

    /// A try failed, for whatever reason but a permanent one. Returns whether the breaker must open.
    pub fn failed(&mut self) -> bool {
        match &mut self.state {
            State::Closed { failures, .. } => {
                *failures += 1;
                *failures >= self.failures_max
            }
            State::Open { .. } => false,
            State::Probing => true,
        }
    }

    /// Rests for this long, as far as this worker knows; the database may say otherwise later.
    pub fn open(&mut self, rest: Duration, now: Instant) {
        self.change(State::Open { until: now + rest }, now);
    }

    /// This worker was given the probe.
    pub fn probe(&mut self, now: Instant) {
        self.change(State::Probing, now);
    }

    /// Takes over what the database said at a time when `asked_at` had passed here.
    pub fn follow(&mut self, shared: Shared, asked_at: Instant) {
        if asked_at <= self.changed_at {
            return;
        }
        match (self.state, shared) {
            (State::Closed { .. }, Shared::Open { until }) | (State::Open { .. }, Shared::Open { until }) => {
                self.state = State::Open { until }
            }
            (State::Open { .. }, Shared::Closed) => self.state = State::Closed { failures: 0, limit: 1 },
            _ => {}
        }
    }

    fn change(&mut self, state: State, now: Instant) {
        self.state = state;
        self.changed_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, Instant) {
        let now = crate::clock::instant();
        (Breaker::new(3, 8, now), now)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_a_success_between_them_starts_the_count_again() {
        let (mut breaker, now) = breaker();
        assert!(!breaker.failed() && !breaker.failed());
        breaker.succeeded(now);
        assert!(!breaker.failed() && !breaker.failed() && breaker.failed());
    }

    #[test]
    fn open_lets_nothing_through_probing_one_and_a_probe_that_goes_through_begins_a_ramp() {
        let (mut breaker, now) = breaker();
        breaker.open(Duration::from_secs(1), now);
        assert_eq!((breaker.limit(), breaker.is_resting()), (0, true));
        assert!(!breaker.succeeded(now), "a straggler does not close it");
        breaker.probe(now);
        assert_eq!(breaker.limit(), 1);
        assert!(breaker.succeeded(now));
        let ramp: Vec<usize> = (0..8)
            .map(|_| {
                breaker.succeeded(now);
                breaker.limit()
            })
            .collect();
        assert_eq!(ramp, [2, 3, 4, 5, 6, 7, 8, 8]);
    }

    #[test]
    fn what_the_database_said_before_a_change_does_not_undo_it() {
        let (mut breaker, now) = breaker();
        breaker.open(Duration::from_secs(1), now + Duration::from_millis(10));
        breaker.follow(Shared::Closed, now);
        assert_eq!(breaker.limit(), 0);
        breaker.follow(Shared::Closed, now + Duration::from_millis(20));
        assert_eq!(breaker.limit(), 1);
    }
}
