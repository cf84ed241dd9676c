//! `[mindtickle]`: the provider's own API, for `sluice mindtickle` and the watchdog.

use super::Secret;
use super::check::{list, read, wrong};
use super::error::{ConfigError, Problem};
use super::raw::{self, Scalar};
use super::values::{self, duration};
use crate::provider::WebhookId;
use ipnet::IpNet;
use std::time::Duration;

/// Where the API is by default. From a third party's description: the provider publishes none.
pub const API_URL: &str = "https://api.mindtickle.com";

/// Wins over `token`.
pub const TOKEN_VARIABLE: &str = "MINDTICKLE_API_TOKEN";
/// Wins over `company_id`.
pub const COMPANY_VARIABLE: &str = "MINDTICKLE_COMPANY_ID";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Mindtickle {
    /// http or https, without a slash at its end: `api_url`, default [`API_URL`].
    pub api_url: String,
    /// What requests are authorized with: `MINDTICKLE_API_TOKEN`, else `token`.
    pub token: Option<Secret<String>>,
    /// Whose webhooks are registered: `MINDTICKLE_COMPANY_ID`, else `company_id`.
    pub company_id: Option<String>,
    /// For one request: `timeout`, default 15 s.
    pub timeout: Duration,
    /// Private ranges that the API may be in: `allow`; none by default.
    pub allow: Vec<IpNet>,
    /// How often a worker looks for suspended webhooks, and re-activates them: `watchdog`; `None`: it does not.
    pub watchdog: Option<Duration>,
    /// Which webhooks the watchdog is about: `webhooks`; `None`: all that the token shows.
    pub webhooks: Option<Vec<WebhookId>>,
}

/// What the environment says.
#[derive(Default)]
pub(super) struct Given {
    token: Option<Secret<String>>,
    company_id: Option<String>,
}

impl Given {
    pub fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        fn given<T>(
            env: &dyn Fn(&str) -> Option<String>,
            name: &'static str,
            parse: impl Fn(&Scalar) -> Result<T, String>,
        ) -> Result<Option<T>, ConfigError> {
            let value = env(name).filter(|value| !value.is_empty()).map(|value| parse(&Scalar::Text(value)));
            value.transpose().map_err(|message| ConfigError::Environment { name, message })
        }
        Ok(Self { token: given(env, TOKEN_VARIABLE, values::header_value)?, company_id: given(env, COMPANY_VARIABLE, values::text)? })
    }
}

pub(super) fn mindtickle(raw: &raw::Mindtickle, given: Given) -> Result<Mindtickle, Problem> {
    let webhook = |value: &Scalar| values::text(value)?.parse::<WebhookId>().map_err(str::to_owned);
    let token = given.token.or(read(&raw.token, "token", values::header_value)?);
    let watchdog = read(&raw.watchdog, "watchdog", duration(Duration::from_secs(1)..=DAY))?;
    if watchdog.is_some() && token.is_none() {
        return Err(wrong(&raw.watchdog, &format!("`watchdog` needs a token: set {TOKEN_VARIABLE}, or `token` in this table")));
    }
    let timeout = duration(Duration::from_millis(1)..=Duration::from_secs(60));
    Ok(Mindtickle {
        api_url: read(&raw.api_url, "api_url", api_url)?.unwrap_or_else(|| API_URL.into()),
        token,
        company_id: given.company_id.or(read(&raw.company_id, "company_id", values::text)?),
        timeout: read(&raw.timeout, "timeout", timeout)?.unwrap_or(Duration::from_secs(15)),
        allow: list(&raw.allow, "allow", values::network)?.unwrap_or_default(),
        watchdog,
        webhooks: list(&raw.webhooks, "webhooks", webhook)?,
    })
}

fn api_url(value: &Scalar) -> Result<String, String> {
    let url = values::http_url(value)?;
    if url.expose().contains('?') {
        return Err("must not have a `?…` at its end: `/v2/webhooks` follows it".into());
    }
    Ok(url.expose().trim_end_matches('/').to_owned())
}
