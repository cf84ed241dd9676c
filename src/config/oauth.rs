//! How a sink says who it is: `token`, or `[sink.oauth]`.

use super::Secret;
use super::check::{read, required, wrong};
use super::error::Problem;
use super::raw::{self, Scalar};
use super::sinks::Entry;
use super::values;
use crate::sink::client::oauth::SigningKey;
use serde_spanned::Spanned;

/// What a sink's requests carry as `authorization`.
#[derive(Debug, Clone)]
pub enum Authorization {
    /// A bearer token that does not change: `token`.
    Token(Secret<String>),
    /// Tokens from a token endpoint: `[sink.oauth]`.
    OAuth(OAuth),
}

/// `[sink.oauth]`: OAuth 2.0 without a person.
#[derive(Debug, Clone)]
pub struct OAuth {
    /// The token endpoint: `token_url`.
    pub token_url: Secret<String>,
    pub client_id: String,
    pub grant: Grant,
    /// What is asked for: `scope`; `None`: what the server gives by itself.
    pub scope: Option<String>,
}

/// What a token is given for.
#[derive(Debug, Clone)]
pub enum Grant {
    /// RFC 6749, section 4.4: `client_secret`.
    ClientCredentials {
        secret: Secret<String>,
        /// The secret goes into the body instead of a Basic header: `client_auth = "post"`.
        in_body: bool,
    },
    /// RFC 7523, RS256: `private_key`, `username`, `audience`.
    JwtBearer { key: SigningKey, subject: String, audience: String },
}

/// `token` or `oauth`, of a sink that must have one of them.
pub(super) fn authorization(entry: &Entry) -> Result<Authorization, Problem> {
    let token = read(&entry.raw.token, "token", values::header_value)?;
    match (token, &entry.raw.oauth) {
        (Some(token), None) => Ok(Authorization::Token(token)),
        (None, Some(table)) => oauth(table).map(Authorization::OAuth),
        (Some(_), Some(_)) => Err(wrong(&entry.raw.token, "`token` must not be given beside [sink.oauth]: remove one of the two")),
        (None, None) => {
            let message = "`token` of this sink is missing: add it, such as token = \"${TOKEN}\", or a table [sink.oauth]";
            Err(Problem::new(entry.table.clone(), message))
        }
    }
}

fn oauth(table: &Spanned<raw::OAuth>) -> Result<OAuth, Problem> {
    let raw = table.get_ref();
    let missing = |key: &str| format!("`{key}` of [sink.oauth] is missing: add it");
    let token_url = read(&raw.token_url, "token_url", values::http_url)?;
    let client_id = read(&raw.client_id, "client_id", values::text)?;
    Ok(OAuth {
        token_url: required(token_url, table.span(), &missing("token_url"))?,
        client_id: required(client_id, table.span(), &missing("client_id"))?,
        grant: grant(table)?,
        scope: read(&raw.scope, "scope", values::text)?,
    })
}

fn grant(table: &Spanned<raw::OAuth>) -> Result<Grant, Problem> {
    let raw = table.get_ref();
    let secret = read(&raw.client_secret, "client_secret", |value| values::text(value).map(Secret::new))?;
    let key = read(&raw.private_key, "private_key", |value: &Scalar| SigningKey::from_pem(&values::text(value)?))?;
    match (secret, key) {
        (Some(secret), None) => {
            let jwt_alone = [("username", &raw.username), ("audience", &raw.audience)];
            if let Some((key, item)) = jwt_alone.into_iter().find(|(_, item)| item.is_some()) {
                return Err(wrong(item, &format!("`{key}` goes with a `private_key`: remove it, or give that instead of `client_secret`")));
            }
            let in_body = read(&raw.client_auth, "client_auth", values::one_of(&[("basic", false), ("post", true)]))?.unwrap_or(false);
            Ok(Grant::ClientCredentials { secret, in_body })
        }
        (None, Some(_)) if raw.client_auth.is_some() => {
            Err(wrong(&raw.client_auth, "`client_auth` goes with a `client_secret`: remove it"))
        }
        (None, Some(key)) => {
            let username = read(&raw.username, "username", values::text)?;
            let audience = read(&raw.audience, "audience", values::text)?;
            let message = "`username` of [sink.oauth] is missing: add the user whom the `private_key` speaks for";
            let subject = required(username, table.span(), message)?;
            let message = "`audience` of [sink.oauth] is missing: add whom the token is asked of, such as \"https://login.salesforce.com\"";
            Ok(Grant::JwtBearer { key, subject, audience: required(audience, table.span(), message)? })
        }
        (Some(_), Some(_)) => {
            Err(wrong(&raw.private_key, "`private_key` must not be given beside `client_secret`: each is a way of its own; remove one"))
        }
        (None, None) => {
            Err(Problem::new(table.span(), "`client_secret` of [sink.oauth] is missing: add it, or a `private_key` with its `username`"))
        }
    }
}
