//! Serves a router over HTTP/1.1, with a limit on everything: connections, the time for a request's head, the time to stop.

mod patience;

use crate::shutdown::Shutdown;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use patience::Patience;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tower::Service;

/// What a server grants.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once; further ones wait in the listen queue.
    pub connections_max: usize,
    /// For the whole head of a request. Also how long a connection is kept on which nothing moves: an idle one, or one whose client
    /// does not read its answers.
    pub header_timeout: Duration,
    /// For requests under way, once the shutdown has begun.
    pub drain_timeout: Duration,
}

/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long to wait after a failed accept: out of descriptors, it fails again until some connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a refused client may go on sending, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Serves until the shutdown begins, then lets the requests under way finish, for `drain_timeout` at most.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: &Shutdown) {
    let connections = shutdown.part();
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let open = metrics::gauge!("sluice_open_connections", "listener" => address(&listener));
    while let Some((stream, slot)) = accept(&listener, &slots, shutdown).await {
        let connection =
            Connection { stream, router: router.clone(), header_timeout: limits.header_timeout, shutdown: connections.clone() };
        let open = open.clone();
        open.increment(1.0);
        connections.spawn(Counted { open, _slot: slot }.over(connection.run()));
    }
    // Closed before the drain, so that new clients go elsewhere at once.
    drop(listener);
    if !connections.finish(limits.drain_timeout).await {
        tracing::warn!("dropped requests that were still under way at the end of the drain");
    }
}

/// Raises this process's limit of open files as far as the system allows: each connection is one, and the usual default is 1,024.
pub fn raise_open_files_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Waits for a free slot, then for a client; `None` when the shutdown begins.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>, shutdown: &Shutdown) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let next = async {
        let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, slot),
                // The client went away while it waited: nothing is wrong here.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; if this lasts, raise the limit of open files");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        accepted = next => Some(accepted),
        () = shutdown.begun() => None,
    }
}

/// For the metric's label.
fn address(listener: &TcpListener) -> String {
    listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
}

/// Gives back the slot and the gauge's count when the connection ends, however it ends.
struct Counted {
    open: metrics::Gauge,
    _slot: OwnedSemaphorePermit,
}

impl Counted {
    async fn over(self, connection: impl Future<Output = ()>) {
        connection.await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

struct Connection {
    stream: TcpStream,
    router: Router,
    header_timeout: Duration,
    shutdown: Shutdown,
}

impl Connection {
    async fn run(self) {
        let Self { stream, router, header_timeout, shutdown } = self;
        // Answers are small and complete: nothing is gained by waiting for more to send. It fails only on a dead socket.
        let _ = stream.set_nodelay(true);
        let refused = Arc::new(AtomicBool::new(false));
        let service = service_fn(|request| answer(router.clone(), request, Arc::clone(&refused)));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            // A client that is done sending may close its half and still read its answer.
            .half_close(true)
            .serve_connection(TokioIo::new(Patience::new(stream, header_timeout)), service);
        let mut begun = std::pin::pin!(shutdown.begun());
        let mut stopping = false;
        let ended = std::future::poll_fn(|cx| {
            let ended = connection.poll_without_shutdown(cx);
            if ended.is_pending() && !stopping && begun.as_mut().poll(cx).is_ready() {
                stopping = true;
                // Closes an idle connection at once, and a busy one after its answer.
                Pin::new(&mut connection).graceful_shutdown();
                return connection.poll_without_shutdown(cx);
            }
            ended
        })
        .await;
        if ended.is_ok() {
            close(connection.into_parts().io.into_inner().into_inner(), refused.load(Ordering::Relaxed)).await;
        }
    }
}

/// Calls the router, and notes whether it turned the request away, perhaps before its body was read.
fn answer(
    mut router: Router,
    request: Request<Incoming>,
    refused: Arc<AtomicBool>,
) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> {
    Box::pin(async move {
        let response = router.call(request).await?;
        // A client that timed out has nothing on its way: it needs no patience.
        let is_refused = response.status().is_client_error() && response.status() != StatusCode::REQUEST_TIMEOUT;
        refused.store(is_refused, Ordering::Relaxed);
        Ok(response)
    })
}

/// Ends a connection. Where the client may still be sending, what it sends is read and thrown away for a moment: closing a
/// socket that holds unread bytes resets it, and the client would lose the answer.
async fn close(mut stream: TcpStream, linger: bool) {
    if stream.shutdown().await.is_err() || !linger {
        return;
    }
    let discard = async {
        let mut buffer = vec![0; 16 * 1024];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    // Either way the socket is closed now.
    let _ = timeout(LINGER, discard).await;
}
