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

    /// Whether the provider has switched it off by itself. One that somebody switched off is not ours to switch on.
    pub fn is_suspended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.eq_ignore_ascii_case("suspended"))
    }
}

/// What the provider lists.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    pub webhooks: Vec<Webhook>,
    /// What of the list is not among them, for people.
    pub unseen: Option<String>,
}

impl List {
    /// A list: by itself, or within an object as `webhooks`, `data` or `items`. `None`: it is none, or holds no webhook but something else.
    pub fn read(value: &Value) -> Option<Self> {
        let list = value.as_array().or_else(|| ["webhooks", "data", "items"].into_iter().find_map(|key| value[key].as_array()))?;
        let webhooks: Vec<Webhook> = list.iter().filter_map(Webhook::read).collect();
        let unread = list.len() - webhooks.len();
        if webhooks.is_empty() && unread > 0 {
            return None;
        }
        let has_next = ["next", "nextPage", "nextPageToken", "nextCursor", "next_page", "next_cursor"]
            .into_iter()
            .any(|key| text(&value[key]).is_some_and(|next| !next.is_empty()) || value[key].is_object());
        let has_more = has_next || value["hasMore"] == true || value["total"].as_u64().is_some_and(|total| total > list.len() as u64);
        let unseen = match (unread, has_more) {
            (0, false) => None,
            (0, true) => Some("the provider has more webhooks than it lists at once: the others were not seen".into()),
            _ => Some(format!("{unread} of the listed webhooks have no id that is understood here, and were not seen")),
        };
        Some(Self { webhooks, unseen })
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
            let List { webhooks, unseen } = List::read(&list).unwrap();
            assert!(webhooks.len() == 1 && webhooks[0].is_suspended() && webhooks[0].webhook_id.to_string() == "wh_1", "{list}");
            assert_eq!(unseen, None, "{list}");
        }
        assert_eq!(List::read(&json!({"webhooks": []})), Some(List { webhooks: vec![], unseen: None }));
        for none in [json!("x"), json!({}), json!([{"url": "https://in.example"}]), json!([{"id": "../x"}]), json!(null)] {
            assert_eq!(List::read(&none), None, "{none}");
        }
    }

    #[test]
    fn what_of_a_list_was_not_seen_is_told_and_hides_nothing_else() {
        let webhook = json!({"webhookId": "wh_1"});
        for (list, told) in [
            (json!([webhook, {"webhookId": "b64=="}]), "1 of the listed webhooks"),
            (json!({"data": [webhook], "nextPageToken": "x"}), "more webhooks than it lists"),
            (json!({"data": [webhook], "next": {"href": "/2"}}), "more webhooks than it lists"),
            (json!({"items": [webhook], "hasMore": true}), "more webhooks than it lists"),
            (json!({"items": [webhook], "total": 2}), "more webhooks than it lists"),
        ] {
            let List { webhooks, unseen } = List::read(&list).unwrap();
            assert!(webhooks.len() == 1 && unseen.is_some_and(|unseen| unseen.contains(told)), "{list}");
        }
        assert_eq!(List::read(&json!({"items": [webhook], "next": null, "nextPageToken": "", "total": 1})).unwrap().unseen, None);
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
