//! Each source's secrets, which can be replaced while requests come in.

use crate::config::{Secret, Source};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The secrets of one source. Clones share them.
#[derive(Debug, Clone)]
pub struct Keys(Arc<RwLock<Arc<[Secret<String>]>>>);

impl Keys {
    fn new(secrets: &[Secret<String>]) -> Self {
        Self(Arc::new(RwLock::new(secrets.into())))
    }

    /// As they are now. A request is verified against one state of them.
    pub fn now(&self) -> Arc<[Secret<String>]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether that changed anything.
    fn replace(&self, secrets: &[Secret<String>]) -> bool {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = now[..] != *secrets;
        *now = secrets.into();
        is_new
    }
}

/// All sources' secrets. Clones share them.
#[derive(Debug, Clone)]
pub struct Keyring(Arc<BTreeMap<Arc<str>, Keys>>);

/// What a replacement came to, by source.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    pub changed: Vec<Arc<str>>,
    /// Sources that are only in one of both configs: they come and go with a restart.
    pub left_alone: Vec<Arc<str>>,
}

impl Keyring {
    pub fn new(sources: &[Source]) -> Self {
        Self(Arc::new(sources.iter().map(|source| (Arc::clone(&source.name), Keys::new(&source.secrets))).collect()))
    }

    /// Of a source that was there when this was made.
    pub fn of(&self, source: &Source) -> Keys {
        self.0.get(&source.name).cloned().unwrap_or_else(|| Keys::new(&source.secrets))
    }

    /// From the next request on, these sources' secrets count.
    pub fn replace(&self, sources: &[Source]) -> Replaced {
        let mut replaced = Replaced::default();
        for source in sources {
            match self.0.get(&source.name) {
                None => replaced.left_alone.push(Arc::clone(&source.name)),
                Some(keys) if keys.replace(&source.secrets) => replaced.changed.push(Arc::clone(&source.name)),
                Some(_) => {}
            }
        }
        replaced.left_alone.extend(self.0.keys().filter(|name| !sources.iter().any(|source| source.name == **name)).cloned());
        replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use std::time::Duration;

    fn source(name: &str, secret: &str) -> Source {
        Source {
            name: name.into(),
            profile: Profile::mindtickle(),
            secrets: vec![Secret::new(secret.into())],
            company_id: None,
            timestamp_window: Duration::from_secs(1),
        }
    }

    #[test]
    fn secrets_are_replaced_for_those_who_hold_them_already_and_sources_come_and_go_only_with_a_restart() {
        let (a, b) = (source("a", "1"), source("b", "1"));
        let keyring = Keyring::new(&[a.clone(), b]);
        let keys = keyring.of(&a);
        let replaced = keyring.replace(&[source("a", "2"), source("c", "1")]);
        assert_eq!(replaced, Replaced { changed: vec!["a".into()], left_alone: vec!["c".into(), "b".into()] });
        assert_eq!(keys.now()[..], [Secret::new("2".to_string())]);
        assert_eq!(keyring.replace(&[source("a", "2"), source("b", "1")]), Replaced::default());
    }
}
