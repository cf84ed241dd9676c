//! One source's door: takes a request, and answers it when its event is committed.

use super::answers::Answer;
use super::metrics::SourceMetrics;
use super::queue::Queues;
use super::verify::SignedHeaders;
use crate::clock;
use crate::config::Source;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// See the module's documentation.
pub struct Door {
    pub source: Source,
    pub headers: SignedHeaders,
    pub queues: Arc<Queues>,
    pub metrics: SourceMetrics,
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
    /// For the whole body.
    pub body_timeout: Duration,
}

/// `POST /webhooks/{source}`.
pub async fn receive(State(door): State<Arc<Door>>, request: Request) -> Answer {
    let answer = door.receive(request).await.unwrap_or_else(|refusal| refusal);
    door.metrics.count(answer);
    answer
}

impl Door {
    async fn receive(&self, request: Request) -> Result<Answer, Answer> {
        let (head, body) = request.into_parts();
        let claim = self.headers.read(&head.headers)?;
        let payload = self.read(body).await?;
        let event = claim.verify(&self.source, payload, clock::now())?;
        Ok(self.queues.commit(event).await?.into())
    }

    /// The whole body, within the cap and in time.
    async fn read(&self, body: Body) -> Result<Bytes, Answer> {
        // Content-Length says so: nothing of it is read.
        if body.size_hint().lower() > self.body_bytes_max as u64 {
            return Err(Answer::TooLarge);
        }
        match timeout(self.body_timeout, Limited::new(body, self.body_bytes_max).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Answer::TooLarge),
            Ok(Err(_)) => Err(Answer::CutShort),
            Err(_) => Err(Answer::TooSlow),
        }
    }
}
