//! `kind = "email"`: a mail an event, handed to a mail server (SMTP). How it is written: [`letter`].
//!
//! | the server | is taken as |
//! | --- | --- |
//! | takes the mail for every recipient (250) | delivered |
//! | answers a recipient, or the mail itself, with 4xx | trouble with this event: it is tried again |
//! | … with 5xx | permanent |
//! | … and says by its enhanced code that it is the sender or the account: 5.7.x (no relaying, not its sender, not verified), 5.1.7, 5.1.8 | a refusal: the sink rests, nothing is buried |
//! | … 5.4.5 (the day's limit), 4.4.5, 4.7.x, 4.1.7, 4.1.8, or 454 | a rate limit |
//! | takes it for some recipients, and answers others with 4xx or 5xx | these have it; the others decide what becomes of the delivery, a refusal before a rate limit, that before a later try |
//! | answers the greeting, EHLO, STARTTLS, AUTH or MAIL FROM with 4xx; anything with 421 | trouble of the sink |
//! | … with 5xx (535: wrong password; 550 to MAIL FROM: it does not send for `from`), or 530 to anything | a refusal: the sink rests, nothing is buried |
//! | does not offer STARTTLS, or no way to log in that we know | a refusal, too: nothing is sent in the clear that should not be |
//! | cannot be resolved or reached; breaks off; has a certificate that nobody vouches for | trouble of the sink |
//!
//! What concerns the sender is the same for every event, so it is never charged to one, unless others go through: then it was the recipient's.
//!
//! # At least once, for each recipient
//!
//! A mail server forgets what it has taken, so a try whose last answer was lost is sent again. Each try and replay has the same bytes and
//! the same `Message-ID`, by which mailboxes can tell. While one recipient is put off (a full mailbox, greylisting), the others get the mail
//! at once, and usually once: who has it is remembered until all have it ([`taken`]), but in this process alone, and of no more than 1,000
//! mails. After a restart, or when the event's lane has moved to another worker, they get it again. If a recipient is refused for good
//! the delivery is dead although others have the mail; its error says how many. A replay of it goes to all of them again.
//!
//! An event of a type without a text is skipped, and so is one for which `to` gives no address at all.

pub mod letter;
mod relay;
mod reply;
mod stream;
mod taken;

use super::{Delivery, OpenError, Outcomes, Sink, one_by_one};
use crate::config;
use crate::delivery::{Blame, Failure, Outcome};
use letter::{Composer, Letter};
use lettre::Address;
use relay::{Relay, Step};
use reply::Reply;
use taken::Taken;

/// See the module's documentation.
pub struct EmailSink {
    composer: Composer,
    relay: Relay,
    taken: Taken,
}

impl EmailSink {
    /// `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::EmailSink, concurrency: usize) -> Result<Self, OpenError> {
        Ok(Self { composer: Composer::new(config), relay: Relay::new(config, concurrency)?, taken: Taken::default() })
    }

    async fn attempt(&self, delivery: &Delivery) -> Outcome {
        let letter = match self.composer.letter(delivery) {
            Ok(letter) => letter,
            Err(outcome) => return outcome,
        };
        let have = self.taken.of(delivery.idempotency_key);
        let owed: Vec<Address> = letter.to.iter().filter(|address| !have.contains(address)).cloned().collect();
        match self.relay.send(&letter, &owed).await {
            Ok(replies) => self.conclude(delivery, &letter, have, owed.into_iter().zip(replies)),
            Err(failure) => {
                if failure.blame == Blame::Permanent {
                    self.taken.forget(delivery.idempotency_key);
                }
                Outcome::Failed(failure)
            }
        }
    }

    /// What becomes of a delivery, given who had the mail and how the server has answered for the others.
    fn conclude(
        &self,
        delivery: &Delivery,
        letter: &Letter,
        mut have: Vec<Address>,
        answered: impl Iterator<Item = (Address, Reply)>,
    ) -> Outcome {
        let mut refused = Vec::new();
        for (address, reply) in answered {
            if reply.is_positive() { have.push(address) } else { refused.push((address, reply)) }
        }
        let Some((_, first)) = refused.first() else {
            self.taken.forget(delivery.idempotency_key);
            return Outcome::Delivered { status: Some(250) };
        };
        let blames =
            |blame: Blame| refused.iter().find(|(_, reply)| Step::Recipient.blame(reply) == blame).map(|(_, reply)| (blame, reply));
        let (blame, told) =
            [Blame::Refused, Blame::RateLimit, Blame::Event].into_iter().find_map(blames).unwrap_or((Blame::Permanent, first));
        let places = refused.iter().map(|(address, reply)| {
            let place = letter.to.iter().position(|to| to == address).unwrap_or_default() + 1;
            format!("{} to recipient {place}", reply.code)
        });
        // By their number alone: whose address it is, is nobody's business who reads errors.
        let error = format!(
            "{} of {} recipients have the mail: the server answered {}",
            have.len(),
            letter.to.len(),
            places.collect::<Vec<_>>().join(", ")
        );
        let failure = Failure { blame, status: Some(told.code), error, response: told.shown(), retry_after: None };
        if blame == Blame::Permanent {
            self.taken.forget(delivery.idempotency_key);
        } else {
            self.taken.remember(delivery.idempotency_key, have);
        }
        Outcome::Failed(failure)
    }
}

impl Sink for EmailSink {
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        let letter = self.composer.letter(delivery)?;
        let envelope = letter.to.iter().map(|address| format!("RCPT TO:<{address}>\n")).collect::<String>();
        let text = String::from_utf8_lossy(&letter.bytes).replace("\r\n", "\n");
        Ok(format!("{}\nMAIL FROM:<{}>\n{envelope}DATA\n\n{text}", self.relay, letter.from))
    }

    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        one_by_one(batch, |delivery| self.attempt(delivery))
    }
}
