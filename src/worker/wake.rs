//! The listener: hints that there is something to do. Only hints: the poll finds everything without them.

use super::Shared;
use crate::store::hints::{Hint, Hints};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Passes hints on until the shutdown begins.
pub async fn run(shared: Arc<Shared>) {
    loop {
        let listen = async {
            let mut hints = Hints::listen(shared.connections.servers()).await?;
            // Whatever happened before the listener was there gave no hint.
            shared.reset.store(true, Ordering::Relaxed);
            shared.hint();
            loop {
                match hints.next().await? {
                    Hint::Arrived => shared.hint(),
                    Hint::Reset => {
                        shared.changed.store(true, Ordering::Relaxed);
                        shared.reset.store(true, Ordering::Relaxed);
                        shared.hint();
                    }
                    Hint::Control => shared.renew.notify_one(),
                }
            }
        };
        let ended: Result<(), sqlx::Error> = tokio::select! {
            () = shared.shutdown.begun() => return,
            ended = listen => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "lost the listener; until it is back, rows are found by polling");
        }
        tokio::select! {
            () = shared.shutdown.begun() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
