//! Takes events in: HTTP → `door` (verified) → `queue` → `committer` (one statement a batch) → answer. One file each, in this order.
//!
//! It knows no sink: what is owed to whom follows from the log and from `sluice.subscriptions`.

mod answers;
mod committer;
mod database;
mod door;
mod health;
mod keeper;
mod keyring;
mod metrics;
mod queue;
mod recent;
mod refusals;
pub mod reverify;
mod tally;
mod verify;
mod wake;

use crate::config::{Config, Ingest, Source};
use crate::server::{self, Limits};
use crate::shutdown::Shutdown;
use crate::store::ping::Ping;
use crate::store::servers::{Servers, UrlError};
use crate::{clock, ops, store, telemetry};
use answers::Answer;
use axum::Router;
use axum::routing::post;
use committer::Committer;
use database::Database;
use door::{Door, receive, unverified_room};
use health::{Commits, Health};
use keeper::Keeper;
pub use keyring::{Keyring, Replaced};
use metrics::{CommitMetrics, SourceMetrics};
use queue::{Queues, Room};
use recent::Recent;
use refusals::Refusals;
use std::sync::{Arc, Mutex};
use tally::Tally;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use verify::SignedHeaders;
use wake::Wake;

/// Why ingest could not run, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("no database is configured: set DATABASE_URL, or database_url in the config")]
    NoDatabase,
    #[error(transparent)]
    DatabaseUrl(#[from] UrlError),
    #[error("source {source_name}: {header:?} is not a header name; correct its profile")]
    HeaderName { source_name: Arc<str>, header: String },
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("a committer ended unexpectedly, which is a bug; restart, and report what the log says before this")]
    Committer,
}

/// Receives webhooks on `listener` until the shutdown begins; then finishes what is under way, for `drain_timeout` at most.
///
/// `/livez`, `/readyz` and `/metrics` are served on `ops`, where given. The database need not be there yet, nor stay: without it
/// requests are answered 503. `keyring` holds the sources' secrets, and may be given others meanwhile.
pub async fn run(
    config: &Config,
    keyring: &Keyring,
    listener: TcpListener,
    ops: Option<TcpListener>,
    shutdown: Shutdown,
) -> Result<(), IngestError> {
    server::raise_open_files_limit();
    let ingest = &config.ingest;
    let servers = Servers::parse(config.database_url.as_ref().ok_or(IngestError::NoDatabase)?.expose())?;
    let commits = Arc::new(Commits::default());
    let last = shutdown.last_part();
    if let Some(ops) = ops {
        let ping = Ping::new(servers.session("sluice ingest readyz", store::ping::SETTINGS));
        let health = Health { commits: Arc::clone(&commits), ping, shutdown: shutdown.clone() };
        last.spawn(ops::serve(ops, telemetry::metrics_handle()?, Arc::new(health), last.clone()));
    }

    let wake = Wake::default();
    let waking = servers.session("sluice ingest wake", store::wake::SETTINGS);
    let room = Arc::new(Room::new(ingest.queue_events_max, ingest.queue_bytes_max));
    let (queues, ends) = Queues::new(ingest.committers, Arc::clone(&room), ingest.commit_timeout);
    let unverified = servers.session("sluice ingest unverified", store::unverified::SETTINGS);
    let mut tally = Tally::default();
    let tallying = servers.session("sluice ingest refusals", store::refusals::SETTINGS);
    let servers = committer_servers(&servers, ingest);
    let mut committers = JoinSet::new();
    for queue in ends {
        committers.spawn(committer(ingest, servers.clone(), &wake, &commits, &room).run(queue));
    }

    let mut keeping = None;
    let keeper = match ingest.keep_unverified {
        Some(bounds) => {
            let (keeper, queue) = Keeper::new();
            keeping = Some(last.spawn(keeper::run(queue, unverified, bounds)));
            Some(keeper)
        }
        None => None,
    };
    let router = router(config, keyring, keeper.as_ref(), &mut tally, Arc::new(queues))?;
    let limits =
        Limits { connections_max: ingest.connections_max, header_timeout: ingest.header_timeout, drain_timeout: ingest.drain_timeout };
    let waking = last.spawn(wake.run(waking));
    let tallying = last.spawn(tally.run(tallying));
    tokio::select! {
        // When it returns, the last connection is gone, and with the router the committers' queues are closed.
        () = server::serve(listener, router, limits, &shutdown) => {}
        _ = committers.join_next() => return Err(IngestError::Committer),
    }
    tokio::select! {
        finished = finish(&mut committers) => finished?,
        // Nobody waits for an answer any more: what is under way may or may not be committed.
        () = shutdown.aborted() => {}
    }
    waking.abort();
    tallying.abort();
    if let Some(keeping) = keeping {
        keeping.abort();
    }
    last.begin();
    last.finish(ops::DRAIN).await;
    Ok(())
}

/// Waits until the committers have answered what was queued.
async fn finish(committers: &mut JoinSet<()>) -> Result<(), IngestError> {
    while let Some(ended) = committers.join_next().await {
        ended.map_err(|_| IngestError::Committer)?;
    }
    Ok(())
}

/// One route a source.
fn router(
    config: &Config,
    keyring: &Keyring,
    keeper: Option<&Keeper>,
    tally: &mut Tally,
    queues: Arc<Queues>,
) -> Result<Router, IngestError> {
    let mut router = Router::new();
    let unverified = Arc::new(unverified_room(config.ingest.queue_bytes_max, config.ingest.body_bytes_max));
    for source in &config.sources {
        let tally = tally.of(&source.name);
        let door = Arc::new(door(source, keyring, keeper, tally, &config.ingest, &queues, &unverified)?);
        let methods = post(receive).with_state(door).fallback(|| async { Answer::NotPost });
        router = router.route(&format!("/webhooks/{}", source.name), methods);
    }
    Ok(router.fallback(|| async { Answer::NoSource }))
}

fn door(
    source: &Source,
    keyring: &Keyring,
    keeper: Option<&Keeper>,
    tally: tally::OfSource,
    ingest: &Ingest,
    queues: &Arc<Queues>,
    unverified: &Arc<Semaphore>,
) -> Result<Door, IngestError> {
    let headers =
        SignedHeaders::new(&source.profile).map_err(|header| IngestError::HeaderName { source_name: Arc::clone(&source.name), header })?;
    Ok(Door {
        source: source.clone(),
        keys: keyring.of(source),
        keeper: keeper.cloned(),
        refusals: Mutex::new(Refusals::new(clock::instant())),
        headers,
        queues: Arc::clone(queues),
        metrics: SourceMetrics::new(&source.name),
        tally,
        body_bytes_max: ingest.body_bytes_max,
        body_timeout: ingest.body_timeout,
        unverified: Arc::clone(unverified),
    })
}

/// The server gives up a statement when its requests do, whatever it waits for.
fn committer_servers(servers: &Servers, ingest: &Ingest) -> Servers {
    let commit_timeout_ms = ingest.commit_timeout.as_millis().to_string();
    let timeouts =
        ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"].map(|name| (name, commit_timeout_ms.as_str()));
    servers.session("sluice ingest", &[store::events::SETTINGS, &timeouts].concat())
}

fn committer(ingest: &Ingest, servers: Servers, wake: &Wake, commits: &Arc<Commits>, room: &Arc<Room>) -> Committer {
    Committer {
        database: Database::new(servers, ingest.commit_timeout, ingest.allows_asynchronous_commit),
        recent: Recent::new(recent::CAPACITY / ingest.committers.max(1)),
        wake: wake.clone(),
        commits: Arc::clone(commits),
        room: Arc::clone(room),
        metrics: CommitMetrics::new(),
        batch_events_max: ingest.batch_events_max,
        commit_timeout: ingest.commit_timeout,
        failing_since: None,
    }
}
