//! The connection to a mail server, up to where SMTP can be spoken: TCP to an address that the sink may reach, and TLS around it.
//!
//! STARTTLS is our own and not the library's: the library is handed a connection that is encrypted already. So the same check of
//! addresses and the same trusted certificates hold as for every other sink, and what the server, or somebody in between, said before the
//! encryption is not taken for something that was said within it.

use super::relay::{Step, Trouble};
use super::reply::Reply;
use crate::config::{MailServer, Tls};
use crate::delivery::{Blame, Failure};
use crate::sink::OpenError;
use crate::sink::address::AddressPolicy;
use crate::sink::client::connect::{ConnectError, open_tcp};
use hyper_rustls::ConfigBuilderExt;
use lettre::transport::smtp::client::AsyncTokioStream;
use lettre::transport::smtp::extension::ClientId;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Bytes of one answer before the encryption; the longest EHLO has some hundred.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Bytes that a server may say before it is told something again. The library reads a line to its end, however far that is.
const SAID_BYTES_MAX: usize = 64 * 1024;

/// Opens connections to one mail server.
pub struct Dialler {
    server: MailServer,
    policy: AddressPolicy,
    /// `None` where nothing is encrypted.
    tls: Option<(tokio_rustls::TlsConnector, ServerName<'static>)>,
}

impl Dialler {
    /// Finds certificates to trust, where they are needed.
    pub fn new(server: MailServer, policy: AddressPolicy) -> Result<Self, OpenError> {
        let tls = match server.tls {
            Tls::None => None,
            Tls::Upgraded | Tls::Whole => {
                let config = ClientConfig::builder().with_native_roots().map_err(OpenError::Tls)?.with_no_client_auth();
                let name = ServerName::try_from(server.host.clone()).map_err(|_| OpenError::MailServer)?;
                Some((Arc::new(config).into(), name))
            }
        };
        Ok(Self { server, policy, tls })
    }

    pub fn server(&self) -> &MailServer {
        &self.server
    }

    /// A connection on which the server's greeting comes next.
    pub async fn dial(&self, hello: &ClientId) -> Result<Box<dyn AsyncTokioStream>, Failure> {
        let not_connected = |error: ConnectError| Failure {
            blame: error.blame(),
            status: None,
            error: error.to_string(),
            response: None,
            retry_after: None,
        };
        let mut stream = open_tcp(&self.policy, self.server.host.clone(), self.server.port).await.map_err(not_connected)?;
        let peer = stream.peer_addr();
        let peer = peer.map_err(|source| not_connected(ConnectError::Connect { host: self.server.host.clone(), source }))?;
        let Some((connector, name)) = &self.tls else { return Ok(Box::new(Line { greeting: b"", stream, peer, said: 0 })) };
        let greeting: &[u8] = if self.server.tls == Tls::Upgraded {
            ask_for_tls(&mut stream, hello).await?;
            b"220 \r\n"
        } else {
            b""
        };
        let handshake = connector.connect(name.clone(), stream).await;
        let stream =
            handshake.map_err(|error| not_connected(ConnectError::Tls { host: self.server.host.clone(), reason: error.to_string() }))?;
        Ok(Box::new(Line { greeting, stream, peer, said: 0 }))
    }
}

/// Greeting, EHLO and STARTTLS: after that the server waits for the handshake.
async fn ask_for_tls(stream: &mut TcpStream, hello: &ClientId) -> Result<(), Failure> {
    said(stream, Step::Greeting, 220).await?;
    write(stream, &format!("EHLO {hello}\r\n")).await.map_err(|trouble| trouble.at(Step::Hello))?;
    let offered = said(stream, Step::Hello, 250).await?;
    if !offered.text.lines().any(|line| line.trim().eq_ignore_ascii_case("starttls")) {
        let error =
            "the server does not offer STARTTLS: give its smtps:// port, if it has one, or write tls = \"none\" to do without encryption";
        return Err(Failure { blame: Blame::Refused, status: None, error: error.into(), response: None, retry_after: None });
    }
    write(stream, "STARTTLS\r\n").await.map_err(|trouble| trouble.at(Step::StartTls))?;
    said(stream, Step::StartTls, 220).await.map(drop)
}

async fn write(stream: &mut TcpStream, line: &str) -> Result<(), Trouble> {
    stream.write_all(line.as_bytes()).await.map_err(|error| Trouble::Silent(error.to_string()))
}

/// Reads an answer, which must be `wanted`.
async fn said(stream: &mut TcpStream, step: Step, wanted: u16) -> Result<Reply, Failure> {
    match answer(stream).await {
        Ok(reply) if reply.code == wanted => Ok(reply),
        Ok(reply) => Err(Trouble::Said(reply).at(step)),
        Err(trouble) => Err(trouble.at(step)),
    }
}

/// Reads one answer and no more: nothing may follow it, since nothing was asked.
async fn answer(stream: &mut TcpStream) -> Result<Reply, Trouble> {
    let mut read = Vec::new();
    loop {
        match stream.read_buf(&mut read).await {
            Ok(0) => return Err(Trouble::Silent("the server closed the connection".into())),
            Ok(_) => {}
            Err(error) => return Err(Trouble::Silent(error.to_string())),
        }
        if let Some(reply) = parse(&read)? {
            return Ok(reply);
        }
    }
}

/// The answer, once it is complete: lines of a code and a text, with a hyphen between them in all but the last.
fn parse(read: &[u8]) -> Result<Option<Reply>, Trouble> {
    let nonsense = || Trouble::Silent("the server does not speak SMTP".into());
    if read.len() > ANSWER_BYTES_MAX {
        return Err(nonsense());
    }
    if read.last() != Some(&b'\n') {
        return Ok(None);
    }
    let text = std::str::from_utf8(read).map_err(|_| nonsense())?;
    let mut reply = Reply { code: 0, text: String::new() };
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (code, rest) = line.split_at_checked(3).ok_or_else(nonsense)?;
        reply.code = code.parse().map_err(|_| nonsense())?;
        reply.text += rest.get(1..).unwrap_or_default();
        reply.text.push('\n');
        let is_last = !rest.starts_with('-');
        if is_last && lines.peek().is_some() {
            return Err(Trouble::Silent("the server said more than it was asked for before the encryption".into()));
        }
        if is_last {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

/// A connection, encrypted or not, on which nobody talks for ever. A server greets before STARTTLS and not again after it, but the library
/// begins with the greeting; so it is read back first.
#[derive(Debug)]
struct Line<S> {
    greeting: &'static [u8],
    stream: S,
    peer: SocketAddr,
    /// Bytes that came since it was written to.
    said: usize,
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug> AsyncTokioStream for Line<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            if self.said > SAID_BYTES_MAX {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the server's answer has no end")));
            }
            let before = buffer.filled().len();
            let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
            self.said += buffer.filled().len() - before;
            return polled;
        }
        let (now, later) = self.greeting.split_at(self.greeting.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.greeting = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.said = 0;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end_and_nothing_may_follow_it() {
        let parsed = |text: &str| parse(text.as_bytes()).map_err(|_| ()).map(|reply| reply.map(|reply| (reply.code, reply.text)));
        assert_eq!(parsed("220 mail.example ESMTP\r\n"), Ok(Some((220, "mail.example ESMTP\n".into()))));
        assert_eq!(parsed("250-mail.example\r\n250-STARTTLS\r\n"), Ok(None));
        assert_eq!(parsed("250-mail.example\r\n250 STAR"), Ok(None));
        assert_eq!(parsed("250-mail.example\r\n250 STARTTLS\r\n"), Ok(Some((250, "mail.example\nSTARTTLS\n".into()))));
        assert_eq!(parsed("220\r\n"), Ok(Some((220, "\n".into()))));
        assert_eq!(parsed("220 go ahead\r\n250-AUTH PLAIN\r\n"), Err(()));
        assert_eq!(parsed("HTTP/1.1 400 Bad Request\r\n"), Err(()));
        assert_eq!(parsed(&"x".repeat(ANSWER_BYTES_MAX + 1)), Err(()));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_for_ever() {
        let (mut server, client) = tokio::io::duplex(3 * SAID_BYTES_MAX);
        let mut line = Line { greeting: b"220 \r\n", stream: client, peer: ([127, 0, 0, 1], 25).into(), said: 0 };
        let mut read = vec![0; SAID_BYTES_MAX];
        // As much as is allowed, each time it is told something.
        for greeting in [6, 0] {
            server.write_all(&vec![b'x'; SAID_BYTES_MAX - greeting]).await.unwrap();
            line.read_exact(&mut read).await.unwrap();
            line.write_all(b"NOOP\r\n").await.unwrap();
        }
        server.write_all(&vec![b'x'; 3 * SAID_BYTES_MAX]).await.unwrap();
        let mut read = Vec::new();
        assert_eq!(line.read_to_end(&mut read).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(read.len() < 3 * SAID_BYTES_MAX, "all was read");
    }
}
