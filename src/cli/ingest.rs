//! `sluice ingest`.

use super::{Context, Failure, bind, connect_at_start, shutdown};
use crate::config::{Config, Part};
use crate::ingest::{self, Keyring, Replaced};
use crate::store::durability::NotDurable;
use crate::store::migrate::SchemaError;
use crate::store::pooler::{self, NotOurs};
use crate::store::servers::Servers;
use crate::store::{durability, migrate};
use std::convert::Infallible;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives webhooks until it is told to stop.
///
/// A database that cannot be reached is no reason not to start: requests are answered 503 until it is there. One that
/// can be reached and has another schema is, and so is one that reports commits before they are on disk, and a pooler in between.
pub fn run(context: &Context) -> Result<(), Failure> {
    let config = context.config(Part::Ingest)?;
    context.run_on(config.ingest.threads, serve(context, &config))
}

async fn serve(context: &Context, config: &Config) -> Result<(), Failure> {
    // Before anything that takes time: a signal during the start must stop it softly, too.
    let shutdown = shutdown(config.ingest.drain_timeout)?;
    // And a reload must not end it.
    let hangups = signal(SignalKind::hangup()).map_err(|error| Failure::failed(format!("cannot listen for SIGHUP: {error}")))?;
    if config.sources.is_empty() {
        return Err(Failure::config("the config has no [[source]]: there is nothing to receive"));
    }
    let url = config.database_url.as_ref().ok_or_else(|| Failure::config(ingest::IngestError::NoDatabase.to_string()))?;
    let servers = Servers::parse(url.expose()).map_err(|error| Failure::config(error.to_string()))?;
    match connect_at_start(&servers, "sluice ingest").await {
        Ok(mut conn) => {
            match pooler::check(&mut conn).await {
                Ok(()) | Err(NotOurs::Database(_)) => {}
                Err(pooled) => return Err(Failure::config(pooled.to_string())),
            }
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
        Err(error) if pooler::refusal(&error).is_some() => return Err(Failure::database("cannot connect to the database", &error)),
        Err(error) => tracing::warn!(%error, "the database cannot be reached yet: requests are answered 503 until it can"),
    }
    let listener = bind(config.ingest.listen, "[ingest] listen").await?;
    let ops = match config.ingest.ops_listen {
        Some(address) => Some(bind(address, "[ingest] ops_listen").await?),
        None => None,
    };
    tracing::info!(listen = %config.ingest.listen, sources = config.sources.len(), "receiving");
    let keyring = Keyring::new(&config.sources);
    tokio::select! {
        ended = ingest::run(config, &keyring, listener, ops, shutdown) => ended.map_err(|error| Failure::failed(error.to_string())),
        never = reload(hangups, context, &keyring) => match never {},
    }
}

/// Reads the config again at each SIGHUP, for the sake of the secrets.
async fn reload(mut hangups: Signal, context: &Context, keyring: &Keyring) -> Infallible {
    loop {
        hangups.recv().await;
        match context.config(Part::Ingest) {
            Ok(config) => {
                let Replaced { changed, left_alone } = keyring.replace(&config.sources);
                tracing::info!(?changed, "SIGHUP: secrets are those of the config again; all else in it needs a restart");
                if !left_alone.is_empty() {
                    tracing::warn!(sources = ?left_alone, "sources were added or taken away: that needs a restart");
                }
            }
            Err(failure) => tracing::error!(error = failure.message, "SIGHUP: the config is wrong; the secrets stay as they are"),
        }
    }
}
