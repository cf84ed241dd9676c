//! Secrets are rotated without a restart, and a rotation that was missed is noticed.

use crate::client::{Client, Event, SECRET};
use crate::system::{Ingest, System, eventually, free_port};
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Ingest with its operators' port, and the config that it reads again.
struct Stage {
    system: System,
    ingest: Ingest,
    ops: SocketAddr,
    config: PathBuf,
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn write(path: &Path, [listen, ops]: [SocketAddr; 2], secrets: &str) {
    let source = format!("[[source]]\nname = \"mindtickle\"\nprofile = \"mindtickle\"\nsecrets = {secrets}\n");
    std::fs::write(path, format!("[ingest]\nlisten = \"{listen}\"\nops_listen = \"{ops}\"\n{source}")).expect("a config");
}

impl Stage {
    async fn set(name: &str, secrets: &str) -> Self {
        let system = System::new(name).await;
        let (listen, ops, config) = (address(), address(), system.file("toml"));
        write(&config, [listen, ops], secrets);
        let ingest = system.ingest_at(listen, &config).await;
        Self { system, ingest, ops, config }
    }

    fn reload(&self, secrets: &str) {
        write(&self.config, [self.ingest.address, self.ops], secrets);
        self.ingest.process.signal(Signal::SIGHUP);
    }

    async fn status(&self, id: &str, secret: &str) -> u16 {
        let request = Event::new(id, "course.completed", "u", 1).request_signed_with(secret);
        self.ingest.client().send(&request).await.status()
    }

    async fn metrics(&self) -> String {
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        Client::new(self.ops).send(request).await.text().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_rotated_with_an_overlap_and_without_a_restart() {
    let stage = Stage::set("rotation", "[\"old\"]").await;
    assert_eq!((stage.status("a", "old").await, stage.status("b", "new").await), (200, 403));
    stage.reload("[\"new\", \"old\"]");
    eventually("both count", async || stage.status("c", "new").await == 200).await;
    assert_eq!(stage.status("d", "old").await, 200);
    stage.reload("[\"new\"]");
    eventually("the old one does not count any more", async || stage.status("e", "old").await == 403).await;
    assert_eq!(stage.status("f", "new").await, 200);
    assert!(!stage.ingest.process.log().contains("\"new\""), "no secret is logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_became_wrong_changes_no_secret_and_ends_nothing() {
    let stage = Stage::set("rotation_wrong", "[\"old\"]").await;
    for wrong in ["[\"\"]", "[\"${NOT_SET_ANYWHERE}\"]", "[", "[\"leaky\"]\nnonsense = 1"] {
        let refusals = || stage.ingest.process.log().matches("the config is wrong").count();
        let before = refusals();
        stage.reload(wrong);
        eventually("it says so", async || refusals() > before).await;
        assert_eq!(stage.status(&format!("a{before}"), "old").await, 200);
    }
    assert!(!stage.ingest.process.log().contains("leaky"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cease_to_verify_raise_a_metric_and_a_line_that_says_what_it_looks_like() {
    let stage = Stage::set("refusals", "[\"old\"]").await;
    assert_eq!(stage.status("a", "old").await, 200);
    assert!(stage.metrics().await.contains("sluice_ingest_refusals_spike{source=\"mindtickle\"} 0"));
    for n in 0..20 {
        assert_eq!(stage.status(&format!("b{n}"), "new").await, 403);
    }
    eventually("it is noticed", async || stage.metrics().await.contains("sluice_ingest_refusals_spike{source=\"mindtickle\"} 1")).await;
    eventually("the log says so", async || stage.ingest.process.log().contains("if the provider's secret was rotated")).await;
    stage.reload("[\"new\", \"old\"]");
    let mut n = 0;
    eventually("it is over", async || {
        n += 1;
        stage.status(&format!("c{n}"), "new").await;
        stage.metrics().await.contains("sluice_ingest_refusals_spike{source=\"mindtickle\"} 0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing() {
    let system = System::new("blocked_log").await;
    let listen = address();
    let config = system.file("toml");
    write(&config, [listen, address()], &format!("[\"{SECRET}\"]"));
    // Everything is logged, into a pipe that is never read: it is full soon.
    let mut command = system.command(Some(&config), &["ingest"]);
    let _child = command.env("RUST_LOG", "trace").stderr(Stdio::piped()).spawn().expect("it starts");
    eventually("ingest listens", async || tokio::net::TcpStream::connect(listen).await.is_ok()).await;
    let mut client = Client::new(listen);
    for n in 0..2000 {
        client.store(&Event::of("u-1", n)).await;
    }
}
