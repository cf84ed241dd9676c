//! Conversations with one mail server, over connections that are kept for the next mail.

use super::letter::Letter;
use super::reply::Reply;
use super::stream::Dialler;
use crate::clock;
use crate::config::{self, Tls};
use crate::delivery::{Blame, Failure};
use crate::sink::OpenError;
use crate::sink::address::AddressPolicy;
use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::ClientId;
use std::error::Error as _;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an unused connection is kept. A server may close it after five minutes (RFC 5321), and a busy one does so much earlier.
const KEPT_MAX: Duration = Duration::from_secs(20);
/// Ways to log in, the better first. Both send the password as it is, so the connection is always encrypted.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// Hands mails to one server.
pub struct Relay {
    dialler: Dialler,
    hello: ClientId,
    login: Option<Credentials>,
    kept: Mutex<Vec<(Instant, AsyncSmtpConnection)>>,
    kept_max: usize,
}

impl Relay {
    /// `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::EmailSink, concurrency: usize) -> Result<Self, OpenError> {
        let login = config.login.as_ref().map(|(username, password)| Credentials::new(username.clone(), password.expose().clone()));
        Ok(Self {
            dialler: Dialler::new(config.server.clone(), AddressPolicy::new(config.allow.clone()))?,
            // A server that is strict wants a whole name here, and a container's own is none.
            hello: ClientId::Domain(config.from.email.domain().to_owned()),
            login,
            kept: Mutex::default(),
            kept_max: concurrency,
        })
    }

    /// Hands a mail in for these recipients, and returns what the server says of each, in their order. It goes to those of which it says
    /// yes, and where that is nobody, nowhere. An error: it went to nobody, as far as we know.
    pub async fn send(&self, letter: &Letter, to: &[Address]) -> Result<Vec<Reply>, Failure> {
        let mut connection = self.begin(&letter.from).await?;
        let mut replies = Vec::with_capacity(to.len());
        for address in to {
            let asked = connection.command(Rcpt::new(address.clone(), Vec::new())).await;
            let reply = match asked.map_err(Trouble::from) {
                Ok(response) => Reply::from(&response),
                Err(Trouble::Said(reply)) if !reply.ends_the_conversation() => reply,
                Err(trouble) => return Err(trouble.at(Step::Recipient)),
            };
            replies.push(reply);
        }
        if replies.iter().any(Reply::is_positive) {
            connection.command(Data).await.map_err(|error| Trouble::from(error).at(Step::Data))?;
            connection.message(&letter.bytes).await.map_err(|error| Trouble::from(error).at(Step::Content))?;
            self.keep(connection);
        } else if connection.command(Rset).await.is_ok() {
            self.keep(connection);
        }
        Ok(replies)
    }

    /// A connection on which the server has taken the sender. One that was kept may have been closed meanwhile, or had its share of mails;
    /// nothing is lost yet, so a new one takes its place.
    async fn begin(&self, from: &Address) -> Result<AsyncSmtpConnection, Failure> {
        let sender = || Mail::new(Some(from.clone()), Vec::new());
        while let Some(mut kept) = self.take_kept() {
            if kept.command(sender()).await.is_ok() {
                return Ok(kept);
            }
        }
        let mut connection = self.connect().await?;
        connection.command(sender()).await.map_err(|error| Trouble::from(error).at(Step::Sender))?;
        Ok(connection)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Failure> {
        let stream = self.dialler.dial(&self.hello).await?;
        let connecting = AsyncSmtpConnection::connect_with_transport(stream, &self.hello).await;
        let mut connection = connecting.map_err(|error| Trouble::from(error).at(Step::Greeting))?;
        if let Some(login) = &self.login {
            if connection.server_info().get_auth_mechanism(&MECHANISMS).is_none() {
                let error = "the server offers no way to log in that is known here (PLAIN, LOGIN): check the sink's `url`";
                return Err(Failure { blame: Blame::Refused, status: None, error: error.into(), response: None, retry_after: None });
            }
            connection.auth(&MECHANISMS, login).await.map_err(|error| Trouble::from(error).at(Step::Login))?;
        }
        Ok(connection)
    }

    fn take_kept(&self) -> Option<AsyncSmtpConnection> {
        let now = clock::instant();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(since, _)| now.saturating_duration_since(*since) < KEPT_MAX);
        kept.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: AsyncSmtpConnection) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < self.kept_max {
            kept.push((clock::instant(), connection));
        }
    }
}

/// As in the config, for people.
impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.dialler.server();
        let (scheme, how) = match server.tls {
            Tls::Upgraded => ("smtp", "STARTTLS"),
            Tls::Whole => ("smtps", "TLS"),
            Tls::None => ("smtp", "not encrypted"),
        };
        let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
        let login = if self.login.is_some() { ", AUTH (configured)" } else { "" };
        write!(f, "{scheme}://{host}:{} ({how}{login})", server.port)
    }
}

/// A step of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Greeting,
    Hello,
    StartTls,
    Login,
    Sender,
    Recipient,
    Data,
    Content,
}

impl Step {
    /// As people who know SMTP call it.
    fn name(self) -> &'static str {
        match self {
            Self::Greeting => "the connection",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Login => "the log-in (AUTH)",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "the mail",
        }
    }

    /// What such an answer means: what concerns the sender alone is the same for every event.
    pub fn blame(self, reply: &Reply) -> Blame {
        let about_the_mail = matches!(self, Self::Recipient | Self::Data | Self::Content);
        let about_the_sender = reply.about_the_sender().filter(|_| about_the_mail || self == Self::Sender);
        match reply.code {
            421 => Blame::Sink,
            _ if reply.wants_a_login() => Blame::Refused,
            code => about_the_sender.unwrap_or(match code {
                400..=499 if about_the_mail => Blame::Event,
                500..=599 if about_the_mail => Blame::Permanent,
                500..=599 => Blame::Refused,
                _ => Blame::Sink,
            }),
        }
    }
}

/// Why a step did not end well.
#[derive(Debug)]
pub enum Trouble {
    /// The server says no.
    Said(Reply),
    /// It says nothing, or nothing that makes sense; and what the system or the library says of that.
    Silent(String),
}

impl Trouble {
    pub fn at(self, step: Step) -> Failure {
        let name = step.name();
        match self {
            Self::Said(reply) => {
                let blame = step.blame(&reply);
                let advice = match (blame, step) {
                    (Blame::Refused, Step::Login) => ": check the sink's `username` and `password`",
                    (Blame::Refused, Step::Sender) => ": it does not send mail for the sink's `from`, or wants a log-in",
                    (Blame::Refused, _) if !reply.wants_a_login() => ": it refuses the sender or the account",
                    _ => "",
                };
                let error = format!("the server answered {} to {name}{advice}", reply.code);
                Failure { blame, status: Some(reply.code), error, response: reply.shown(), retry_after: None }
            }
            Self::Silent(reason) => {
                let error = format!("no answer to {name}: {reason}");
                Failure { blame: Blame::Sink, status: None, error, response: None, retry_after: None }
            }
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let text = error.source().map(ToString::to_string);
        match error.status() {
            Some(code) => Self::Said(Reply { code: code.into(), text: text.unwrap_or_default() }),
            // The library would repeat what it could not read.
            None if error.is_response() => Self::Silent("the server broke off, or did not speak SMTP".into()),
            None => Self::Silent(text.unwrap_or_else(|| error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_sender_is_charged_to_no_event_at_whatever_step_it_is_told() {
        use Step::{Content, Data, Login, Recipient, Sender};
        for (steps, said, expected) in [
            (&[Recipient, Data, Content][..], "550 5.1.1 no such user", Blame::Permanent),
            (&[Recipient, Data, Content], "450 4.2.2 mailbox full", Blame::Event),
            (&[Recipient, Data, Content, Sender], "550 5.7.1 relaying denied", Blame::Refused),
            (&[Recipient, Data, Content, Sender], "550 5.4.5 daily limit", Blame::RateLimit),
            (&[Recipient, Data, Content, Sender], "451 4.7.0 too many mails", Blame::RateLimit),
            (&[Recipient, Data, Content, Sender], "454 throttled", Blame::RateLimit),
            (&[Recipient, Data, Content, Sender, Login], "421 4.7.0 closing", Blame::Sink),
            (&[Recipient, Data, Content, Sender, Login], "530 5.7.0 log in first", Blame::Refused),
            (&[Sender, Login], "550 no", Blame::Refused),
            (&[Sender, Login], "450 4.3.0 later", Blame::Sink),
            (&[Login], "454 4.7.0 later", Blame::Sink),
        ] {
            let (code, text) = said.split_once(' ').unwrap();
            let reply = Reply { code: code.parse().unwrap(), text: text.into() };
            for step in steps {
                assert_eq!(step.blame(&reply), expected, "{said} to {}", step.name());
            }
        }
    }
}
