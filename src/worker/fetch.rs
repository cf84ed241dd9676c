//! The fetcher: one task that reads for all sinks and lanes of this worker. Fresh deliveries come from the log, once for all sinks that stand
//! at the same place; what waits comes by its time, or by its key.

mod plan;
mod rows;

use super::Shared;
use super::conclude;
use super::lease;
use super::pipe::Item;
use super::queue::{KEY_ROWS_MAX, Offer, Queue, Row};
use super::reading::Found;
use super::session::Session;
use super::tail::{Span, Tail};
use crate::clock;
use crate::event::LANES;
use crate::store::deliveries::{self, ReadBy, Sweep, Swept, WaitingRow};
use crate::store::log::{self, KeyOfSink, LogEvent, LogRange};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use metrics::histogram;
use plan::{Plan, due_ranges, groups, is_owed, readers_of, unknown_keys, with_sinks};
use rows::{fresh_row, waiting_row};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After a read that found this many rows, the next hint may wait a little: many small reads cost more than a few larger ones.
const BUSY_FROM: usize = 16;
const BUSY_PAUSE: Duration = Duration::from_millis(3);

/// How often all lanes are swept for keys that nobody asks for: there should be none.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Reads until the shutdown begins.
pub async fn run(shared: Arc<Shared>) {
    let mut fetcher = Fetcher {
        session: Session::new(shared.connections.clone()),
        shared: shared.clone(),
        tail: Tail::default(),
        more: false,
        sweeps_at: clock::instant() + SWEEP_EVERY,
    };
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
        match fetcher.read(poll).await {
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

struct Fetcher {
    shared: Arc<Shared>,
    session: Session,
    tail: Tail,
    /// The last read of the tail stopped at its limit.
    more: bool,
    sweeps_at: Instant,
}

/// What one read has found.
struct Answer {
    events: Vec<LogEvent>,
    /// By sink and key: the first position that waits.
    first_waiting: HashMap<(usize, i64), i64>,
    waiting: Vec<WaitingRow>,
    swept: Vec<Swept>,
    /// What some sink is owed has changed, and this worker does not know it yet.
    is_outdated: bool,
}

impl Fetcher {
    /// One read for all sinks. Returns how many rows it found.
    async fn read(&mut self, poll: bool) -> Result<usize, sqlx::Error> {
        let began = self.shared.clock.now();
        let hinted = self.shared.hinted.swap(false, Ordering::Relaxed);
        let changed = self.shared.changed.swap(false, Ordering::Relaxed);
        let reset = self.shared.reset.swap(false, Ordering::Relaxed) || changed;
        if changed {
            // What was read before an operator's change may no longer be owed.
            self.shared.pipes.iter().for_each(|pipe| pipe.queue().refresh());
        }
        if self.shared.lost_tail.swap(false, Ordering::AcqRel) {
            self.tail = Tail::default();
        }
        let everywhere = hinted || poll;
        let mut is_stale = everywhere || self.more;
        if everywhere && self.tail.asks(clock::instant()) {
            let issued = self.session.run(async |conn| log::issued(conn).await).await?;
            if self.tail.is_outdated_by(&issued) {
                // Positions that were seen to be given out may come again: all lanes begin again from where they are settled.
                tracing::info!("connected anew: reading the log again from where it is settled");
                for pipe in &self.shared.pipes {
                    lease::reload(&self.shared, pipe).await?;
                }
                self.tail = Tail::default();
            }
            self.shared.set_asker(issued.asker);
            self.tail.answer(issued, clock::instant());
            is_stale = self.more || self.tail.is_stale();
        }
        if poll && clock::instant() >= self.sweeps_at {
            self.sweeps_at = clock::instant() + SWEEP_EVERY;
            self.shared.pipes.iter().for_each(|pipe| pipe.queue().sweep_all());
        }
        let plan = self.plan(began, is_stale, reset || poll);
        if plan.is_empty() {
            return Ok(0);
        }
        let timer = clock::instant();
        let answer = match self.ask(&plan).await {
            Ok(answer) => answer,
            Err(error) => {
                self.fail(&plan);
                return Err(error);
            }
        };
        if answer.is_outdated {
            // Events read under the old rules would be passed over, and come late. What it was is loaded with the next renewal, at once.
            self.fail(&plan);
            self.shared.hinted.store(true, Ordering::Relaxed);
            self.shared.renew.notify_one();
            return Ok(0);
        }
        let count = answer.events.len() + answer.waiting.len();
        histogram!("sluice_fetch_seconds").record(clock::instant().saturating_duration_since(timer).as_secs_f64());
        histogram!("sluice_fetch_rows").record(count as f64);
        self.distribute(plan, answer);
        Ok(count)
    }

    /// What was planned was not read: the lanes keep their places and stay wanted.
    fn fail(&self, plan: &Plan) {
        for ((pipe, due), pages) in self.shared.pipes.iter().zip(&plan.due).zip(&plan.pages) {
            pipe.queue().fail_read(due, pages);
        }
    }

    fn plan(&mut self, began: DateTime<Utc>, is_stale: bool, due_everywhere: bool) -> Plan {
        let pipes = &self.shared.pipes;
        let mut plan = Plan {
            began,
            log: Vec::with_capacity(pipes.len()),
            due: Vec::new(),
            pages: Vec::new(),
            sweeps: Vec::new(),
            spans: Vec::new(),
            groups: Vec::new(),
            ranges: Vec::new(),
        };
        // Nobody has seen what the tail has seen: it begins anew, where they will come to.
        if !pipes.iter().any(|pipe| pipe.queue().has_seen_tail()) {
            self.tail.restart();
        }
        for pipe in pipes {
            let mut queue = pipe.queue();
            queue.begin_read();
            plan.log.push(queue.plan_log(self.tail.head(), self.tail.complete_to()));
            plan.due.push(queue.plan_due(began, due_everywhere));
            plan.pages.push(queue.plan_pages());
            plan.sweeps.push(queue.plan_sweeps());
        }
        let near = || plan.log.iter().filter(|of| !of.near.is_empty());
        let from = near().filter_map(|of| of.near.from).min();
        if near().next().is_some() && (is_stale || from.is_some()) {
            plan.spans = self.tail.spans(from);
            let lanes = near().fold(0, |mask, of| mask | of.near.mask);
            let limit = near().map(|of| of.room).min().unwrap_or(0).max(1);
            let range =
                |(reader, span): (usize, &Span)| LogRange { reader: reader as i32, after: span.after, until: span.until, limit, lanes };
            plan.ranges.extend(plan.spans.iter().enumerate().map(range));
        }
        plan.groups = groups(&plan.log, self.tail.floor());
        let first = plan.spans.len();
        plan.ranges.extend(plan.groups.iter().enumerate().map(|(i, group)| LogRange {
            reader: (first + i) as i32,
            after: group.after,
            until: group.until,
            limit: group.room,
            lanes: group.lanes,
        }));
        plan
    }

    async fn ask(&mut self, plan: &Plan) -> Result<Answer, sqlx::Error> {
        let pipes = &self.shared.pipes;
        let types: Option<Vec<String>> =
            pipes.iter().map(|pipe| pipe.queue().types()).collect::<Option<Vec<_>>>().map(|types| types.concat());
        let due = due_ranges(pipes, plan);
        let sweeps: Vec<Sweep<'_>> =
            with_sinks(pipes, &plan.sweeps).map(|(tag, sink, &(lane, _, after))| Sweep { tag, sink, lane, after }).collect();
        // A sink without lanes has no part in it.
        let revisions: Vec<(&str, i32)> = pipes.iter().filter_map(|pipe| Some((&*pipe.name, pipe.queue().revision()?))).collect();
        let (sinks, known): (Vec<&str>, Vec<i32>) = revisions.into_iter().unzip();
        let known: i64 = known.into_iter().map(i64::from).sum();
        let tail = &self.tail;
        self.session
            .run(async |conn| {
                let mut answer = Answer {
                    events: Vec::new(),
                    first_waiting: HashMap::new(),
                    waiting: Vec::new(),
                    swept: Vec::new(),
                    is_outdated: false,
                };
                if !plan.ranges.is_empty() {
                    answer.events = log::read(conn, &plan.ranges, types.as_deref(), &sinks).await?;
                    answer.is_outdated = answer.events.first().is_some_and(|event| event.revisions != known);
                    answer.events.sort_by_key(|event| (event.reader, event.seq));
                }
                // After the events: what was recorded of their keys before they were read, this sees.
                let keys = unknown_keys(pipes, plan, tail, &answer.events);
                if !keys.is_empty() {
                    let asked: Vec<KeyOfSink<'_>> =
                        keys.iter().map(|&(pipe, lane, key)| KeyOfSink { sink: &pipes[pipe].name, lane, key }).collect();
                    let first = log::first_waiting(conn, &asked).await?;
                    answer.first_waiting =
                        keys.iter().zip(first).filter_map(|(&(pipe, _, key), first)| Some(((pipe, key), first?))).collect();
                }
                if !due.is_empty() {
                    answer.waiting = deliveries::read(conn, &due).await?;
                }
                if !sweeps.is_empty() {
                    answer.swept = deliveries::sweep(conn, &sweeps).await?;
                }
                Ok(answer)
            })
            .await
    }

    /// Gives each queue its rows, in order, and tells it how far its lanes have been read.
    fn distribute(&mut self, plan: Plan, answer: Answer) {
        let Answer { mut events, first_waiting, waiting, swept, .. } = answer;
        let first_group = plan.spans.len() as i32;
        let payloads: Vec<Option<Bytes>> = events.iter_mut().map(|event| event.payload.take().map(Bytes::from)).collect();
        // How far each range was looked at.
        let mut found: Vec<Vec<i64>> = vec![Vec::new(); plan.ranges.len()];
        for event in &events {
            found[event.reader as usize].push(event.seq);
        }
        let is_new: Vec<bool> = events.iter().map(|event| event.reader >= first_group || self.tail.is_new(event.seq)).collect();
        let is_full = |range: &LogRange, found: &[i64]| found.len() as i64 >= range.limit;
        let mut near_to = None;
        if !plan.spans.is_empty() {
            let read: Vec<(Span, Vec<i64>, bool)> = plan
                .spans
                .iter()
                .zip(&found)
                .zip(&plan.ranges)
                .map(|((span, found), range)| (*span, found.clone(), is_full(range, found)))
                .collect();
            self.more = read.iter().any(|(.., full)| *full);
            let looked_to = self.tail.learn(&read);
            near_to = (looked_to < self.tail.head()).then(|| looked_to.min(self.tail.floor()));
        }
        let group_to: Vec<i64> = plan
            .groups
            .iter()
            .zip(&plan.ranges[plan.spans.len()..])
            .zip(&found[plan.spans.len()..])
            .map(|((group, range), found)| if is_full(range, found) { found.last().copied().unwrap_or(group.until) } else { group.until })
            .collect();
        let (mut waiting, mut swept) = (by_sink(waiting, |row| row.tag), by_sink(swept, |row| row.tag));
        let shared = &self.shared;
        let worker = shared.lease.id();
        let mut more = self.more;
        for (tag, pipe) in shared.pipes.iter().enumerate() {
            let mut parked = Vec::new();
            {
                let mut queue = pipe.queue();
                let (log, is_last) = (&plan.log[tag], tag + 1 == shared.pipes.len());
                let group = plan.groups.iter().position(|group| group.pipes.contains(&tag));
                for (i, event) in events.iter_mut().enumerate() {
                    let readers = readers_of(log, event.reader, first_group, group);
                    let wanted = readers.is_some_and(|readers| readers.wants(event.lane, event.seq, is_new[i]));
                    if !wanted || !is_owed(&queue, event, &pipe.name) {
                        continue;
                    }
                    let first = event.key.and_then(|key| first_waiting.get(&(tag, key)).copied());
                    let row = fresh_row(event, payloads[i].clone(), &pipe.name, is_last);
                    if let Offer::Park(row) = queue.offer_fresh(row, first) {
                        parked.push(row);
                    }
                }
                if !plan.spans.is_empty() {
                    queue.learn_log(&log.near, near_to);
                }
                if let Some(group) = group {
                    queue.learn_log(&log.far, Some(group_to[group]));
                }
                more |= queue.is_behind();
                more |= offer_waiting(&mut queue, &plan, tag, waiting.remove(&tag).unwrap_or_default(), &pipe.name, &mut parked);
                let found = swept.remove(&tag).unwrap_or_default();
                for planned in &plan.sweeps[tag] {
                    let rows: Vec<(i64, i64, bool)> =
                        found.iter().filter(|row| row.lane == planned.0).map(|row| (row.key, row.event_seq, row.is_parked)).collect();
                    queue.learn_sweep(*planned, &rows);
                }
                more |= !queue.pages.is_empty() || !queue.plan_sweeps().is_empty();
            }
            for row in parked {
                conclude::park(shared, pipe, &row, worker);
            }
            pipe.wake.notify_one();
        }
        if more {
            shared.fetch.notify_one();
        }
    }
}

/// Rows by the number of their sink.
fn by_sink<T>(rows: Vec<T>, tag: impl Fn(&T) -> i32) -> HashMap<usize, Vec<T>> {
    let mut sorted: HashMap<usize, Vec<T>> = HashMap::new();
    for row in rows {
        sorted.entry(tag(&row) as usize).or_default().push(row);
    }
    sorted
}

/// Gives a queue its waiting rows. Returns whether there are more of them.
fn offer_waiting(
    queue: &mut Queue<Box<Item>>,
    plan: &Plan,
    tag: usize,
    mut rows: Vec<WaitingRow>,
    sink: &str,
    parked: &mut Vec<Row<Box<Item>>>,
) -> bool {
    // By time; those of a key's page by position: the orders in which they must come.
    rows.sort_by_cached_key(|row| (row.read_by == ReadBy::Page, row.due_at.filter(|_| row.read_by == ReadBy::Due), row.event_seq));
    let mut found = [Found::default(); LANES as usize];
    let mut current = [false; LANES as usize];
    for wanted in &plan.due[tag] {
        current[wanted.lane as usize] = queue.is_current(wanted);
    }
    let mut pages: HashMap<i64, Vec<Row<Box<Item>>>> = plan.pages[tag].iter().map(|(_, key)| (*key, Vec::new())).collect();
    for row in rows {
        if row.read_by == ReadBy::Page {
            if let Some(page) = row.key.and_then(|key| pages.get_mut(&key)) {
                page.push(waiting_row(row, sink));
            }
            continue;
        }
        if !current[row.lane as usize] {
            continue;
        }
        found[row.lane as usize].add(row.origin, row.due_at, row.event_seq);
        let is_head = row.is_head;
        if let Offer::Park(row) = queue.offer_waiting(waiting_row(row, sink), is_head) {
            parked.push(row);
        }
    }
    for (key, page) in pages {
        let full = page.len() >= KEY_ROWS_MAX;
        queue.offer_page(key, page, full, plan.began);
    }
    let mut more = false;
    for wanted in &plan.due[tag] {
        more |= queue.learn_due(wanted, &found[wanted.lane as usize]);
    }
    more && queue.has_room()
}
