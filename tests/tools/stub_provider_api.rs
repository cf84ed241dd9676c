//! A stub of the provider's API, since no real one can be had: it keeps webhooks, and holds each request against what is described.
//! A test fails where a request is not as described, or where there are more than 4 in a second or 60 in a minute.

use crate::http::{Message, Wire};
use serde_json::{Value, json};
use sluice::clock;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub const TOKEN: &str = "t0ken-hunter2";
pub const COMPANY: &str = "acme";

/// In place of what it would answer.
#[derive(Clone)]
pub enum Instead {
    /// Status, further header lines (each ended by CRLF), body.
    Answer(u16, &'static str, String),
    /// Never answers.
    Hang,
}

/// What to do instead at request number `n`, from 1; `None`: as described.
type Script = dyn Fn(usize) -> Option<Instead> + Send;

/// A request as it came.
#[derive(Clone)]
pub struct Asked {
    pub at: Instant,
    /// See [`StubProviderApi::another_process`].
    process: usize,
    /// Method and path.
    pub what: String,
    pub body: Value,
}

struct State {
    webhooks: Vec<Value>,
    asked: Vec<Asked>,
    process: usize,
    /// What was not as described.
    faults: Vec<String>,
    script: Box<Script>,
}

/// See the module's documentation.
pub struct StubProviderApi {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

impl StubProviderApi {
    pub async fn start() -> Self {
        Self::scripted(|_| None).await
    }

    pub async fn scripted(script: impl Fn(usize) -> Option<Instead> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { webhooks: Vec::new(), asked: Vec::new(), process: 0, faults: Vec::new(), script: Box::new(script) };
        let state = Arc::new(Mutex::new(state));
        let mut serving = JoinSet::new();
        let shared = Arc::clone(&state);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("it listens");
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, _serving: serving }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on, with requests counted from 1 again.
    pub fn script(&self, script: impl Fn(usize) -> Option<Instead> + Send + 'static) {
        let mut state = self.state();
        let before = state.asked.len();
        state.script = Box::new(move |n| script(n - before));
    }

    /// From now on another process asks. Processes do not know of each other's requests, so each has the limits to itself.
    pub fn another_process(&self) {
        self.state().process += 1;
    }

    pub fn add(&self, id: &str, status: &str) {
        let webhook = json!({"webhookId": id, "url": "https://in.example/webhooks/mindtickle", "status": status, "events": ["quiz.submitted"], "companyId": COMPANY});
        self.state().webhooks.push(webhook);
    }

    pub fn suspend(&self, id: &str) {
        self.webhook(id, |webhook| webhook["status"] = json!("suspended"));
    }

    fn webhook(&self, id: &str, change: impl FnOnce(&mut Value)) {
        change(self.state().webhooks.iter_mut().find(|webhook| webhook["webhookId"] == id).expect("it is there"));
    }

    /// Of each webhook the id and this field.
    pub fn fields(&self, field: &str) -> Vec<(String, Value)> {
        let id = |webhook: &Value| webhook["webhookId"].as_str().unwrap().to_owned();
        self.state().webhooks.iter().map(|webhook| (id(webhook), webhook[field].clone())).collect()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// How many requests there were of this method.
    pub fn count(&self, method: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.what.starts_with(method)).count()
    }

    /// `[mindtickle]` of a config, with these lines more.
    pub fn config(&self, lines: &str) -> String {
        format!("[mindtickle]\napi_url = \"http://{}/base/\"\nallow = [\"127.0.0.0/8\"]\n{lines}\n", self.address)
    }
}

impl Drop for StubProviderApi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let state = self.state();
        assert!(state.faults.is_empty(), "not as described: {:?}", state.faults);
        for (count, time) in [(4, Duration::from_secs(1)), (60, Duration::from_secs(60))] {
            let mut processes = state.asked.chunk_by(|one, next| one.process == next.process);
            let crowded = processes.any(|asked| asked.windows(count + 1).any(|window| window[count].at - window[0].at < time));
            assert!(!crowded, "more than {count} requests in {time:?}");
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut wire = Wire::new(stream);
    while let Some(request) = wire.receive().await {
        let reply = {
            let mut state = state.lock().unwrap();
            state.take(&request)
        };
        match reply {
            Instead::Hang => return std::future::pending().await,
            Instead::Answer(status, headers, body) => {
                let answer = format!("HTTP/1.1 {status} Status\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
                if wire.send(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl State {
    fn take(&mut self, request: &Message) -> Instead {
        let what = request.head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        let body = if request.body.is_empty() { Value::Null } else { serde_json::from_slice(&request.body).unwrap_or(Value::Null) };
        self.asked.push(Asked { at: clock::instant(), process: self.process, what: what.clone(), body: body.clone() });
        if let Some(instead) = (self.script)(self.asked.len()) {
            return instead;
        }
        let (status, answer) = self.answer(request, &what, &body);
        if status >= 400 {
            self.faults.push(format!("{what} {body}: {answer}"));
        }
        Instead::Answer(status, "content-type: application/json\r\n", answer.to_string())
    }

    fn answer(&mut self, request: &Message, what: &str, body: &Value) -> (u16, Value) {
        let refuse = |status: u16, message: &str| (status, json!({"error": {"message": message}}));
        if request.header("authorization") != Some(format!("Bearer {TOKEN}").as_str()) {
            return refuse(401, "invalid token");
        }
        if !what.starts_with("GET ") && request.header("content-type") != Some("application/json") {
            return refuse(415, "not JSON");
        }
        let mut fields: Vec<&str> = body.as_object().map(|fields| fields.keys().map(String::as_str).collect()).unwrap_or_default();
        fields.sort_unstable();
        let are_events = |events: &Value| events.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string));
        match what.split_once(' ').unwrap() {
            ("GET", "/base/v2/webhooks") if request.body.is_empty() => (200, json!({"webhooks": self.webhooks})),
            ("POST", "/base/v2/webhooks") => {
                if fields != ["companyId", "events", "url"]
                    || body["companyId"] != COMPANY
                    || !body["url"].is_string()
                    || !are_events(&body["events"])
                {
                    return refuse(422, "url, events and companyId are needed");
                }
                let id = format!("wh_{}", self.webhooks.len() + 1);
                self.webhooks
                    .push(json!({"webhookId": id, "url": body["url"], "status": "active", "events": body["events"], "companyId": COMPANY}));
                (201, json!({"webhookId": id}))
            }
            ("PATCH", path) => {
                let id = path.strip_prefix("/base/v2/webhooks/").unwrap_or_default();
                let Some(webhook) = self.webhooks.iter_mut().find(|webhook| webhook["webhookId"] == id) else {
                    return refuse(404, "no such webhook");
                };
                match fields[..] {
                    ["status"] if body["status"] == "active" => webhook["status"] = json!("active"),
                    ["events"] if are_events(&body["events"]) => webhook["events"] = body["events"].clone(),
                    _ => return refuse(422, "status or events"),
                }
                (200, webhook.clone())
            }
            _ => refuse(404, "no such path"),
        }
    }
}
