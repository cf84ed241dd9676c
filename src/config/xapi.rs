//! `kind = "xapi"` of a `[[sink]]`.

use super::Secret;
use super::check::{read, wrong};
use super::error::Problem;
use super::raw::Scalar;
use super::sinks::{self, Entry};
use super::values::{self, count, number};
use crate::sink::xapi::statement::{Iri, Scheme};
use ipnet::IpNet;

/// What a `[[sink]]` of this kind says.
#[derive(Debug, Clone)]
pub struct XapiSink {
    /// The LRS's base, such as `https://lrs.example.com/xAPI`: `/statements` follows.
    pub url: Secret<String>,
    /// `username` and `password`, for Basic authentication.
    pub login: Option<(String, Secret<String>)>,
    /// Sent with every request: `headers`.
    pub headers: Vec<(String, Secret<String>)>,
    /// `X-Experience-API-Version`: `version`, default "1.0.3".
    pub version: String,
    /// `home_page`, `activity_base` (default: `home_page`), `course_score_max`.
    pub scheme: Scheme,
    /// Statements in one request, 1 to 200: `batch`, default 50.
    pub batch_max: usize,
    /// Private ranges it may reach: `allow`; none by default.
    pub allow: Vec<IpNet>,
}

pub(super) fn xapi(entry: &Entry) -> Result<XapiSink, Problem> {
    let raw = entry.raw;
    let url = |value: &Scalar| {
        let url = values::http_url(value)?;
        if url.expose().contains('?') { Err("must not have a `?…` at its end: `/statements` follows it".into()) } else { Ok(url) }
    };
    let headers = sinks::headers(&raw.headers)?;
    let given = |name: &str| headers.iter().any(|(taken, _)| taken == name);
    if given("x-experience-api-version") {
        return Err(Problem::new(entry.table.clone(), "`headers` must not hold x-experience-api-version: write version = \"1.0.3\""));
    }
    let username = read(&raw.username, "username", username)?;
    let password = read(&raw.password, "password", |value| values::text(value).map(Secret::new))?;
    let login = match (username, password) {
        (Some(_), Some(_)) if given("authorization") => {
            return Err(wrong(&raw.username, "`username` must not be given beside `authorization` of `headers`: remove one of the two"));
        }
        (Some(username), Some(password)) => Some((username, password)),
        (None, None) => None,
        (Some(_), None) => return Err(wrong(&raw.username, "`username` needs a `password`: add it")),
        (None, Some(_)) => return Err(wrong(&raw.password, "`password` needs a `username`: add it")),
    };
    let home_page = entry.required(&raw.home_page, "home_page", iri, "https://learn.example.com")?;
    let activity_base = read(&raw.activity_base, "activity_base", iri)?.unwrap_or_else(|| home_page.clone());
    let course_score_max = read(&raw.course_score_max, "course_score_max", number("a number above 0", |max| max > 0.0))?;
    Ok(XapiSink {
        url: entry.required(&raw.url, "url", url, "https://lrs.example.com/xAPI")?,
        login,
        headers,
        version: read(&raw.version, "version", version)?.unwrap_or_else(|| "1.0.3".into()),
        scheme: Scheme { home_page, activity_base, course_score_max },
        batch_max: read(&raw.batch, "batch", count(1..=200))?.unwrap_or(50),
        allow: entry.allow()?,
    })
}

fn iri(value: &Scalar) -> Result<Iri, String> {
    Iri::parse(&values::text(value)?).map_err(Into::into)
}

/// Basic authentication ends the name at its first colon.
fn username(value: &Scalar) -> Result<String, String> {
    let name = values::text(value)?;
    if name.contains(':') { Err("must not hold a colon: Basic authentication ends the name there".into()) } else { Ok(name) }
}

fn version(value: &Scalar) -> Result<String, String> {
    let version = values::text(value)?;
    let valid = version.split('.').count() <= 3 && version.split('.').all(|part| part.parse::<u16>().is_ok());
    valid.then_some(version).ok_or_else(|| "must be a version of xAPI, such as \"1.0.3\" or \"2.0.0\"".into())
}
