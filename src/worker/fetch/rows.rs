//! From what was read to rows of a queue.

use crate::sink::{Delivery, idempotency_key};
use crate::store::deliveries::{Origin, WaitingRow};
use crate::store::log::LogEvent;
use crate::worker::pipe::Item;
use crate::worker::queue::Row;
use bytes::Bytes;

/// A fresh row of an event of the log; with `take`, no other sink needs what is in it.
pub fn fresh_row(event: &mut LogEvent, payload: Option<Bytes>, sink: &str, take: bool) -> Row<Box<Item>> {
    let text = |of: &mut String| if take { std::mem::take(of) } else { of.clone() };
    let maybe = |of: &mut Option<String>| if take { of.take() } else { of.clone() };
    let payload_left = payload.is_none().then_some(event.payload_bytes.unwrap_or(0) as usize);
    Row {
        epoch: 0,
        seq: event.seq,
        lane: event.lane,
        key: event.key,
        generation: 0,
        attempts: 0,
        origin: Origin::Fresh,
        due_at: None,
        mark: 0,
        // Rows are moved from list to list: what the try needs stays where it is.
        item: Box::new(Item {
            delivery: Some(Delivery {
                seq: event.seq,
                idempotency_key: idempotency_key(&event.source, &event.event_id, sink),
                source: event.source.as_str().into(),
                event_id: text(&mut event.event_id),
                event_type: maybe(&mut event.event_type),
                order_key: maybe(&mut event.order_key),
                received_at: event.received_at,
                payload: payload.unwrap_or_default(),
                traceparent: maybe(&mut event.traceparent),
            }),
            charged: false,
            has_row: false,
            payload_left,
        }),
    }
}

pub fn waiting_row(row: WaitingRow, sink: &str) -> Row<Box<Item>> {
    let left = row.event.as_ref().filter(|event| event.payload.is_none());
    let payload_left = left.map(|event| event.payload_bytes.unwrap_or(0) as usize).or(row.event.is_none().then_some(0));
    let delivery = row.event.map(|event| Delivery {
        seq: row.event_seq,
        idempotency_key: idempotency_key(&event.source, &event.event_id, sink),
        source: event.source.into(),
        event_id: event.event_id,
        event_type: event.event_type,
        order_key: event.order_key,
        received_at: event.received_at,
        payload: event.payload.unwrap_or_default().into(),
        traceparent: event.traceparent,
    });
    Row {
        epoch: 0,
        seq: row.event_seq,
        lane: row.lane,
        key: row.key,
        generation: row.generation,
        attempts: row.attempts,
        origin: row.origin,
        due_at: row.due_at,
        mark: row.mark,
        item: Box::new(Item { delivery, charged: false, has_row: true, payload_left }),
    }
}
