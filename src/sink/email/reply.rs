//! What a mail server has answered, and whom it is about. Pure.

use crate::delivery::Blame;
use crate::sink::client::answer;
use lettre::transport::smtp::response::Response;

/// What the server has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// May name addresses.
    pub text: String,
}

impl Reply {
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Whether nothing more can be asked in this conversation: it is being closed, or wants a log-in first.
    pub fn ends_the_conversation(&self) -> bool {
        self.code == 421 || self.wants_a_login()
    }

    pub fn wants_a_login(&self) -> bool {
        matches!(self.code, 530 | 534 | 535 | 538)
    }

    /// What it says of the sender or the account, which many a server tells only when it is asked for a recipient, or has the mail. The
    /// reply's code is then the same as for a recipient's trouble; the enhanced one (RFC 3463) tells them apart.
    pub fn about_the_sender(&self) -> Option<Blame> {
        match self.enhanced() {
            // No right to relay, a sender that is another's or not verified; or one that does not exist.
            Some((5, 7, _) | (5, 1, 7 | 8)) => Some(Blame::Refused),
            // The day's share is used up, the server is asked too often; the sender cannot be looked up now.
            Some((4 | 5, 4, 5) | (4, 7, _) | (4, 1, 7 | 8)) => Some(Blame::RateLimit),
            _ if self.code == 454 => Some(Blame::RateLimit),
            _ => None,
        }
    }

    /// Class, subject and detail, where the text begins with them.
    fn enhanced(&self) -> Option<(u16, u16, u16)> {
        let mut parts = self.text.split_whitespace().next()?.split('.').map(|part| part.parse().ok());
        let code = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(code)
    }

    /// What is kept of it: servers like to repeat whose mailbox it is, which is nobody's business who reads errors.
    pub fn shown(&self) -> Option<String> {
        answer::text(format!("{} {}", self.code, without_addresses(self.text.trim_end())).as_bytes())
    }
}

impl From<&Response> for Reply {
    fn from(response: &Response) -> Self {
        Self { code: response.code().into(), text: response.message().collect::<Vec<_>>().join("\n") }
    }
}

/// Each word that looks like an address is left out, with all that is glued to it.
fn without_addresses(text: &str) -> String {
    let ends_word = |char: char| char.is_whitespace() || "\"`<>()[]{}".contains(char);
    let parts = text.split_inclusive(ends_word).map(|part| {
        let word = part.trim_end_matches(ends_word);
        let hides = word.contains('@') || word.to_ascii_lowercase().contains("%40");
        if hides { format!("…{}", &part[word.len()..]) } else { part.to_owned() }
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_the_sender_is_told_from_a_recipients_by_the_enhanced_code() {
        for (code, text, expected) in [
            (550, "5.7.1 relaying denied", Some(Blame::Refused)),
            (553, "5.7.1 sender address rejected: not owned by user", Some(Blame::Refused)),
            (554, "5.7.60 client has no permission to send as this sender", Some(Blame::Refused)),
            (550, "5.1.8 sender address rejected: domain not found", Some(Blame::Refused)),
            (550, "5.4.5 daily sending quota exceeded", Some(Blame::RateLimit)),
            (450, "4.7.1 too many mails", Some(Blame::RateLimit)),
            (454, "throttling failure: maximum sending rate exceeded", Some(Blame::RateLimit)),
            (451, "4.4.5 try again later", Some(Blame::RateLimit)),
            (550, "5.1.1 no such user", None),
            (550, "no such user", None),
            (550, "", None),
            (452, "4.2.2 mailbox full", None),
            (552, "5.3.4 too big", None),
            (550, "5.7 is no enhanced code", None),
            (550, "5.7.1.2 nor is this", None),
        ] {
            assert_eq!(Reply { code, text: text.into() }.about_the_sender(), expected, "{code} {text}");
        }
    }

    #[test]
    fn whose_mailbox_it_is_is_not_kept() {
        for (said, expected) in [
            ("5.1.1 <Ada@b.example>: no such user", "550 5.1.1 <…>: no such user"),
            ("5.1.1 rcpt=ada@b.example\n'o'brien@b.example' too", "550 5.1.1 … … too"),
            ("see /help?for=ada%40b.example, please", "550 see … please"),
            ("5.2.2 mailbox full", "550 5.2.2 mailbox full"),
        ] {
            assert_eq!(Reply { code: 550, text: said.into() }.shown().as_deref(), Some(expected));
        }
    }
}
