//! Whether the database is there and takes writes, for `/readyz`.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clock;

/// How long an answer is good for: a load balancer that asks often costs no more than one query in this time.
const FRESH: Duration = Duration::from_secs(1);
/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks the database at most once a second, and not at all unless somebody wants to know.
pub struct Ping {
    options: PgConnectOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<PgConnection>,
    last: Option<(Instant, Result<(), NotReady>)>,
}

/// Why the database cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotReady {
    #[error("the database does not answer")]
    Unreachable,
    #[error("the database is read-only")]
    ReadOnly,
}

impl Ping {
    /// Opens nothing yet.
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, state: Mutex::default() }
    }

    /// Whether the database answered and takes writes, now or within the last second.
    pub async fn check(&self) -> Result<(), NotReady> {
        let mut state = self.state.lock().await;
        if let Some((at, answer)) = &state.last
            && clock::instant().duration_since(*at) < FRESH
        {
            return answer.clone();
        }
        let answer = match timeout(PATIENCE, self.ask(&mut state.connection)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(NotReady::ReadOnly),
            Ok(Err(_)) | Err(_) => Err(NotReady::Unreachable),
        };
        if answer.is_err() {
            // A broken connection, or one to a server that has become a standby, must not be asked again.
            state.connection = None;
        }
        state.last = Some((clock::instant(), answer.clone()));
        answer
    }

    async fn ask(&self, connection: &mut Option<PgConnection>) -> Result<bool, sqlx::Error> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.options.connect().await?),
        };
        sqlx::query_scalar!(r#"select not pg_is_in_recovery() and not current_setting('transaction_read_only')::boolean as "writable!""#)
            .fetch_one(connection)
            .await
    }
}
