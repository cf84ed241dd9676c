//! The same over TLS. The sink trusts the system's certificates, so the tests run themselves again in a process whose
//! system trusts theirs; there, the environment also names a proxy that leads nowhere.

use crate::server::{config, delivered, fail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sluice::delivery::Blame;
use sluice::sink::http::HttpSink;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Set in the inner process: the folder with the authority's key.
const INNER: &str = "SLUICE_TEST_AUTHORITY";

/// In the outer process, makes an authority and runs the named test again where it is trusted; returns it in the inner process.
fn authority(test: &str) -> Option<Issuer<'static, KeyPair>> {
    let params = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    if let Some(folder) = std::env::var_os(INNER) {
        let key = std::fs::read_to_string(Path::new(&folder).join("key.pem")).unwrap();
        return Some(Issuer::new(params(), KeyPair::from_pem(&key).unwrap()));
    }
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.path().join("ca.pem"), params().self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let mut inner = std::process::Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", test, "--nocapture"]).env(INNER, folder.path()).env("SSL_CERT_FILE", folder.path().join("ca.pem"));
    for proxy in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        inner.env(proxy, "http://127.0.0.1:9");
    }
    let output = inner.env_remove("SSL_CERT_DIR").env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    None
}

/// Starts a TLS server with a certificate for `name`; returns its port and the protocols that its requests came by.
async fn serve(issuer: &Issuer<'static, KeyPair>, name: &str, alpn: &[&str]) -> (u16, Arc<Mutex<Vec<hyper::Version>>>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let versions = Arc::new(Mutex::new(Vec::new()));
    let seen = versions.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not like the certificate ends the handshake.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let seen = seen.clone();
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                seen.lock().unwrap().push(request.version());
                async { Ok::<_, std::convert::Infallible>(hyper::Response::new(String::from("thanks"))) }
            });
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service),
                );
            } else {
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }
    });
    (port, versions)
}

fn sink(port: u16) -> HttpSink {
    HttpSink::new(&config(&format!("https://localhost:{port}/hook/s3cret")), 4).unwrap()
}

#[tokio::test]
async fn over_tls_http_2_is_spoken_where_the_server_can_and_no_proxy_is_used() {
    let test = "tls::over_tls_http_2_is_spoken_where_the_server_can_and_no_proxy_is_used";
    let Some(issuer) = authority(test) else { return };
    for (alpn, version) in
        [(&["h2", "http/1.1"][..], hyper::Version::HTTP_2), (&["http/1.1"], hyper::Version::HTTP_11), (&[], hyper::Version::HTTP_11)]
    {
        let (port, versions) = serve(&issuer, "localhost", alpn).await;
        let sink = sink(port);
        for _ in 0..2 {
            assert_eq!(crate::server::deliver(&sink, "evt_1").await, delivered(200));
        }
        assert_eq!(*versions.lock().unwrap(), [version; 2]);
    }
}

#[tokio::test]
async fn a_certificate_with_another_name_or_of_an_unknown_authority_is_the_sinks_trouble() {
    let test = "tls::a_certificate_with_another_name_or_of_an_unknown_authority_is_the_sinks_trouble";
    let Some(issuer) = authority(test) else { return };
    let stranger = Issuer::new(CertificateParams::default(), KeyPair::generate().unwrap());
    for (issuer, name, reason) in [(&issuer, "other.example", "not valid for name \"localhost\""), (&stranger, "localhost", "certificate")]
    {
        let (port, versions) = serve(issuer, name, &["h2", "http/1.1"]).await;
        let failure = fail(&sink(port)).await;
        assert_eq!(failure.blame, Blame::Sink);
        assert!(failure.error.starts_with("TLS handshake with localhost failed: "), "{}", failure.error);
        assert!(failure.error.contains(reason), "{}", failure.error);
        assert!(versions.lock().unwrap().is_empty(), "a request was sent to a server that proved nothing");
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_the_sinks_trouble() {
    let test = "tls::a_server_that_speaks_no_tls_is_the_sinks_trouble";
    if authority(test).is_none() {
        return;
    }
    let (address, _) = crate::server::serve(|mut peer| async move {
        peer.answer("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.closed().await;
    })
    .await;
    let failure = fail(&sink(address.port())).await;
    assert_eq!(failure.blame, Blame::Sink);
    assert!(failure.error.starts_with("TLS handshake with localhost failed: "), "{}", failure.error);
}
