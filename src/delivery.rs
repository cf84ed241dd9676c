//! What became of a try, and what follows from it. Pure: no I/O, no clock.

use crate::backoff::Backoff;
use std::time::Duration;

/// What became of one try, as the sink tells it. An error carries its decision: see [`Blame`].
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The sink has it. `status` is the protocol's answer, where it has numbers.
    Delivered { status: Option<u16> },
    /// The sink has no need of it; `reason` is kept in `deliveries.last_error`.
    Skipped { reason: String },
    /// It is not there, or we cannot know.
    Failed(Failure),
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub blame: Blame,
    /// Status of the sink's answer; `None` where it gave none.
    pub status: Option<u16>,
    /// What happened, for people: no secret, no payload, no personal data.
    pub error: String,
    /// The beginning of the sink's answer, at most [`RESPONSE_CHARS_MAX`] characters.
    pub response: Option<String>,
    /// How long the sink asked us to wait (`Retry-After`), not yet clamped.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Nothing that was sent, and nothing that a later try could change.
    pub fn permanent(error: impl Into<String>) -> Self {
        Self { blame: Blame::Permanent, status: None, error: error.into(), response: None, retry_after: None }
    }
}

/// How much of a sink's answer is kept in `attempts.response`.
pub const RESPONSE_CHARS_MAX: usize = 1000;

/// What a failure says about the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// This event may go through later (a 500, a 409 that may clear).
    Event,
    /// The sink is in trouble, whatever the event (no connection, timeout, 408, 502, 503, 504).
    Sink,
    /// The sink asks for less (429): nothing is wrong with the event, so no attempt is burnt.
    RateLimit,
    /// The sink refuses us (401, 403): a wrong credential buries nothing.
    Refused,
    /// No later try can succeed (400, 404, 410, 413, 422, a redirect).
    Permanent,
}

/// When to try again, and when to give up. One per sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Tries before a delivery is dead; at least 1.
    pub max_attempts: u32,
    pub backoff: Backoff,
    /// How long the whole sink rests when it refuses us or asks for less without saying for how long.
    pub rest: Duration,
    /// The longest wait that a sink's `Retry-After` can ask for.
    pub retry_after_max: Duration,
}

/// What follows from an outcome.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Delivered,
    Skipped,
    /// Try this delivery again after this long; the attempt counts.
    Retry(Duration),
    /// Give it up; the failure says why.
    Dead,
    /// The sink, not the event: no attempt is burnt, and the whole sink rests for this long.
    Rest(Duration),
}

/// How the sink stood when a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Its breaker is not closed: trouble that blames the sink burns no attempt.
    pub resting: bool,
    /// Others went through since this delivery last blamed the sink: so it is this delivery's own trouble after all.
    pub others_succeed: bool,
}

/// Decides what becomes of a delivery after its try number `attempt` (1 is the first); `jitter` is uniform in `[0, 1)`.
pub fn decide(outcome: &Outcome, attempt: u32, policy: &Policy, standing: Standing, jitter: f64) -> Decision {
    let failure = match outcome {
        Outcome::Delivered { .. } => return Decision::Delivered,
        Outcome::Skipped { .. } => return Decision::Skipped,
        Outcome::Failed(failure) => failure,
    };
    let asked = failure.retry_after.map(|after| after.min(policy.retry_after_max));
    let blames_sink = match failure.blame {
        Blame::Permanent => return Decision::Dead,
        Blame::RateLimit | Blame::Refused => true,
        Blame::Sink => standing.resting,
        Blame::Event => false,
    };
    if blames_sink && !standing.others_succeed {
        return Decision::Rest(asked.unwrap_or(policy.rest).max(REST_MIN));
    }
    if attempt >= policy.max_attempts {
        return Decision::Dead;
    }
    let backoff = policy.backoff.delay(attempt, jitter);
    // The sink's wish is a floor: coming earlier than asked is what it asked us not to do.
    Decision::Retry(asked.map_or(backoff, |asked| asked.max(backoff)))
}

/// The shortest rest: a `Retry-After: 0` must not turn into a busy loop.
const REST_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    const RESTING: Standing = Standing { resting: true, others_succeed: false };

    fn policy() -> Policy {
        let backoff = Backoff { initial: Duration::from_secs(2), factor: 3.0, cap: Duration::from_secs(3600) };
        Policy { max_attempts: 3, backoff, rest: Duration::from_secs(5), retry_after_max: Duration::from_secs(600) }
    }

    fn failed(blame: Blame, retry_after: Option<u64>) -> Outcome {
        let retry_after = retry_after.map(Duration::from_secs);
        Outcome::Failed(Failure { blame, status: None, error: "x".into(), response: None, retry_after })
    }

    #[test]
    fn a_delivery_is_dead_after_its_last_attempt_and_not_before() {
        let event = failed(Blame::Event, None);
        assert_eq!(decide(&event, 2, &policy(), Standing::default(), 0.5), Decision::Retry(Duration::from_secs(3)));
        assert_eq!(decide(&event, 3, &policy(), Standing::default(), 0.5), Decision::Dead);
    }

    #[test]
    fn trouble_of_the_sink_burns_no_attempt_while_its_breaker_is_open() {
        let sink = failed(Blame::Sink, None);
        assert_eq!(decide(&sink, 99, &policy(), RESTING, 0.5), Decision::Rest(Duration::from_secs(5)));
        assert_eq!(decide(&sink, 3, &policy(), Standing::default(), 0.5), Decision::Dead);
    }

    #[test]
    fn a_refused_credential_or_a_rate_limit_buries_nothing() {
        for blame in [Blame::Refused, Blame::RateLimit] {
            assert!(matches!(decide(&failed(blame, None), 99, &policy(), Standing::default(), 0.0), Decision::Rest(_)));
        }
    }

    #[test]
    fn a_delivery_that_is_refused_where_others_succeed_is_charged() {
        let standing = Standing { resting: false, others_succeed: true };
        assert!(matches!(decide(&failed(Blame::RateLimit, None), 1, &policy(), standing, 0.5), Decision::Retry(_)));
        assert_eq!(decide(&failed(Blame::RateLimit, None), 3, &policy(), standing, 0.5), Decision::Dead);
    }

    #[test]
    fn retry_after_is_a_floor_and_is_clamped() {
        let asked = |secs| decide(&failed(Blame::Event, Some(secs)), 1, &policy(), Standing::default(), 0.5);
        assert_eq!(asked(0), Decision::Retry(Duration::from_secs(1)));
        assert_eq!(asked(60), Decision::Retry(Duration::from_secs(60)));
        assert_eq!(asked(1_000_000), Decision::Retry(Duration::from_secs(600)));
    }

    #[test]
    fn a_rate_limit_without_a_wait_does_not_become_a_busy_loop() {
        let zero = decide(&failed(Blame::RateLimit, Some(0)), 1, &policy(), Standing::default(), 0.5);
        assert_eq!(zero, Decision::Rest(REST_MIN));
    }

    fn any_wait() -> impl Strategy<Value = Duration> {
        (0u64..10_000_000).prop_map(Duration::from_millis)
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        let blame = prop::sample::select(vec![Blame::Event, Blame::Sink, Blame::RateLimit, Blame::Refused, Blame::Permanent]);
        let failed = (blame, option::of(any_wait())).prop_map(|(blame, retry_after)| {
            Outcome::Failed(Failure { blame, status: None, error: "x".into(), response: None, retry_after })
        });
        prop_oneof![
            1 => Just(Outcome::Delivered { status: Some(200) }),
            1 => Just(Outcome::Skipped { reason: "x".into() }),
            18 => failed,
        ]
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        any::<(bool, bool)>().prop_map(|(resting, others_succeed)| Standing { resting, others_succeed })
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        (1u32..20, any_wait(), 1.0f64..100.0, any_wait(), any_wait(), any_wait()).prop_map(
            |(max_attempts, initial, factor, cap, rest, retry_after_max)| Policy {
                max_attempts,
                backoff: Backoff { initial, factor, cap },
                rest,
                retry_after_max,
            },
        )
    }

    proptest! {
        #[test]
        fn a_decision_has_its_cause_and_its_wait_is_bounded_by_the_policy(
            outcome in any_outcome(), attempt in 1u32..40, policy in any_policy(), standing in any_standing(), jitter in 0.0f64..1.0,
        ) {
            let decision = decide(&outcome, attempt, &policy, standing, jitter);
            let Outcome::Failed(failure) = &outcome else {
                let delivered = matches!(outcome, Outcome::Delivered { .. });
                prop_assert_eq!(decision, if delivered { Decision::Delivered } else { Decision::Skipped });
                return Ok(());
            };
            let asked = failure.retry_after.map(|after| after.min(policy.retry_after_max));
            let last = attempt >= policy.max_attempts;
            match decision {
                Decision::Delivered | Decision::Skipped => prop_assert!(false, "a failure is no success"),
                Decision::Dead => prop_assert!(failure.blame == Blame::Permanent || last),
                Decision::Retry(wait) => {
                    prop_assert!(failure.blame != Blame::Permanent && !last);
                    prop_assert!(wait >= asked.unwrap_or_default() && wait <= policy.backoff.cap.max(asked.unwrap_or_default()));
                }
                Decision::Rest(wait) => {
                    prop_assert!(matches!(failure.blame, Blame::RateLimit | Blame::Refused) || failure.blame == Blame::Sink && standing.resting);
                    prop_assert!(!standing.others_succeed);
                    prop_assert_eq!(wait, asked.unwrap_or(policy.rest).max(REST_MIN));
                }
            }
        }

        #[test]
        fn whatever_its_tries_bring_a_delivery_is_charged_no_more_than_its_attempts_and_dies_of_nothing_else(
            tries in prop::collection::vec((any_outcome(), any_standing()), 1..60), policy in any_policy(), jitter in 0.0f64..1.0,
        ) {
            let mut attempts = 0;
            for (outcome, standing) in tries {
                match decide(&outcome, attempts + 1, &policy, standing, jitter) {
                    Decision::Rest(_) => {}
                    Decision::Retry(_) => attempts += 1,
                    Decision::Dead => {
                        attempts += 1;
                        let permanent = matches!(outcome, Outcome::Failed(Failure { blame: Blame::Permanent, .. }));
                        prop_assert!(permanent || attempts == policy.max_attempts);
                        return Ok(());
                    }
                    Decision::Delivered | Decision::Skipped => return Ok(()),
                }
                prop_assert!(attempts < policy.max_attempts, "it goes on, so there is an attempt left");
            }
        }
    }
}
