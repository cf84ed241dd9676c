//! `sluice worker`.

use super::{Context, Failure, bind, check_schema, connect_at_start, shutdown};
use crate::config::Part;
use crate::store::pooler::{self, NotOurs};
use crate::store::servers::Servers;
use crate::worker::{self, WorkerError};

/// Delivers until it is told to stop.
pub async fn run(context: &Context) -> Result<(), Failure> {
    let config = context.config(Part::Worker)?;
    // Before anything that takes time: a signal during the start must stop it softly, too.
    let shutdown = shutdown(config.worker.drain_timeout)?;
    let url = config.database_url.as_ref().ok_or_else(|| Failure::config(WorkerError::NoDatabase.to_string()))?;
    let servers = Servers::parse(url.expose()).map_err(|error| Failure::config(error.to_string()))?;
    let connected = connect_at_start(&servers, "sluice worker").await;
    let mut conn = connected.map_err(|error| Failure::database("cannot connect to the database", &error))?;
    pooler::check(&mut conn).await.map_err(|error| match error {
        NotOurs::Database(error) => Failure::database("cannot look at the session", &error),
        pooled => Failure::config(pooled.to_string()),
    })?;
    check_schema(&mut conn).await?;
    drop(conn);
    let ops = match config.worker.ops_listen {
        Some(address) => Some(bind(address, "[worker] ops_listen").await?),
        None => None,
    };
    worker::run(&config, ops, shutdown).await.map_err(|error| match error {
        WorkerError::Register(error) => Failure::database("cannot register the sinks", &error),
        WorkerError::NoSink | WorkerError::NoDatabase | WorkerError::Sink { .. } | WorkerError::Watchdog(_) => {
            Failure::config(error.to_string())
        }
        error => Failure::failed(error.to_string()),
    })
}
