//! `kind = "scim"` of a `[[sink]]`.

use super::check::read;
use super::error::Problem;
use super::oauth::{self, Authorization};
use super::raw::Scalar;
use super::sinks::{self, Entry};
use super::{Secret, values};
use ipnet::IpNet;

/// What a `[[sink]]` of this kind says.
#[derive(Debug, Clone)]
pub struct ScimSink {
    /// The service's base, such as `https://idp.example.com/scim/v2`: `/Users` and `/Groups` follow.
    pub url: Secret<String>,
    /// `token` or `[sink.oauth]`.
    pub authorization: Authorization,
    /// Sent with every request: `headers`.
    pub headers: Vec<(String, Secret<String>)>,
    /// Where users go whose certification has expired: `group`; `None`: nowhere.
    pub group: Option<Group>,
    /// `on_deprovision`: "deactivate" (default) or "delete".
    pub on_deprovision: OnDeprovision,
    /// Private ranges it may reach: `allow`; none by default.
    pub allow: Vec<IpNet>,
}

/// A group of the IdP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// Its `displayName`, looked up each time.
    Name(String),
    /// Its `id`, as the IdP gave it: `id:…`.
    Id(String),
}

/// What becomes of a user who is deprovisioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDeprovision {
    /// The user stays, and is not active.
    Deactivate,
    /// The user is deleted.
    Delete,
}

pub(super) fn scim(entry: &Entry) -> Result<ScimSink, Problem> {
    let raw = entry.raw;
    let url = |value: &Scalar| {
        let url = values::http_url(value)?;
        if url.expose().contains('?') { Err("must not have a `?…` at its end: `/Users` follows it".into()) } else { Ok(url) }
    };
    let headers = sinks::headers(&raw.headers)?;
    if headers.iter().any(|(name, _)| name == "authorization") {
        return Err(Problem::new(
            entry.table.clone(),
            "`headers` must not hold authorization: write token = \"…\", or a table [sink.oauth]",
        ));
    }
    let on_deprovision = values::one_of(&[("deactivate", OnDeprovision::Deactivate), ("delete", OnDeprovision::Delete)]);
    Ok(ScimSink {
        url: entry.required(&raw.url, "url", url, "https://idp.example.com/scim/v2")?,
        authorization: oauth::authorization(entry)?,
        headers,
        group: read(&raw.group, "group", group)?,
        on_deprovision: read(&raw.on_deprovision, "on_deprovision", on_deprovision)?.unwrap_or(OnDeprovision::Deactivate),
        allow: entry.allow()?,
    })
}

fn group(value: &Scalar) -> Result<Group, String> {
    let name = values::text(value)?;
    match name.strip_prefix("id:") {
        Some("") => Err("must have an id after `id:`, as the IdP gave it".into()),
        Some(id) => Ok(Group::Id(id.to_owned())),
        None => Ok(Group::Name(name)),
    }
}
