//! Signatures after the Standard Webhooks specification (standardwebhooks.com), version 1, symmetric. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Signs with one secret.
pub struct Signer {
    /// The key is mixed in once, and every signature starts from a copy of this state.
    keyed: Hmac<Sha256>,
}

impl Signer {
    /// `secret` is the key itself: what follows `whsec_`, decoded.
    pub fn new(secret: &[u8]) -> Self {
        Self { keyed: Hmac::new_from_slice(secret).expect("HMAC takes a key of any length") }
    }

    /// The value of `webhook-signature`, for these values of `webhook-id` and `webhook-timestamp`.
    pub fn sign(&self, id: &str, timestamp: &str, payload: &[u8]) -> String {
        let mut mac = self.keyed.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", payload] {
            mac.update(part);
        }
        let mut signature = String::from("v1,");
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut signature);
        signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specifications_own_libraries() {
        // From the tests of the reference libraries (standard-webhooks/standard-webhooks, e.g. libraries/rust/src/lib.rs).
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = Signer::new(&secret).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
