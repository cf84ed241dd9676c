//! The fetcher: one task that reads due rows for all sinks and lanes of this worker, a few hundred at a time.
//!
//! **Nothing is left behind the cursor.** Events are numbered before they are committed, so a row can appear below one
//! that was read already. Each read therefore begins some milliseconds back. That catches nearly all; the sweep, once a
//! second, catches the rest whatever their commit took: it goes back to the *floor*, a position below which no
//! transaction can still commit. The floor follows from the locks that writers of `events` hold: a position that had
//! been seen while certain transactions were writing becomes the floor once all of these have ended.

use super::Shared;
use super::attempt;
use super::lane::DuePosition;
use super::pipe::{Item, Pipe};
use super::queue::{Offer, Row};
use super::reading::{Found, Look, Wanted};
use super::session::Session;
use crate::clock;
use crate::event::{LANES, fnv1a};
use crate::sink::{Delivery, idempotency_key};
use crate::store::deliveries::{self, DueRange, DueRow, FreshRange, Origin, Ranges};
use chrono::{DateTime, Utc};
use metrics::histogram;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How far back each read begins: longer than a commit takes under load.
const LOOK_BACK: Duration = Duration::from_millis(50);

/// After a read that found this many rows, the next hint may wait a little: many small reads cost more than a few larger ones.
const BUSY_FROM: usize = 16;
const BUSY_PAUSE: Duration = Duration::from_millis(3);

/// Reads until the shutdown begins.
pub async fn run(shared: Arc<Shared>) {
    let mut session = Session::new(shared.pool.clone());
    let mut horizon = Horizon::new(clock::instant());
    let mut next_poll = clock::instant();
    let mut busy = false;
    loop {
        let until = shared.pipes.iter().filter_map(|pipe| pipe.queue().next_due()).min().map(|due| shared.clock.instant_of(due));
        let until = until.map_or(next_poll, |due| due.min(next_poll));
        tokio::select! {
            () = shared.shutdown.begun() => return,
            () = shared.fetch.notified() => {}
            () = tokio::time::sleep_until(until.into()) => {}
        }
        if busy {
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        let now = clock::instant();
        let poll = now >= next_poll;
        match read(&shared, &mut session, &mut horizon, poll).await {
            Ok(rows) => busy = rows >= BUSY_FROM,
            Err(error) => {
                tracing::warn!(%error, "cannot read deliveries; trying again");
                shared.hinted.store(true, Ordering::Relaxed);
                tokio::select! {
                    () = shared.shutdown.begun() => return,
                    () = tokio::time::sleep(Duration::from_millis(300)) => {}
                }
                continue;
            }
        }
        if poll {
            // A poll that takes long must not become all that this worker does.
            let took = clock::instant().saturating_duration_since(now);
            next_poll = clock::instant() + shared.poll.max(took * 10);
        }
    }
}

/// One read for all sinks. Returns how many rows it found.
async fn read(shared: &Arc<Shared>, session: &mut Session, horizon: &mut Horizon, poll: bool) -> Result<usize, sqlx::Error> {
    let began = shared.clock.now();
    let hinted = shared.hinted.swap(false, Ordering::Relaxed);
    let changed = shared.changed.swap(false, Ordering::Relaxed);
    let reset = shared.reset.swap(false, Ordering::Relaxed) || changed;
    if changed {
        // What was read before an operator's change may no longer be owed.
        shared.pipes.iter().for_each(|pipe| pipe.queue().refresh());
    }
    let back_to = if poll { horizon.floor } else { horizon.recent(clock::instant()) };
    let look = Look { back_to, fresh: hinted || poll, due: reset || poll, sweep: poll };
    let plans: Vec<(&Arc<Pipe>, Vec<Wanted>)> = shared.pipes.iter().map(|pipe| (pipe, pipe.queue().plan(began, look))).collect();
    let ranges = ranges(&plans);
    if ranges.is_empty() {
        return Ok(0);
    }
    let timer = clock::instant();
    let result = session
        .run(async |conn| {
            // The writers first: whoever has ended by now, this read sees.
            let writers = if poll && horizon.is_behind() { Some(deliveries::writers(conn).await?) } else { None };
            Ok((writers, deliveries::read(conn, &ranges).await?))
        })
        .await;
    let (writers, rows) = match result {
        Ok(read) => read,
        Err(error) => {
            // As if it had found everything: the lanes keep their places and stay wanted.
            for (pipe, plan) in &plans {
                pipe.queue().fail_read(plan);
            }
            return Err(error);
        }
    };
    histogram!("sluice_fetch_seconds").record(clock::instant().saturating_duration_since(timer).as_secs_f64());
    histogram!("sluice_fetch_rows").record(rows.len() as f64);
    let count = rows.len();
    let last = rows.iter().filter(|row| row.origin == Origin::Fresh).map(|row| row.event_seq).max();
    distribute(shared, &plans, rows, began);
    if let Some(writers) = writers {
        horizon.swept(writers);
    }
    horizon.seen(last.unwrap_or(0), clock::instant());
    Ok(count)
}

fn ranges<'a>(plans: &[(&'a Arc<Pipe>, Vec<Wanted>)]) -> Ranges<'a> {
    let mut ranges = Ranges::default();
    for (tag, (pipe, plan)) in plans.iter().enumerate() {
        let (tag, sink): (i32, &'a str) = (tag as i32, &pipe.name);
        for wanted in plan {
            let lane = wanted.lane;
            let due = |(position, limit): (DuePosition, i64)| DueRange { tag, sink, lane, due: position.due, seq: position.seq, limit };
            ranges.fresh.extend(wanted.fresh.map(|(after, limit)| FreshRange { tag, sink, lane, after, limit }));
            ranges.waiting.extend(wanted.waiting.map(due));
            ranges.replay.extend(wanted.replay.map(due));
        }
    }
    ranges
}

/// Gives each queue its rows, in order, and tells it how far its lanes have been read.
fn distribute(shared: &Arc<Shared>, plans: &[(&Arc<Pipe>, Vec<Wanted>)], mut rows: Vec<DueRow>, began: DateTime<Utc>) {
    // Each sink's rows together; fresh ones by position, the others by due time: the order in which each key must come.
    rows.sort_unstable_by_key(|row| (row.tag, row.due_at, row.event_seq));
    let mut rows = rows.into_iter().peekable();
    for (tag, (pipe, plan)) in plans.iter().enumerate() {
        let mut found = [Found::default(); LANES as usize];
        let mut parked = Vec::new();
        {
            let mut queue = pipe.queue();
            let mut current = [false; LANES as usize];
            for wanted in plan {
                current[wanted.lane as usize] = queue.is_current(wanted);
            }
            while let Some(row) = rows.next_if(|row| row.tag == tag as i32) {
                if !current[row.lane as usize] {
                    continue;
                }
                found[row.lane as usize].add(row.origin, row.due_at, row.event_seq);
                if let Offer::Park(row, due_at) = queue.offer(to_row(row, &pipe.name), began) {
                    parked.push((row, due_at));
                }
            }
            let mut more = false;
            for wanted in plan {
                more |= queue.learn(wanted, &found[wanted.lane as usize], began);
            }
            if more && queue.has_room() {
                shared.fetch.notify_one();
            }
        }
        for (row, due_at) in parked {
            attempt::park(shared, pipe, &row, due_at);
        }
        pipe.wake.notify_one();
    }
}

fn to_row(row: DueRow, sink: &str) -> Row<Item> {
    let payload_left = row.payload.is_none();
    Row {
        epoch: 0,
        seq: row.event_seq,
        lane: row.lane,
        key: row.order_key.as_deref().map(fnv1a),
        generation: row.generation,
        attempts: row.attempts,
        origin: row.origin,
        due_at: row.due_at,
        item: Item {
            delivery: Some(Delivery {
                idempotency_key: idempotency_key(&row.source, &row.event_id, sink),
                source: row.source.into(),
                event_id: row.event_id,
                event_type: row.event_type,
                order_key: row.order_key,
                received_at: row.received_at,
                payload: row.payload.unwrap_or_default().into(),
                traceparent: row.traceparent,
            }),
            charged: false,
            payload_left,
        },
    }
}

/// How far fresh rows have been seen, now and a little while ago, and how far nothing can appear any more.
struct Horizon {
    seen: i64,
    floor: i64,
    /// A position that had been seen while these transactions were writing.
    pending: Option<(i64, Vec<String>)>,
    /// What had been seen, and when: younger than [`LOOK_BACK`], but for the first.
    history: VecDeque<(Instant, i64)>,
}

impl Horizon {
    fn new(now: Instant) -> Self {
        Self { seen: 0, floor: 0, pending: None, history: VecDeque::from([(now, 0)]) }
    }

    /// Whether the floor could rise.
    fn is_behind(&self) -> bool {
        self.seen > self.floor
    }

    fn seen(&mut self, last: i64, now: Instant) {
        if last > self.seen {
            self.seen = last;
            self.history.push_back((now, last));
        }
    }

    /// What had been seen a [`LOOK_BACK`] ago.
    fn recent(&mut self, now: Instant) -> i64 {
        while self.history.len() > 1 && now.saturating_duration_since(self.history[1].0) >= LOOK_BACK {
            self.history.pop_front();
        }
        self.history[0].1
    }

    /// A sweep has read from the floor, after these transactions were found writing.
    fn swept(&mut self, writers: Vec<String>) {
        if let Some((position, waited_for)) = self.pending.take() {
            if waited_for.iter().any(|writer| writers.contains(writer)) {
                self.pending = Some((position, waited_for));
                return;
            }
            self.floor = position;
        }
        if writers.is_empty() {
            self.floor = self.seen;
        } else {
            self.pending = Some((self.seen, writers));
        }
    }
}
