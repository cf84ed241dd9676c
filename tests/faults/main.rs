//! The fault battery: whatever dies, freezes, fills up or is cut off, nothing that was acknowledged is lost.
#![expect(dead_code, reason = "the support files are shared: each program uses a part of them")]

mod addresses;
mod checker;
#[path = "../support/client.rs"]
mod client;
mod controls;
mod database_lost;
mod exhaustion;
#[path = "../support/http.rs"]
mod http;
#[cfg(feature = "failpoints")]
mod killed_between;
mod people;
mod inputs;
#[path = "../support/private.rs"]
mod private;
mod proxy;
mod secrets;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/sink.rs"]
mod sink;
mod storm;
#[path = "../support/system.rs"]
mod system;
