//! NOTIFY: hints between the processes. Losing one costs at most a poll's delay.

use super::servers::{Place, Servers};
use sqlx::Executor;
use sqlx::postgres::{PgListener, PgPoolOptions};
use std::io;
use std::time::Duration;
use tokio::time::timeout;

/// After so long without a hint the server is asked for a sign of life: a connection that is gone says nothing either.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the server may take to connect, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What another process has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Events were committed.
    Arrived,
    /// Deliveries were reset, or routed.
    Reset,
    /// Workers, lanes or sinks have changed.
    Control,
}

/// A connection that listens.
pub struct Hints {
    listener: PgListener,
    place: Place,
}

impl Hints {
    pub async fn listen(servers: &Servers) -> Result<Self, sqlx::Error> {
        let (options, place) = servers.locate().await?;
        // The driver's listener connects through a pool only.
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE).idle_timeout(None).max_lifetime(None);
        let mut listener = PgListener::connect_with(&pool.connect_lazy_with(options)).await?;
        // It would connect to the same server again.
        listener.eager_reconnect(false);
        listener.listen_all(["sluice_wake", "sluice_control"]).await?;
        Ok(Self { listener, place })
    }

    /// The next hint. An error: the connection was lost, or leads to the wrong server, and hints are lost with it.
    pub async fn next(&mut self) -> Result<Hint, sqlx::Error> {
        let notification = loop {
            let received = tokio::select! {
                received = timeout(SILENCE, self.listener.try_recv()) => received,
                () = self.place.left() => return Err(lost("another server takes the writes now")),
            };
            match received {
                Ok(received) => break received?.ok_or_else(|| lost("the connection was closed"))?,
                Err(_) => {
                    let alive = timeout(PATIENCE, self.listener.execute("select 1")).await;
                    alive.unwrap_or_else(|_| Err(lost("the server does not answer")))?;
                }
            }
        };
        Ok(match (notification.channel(), notification.payload()) {
            ("sluice_wake", _) => Hint::Arrived,
            (_, "replay") => Hint::Reset,
            _ => Hint::Control,
        })
    }
}

fn lost(why: &'static str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ConnectionReset, why))
}
