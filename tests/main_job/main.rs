//! The main job, from a signed request to the sinks' receipts: real processes, real HTTP, a real Postgres, counting sinks.

mod answers;
mod client;
mod dead_sink;
mod fencing;
mod first_start;
mod http;
mod journey;
mod lanes;
mod limits;
mod order;
mod outage;
#[path = "../private/mod.rs"]
mod private;
mod replays;
mod roles;
#[path = "../server/mod.rs"]
mod server;
mod sink;
mod stopping;
mod storm;
mod system;
mod takeover;
