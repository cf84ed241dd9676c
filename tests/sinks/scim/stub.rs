//! A stub of an IdP, for answers that no real one gives on demand.

use super::TOKEN;
use crate::http::{Message, Wire};
use crate::system::free_port;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Status, further header lines, and body.
pub type Answer = (u16, &'static str, String);
/// Answers the request with this method; it is told its path, and how many requests came before.
pub type Script = fn(&str, &str, usize) -> Answer;

/// A stub of an IdP: answers each request as the script says, and keeps what it was asked. What a real one would refuse is kept apart.
pub struct StubIdp {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Message>>>,
    pub wrong: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl StubIdp {
    pub async fn start(script: Script) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listener = TcpListener::bind(address).await.unwrap();
        let asked: Arc<Mutex<Vec<Message>>> = Arc::default();
        let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
        let ledgers = (Arc::clone(&asked), Arc::clone(&wrong));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, wrong) = ledgers.clone();
                connections.spawn(async move {
                    let mut wire = Wire::new(stream);
                    while let Some(request) = wire.receive().await {
                        if let Some(what) = objection(&request) {
                            wrong.lock().unwrap().push(format!("{what}: {}", request.head));
                        }
                        let (method, path) = method_and_path(&request);
                        let (status, headers, body) = script(method, path, asked.lock().unwrap().len());
                        asked.lock().unwrap().push(request);
                        let answer = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
                        wire.send(answer.as_bytes()).await.ok();
                    }
                });
            }
        });
        Self { address, asked, wrong, _serving: serving }
    }
}

/// Of a request.
pub fn method_and_path(request: &Message) -> (&str, &str) {
    let mut words = request.head.split(' ');
    (words.next().unwrap(), words.next().unwrap())
}

/// What a real IdP would refuse (RFC 7644).
fn objection(request: &Message) -> Option<&'static str> {
    let (method, path) = method_and_path(request);
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let schema = body["schemas"][0].as_str().unwrap_or_default();
    let has_body = matches!(method, "POST" | "PATCH");
    if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return Some("not the token");
    }
    if has_body != (request.header("content-type") == Some("application/scim+json")) {
        return Some("a content type without content, or the other way round");
    }
    match method {
        "GET" if !path.contains("?filter=") => Some("all users are asked for"),
        "POST" if path != "/v2/Users" || schema != "urn:ietf:params:scim:schemas:core:2.0:User" => Some("not a user"),
        "PATCH" if schema != "urn:ietf:params:scim:api:messages:2.0:PatchOp" => Some("not a PatchOp"),
        "PATCH" if body["Operations"].as_array().is_none_or(Vec::is_empty) => Some("nothing to patch"),
        _ => None,
    }
}
