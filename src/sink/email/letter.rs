//! What is written in a mail: plain text, the same bytes whenever it is made.

use crate::config;
use crate::delivery::{Failure, Outcome};
use crate::sink::Delivery;
use crate::sink::message::{Texts, render, shorten};
use crate::template::{Escape, Template};
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};
use lettre::{Address, Message};
use std::error::Error;

/// Characters of a subject; more is not shown anywhere.
const SUBJECT_CHARS_MAX: usize = 150;
/// Of an address (RFC 5321 with its errata).
const ADDRESS_BYTES_MAX: usize = 254;

/// A mail, ready to be sent.
pub struct Letter {
    /// Who bounces go to.
    pub from: Address,
    /// At least one, none twice.
    pub to: Vec<Address>,
    /// Headers and text, seven bits wide.
    pub bytes: Vec<u8>,
}

/// Writes the mails of one sink.
pub struct Composer {
    from: Mailbox,
    to: Vec<Template>,
    subject: Option<Template>,
    texts: Texts,
}

impl Composer {
    pub fn new(config: &config::EmailSink) -> Self {
        Self {
            from: config.from.clone(),
            to: config.to.clone(),
            subject: config.subject.clone(),
            texts: Texts::new(config.text.clone(), Escape::Plain),
        }
    }

    /// The mail about an event; the error is what becomes of its delivery without one.
    pub fn letter(&self, delivery: &Delivery) -> Result<Letter, Outcome> {
        let text = self.texts.of(delivery)?;
        let subject = match &self.subject {
            Some(subject) => render(subject, delivery, "subject")?,
            None => text.lines().find(|line| !line.trim().is_empty()).unwrap_or("(no text)").to_owned(),
        };
        let to = self.recipients(delivery)?;
        let id = format!("<{}@{}>", delivery.idempotency_key, self.from.email.domain());
        let mut mail = Message::builder().from(self.from.clone());
        for address in &to {
            mail = mail.to(Mailbox::new(None, address.clone()));
        }
        let mail = mail
            .subject(shorten(&one_line(&subject), SUBJECT_CHARS_MAX))
            .date(delivery.received_at.into())
            .message_id(Some(id))
            .header(AutoSubmitted)
            .header(EventId(delivery.event_id.clone()))
            .singlepart(SinglePart::plain(format!("{}\n\n-- \nEvent {}\n", text.trim_end(), delivery.event_id)));
        // Nothing that is missing or doubled could come from an event: it would be a mistake of ours.
        let mail = mail.map_err(|error| Outcome::Failed(Failure::permanent(format!("cannot write the mail: {error}"))))?;
        // The library ends the text with an empty line, and SMTP the mail with another.
        Ok(Letter { from: self.from.email.clone(), to, bytes: mail.formatted().trim_ascii_end().to_vec() })
    }

    fn recipients(&self, delivery: &Delivery) -> Result<Vec<Address>, Outcome> {
        let mut to: Vec<Address> = Vec::with_capacity(self.to.len());
        for (place, template) in (1..).zip(&self.to) {
            let made = render(template, delivery, "to")?;
            if made.trim().is_empty() {
                continue;
            }
            let error = || Outcome::Failed(Failure::permanent(format!("number {place} of `to` makes no address of this event")));
            let address = address(made.trim()).ok_or_else(error)?;
            if !to.contains(&address) {
                to.push(address);
            }
        }
        if to.is_empty() {
            return Err(Outcome::Skipped { reason: "`to` makes no address of this event".into() });
        }
        Ok(to)
    }
}

/// One plain address, as any mail server takes it: no name, no quotes, no comment, and ASCII alone. What an event says can so become one
/// recipient and nothing else.
pub fn address(text: &str) -> Option<Address> {
    let (user, _) = text.rsplit_once('@')?;
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(char);
    let plain = text.len() <= ADDRESS_BYTES_MAX && text.is_ascii() && user.chars().all(is_plain);
    if plain { text.parse().ok() } else { None }
}

/// Headers have one line, whatever a template makes; and no more than one space, which is all that survives folding.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Keeps absence notes from answering (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".into())
    }
}

/// Names the event, for filters.
#[derive(Clone)]
struct EventId(String);

impl Header for EventId {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("X-Event-Id")
    }

    fn parse(text: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self(text.to_owned()))
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_and_plain_or_none() {
        for text in ["a@b.example", "first.last+tag@sub.b.example", "o'neil@b.example"] {
            assert_eq!(address(text).map(|address| address.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "a",
            "@b.example",
            "a@",
            "a@b.example, c@d.example",
            "a@b.example\r\nRCPT TO:<c@d.example>",
            "Name <a@b.example>",
            "<a@b.example>",
            "\"a> SIZE=1\"@b.example",
            "a b@c.example",
            "a@b.example>",
            "ü@b.example",
            "a@bücher.example",
            &format!("{}@b.example", "a".repeat(300)),
        ] {
            assert_eq!(address(text), None, "{text:?}");
        }
    }
}
