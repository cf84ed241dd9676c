//! What one read asks for: of the log, for which sinks together, and of what waits.

use crate::store::deliveries::{DueRange, KeyPage, Ranges};
use crate::store::log::{LogEvent, LogRange};
use crate::worker::lane::DuePosition;
use crate::worker::pipe::Pipe;
use crate::worker::queue::{KEY_ROWS_MAX, Queue};
use crate::worker::reading::{LogPlan, Readers, Wanted};
use crate::worker::tail::{Span, Tail};
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// Positions that one range covers at most: some 15 ms of looking where nothing is wanted.
const RANGE_MAX: i64 = 50_000;

/// Sinks that have to catch up read together where they are no further apart than this.
const TOGETHER_WITHIN: i64 = 2_000;

/// What one read asks for.
pub struct Plan {
    pub began: DateTime<Utc>,
    /// Of each sink.
    pub log: Vec<LogPlan>,
    pub due: Vec<Vec<Wanted>>,
    pub pages: Vec<Vec<(i16, i64)>>,
    pub sweeps: Vec<Vec<(i16, u64, i64)>>,
    /// Of the tail; none: it is not read.
    pub spans: Vec<Span>,
    /// Sinks that have to catch up, those together that read together.
    pub groups: Vec<Group>,
    pub ranges: Vec<LogRange>,
}

/// Sinks that catch up together.
pub struct Group {
    /// Their places in the list of sinks.
    pub pipes: Vec<usize>,
    pub after: i64,
    pub until: i64,
    pub lanes: u64,
    pub room: i64,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
            && self.due.iter().all(Vec::is_empty)
            && self.pages.iter().all(Vec::is_empty)
            && self.sweeps.iter().all(Vec::is_empty)
    }
}

/// Puts the sinks together that have to catch up and stand at about the same place. Nobody reads beyond the floor this way.
pub fn groups(plans: &[LogPlan], floor: i64) -> Vec<Group> {
    let mut far: Vec<(i64, usize)> =
        plans.iter().enumerate().filter(|(_, plan)| !plan.far.is_empty()).filter_map(|(i, plan)| Some((plan.far.from?, i))).collect();
    far.sort_unstable();
    let mut groups: Vec<Group> = Vec::new();
    for (from, i) in far.into_iter().filter(|(from, _)| *from < floor) {
        let plan = &plans[i];
        match groups.last_mut().filter(|group| from <= group.after + TOGETHER_WITHIN) {
            Some(group) => {
                group.pipes.push(i);
                group.lanes |= plan.far.mask;
                group.room = group.room.min(plan.room.max(1));
            }
            None => groups.push(Group {
                pipes: vec![i],
                after: from,
                until: floor.min(from + RANGE_MAX),
                lanes: plan.far.mask,
                room: plan.room.max(1),
            }),
        }
    }
    groups
}

/// Which lanes of a sink an event was read for.
pub fn readers_of(log: &LogPlan, reader: i32, first_group: i32, group: Option<usize>) -> Option<&Readers> {
    if reader < first_group {
        return Some(&log.near);
    }
    (group == Some((reader - first_group) as usize)).then_some(&log.far)
}

/// Whether an event is owed to a sink, and nothing but the log says so.
pub fn is_owed<T>(queue: &Queue<T>, event: &LogEvent, sink: &str) -> bool {
    if event.recorded.iter().any(|recorded| recorded == sink) {
        return false;
    }
    queue.subscribes(event.seq, event.event_type.as_deref()) || event.unstarted.iter().any(|unstarted| unstarted == sink)
}

/// Keys of fresh events of which memory knows nothing and the database may have rows waiting, with their sink and lane.
pub fn unknown_keys(pipes: &[Arc<Pipe>], plan: &Plan, tail: &Tail, events: &[LogEvent]) -> Vec<(usize, i16, i64)> {
    let first_group = plan.spans.len() as i32;
    let mut keys = Vec::new();
    for (tag, pipe) in pipes.iter().enumerate() {
        let queue = pipe.queue();
        if !queue.may_ask() {
            continue;
        }
        let group = plan.groups.iter().position(|group| group.pipes.contains(&tag));
        for event in events {
            let Some(key) = event.key else { continue };
            let is_new = event.reader >= first_group || tail.is_new(event.seq);
            let readers = readers_of(&plan.log[tag], event.reader, first_group, group);
            if readers.is_some_and(|readers| readers.wants(event.lane, event.seq, is_new))
                && queue.must_ask(event.lane, key)
                && is_owed(&queue, event, &pipe.name)
            {
                keys.push((tag, event.lane, key));
            }
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Each sink's part of a plan, with its number and its name.
pub fn with_sinks<'a, T>(pipes: &'a [Arc<Pipe>], plans: &'a [Vec<T>]) -> impl Iterator<Item = (i32, &'a str, &'a T)> {
    let of_sink = |(tag, (pipe, plan)): (usize, (&'a Arc<Pipe>, &'a Vec<T>))| plan.iter().map(move |one| (tag as i32, &*pipe.name, one));
    pipes.iter().zip(plans).enumerate().flat_map(of_sink)
}

pub fn due_ranges<'a>(pipes: &'a [Arc<Pipe>], plan: &'a Plan) -> Ranges<'a> {
    let mut ranges = Ranges::default();
    for (tag, sink, wanted) in with_sinks(pipes, &plan.due) {
        let lane = wanted.lane;
        let due = |(position, limit): (DuePosition, i64)| DueRange { tag, sink, lane, due: position.due, seq: position.seq, limit };
        ranges.waiting.extend(wanted.waiting.map(due));
        ranges.replay.extend(wanted.replay.map(due));
    }
    let limit = KEY_ROWS_MAX as i64;
    ranges.pages.extend(with_sinks(pipes, &plan.pages).map(|(tag, sink, &(lane, key))| KeyPage { tag, sink, lane, key, limit }));
    ranges
}
