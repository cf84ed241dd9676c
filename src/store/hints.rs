//! NOTIFY: hints between the processes. Losing one costs at most a poll's delay.

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::time::timeout;

/// A listener that hears nothing for so long is asked whether it still hears: a connection can die without a sign.
const QUIET: Duration = Duration::from_secs(10);
/// For its answer.
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
}

impl Hints {
    pub async fn listen(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen_all(["sluice_wake", "sluice_control"]).await?;
        Ok(Self { listener })
    }

    /// The next hint. An error: the connection was lost, and hints with it.
    pub async fn next(&mut self) -> Result<Hint, sqlx::Error> {
        let notification = loop {
            match timeout(QUIET, self.listener.try_recv()).await {
                Ok(Ok(Some(notification))) => break notification,
                Ok(Ok(None)) => return Err(sqlx::Error::Io(ErrorKind::ConnectionReset.into())),
                Ok(Err(error)) => return Err(error),
                Err(_) => self.check().await?,
            }
        };
        Ok(match (notification.channel(), notification.payload()) {
            ("sluice_wake", _) => Hint::Arrived,
            (_, "replay") => Hint::Reset,
            _ => Hint::Control,
        })
    }

    /// Whether the connection is alive. What is notified meanwhile is kept.
    async fn check(&mut self) -> Result<(), sqlx::Error> {
        let asked = sqlx::query!(r#"select true as "alive!""#).fetch_one(&mut self.listener);
        match timeout(PATIENCE, asked).await {
            Ok(alive) => alive.map(|_| ()),
            Err(_) => Err(sqlx::Error::Io(ErrorKind::TimedOut.into())),
        }
    }
}
