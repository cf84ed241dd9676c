//! How much of the org's API calls is used, as `Sforce-Limit-Info` says with each answer, and when to leave the rest to others.
//!
//! The limit is the whole org's: every integration lives on it. Once the share that the config allows is used, nothing is sent for a
//! while; then one small request asks how things are, so that the answer costs no delivery an attempt.

use crate::delivery::{Blame, Failure};
use hyper::HeaderMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const LIMIT_INFO: &str = "sforce-limit-info";

/// See the module's documentation.
pub struct Usage {
    share_max: f64,
    rest: Duration,
    /// When it was last heard that the share is used; `None` where the last answer said otherwise.
    spent_at: Mutex<Option<Instant>>,
}

/// Whether to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Free,
    /// The share is used: not before this much later.
    Spent(Duration),
    /// It was used when last heard of, which is a while ago.
    Stale,
}

impl Usage {
    /// `share_max`: above 0, at most 1. `rest`: for how long nothing is sent, and nothing asked, once that is used.
    pub fn new(share_max: f64, rest: Duration) -> Self {
        Self { share_max, rest, spent_at: Mutex::default() }
    }

    /// Takes in what an answer says. One that says nothing changes nothing.
    pub fn note(&self, headers: &HeaderMap, now: Instant) {
        let said = headers.get(LIMIT_INFO).and_then(|value| used_share(value.to_str().ok()?));
        if let Some(share) = said {
            *self.spent_at.lock().unwrap_or_else(PoisonError::into_inner) = (share >= self.share_max).then_some(now);
        }
    }

    pub fn standing(&self, now: Instant) -> Standing {
        match *self.spent_at.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Standing::Free,
            Some(at) => match self.rest.checked_sub(now.saturating_duration_since(at)) {
                Some(left) if !left.is_zero() => Standing::Spent(left),
                _ => Standing::Stale,
            },
        }
    }

    /// What becomes of deliveries that are not sent because of it.
    pub fn failure(&self, left: Duration) -> Failure {
        let percent = self.share_max * 100.0;
        let error = format!("not sent: {percent} % of the org's API calls are used, which is all that `api_usage_max` allows");
        Failure { blame: Blame::RateLimit, status: None, error, response: None, retry_after: Some(left) }
    }
}

/// `api-usage=18/5000`, which other figures may follow after a comma.
fn used_share(said: &str) -> Option<f64> {
    let usage = said.split(',').find_map(|part| part.trim().strip_prefix("api-usage="))?;
    let (used, limit) = usage.split_once('/')?;
    let (used, limit): (u64, u64) = (used.trim().parse().ok()?, limit.trim().parse().ok()?);
    // Exact far beyond any org's limit.
    (limit > 0).then(|| used as f64 / limit as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orgs_own_figure_is_read_and_what_is_none_says_nothing() {
        for (said, share) in [
            ("api-usage=18/5000", Some(0.0036)),
            ("api-usage=5001/5000", Some(1.0002)),
            ("per-app-api-usage=17/250(appName=x), api-usage=1/4", Some(0.25)),
            ("per-app-api-usage=17/250(appName=x)", None),
            ("api-usage=1/0", None),
            ("api-usage=-1/5", None),
            ("", None),
        ] {
            assert_eq!(used_share(said), share, "{said}");
        }
    }

    #[test]
    fn once_the_share_is_used_nothing_is_sent_until_it_was_asked_again() {
        let usage = Usage::new(0.9, Duration::from_secs(300));
        let start = crate::clock::instant();
        let at = |secs| start + Duration::from_secs(secs);
        let said = |share: &str| HeaderMap::from_iter([(LIMIT_INFO.parse().unwrap(), format!("api-usage={share}").parse().unwrap())]);
        usage.note(&said("89/100"), at(0));
        assert_eq!(usage.standing(at(0)), Standing::Free);
        usage.note(&said("90/100"), at(0));
        usage.note(&HeaderMap::new(), at(1));
        assert_eq!(usage.standing(at(100)), Standing::Spent(Duration::from_secs(200)));
        assert_eq!(usage.standing(at(300)), Standing::Stale);
        usage.note(&said("91/100"), at(301));
        assert_eq!(usage.standing(at(301)), Standing::Spent(Duration::from_secs(300)));
        usage.note(&said("3/100"), at(602));
        assert_eq!(usage.standing(at(602)), Standing::Free);
    }
}
