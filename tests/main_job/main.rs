//! The main job, from a signed request to the sinks' receipts: real processes, real HTTP, a real Postgres, counting sinks.
#![expect(dead_code, reason = "the support files are shared: each program uses a part of them")]

mod answers;
mod bench;
#[path = "../support/client.rs"]
mod client;
mod dead_sink;
mod fencing;
mod first_start;
#[path = "../support/http.rs"]
mod http;
mod journey;
mod lanes;
mod limits;
mod mapping;
mod memory;
mod order;
mod outage;
#[path = "../support/private.rs"]
mod private;
mod replays;
mod retention;
mod roles;
#[path = "../support/server.rs"]
mod server;
mod settling;
#[path = "../support/sink.rs"]
mod sink;
mod sources;
mod stopping;
#[path = "../support/system.rs"]
mod system;
mod takeover;
