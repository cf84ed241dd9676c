//! How the library's requests go out: through the client of every other sink. What an answer means is said here, and carried through the
//! library as an error, which does not try again then.

use crate::delivery::{Blame, Failure};
use crate::sink::client::Client;
use crate::sink::client::answer::Answer;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::header::AUTHORIZATION;
use hyper::{Request, Response, StatusCode};
use ipnet::IpNet;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use object_store::{ClientOptions, Result};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module's documentation.
pub enum Transport {
    Live(Box<Client>),
    /// Sends nothing, and keeps what it was given last, as text for people.
    Rehearsal(Mutex<String>),
}

/// What a request came to.
#[derive(Debug)]
pub struct Carried(pub Failure);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.error)
    }
}

impl std::error::Error for Carried {}

impl Transport {
    /// As [`Client::new`].
    pub fn live(allow: &[IpNet], connections: usize, https: bool) -> io::Result<Self> {
        Ok(Self::Live(Box::new(Client::new(allow, connections, https)?)))
    }

    pub fn rehearsal() -> Self {
        Self::Rehearsal(Mutex::default())
    }

    /// The head of the request that was rehearsed last.
    pub fn rehearsed(&self) -> String {
        match self {
            Self::Live(_) => String::new(),
            Self::Rehearsal(last) => last.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    async fn request(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let request = Request::from_parts(head, Full::<Bytes>::new(body));
        let client = match self {
            Self::Live(client) => client,
            Self::Rehearsal(last) => {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = shown(&request);
                return Ok(Response::new(Bytes::new().into()));
            }
        };
        let carried = |failure| HttpError::new(HttpErrorKind::Unknown, Carried(failure));
        let answer = client.call(request).await.map_err(carried)?;
        let status = if is_there(&answer) { StatusCode::PRECONDITION_FAILED } else { answer.status };
        // 412 is the library's to understand: the object is there.
        if !status.is_success() && status != StatusCode::PRECONDITION_FAILED {
            return Err(carried(failure(&answer)));
        }
        let mut response = Response::new(answer.body.into());
        *response.status_mut() = status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

/// Holds a client, and so nothing that could be shown.
impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

/// Gives the library its transport.
#[derive(Debug)]
pub struct Connector(pub Arc<Transport>);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(Connector(Arc::clone(&self.0))))
    }
}

impl HttpService for Connector {
    // As the library's macro would write it.
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> BoxFuture<'b, Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.0.request(request))
    }
}

/// The head of a request. Of bucket and key nothing is secret; of the headers, the signature is.
fn shown(request: &Request<Full<Bytes>>) -> String {
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        let value = if name == AUTHORIZATION { "(signature)".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        text += &format!("{name}: {value}\n");
    }
    text
}

/// Azure's way of saying what the others say with 412, so that it looks the same to the library and to the operator.
fn is_there(answer: &Answer) -> bool {
    answer.status == StatusCode::CONFLICT && code(&answer.body).is_some_and(|code| code == "BlobAlreadyExists")
}

/// What an answer other than success means, from any of the stores. Its status says little, the code in its body more.
fn failure(answer: &Answer) -> Failure {
    let code = code(&answer.body).unwrap_or_default();
    let (blame, advice) = match (answer.status.as_u16(), code.as_str()) {
        (503, "SlowDown" | "ServerBusy") => (Blame::RateLimit, ""),
        (507, _) => (Blame::Sink, ""),
        // Somebody else is putting this very object: which of the two succeeds, the next try will see.
        (409, _) => (Blame::Event, ""),
        (400, "EntityTooLarge" | "KeyTooLongError") => (Blame::Permanent, ""),
        (400, "RequestTimeout" | "IncompleteBody" | "BadDigest") => (Blame::Event, ""),
        (400 | 401 | 403, _) => (Blame::Refused, "check the sink's credentials (on S3 its `region`, too), and what they may do there"),
        (404 | 405, _) => (Blame::Refused, "check the bucket or container in the sink's `url`, and `endpoint`"),
        (300..=399, _) => (Blame::Refused, "the bucket is elsewhere: check the sink's `region` and `endpoint`"),
        (501, _) => (Blame::Refused, "the store cannot put an object only where there is none, which the archive needs"),
        _ => return named(answer.failure(), &code),
    };
    named(answer.failure_as(blame, advice), &code)
}

fn named(failure: Failure, code: &str) -> Failure {
    if code.is_empty() { failure } else { Failure { error: format!("{code}: {}", failure.error), ..failure } }
}

/// The one word in an error's XML that says what is wrong. The rest is prose, which names keys.
fn code(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    let is_word = code.len() <= 64 && code.chars().all(|char| char.is_ascii_alphanumeric() || char == '.');
    is_word.then(|| code.to_owned())
}
