//! This worker's connections: so many at most, kept from one use to the next, and got anew when they are lost or lead to a server that
//! takes no writes any more.

use crate::store::servers::{Connection, Servers, is_useless_after};
use sqlx::PgConnection;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// How long one piece of work may take before its connection is given up: a network that swallows packets answers nothing.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a task waits for a connection before it is told that there is none.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module's documentation.
pub struct Connections {
    servers: Servers,
    room: Arc<Semaphore>,
    /// Nothing is under way on these.
    idle: Mutex<Vec<Connection>>,
    /// The last turn of the servers to another history that this worker has drawn the consequences of.
    turn: AtomicU64,
    /// There was another.
    pub turned: Notify,
}

impl Connections {
    /// Opens nothing yet.
    pub fn new(servers: Servers, max: usize) -> Self {
        Self { servers, room: Arc::new(Semaphore::new(max)), idle: Mutex::default(), turn: AtomicU64::new(0), turned: Notify::new() }
    }

    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// One of them. Where it must be opened and the server is not there, tries on for a while.
    pub async fn take(&self) -> Result<Lent, sqlx::Error> {
        let mut last = None;
        let taken = timeout(CONNECT_PATIENCE, async {
            let permit = self.room.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            // It is tested by its use, not by a round trip before it.
            let kept = std::iter::from_fn(|| self.idle().pop()).find(|kept| kept.place.is_current() && kept.turn == self.servers.turns());
            if let Some(connection) = kept {
                return Ok(Lent { connection, _permit: permit });
            }
            loop {
                match self.servers.connect().await {
                    Ok(connection) => return Ok(Lent { connection, _permit: permit }),
                    Err(error) if passes(&error) => last = Some(error),
                    Err(error) => return Err(error),
                }
                sleep(PAUSE).await;
            }
        });
        taken.await.unwrap_or_else(|_| Err(last.unwrap_or(sqlx::Error::PoolTimedOut)))
    }

    /// Whether the servers have turned to another history since [`Connections::follow`] was last called, as far as connections have shown.
    pub fn has_turned(&self) -> bool {
        self.servers.turns() > self.turn.load(Ordering::Acquire)
    }

    /// Everything that was learnt before is forgotten: connections may be used again.
    pub fn follow(&self) {
        self.turn.store(self.servers.turns(), Ordering::Release);
    }

    /// A connection that leads to another history than what this worker knows is from is of no use yet.
    fn check(&self, connection: &Connection) -> Result<(), sqlx::Error> {
        if connection.turn == self.turn.load(Ordering::Acquire) {
            return Ok(());
        }
        self.turned.notify_one();
        Err(sqlx::Error::Io(io::Error::other("the database has another history: forgetting what was read before")))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a server that cannot be connected to now may be there in a moment: it starts, stops, or has no connection left.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("57P03" | "53300")),
        _ => false,
    }
}

/// A connection in use; closed when dropped.
pub struct Lent {
    connection: Connection,
    _permit: OwnedSemaphorePermit,
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// A connection that one task keeps.
pub struct Session {
    connections: Arc<Connections>,
    lent: Option<Lent>,
    /// Nothing is under way on it: no transaction that was given up and not ended yet.
    is_clean: bool,
}

impl Session {
    /// Connects when first used.
    pub fn new(connections: Arc<Connections>) -> Self {
        Self { connections, lent: None, is_clean: false }
    }

    /// Runs one piece of work. After an error that leaves a connection useless it is not used again.
    pub async fn run<T>(&mut self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        // Given up before another is asked for: it holds a place.
        let kept =
            self.lent.take().filter(|lent| lent.connection.place.is_current() && lent.connection.turn == self.connections.servers.turns());
        let mut lent = match kept {
            Some(lent) => lent,
            None => self.connections.take().await?,
        };
        self.connections.check(&lent.connection)?;
        let result = match timeout(PATIENCE, work(&mut lent)).await {
            Ok(result) => result,
            Err(_) => Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in 15 s"))),
        };
        self.is_clean = result.is_ok();
        if !result.as_ref().is_err_and(is_useless_after) {
            self.lent = Some(lent);
        }
        result
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take().filter(|_| self.is_clean) {
            self.connections.idle().push(lent.connection);
        }
    }
}
