//! `kind = "email"` of a `[[sink]]`.

use super::Secret;
use super::check::{list, read, required, wrong};
use super::error::Problem;
use super::raw::Scalar;
use super::sinks::Entry;
use super::values;
use crate::sink::email::letter;
use crate::template::{Escape, Template};
use hyper::Uri;
use ipnet::IpNet;
use lettre::message::Mailbox;

/// What a `[[sink]]` of this kind says.
#[derive(Debug, Clone)]
pub struct EmailSink {
    /// `url` and `tls`.
    pub server: MailServer,
    /// `username` and `password`; only ever sent encrypted.
    pub login: Option<(String, Secret<String>)>,
    /// Who the mail is from: an address, with a name if wanted. Bounces go there.
    pub from: Mailbox,
    /// Who it goes to: each makes one address, or nothing.
    pub to: Vec<Template>,
    /// `None`: the first line of the text.
    pub subject: Option<Template>,
    /// What is said: `text`; `None`: the built-in text of the event's type.
    pub text: Option<Template>,
    /// Private ranges it may reach: `allow`; none by default.
    pub allow: Vec<IpNet>,
}

/// Where mail is handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailServer {
    /// A name, or an address without brackets.
    pub host: String,
    /// 587 for `smtp://` and 465 for `smtps://`, unless said otherwise.
    pub port: u16,
    pub tls: Tls,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// `smtp://`: by STARTTLS, which the server must offer.
    Upgraded,
    /// `smtps://`: from its first byte.
    Whole,
    /// `tls = "none"`: not at all.
    None,
}

pub(super) fn email(entry: &Entry) -> Result<EmailSink, Problem> {
    let raw = entry.raw;
    let mut server = entry.required(&raw.url, "url", server, "smtp://mail.example.com:587")?;
    let unencrypted = read(&raw.tls, "tls", values::one_of(&[("required", false), ("none", true)]))?.unwrap_or(false);
    if unencrypted && server.tls == Tls::Whole {
        return Err(wrong(&raw.tls, "`tls` must not be \"none\" where `url` begins with smtps: write smtp, or remove it"));
    }
    if unencrypted {
        server.tls = Tls::None;
    }
    let username = read(&raw.username, "username", values::text)?;
    let password = read(&raw.password, "password", |value| values::text(value).map(Secret::new))?;
    let login = match (username, password) {
        (Some(_), Some(_)) if unencrypted => {
            return Err(wrong(&raw.password, "`password` must not be given where `tls` is \"none\": it would be sent for all to read"));
        }
        (Some(username), Some(password)) => Some((username, password)),
        (None, None) => None,
        (Some(_), None) => return Err(wrong(&raw.username, "`username` needs a `password`: add it")),
        (None, Some(_)) => return Err(wrong(&raw.password, "`password` needs a `username`: add it")),
    };
    let missing = "`to` of this sink is missing: add it, such as to = [\"{{ event.data.managerEmail }}\"]";
    let template = |value: &Scalar| Template::parse(&values::text(value)?, Escape::Plain);
    Ok(EmailSink {
        server,
        login,
        from: entry.required(&raw.from, "from", from, "Learning <learning@example.com>")?,
        to: required(list(&raw.to, "to", recipient)?, entry.table.clone(), missing)?,
        subject: read(&raw.subject, "subject", template)?,
        text: read(&raw.text, "text", template)?,
        allow: entry.allow()?,
    })
}

fn server(value: &Scalar) -> Result<MailServer, String> {
    let wanted = "must be a URL such as \"smtp://mail.example.com:587\" or \"smtps://mail.example.com\"";
    let uri: Uri = values::text(value)?.parse().map_err(|_| wanted)?;
    let (tls, usual) = match uri.scheme_str() {
        Some("smtp") => (Tls::Upgraded, 587),
        Some("smtps") => (Tls::Whole, 465),
        _ => return Err(wanted.into()),
    };
    let authority = uri.authority().ok_or(wanted)?;
    if authority.as_str().contains('@') {
        return Err("must not hold a user or password: give them as `username` and `password`".into());
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("must end with the host or the port: a mail server has no paths".into());
    }
    let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
        "" => usual,
        port => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or(wanted)?,
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() { Err(wanted.into()) } else { Ok(MailServer { host, port, tls }) }
}

fn from(value: &Scalar) -> Result<Mailbox, String> {
    let wanted = "must be an address, such as \"learning@example.com\" or \"Learning <learning@example.com>\"";
    let mailbox: Mailbox = values::text(value)?.parse().map_err(|_| wanted)?;
    letter::address(mailbox.email.as_ref()).map(|_| mailbox).ok_or_else(|| wanted.into())
}

/// An address, or a template that makes one.
fn recipient(value: &Scalar) -> Result<Template, String> {
    let text = values::text(value)?;
    if !text.contains("{{") && !text.contains("{%") && letter::address(text.trim()).is_none() {
        return Err("must be an address, such as \"coach@example.com\", or a template that makes one".into());
    }
    Template::parse(&text, Escape::Plain)
}
