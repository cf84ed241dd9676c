//! What the sinks that tell people have in common: the text of an event, and how it is posted.

use super::client::{Client, answer, is_https};
use super::{Delivery, OpenError};
use crate::config;
use crate::delivery::{Failure, Outcome};
use crate::learning::{Learning, Unmapped};
use crate::mapping::Meta;
use crate::template::{Escape, Template};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use std::collections::HashMap;

/// Names the event to whatever stands in between; the services themselves ignore it.
const X_EVENT_ID: HeaderName = HeaderName::from_static("x-event-id");

/// The built-in texts. What they need of an event, [`Learning::parse`] has seen.
const TEXTS: [(&str, &str); 6] = [
    (
        "course.completed",
        "Course completed: {{ event.data.courseName | default(event.data.courseId) }}, by {{ event.data.userId }}\
         {% if event.data.score is number %}, with a score of {{ event.data.score }}{% endif %}",
    ),
    (
        "quiz.submitted",
        "Quiz submitted: {{ event.data.quizName | default(event.data.quizId) }}, by {{ event.data.userId }}\
         {% if event.data.score is number %}, with a score of {{ event.data.score }}\
         {% if event.data.maxScore is number %} of {{ event.data.maxScore }}{% endif %}{% endif %}",
    ),
    ("user.provisioned", "New user: {{ event.data.userId }}{% if event.data.role is string %}, as {{ event.data.role }}{% endif %}"),
    (
        "user.deprovisioned",
        "User removed: {{ event.data.userId }}{% if event.data.reason is string %}, because: {{ event.data.reason }}{% endif %}",
    ),
    (
        "module.progress",
        "Module in progress: {{ event.data.moduleName | default(event.data.moduleId) }}, by {{ event.data.userId }}\
         {% if event.data.progressPct is number %}, {{ event.data.progressPct }} %{% endif %}",
    ),
    (
        "certification.expired",
        "Certification expired: {{ event.data.certName }}, of {{ event.data.userId }}\
         {% if event.data.renewalDeadline is defined %}; to be renewed by {{ event.data.renewalDeadline }}{% endif %}",
    ),
];

/// The text of each event.
pub struct Texts {
    configured: Option<Template>,
    built_in: HashMap<&'static str, Template>,
}

impl Texts {
    /// `configured` for every event; where there is none, the built-in text of its type.
    pub fn new(configured: Option<Template>, escape: Escape) -> Self {
        let built_in = TEXTS.iter().filter_map(|&(name, source)| Some((name, Template::parse(source, escape).ok()?))).collect();
        Self { configured, built_in }
    }

    /// The text of an event; the error is what becomes of its delivery.
    pub fn of(&self, delivery: &Delivery) -> Result<String, Outcome> {
        if let Some(template) = &self.configured {
            return render(template, delivery, "text");
        }
        let event_type = delivery.event_type.as_deref().unwrap_or_default();
        let text = match (Learning::parse(&delivery.payload), self.built_in.get(event_type)) {
            (Ok(_), Some(template)) => template,
            (Ok(_), None) | (Err(Unmapped::Type), _) => {
                return Err(Outcome::Skipped { reason: "no built-in text for events of this type, and no `text` is configured".into() });
            }
            (Err(error), _) => return Err(Outcome::Failed(Failure::permanent(format!("cannot make the text: {error}")))),
        };
        render(text, delivery, "text")
    }
}

/// What a template makes of an event; `key` is what it is called in the config.
pub fn render(template: &Template, delivery: &Delivery, key: &str) -> Result<String, Outcome> {
    let meta = Meta {
        id: &delivery.event_id,
        event_type: delivery.event_type.as_deref(),
        source: &delivery.source,
        received_at: delivery.received_at,
    };
    let failed = |error| Outcome::Failed(Failure::permanent(format!("cannot make the `{key}`: {error}")));
    template.render(&delivery.payload, &meta).map_err(failed)
}

/// The beginning of a text: at most `max` characters, the last of them an ellipsis where something is missing.
pub fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Posts messages to one URL, which is itself the credential.
pub struct Poster {
    client: Client,
    uri: Uri,
}

impl Poster {
    /// `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::MessageSink, concurrency: usize) -> Result<Self, OpenError> {
        let uri: Uri = config.url.expose().parse().map_err(|_| OpenError::Url("is none"))?;
        let client = Client::new(&config.allow, concurrency, is_https(&uri)).map_err(OpenError::Tls)?;
        Ok(Self { client, uri })
    }

    /// The request that carries a message.
    pub fn request(&self, delivery: &Delivery, message: &serde_json::Value) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from(message.to_string())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))));
        if let Ok(id) = HeaderValue::from_str(&delivery.event_id) {
            headers.insert(X_EVENT_ID, id);
        }
        request
    }

    /// Sends a request, if there is one; its answer is judged by its status.
    pub async fn post(&self, request: Result<Request<Full<Bytes>>, Outcome>) -> Outcome {
        let request = match request {
            Ok(request) => request,
            Err(outcome) => return outcome,
        };
        match self.client.send(request).await {
            Ok(answer) => answer::judge(answer).await,
            Err(failure) => Outcome::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_text_can_be_read() {
        for escape in [Escape::Slack, Escape::Plain] {
            for (name, source) in TEXTS {
                assert!(Template::parse(source, escape).is_ok(), "{name}: {:?}", Template::parse(source, escape));
            }
        }
    }

    #[test]
    fn a_text_is_shortened_by_characters() {
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöüß", 3), "äö…");
    }
}
