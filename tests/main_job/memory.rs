//! What a worker holds in memory is bounded in bytes, whatever its sinks are given.

use crate::client::Event;
use crate::system::System;

/// The most that a worker may ever have had, in KiB.
const PEAK_KIB_MAX: u64 = 200 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stays_small_with_large_payloads_for_two_sinks() {
    const EVENTS: u64 = 300;
    let system = System::new("memory").await;
    let ingest = system.ingest().await;
    let posting = (0..4).map(|client| {
        let address = ingest.address;
        tokio::spawn(async move {
            let mut client_of = crate::client::Client::new(address);
            for n in 0..EVENTS / 4 {
                let data = serde_json::json!({ "userId": format!("u-{client}-{n}"), "moduleId": "m-1", "progressPct": 5, "filler": "x".repeat(1_000_000) });
                let body = serde_json::json!({ "event": "module.progress", "companyId": "acme", "data": data });
                let event = Event { id: format!("large-{client}:{n}"), body: body.to_string().into_bytes() };
                client_of.store(&event).await;
            }
        })
    });
    for posted in posting.collect::<Vec<_>>() {
        posted.await.expect("all were stored");
    }
    let file = system.file("ndjson");
    let sinks = format!(
        "[[sink]]\nname = \"file\"\nkind = \"file\"\npath = \"{}\"\n[[sink]]\nname = \"tables\"\nkind = \"projection\"\n",
        file.display()
    );
    let worker = system.working(&system.config(&sinks)).await;
    system.drained(2 * EVENTS as i64).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak_kib <= PEAK_KIB_MAX, "{peak_kib} KiB");
}
