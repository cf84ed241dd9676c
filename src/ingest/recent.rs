//! A bounded memory of requests that were committed: tells a captured request that is sent again under another id.
//!
//! The id is not signed, so the unique index on it does not see such a repeat; an index on the request's hash would, and costs the insert
//! a tenth to a third. This costs next to nothing, and forgets: after a restart, and after [`CAPACITY`] further events.
//!
//! Only a request that comes late is looked up: see docs/decisions/0003. `sluice.repeats` shows all that were stored.

use crate::event::{NewEvent, fnv1a};
use std::collections::{HashSet, VecDeque};

/// How many requests are remembered, by all committers together: some 6 MB.
pub const CAPACITY: usize = 131_072;

/// Which request it was: its source and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request(u128);

impl Request {
    pub fn of(event: &NewEvent) -> Self {
        // Two sources may get the same request, each with an event of its own.
        Self(u128::from_le_bytes(event.request_hash) ^ u128::from(fnv1a(&event.source)))
    }

    /// The same, but of two genuine events that are signed alike (see [`NewEvent::came_late`]) each is its own.
    pub fn of_event(event: &NewEvent) -> Self {
        let Self(request) = Self::of(event);
        Self(if event.came_late { request } else { request ^ (u128::from(fnv1a(&event.event_id)) << 64) })
    }
}

/// The last requests that were committed; the oldest is forgotten first.
#[derive(Debug)]
pub struct Recent {
    known: HashSet<Request>,
    order: VecDeque<Request>,
    capacity: usize,
}

impl Recent {
    pub fn new(capacity: usize) -> Self {
        Self { known: HashSet::new(), order: VecDeque::new(), capacity }
    }

    pub fn forget(&mut self) {
        self.known.clear();
        self.order.clear();
    }

    pub fn contains(&self, request: Request) -> bool {
        self.known.contains(&request)
    }

    /// To be called after the commit, never before: an answer `duplicate` promises that the event is stored.
    pub fn remember(&mut self, request: Request) {
        if !self.known.insert(request) {
            return;
        }
        self.order.push_back(request);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first_and_the_memory_stays_bounded() {
        let mut recent = Recent::new(3);
        for n in [1, 2, 3, 1, 4] {
            recent.remember(Request(n));
        }
        assert!(!recent.contains(Request(1)));
        assert!([2, 3, 4].into_iter().all(|n| recent.contains(Request(n))));
        assert_eq!((recent.known.len(), recent.order.len()), (3, 3));
    }
}
