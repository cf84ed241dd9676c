//! Who has a mail already while others are put off. In memory: where the process ends, or the event's lane moves to another one, this is not
//! known, and the mail comes twice. So it does where too many mails are half taken.

use lettre::Address;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// Mails that are remembered at once. Beyond it, the one that was tried longest ago is forgotten.
const MAILS_MAX: usize = 1000;

/// See the module's documentation.
#[derive(Default)]
pub struct Taken {
    mails: Mutex<VecDeque<(Uuid, Vec<Address>)>>,
}

impl Taken {
    /// Who has the mail of this idempotency key.
    pub fn of(&self, key: Uuid) -> Vec<Address> {
        let mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
        mails.iter().find(|(known, _)| *known == key).map(|(_, have)| have.clone()).unwrap_or_default()
    }

    /// These have it, and others do not.
    pub fn remember(&self, key: Uuid, have: Vec<Address>) {
        let mut mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
        mails.retain(|(known, _)| *known != key);
        if have.is_empty() {
            return;
        }
        if mails.len() == MAILS_MAX {
            mails.pop_front();
        }
        mails.push_back((key, have));
    }

    /// All have it, or nobody will be asked again: what is sent from now on goes to all.
    pub fn forget(&self, key: Uuid) {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_where_there_are_too_many() {
        let taken = Taken::default();
        let address: Address = "a@b.example".parse().unwrap();
        for n in 0..=MAILS_MAX {
            taken.remember(Uuid::from_u128(n as u128), vec![address.clone()]);
        }
        assert!(taken.of(Uuid::from_u128(0)).is_empty());
        assert_eq!(taken.of(Uuid::from_u128(1)), [address]);
        taken.forget(Uuid::from_u128(1));
        assert!(taken.of(Uuid::from_u128(1)).is_empty());
    }
}
