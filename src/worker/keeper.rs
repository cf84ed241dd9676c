//! The keeper: makes ranges of the log ahead, and drops those whose time is over. Every worker tries; the database lets one at a time.

use super::Shared;
use crate::config::Retention;
use crate::store::ranges;
use std::sync::Arc;
use std::time::Duration;

/// How often it looks. What is missing sooner, ingest makes itself.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Keeps the ranges until the shutdown begins.
pub async fn run(shared: Arc<Shared>, retention: Retention) {
    loop {
        if let Err(error) = keep(&shared, retention).await {
            tracing::warn!(%error, "cannot keep the ranges of the log; trying again");
        }
        tokio::select! {
            () = shared.shutdown.begun() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn keep(shared: &Shared, retention: Retention) -> Result<(), sqlx::Error> {
    let made = shared.control(async |conn| ranges::ensure(conn, retention.deliveries).await).await?;
    if made > 0 {
        tracing::info!(ranges = made, "made ranges of the log ahead");
    }
    for (kept, only_payloads) in [(retention.deliveries, false), (retention.payloads, true)] {
        let Some(kept) = kept else { continue };
        let before = shared.clock.now() - kept;
        for range in shared.control(async |conn| ranges::report(conn, before).await).await? {
            if range.kept_by.is_some() || (only_payloads && range.payloads_gone) {
                continue;
            }
            let prevented = shared.control(async |conn| ranges::detach(conn, range.number, before, only_payloads).await).await?;
            match prevented {
                None => tracing::info!(range = range.number, only_payloads, bytes = range.bytes, "dropped a range of the log"),
                Some(reason) => tracing::debug!(range = range.number, reason, "a range of the log stays for now"),
            }
        }
    }
    shared.control(async |conn| ranges::drop_detached(conn).await).await?;
    Ok(())
}
