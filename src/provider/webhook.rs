//! A webhook, as the provider's API tells of it. Read leniently, since no description says how a list looks.

use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// Longer texts of the provider's are cut.
const TEXT_CHARS_MAX: usize = 500;

/// One webhook. What the answer does not say is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Webhook {
    pub webhook_id: WebhookId,
    pub url: Option<String>,
    /// The provider's word: `active`, `suspended`.
    pub status: Option<String>,
    /// Event types it is subscribed to.
    pub events: Option<Vec<String>>,
    pub company_id: Option<String>,
}

impl Webhook {
    /// `webhookId` or `id`, `url`, `status`, `events`, `companyId`; `None` without a usable id.
    pub fn read(value: &Value) -> Option<Self> {
        let webhook_id = ["webhookId", "id"].into_iter().find_map(|key| text(&value[key]))?.parse().ok()?;
        let events = value["events"].as_array().map(|events| events.iter().filter_map(text).collect());
        Some(Self { webhook_id, url: text(&value["url"]), status: text(&value["status"]), events, company_id: text(&value["companyId"]) })
    }

    /// A list: by itself, or within an object as `webhooks`, `data` or `items`. `None`: it is none, or holds what is no webhook.
    pub fn read_list(value: &Value) -> Option<Vec<Self>> {
        let list = value.as_array().or_else(|| ["webhooks", "data", "items"].into_iter().find_map(|key| value[key].as_array()));
        list?.iter().map(Self::read).collect()
    }

    /// Whether the provider has switched it off by itself. One that somebody switched off is not ours to switch on.
    pub fn is_suspended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.eq_ignore_ascii_case("suspended"))
    }
}

/// A text or a number as text, fit for a terminal.
fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.chars().take(TEXT_CHARS_MAX).map(|char| if char.is_control() { ' ' } else { char }).collect(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(text)
}

/// An id that can stand in a path as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct WebhookId(String);

impl FromStr for WebhookId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Not `.` or `..`, which are other paths.
        let valid = text.len() <= 200
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~:-".contains(&byte));
        valid.then(|| Self(text.to_owned())).ok_or("must be a webhook's id: 1 to 200 letters, digits, `.`, `_`, `~`, `:` or `-`")
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_is_read_in_whatever_it_is_wrapped() {
        let webhook = json!({"webhookId": "wh_1", "url": "https://in.example/x", "status": "Suspended", "events": ["quiz.submitted"]});
        for list in [json!([webhook]), json!({"webhooks": [webhook]}), json!({"total": 1, "data": [webhook]}), json!({"items": [webhook]})]
        {
            let read = Webhook::read_list(&list).unwrap();
            assert!(read.len() == 1 && read[0].is_suspended() && read[0].webhook_id.to_string() == "wh_1", "{list}");
        }
        assert_eq!(Webhook::read_list(&json!({"webhooks": []})), Some(vec![]));
        for none in [json!("x"), json!({}), json!([{"url": "https://in.example"}]), json!([{"id": "../x"}]), json!(null)] {
            assert_eq!(Webhook::read_list(&none), None, "{none}");
        }
    }

    #[test]
    fn an_id_is_no_way_to_another_path() {
        for id in ["wh_1", "6f1c0b9e-1111-4222-8333-944455556666", "a:b~c.d", "7"] {
            assert!(id.parse::<WebhookId>().is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a?b", "a#b", "a%2fb", "a b", "\u{e4}", &"a".repeat(201)] {
            assert!(id.parse::<WebhookId>().is_err(), "{id}");
        }
    }

    #[test]
    fn nothing_that_the_provider_says_reaches_the_terminal_as_a_command() {
        let webhook = Webhook::read(&json!({"id": 7, "status": "\u{1b}[2Jactive"})).unwrap();
        assert_eq!(webhook.status.as_deref(), Some(" [2Jactive"));
        assert!(!webhook.is_suspended());
    }
}
