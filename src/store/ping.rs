//! Whether the database is there and takes writes, for `/readyz`.

use super::servers::{Connection, Servers, takes_writes};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::clock;

/// How long an answer is good for: a load balancer that asks often costs no more than one query in this time.
const FRESH: Duration = Duration::from_secs(1);
/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Session settings of the connection that asks.
pub const SETTINGS: &[(&str, &str)] = &[("statement_timeout", "1s"), ("lock_timeout", "1s")];

/// Asks the database at most once a second, and not at all unless somebody wants to know.
pub struct Ping {
    servers: Servers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    last: Option<(Instant, Result<(), NotReady>)>,
}

/// Why the database cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotReady {
    #[error("the database does not answer")]
    Unreachable,
    #[error("the database is read-only")]
    ReadOnly,
    #[error("{0}")]
    Several(String),
}

impl Ping {
    /// Opens nothing yet.
    pub fn new(servers: Servers) -> Self {
        Self { servers, state: Mutex::default() }
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
        if let Some(kept) = state.connection.take().filter(|kept| kept.place.is_current()) {
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
    async fn ask(&self, connection: Option<Connection>, state: &mut State) -> Result<(), NotReady> {
        let ask = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => self.servers.connect().await?,
            };
            let takes_writes = takes_writes(&mut connection).await?;
            Ok::<_, sqlx::Error>((connection, takes_writes))
        };
        match timeout(PATIENCE, ask).await {
            Ok(Ok((connection, true))) => {
                state.connection = Some(connection);
                Ok(())
            }
            Ok(Ok((_, false))) => Err(NotReady::ReadOnly),
            // Of several servers the error says of each what is wrong with it.
            Ok(Err(error)) if self.servers.are_several() => Err(NotReady::Several(error.to_string())),
            Ok(Err(_)) | Err(_) => Err(NotReady::Unreachable),
        }
    }
}
