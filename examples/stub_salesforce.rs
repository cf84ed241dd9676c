//! Serves the tests' stub of a Salesforce org, to try `recipes/crm-salesforce.toml` without one:
//!
//!     cargo run --example stub_salesforce -- 127.0.0.1:8400
//!
//! It prints its records whenever one was written. Ctrl-C ends it.
#![expect(dead_code, reason = "the tests use more of their stub")]

#[path = "../tests/support/http.rs"]
mod http;
#[path = "../tests/sinks/stub_salesforce.rs"]
mod stub;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use stub::{Org, Stub};

#[tokio::main]
async fn main() -> ExitCode {
    let address = std::env::args().nth(1).and_then(|address| address.parse().ok());
    let Some(address) = address else {
        eprintln!("say where to listen, such as 127.0.0.1:8400");
        return ExitCode::from(2);
    };
    let stub = Stub::start(address, Arc::new(Org::default())).await;
    eprintln!("a stub of Salesforce at http://{}: client {}, secret {}", stub.address, stub::CLIENT_ID, stub::CLIENT_SECRET);
    let mut shown = 0;
    loop {
        let writes = stub.state().writes.values().sum();
        if writes != shown {
            shown = writes;
            let records = stub.state().records.clone();
            println!("{}", serde_json::json!(records));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
