//! `sluice ingest`.

use super::{Context, Failure, bind, shutdown};
use crate::config::{Config, Part};
use crate::ingest;
use crate::store::durability::NotDurable;
use crate::store::migrate::SchemaError;
use crate::store::{durability, migrate, options};
use sqlx::ConnectOptions;

/// Receives webhooks until it is told to stop.
///
/// A database that cannot be reached is no reason not to start: requests are answered 503 until it is there. One that
/// can be reached and has another schema is, and so is one that reports commits before they are on disk.
pub fn run(context: &Context) -> Result<(), Failure> {
    let config = context.config(Part::Ingest)?;
    context.run_on(config.ingest.threads, serve(&config))
}

async fn serve(config: &Config) -> Result<(), Failure> {
    // Before anything that takes time: a signal during the start must stop it softly, too.
    let shutdown = shutdown(config.ingest.drain_timeout)?;
    if config.sources.is_empty() {
        return Err(Failure::config("the config has no [[source]]: there is nothing to receive"));
    }
    let url = config.database_url.as_ref().ok_or_else(|| Failure::config(ingest::IngestError::NoDatabase.to_string()))?;
    let connect = options::options(url.expose(), "sluice ingest", &[]).map_err(|error| Failure::config(error.to_string()))?;
    match connect.connect().await {
        Ok(mut conn) => {
            match migrate::check(&mut conn).await {
                Ok(()) | Err(SchemaError::Database(_)) => {}
                Err(error) => return Err(Failure::failed(error.to_string())),
            }
            match durability::check(&mut conn).await {
                Ok(()) | Err(NotDurable::Database(_)) => {}
                Err(refusal) if !config.ingest.allows_asynchronous_commit => return Err(Failure::failed(refusal.to_string())),
                Err(_) => tracing::warn!("synchronous_commit is off: an acknowledged event can be lost in a crash of the server"),
            }
        }
        Err(error) => tracing::warn!(%error, "the database cannot be reached yet: requests are answered 503 until it can"),
    }
    let listener = bind(config.ingest.listen, "[ingest] listen").await?;
    let ops = match config.ingest.ops_listen {
        Some(address) => Some(bind(address, "[ingest] ops_listen").await?),
        None => None,
    };
    tracing::info!(listen = %config.ingest.listen, sources = config.sources.len(), "receiving");
    ingest::run(config, listener, ops, shutdown).await.map_err(|error| Failure::failed(error.to_string()))
}
