//! Opening connections: resolve, judge every address, connect only to those that were judged.
//!
//! The check and the connection use the same list of addresses. Resolving again in between would let a name answer
//! with a public address when it is judged and with an inner one when it is connected to.

use crate::delivery::Blame;
use crate::sink::address::{AddressPolicy, Refused};
use hyper::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::Service;

/// For the name's resolution, and again for the TCP connection; shorter than the usual timeout of a try, so that its error names the stage.
const STAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// For everything up to the end of the TLS handshake, which so has at least a stage of its own.
const TLS_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one address may keep the next one waiting (RFC 8305): a broken IPv6 route must not cost a whole timeout.
const HEAD_START: Duration = Duration::from_millis(250);

type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Why no connection came about. Names the host at most: the rest of a URL may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("cannot resolve {host}: no answer within {} s", STAGE_TIMEOUT.as_secs())]
    ResolveTimeout { host: String },
    #[error("cannot resolve {host}: the name has no address")]
    NoAddress { host: String },
    #[error("may not connect to {host}: {refused}")]
    Refused { host: String, refused: Refused },
    #[error("cannot connect to {host}: {source}")]
    Connect { host: String, source: io::Error },
    #[error("cannot connect to {host}: no answer within {} s", STAGE_TIMEOUT.as_secs())]
    ConnectTimeout { host: String },
    #[error("TLS handshake with {host} failed: {reason}")]
    Tls { host: String, reason: String },
}

impl ConnectError {
    /// An address that the config does not allow is a wrong config, which buries nothing; all else is the sink's trouble.
    pub fn blame(&self) -> Blame {
        if matches!(self, Self::Refused { .. }) { Blame::Refused } else { Blame::Sink }
    }
}

/// Opens TCP connections to addresses that the policy lets pass. It knows of no proxy, whatever the environment says.
#[derive(Clone)]
pub struct TcpConnector {
    policy: Arc<AddressPolicy>,
}

impl TcpConnector {
    pub fn new(policy: AddressPolicy) -> Self {
        Self { policy: Arc::new(policy) }
    }
}

impl Service<Uri> for TcpConnector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let policy = self.policy.clone();
        Box::pin(async move { open(&policy, &uri).await.map(TokioIo::new) })
    }
}

async fn open(policy: &AddressPolicy, uri: &Uri) -> Result<TcpStream, ConnectError> {
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    open_tcp(policy, host_of(uri), port).await
}

/// A connection to a host, for whatever protocol. `host` is a name, or an address without brackets.
pub async fn open_tcp(policy: &AddressPolicy, host: String, port: u16) -> Result<TcpStream, ConnectError> {
    let resolved = timeout(STAGE_TIMEOUT, lookup_host((host.clone(), port))).await;
    let addresses = match resolved {
        Ok(Ok(addresses)) => judge(policy, addresses, &host)?,
        Ok(Err(source)) => return Err(ConnectError::Resolve { host, source }),
        Err(_) => return Err(ConnectError::ResolveTimeout { host }),
    };
    let stream = match timeout(STAGE_TIMEOUT, connect_to_first(addresses)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(ConnectError::Connect { host, source }),
        Err(_) => return Err(ConnectError::ConnectTimeout { host }),
    };
    // A request is written at once and waits for its answer: holding back its last packet could only delay it.
    stream.set_nodelay(true).map_err(|source| ConnectError::Connect { host, source })?;
    Ok(stream)
}

/// The host without the brackets of an IPv6 literal.
fn host_of(uri: &Uri) -> String {
    uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Keeps the addresses that may be reached; an error if there are none.
fn judge(policy: &AddressPolicy, addresses: impl Iterator<Item = SocketAddr>, host: &str) -> Result<Vec<SocketAddr>, ConnectError> {
    let (mut allowed, mut refused) = (Vec::new(), None);
    for address in addresses {
        match policy.check(address.ip()) {
            Ok(()) => allowed.push(address),
            Err(reason) => refused = refused.or(Some(reason)),
        }
    }
    let host = || host.to_owned();
    match refused {
        _ if !allowed.is_empty() => Ok(allowed),
        Some(refused) => Err(ConnectError::Refused { host: host(), refused }),
        None => Err(ConnectError::NoAddress { host: host() }),
    }
}

/// Connects to whichever address answers first, each a head start ahead of the next. Dropping it abandons all of them.
async fn connect_to_first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut addresses = addresses.into_iter();
    let mut tries = JoinSet::new();
    let mut last_error = None;
    loop {
        if let Some(address) = addresses.next() {
            tries.spawn(TcpStream::connect(address));
        }
        let ended = if addresses.len() == 0 {
            tries.join_next().await
        } else {
            match timeout(HEAD_START, tries.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => last_error = Some(error),
            Some(Err(join)) => last_error = Some(io::Error::other(join)),
            None => return Err(last_error.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
        }
    }
}

/// TLS over [`TcpConnector`], with a time limit and errors of our own.
///
/// The limit matters although a try has one: a handshake that lost the race for a connection goes on in the background,
/// where no try's timeout ends it.
#[derive(Clone)]
pub struct TlsConnector {
    tls: HttpsConnector<TcpConnector>,
}

impl TlsConnector {
    /// Trusts the system's certificates; speaks HTTP/2 where the server does, else HTTP/1.1.
    pub fn new(tcp: TcpConnector) -> io::Result<Self> {
        let builder = hyper_rustls::HttpsConnectorBuilder::new().with_native_roots()?;
        Ok(Self { tls: builder.https_only().enable_all_versions().wrap_connector(tcp) })
    }
}

impl Service<Uri> for TlsConnector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = host_of(&uri);
        let connecting = self.tls.call(uri);
        Box::pin(async move {
            match timeout(TLS_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => {
                    Err(error.downcast().map_or_else(|other| ConnectError::Tls { host, reason: other.to_string() }, |known| *known))
                }
                Err(_) => Err(ConnectError::Tls { host, reason: "it did not end in time".into() }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_addresses_that_pass_are_connected_to() {
        let policy = AddressPolicy::default();
        let addresses = |list: &[&str]| list.iter().map(|address| address.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let judged = judge(&policy, addresses(&["10.0.0.1:80", "93.184.216.34:80", "[::1]:80"]).into_iter(), "mixed.example");
        assert_eq!(judged.unwrap(), addresses(&["93.184.216.34:80"]));
        let error = judge(&policy, addresses(&["10.0.0.1:80"]).into_iter(), "inner.example").unwrap_err();
        assert_eq!(error.blame(), Blame::Refused);
        let error = judge(&policy, std::iter::empty(), "empty.example").unwrap_err();
        assert_eq!(error.blame(), Blame::Sink);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_gives_way_to_the_next() {
        let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect_to_first(vec![refusing, listening.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listening.local_addr().unwrap());
        let error = connect_to_first(vec![refusing]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
