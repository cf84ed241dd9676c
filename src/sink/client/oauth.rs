//! Bearer tokens: one that is configured, or OAuth 2.0 access tokens, kept until they run out or are refused.
//!
//! | the token endpoint | is taken as |
//! | --- | --- |
//! | answers 2xx with an `access_token` | kept for `expires_in`, less a tenth; without it, until the service refuses it |
//! | answers 429 | a rate limit |
//! | answers 408, 5xx; cannot be reached; breaks off | trouble of the sink |
//! | answers anything else (`invalid_client`, `invalid_grant`) | a refusal: the sink rests, nothing is buried |
//!
//! A failure holds for a second, so that the tries that wait for a token do not ask for it one after the other.

use super::answer::Answer;
use super::{Client, is_https, show};
use crate::clock;
use crate::config::{self, Grant, Secret};
use crate::delivery::{Blame, Failure};
use crate::sink::OpenError;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use form_urlencoded::{Serializer, byte_serialize};
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use ipnet::IpNet;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long a signed assertion holds: the services allow some minutes, of which clocks that differ take their part.
const ASSERTION_SECS: i64 = 180;
/// How long a failure of the token endpoint answers for all.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);
/// The longest `error` of the token endpoint that is repeated: what is longer is no code, and may hold a secret.
const CODE_CHARS_MAX: usize = 64;

/// What a sink's requests are authorized by.
pub enum Authorization {
    Token(HeaderValue),
    OAuth(Box<Tokens>),
}

impl Authorization {
    /// `allow`: the private ranges in which the token endpoint may be.
    pub fn open(config: &config::Authorization, allow: &[IpNet]) -> Result<Self, OpenError> {
        Ok(match config {
            config::Authorization::Token(token) => Self::Token(bearer(token.expose()).ok_or(OpenError::Token)?),
            config::Authorization::OAuth(oauth) => Self::OAuth(Box::new(Tokens::open(oauth, allow)?)),
        })
    }

    /// Sends a request with the token. After a 401 it goes out once more with a new token, where one can be had.
    pub async fn call(&self, client: &Client, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        match self {
            Self::Token(token) => client.call(with(request, token.clone())).await,
            Self::OAuth(tokens) => {
                let token = tokens.get(None).await?;
                let answer = client.call(with(request.clone(), token.clone())).await?;
                if answer.status != StatusCode::UNAUTHORIZED {
                    return Ok(answer);
                }
                let token = tokens.get(Some(&token)).await?;
                client.call(with(request, token)).await
            }
        }
    }

    /// A request as text for people, its token left out.
    pub fn show(&self, request: Request<Full<Bytes>>) -> String {
        let mut hidden = HeaderValue::from_static("Bearer");
        hidden.set_sensitive(true);
        show(&with(request, hidden))
    }
}

fn with(mut request: Request<Full<Bytes>>, token: HeaderValue) -> Request<Full<Bytes>> {
    request.headers_mut().insert(AUTHORIZATION, token);
    request
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Access tokens from one token endpoint.
pub struct Tokens {
    config: config::OAuth,
    endpoint: Uri,
    client: Client,
    /// Locked while one is fetched: the others wait for that one.
    kept: Mutex<Kept>,
}

/// What the endpoint said last.
enum Kept {
    Nothing,
    Token { value: HeaderValue, until: Option<Instant> },
    Failure { failure: Failure, until: Instant },
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Granted {
    /// How long the token can be used. A number of seconds, which some endpoints write as a text; anything else says nothing.
    fn lasts(&self) -> Option<Duration> {
        let said = &self.expires_in;
        let secs = said.as_f64().or_else(|| said.as_str()?.trim().parse().ok())?;
        Duration::try_from_secs_f64(secs * 0.9).ok()
    }
}

impl Tokens {
    fn open(config: &config::OAuth, allow: &[IpNet]) -> Result<Self, OpenError> {
        let endpoint: Uri = config.token_url.expose().parse().map_err(|_| OpenError::Url("cannot be read, of its token endpoint"))?;
        // One is fetched at a time.
        let client = Client::new(allow, 1, is_https(&endpoint)).map_err(OpenError::Tls)?;
        Ok(Self { config: config.clone(), endpoint, client, kept: Mutex::new(Kept::Nothing) })
    }

    /// The token that is kept, unless it has run out or is the one that was `refused`; else a new one.
    async fn get(&self, refused: Option<&HeaderValue>) -> Result<HeaderValue, Failure> {
        let mut kept = self.kept.lock().await;
        let now = clock::instant();
        match &*kept {
            Kept::Token { value, until } if until.is_none_or(|until| now < until) && refused != Some(value) => return Ok(value.clone()),
            Kept::Failure { failure, until } if now < *until => return Err(failure.clone()),
            _ => {}
        }
        let fetched = self.fetch().await;
        *kept = match &fetched {
            Ok((value, lasts)) => Kept::Token { value: value.clone(), until: lasts.and_then(|lasts| now.checked_add(lasts)) },
            Err(failure) => Kept::Failure { failure: failure.clone(), until: clock::instant() + FAILURE_HOLDS },
        };
        fetched.map(|(value, _)| value)
    }

    /// Asks for a token; with it comes how long it can be used.
    async fn fetch(&self) -> Result<(HeaderValue, Option<Duration>), Failure> {
        let answer = self.client.call(self.request(clock::now())?).await.map_err(of_endpoint)?;
        let granted = || serde_json::from_slice::<Granted>(&answer.body).ok();
        let usable = answer.status.is_success().then(granted).flatten();
        usable.and_then(|granted| Some((bearer(&granted.access_token)?, granted.lasts()))).ok_or_else(|| refusal(&answer))
    }

    fn request(&self, now: DateTime<Utc>) -> Result<Request<Full<Bytes>>, Failure> {
        let config = &self.config;
        let mut form: Vec<(&str, &str)> = config.scope.iter().map(|scope| ("scope", scope.as_str())).collect();
        let assertion;
        let mut basic = None;
        match &config.grant {
            Grant::ClientCredentials { secret, in_body } => {
                form.push(("grant_type", "client_credentials"));
                if *in_body {
                    form.extend([("client_id", config.client_id.as_str()), ("client_secret", secret.expose())]);
                } else {
                    basic = basic_auth(&config.client_id, secret);
                }
            }
            Grant::JwtBearer { key, subject, audience } => {
                form.push(("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"));
                let claims = json!({ "iss": config.client_id, "sub": subject, "aud": audience, "exp": now.timestamp() + ASSERTION_SECS });
                assertion = key.sign(&claims).ok_or_else(|| Failure {
                    blame: Blame::Refused,
                    status: None,
                    error: "the sink's private_key cannot sign: make another one".into(),
                    response: None,
                    retry_after: None,
                })?;
                form.push(("assertion", &assertion));
            }
        }
        let mut request = Request::new(Full::new(Bytes::from(Serializer::new(String::new()).extend_pairs(form).finish())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(basic.map(|basic| (AUTHORIZATION, basic)));
        Ok(request)
    }
}

/// RFC 6749, section 2.3.1: both are form-encoded before they are joined.
fn basic_auth(id: &str, secret: &Secret<String>) -> Option<HeaderValue> {
    let login = STANDARD.encode(format!("{}:{}", form_encoded(id), form_encoded(secret.expose())));
    let mut value = HeaderValue::from_str(&format!("Basic {login}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The WHATWG's form encoding, which RFC 6749 asks for.
fn form_encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

/// What it means that the endpoint gave no token.
fn refusal(answer: &Answer) -> Failure {
    let blame = match answer.status.as_u16() {
        429 => Blame::RateLimit,
        408 | 500..=599 => Blame::Sink,
        _ => Blame::Refused,
    };
    // RFC 6749, section 5.2: `error` is one of a few words, and says most.
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let is_code = |said: &&str| said.len() <= CODE_CHARS_MAX && said.bytes().all(is_word);
    let body = answer.json().unwrap_or_default();
    let code = body.get("error").and_then(|said| said.as_str()).filter(is_code).unwrap_or_default();
    let words = match code {
        "" if answer.status.is_success() => "but with no `access_token` that can be used: check `token_url`",
        code => code,
    };
    let mut failure = answer.failure_as(blame, words);
    // What a server says to a secret may repeat it.
    failure.response = None;
    of_endpoint(failure)
}

/// Without its status: the service itself has answered nothing, and a 404 of its own may mean success.
fn of_endpoint(failure: Failure) -> Failure {
    Failure { status: None, error: format!("no access token: {}", failure.error), ..failure }
}

/// An RSA key that signs assertions.
#[derive(Clone)]
pub struct SigningKey(Arc<RsaKeyPair>);

impl SigningKey {
    /// Reads PKCS#8 or PKCS#1. The error ends a sentence that begins with the key, and repeats nothing of it.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let wanted = "must be an RSA key of 2048 to 4096 bits in PEM, not encrypted: write private_key = \"${file:key.pem}\"";
        let key = match PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| wanted)? {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(wanted.into()),
        };
        Ok(Self(Arc::new(key.map_err(|_| wanted)?)))
    }

    /// A JSON Web Token, signed with RS256 (RFC 7515, compact).
    fn sign(&self, claims: &serde_json::Value) -> Option<String> {
        let header = json!({ "alg": "RS256", "typ": "JWT" });
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;

    #[test]
    fn how_long_a_token_lasts_may_be_said_as_a_text_or_not_at_all() {
        for (expires_in, secs) in [
            (json!(100), Some(90)),
            (json!("100"), Some(90)),
            (json!(100.0), Some(90)),
            (json!(null), None),
            (json!("soon"), None),
            (json!("NaN"), None),
            (json!(-1), None),
            (json!(1e300), None),
            (json!(true), None),
            (json!({}), None),
        ] {
            let granted: Granted = serde_json::from_value(json!({"access_token": "x", "expires_in": expires_in})).unwrap();
            assert_eq!(granted.lasts(), secs.map(Duration::from_secs), "{expires_in}");
        }
        assert_eq!(serde_json::from_str::<Granted>(r#"{"access_token": "x"}"#).unwrap().lasts(), None);
    }

    #[test]
    fn a_refusal_repeats_the_endpoints_code_alone_and_is_no_answer_of_the_service() {
        for (status, body, blame, error) in [
            (
                401,
                r#"{"error":"invalid_client","error_description":"s3cret"}"#,
                Blame::Refused,
                "answered 401 Unauthorized: invalid_client",
            ),
            (400, r#"{"error":"client s3cret is unknown"}"#, Blame::Refused, "answered 400 Bad Request"),
            (404, "<html>", Blame::Refused, "answered 404 Not Found"),
            (429, "", Blame::RateLimit, "answered 429 Too Many Requests"),
            (503, "[]", Blame::Sink, "answered 503 Service Unavailable"),
            (200, r#"{"error":"access_denied"}"#, Blame::Refused, "answered 200 OK: access_denied"),
            (200, "<html>s3cret", Blame::Refused, "answered 200 OK: but with no `access_token` that can be used: check `token_url`"),
            (
                200,
                r#"{"access_token":"a\nb"}"#,
                Blame::Refused,
                "answered 200 OK: but with no `access_token` that can be used: check `token_url`",
            ),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let failure = refusal(&Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec() });
            assert_eq!((failure.blame, failure.error), (blame, format!("no access token: {error}")), "{body}");
            assert_eq!((failure.status, failure.response), (None, None), "{body}");
        }
        let long = json!({ "error": "a".repeat(65) }).to_string().into_bytes();
        let failure = refusal(&Answer { status: StatusCode::BAD_REQUEST, headers: HeaderMap::new(), body: long });
        assert_eq!(failure.error, "no access token: answered 400 Bad Request");
    }
}
