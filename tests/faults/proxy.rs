//! A TCP proxy of the tests' own, between a process and Postgres: cuts connections, swallows answers, holds everything back.

use crate::system::free_port;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to what a connection's server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The next answer is dropped, and the connection with it: the client sees it end.
    Cut,
    /// It and all that follow are dropped, and the connection stays: the client sees nothing at all.
    Swallow,
}

/// A fault, and whose connections it meets: those whose client has said `says` since they began.
#[derive(Debug, Clone)]
struct Rule {
    says: &'static [u8],
    fault: Fault,
    /// Met once, it is gone.
    once: bool,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// How often a rule was met.
    met: usize,
}

/// See the module's documentation.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// True: nothing passes in either direction, and no new connection is taken. What was sent meanwhile arrives afterwards, as
    /// after a network's outage.
    held: watch::Sender<bool>,
    /// Raised to break all connections off.
    generation: watch::Sender<u64>,
    _serving: JoinSet<()>,
}

/// What a client has said is remembered up to here: its settings and the statements that it prepared.
const REMEMBERED_BYTES_MAX: usize = 64 * 1024;

impl Proxy {
    /// In front of `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let state = Arc::<Mutex<State>>::default();
        let (held, generation) = (watch::Sender::new(false), watch::Sender::new(0));
        let mut serving = JoinSet::new();
        let (its_state, its_held, its_generation) = (Arc::clone(&state), held.subscribe(), generation.subscribe());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let (state, mut held, mut generation) = (Arc::clone(&its_state), its_held.clone(), its_generation.clone());
                connections.spawn(async move {
                    generation.mark_unchanged();
                    passes(&mut held).await;
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let broken_off = async { generation.changed().await };
                    tokio::select! {
                        () = connection(client, server, state, held) => {}
                        _ = broken_off => {}
                    }
                });
            }
        });
        Self { address, state, held, generation, _serving: serving }
    }

    /// From now on, what the server answers to clients that have said `says` meets this fault.
    pub fn on(&self, says: &'static str, fault: Fault) {
        self.state.lock().unwrap().rules.push(Rule { says: says.as_bytes(), fault, once: false });
    }

    /// The same for one connection only.
    pub fn once(&self, says: &'static str, fault: Fault) {
        self.state.lock().unwrap().rules.push(Rule { says: says.as_bytes(), fault, once: true });
    }

    /// No rule any more.
    pub fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// How often an answer has met a fault.
    pub fn met(&self) -> usize {
        self.state.lock().unwrap().met
    }

    /// Holds everything back, or lets it go on.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Ends every connection that is open now.
    pub fn break_off(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

async fn passes(held: &mut watch::Receiver<bool>) {
    held.wait_for(|held| !held).await.expect("the proxy is there");
}

async fn connection(client: TcpStream, server: TcpStream, state: Arc<Mutex<State>>, held: watch::Receiver<bool>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a live socket");
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let said = Arc::<Mutex<Vec<u8>>>::default();
    tokio::select! {
        () = requests(from_client, to_server, Arc::clone(&said), held.clone()) => {}
        () = answers(from_server, to_client, said, state, held) => {}
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, said: Arc<Mutex<Vec<u8>>>, mut held: watch::Receiver<bool>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        {
            let mut said = said.lock().unwrap();
            let room = REMEMBERED_BYTES_MAX.saturating_sub(said.len()).min(length);
            said.extend_from_slice(&chunk[..room]);
        }
        passes(&mut held).await;
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    said: Arc<Mutex<Vec<u8>>>,
    state: Arc<Mutex<State>>,
    mut held: watch::Receiver<bool>,
) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        passes(&mut held).await;
        match fault(&said, &state) {
            Some(Fault::Cut) => return,
            Some(Fault::Swallow) => {
                // Whatever follows would make no sense without what is missing.
                while let Ok(1..) = from.read(&mut chunk).await {}
                return;
            }
            None if to.write_all(&chunk[..length]).await.is_err() => return,
            None => {}
        }
    }
}

/// What this answer meets.
fn fault(said: &Mutex<Vec<u8>>, state: &Mutex<State>) -> Option<Fault> {
    let (said, mut state) = (said.lock().unwrap(), state.lock().unwrap());
    let at = state.rules.iter().position(|rule| said.windows(rule.says.len()).any(|window| window == rule.says))?;
    state.met += 1;
    let rule = if state.rules[at].once { state.rules.remove(at) } else { state.rules[at].clone() };
    Some(rule.fault)
}
