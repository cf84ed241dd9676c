//! What an answer that is no success says in words, whether it is JSON, HTML or text: short, on one line, without the token. Pure.

use serde_json::Value;

/// More is cut.
const CHARS_MAX: usize = 200;

/// `None`: it says nothing that is worth repeating. `token` is left out even where the answer repeats it.
pub fn words(body: &[u8], token: &str) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let said = match serde_json::from_str::<Value>(text) {
        Ok(json) => of_json(&json)?,
        Err(_) if text.starts_with('<') => of_html(text)?,
        Err(_) => text.to_owned(),
    };
    let said = if token.is_empty() { said } else { said.replace(token, "***") };
    let words = said.split(|char: char| char.is_whitespace() || char.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    let short = match line.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    };
    (!short.is_empty()).then_some(short)
}

/// The text that stands where errors are commonly told.
fn of_json(json: &Value) -> Option<String> {
    match json {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => items.first().and_then(of_json),
        Value::Object(fields) => ["message", "error_description", "detail", "error", "errors", "title"]
            .into_iter()
            .find_map(|key| fields.get(key).and_then(of_json)),
        _ => None,
    }
}

/// A page's title: what a proxy or a load balancer says of itself. The rest of a page is for browsers.
fn of_html(page: &str) -> Option<String> {
    // ASCII alone changes, so that places in both are the same.
    let lower = page.to_ascii_lowercase();
    let tag = lower.find("<title")?;
    let begin = tag + lower[tag..].find('>')? + 1;
    let end = begin + lower[begin..].find("</title")?;
    Some(page[begin..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_json_and_html_each_become_a_short_line() {
        for (body, said) in [
            ("invalid token", Some("invalid token")),
            ("  no\r\n\x1b[31m way\0 ", Some("no [31m way")),
            (r#"{"message": "unknown event"}"#, Some("unknown event")),
            (r#"{"error": {"code": 7, "message": "quota"}}"#, Some("quota")),
            (r#"{"errors": [{"detail": "url is not https"}, {"detail": "x"}]}"#, Some("url is not https")),
            (r#"{"code": 7}"#, None),
            ("[]", None),
            ("<!DOCTYPE html>\n<HTML><head><Title lang=en>502\n Bad Gateway</TITLE></head><body>secrets</body>", Some("502 Bad Gateway")),
            ("<html><body>secrets</body></html>", None),
            ("<title>never closed", None),
            ("", None),
        ] {
            assert_eq!(words(body.as_bytes(), "t0ken").as_deref(), said, "{body}");
        }
    }

    #[test]
    fn a_token_that_is_repeated_is_left_out_also_where_the_line_is_cut() {
        let body = format!("{}Bearer t0ken", "x".repeat(CHARS_MAX - 10));
        let said = words(body.as_bytes(), "t0ken").unwrap();
        assert!(!said.contains("t0k"), "{said}");
        assert_eq!(words(br#"{"message": "bad t0ken"}"#, "t0ken").as_deref(), Some("bad ***"));
    }

    proptest! {
        #[test]
        fn nothing_that_can_be_answered_panics_or_grows_long(body in proptest::collection::vec(any::<u8>(), 0..2000), tag in "<(title|TITLE| )?[^<]{0,9}<?/?") {
            for body in [body.clone(), [tag.as_bytes(), &body].concat()] {
                prop_assert!(words(&body, "t").is_none_or(|said| said.chars().count() <= CHARS_MAX + 1 && !said.contains(char::is_control)));
            }
        }
    }
}
