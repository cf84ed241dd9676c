//! Wakes the workers after a commit, from a connection of its own, so that no commit ever waits for it.

use crate::store;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Hints are at least this far apart: in a rush one hint stands for many commits.
const APART: Duration = Duration::from_millis(2);
/// A hint that takes longer is worth nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a failure: the workers poll anyway.
const PAUSE: Duration = Duration::from_secs(1);

/// The committers' side. Cheap: it only leaves a mark.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Something was stored. Any number of calls before the next hint make one.
    pub fn hint(&self) {
        self.0.notify_one();
    }

    /// Sends hints for ever: at once when it has been quiet.
    pub async fn run(self, options: PgConnectOptions) {
        let mut connection = None;
        loop {
            self.0.notified().await;
            match timeout(PATIENCE, send(&options, &mut connection)).await {
                Ok(Ok(())) => sleep(APART).await,
                failed => {
                    // Dropped, because it may be anywhere within its protocol.
                    connection = None;
                    let reason = failed.map(|sent| sent.err().map(|error| error.to_string()));
                    tracing::debug!(?reason, "could not wake the workers; they will poll");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn send(options: &PgConnectOptions, connection: &mut Option<PgConnection>) -> Result<(), sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(options.connect().await?),
    };
    store::wake::wake_workers(connection).await
}
