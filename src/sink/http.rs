//! `kind = "http"`: posts the payload as it came, or what `body` makes of it.
//!
//! | the sink | is taken as |
//! | --- | --- |
//! | answers 2xx | delivered |
//! | answers 408, 502, 503, 504, or a CDN's 521–526 and 530; cannot be resolved or reached; breaks off | trouble of the sink |
//! | answers 500 or another 5xx | trouble with this event |
//! | answers 429 | a rate limit |
//! | answers 401 or 403; resolves only to addresses that the config does not allow | a refusal: the sink rests, nothing is buried |
//! | answers 3xx or another 4xx | permanent |
//!
//! How it connects: [`super::client`].

mod request;
mod standard_webhooks;

use super::client::{self, Client, answer, is_https};
use super::{Delivery, OpenError, Outcomes, Sink, one_by_one};
use crate::clock;
use crate::config;
use crate::delivery::{Failure, Outcome};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use request::Template;

/// Posts each event to one URL.
pub struct HttpSink {
    template: Template,
    client: Client,
}

impl HttpSink {
    /// Checks URL, headers and, for https, that there are certificates to trust. `concurrency` is how many connections are worth keeping.
    pub fn new(config: &config::HttpSink, concurrency: usize) -> Result<Self, OpenError> {
        let template = Template::new(config)?;
        let client = Client::new(&config.allow, concurrency, is_https(template.uri())).map_err(OpenError::Tls)?;
        Ok(Self { template, client })
    }

    fn request(&self, delivery: &Delivery) -> Result<Request<Full<Bytes>>, Failure> {
        let request = self.template.request(delivery, clock::now);
        request.map_err(|error| Failure::permanent(format!("cannot make the `body`: {error}")))
    }

    async fn attempt(&self, delivery: &Delivery) -> Outcome {
        let request = match self.request(delivery) {
            Ok(request) => request,
            Err(failure) => return Outcome::Failed(failure),
        };
        match self.client.send(request).await {
            Ok(answer) => answer::judge(answer).await,
            Err(failure) => Outcome::Failed(failure),
        }
    }
}

impl Sink for HttpSink {
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        self.request(delivery).map(|request| client::show(&request)).map_err(Outcome::Failed)
    }

    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        one_by_one(batch, |delivery| self.attempt(delivery))
    }
}
