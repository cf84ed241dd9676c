//! What an IdP said, without the person whom it said it of. Pure.

/// Stands where something was left out.
const GAP: &str = "…";

/// A text without these values, in whatever case, and without anything that looks like an e-mail address.
pub fn without(text: &str, personal: &[&str]) -> String {
    let mut text = text.to_owned();
    for value in personal {
        text = without_value(&text, value);
    }
    without_addresses(&text)
}

/// Only where it stands alone: a user's id may be as short as `7`.
fn without_value(text: &str, value: &str) -> String {
    // ASCII alone keeps every character's place.
    let (lower, value) = (text.to_ascii_lowercase(), value.to_ascii_lowercase());
    if value.is_empty() {
        return text.to_owned();
    }
    let mut kept = String::with_capacity(text.len());
    let mut from = 0;
    for (at, found) in lower.match_indices(&value) {
        let end = at + found.len();
        let alone = !lower[..at].ends_with(char::is_alphanumeric) && !lower[end..].starts_with(char::is_alphanumeric);
        if alone && at >= from {
            kept.push_str(&text[from..at]);
            kept.push_str(GAP);
            from = end;
        }
    }
    kept + &text[from..]
}

fn without_addresses(text: &str) -> String {
    let ends_word = |char: char| char.is_whitespace() || "\"'`<>()[]{},;:=".contains(char);
    let parts = text.split_inclusive(ends_word).map(|part| {
        let word = part.trim_end_matches(ends_word);
        let hides = word.contains('@') || word.to_ascii_lowercase().contains("%40");
        if hides { GAP.to_owned() + &part[word.len()..] } else { part.to_owned() }
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_idp_repeats_of_a_person_is_left_out() {
        let personal = ["ada@b.example", "7", "Sales Rep"];
        for (said, expected) in [
            ("User 'Ada@B.example' already exists", "User '…' already exists"),
            ("userName=other@c.example: taken", "userName=…: taken"),
            ("user 7 has 17 roles, not 'sales rep'", "user … has 17 roles, not '…'"),
            ("GET /Users/ada%40b.example", "GET …"),
            (r#"{"detail":"no \"ada@b.example\" here"}"#, r#"{"detail":"no \"…\" here"}"#),
            ("Attribute department is read-only", "Attribute department is read-only"),
            ("", ""),
            ("ärger mit 7", "ärger mit …"),
        ] {
            assert_eq!(without(said, &personal), expected);
        }
        assert_eq!(without("as it was", &["", "x"]), "as it was");
    }
}
