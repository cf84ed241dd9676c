//! The signed string's template.

/// A piece of the signed string.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The timestamp, as it came.
    Timestamp,
    /// The event id's header, as it came.
    EventId,
    /// The raw body.
    Body,
    Literal(String),
}

impl Part {
    /// Parses the signed string's template, `{timestamp}:{body}` for example; every other brace is refused.
    ///
    /// It must hold the body, once: a signature over anything less proves nothing of the event. `Err` says what is wrong.
    pub fn parse_template(template: &str) -> Result<Vec<Part>, &'static str> {
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, reference) = rest.split_at(at);
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let (part, after) = [("{timestamp}", Part::Timestamp), ("{event_id}", Part::EventId), ("{body}", Part::Body)]
                .into_iter()
                .find_map(|(word, part)| Some((part, reference.strip_prefix(word)?)))
                .ok_or("must have no braces but those of `{timestamp}`, `{event_id}` and `{body}`")?;
            parts.push(part);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        let bodies = parts.iter().filter(|part| **part == Part::Body).count();
        (bodies == 1).then_some(parts).ok_or("must hold `{body}` once")
    }
}
