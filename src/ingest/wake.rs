//! Wakes the workers after a commit, from a connection of its own, so that no commit ever waits for it.

use crate::store;
use crate::store::servers::{Connection, Servers};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// After a hint for this many events the next one waits a little: in a rush, one stands for many commits.
const RUSH_FROM: usize = 16;
const APART: Duration = Duration::from_millis(2);
/// A hint that takes longer is worth nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a failure: the workers poll anyway.
const PAUSE: Duration = Duration::from_secs(1);

/// The committers' side. Cheap: it only leaves a mark.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Stored>);

#[derive(Debug, Default)]
struct Stored {
    notify: Notify,
    /// Events since the last hint.
    events: AtomicUsize,
}

impl Wake {
    /// So many events were stored. Any number of calls before the next hint make one.
    pub fn hint(&self, events: usize) {
        self.0.events.fetch_add(events, Ordering::Relaxed);
        self.0.notify.notify_one();
    }

    /// Sends hints for ever: at once, but in a rush.
    pub async fn run(self, servers: Servers) {
        let mut connection = None;
        loop {
            self.0.notify.notified().await;
            let events = self.0.events.swap(0, Ordering::Relaxed);
            match timeout(PATIENCE, send(&servers, &mut connection)).await {
                Ok(Ok(())) if events < RUSH_FROM => {}
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

async fn send(servers: &Servers, connection: &mut Option<Connection>) -> Result<(), sqlx::Error> {
    connection.take_if(|connection| !connection.place.is_current());
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(servers.connect().await?),
    };
    store::wake::wake_workers(connection).await
}
