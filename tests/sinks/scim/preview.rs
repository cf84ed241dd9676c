//! What `sluice route test` shows.

use super::answers::{DEPROVISION, EXPIRE, PROVISION, event_of};
use super::{TOKEN, event};
use crate::system::System;
use serde_json::json;

#[tokio::test]
async fn route_test_shows_the_requests_and_not_the_token() {
    let system = System::empty("scim_preview").await;
    let keys = format!("token = \"{TOKEN}\"\ngroup = \"Re-certification\"\nurl = \"https://idp.example.com/s3cret\"");
    let config = system.config(&format!("[[sink]]\nname = \"idp\"\nkind = \"scim\"\n{keys}\n"));
    for (kind, shows) in [
        (PROVISION, &["GET https://idp.example.com/…/Users?filter=userName", "POST https://idp.example.com/…/Users\n", "\"roles\""][..]),
        (
            DEPROVISION,
            &[
                "/Users?filter=externalId",
                "&excludedAttributes=groups,photos\n",
                "PATCH https://idp.example.com/…/Users/",
                r#""path":"active","value":false"#,
            ],
        ),
        (EXPIRE, &["/Groups?filter=displayName", "PATCH https://idp.example.com/…/Groups/", r#""path":"members""#]),
    ] {
        let file = system.file("json");
        std::fs::write(&file, event_of(kind).body).unwrap();
        let output = system.run_with(Some(&config), &["route", "test", "--event", file.to_str().unwrap()]).await;
        let text = String::from_utf8(output.stdout).unwrap().replace("    ", "");
        assert!(shows.iter().all(|part| text.contains(part)) && !text.contains("s3cret"), "{text}");
    }
    let unknown = event("e", "user.renamed", json!({"userId": "u1"}));
    let file = system.file("json");
    std::fs::write(&file, unknown.body).unwrap();
    let output = system.run_with(Some(&config), &["route", "test", "--event", file.to_str().unwrap()]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("idp (scim): skipped"));
}
