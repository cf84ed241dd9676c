//! Sluice: a durable webhook inbox.
//!
//! Signed events come in over HTTP ([`ingest`]), are committed to Postgres before they are acknowledged ([`store`]), and
//! leave to every downstream [`sink`] with that sink's own retries ([`worker`]). The two processes meet only in Postgres.
//!
//! Pure, at the bottom: [`event`], [`delivery`], [`signature`], [`backoff`], [`profile`], [`learning`]. docs/ARCHITECTURE.md is the map.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod dev;
pub mod doctor;
pub mod event;
mod failpoint;
pub mod ingest;
pub mod learning;
pub mod mapping;
pub mod ops;
pub mod profile;
pub mod provider;
pub mod server;
pub mod shutdown;
pub mod signature;
pub mod sink;
pub mod store;
pub mod telemetry;
pub mod template;
pub mod worker;
