//! `kind = "salesforce"` of a `[[sink]]`.

use super::Secret;
use super::check::{read, wrong};
use super::error::Problem;
use super::oauth::{self, Authorization};
use super::raw::{Scalar, Tree};
use super::sinks::{self, Entry};
use super::values::{self, count, duration, number};
use crate::mapping::{Expression, Mapping};
use crate::sink::salesforce::record::Scheme;
use ipnet::IpNet;
use serde_spanned::Spanned;
use std::time::Duration;

/// The first version whose Collections upsert by external id.
const VERSION_MIN: u32 = 46;
const HOUR: Duration = Duration::from_secs(3600);

/// What a `[[sink]]` of this kind says.
#[derive(Debug, Clone)]
pub struct SalesforceSink {
    /// The org's own URL, such as `https://acme.my.salesforce.com`: `/services/data/…` follows.
    pub url: Secret<String>,
    /// Of the REST API: `version`, default "62.0".
    pub version: String,
    /// `object`, `external_id_field`, `external_id`, `fields`.
    pub scheme: Scheme,
    /// Records in one request, 1 to 200: `batch`, default 200.
    pub batch_max: usize,
    /// The share of the org's API calls at which the sink rests: `api_usage_max`, default 0.95.
    pub api_usage_max: f64,
    /// How long it rests then, and when a limit is reached: `limit_rest`, default 5 min.
    pub limit_rest: Duration,
    pub authorization: Authorization,
    /// Private ranges it may reach: `allow`; none by default.
    pub allow: Vec<IpNet>,
}

pub(super) fn salesforce(entry: &Entry) -> Result<SalesforceSink, Problem> {
    let raw = entry.raw;
    let share = number("a number above 0 and at most 1", |share| share > 0.0 && share <= 1.0);
    Ok(SalesforceSink {
        url: entry.required(&raw.url, "url", instance_url, "https://acme.my.salesforce.com")?,
        version: read(&raw.version, "version", version)?.unwrap_or_else(|| "62.0".into()),
        scheme: scheme(entry)?,
        batch_max: read(&raw.batch, "batch", count(1..=200))?.unwrap_or(200),
        api_usage_max: read(&raw.api_usage_max, "api_usage_max", share)?.unwrap_or(0.95),
        limit_rest: read(&raw.limit_rest, "limit_rest", duration(Duration::from_millis(1)..=HOUR))?.unwrap_or(Duration::from_secs(300)),
        authorization: oauth::authorization(entry)?,
        allow: entry.allow()?,
    })
}

fn scheme(entry: &Entry) -> Result<Scheme, Problem> {
    let raw = entry.raw;
    let external_id_field = read(&raw.external_id_field, "external_id_field", api_name)?.unwrap_or_else(|| "External_Id__c".into());
    let external_id = read(&raw.external_id, "external_id", |value| Expression::parse(&values::text(value)?))?;
    let fields = raw.fields.as_ref().map(|tree| fields(tree, &external_id_field)).transpose()?;
    if external_id.is_some() && fields.is_none() {
        return Err(wrong(&raw.external_id, "`external_id` needs `fields`: write [sink.fields], and a line for each field of the record"));
    }
    let object = read(&raw.object, "object", api_name)?.unwrap_or_else(|| "Training_Status__c".into());
    Ok(Scheme { object, external_id_field, external_id, fields })
}

/// `fields`: a table of expressions, none of them the external id's.
fn fields(tree: &Spanned<Tree>, external_id_field: &str) -> Result<Mapping, Problem> {
    let entries = match tree.get_ref() {
        Tree::Table(entries) if !entries.is_empty() => entries,
        _ => {
            return Err(Problem::new(
                tree.span(),
                "`fields` must be a table: write [sink.fields], and a line for each field of the record",
            ));
        }
    };
    for (name, _) in entries {
        let problem = |message: &str| Problem::new(name.span(), format!("each name of `fields` {message}"));
        let name = api_name(&Scalar::Text(name.get_ref().clone())).map_err(|message| problem(&message))?;
        if name.eq_ignore_ascii_case(external_id_field) {
            return Err(problem("must be another than `external_id_field`: say what that holds with `external_id`"));
        }
        if ["id", "attributes"].iter().any(|taken| name.eq_ignore_ascii_case(taken)) {
            return Err(problem("must be none that Salesforce or Sluice sets by itself: remove it"));
        }
    }
    sinks::mapping(tree, "fields")
}

fn instance_url(value: &Scalar) -> Result<Secret<String>, String> {
    let url = values::http_url(value)?;
    let after_scheme = url.expose().split_once("://").map_or("", |(_, rest)| rest);
    let is_bare = !after_scheme.trim_end_matches('/').contains(['/', '?']);
    is_bare.then_some(url).ok_or_else(|| "must end with its host: `/services/data` follows it".into())
}

/// The name of an object or a field, as the API has it.
fn api_name(value: &Scalar) -> Result<String, String> {
    let name = values::text(value)?;
    let valid = name.len() <= 80
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    valid.then_some(name).ok_or_else(|| "must be an API name, such as \"Training_Status__c\"".into())
}

fn version(value: &Scalar) -> Result<String, String> {
    let version = values::text(value)?;
    let major = version.strip_suffix(".0").filter(|major| major.len() <= 3).and_then(|major| major.parse::<u32>().ok());
    let valid = major.is_some_and(|major| major >= VERSION_MIN);
    valid.then_some(version).ok_or_else(|| format!("must be a version of the REST API from \"{VERSION_MIN}.0\" on, such as \"62.0\""))
}
