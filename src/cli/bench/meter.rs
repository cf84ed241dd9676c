//! What work costs the server: statements and WAL for each event.

use super::report::{Figures, Unit};
use crate::cli::Failure;
use crate::store::bench::{self, Statements};
use sqlx::PgConnection;

/// Counts from its start. Statements are this database's; WAL is the whole server's, so nothing else should write to it.
#[derive(Debug)]
pub struct Meter {
    wal_bytes: f64,
    counts_statements: bool,
}

impl Meter {
    /// Begins to count.
    pub async fn start(conn: &mut PgConnection) -> Result<Self, Failure> {
        let counts_statements = match bench::reset_statements(conn).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "statements are not counted");
                false
            }
        };
        let wal_bytes = bench::wal_bytes(conn).await.map_err(failed)?;
        Ok(Self { wal_bytes, counts_statements })
    }

    /// What was executed since; `None`: the server does not count.
    pub async fn statements(&self, conn: &mut PgConnection) -> Result<Option<Statements>, Failure> {
        if !self.counts_statements {
            return Ok(None);
        }
        bench::statements(conn).await.map(Some).map_err(failed)
    }

    /// Adds what each of `events` events has cost; `of` ends the figures' names.
    pub async fn report(&self, conn: &mut PgConnection, events: u64, of: &str, figures: &mut Figures) -> Result<(), Failure> {
        let events = events.max(1) as f64;
        if let Some(statements) = self.statements(conn).await? {
            figures.add(format!("statements an event{of}"), statements.calls as f64 / events, Unit::Count);
        }
        let wal_bytes = bench::wal_bytes(conn).await.map_err(failed)? - self.wal_bytes;
        figures.add(format!("WAL an event{of}"), wal_bytes / events, Unit::Bytes);
        Ok(())
    }
}

/// What reading a due row costs, from statements counted since the meter's start.
pub fn fetch_cost(statements: &Statements, when: &str, figures: &mut Figures) {
    let (reads, rows) = (statements.fetches.max(1) as f64, statements.fetched_rows.max(1) as f64);
    figures.add(format!("a read, {when}"), statements.fetching_ms / reads, Unit::Milliseconds);
    figures.add(format!("a row of it, {when}"), statements.fetching_ms * 1000.0 / rows, Unit::Microseconds);
    figures.add(format!("pages a row, {when}"), statements.fetched_pages as f64 / rows, Unit::Count);
    figures.add(format!("rows a read, {when}"), statements.fetched_rows as f64 / reads, Unit::Count);
}

fn failed(error: sqlx::Error) -> Failure {
    Failure::database("cannot ask the server what it did", &error)
}
