//! What a sink's answer means for the event.

use super::retry_after;
use crate::clock;
use crate::delivery::{Blame, Failure, Outcome, RESPONSE_CHARS_MAX};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{LOCATION, RETRY_AFTER};
use hyper::{HeaderMap, Response, StatusCode, Uri};
use std::time::Duration;
use tokio::time::timeout;

/// How much of an answer is read; with more to come, its connection is closed rather than drained.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long an answer's body may take. The status is known by then and is worth more than the rest of the text: a body that
/// drips must not turn a 200 or a 400 into a timeout.
const BODY_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads an answer of which only the status matters, and judges it.
pub async fn judge(answer: Response<Incoming>) -> Outcome {
    let (head, body) = answer.into_parts();
    if head.status.is_success() {
        if !body.is_end_stream() {
            // Only a connection whose answer was read to its end can be used again.
            beginning(body).await;
        }
        return Outcome::Delivered { status: Some(head.status.as_u16()) };
    }
    let beginning = beginning(body).await;
    Outcome::Failed(Answer { status: head.status, headers: head.headers, body: beginning }.failure())
}

/// An answer that was read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The first 64 KiB at most.
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads an answer whose body matters: all of it up to 64 KiB, for as long as the try may take.
    pub async fn read(answer: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, mut incoming) = answer.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            if let Some(data) = frame?.data_ref() {
                body.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - body.len())]);
            }
            if body.len() == BODY_BYTES_MAX {
                break;
            }
        }
        Ok(Self { status: head.status, headers: head.headers, body })
    }

    /// There may have been more of the body than what was read.
    pub fn is_cut(&self) -> bool {
        self.body.len() >= BODY_BYTES_MAX
    }

    /// The body as JSON, where it is.
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// What it means where the protocol has no more to say than its status: see [`blame`].
    pub fn failure(&self) -> Failure {
        Failure {
            blame: blame(self.status),
            status: Some(self.status.as_u16()),
            error: error(self.status, &self.headers),
            response: text(&self.body),
            retry_after: self.headers.get(RETRY_AFTER).and_then(|value| retry_after::parse(value.to_str().ok()?, clock::now())),
        }
    }

    /// [`Answer::failure`] with a blame and words of the sink's own: `said` goes behind what the status says.
    pub fn failure_as(&self, blame: Blame, said: &str) -> Failure {
        let mut failure = self.failure();
        failure.blame = blame;
        if !said.is_empty() {
            failure.error = format!("{}: {}", failure.error, text(said.as_bytes()).unwrap_or_default());
        }
        failure
    }
}

/// What a status other than success says of the next try.
pub fn blame(status: StatusCode) -> Blame {
    match status.as_u16() {
        401 | 403 => Blame::Refused,
        429 => Blame::RateLimit,
        408 | 502 | 503 | 504 => Blame::Sink,
        // A CDN's own answers for an origin that is down, unreachable or misconfigured (Cloudflare).
        521..=526 | 530 => Blame::Sink,
        300..=499 => Blame::Permanent,
        // 500 and its like; and what no server should send (1xx, 6xx), which a later try may get right.
        _ => Blame::Event,
    }
}

fn error(status: StatusCode, headers: &HeaderMap) -> String {
    let answered = match status.canonical_reason() {
        Some(reason) => format!("answered {} {reason}", status.as_u16()),
        None => format!("answered {}", status.as_u16()),
    };
    if !status.is_redirection() {
        return answered;
    }
    let target = headers.get(LOCATION).and_then(|location| location.to_str().ok()?.parse::<Uri>().ok());
    // Path and query of the target may be a secret, as those of the sink's own URL.
    let target = target.and_then(|uri| Some(format!("{}://{}", uri.scheme_str()?, uri.host()?)));
    let target = target.as_deref().unwrap_or("another path");
    format!("{answered} to {target}; redirects are not followed: put the final address into the sink's `url`")
}

/// The beginning of a body, as far as it comes in time. What breaks it off is no news: the status has been read.
async fn beginning(mut body: Incoming) -> Vec<u8> {
    let mut read = Vec::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                read.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - read.len())]);
            }
            if read.len() == BODY_BYTES_MAX {
                break;
            }
        }
    };
    // An overrun leaves what was read so far.
    timeout(BODY_TIMEOUT, reading).await.ok();
    read
}

/// What is kept of a body, fit to be stored and shown.
pub fn text(body: &[u8]) -> Option<String> {
    // A character has at most four bytes, so the rest cannot matter.
    let body = &body[..body.len().min(4 * RESPONSE_CHARS_MAX)];
    let text: String =
        String::from_utf8_lossy(body).chars().take(RESPONSE_CHARS_MAX).map(|char| if char.is_control() { ' ' } else { char }).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_blame() {
        for (statuses, expected) in [
            (&[401, 403][..], Blame::Refused),
            (&[429], Blame::RateLimit),
            (&[408, 502, 503, 504, 521, 522, 523, 526, 530], Blame::Sink),
            (&[300, 301, 302, 304, 307, 308, 400, 402, 404, 405, 409, 410, 413, 415, 422, 451, 499], Blame::Permanent),
            (&[101, 500, 501, 505, 507, 508, 511, 520, 599, 600, 999], Blame::Event),
        ] {
            for &status in statuses {
                assert_eq!(blame(StatusCode::from_u16(status).unwrap()), expected, "{status}");
            }
        }
    }

    #[test]
    fn a_redirect_is_told_without_its_path() {
        let error = |location: &str| error(StatusCode::MOVED_PERMANENTLY, &HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]));
        let absolute = error("http://user:pass@10.0.0.1:81/hook/s3cret?token=s3cret");
        assert!(absolute.starts_with("answered 301 Moved Permanently to http://10.0.0.1; redirects are not followed"), "{absolute}");
        for relative in ["/s3cret", "s3cret", "", "//s3cret/"] {
            assert!(error(relative).contains("to another path;"), "{relative}");
        }
    }

    #[test]
    fn what_is_kept_of_a_body_is_short_clean_text() {
        assert_eq!(text(b""), None);
        assert_eq!(text(b"no\r\n\0\x1b[31mway\x7f"), Some("no    [31mway ".into()));
        assert_eq!(text(b"caf\xe9"), Some("caf\u{fffd}".into()));
        assert_eq!(text("\u{1f600}".repeat(2000).as_bytes()), Some("\u{1f600}".repeat(1000)));
        assert_eq!(text(&[b'a'; 70_000]), Some("a".repeat(1000)));
    }
}
