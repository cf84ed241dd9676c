//! A committer's connection: opened when needed, dropped when in doubt. No call here waits longer than its patience.

use crate::event::NewEvent;
use crate::failpoint::failpoint;
use crate::store::durability::{self, NotDurable};
use crate::store::events::{self, Trouble};
use crate::store::ranges;
use crate::store::servers::{Connection, Servers};
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;
use tokio::time::timeout;

/// See the module's documentation.
pub struct Database {
    servers: Servers,
    connection: Option<Connection>,
    patience: Duration,
    allows_asynchronous_commit: bool,
    /// Whether the last batch met ids that were taken: redeliveries come in swarms.
    expects_taken: bool,
    /// The server's history that the last connection led to: see [`Connection::turn`].
    turn: Option<u64>,
    /// It is another one than before.
    has_turned: bool,
}

impl Database {
    /// Opens nothing yet. `patience` bounds each call, besides the same limits at the server's side. A connection whose commits are reported
    /// before they are on disk is refused, unless `allows_asynchronous_commit`.
    pub fn new(servers: Servers, patience: Duration, allows_asynchronous_commit: bool) -> Self {
        Self { servers, connection: None, patience, allows_asynchronous_commit, expects_taken: false, turn: None, has_turned: false }
    }

    /// [`events::insert_batch`], or, unless the last batch was not all new, in the hope that this one is. After an error the batch may be
    /// committed all the same; storing it again is harmless. Where the log has no range for the next numbers, one is made.
    pub async fn insert(&mut self, batch: &[&NewEvent]) -> Result<Vec<bool>, Trouble> {
        failpoint!("commit-begins");
        failpoint!("commit-skipped", Ok(vec![true; batch.len()]));
        let patience = self.patience;
        let is_hopeful = !self.expects_taken && batch.iter().all(|event| event.quarantine.is_none());
        let connection = self.connection().await?;
        let stored = timeout(patience, store(connection, batch, is_hopeful)).await;
        if let Ok(Err(error)) = &stored
            && events::lacks_range(error)
        {
            self.ensure_ranges().await?;
            return Err(Trouble::Again);
        }
        if let Ok(Err(error)) = &stored
            && events::numbers_are_taken(error)
        {
            self.advance_sequence().await?;
            return Err(Trouble::Again);
        }
        let stored = self.judge(stored)?;
        self.expects_taken = stored.contains(&false);
        Ok(stored)
    }

    async fn advance_sequence(&mut self) -> Result<(), Trouble> {
        tracing::warn!("the sequence of the log is behind its tables: advancing it");
        let patience = self.patience;
        let connection = self.connection().await?;
        let advanced = timeout(patience, ranges::advance_sequence(connection)).await;
        self.judge(advanced)
    }

    async fn ensure_ranges(&mut self) -> Result<(), Trouble> {
        tracing::warn!("the log had no range for the next numbers: making one");
        let patience = self.patience;
        let connection = self.connection().await?;
        let made = timeout(patience, ranges::ensure(connection, None)).await;
        self.judge(made).map(drop)
    }

    /// [`events::stored_hashes`].
    pub async fn stored_hashes(&mut self, batch: &[&NewEvent]) -> Result<Vec<Option<Vec<u8>>>, Trouble> {
        let patience = self.patience;
        let connection = self.connection().await?;
        let hashes = timeout(patience, events::stored_hashes(connection, batch)).await;
        self.judge(hashes)
    }

    /// Sees to it that the connection is one, and leads to the server as it is now. Where it cannot, the batch that follows will say so.
    pub async fn confirm(&mut self) {
        let patience = self.patience;
        if self.connection.is_some()
            && let Ok(connection) = self.connection().await
        {
            let alive = timeout(patience, connection.ping()).await;
            let _ = self.judge(alive);
        }
        if let Err(trouble) = self.connection().await {
            tracing::debug!(?trouble, "not connected");
        }
    }

    /// Whether the server has turned to another history since this was last asked: what was stored before may be gone.
    pub fn has_turned(&mut self) -> bool {
        std::mem::take(&mut self.has_turned)
    }

    /// Opens the connection before anybody waits for it. A failure is left to the first batch to report.
    pub async fn warm_up(&mut self) {
        if let Err(trouble) = self.connection().await {
            tracing::debug!(?trouble, "not connected yet");
        }
    }

    /// Says good-bye, so that the server logs no lost connection.
    pub async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Nothing is under way: whether it works does not matter.
            let _ = timeout(self.patience, connection.into_inner().close()).await;
        }
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, Trouble> {
        self.connection.take_if(|connection| !connection.place.is_current());
        if self.connection.is_none() {
            let opened = timeout(self.patience, self.servers.connect()).await;
            let mut connection = self.judge(opened)?;
            if !self.allows_asynchronous_commit {
                let checked = timeout(self.patience, durability::check(&mut connection)).await;
                match checked {
                    Ok(Err(NotDurable::Database(error))) => self.judge(Ok(Err(error)))?,
                    Ok(Err(refusal)) => return Err(Trouble::Unavailable { reason: refusal.to_string() }),
                    Ok(Ok(())) => {}
                    Err(elapsed) => self.judge(Err(elapsed))?,
                }
            }
            if self.turn != Some(connection.turn) {
                // Nothing may be stored under a number that something has already.
                let advanced = timeout(self.patience, ranges::advance_sequence(&mut connection)).await;
                self.judge(advanced)?;
                self.has_turned |= self.turn.replace(connection.turn).is_some();
            }
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("it was opened above"))
    }

    /// Sorts the errors. But for those that leave the connection as it was, it is dropped: it may be anywhere within its protocol, or lead to a
    /// server that cannot help (a standby, one that is shutting down).
    fn judge<T>(&mut self, result: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>) -> Result<T, Trouble> {
        let trouble = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => Trouble::from(&error),
            Err(_) => Trouble::Unavailable { reason: "the database did not answer in time".into() },
        };
        if matches!(trouble, Trouble::Unavailable { .. }) {
            self.connection = None;
        }
        Err(trouble)
    }
}

async fn store(connection: &mut PgConnection, batch: &[&NewEvent], is_hopeful: bool) -> Result<Vec<bool>, sqlx::Error> {
    if is_hopeful && events::insert_new_batch(connection, batch).await? {
        return Ok(vec![true; batch.len()]);
    }
    events::insert_batch(connection, batch).await
}
