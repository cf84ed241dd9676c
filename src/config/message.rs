//! `kind = "slack"` and `kind = "teams"` of a `[[sink]]`.

use super::Secret;
use super::check::read;
use super::error::Problem;
use super::raw::Scalar;
use super::sinks::Entry;
use super::values;
use crate::template::{Escape, Template};
use ipnet::IpNet;

/// What a `[[sink]]` of these kinds says.
#[derive(Debug, Clone)]
pub struct MessageSink {
    /// http or https; is itself the credential.
    pub url: Secret<String>,
    /// Private ranges it may reach: `allow`; none by default.
    pub allow: Vec<IpNet>,
    /// What is said: `text`; `None`: the built-in text of the event's type.
    pub text: Option<Template>,
    /// Above the text, of teams alone: `title`.
    pub title: Option<Template>,
}

/// `escape` is for where the text goes.
pub(super) fn message(entry: &Entry, escape: Escape) -> Result<MessageSink, Problem> {
    let template = |value: &Scalar| Template::parse(&values::text(value)?, escape);
    Ok(MessageSink {
        url: entry.required(&entry.raw.url, "url", values::http_url, "${WEBHOOK_URL}")?,
        allow: entry.allow()?,
        text: read(&entry.raw.text, "text", template)?,
        title: read(&entry.raw.title, "title", template)?,
    })
}
