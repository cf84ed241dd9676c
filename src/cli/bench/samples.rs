//! Sample events for a sink of the operator's config: of the types that it subscribes to, and of every run different.

use super::events::{Events, USERS};
use crate::cli::samples::TYPES;
use crate::clock;
use crate::event::NewEvent;

/// See the module's documentation.
#[derive(Debug)]
pub struct Samples {
    events: Events,
    /// Places among the six types.
    kinds: Vec<usize>,
    /// Begins every id: a peer may remember the events of earlier runs, and refuse or pass over what it has seen.
    run: String,
}

/// Those of the six types that `events` of a sink lists; all where it lists none.
pub fn types(events: Option<&[String]>) -> Vec<&'static str> {
    TYPES.into_iter().filter(|kind| events.is_none_or(|events| events.iter().any(|event| event == kind))).collect()
}

impl Samples {
    /// Of these types, of the six.
    pub fn new(types: &[&str]) -> Self {
        let kinds = (0..TYPES.len()).filter(|&kind| types.contains(&TYPES[kind])).collect();
        Self { events: Events::new(), kinds, run: format!("bench-{:x}", clock::now().timestamp_micros()) }
    }

    /// Event number `i`. The types take turns, and a user has one of each before it is the next one's turn: no event of a user who is
    /// not yet there, no user who has only left.
    pub fn event(&self, i: u64) -> NewEvent {
        let types = self.kinds.len() as u64;
        let kind = self.kinds[(i % types) as usize];
        self.events.event_of(kind, i, i / types % USERS, &format!("{}-{i}", self.run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn samples_are_of_the_listed_types_in_turn_for_a_thousand_users_and_each_has_an_id_of_its_own() {
        let listed = ["user.deprovisioned".to_owned(), "push".to_owned(), "user.provisioned".to_owned()];
        assert_eq!(types(None), TYPES);
        let types = types(Some(&listed));
        let samples = Samples::new(&types);
        let events: Vec<NewEvent> = (0..4000).map(|i| samples.event(i)).collect();
        assert_eq!(types, ["user.provisioned", "user.deprovisioned"]);
        let of = |i: usize| (events[i].event_type.as_deref().unwrap(), events[i].order_key.as_deref().unwrap());
        assert_eq!([of(0), of(1), of(2)].map(|(kind, _)| kind), ["user.provisioned", "user.deprovisioned", "user.provisioned"]);
        assert!(of(0).1 == of(1).1 && of(1).1 != of(2).1 && of(0).1 == of(2000).1);
        assert_eq!(events.iter().map(|event| &event.order_key).collect::<HashSet<_>>().len(), 1000);
        assert_eq!(events.iter().map(|event| &event.event_id).collect::<HashSet<_>>().len(), 4000);
        assert!(events.iter().all(|event| event.quarantine.is_none() && !event.derived_id));
    }
}
