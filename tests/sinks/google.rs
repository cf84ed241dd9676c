//! A stub of Google Cloud Storage's XML API: no server that speaks it is to be had from a registry. It refuses what Google would refuse: a token that
//! the service account's key did not sign, and what is not put only where there is none.

use crate::http::Message;
use crate::stub::Stub;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sinks/stub_salesforce/key.pem");
const EMAIL: &str = "sluice@project.iam.gserviceaccount.com";

/// The objects of all buckets by path, which the requests percent-encode.
pub type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The JSON file of a service account's key.
pub fn service_account_key() -> String {
    let key = std::fs::read_to_string(KEY).unwrap();
    json!({ "type": "service_account", "private_key": key, "private_key_id": "k1", "client_email": EMAIL }).to_string()
}

/// Told how many requests came before; gives what to answer instead of doing as asked: status and code.
pub type Script = fn(usize) -> Option<(u16, &'static str)>;

pub async fn stub(script: Script) -> (Stub, Objects) {
    let der = PrivatePkcs8KeyDer::from_pem_file(KEY).unwrap();
    let public = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap().public_key().as_ref().to_vec();
    let objects = Objects::default();
    let bucket = Arc::clone(&objects);
    let stub = Stub::start(move |request, before| {
        let (status, code) = script(before).unwrap_or_else(|| put(request, &public, &bucket));
        let error = format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>of key s3cret</Message></Error>");
        (status, "etag: \"x\"\r\n".into(), if code.is_empty() { String::new() } else { error })
    })
    .await;
    (stub, objects)
}

fn put(request: &Message, public: &[u8], objects: &Objects) -> (u16, &'static str) {
    let path = request
        .head
        .strip_prefix("PUT ")
        .and_then(|rest| rest.split_once(' '))
        .map(|(path, _)| percent_decode_str(path).decode_utf8_lossy().into_owned());
    let Some(path) = path.filter(|_| request.header("x-goog-if-generation-match") == Some("0")) else { return (400, "InvalidArgument") };
    let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if !token.is_some_and(|token| is_signed(token, public)) {
        return (401, "AuthenticationRequired");
    }
    if !path.starts_with("/events/") {
        return (404, "NoSuchBucket");
    }
    let mut objects = objects.lock().unwrap();
    if objects.contains_key(&path) {
        return (412, "PreconditionFailed");
    }
    objects.insert(path, request.body.clone());
    (200, "")
}

/// <https://google.aip.dev/auth/4111>
fn is_signed(token: &str, public: &[u8]) -> bool {
    let Some((signed, signature)) = token.rsplit_once('.') else { return false };
    let Some((header, claims)) = signed.split_once('.') else { return false };
    let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let (Some(header), Some(claims), Ok(signature)) = (read(header), read(claims), URL_SAFE_NO_PAD.decode(signature)) else { return false };
    let verified = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(signed.as_bytes(), &signature).is_ok();
    let lasts = claims["exp"].as_i64().unwrap_or(0) - sluice::clock::now().timestamp();
    let scoped = claims["scope"].as_str().is_some_and(|scope| scope.starts_with("https://www.googleapis.com/auth/"));
    verified
        && header["alg"] == "RS256"
        && header["kid"] == "k1"
        && claims["iss"] == EMAIL
        && claims["sub"] == EMAIL
        && scoped
        && (1..=3600).contains(&lasts)
}
