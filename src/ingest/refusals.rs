//! Notices when requests cease to verify: most often the provider's secret was rotated, and not ours.

use std::time::{Duration, Instant};

/// What is looked at together.
const WINDOW: Duration = Duration::from_secs(60);
/// Fewer refusals in a window say nothing: anybody can send some.
const SPIKE_FROM: u32 = 10;

/// Counts one source's requests, a window at a time.
#[derive(Debug)]
pub struct Refusals {
    since: Instant,
    verified: u32,
    refused: u32,
    is_spike: bool,
}

/// What a request has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Most requests of this window did not verify.
    Spike { refused: u32, verified: u32 },
    /// That is over.
    Over,
}

impl Refusals {
    pub fn new(now: Instant) -> Self {
        Self { since: now, verified: 0, refused: 0, is_spike: false }
    }

    /// Takes note of a request that did or did not verify.
    pub fn note(&mut self, verifies: bool, now: Instant) -> Option<Change> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.verified, self.refused) = (now, 0, 0);
        }
        match verifies {
            true => self.verified += 1,
            false => self.refused += 1,
        }
        let (verified, refused) = (self.verified, self.refused);
        if !self.is_spike && refused >= SPIKE_FROM && refused > verified {
            self.is_spike = true;
            return Some(Change::Spike { refused, verified });
        }
        // Told once: it is over when most requests of a window verify again.
        if self.is_spike && verified > refused {
            self.is_spike = false;
            return Some(Change::Over);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_spike_is_told_once_and_its_end_once() {
        let start = clock::instant();
        let mut refusals = Refusals::new(start);
        assert!((1..SPIKE_FROM).all(|_| refusals.note(false, start).is_none()));
        assert_eq!(refusals.note(false, start), Some(Change::Spike { refused: 10, verified: 0 }));
        assert!((0..100).all(|_| refusals.note(false, start).is_none()));
        assert_eq!(refusals.note(true, start + WINDOW), Some(Change::Over));
        assert_eq!(refusals.note(true, start + WINDOW), None);
    }

    #[test]
    fn a_few_refusals_among_many_requests_or_spread_over_hours_are_none() {
        let mut now = clock::instant();
        let mut refusals = Refusals::new(now);
        for _ in 0..1000 {
            assert_eq!((refusals.note(true, now), refusals.note(false, now)), (None, None));
        }
        for _ in 0..100 {
            now += WINDOW;
            assert_eq!(refusals.note(false, now), None);
        }
    }
}
