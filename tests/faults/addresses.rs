//! Where a sink's address leads: into silence at any stage, or, by a name that changes its mind, to where it must not.

use crate::client::Event;
use crate::sink::Sink;
use crate::system::{System, eventually, free_port, holds_for};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// A port whose SYNs are dropped, because the queue behind it is full. It lasts as long as what is returned.
async fn deaf() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        waiting.push(stream);
    }
    (address, listener, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_goes_silent_while_connecting_shaking_hands_or_answering_rests_and_slows_no_other() {
    let system = System::new("silence").await;
    let healthy = Sink::answering(200).await;
    let (deaf, _listener, _waiting) = deaf().await;
    // Taken, and never spoken to.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_address = mute.local_addr().unwrap();
    let mut kept = JoinSet::new();
    kept.spawn(async move {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = mute.accept().await {
            streams.push(stream);
        }
    });
    let sink = |name: &str, url: String| {
        format!(
            "[[sink]]\nname = \"{name}\"\nkind = \"http\"\nurl = \"{url}\"\nallow = [\"127.0.0.0/8\"]\ntimeout = \"1s\"\nbreaker = {{ failures = 1 }}\n"
        )
    };
    let config = [
        healthy.config("healthy", ""),
        sink("syn", format!("http://{deaf}/hook")),
        sink("tls", format!("https://{mute_address}/hook")),
        sink("answer", format!("http://{mute_address}/hook")),
    ];
    let _worker = system.working(&system.config(&config.concat())).await;
    let ingest = system.ingest().await;
    for n in 0..20 {
        ingest.client().store(&Event::of("u-1", n)).await;
    }
    eventually("the healthy one has all", async || healthy.successes().len() == 20).await;
    let resting = "select count(*) from sluice.sinks where breaker <> 'closed' and breaker_reason like 'no answer within 1s%'";
    eventually("the others rest, and say why", async || system.value::<i64>(resting).await == 3).await;
    assert_eq!(system.value::<i64>("select count(*) from sluice.deliveries where status = 'dead'").await, 0);
}

/// An address like any of the internet's, which for a while is this machine's own: nothing that is sent to it leaves.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);

struct OwnAddress;

impl OwnAddress {
    fn take() -> Option<Self> {
        Self::ip("add").then_some(Self)
    }

    fn ip(what: &str) -> bool {
        let run = std::process::Command::new("ip").args(["address", what, &format!("{PUBLIC}/32"), "dev", "lo"]).status();
        run.is_ok_and(|status| status.success())
    }
}

impl Drop for OwnAddress {
    fn drop(&mut self) {
        Self::ip("delete");
    }
}

/// Takes connections there, and counts them.
async fn counting(address: Ipv4Addr, port: u16, serving: &mut JoinSet<()>) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind((IpAddr::V4(address), port)).await.expect("the port is free");
    let connected = Arc::new(AtomicUsize::new(0));
    let counter = connected.clone();
    serving.spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    connected
}

/// Answers questions for addresses. What it says depends on the name.
async fn name_server(asked: Arc<AtomicUsize>) -> std::io::Result<JoinSet<()>> {
    let socket = UdpSocket::bind("127.0.0.1:53").await?;
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let (mut packet, mut rebinds) = ([0; 512], 0);
        while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
            asked.fetch_add(1, Ordering::Relaxed);
            let question = &packet[12..length];
            let Some(end) = question.iter().position(|byte| *byte == 0) else { continue };
            let name = String::from_utf8_lossy(&question[1..end]).into_owned();
            let is_a = question.get(end + 1..end + 3) == Some(&[0, 1]);
            let addresses = match name.split(|c: char| !c.is_ascii_alphabetic()).next() {
                Some("silent") => continue,
                _ if !is_a => vec![],
                Some("both") => vec![PUBLIC, Ipv4Addr::LOCALHOST],
                Some("rebinding") => {
                    rebinds += 1;
                    vec![if rebinds % 2 == 1 { PUBLIC } else { Ipv4Addr::LOCALHOST }]
                }
                _ => vec![Ipv4Addr::LOCALHOST],
            };
            let mut answer = packet[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
            answer.extend(&question[..end + 5]);
            for address in addresses {
                // The question's name, an address, of the internet, for no time, of four bytes.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(address.octets());
            }
            socket.send_to(&answer, peer).await.ok();
        }
    });
    Ok(serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_between_the_check_and_the_connection_or_has_an_inner_address_among_others_leads_to_no_inner_address() {
    let system = System::new("rebinding").await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (Ok(_names), Some(_address)) = (name_server(asked.clone()).await, OwnAddress::take()) else {
        eprintln!("SKIPPED: a name server and an address of the test's own need root, port 53 and the program ip");
        return;
    };
    let (port, mut serving) = (free_port(), JoinSet::new());
    let inner = counting(Ipv4Addr::LOCALHOST, port, &mut serving).await;
    let outer = counting(PUBLIC, port, &mut serving).await;
    let sink = |name: &str, allow: &str| {
        format!(
            "[[sink]]\nname = \"{name}\"\nkind = \"http\"\nurl = \"http://{name}.test:{port}/hook\"\n{allow}timeout = \"1s\"\nbreaker = {{ failures = 1, rest = \"100ms\", cap = \"100ms\" }}\n"
        )
    };
    let config = system.config(&["rebinding", "both", "inner", "silent"].map(|name| sink(name, "")).concat());
    system.resolve_by("127.0.0.1");
    let worker = system.working(&config).await;
    let ingest = system.ingest().await;
    ingest.client().store(&Event::of("u-1", 0)).await;
    eventually("names are asked for", async || asked.load(Ordering::Relaxed) > 20).await;
    let resting = "select count(*) from sluice.sinks where breaker <> 'closed' and breaker_reason is not null";
    eventually("all sinks rest", async || system.value::<i64>(resting).await == 4).await;
    holds_for(Duration::from_secs(3), "nobody connects to the inner address", async || inner.load(Ordering::Relaxed) == 0).await;
    assert!(outer.load(Ordering::Relaxed) > 0, "the public address of the same name is");
    drop(worker);
    // The control: where it is allowed, it is connected to.
    let _worker = system.working(&system.config(&sink("inner", "allow = [\"127.0.0.0/8\"]\n"))).await;
    eventually("it is reached", async || inner.load(Ordering::Relaxed) > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_named_in_the_environment_is_not_asked() {
    let system = System::new("no_proxy").await;
    let (sink, proxy) = (Sink::answering(200).await, Sink::answering(200).await);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        system.set_env(name, &format!("http://{}", proxy.address));
    }
    let _worker = system.working(&system.config(&sink.config("lms", ""))).await;
    system.ingest().await.client().store(&Event::of("u-1", 0)).await;
    system.drained(1).await;
    assert_eq!((sink.tries(), proxy.tries()), (1, 0));
}
