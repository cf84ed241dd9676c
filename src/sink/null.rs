//! `kind = "null"`: takes everything and keeps nothing. For measuring, and for switching a sink off without losing its place.

use super::{Delivery, Outcomes, Sink};
use crate::delivery::Outcome;

/// The sink that does nothing.
pub struct NullSink;

impl Sink for NullSink {
    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        Box::pin(async move { batch.iter().map(|_| Outcome::Delivered { status: None }).collect() })
    }

    fn batch_max(&self) -> usize {
        64
    }
}
