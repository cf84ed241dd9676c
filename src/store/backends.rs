//! What a client leaves behind at the server: the process that served it, in the middle of a statement.
//!
//! Mostly it ends by itself, when it is done or its time is over. Not one whose commit waits for a synchronous standby: no timeout is about that, it
//! does not look whether its client is still there, and it keeps its locks. With each try another would join it, until no connection is left.

use super::servers::{Connection, is_useless_after};
use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A process of the server, told from a later one that was given the same number.
#[derive(Debug, Clone, Copy)]
struct Backend {
    pid: i32,
    started: DateTime<Utc>,
}

/// The backends whose connections were dropped, and which nobody has looked after yet.
#[derive(Debug, Clone, Default)]
pub struct Dropped(Arc<Mutex<Vec<Backend>>>);

/// Belongs to a connection: with it, its backend is dropped.
#[derive(Debug)]
pub struct Serving {
    backend: Backend,
    dropped: Dropped,
}

impl Dropped {
    /// Notes who serves a new connection.
    pub async fn serving(&self, conn: &mut PgConnection) -> Result<Serving, sqlx::Error> {
        // Not prepared: see `pooler::check`, which comes after this.
        let row = sqlx::raw_sql("select pid, backend_start from pg_stat_get_activity(pg_backend_pid())").fetch_one(conn).await?;
        Ok(Serving { backend: Backend { pid: row.try_get(0)?, started: row.try_get(1)? }, dropped: self.clone() })
    }

    /// Ends those that are still there. What they were about to commit may be committed or not, as after any lost connection. Where we may not, they
    /// stay: no reason not to work.
    pub async fn end(&self, connection: &mut Connection) -> Result<(), sqlx::Error> {
        let left = std::mem::take(&mut *self.list());
        if left.is_empty() {
            return Ok(());
        }
        let ended = sqlx::query_scalar!(
            r#"
            select count(pg_terminate_backend(a.pid)) as "ended!"
              from unnest($1::int[], $2::timestamptz[]) as d(pid, started)
              join pg_stat_activity a on a.pid = d.pid and a.backend_start = d.started and a.usename = current_user
            "#,
            &left.iter().map(|backend| backend.pid).collect::<Vec<_>>(),
            &left.iter().map(|backend| backend.started).collect::<Vec<_>>(),
        );
        match ended.fetch_one(&mut **connection).await {
            Ok(ended) => tracing::debug!(ended, "ended what lost connections had left at the server"),
            Err(error) if !is_useless_after(&error) => tracing::warn!(%error, "cannot end what lost connections have left at the server"),
            Err(error) => {
                self.list().extend(left);
                return Err(error);
            }
        }
        Ok(())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Backend>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.dropped.list().push(self.backend);
    }
}
