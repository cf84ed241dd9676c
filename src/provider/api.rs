//! Calls to the provider's API, one at a time, within its limits.

use super::limiter::Limiter;
use super::webhook::{List, Webhook, WebhookId};
use super::words::words;
use crate::clock;
use crate::config::{Mindtickle, TOKEN_VARIABLE};
use crate::delivery::Blame;
use crate::sink::client::answer::Answer;
use crate::sink::client::{Client, is_https};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// Requests for one call, when each but the last is answered 429.
const TRIES: usize = 3;
/// How long to wait after a 429 that does not say.
const REST: Duration = Duration::from_secs(15);
/// The longest wait that a call sits out; a longer one is told of, and kept by the calls after it.
const REST_MAX: Duration = Duration::from_secs(60);
/// The longest wait that is kept: nobody must be able to silence us for good.
const REST_KEPT_MAX: Duration = Duration::from_secs(3600);

/// Why a call did not do what it was to.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API cannot be reached, or is in trouble of its own. Whether the request was done is not known.
    #[error("{0}")]
    Down(String),
    /// It asks for fewer requests, and did not do this one.
    #[error("{0}")]
    Busy(String),
    /// It says no, or says what cannot be understood.
    #[error("{0}")]
    Refused(String),
    /// The config is wrong.
    #[error("{0}")]
    Config(String),
}

/// See the module's documentation.
pub struct Api {
    client: Client,
    webhooks: String,
    /// For errors.
    host: String,
    headers: HeaderMap,
    /// To be left out of what the provider says.
    token: String,
    timeout: Duration,
    /// Held by the request that is under way.
    turn: Mutex<Limiter>,
}

impl Api {
    /// Opens no connection yet.
    pub fn open(config: &Mindtickle) -> Result<Self, ApiError> {
        let token = config.token.as_ref().ok_or_else(|| {
            ApiError::Config(format!("no token for the provider's API: set {TOKEN_VARIABLE}, or `token` in [mindtickle] of the config"))
        })?;
        let webhooks = format!("{}/v2/webhooks", config.api_url);
        let uri: Uri = webhooks.parse().map_err(|_| ApiError::Config("`api_url` of [mindtickle] is not a URL: correct it".into()))?;
        let client = Client::new(&config.allow, 1, is_https(&uri))
            .map_err(|error| ApiError::Config(format!("cannot speak TLS: {error}; install the system's certificates (ca-certificates)")))?;
        let bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        let mut bearer = bearer.map_err(|_| ApiError::Config(format!("{TOKEN_VARIABLE} must be printable ASCII: copy it again")))?;
        bearer.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, bearer),
            (ACCEPT, HeaderValue::from_static("application/json")),
            (USER_AGENT, HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION")))),
        ]);
        let host = uri.host().unwrap_or_default().to_owned();
        Ok(Self { client, webhooks, host, headers, token: token.expose().clone(), timeout: config.timeout, turn: Mutex::default() })
    }

    /// All webhooks that the token shows.
    pub async fn list(&self) -> Result<List, ApiError> {
        let answer = self.call(Method::GET, "", None).await?;
        let list = answer.json().as_ref().and_then(List::read);
        list.ok_or_else(|| self.unreadable(&answer, "no list of webhooks"))
    }

    /// Registers a webhook. Not tried again where it is not known whether it was done.
    pub async fn register(&self, url: &str, events: &[String], company_id: &str) -> Result<Webhook, ApiError> {
        let body = json!({ "url": url, "events": events, "companyId": company_id });
        let registered = self.call(Method::POST, "", Some(&body)).await;
        let answer = registered.map_err(|error| match error {
            ApiError::Down(why) => ApiError::Down(format!(
                "{why}. It may have been registered all the same: look with `sluice mindtickle list` before another try"
            )),
            error => error,
        })?;
        let webhook = answer.json().as_ref().and_then(Webhook::read);
        webhook.ok_or_else(|| self.unreadable(&answer, "no `webhookId`; see `sluice mindtickle list` for whether it was registered"))
    }

    /// Switches a webhook on again.
    pub async fn reactivate(&self, id: &WebhookId) -> Result<Webhook, ApiError> {
        self.change(id, &json!({ "status": "active" })).await
    }

    /// Replaces the event types that a webhook is subscribed to.
    pub async fn subscribe(&self, id: &WebhookId, events: &[String]) -> Result<Webhook, ApiError> {
        self.change(id, &json!({ "events": events })).await
    }

    /// The webhook as the answer has it; where it has none, just the id.
    async fn change(&self, id: &WebhookId, change: &Value) -> Result<Webhook, ApiError> {
        let answer = self.call(Method::PATCH, &format!("/{id}"), Some(change)).await?;
        let told = answer.json().as_ref().and_then(Webhook::read).filter(|webhook| webhook.webhook_id == *id);
        Ok(told.unwrap_or_else(|| Webhook { webhook_id: id.clone(), url: None, status: None, events: None, company_id: None }))
    }

    /// One request, and others after it as long as it is answered 429; the answer, if it is a success.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ApiError> {
        let mut limiter = self.turn.lock().await;
        for _ in 1..TRIES {
            let answer = self.send(&mut limiter, &method, path, body).await?;
            if answer.status.as_u16() != 429 {
                return self.judge(answer);
            }
            self.rest(&mut limiter, &answer, clock::instant())?;
        }
        let answer = self.send(&mut limiter, &method, path, body).await?;
        self.judge(answer)
    }

    async fn send(&self, limiter: &mut Limiter, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, ApiError> {
        sleep(limiter.wait(clock::instant())).await;
        let sent = timeout(self.timeout, self.client.call(self.request(method, path, body)?)).await;
        limiter.ended(clock::instant());
        match sent {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) if failure.blame == Blame::Refused => {
                Err(ApiError::Config(format!("{}; here, that is `allow` of [mindtickle]", failure.error)))
            }
            Ok(Err(failure)) => Err(ApiError::Down(format!("the provider's API is down: {}; try again later", failure.error))),
            Err(_) => {
                let seconds = self.timeout.as_secs_f64();
                Err(ApiError::Down(format!("the provider's API is down: {} did not answer in {seconds} s; try again later", self.host)))
            }
        }
    }

    fn request(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, ApiError> {
        let uri = format!("{}{path}", self.webhooks);
        let uri: Uri = uri.parse().map_err(|_| ApiError::Config("`api_url` of [mindtickle] is not a URL: correct it".into()))?;
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::new(Full::new(bytes));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        if body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(request)
    }

    /// Notes the rest that a 429 asks for; an error where it is too long to be waited for here.
    fn rest(&self, limiter: &mut Limiter, answer: &Answer, now: Instant) -> Result<(), ApiError> {
        let rest = answer.failure().retry_after.unwrap_or(REST);
        limiter.rest_until(now + rest.min(REST_KEPT_MAX));
        if rest > REST_MAX {
            return Err(ApiError::Busy(format!(
                "{} asks for fewer requests, and for a rest of {} s: try again then",
                self.host,
                rest.as_secs()
            )));
        }
        tracing::info!(host = self.host, rest_seconds = rest.as_secs(), "the provider asks for fewer requests: waiting");
        Ok(())
    }

    /// A success as it is; of anything else what happened, and what to do.
    fn judge(&self, answer: Answer) -> Result<Answer, ApiError> {
        let status = answer.status.as_u16();
        let down = |todo: &str| Err(ApiError::Down(self.told(&answer, todo)));
        let refused = |todo: &str| Err(ApiError::Refused(self.told(&answer, todo)));
        match status {
            200..=299 => Ok(answer),
            300..=399 => refused("redirects are not followed: put the final address into `api_url` of [mindtickle]"),
            401 | 403 => refused(&format!("correct {TOKEN_VARIABLE}, or `token` in [mindtickle]")),
            404 | 405 => refused("is the webhook's id right (`sluice mindtickle list`), and `api_url` of [mindtickle]?"),
            408 | 500.. => down("try again later"),
            429 => Err(ApiError::Busy(self.told(&answer, "try again in a minute"))),
            _ => refused("correct what was asked for"),
        }
    }

    fn told(&self, answer: &Answer, todo: &str) -> String {
        let reason = answer.status.canonical_reason().map(|reason| format!(" {reason}")).unwrap_or_default();
        let said = words(&answer.body, &self.token).map(|said| format!(" ({said})")).unwrap_or_default();
        format!("{} answered {}{reason}{said}; {todo}", self.host, answer.status.as_u16())
    }

    fn unreadable(&self, answer: &Answer, lacks: &str) -> ApiError {
        ApiError::Refused(self.told(answer, &format!("that is {lacks}. Is `api_url` of [mindtickle] right?")))
    }
}
