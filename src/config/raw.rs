//! The config as it is written: which keys there are, and where each value stands. [`super::check`] says what they mean.
//!
//! Nothing here has a `Debug`: these are the values before it is known which of them are secret.

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_spanned::Spanned;
use std::collections::BTreeMap;
use std::fmt;

/// A value and its place.
pub(super) type Item = Spanned<Scalar>;
pub(super) type List = Spanned<Vec<Item>>;

/// A single value. Every key takes any of these, so that it is our message which says what the key wants, and so that a
/// number can come out of the environment, as text.
pub(super) enum Scalar {
    Text(String),
    Integer(i64),
    Float(f64),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text in quotes or a number")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_owned()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(value))
    }
}

/// A value with a shape of its own, such as `body`: each part with its place.
pub(super) enum Tree {
    Scalar(Scalar),
    Boolean(bool),
    Table(Vec<(Spanned<String>, Spanned<Tree>)>),
    List(Vec<Spanned<Tree>>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text in quotes, a number, true or false, a list or a table")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tree, E> {
        ScalarVisitor.visit_str(value).map(Tree::Scalar)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Tree, E> {
        ScalarVisitor.visit_i64(value).map(Tree::Scalar)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        ScalarVisitor.visit_f64(value).map(Tree::Scalar)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Boolean(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Tree::Table(table))
    }
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct File {
    pub database_url: Option<Item>,
    #[serde(default)]
    pub ingest: Ingest,
    #[serde(default)]
    pub worker: Worker,
    #[serde(default)]
    pub retention: Retention,
    #[serde(default)]
    pub mindtickle: Mindtickle,
    #[serde(default)]
    pub profile: Vec<Spanned<Profile>>,
    #[serde(default)]
    pub source: Vec<Spanned<Source>>,
    #[serde(default)]
    pub sink: Vec<Spanned<Sink>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table: write [ingest]")]
pub(super) struct Ingest {
    pub listen: Option<Item>,
    pub ops_listen: Option<Item>,
    pub body_max: Option<Item>,
    pub header_timeout: Option<Item>,
    pub body_timeout: Option<Item>,
    pub commit_timeout: Option<Item>,
    pub connections_max: Option<Item>,
    pub queue_events: Option<Item>,
    pub queue_bytes: Option<Item>,
    pub threads: Option<Item>,
    pub committers: Option<Item>,
    pub batch_events: Option<Item>,
    pub asynchronous_commit: Option<Item>,
    pub keep_unverified: Option<KeepUnverified>,
    pub drain_timeout: Option<Item>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table: write keep_unverified = { rows = 10000 }")]
pub(super) struct KeepUnverified {
    pub rows: Option<Item>,
    pub bytes: Option<Item>,
    pub age: Option<Item>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table: write [worker]")]
pub(super) struct Worker {
    pub ops_listen: Option<Item>,
    pub drain_timeout: Option<Item>,
    pub read_ahead: Option<Item>,
    pub poll: Option<Item>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table: write [retention]")]
pub(super) struct Retention {
    pub payloads: Option<Item>,
    pub deliveries: Option<Item>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table: write [mindtickle]")]
pub(super) struct Mindtickle {
    pub api_url: Option<Item>,
    pub token: Option<Item>,
    pub company_id: Option<Item>,
    pub timeout: Option<Item>,
    pub allow: Option<List>,
    pub watchdog: Option<Item>,
    pub webhooks: Option<List>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table: write [[profile]]")]
pub(super) struct Profile {
    pub name: Option<Item>,
    pub base: Option<Item>,
    pub signature_header: Option<Item>,
    pub separator: Option<Item>,
    pub prefix: Option<Item>,
    pub encoding: Option<Item>,
    pub timestamp_header: Option<Item>,
    pub timestamp: Option<Item>,
    pub timestamp_unit: Option<Item>,
    pub timestamp_window: Option<Item>,
    pub signed: Option<Item>,
    pub secret: Option<Item>,
    pub event_id_header: Option<Item>,
    pub event_id: Option<Item>,
    pub r#type: Option<Item>,
    pub company: Option<Item>,
    pub user: Option<Item>,
    pub challenge: Option<Item>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table: write [[source]]")]
pub(super) struct Source {
    pub name: Option<Item>,
    pub profile: Option<Item>,
    pub secrets: Option<List>,
    pub company_id: Option<Item>,
    pub timestamp_window: Option<Item>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table: write [[sink]]")]
pub(super) struct Sink {
    pub name: Option<Item>,
    pub kind: Option<Item>,
    pub events: Option<List>,
    pub when: Option<Item>,
    pub concurrency: Option<Item>,
    pub timeout: Option<Item>,
    #[serde(default)]
    pub retry: Retry,
    pub order: Option<Item>,
    pub on_dead: Option<Item>,
    pub rate: Option<Item>,
    #[serde(default)]
    pub breaker: Breaker,
    pub url: Option<Item>,
    pub headers: Option<Spanned<BTreeMap<Spanned<String>, Item>>>,
    pub allow: Option<List>,
    pub signing_secret: Option<Item>,
    pub path: Option<Item>,
    pub body: Option<Spanned<Tree>>,
    pub username: Option<Item>,
    pub password: Option<Item>,
    pub version: Option<Item>,
    pub home_page: Option<Item>,
    pub activity_base: Option<Item>,
    pub course_score_max: Option<Item>,
    pub batch: Option<Item>,
    pub token: Option<Item>,
    pub oauth: Option<Spanned<OAuth>>,
    pub object: Option<Item>,
    pub external_id_field: Option<Item>,
    pub external_id: Option<Item>,
    pub fields: Option<Spanned<Tree>>,
    pub api_usage_max: Option<Item>,
    pub limit_rest: Option<Item>,
    pub text: Option<Item>,
    pub title: Option<Item>,
    pub tls: Option<Item>,
    pub from: Option<Item>,
    pub to: Option<List>,
    pub subject: Option<Item>,
    pub region: Option<Item>,
    pub endpoint: Option<Item>,
    pub access_key_id: Option<Item>,
    pub secret_access_key: Option<Item>,
    pub service_account_key: Option<Item>,
    pub account: Option<Item>,
    pub access_key: Option<Item>,
    pub group: Option<Item>,
    pub on_deprovision: Option<Item>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table: write [sink.oauth], and a line for each key")]
pub(super) struct OAuth {
    pub token_url: Option<Item>,
    pub client_id: Option<Item>,
    pub client_secret: Option<Item>,
    pub client_auth: Option<Item>,
    pub private_key: Option<Item>,
    pub username: Option<Item>,
    pub audience: Option<Item>,
    pub scope: Option<Item>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table such as { max_attempts = 12, initial = \"2s\", factor = 3, cap = \"1h\" }")]
pub(super) struct Retry {
    pub max_attempts: Option<Item>,
    pub initial: Option<Item>,
    pub factor: Option<Item>,
    pub cap: Option<Item>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table such as { failures = 5, rest = \"1s\", cap = \"30s\" }")]
pub(super) struct Breaker {
    pub failures: Option<Item>,
    pub rest: Option<Item>,
    pub cap: Option<Item>,
}
