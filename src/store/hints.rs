//! NOTIFY: hints between the processes. Losing one costs at most a poll's delay.

use sqlx::PgPool;
use sqlx::postgres::PgListener;

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
        let Some(notification) = self.listener.try_recv().await? else {
            return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()));
        };
        Ok(match (notification.channel(), notification.payload()) {
            ("sluice_wake", _) => Hint::Arrived,
            (_, "replay") => Hint::Reset,
            _ => Hint::Control,
        })
    }
}
