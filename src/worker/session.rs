//! A connection that one task keeps, and gets anew when it is lost.

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use std::time::Duration;

/// How long one piece of work may take before its connection is given up: a network that swallows packets answers nothing.
const PATIENCE: Duration = Duration::from_secs(15);

/// See the module's documentation.
pub struct Session {
    pool: PgPool,
    conn: Option<PoolConnection<Postgres>>,
}

impl Session {
    /// Connects when first used.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, conn: None }
    }

    /// Runs one piece of work. After an error that is not the database's own answer, the connection is not used again.
    pub async fn run<T>(&mut self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.pool.acquire().await?,
        };
        let result = match tokio::time::timeout(PATIENCE, work(&mut conn)).await {
            Ok(result) => result,
            Err(_) => Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database did not answer in 15 s"))),
        };
        match &result {
            Err(error) if error.as_database_error().is_none() => drop(conn.detach()),
            _ => self.conn = Some(conn),
        }
        result
    }
}
