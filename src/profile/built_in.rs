//! The profiles that need no config: see docs/SOURCES.md for what each rests on.

use super::{Encoding, Part, Path, Place, Profile, SecretForm, SignatureHeader, TimestampPlace, Unit};
use std::time::Duration;

/// For providers that sign each try anew: what their own libraries allow.
const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);
/// The provider's last try comes seven hours after its first, with the first one's timestamp; a day is left for an outage.
const MINDTICKLE_WINDOW: Duration = Duration::from_secs(26 * 3600);

fn header(name: &str) -> Place {
    Place::Header(name.into())
}

fn body(path: &str) -> Place {
    Place::Body(Path::parse(path).expect("a literal path is valid"))
}

fn signed(template: &str) -> Vec<Part> {
    Part::parse_template(template).expect("a literal template is valid")
}

fn signature(name: &str, separator: Option<char>, prefix: &str) -> SignatureHeader {
    SignatureHeader { name: name.into(), separator, prefix: prefix.into() }
}

impl Profile {
    /// All of them. Their names are taken: no `[[profile]]` may have one.
    pub fn built_in() -> [Self; 6] {
        [Self::mindtickle(), Self::standard_webhooks(), Self::github(), Self::stripe(), Self::shopify(), Self::slack()]
    }

    /// MindTickle, after one third-party description of its webhooks.
    pub fn mindtickle() -> Self {
        Self {
            name: "mindtickle".into(),
            signature: SignatureHeader::plain("x-mt-webhook-signature"),
            encoding: Encoding::Hex,
            timestamp: TimestampPlace::Header("x-mt-webhook-timestamp".into()),
            timestamp_unit: Unit::Magnitude,
            timestamp_window: MINDTICKLE_WINDOW,
            signed: signed("{timestamp}:{body}"),
            secret_form: SecretForm::Text,
            event_id: header("x-mt-event-id"),
            event_type: body("event"),
            company: body("companyId"),
            user: body("data.userId"),
            challenge: None,
        }
    }

    /// Whoever follows standardwebhooks.com with symmetric secrets: the id is signed, too.
    fn standard_webhooks() -> Self {
        Self {
            name: "standard-webhooks".into(),
            signature: signature("webhook-signature", Some(' '), "v1,"),
            encoding: Encoding::Base64,
            timestamp: TimestampPlace::Header("webhook-timestamp".into()),
            timestamp_unit: Unit::Seconds,
            timestamp_window: FIVE_MINUTES,
            signed: signed("{event_id}.{timestamp}.{body}"),
            secret_form: SecretForm::Base64,
            event_id: header("webhook-id"),
            event_type: body("type"),
            // The payload's `data` is each sender's own.
            company: Place::Nowhere,
            user: Place::Nowhere,
            challenge: None,
        }
    }

    /// GitHub's webhooks of repositories, organizations and apps, as `application/json`. In order within a repository.
    fn github() -> Self {
        Self {
            name: "github".into(),
            signature: signature("x-hub-signature-256", None, "sha256="),
            timestamp: TimestampPlace::Nowhere,
            signed: signed("{body}"),
            event_id: header("x-github-delivery"),
            event_type: header("x-github-event"),
            company: body("organization.login"),
            user: body("repository.full_name"),
            ..Self::mindtickle()
        }
    }

    /// Stripe's snapshot events. Its secrets begin with `whsec_`, too, but are keys as they are. In order within a customer.
    fn stripe() -> Self {
        Self {
            name: "stripe".into(),
            signature: signature("stripe-signature", Some(','), "v1="),
            timestamp: TimestampPlace::Item("t=".into()),
            timestamp_unit: Unit::Seconds,
            timestamp_window: FIVE_MINUTES,
            signed: signed("{timestamp}.{body}"),
            event_id: body("id"),
            event_type: body("type"),
            company: body("account"),
            user: body("data.object.customer"),
            ..Self::mindtickle()
        }
    }

    /// Shopify's webhooks over HTTPS. In order within what the event is about.
    fn shopify() -> Self {
        Self {
            name: "shopify".into(),
            signature: SignatureHeader::plain("x-shopify-hmac-sha256"),
            encoding: Encoding::Base64,
            timestamp: TimestampPlace::Nowhere,
            signed: signed("{body}"),
            // The delivery's: x-shopify-event-id is the same for all subscriptions that one event meets.
            event_id: header("x-shopify-webhook-id"),
            event_type: header("x-shopify-topic"),
            company: header("x-shopify-shop-domain"),
            user: body("admin_graphql_api_id"),
            ..Self::mindtickle()
        }
    }

    /// Slack's Events API. What Slack sends form-encoded (commands, interactions) has this signature, too, and is quarantined.
    fn slack() -> Self {
        Self {
            name: "slack".into(),
            signature: signature("x-slack-signature", None, "v0="),
            timestamp: TimestampPlace::Header("x-slack-request-timestamp".into()),
            timestamp_unit: Unit::Seconds,
            timestamp_window: FIVE_MINUTES,
            signed: signed("v0:{timestamp}:{body}"),
            event_id: body("event_id"),
            event_type: body("event.type"),
            company: body("team_id"),
            user: body("event.user"),
            // Its `url_verification`, without which no URL can be entered.
            challenge: Path::parse("challenge"),
            ..Self::mindtickle()
        }
    }
}
