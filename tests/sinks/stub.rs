//! What the stubs of services that speak HTTP have in common: they answer as a script says, and keep what they were asked.

use crate::http::{Message, Wire};
use crate::system::free_port;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Status, further header lines (each ended by CRLF), and body.
pub type Reply = (u16, String, String);

/// See the module's documentation. Gone when dropped.
pub struct Stub {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Message>>>,
    _serving: JoinSet<()>,
}

impl Stub {
    /// `script` is told the request and how many came before.
    pub async fn start(script: impl Fn(&Message, usize) -> Reply + Send + Sync + 'static) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listener = TcpListener::bind(address).await.unwrap();
        let asked: Arc<Mutex<Vec<Message>>> = Arc::default();
        let (ledger, script) = (Arc::clone(&asked), Arc::new(script));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (ledger, script) = (Arc::clone(&ledger), Arc::clone(&script));
                connections.spawn(async move {
                    let mut wire = Wire::new(stream);
                    while let Some(request) = wire.receive().await {
                        let before = ledger.lock().unwrap().len();
                        let (status, headers, body) = script(&request, before);
                        ledger.lock().unwrap().push(request);
                        let answer = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
                        wire.send(answer.as_bytes()).await.ok();
                    }
                });
            }
        });
        Self { address, asked, _serving: serving }
    }
}
