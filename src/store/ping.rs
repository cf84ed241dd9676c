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
        let mut answer = Err(NotReady::Unreachable);
        if let Some(kept) = state.connection.take() {
            answer = self.ask(Some(kept), &mut state).await;
        }
        if answer.is_err() {
            // A connection that was kept says nothing of the server as it is now: it may have restarted, or been promoted.
            answer = self.ask(None, &mut state).await;
        }
        state.last = Some((clock::instant(), answer.clone()));
        answer
    }

    /// Keeps the connection for the next time only after a good answer.
    async fn ask(&self, connection: Option<PgConnection>, state: &mut State) -> Result<(), NotReady> {
        let ask = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => self.options.connect().await?,
            };
            let writable = sqlx::query_scalar!(
                r#"select not pg_is_in_recovery() and not current_setting('transaction_read_only')::boolean as "writable!""#
            )
            .fetch_one(&mut connection)
            .await?;
            Ok::<_, sqlx::Error>((connection, writable))
        };
        match timeout(PATIENCE, ask).await {
            Ok(Ok((connection, true))) => {
                state.connection = Some(connection);
                Ok(())
            }
            Ok(Ok((_, false))) => Err(NotReady::ReadOnly),
            Ok(Err(_)) | Err(_) => Err(NotReady::Unreachable),
        }
    }
}
