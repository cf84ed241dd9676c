//! Every kind of sink against server software that others wrote, from a signed event to the peer's own state. Where no such
//! server exists, the double says *stub* in its name and refuses what the real service would refuse.
#![expect(dead_code, reason = "the support files are shared: each program uses a part of them")]

mod archive;
mod azure;
#[path = "../support/client.rs"]
mod client;
mod clouds;
mod email;
mod google;
#[path = "../support/http.rs"]
mod http;
mod mailbox;
mod messages;
#[path = "../support/peers.rs"]
mod peers;
mod plain;
#[path = "../support/private.rs"]
mod private;
mod projection;
#[path = "../faults/proxy.rs"]
mod proxy;
mod recipes;
mod s3;
mod salesforce;
mod scim;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/sink.rs"]
mod sink;
mod stub;
#[path = "../support/system.rs"]
mod system;
mod xapi;
