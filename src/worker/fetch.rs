//! The fetcher: one task that reads due rows for all sinks and lanes of this worker, a few hundred at a time.
//!
//! **Nothing is left behind the cursor.** Events are numbered before they are committed, so a row can appear below one
//! that was read already. Each read therefore begins at the *floor*, a position below which no transaction can still
//! commit: some milliseconds back, while events arrive. See [`Horizon`].

use super::Shared;
use super::conclude;
use super::lane::DuePosition;
use super::pipe::{Item, Pipe};
use super::queue::{Offer, Row};
use super::reading::{Found, Look, Wanted};
use super::session::Session;
use crate::clock;
use crate::event::{LANES, fnv1a};
use crate::sink::{Delivery, idempotency_key};
use crate::store::deliveries::{self, DueRange, DueRow, FreshRange, Issued, Origin, Ranges};
use chrono::{DateTime, Utc};
use metrics::histogram;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the floor is asked for while events arrive.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// After a read that found this many rows, the next hint may wait a little: many small reads cost more than a few larger ones.
const BUSY_FROM: usize = 16;
const BUSY_PAUSE: Duration = Duration::from_millis(3);

/// Reads until the shutdown begins.
pub async fn run(shared: Arc<Shared>) {
    let mut session = Session::new(shared.connections.clone());
    let mut horizon = Horizon::new(shared.look_back);
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
    let everywhere = hinted || poll;
    let back_to = horizon.back_to(poll, clock::instant());
    let ask = everywhere && horizon.asks(clock::instant());
    let look = Look { back_to, fresh: everywhere, due: reset || poll, sweep: ask };
    let plans: Vec<(&Arc<Pipe>, Vec<Wanted>)> = shared.pipes.iter().map(|pipe| (pipe, pipe.queue().plan(began, look))).collect();
    let ranges = ranges(&plans);
    if ranges.is_empty() {
        return Ok(0);
    }
    let timer = clock::instant();
    let result = session
        .run(async |conn| {
            // The writers first: what those who are gone by now have committed, this read sees.
            let issued = if ask { Some(deliveries::issued(conn).await?) } else { None };
            Ok((issued, deliveries::read(conn, &ranges).await?))
        })
        .await;
    let (issued, rows) = match result {
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
    horizon.seen = horizon.seen.max(last.unwrap_or(0));
    if let Some(issued) = issued {
        horizon.read_all(back_to, issued, clock::instant());
    }
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
    rows.sort_by_cached_key(|row| (row.tag, row.due_at, row.event_seq));
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
            let mut more = queue.left_out;
            for wanted in plan {
                more |= queue.learn(wanted, &found[wanted.lane as usize], began);
            }
            if more && queue.has_room() {
                shared.fetch.notify_one();
            }
        }
        for (row, due_at) in parked {
            conclude::park(shared, pipe, &row, due_at);
        }
        pipe.wake.notify_one();
    }
}

fn to_row(row: DueRow, sink: &str) -> Row<Box<Item>> {
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
        // Rows are moved from list to list: what the try needs stays where it is.
        item: Box::new(Item {
            delivery: Some(Delivery {
                seq: row.event_seq,
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
        }),
    }
}

/// How far nothing can appear any more: the *floor*.
///
/// It follows from the locks that writers of `events` hold. A position that had been given out while certain transactions
/// were writing becomes the floor once all of these have ended and every lane has been read from the old floor since.
/// No commit is ever too slow for that; but one that takes for ever would make each read longer than the last. So most
/// reads go back no further than to what had been given out a *look-back* ago, longer than any commit can take whose
/// event is still acknowledged: the order of a key is kept among acknowledged events. The poll finds the rest.
struct Horizon {
    look_back: Duration,
    /// The highest position seen.
    seen: i64,
    floor: i64,
    /// A position that had been given out while these transactions were writing.
    pending: Option<(i64, Vec<String>)>,
    /// What had been given out, and when: younger than the look-back, but for the first.
    history: VecDeque<(Instant, i64)>,
}

impl Horizon {
    fn new(look_back: Duration) -> Self {
        Self { look_back, seen: 0, floor: 0, pending: None, history: VecDeque::new() }
    }

    /// Whether it is worth asking how far the floor could rise.
    fn asks(&self, now: Instant) -> bool {
        self.history.back().is_none_or(|(asked_at, _)| self.seen > self.floor && now.saturating_duration_since(*asked_at) >= ASK_EVERY)
    }

    /// Where a read must begin to find whatever has appeared late.
    fn back_to(&mut self, poll: bool, now: Instant) -> i64 {
        let old = |(asked_at, _): &(Instant, i64)| now.saturating_duration_since(*asked_at) >= self.look_back;
        while self.history.get(1).is_some_and(old) {
            self.history.pop_front();
        }
        match self.history.front() {
            Some(first) if !poll && old(first) => self.floor.max(first.1),
            _ => self.floor,
        }
    }

    /// All lanes have been read from `began_at` on, after positions and writers were `issued`.
    fn read_all(&mut self, began_at: i64, issued: Issued, now: Instant) {
        if began_at <= self.floor {
            let is_open = |writers: &[String]| writers.iter().any(|writer| issued.writers.contains(writer));
            if let Some((position, _)) = self.pending.take_if(|(_, writers)| !is_open(writers)) {
                self.floor = position;
            }
            if issued.writers.is_empty() {
                self.floor = issued.last;
            }
        }
        self.history.push_back((now, issued.last));
        if self.pending.is_none() && issued.last > self.floor {
            self.pending = Some((issued.last, issued.writers));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_BACK: Duration = Duration::from_secs(3);

    fn issued(last: i64, writers: &[&str]) -> Issued {
        Issued { last, writers: writers.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn the_floor_is_what_was_given_out_before_the_last_of_the_writers_ended() {
        let (mut horizon, now) = (Horizon::new(LOOK_BACK), clock::instant());
        horizon.read_all(0, issued(10, &["a", "b"]), now);
        assert_eq!(horizon.back_to(false, now), 0);
        horizon.read_all(0, issued(20, &["b", "c"]), now);
        assert_eq!(horizon.back_to(false, now), 0, "b may still commit 1 to 10");
        horizon.read_all(0, issued(30, &["c"]), now);
        assert_eq!(horizon.back_to(false, now), 10, "c may have numbered 11");
        horizon.read_all(10, issued(40, &[]), now);
        assert_eq!(horizon.back_to(false, now), 40);
    }

    #[test]
    fn a_writer_that_never_ends_makes_only_the_polls_go_back_to_it() {
        let (mut horizon, start) = (Horizon::new(LOOK_BACK), clock::instant());
        for second in 0..10 {
            horizon.read_all(0, issued(second * 100, &["slow"]), start + Duration::from_secs(second as u64));
        }
        let now = start + Duration::from_secs(10);
        assert_eq!(horizon.back_to(true, now), 0);
        assert_eq!(horizon.back_to(false, now), 700);
        horizon.read_all(700, issued(1000, &[]), now);
        assert_eq!(horizon.back_to(true, now), 0, "that read did not begin at the floor");
        horizon.read_all(0, issued(1000, &[]), now);
        assert_eq!(horizon.back_to(true, now), 1000);
    }

    #[test]
    fn the_floor_is_asked_for_at_first_and_then_while_events_arrive() {
        let (mut horizon, now) = (Horizon::new(LOOK_BACK), clock::instant());
        assert!(horizon.asks(now));
        horizon.read_all(0, issued(5, &[]), now);
        let later = now + ASK_EVERY;
        assert!(!horizon.asks(later));
        horizon.seen = 6;
        assert!(!horizon.asks(now), "too soon");
        assert!(horizon.asks(later));
    }
}
