//! Sinks of the tests' own: real HTTP servers that do as a script says, and keep a ledger of what they were asked and answered.

use crate::http::{Message, Wire};
use crate::system::free_port;
use sluice::clock;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What a script is told of a try.
pub struct Try<'a> {
    pub event_id: &'a str,
    /// Which try of this event it is at this sink: 1 is the first.
    pub of_event: usize,
    /// Which try of all: 1 is the first.
    pub of_all: usize,
}

/// What the sink does.
pub enum Reply {
    Status(u16),
    /// With further header lines, each ended by CRLF.
    With(u16, &'static str),
    /// With this as its body.
    Saying(u16, &'static str),
    /// Once the gate lets it through.
    After(Gate, u16),
}

/// Holds requests until it is opened.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets everything through, what is held and what comes later.
    pub fn open(&self) {
        // Closing a semaphore wakes all that wait for it.
        self.0.close();
    }

    async fn pass(&self) {
        // It never has a permit, so this ends only when it is closed.
        self.0.acquire().await.err();
    }
}

/// One try, as the sink saw it.
#[derive(Debug, Clone)]
pub struct Receipt {
    pub event_id: String,
    pub came_at: Instant,
    /// When its answer was on its way, and which; `None`: not yet, or never.
    pub answered: Option<(Instant, u16)>,
    pub request: Message,
}

impl Receipt {
    pub fn is_success(&self) -> bool {
        self.answered.is_some_and(|(_, status)| status == 200)
    }
}

type Script = dyn Fn(&Try) -> Reply + Send + Sync;

#[derive(Default)]
struct Ledger {
    receipts: Vec<Receipt>,
    tries: HashMap<String, usize>,
}

struct State {
    script: Mutex<Arc<Script>>,
    ledger: Mutex<Ledger>,
}

/// See the module's documentation.
pub struct Sink {
    pub address: SocketAddr,
    state: Arc<State>,
    /// What serves it; empty while it is down.
    serving: JoinSet<()>,
}

impl Sink {
    /// One that is up and does as the script says.
    pub async fn start(script: impl Fn(&Try) -> Reply + Send + Sync + 'static) -> Self {
        let mut sink = Self::down(script);
        sink.up().await;
        sink
    }

    /// One that answers every try with this status.
    pub async fn answering(status: u16) -> Self {
        Self::start(move |_| Reply::Status(status)).await
    }

    /// One that refuses every connection until it is [up](Sink::up).
    pub fn down(script: impl Fn(&Try) -> Reply + Send + Sync + 'static) -> Self {
        let state = State { script: Mutex::new(Arc::new(script)), ledger: Mutex::default() };
        Self { address: SocketAddr::from(([127, 0, 0, 1], free_port())), state: Arc::new(state), serving: JoinSet::new() }
    }

    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is still free");
        let state = Arc::clone(&self.state);
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                connections.spawn(serve(stream, Arc::clone(&state)));
            }
        });
    }

    /// Closes the port and breaks off every connection.
    pub async fn go_down(&mut self) {
        self.serving.shutdown().await;
    }

    /// From now on does as this script says.
    pub fn script(&self, script: impl Fn(&Try) -> Reply + Send + Sync + 'static) {
        *self.state.script.lock().unwrap() = Arc::new(script);
    }

    /// The lines of a config that name this sink. `keys` are further lines.
    pub fn config(&self, name: &str, keys: &str) -> String {
        let url = format!("http://{}/hook", self.address);
        format!("[[sink]]\nname = \"{name}\"\nkind = \"http\"\nurl = \"{url}\"\nallow = [\"127.0.0.0/8\"]\n{keys}\n\n")
    }

    /// All tries so far, in the order in which they came.
    pub fn ledger(&self) -> Vec<Receipt> {
        self.state.ledger.lock().unwrap().receipts.clone()
    }

    /// Tries so far.
    pub fn tries(&self) -> usize {
        self.state.ledger.lock().unwrap().receipts.len()
    }

    /// Tries of one event so far.
    pub fn tries_of(&self, event_id: &str) -> usize {
        self.state.ledger.lock().unwrap().tries.get(event_id).copied().unwrap_or_default()
    }

    /// How often each event got through.
    pub fn successes(&self) -> HashMap<String, usize> {
        let mut successes = HashMap::new();
        for receipt in self.state.ledger.lock().unwrap().receipts.iter().filter(|receipt| receipt.is_success()) {
            *successes.entry(receipt.event_id.clone()).or_default() += 1;
        }
        successes
    }

    /// Asserts that `count` events got through, each exactly once.
    pub fn assert_each_once(&self, count: usize) {
        let successes = self.successes();
        let twice: Vec<_> = successes.iter().filter(|(_, times)| **times != 1).take(10).collect();
        assert!(twice.is_empty(), "came through more than once, for example: {twice:?}");
        assert_eq!(successes.len(), count, "events that came through");
    }

    /// Asserts that every user's events came in order: no event was tried before all earlier ones had got through.
    pub fn assert_in_order(&self) {
        let mut next: HashMap<String, u64> = HashMap::new();
        for (line, receipt) in self.ledger().iter().enumerate() {
            let (user, n) = crate::client::Event::parse(&receipt.event_id);
            let next = next.entry(user.to_owned()).or_default();
            assert!(n <= *next, "line {line}: {} was tried before {user}:{next} had got through", receipt.event_id);
            if n == *next && receipt.is_success() {
                *next += 1;
            }
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let mut wire = Wire::new(stream);
    while let Some(request) = wire.receive().await {
        let event_id = request.header("x-event-id").expect("every try names its event").to_owned();
        let (line, of_event) = {
            let mut ledger = state.ledger.lock().unwrap();
            let tries = ledger.tries.entry(event_id.clone()).or_default();
            *tries += 1;
            let of_event = *tries;
            ledger.receipts.push(Receipt { event_id: event_id.clone(), came_at: clock::instant(), answered: None, request });
            (ledger.receipts.len() - 1, of_event)
        };
        let script = Arc::clone(&*state.script.lock().unwrap());
        let (status, headers, body) = match script(&Try { event_id: &event_id, of_event, of_all: line + 1 }) {
            Reply::Status(status) => (status, "", "ok"),
            Reply::Saying(status, body) => (status, "", body),
            Reply::With(status, headers) => (status, headers, "ok"),
            Reply::After(gate, status) => {
                gate.pass().await;
                (status, "", "ok")
            }
        };
        // Noted before it is sent, so that what the worker knows is in the ledger.
        state.ledger.lock().unwrap().receipts[line].answered = Some((clock::instant(), status));
        let answer = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
        if wire.send(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
