//! Templates of the config: the prose of messages, in the language of Jinja. Pure.
//!
//! A template sees what expressions see: `event`, the payload, and `meta`: `id`, `type`, `source` and `received_at`. What it takes from an
//! event is escaped for where it goes, and none of it can begin a new line. A field that the event lacks is an error, unless the
//! template says what stands for it: `{{ event.data.quizName | default("a quiz") }}`.

use crate::mapping::Meta;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

/// Longest template.
const SOURCE_BYTES_MAX: usize = 16 * 1024;
/// Largest payload that templates are filled in from, as for expressions.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Most that a template may make: more than any service takes in one message.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Steps of the engine: some milliseconds.
const FUEL: u64 = 50_000;
/// The one template of each environment.
const NAME: &str = "text";

/// Where a text goes, which decides what of an event's values is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// Slack's mrkdwn: `&`, `<` and `>` begin links and mentions such as `<!channel>`.
    Slack,
    /// A place without markup.
    Plain,
}

/// A template, compiled.
#[derive(Clone)]
pub struct Template {
    environment: Arc<Environment<'static>>,
}

/// Why there is no text for an event. Repeats nothing of the event: it may be personal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unrendered {
    #[error("the payload is larger than the {} KiB that templates are filled in from", PAYLOAD_BYTES_MAX / 1024)]
    Large,
    #[error("the payload is not JSON")]
    NotJson,
    #[error("the event lacks a field that line {line} of the template needs, which is one of {fields}; `default` can stand in for it")]
    Missing { line: usize, fields: String },
    #[error("it makes more than {} KiB of text", OUTPUT_BYTES_MAX / 1024)]
    Long,
    #[error("it takes too many steps for this event")]
    Fuel,
    #[error("line {0} of the template cannot be filled in for this event")]
    Other(usize),
}

impl Template {
    /// Compiles a template. The error ends a sentence that begins with the key, and says where in the template the mistake is.
    pub fn parse(source: &str, escape: Escape) -> Result<Self, String> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(format!("must not be longer than {SOURCE_BYTES_MAX} bytes"));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        // So that what a macro or a block has made counts as escaped already.
        environment.set_auto_escape_callback(|_| AutoEscape::Custom(NAME.into()));
        environment.set_formatter(move |out, _, value| {
            let text = value.to_string();
            // What the template itself declares safe is its author's.
            let written = if value.is_safe() { out.write_str(&text) } else { out.write_str(&escaped(&text, escape)) };
            written.map_err(Into::into)
        });
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| {
            // The engine's own words would repeat the template, into which a variable may have put a secret.
            let line = error.line().unwrap_or(1);
            format!("must be a template such as \"Score: {{{{ event.data.score }}}}\": this one cannot be read at its line {line}")
        })?;
        let template = Self { environment: Arc::new(environment) };
        let unknown = template.variables().into_iter().any(|name| !matches!(name.split('.').next(), Some("event" | "meta")));
        if unknown {
            return Err("knows `event` and `meta` alone, such as {{ event.data.score }}: it names something else".into());
        }
        Ok(template)
    }

    /// The text for an event.
    pub fn render(&self, payload: &[u8], meta: &Meta) -> Result<String, Unrendered> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Unrendered::Large);
        }
        let event: serde_json::Value = serde_json::from_slice(payload).map_err(|_| Unrendered::NotJson)?;
        let meta = context! {
            id => meta.id,
            type => meta.event_type,
            source => meta.source,
            received_at => meta.received_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        };
        let template = self.environment.get_template(NAME).map_err(|_| Unrendered::Other(1))?;
        let mut text = Capped(Vec::new());
        let rendered = template.render_captured_to(context! { event => Value::from(Serde(&event)), meta }, &mut text).map(drop);
        rendered.map_err(|error| self.unrendered(&error, text.0.len()))?;
        // It was written in pieces of text.
        Ok(String::from_utf8_lossy(&text.0).into_owned())
    }

    fn unrendered(&self, error: &minijinja::Error, written: usize) -> Unrendered {
        let line = error.line().unwrap_or(1);
        match error.kind() {
            ErrorKind::OutOfFuel => Unrendered::Fuel,
            ErrorKind::WriteFailure if written > 0 => Unrendered::Long,
            // The names are the template's own: a key that was computed from the event is not among them.
            ErrorKind::UndefinedError => Unrendered::Missing { line, fields: format!("`{}`", self.variables().join("`, `")) },
            _ => Unrendered::Other(line),
        }
    }

    /// What the template names, such as `event.data.score`; in the order of the alphabet.
    fn variables(&self) -> Vec<String> {
        let template = self.environment.get_template(NAME);
        let mut names: Vec<_> = template.map(|template| template.undeclared_variables(true).into_iter().collect()).unwrap_or_default();
        names.sort_unstable();
        names
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("names", &self.variables()).finish()
    }
}

fn escaped(text: &str, escape: Escape) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match (char, escape) {
            ('&', Escape::Slack) => escaped.push_str("&amp;"),
            ('<', Escape::Slack) => escaped.push_str("&lt;"),
            ('>', Escape::Slack) => escaped.push_str("&gt;"),
            (char, _) if char.is_control() || moves_text(char) => escaped.push(' '),
            (char, _) => escaped.push(char),
        }
    }
    escaped
}

/// Separators of lines and paragraphs, and what turns the direction of the text around it: a name could pass for another.
fn moves_text(char: char) -> bool {
    matches!(char, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Takes no more than a message may have.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, escape: Escape) -> Result<String, Unrendered> {
        let payload = br#"{"event":"quiz.submitted","data":{"userId":"u-1 <!channel> & co\r\nBcc: x","score":45,"list":[1,2,3]}}"#;
        let received_at = chrono::DateTime::from_timestamp(1_767_323_045, 0).unwrap();
        let meta = Meta { id: "evt_1", event_type: Some("quiz.submitted"), source: "mindtickle", received_at };
        Template::parse(source, escape).unwrap_or_else(|error| panic!("{source}: {error}")).render(payload, &meta)
    }

    #[test]
    fn a_text_is_filled_in_and_what_comes_from_the_event_is_escaped_for_where_it_goes() {
        let source = "<b> {{ event.data.userId }}: {{ event.data.score }} ({{ meta.id }}, {{ meta.received_at }})";
        let tail = ": 45 (evt_1, 2026-01-02T03:04:05.000Z)";
        assert_eq!(render(source, Escape::Slack).unwrap(), format!("<b> u-1 &lt;!channel&gt; &amp; co  Bcc: x{tail}"));
        assert_eq!(render(source, Escape::Plain).unwrap(), format!("<b> u-1 <!channel> & co  Bcc: x{tail}"));
        assert_eq!(render("{{ '<' ~ event.data.userId[4:13] }}", Escape::Slack).unwrap(), "&lt;&lt;!channel");
    }

    #[test]
    fn what_a_macro_or_a_block_makes_is_escaped_once_and_the_templates_own_text_never() {
        for source in [
            "{% set who %}<b>{{ event.data.userId }}{% endset %}{{ who }}",
            "{% macro who(u) %}<b>{{ u }}{% endmacro %}{{ who(event.data.userId) }}",
        ] {
            assert_eq!(render(source, Escape::Slack).unwrap(), "<b>u-1 &lt;!channel&gt; &amp; co  Bcc: x", "{source}");
        }
    }

    #[test]
    fn no_character_of_an_event_begins_a_line_or_turns_the_text_around() {
        assert_eq!(escaped("a\u{2028}b\u{2029}c\u{202E}d\u{2066}e\u{7}f", Escape::Plain), "a b c d e f");
        assert_eq!(escaped("käse 😀", Escape::Plain), "käse 😀");
    }

    #[test]
    fn a_field_that_is_missing_is_named_unless_something_stands_for_it() {
        let error = render("a\n{{ event.data.quizName }}", Escape::Plain).unwrap_err();
        assert_eq!(error, Unrendered::Missing { line: 2, fields: "`event.data.quizName`".into() });
        assert_eq!(render("{{ event.data.quizName | default('a quiz') }}", Escape::Plain).unwrap(), "a quiz");
    }

    #[test]
    fn a_template_that_could_never_work_is_refused_and_its_line_is_told() {
        for (source, reason) in [
            ("a\n{{ event.data. }}", "at its line 2"),
            ("{% for n in event.data.list %}", "at its line 1"),
            ("{{ evnt.data.score }}", "`event` and `meta` alone"),
            ("{% for n in range(1000) %}{% endfor %}", "`event` and `meta` alone"),
            (&"x".repeat(20_000), "longer than"),
        ] {
            let error = Template::parse(source, Escape::Plain).unwrap_err();
            assert!(error.contains(reason), "{source}: {error}");
        }
        assert_eq!(render("{% for n in event.data.list %}{{ n }}{% endfor %}", Escape::Plain).unwrap(), "123");
    }

    #[test]
    fn a_text_ends_at_its_bounds_of_steps_and_of_size() {
        let nested = |body: &str| {
            let open: String = (0..12).map(|n| format!("{{% for v{n} in event.data.list %}}")).collect();
            format!("{open}{body}{}", "{% endfor %}".repeat(12))
        };
        assert_eq!(render(&nested(""), Escape::Plain), Err(Unrendered::Fuel));
        assert_eq!(render(&nested(&"x".repeat(8000)), Escape::Plain), Err(Unrendered::Long));
    }
}
