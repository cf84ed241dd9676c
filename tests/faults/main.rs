//! The fault battery: whatever dies, freezes, fills up or is cut off, nothing that was acknowledged is lost.
#![expect(dead_code, reason = "the support files are shared: each program uses a part of them")]

mod addresses;
mod checker;
#[path = "../support/client.rs"]
mod client;
mod cluster;
mod controls;
mod database_lost;
mod day_down;
mod disk_error;
mod disk_full;
mod exhaustion;
mod failover;
#[path = "../support/http.rs"]
mod http;
mod inputs;
#[cfg(feature = "failpoints")]
mod killed_between;
mod lease;
mod people;
mod pgbouncer;
#[path = "../support/private.rs"]
mod private;
mod provider;
mod proxy;
mod secrets;
#[path = "../support/server.rs"]
mod server;
mod sessions;
#[path = "../support/sink.rs"]
mod sink;
mod standby_away;
mod storm;
#[path = "../support/system.rs"]
mod system;
mod taken_back;
mod timeline;
mod upgrade;
mod version_0_1;
