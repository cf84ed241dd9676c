//! Azurite, which speaks Azure Blob Storage and checks each signature.

use crate::http::Message;
use crate::peers::{self, Peer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::net::SocketAddr;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

pub const ACCOUNT: &str = "sluicetest";
/// 64 bytes, as Azure's are.
pub const KEY: &str = "c2x1aWNlLWF6dXJpdGUta2V5LWMybDFhV05sTFdGNmRYSnBkR1V0YTJWNS1zbHVpY2UtYXp1cml0ZS1rZXktMDA=";

pub struct Azurite {
    pub peer: Peer,
    folder: TempDir,
}

impl Azurite {
    /// With an empty container `events`, which anybody may read.
    pub async fn start() -> Option<Self> {
        peers::program("azurite", "node_modules/.bin/azurite-blob")?;
        let folder = tempfile::tempdir().unwrap();
        let peer = Peer::start(|port| command(&folder, port)).await;
        let azurite = Self { peer, folder };
        azurite.make_container().await;
        Some(azurite)
    }

    /// Ends it, as an operator would, and starts it again with what it has on disk.
    pub async fn restart(&mut self) {
        let folder = &self.folder;
        self.peer.restart(|port| command(folder, port)).await;
    }

    /// All blobs' names, in the order of the alphabet.
    pub async fn names(&self) -> Vec<String> {
        let (mut names, mut marker) = (Vec::new(), String::new());
        loop {
            let answer = ask(self.peer.address, "GET", &format!("/{ACCOUNT}/events?restype=container&comp=list{marker}"), "").await;
            assert_eq!(answer.status(), 200, "{}", answer.text());
            let between = |rest: &str, end: &str| rest.split_once(end).unwrap().0.to_owned();
            names.extend(answer.text().split("<Name>").skip(1).map(|rest| between(rest, "</Name>")));
            match answer.text().split_once("<NextMarker>") {
                Some((_, rest)) if !between(rest, "<").is_empty() => marker = format!("&marker={}", between(rest, "<")),
                _ => return names,
            }
        }
    }

    pub async fn get(&self, path: &str) -> Message {
        ask(self.peer.address, "GET", &format!("/{ACCOUNT}/events/{path}"), "").await
    }

    async fn make_container(&self) {
        let date = sluice::clock::now().format("%a, %d %b %Y %H:%M:%S GMT");
        let own =
            [("x-ms-blob-public-access", "container".to_owned()), ("x-ms-date", date.to_string()), ("x-ms-version", "2021-08-06".into())];
        let lines = |colon: &str, end: &str| own.iter().map(|(name, value)| format!("{name}{colon}{value}{end}")).collect::<String>();
        let signed = format!("PUT{}{}/{ACCOUNT}/{ACCOUNT}/events\nrestype:container", "\n".repeat(12), lines(":", "\n"));
        let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(KEY).unwrap()).unwrap();
        mac.update(signed.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let headers = format!("{}authorization: SharedKey {ACCOUNT}:{signature}\r\n", lines(": ", "\r\n"));
        let answer = ask(self.peer.address, "PUT", &format!("/{ACCOUNT}/events?restype=container"), &headers).await;
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
}

fn command(folder: &TempDir, port: u16) -> Command {
    let mut command = Command::new(peers::program("azurite", "node_modules/.bin/azurite-blob").expect("it was there"));
    command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
    command.arg("--location").arg(folder.path()).env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}")).stderr(Stdio::null());
    command
}

/// By HTTP/1.0, so that the body of the answer ends with the connection, and does not come in pieces.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Message {
    let request = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\n{headers}content-length: 0\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer") + 4;
    let body = answer.split_off(head_end);
    Message { head: String::from_utf8(answer).expect("heads are ASCII"), body }
}
