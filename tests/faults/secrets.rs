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
    keys: &'static str,
    ingest: Ingest,
    ops: SocketAddr,
    config: PathBuf,
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn write(path: &Path, [listen, ops]: [SocketAddr; 2], secrets: &str) {
    write_with(path, [listen, ops], "", secrets);
}

/// `keys` are further lines of `[ingest]`.
fn write_with(path: &Path, [listen, ops]: [SocketAddr; 2], keys: &str, secrets: &str) {
    let source = format!("[[source]]\nname = \"mindtickle\"\nprofile = \"mindtickle\"\nsecrets = {secrets}\n");
    std::fs::write(path, format!("[ingest]\nlisten = \"{listen}\"\nops_listen = \"{ops}\"\n{keys}\n{source}")).expect("a config");
}

impl Stage {
    async fn set(name: &str, secrets: &str) -> Self {
        Self::with(name, "", secrets).await
    }

    async fn with(name: &str, keys: &'static str, secrets: &str) -> Self {
        let system = System::new(name).await;
        system.use_roles().await;
        let (listen, ops, config) = (address(), address(), system.file("toml"));
        write_with(&config, [listen, ops], keys, secrets);
        let ingest = system.ingest_at(listen, &config).await;
        Self { system, keys, ingest, ops, config }
    }

    fn reload(&self, secrets: &str) {
        write_with(&self.config, [self.ingest.address, self.ops], self.keys, secrets);
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

#[tokio::test(flavor = "multi_thread")]
async fn requests_refused_in_a_botched_rotation_are_kept_within_their_bounds_and_let_in_afterwards() {
    let stage = Stage::with("botched", "keep_unverified = { rows = 6, age = \"1h\" }", "[\"old\"]").await;
    let kept = async || stage.system.value::<i64>("select count(*) from sluice.unverified").await;
    // The provider has the new secret already; it sends one of them again, and somebody forges one.
    for (id, secret) in [("a", "new"), ("b", "new"), ("a", "new"), ("forged", "guess"), ("c", "new"), ("d", "new")] {
        assert_eq!(stage.status(id, secret).await, 403);
    }
    eventually("they are kept", async || kept().await == 6).await;
    assert_eq!(stage.status("beyond", "new").await, 403);
    eventually("what does not fit is counted", async || {
        stage.metrics().await.contains("sluice_ingest_unverified_total{outcome=\"dropped\"} 1")
    })
    .await;

    let reverify = async |args: &[&str]| {
        let output = stage.system.run_with(Some(&stage.config), &[&["reverify"], args].concat()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    stage.reload("[\"new\", \"old\"]");
    eventually("the new secret counts", async || stage.status("c", "new").await == 200).await;
    assert_eq!(reverify(&["--dry-run"]).await, "5 would be let in; 1 do not verify\n");
    let expected = "3 let in, 2 were stored already, 0 quarantined as conflicts; 1 do not verify\n";
    assert_eq!(reverify(&[]).await, expected);
    assert_eq!(kept().await, 1, "the forged one stays until its time is over");
    let stored =
        "select string_agg(e.event_id, ' ' order by e.event_id) from sluice.events e join sluice.payloads p on p.event_seq = e.seq";
    assert_eq!(stage.system.value::<String>(stored).await, "a b c d");
    assert_eq!(stage.system.value::<i64>("select rows from sluice.audit where what = 'requests let in'").await, 5);
    // Let in once, they are not let in again.
    assert_eq!(reverify(&["--json"]).await.matches("\"left\": 1").count() + reverify(&["--json"]).await.matches("\"left\":1").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_while_ingest_starts_does_not_end_it() {
    let system = System::new("reload_at_start").await;
    // A database that takes the connection and says nothing: the start waits for it.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    system.detour(mute.local_addr().unwrap());
    let (listen, config) = (address(), system.file("toml"));
    write(&config, [listen, address()], "[\"old\"]");
    let mut ingest = system.ingest_process(&config);
    let _taken = mute.accept().await.unwrap();
    ingest.signal(Signal::SIGHUP);
    eventually("ingest listens", async || tokio::net::TcpStream::connect(listen).await.is_ok()).await;
    assert!(ingest.is_running());
}
