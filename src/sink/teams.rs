//! `kind = "teams"`: tells a channel of Microsoft Teams, by a webhook of its Workflows.
//!
//! | Teams | is taken as |
//! | --- | --- |
//! | answers 2xx, which is 202 as a rule | delivered |
//! | answers 400, 404, 410, 413 or another 4xx | permanent |
//! | answers 401 or 403 | a refusal: the sink rests, nothing is buried |
//! | answers 429 | a rate limit, for as long as its `Retry-After` says |
//! | answers 500 or another 5xx | trouble with this event |
//! | answers 408, 502, 503, 504; cannot be reached; breaks off | trouble of the sink |
//!
//! A 202 says that the workflow has begun, not that the card is in the channel: its own run history has that. An event of a type without
//! a text is skipped; one that lacks what the text needs is permanent. Teams does not tell a message from its repetition: each card carries the id of its event.

use super::client;
use super::message::{Poster, Texts, render, shorten};
use super::{Delivery, OpenError, Outcomes, Sink, one_by_one};
use crate::config;
use crate::delivery::Outcome;
use crate::template::{Escape, Template};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

/// Of a text. With four bytes to a character, and a line's block around the shortest lines, a card stays within the 28 KB that Teams takes.
const TEXT_CHARS_MAX: usize = 4000;
const LINES_MAX: usize = 50;
const TITLE_CHARS_MAX: usize = 200;

/// Posts each event to one workflow.
pub struct TeamsSink {
    title: Option<Template>,
    texts: Texts,
    poster: Poster,
}

impl TeamsSink {
    /// `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::MessageSink, concurrency: usize) -> Result<Self, OpenError> {
        let texts = Texts::new(config.text.clone(), Escape::Plain);
        Ok(Self { title: config.title.clone(), texts, poster: Poster::new(config, concurrency)? })
    }

    fn request(&self, delivery: &Delivery) -> Result<Request<Full<Bytes>>, Outcome> {
        let title = self.title.as_ref().map(|title| render(title, delivery, "title")).transpose()?;
        let text = self.texts.of(delivery)?;
        Ok(self.poster.request(delivery, &message(title.as_deref(), &text, &delivery.event_id)))
    }
}

impl Sink for TeamsSink {
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        self.request(delivery).map(|request| client::show(&request))
    }

    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        one_by_one(batch, |delivery| self.poster.post(self.request(delivery)))
    }
}

/// The card in the envelope that Workflows expect. Runs of rich text have no markdown, so nothing of an event becomes a link.
fn message(title: Option<&str>, text: &str, event_id: &str) -> Value {
    let run = |text: &str, weight: &str, size: &str| json!({ "type": "RichTextBlock", "inlines": [{ "type": "TextRun", "text": text, "weight": weight, "size": size }] });
    let mut body: Vec<Value> = title.map(|title| run(&shorten(title, TITLE_CHARS_MAX), "Bolder", "Medium")).into_iter().collect();
    let text = shorten(text, TEXT_CHARS_MAX);
    body.extend(text.lines().filter(|line| !line.trim().is_empty()).take(LINES_MAX).map(|line| run(line, "Default", "Default")));
    body.push(run(&format!("Event {event_id}"), "Lighter", "Small"));
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": body,
            },
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_card_stays_within_what_teams_takes() {
        let widest = "\u{1F600}".repeat(5000);
        let lines = "\u{1F600}\n".repeat(5000);
        for text in [&widest, &lines, &"\"".repeat(5000)] {
            let size = message(Some(&widest), text, &"x".repeat(200)).to_string().len();
            assert!(size <= 28 * 1024, "{size} bytes");
        }
    }
}
