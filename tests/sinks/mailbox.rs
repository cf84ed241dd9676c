//! aiosmtpd, a mail server, with the handler of mailbox.py.

use crate::peers::{self, Peer};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;
use tokio::process::Command;

/// The mail server, which keeps its mails in a file.
pub struct Mailbox {
    peer: Option<Peer>,
    pub folder: TempDir,
    tls: &'static str,
}

impl Mailbox {
    /// Without encryption.
    pub async fn start() -> Option<Self> {
        Self::start_with("").await
    }

    /// `tls`: nothing, `starttls` or `implicit`; then its certificate is for `localhost`, by an authority in `ca.pem`.
    pub async fn start_with(tls: &'static str) -> Option<Self> {
        let python = peers::program("smtp", "bin/python")?;
        let folder = tempfile::tempdir().unwrap();
        if !tls.is_empty() {
            certify(folder.path());
        }
        let peer = Peer::start(|port| Self::command(&python, folder.path(), port, tls)).await;
        Some(Self { peer: Some(peer), folder, tls })
    }

    fn command(python: &Path, folder: &Path, port: u16, tls: &str) -> Command {
        let mut command = Command::new(python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sinks/mailbox.py")).arg(folder).arg(port.to_string());
        if !tls.is_empty() {
            command.arg(tls);
        }
        command
    }

    pub fn address(&self) -> SocketAddr {
        self.peer.as_ref().expect("it runs").address
    }

    pub async fn restart(&mut self) {
        let address = self.peer.take().expect("it runs").kill().await;
        let python = peers::program("smtp", "bin/python").expect("it was there");
        self.peer = Some(Peer::start_at(address, |port| Self::command(&python, self.folder.path(), port, self.tls)).await);
    }

    /// All mails, in the order in which they came.
    pub fn mails(&self) -> Vec<Value> {
        let lines = std::fs::read_to_string(self.folder.path().join("mails.ndjson")).unwrap_or_default();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// An authority and a certificate of its for `localhost`.
fn certify(folder: &Path) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    std::fs::write(folder.join("ca.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("certificate.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}
