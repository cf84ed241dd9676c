//! `kind = "slack"`: tells a channel, by an incoming webhook.
//!
//! | Slack | is taken as |
//! | --- | --- |
//! | answers 200 `ok` | delivered |
//! | answers 400 (`invalid_blocks`, `invalid_payload`), 404 (`no_service`), 410 (`channel_is_archived`) | permanent |
//! | answers 403 (`action_prohibited`, `invalid_token`) | a refusal: the sink rests, nothing is buried |
//! | answers 429 | a rate limit, for as long as its `Retry-After` says |
//! | answers 500 | trouble with this event |
//! | answers 408, 502, 503, 504; cannot be reached; breaks off | trouble of the sink |
//!
//! An event of a type without a text is skipped; one that lacks what the text needs is permanent. Slack does not tell a message from its
//! repetition, so a try whose answer was lost is posted twice: each message carries the id of its event.

use super::client;
use super::message::{Poster, Texts, shorten};
use super::{Delivery, OpenError, Outcomes, Sink, one_by_one};
use crate::config;
use crate::delivery::Outcome;
use crate::template::Escape;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

/// Characters of a section's text; Slack refuses more.
const SECTION_CHARS_MAX: usize = 3000;

/// Posts each event to one incoming webhook.
pub struct SlackSink {
    texts: Texts,
    poster: Poster,
}

impl SlackSink {
    /// `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::MessageSink, concurrency: usize) -> Result<Self, OpenError> {
        Ok(Self { texts: Texts::new(config.text.clone(), Escape::Slack), poster: Poster::new(config, concurrency)? })
    }

    fn request(&self, delivery: &Delivery) -> Result<Request<Full<Bytes>>, Outcome> {
        let text = self.texts.of(delivery)?;
        Ok(self.poster.request(delivery, &message(&text, &delivery.event_id)))
    }
}

impl Sink for SlackSink {
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        self.request(delivery).map(|request| client::show(&request))
    }

    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        one_by_one(batch, |delivery| self.poster.post(self.request(delivery)))
    }
}

/// The message: `text` is what notifications show, `blocks` what the channel does.
fn message(text: &str, event_id: &str) -> Value {
    let text = fitted(text);
    // `verbatim`: what looks like a link, a channel or a mention does not become one.
    json!({
        "text": text,
        "blocks": [
            { "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true } },
            // Plain text, in which nothing is a mention.
            { "type": "context", "elements": [{ "type": "plain_text", "text": format!("Event {event_id}"), "emoji": false }] },
        ],
    })
}

/// A text that Slack takes, not cut within an escaped character.
fn fitted(text: &str) -> String {
    // Slack refuses an empty section.
    if text.trim().is_empty() {
        return "(no text)".into();
    }
    let short = shorten(text, SECTION_CHARS_MAX);
    match short.rsplit_once('&') {
        Some((before, entity)) if short.len() != text.len() && !entity.contains(';') && entity.chars().count() <= 5 => format!("{before}…"),
        _ => short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_and_never_within_an_escaped_character() {
        let long = format!("{}&amp;&amp;", "x".repeat(2993));
        let cut = fitted(&long);
        assert_eq!(cut, format!("{}&amp;…", "x".repeat(2993)));
        let cut = fitted(&format!("{}&amp;y", "x".repeat(2997)));
        assert_eq!(cut, format!("{}…", "x".repeat(2997)));
        assert_eq!(fitted(" "), "(no text)");
    }
}
