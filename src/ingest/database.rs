//! A committer's connection: opened when needed, dropped when in doubt. No call here waits longer than its patience.

use crate::event::NewEvent;
use crate::failpoint::failpoint;
use crate::store::durability::{self, NotDurable};
use crate::store::events::{self, Inserted, Trouble};
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
}

impl Database {
    /// Opens nothing yet. `patience` bounds each call, besides the same limits at the server's side. A connection whose commits are reported
    /// before they are on disk is refused, unless `allows_asynchronous_commit`.
    pub fn new(servers: Servers, patience: Duration, allows_asynchronous_commit: bool) -> Self {
        Self { servers, connection: None, patience, allows_asynchronous_commit, expects_taken: false }
    }

    /// [`events::insert_batch`], or, unless the last batch was not all new, in the hope that this one is. After an error the batch may be
    /// committed all the same; storing it again is harmless.
    pub async fn insert(&mut self, batch: &[&NewEvent]) -> Result<Inserted, Trouble> {
        failpoint!("commit-begins");
        failpoint!("commit-skipped", Ok(Inserted { stored: vec![true; batch.len()], owed: Vec::new() }));
        let patience = self.patience;
        let is_hopeful = !self.expects_taken && batch.iter().all(|event| event.quarantine.is_none());
        let connection = self.connection().await?;
        let inserted = timeout(patience, store(connection, batch, is_hopeful)).await;
        let inserted = self.judge(inserted)?;
        self.expects_taken = inserted.stored.contains(&false);
        Ok(inserted)
    }

    /// [`events::stored_hashes`].
    pub async fn stored_hashes(&mut self, batch: &[&NewEvent]) -> Result<Vec<Option<Vec<u8>>>, Trouble> {
        let patience = self.patience;
        let connection = self.connection().await?;
        let hashes = timeout(patience, events::stored_hashes(connection, batch)).await;
        self.judge(hashes)
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

async fn store(connection: &mut PgConnection, batch: &[&NewEvent], is_hopeful: bool) -> Result<Inserted, sqlx::Error> {
    if is_hopeful && let Some(inserted) = events::insert_new_batch(connection, batch).await? {
        return Ok(inserted);
    }
    events::insert_batch(connection, batch).await
}
