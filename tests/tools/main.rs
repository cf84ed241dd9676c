//! The tools of an operator, as real processes: the provider's API, the watchdog of its webhooks, and the doctor.
#![expect(dead_code, reason = "the support files are shared: each program uses a part of them")]

#[path = "../support/client.rs"]
mod client;
mod doctor;
#[path = "../support/http.rs"]
mod http;
mod mindtickle;
#[path = "../support/private.rs"]
mod private;
#[path = "../support/server.rs"]
mod server;
mod stub_provider_api;
#[path = "../support/system.rs"]
mod system;
mod watchdog;
