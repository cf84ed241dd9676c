//! All the SQL: one file a table or a purpose. Nothing else imports sqlx queries.
//!
//! Queries are checked at compile time against the schema (`.sqlx` holds what was found, so that a build needs no database).

pub mod applied;
pub mod backends;
pub mod bench;
pub mod deliveries;
pub mod doctor;
pub mod durability;
pub mod events;
pub mod health;
pub mod hints;
pub mod lanes;
pub mod log;
pub mod migrate;
pub mod outcomes;
pub mod people;
pub mod ping;
pub mod pooler;
pub mod projections;
pub mod ranges;
pub mod refusals;
pub mod replay;
pub mod roles;
pub mod servers;
pub mod sinks;
pub mod unverified;
pub mod wake;
pub mod watchdog;
