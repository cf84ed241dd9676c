//! `kind = "http"`.
use super::{Delivery, OpenError, Outcomes, Sink};
pub struct HttpSink;
impl HttpSink {
    pub fn new(_config: &crate::config::HttpSink, _concurrency: usize) -> Result<Self, OpenError> {
        Ok(Self)
    }
}
impl Sink for HttpSink {
    fn deliver<'a>(&'a self, _batch: &'a [Delivery]) -> Outcomes<'a> {
        Box::pin(async { vec![] })
    }
}
