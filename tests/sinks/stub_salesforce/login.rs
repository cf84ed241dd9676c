//! Assertions, as the stub's token endpoint takes them.

use super::{AUDIENCE, CLIENT_ID, USERNAME};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::Value;
use sluice::clock;

/// How far ahead an assertion may run out.
const ASSERTION_SECS_MAX: i64 = 300;

/// RFC 7523, RS256, as Salesforce has it; the error is its `error_description`. `public_key`: PKCS#1, DER.
pub fn verify(assertion: &str, public_key: &[u8]) -> Result<(), &'static str> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { return Err("invalid assertion") };
    let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let (Some(header_said), Some(said)) = (read(header), read(claims)) else { return Err("invalid assertion") };
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "invalid assertion")?;
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key);
    let signed = format!("{header}.{claims}");
    key.verify(signed.as_bytes(), &signature).map_err(|_| "invalid assertion")?;
    let lasts = said["exp"].as_i64().unwrap_or(0) - clock::now().timestamp();
    if header_said["alg"] != "RS256" || said["iss"] != CLIENT_ID {
        return Err("client identifier invalid");
    }
    if said["aud"] != AUDIENCE || said["sub"] != USERNAME {
        return Err("user hasn't approved this consumer");
    }
    if (1..=ASSERTION_SECS_MAX).contains(&lasts) { Ok(()) } else { Err("expired authorization code") }
}
