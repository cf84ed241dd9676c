//! One source's door: takes a request, and answers it when its event is committed.

use super::answers::{Answer, Reply};
use super::keeper::Keeper;
use super::keyring::Keys;
use super::metrics::SourceMetrics;
use super::queue::Queues;
use super::refusals::{Change, Refusals};
use super::tally;
use super::verify::SignedHeaders;
use crate::clock;
use crate::config::Source;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// See the module's documentation.
pub struct Door {
    pub source: Source,
    pub keys: Keys,
    /// Where requests that do not verify are to be kept.
    pub keeper: Option<Keeper>,
    pub refusals: Mutex<Refusals>,
    pub headers: SignedHeaders,
    pub queues: Arc<Queues>,
    pub metrics: SourceMetrics,
    /// Where refusals are counted that are to be written down.
    pub tally: tally::OfSource,
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
    /// For the whole body.
    pub body_timeout: Duration,
    /// In KiB: what bodies may hold that are not verified yet. One for all sources.
    pub unverified: Arc<Semaphore>,
}

/// A body up to this size is read without asking: with all connections open these come to some 100 MB. It is also copied out of the
/// connection's buffer, which is larger and can then be used again at once.
const SMALL_BYTES: usize = 16 * 1024;

/// `POST /webhooks/{source}`.
pub async fn receive(State(door): State<Arc<Door>>, request: Request) -> Reply {
    let reply = door.receive(request).await.unwrap_or_else(Reply::from);
    door.metrics.count(reply.answer);
    door.tally.count(reply.answer);
    reply
}

impl Door {
    async fn receive(&self, request: Request) -> Result<Reply, Answer> {
        let (head, body) = request.into_parts();
        let claim = self.headers.read(&head.headers)?;
        let event = {
            let (payload, _room) = match timeout(self.body_timeout, self.read(body)).await {
                Ok(read) => read?,
                Err(_) => return Err(Answer::TooSlow),
            };
            let kept = self.keeper.as_ref().map(|keeper| (keeper, payload.clone()));
            let verified = claim.verify(&self.source, &self.keys.now(), payload, clock::now());
            if let (Some((keeper, payload)), Err(_)) = (kept, &verified) {
                keeper.keep(&self.source.name, payload, claim.kept_headers());
            }
            self.note(verified.is_ok());
            verified?
        };
        // Only a request without a type can be one, so events do not pay for the look.
        let challenge = event.event_type.is_none().then(|| self.source.profile.challenge(&event.payload)).flatten();
        Ok(Reply { answer: self.queues.commit(event).await?.into(), challenge })
    }

    /// Requests that cease to verify are worth a line: until somebody acts, no event comes in.
    fn note(&self, verifies: bool) {
        let change = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).note(verifies, clock::instant());
        let source = &*self.source.name;
        match change {
            None => return,
            Some(Change::Spike { refused, verified }) => tracing::warn!(
                source,
                refused,
                verified,
                "most requests of the last minute do not verify: if the provider's secret was rotated, add the new one to `secrets` and reload (SIGHUP)"
            ),
            Some(Change::Over) => tracing::info!(source, "requests verify again"),
        }
        self.metrics.refusals_spike(matches!(change, Some(Change::Spike { .. })));
    }

    /// The whole body, within the cap, and the room that it takes until it is verified: anybody can send one.
    async fn read(&self, body: Body) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Answer> {
        let size = body.size_hint();
        let at_most = usize::try_from(size.upper().unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(self.body_bytes_max);
        // Content-Length says so: nothing of it is read.
        if size.lower() > self.body_bytes_max as u64 {
            return Err(Answer::TooLarge);
        }
        let room = match at_most > SMALL_BYTES {
            true => Some(self.unverified.acquire_many(kib(at_most)).await.map_err(|_| Answer::Busy)?),
            false => None,
        };
        match Limited::new(body, self.body_bytes_max).collect().await {
            Ok(body) => Ok((compact(body.to_bytes()), room)),
            Err(error) if error.is::<LengthLimitError>() => Err(Answer::TooLarge),
            Err(_) => Err(Answer::CutShort),
        }
    }
}

/// Room for bodies that are not verified yet: as much as for those that are, and for one of the largest in any case.
pub fn unverified_room(bytes: usize, body_bytes_max: usize) -> Semaphore {
    Semaphore::new(kib(bytes.max(body_bytes_max)) as usize)
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

fn compact(body: Bytes) -> Bytes {
    if body.len() > SMALL_BYTES { body } else { Bytes::copy_from_slice(&body) }
}
