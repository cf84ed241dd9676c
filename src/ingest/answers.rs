//! What a provider is answered. The bodies are constants: nothing of a request comes back, but the challenge of one that verifies.

use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// Every answer there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Committed.
    Received,
    /// Committed, and held back from every sink. The provider is told the same: trying again would change nothing.
    Quarantined,
    /// It, or the very same signed request under another id, is committed already.
    Duplicate,
    /// A signature or timestamp header is missing, empty or repeated.
    Unsigned,
    /// It does not verify. One answer for every cause, so that nobody learns from it.
    Forbidden,
    /// The body is over the cap.
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// The body broke off.
    CutShort,
    /// Too much waits for its commit already.
    Busy,
    /// Not committed in time, or not at all.
    Unavailable,
    /// No source is received at this path.
    NoSource,
    /// Webhooks are posted.
    NotPost,
}

impl Answer {
    /// All answers to a request that reached its source.
    pub const OF_SOURCE: [Self; 10] = [
        Self::Received,
        Self::Quarantined,
        Self::Duplicate,
        Self::Unsigned,
        Self::Forbidden,
        Self::TooLarge,
        Self::TooSlow,
        Self::CutShort,
        Self::Busy,
        Self::Unavailable,
    ];

    /// The metrics' label.
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Quarantined => "quarantined",
            Self::Duplicate => "duplicate",
            Self::Unsigned => "unsigned",
            Self::Forbidden => "forbidden",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::CutShort => "cut_short",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::NoSource => "no_source",
            Self::NotPost => "not_post",
        }
    }

    fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::Received | Self::Quarantined => (StatusCode::OK, r#"{"received":true}"#),
            Self::Duplicate => (StatusCode::OK, r#"{"duplicate":true}"#),
            Self::Unsigned => (StatusCode::UNAUTHORIZED, r#"{"error":"one signature and one timestamp header are needed"}"#),
            Self::Forbidden => (StatusCode::FORBIDDEN, r#"{"error":"the signature does not verify"}"#),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, r#"{"error":"the body is too large"}"#),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, r#"{"error":"the body took too long"}"#),
            Self::CutShort => (StatusCode::BAD_REQUEST, r#"{"error":"the body broke off"}"#),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"too much is queued; try again"}"#),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"it could not be stored in time; try again"}"#),
            Self::NoSource => (StatusCode::NOT_FOUND, r#"{"error":"no source is received here"}"#),
            Self::NotPost => (StatusCode::METHOD_NOT_ALLOWED, r#"{"error":"webhooks are sent by POST"}"#),
        }
    }
}

/// An answer, and what is sent in place of its body.
#[derive(Debug)]
pub struct Reply {
    pub answer: Answer,
    /// Printable ASCII, asked for by a request that verified and is committed.
    pub challenge: Option<String>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, challenge: None }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let plain = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
        match self.challenge {
            Some(challenge) => (plain, challenge).into_response(),
            None => self.answer.into_response(),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (status, body) = self.parts();
        let mut response = (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Busy | Self::Unavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // The rest of the body is not wanted, so the connection cannot be used again.
            Self::TooLarge | Self::TooSlow | Self::CutShort => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Self::NotPost => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_but_success_says_why_in_json() {
        for answer in Answer::OF_SOURCE.into_iter().chain([Answer::NoSource, Answer::NotPost]) {
            let (status, body) = answer.parts();
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body.get("error").is_some(), !status.is_success(), "{answer:?}");
        }
    }
}
