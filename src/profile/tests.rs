//! What the profiles promise, and the built-in ones by their vendors' own requests.

use super::*;
use crate::signature::Message;
use proptest::collection::vec;
use proptest::prelude::*;

fn read(payload: &str) -> Result<Facts, String> {
    Profile::mindtickle().read(payload.as_bytes())
}

#[test]
fn the_payload_names_type_company_and_user() {
    let facts = read(r#"{"event":"course.completed","companyId":"acme","data":{"userId":7}}"#).unwrap();
    let expected =
        Facts { event_id: None, event_type: Some("course.completed".into()), company_id: Some("acme".into()), user: Some("7".into()) };
    assert_eq!(facts, expected);
}

#[test]
fn a_template_names_what_is_signed_and_nothing_that_is_not_known() {
    let literal = |text: &str| Part::Literal(text.into());
    assert_eq!(Part::parse_template("{timestamp}:{body}").unwrap(), Profile::mindtickle().signed);
    assert_eq!(Part::parse_template("{body}").unwrap(), [Part::Body]);
    assert_eq!(
        Part::parse_template("v0:{timestamp}.{timestamp}{body}!").unwrap(),
        [literal("v0:"), Part::Timestamp, literal("."), Part::Timestamp, Part::Body, literal("!")]
    );
    for bad in ["", "{timestamp}", "{body}{body}", "{body", "body}", "{id}{body}", "{{body}}", "{}{body}", "{ body }"] {
        assert!(Part::parse_template(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_cannot_be_processed_has_a_reason_that_repeats_nothing_of_it() {
    for payload in [
        "",
        "secret",
        "[]",
        "null",
        "7",
        "\u{feff}{}",
        "{",
        r#"{"event":7e999}"#,
        "{}",
        r#"{"event":""}"#,
        r#"{"event":"a\u0000b"}"#,
        r#"{"event":"\ud800"}"#,
    ] {
        let reason = read(payload).unwrap_err();
        assert!(!reason.contains("secret"), "{payload}: {reason}");
    }
    assert!(read(&format!(r#"{{"event":"{}"}}"#, "x".repeat(201))).is_err());
    assert!(read(&"[".repeat(100_000)).is_err());
    assert!(Profile::mindtickle().read(b"\xff\xfe").is_err());
}

/// What tests/vectors/make.sh made: published requests, and ones that the vendors' own libraries sign or accept.
#[derive(serde::Deserialize)]
struct Vector {
    source: String,
    by: String,
    secret: String,
    headers: std::collections::BTreeMap<String, String>,
    body: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    id: Option<String>,
    company: Option<String>,
    user: Option<String>,
    /// A part of the reason why it is quarantined.
    held: Option<String>,
    challenge: Option<String>,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../../tests/vectors/sources.json")).unwrap()
}

fn named(name: &str) -> Profile {
    Profile::built_in().into_iter().find(|profile| profile.name == name).unwrap()
}

#[test]
fn each_built_in_profile_verifies_its_vendors_requests_reads_them_and_takes_no_other_body() {
    for vector in vectors() {
        let profile = named(&vector.source);
        let header = |name: &str| vector.headers.get(name).map(String::as_str);
        let signature = header(&profile.signature.name).unwrap().as_bytes();
        let timestamp = match &profile.timestamp {
            TimestampPlace::Header(name) => header(name),
            TimestampPlace::Item(prefix) => profile.signature.only_item(signature, prefix).map(|item| std::str::from_utf8(item).unwrap()),
            TimestampPlace::Nowhere => None,
        };
        let of = |place: &Place| place.header().and_then(header);
        let key = profile.secret_form.key(&vector.secret).unwrap();
        let message = Message { event_id: of(&profile.event_id).map(str::as_bytes), timestamp, body: vector.body.as_bytes() };
        assert!(message.is_signed(&profile, [&key], signature), "{} {}", vector.source, vector.by);
        let other = Message { body: b"{}", ..message };
        assert!(!other.is_signed(&profile, [&key], signature), "{}", vector.source);
        assert!(!message.is_signed(&profile, [b"another"], signature), "{}", vector.source);

        let carried = Carried { event_type: of(&profile.event_type), company: of(&profile.company), user: of(&profile.user) };
        match (profile.read_with(vector.body.as_bytes(), carried), &vector.held) {
            (Ok(facts), None) => {
                let id = of(&profile.event_id).map(str::to_owned).or(facts.event_id);
                assert_eq!((facts.event_type, id), (vector.event_type, vector.id), "{}", vector.source);
                assert_eq!((facts.company_id, facts.user), (vector.company, vector.user), "{}", vector.source);
            }
            (Err(reason), Some(held)) => assert!(reason.contains(held), "{}: {reason}", vector.source),
            (read, held) => panic!("{}: {read:?}, and not {held:?}", vector.source),
        }
        assert_eq!(profile.challenge(vector.body.as_bytes()), vector.challenge, "{}", vector.source);
    }
}

#[test]
fn what_a_profile_signs_it_verifies_and_what_it_signs_must_be_there() {
    for profile in Profile::built_in() {
        let message = Message { event_id: Some(b"evt_1"), timestamp: Some("1700000000"), body: b"{}" };
        let signature = message.sign(&profile, b"s3cret");
        assert!(message.is_signed(&profile, [b"s3cret"], signature.as_bytes()), "{}", profile.name);
        assert!(!message.is_signed(&profile, [b"s3cret"], b""), "{}", profile.name);
        for (part, without) in
            [(Part::Timestamp, Message { timestamp: None, ..message }), (Part::EventId, Message { event_id: None, ..message })]
        {
            let verifies = without.is_signed(&profile, [b"s3cret"], signature.as_bytes());
            assert_eq!(verifies, !profile.signed.contains(&part), "{}: {part:?}", profile.name);
            // Nor is what is missing taken for empty.
            let of_nothing = without.sign(&profile, b"s3cret");
            assert_eq!(without.is_signed(&profile, [b"s3cret"], of_nothing.as_bytes()), verifies, "{}", profile.name);
        }
    }
}

#[test]
fn of_many_signatures_the_first_eight_are_looked_at_and_what_is_none_does_not_count() {
    let (stripe, standard) = (named("stripe"), named("standard-webhooks"));
    let message = Message { event_id: Some(b"evt_1"), timestamp: Some("1700000000"), body: b"{}" };
    for (profile, separator, prefix, other) in
        [(&stripe, ",", "v1=", "0".repeat(64)), (&standard, " ", "v1,", format!("{}=", "A".repeat(43)))]
    {
        let genuine = message.sign(profile, b"s3cret");
        let after = |count: usize, item: &str| {
            let header = format!("{}{separator}{genuine}", vec![item; count].join(separator));
            message.is_signed(profile, [b"another".as_slice(), b"s3cret"], header.as_bytes())
        };
        let other = format!("{prefix}{other}");
        assert!(after(1, &other) && after(SIGNATURES_MAX - 1, &other) && !after(SIGNATURES_MAX, &other), "{}", profile.name);
        for none in ["", " ", "v0=00", "v1", prefix, &format!("{prefix}00"), "v2,AAAA"] {
            assert!(after(100, none), "{}: {none}", profile.name);
        }
        assert!(!message.is_signed(profile, [b"s3cret"], genuine.replace(prefix, "").as_bytes()), "{}", profile.name);
    }
    let only = |header: &str| stripe.signature.only_item(header.as_bytes(), "t=").map(|item| String::from_utf8_lossy(item).into_owned());
    assert_eq!(only("t=1, v1=0").as_deref(), Some("1"));
    assert_eq!(only("v1=0 , t=1").as_deref(), Some("1"));
    for none in ["", "t=", "v1=0", "t=1,t=1", "t=1,t=2", "ts=1"] {
        assert_eq!(only(none), None, "{none}");
    }
}

#[test]
fn a_secret_is_a_key_as_it_is_or_in_base64() {
    let key = |form: SecretForm, secret: &str| form.key(secret).map(Cow::into_owned);
    assert_eq!(key(SecretForm::Text, "whsec_aGk=").unwrap(), b"whsec_aGk=");
    assert_eq!(key(SecretForm::Base64, "whsec_aGk=").unwrap(), b"hi");
    assert_eq!(key(SecretForm::Base64, "aGk=").unwrap(), b"hi");
    assert_eq!(key(SecretForm::Base64, "whsec_aGk").unwrap(), b"hi");
    for none in ["", "whsec_", "whsec_a", "hi there", "whsec_whsec_aGk="] {
        assert_eq!(key(SecretForm::Base64, none), None, "{none}");
    }
}

#[test]
fn only_a_short_plain_text_is_sent_back_as_a_challenge() {
    let slack = named("slack");
    let challenge = |text: &str| slack.challenge(serde_json::json!({ "challenge": text }).to_string().as_bytes());
    assert_eq!(challenge("3eZbrw1a-._~"), Some("3eZbrw1a-._~".into()));
    for none in ["", "a b", "a\r\nset-cookie: x", "\u{e4}", &"x".repeat(201)] {
        assert_eq!(challenge(none), None, "{none}");
    }
    assert_eq!(slack.challenge(br#"{"challenge":7}"#), None);
    assert_eq!(slack.challenge(b"challenge"), None);
    assert_eq!(Profile::mindtickle().challenge(br#"{"challenge":"x"}"#), None);
}

#[test]
fn what_a_header_says_is_checked_like_what_the_payload_says() {
    let github = named("github");
    let read = |event_type| github.read_with(b"{}", Carried { event_type, ..Carried::default() });
    assert_eq!(read(Some("push")).unwrap().event_type.as_deref(), Some("push"));
    assert_eq!(read(None).unwrap_err(), "no header names the event type");
    for bad in ["", "a\tb", &"x".repeat(201)] {
        assert!(read(Some(bad)).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_header_makes_a_profile_panic_or_verifies_without_the_mac(header in vec(any::<u8>(), 0..200), items in "(v1=|v1,|t=|sha256=|[0-9a-f]{0,66}|[ ,;])*") {
        let message = Message { event_id: Some(b"evt_1"), timestamp: Some("1"), body: b"{}" };
        for profile in Profile::built_in() {
            for header in [header.as_slice(), items.as_bytes()] {
                prop_assert!(!message.is_signed(&profile, [b"s3cret"], header));
                let _ = profile.signature.only_item(header, "t=");
                prop_assert!(Claimed::read(&profile, header).macs().len() <= SIGNATURES_MAX);
            }
        }
    }
}
