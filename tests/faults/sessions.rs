//! What each connection that Sluice opens asks of the server, and that no process waits for one for ever.

use crate::client::{Client, Event, store_rounds};
use crate::sink::{Reply, Sink};
use crate::system::{System, eventually, free_port, within};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// By `application_name`, the settings of each connection, as its startup message names them.
type Seen = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// Passes connections on to `server`, and notes how each begins.
async fn watch(server: SocketAddr) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let noted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let noted = noted.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let length = client.read_u32().await.unwrap();
                let mut message = vec![0; length as usize - 4];
                client.read_exact(&mut message).await.unwrap();
                // The version, then names and values, each ended by a zero.
                let text = String::from_utf8(message[4..].to_vec()).unwrap();
                let words: Vec<&str> = text.split('\0').collect();
                let value = |name| words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].to_owned()).unwrap_or_default();
                noted.lock().unwrap().entry(value("application_name")).or_default().push(value("options"));
                server.write_u32(length).await.unwrap();
                server.write_all(&message).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_bounds_its_statements_its_locks_and_what_it_may_leave_behind() {
    let mut system = System::new("sessions").await;
    let options: sqlx::postgres::PgConnectOptions = system.url.parse().unwrap();
    let server = tokio::net::lookup_host((options.get_host(), options.get_port())).await.unwrap().next().unwrap();
    let (watched, seen) = watch(server).await;
    let (before, after) =
        system.url.rsplit_once('@').map(|(user, rest)| (user.to_owned(), rest.split_once('/').unwrap().1.to_owned())).unwrap();
    system.url = format!("{before}@{watched}/{after}?sslmode=disable");

    // Everything that makes a process talk to its database: events, failures, a takeover, questions of health.
    let sink = Sink::start(|tried| Reply::Status(if tried.of_event == 1 { 500 } else { 200 })).await;
    let config = system.config(&sink.config("lms", "retry = { initial = \"20ms\", cap = \"50ms\" }\nbreaker = { failures = 1000 }"));
    let mut killed = system.working(&config).await;
    let _worker = system.worker(&config);
    let ops = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let ingest = system.ingest_with(&format!("ops_listen = \"{ops}\"")).await;
    eventually("it is ready", async || Client::new(ops).send(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.status() == 200).await;
    store_rounds(ingest.address, 16, 5).await;
    killed.kill().await;
    system.drained(80).await;
    assert!(system.run(&["status"]).await.status.success());

    let seen = seen.lock().unwrap().clone();
    let names: BTreeSet<&str> = seen.keys().map(String::as_str).collect();
    let processes = ["sluice ingest", "sluice ingest readyz", "sluice ingest wake", "sluice worker"];
    assert_eq!(names, processes.into_iter().chain(["sluice operator"]).collect());
    for (name, connections) in &seen {
        // An operator's replay may take its time; what it leaves behind must not stay.
        let mut needed = vec!["idle_in_transaction_session_timeout", "tcp_keepalives_idle", "tcp_user_timeout"];
        if processes.contains(&name.as_str()) {
            needed.extend(["statement_timeout", "lock_timeout"]);
        }
        for (options, setting) in connections.iter().flat_map(|options| needed.iter().map(move |setting| (options, setting))) {
            assert!(options.contains(&format!("-c {setting}=")) && !options.contains(&format!("-c {setting}=0")), "{name}: {options}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_connections_and_says_nothing_keeps_no_process_from_starting_or_saying_so() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://sluice@{}/sluice", mute.local_addr().unwrap());
    let system = System::on(&url).await;
    let config = system.config(&Sink::answering(200).await.config("lms", ""));
    let output = system.run_with(Some(&config), &["worker"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(69) && said.contains("no answer within 5 s"), "{}: {said}", output.status);
    let ingest = system.ingest().await;
    within(Duration::from_secs(4), "a request is answered", async || ingest.client().post(&Event::of("u", 0)).await.status() == 503).await;
}
