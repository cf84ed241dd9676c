//! Settling: how far each lane is done with the log, written down seldom. A new owner reads on from there.

use super::Shared;
use super::lease;
use super::pipe::Pipe;
use crate::clock;
use crate::store::lanes::{self, Settlement};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a lane's place may be out of date: each update leaves a dead version of the lane's row.
const SETTLE_EVERY: Duration = Duration::from_secs(10);
/// A lane that has come so many positions further is written down sooner: about a thousand events of its own.
const SETTLE_AFTER: i64 = 64_000;

/// Settles until the shutdown begins.
pub async fn run(shared: Arc<Shared>) {
    let mut all_at = clock::instant() + SETTLE_EVERY;
    loop {
        tokio::select! {
            () = shared.shutdown.begun() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = clock::instant();
        let by = if now >= all_at { 1 } else { SETTLE_AFTER };
        settle(&shared, by).await;
        if now >= all_at {
            all_at = now + SETTLE_EVERY;
        }
    }
}

/// Writes down how far lanes are settled that have come `by` positions further or more.
pub async fn settle(shared: &Shared, by: i64) {
    // Both before it is asked how far they are settled: whoever changes them afterwards has this refused.
    let (id, asker) = (shared.lease.id(), shared.asker());
    let settlements: Vec<Settlement> = shared.pipes.iter().flat_map(|pipe| settlements(pipe, &pipe.queue().settlements(by))).collect();
    if id == 0 || settlements.is_empty() {
        return;
    }
    let moved = match shared.control(async |conn| lanes::settle(conn, id, &settlements, asker).await).await {
        Ok(moved) => moved,
        // Nothing is lost: a new owner would read more than it must.
        Err(error) => return tracing::warn!(%error, "cannot write down how far lanes are settled; trying again"),
    };
    let moved: HashSet<(&str, i16)> = moved.iter().map(|(sink, lane)| (sink.as_str(), *lane)).collect();
    for pipe in &shared.pipes {
        let mut left = false;
        {
            let mut queue = pipe.queue();
            for one in settlements.iter().filter(|one| *one.sink == *pipe.name) {
                if moved.contains(&(&*one.sink, one.lane)) {
                    queue.note_settled(one.lane, one.settled_to);
                } else {
                    left = true;
                }
            }
        }
        // Another owns the lane by now, which the next renewal tells; or what the sink is owed has changed.
        if left && let Err(error) = lease::reload(shared, pipe).await {
            tracing::warn!(sink = %pipe.name, %error, "cannot load what the sink is owed; trying again");
        }
    }
}

/// Lanes of a sink with how far they are settled and under which revision, as the store takes them.
pub fn settlements(pipe: &Pipe, lanes: &[(i16, i64, i32)]) -> Vec<Settlement> {
    let one = |&(lane, settled_to, revision): &(i16, i64, i32)| Settlement { sink: pipe.name.clone(), lane, settled_to, revision };
    lanes.iter().map(one).collect()
}
