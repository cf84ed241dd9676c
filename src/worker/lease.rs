//! The lease, and what follows from it: which lanes this worker owns, how many the others need, and when to let go.
//!
//! Three tasks. The renewer keeps the lease; a timer of its own ends the tries when the lease does, whatever holds the renewer up; the
//! balancer gives lanes away and takes free ones. The first two are apart from it because a balance may take long.

use super::Shared;
use super::breaker;
use super::pipe::Pipe;
use super::settle;
use crate::clock;
use crate::event::LANES;
use crate::failpoint::failpoint;
use crate::store::{lanes, sinks};
use lanes::{Renewal, SinkState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A third of the lease: two renewals may fail before it is lost.
const RENEW_EVERY: Duration = Duration::from_millis(3333);

/// How long before the lease ends tries are abandoned.
const MARGIN: Duration = Duration::from_millis(700);

/// Before lanes are asked for again that could not be had.
const AFTER_TROUBLE: Duration = Duration::from_millis(300);

/// How often lanes that are being handed over are looked at.
const HANDOVER_EVERY: Duration = Duration::from_millis(10);

/// This process's lease, as its tasks see it.
pub struct Lease {
    id: AtomicI64,
    /// The lease before this one, where it was given up and the database has not been told; 0: there is none.
    given_up: AtomicI64,
    /// Milliseconds after `origin` at which tries must have ended.
    until_ms: AtomicU64,
    origin: Instant,
    /// Ends all tries begun under this lease.
    tries: Mutex<CancellationToken>,
}

impl Lease {
    pub fn new() -> Self {
        Self {
            id: AtomicI64::new(0),
            given_up: AtomicI64::new(0),
            until_ms: AtomicU64::new(0),
            origin: clock::instant(),
            tries: Mutex::default(),
        }
    }

    /// `workers.id` of this lease; 0 while there is none.
    pub fn id(&self) -> i64 {
        self.id.load(Ordering::Acquire)
    }

    /// A token that ends when tries must: `None` when none may begin.
    pub fn tries(&self) -> Option<CancellationToken> {
        (clock::instant() < self.until()).then(|| self.tries.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Whether tries may begin.
    pub fn is_live(&self) -> bool {
        clock::instant() < self.until()
    }

    fn until(&self) -> Instant {
        self.origin + Duration::from_millis(self.until_ms.load(Ordering::Acquire))
    }

    /// The renewal that was sent at this time went through: counted from before it was sent, the lease cannot be shorter.
    fn extend(&self, sent: Instant) {
        let until = sent + Duration::from_secs_f64(lanes::LEASE_SECONDS) - MARGIN;
        self.until_ms.store(until.saturating_duration_since(self.origin).as_millis() as u64, Ordering::Release);
    }

    /// No try may begin or go on.
    fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
        std::mem::take(&mut *self.tries.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
    }
}

/// Ends the tries when the lease does: neither a renewal nor a reconnect stands between its deadline and that.
pub async fn watch_deadline(shared: Arc<Shared>) {
    loop {
        let until = shared.lease.until();
        if shared.lease.id() == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        if clock::instant() < until {
            tokio::time::sleep_until(until.into()).await;
            continue;
        }
        tracing::warn!("the lease could not be renewed in time: its tries are abandoned");
        lose(&shared);
    }
}

/// What a renewal saw, and when it was asked for.
pub struct Seen {
    asked_at: Instant,
    /// Under which lease.
    lease: i64,
    renewal: Renewal,
}

/// Keeps the lease until `shared.left`; publishes what each renewal saw.
pub async fn renew(shared: Arc<Shared>, seen: watch::Sender<Option<Arc<Seen>>>) {
    let mut epoch = 0;
    let mut expires_in = None;
    loop {
        if shared.connections.has_turned() {
            forget_history(&shared);
        }
        let sent = clock::instant();
        match tick(&shared, &mut epoch).await {
            // It was given up while it was being renewed: the next round tells the database.
            Ok((id, _)) if id != shared.lease.id() => continue,
            Ok((_, Some(renewal))) => {
                shared.lease.extend(sent);
                shared.clock.set(renewal.now, sent, clock::instant());
                follow(&shared, &renewal, sent);
                expires_in = renewal.next_expiry_seconds;
                shared.metrics_lease(&renewal);
                seen.send_replace(Some(Arc::new(Seen { asked_at: sent, lease: shared.lease.id(), renewal })));
                shared.wake_all();
            }
            Ok((_, None)) => {
                tracing::warn!("the lease was lost: its tries are abandoned, its lanes may be another's; taking a new one");
                lose(&shared);
                continue;
            }
            Err(error) => tracing::warn!(%error, "cannot renew the lease; trying again"),
        }
        flush_counts(&shared).await;
        let failing = clock::instant() > sent + RENEW_EVERY || !shared.lease.is_live();
        let pause = if failing { Duration::from_millis(500) } else { RENEW_EVERY };
        // Another worker's lease may end sooner: then its lanes are free.
        let pause = expires_in.filter(|seconds| *seconds > 0.0).map_or(pause, |seconds| pause.min(Duration::from_secs_f64(seconds + 0.02)));
        tokio::select! {
            () = shared.left.cancelled() => return,
            () = shared.renew.notified() => {}
            () = shared.connections.turned.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The database has another history: what was read, decided and not yet recorded of the old one must not touch the new one, in which the same
/// positions are other events'.
fn forget_history(shared: &Shared) {
    tracing::warn!("the database has another history: everything that was read from the old one is forgotten");
    lose(shared);
    // Its number may be another's lease by now.
    shared.lease.given_up.store(0, Ordering::Release);
    for pipe in &shared.pipes {
        pipe.forget_history();
    }
    shared.lost_tail.store(true, Ordering::Release);
    shared.connections.follow();
}

/// One renewal, or the first one of a new lease. Gives up while there is still time to abandon the tries.
async fn tick(shared: &Shared, epoch: &mut i32) -> Result<(i64, Option<Renewal>), sqlx::Error> {
    let left = shared.lease.until().saturating_duration_since(clock::instant());
    let patience = if left.is_zero() { Duration::from_secs(5) } else { left.min(RENEW_EVERY) };
    let work = shared.control(async |conn| {
        if shared.lease.id() == 0 {
            if shared.left.is_cancelled() {
                return Err(sqlx::Error::PoolClosed);
            }
            let given_up = shared.lease.given_up.load(Ordering::Acquire);
            if given_up != 0 {
                // Until it runs out nobody would work on its lanes, and it would count as a worker that needs its share.
                lanes::deregister(conn, given_up).await?;
                shared.lease.given_up.store(0, Ordering::Release);
            }
            *epoch += 1;
            let names: Vec<String> = shared.pipes.iter().map(|pipe| pipe.name.to_string()).collect();
            let id = lanes::register(conn, &shared.name, *epoch, &names).await?;
            shared.lease.id.store(id, Ordering::Release);
            lanes::notify_lanes(conn).await?;
        }
        let id = shared.lease.id();
        let renewal = tokio::time::timeout(patience, lanes::renew(conn, id)).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok((id, renewal))
    });
    tokio::time::timeout(patience + Duration::from_secs(1), work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Lets go of everything. The next renewal, at once, tells the database and takes a new lease. What the old lease's tries leave behind is
/// fenced off by the queues' epochs, and in the database by generation.
fn lose(shared: &Shared) {
    shared.lease.end();
    let id = shared.lease.id.swap(0, Ordering::AcqRel);
    if id != 0 {
        shared.lease.given_up.store(id, Ordering::Release);
    }
    for pipe in &shared.pipes {
        pipe.queue().disown_all();
    }
    shared.renew.notify_one();
}

/// Takes over what the database says of each sink.
fn follow(shared: &Shared, renewal: &Renewal, sent: Instant) {
    for (pipe, state) in known(shared, renewal) {
        if pipe.paused.swap(state.paused, Ordering::Relaxed) != state.paused {
            tracing::info!(sink = %pipe.name, paused = state.paused, "the operator paused or resumed the sink");
        }
        let until = clock::instant() + Duration::from_secs_f64(state.breaker_left_seconds.clamp(0.0, 86_400.0));
        let says = if state.breaker == "closed" { breaker::Shared::Closed } else { breaker::Shared::Open { until } };
        let mut breaker = pipe.breaker();
        breaker.follow(says, sent);
        pipe.metrics.breaker_open.set(f64::from(u8::from(breaker.is_resting())));
        if let (Some(mut rate), Some(per_second)) = (pipe.rate(), pipe.config.rate_per_second) {
            rate.set(per_second / state.workers.max(1) as f64);
        }
    }
}

fn known<'a>(shared: &'a Shared, renewal: &'a Renewal) -> impl Iterator<Item = (&'a Arc<Pipe>, &'a SinkState)> {
    shared.pipes.iter().filter_map(|pipe| Some((pipe, renewal.sinks.iter().find(|state| *state.name == *pipe.name)?)))
}

async fn flush_counts(shared: &Shared) {
    let counts: Vec<_> = shared.pipes.iter().map(|pipe| (&*pipe.name, std::mem::take(&mut *pipe.counts()))).collect();
    let counts: Vec<_> = counts.into_iter().filter(|(_, counts)| *counts != sinks::Counts::default()).collect();
    if counts.is_empty() {
        return;
    }
    // Lost counts are lost figures, not lost events: no second try.
    if let Err(error) = shared.control(async |conn| sinks::count(conn, &counts).await).await {
        tracing::warn!(%error, "cannot write the per-minute counters");
    }
}

/// Gives lanes away and takes free ones, after each renewal, until the shutdown begins.
pub async fn balance(shared: Arc<Shared>, mut seen: watch::Receiver<Option<Arc<Seen>>>) {
    // What was asked before this worker's last change of its own lanes is out of date.
    let mut changed_at = clock::instant();
    loop {
        let (handing_over, handed_over) = hand_over(&shared).await;
        if handed_over {
            changed_at = clock::instant();
        }
        tokio::select! {
            () = shared.shutdown.begun() => return,
            changed = seen.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HANDOVER_EVERY), if handing_over => continue,
        }
        let Some(seen) = seen.borrow_and_update().clone() else { continue };
        if seen.asked_at <= changed_at || seen.lease != shared.lease.id() {
            shared.renew.notify_one();
            continue;
        }
        if let Err(error) = rebalance(&shared, &seen.renewal).await {
            tracing::warn!(%error, "cannot take over lanes; trying again");
            tokio::time::sleep(AFTER_TROUBLE).await;
            shared.renew.notify_one();
        }
        changed_at = clock::instant();
    }
}

async fn rebalance(shared: &Shared, renewal: &Renewal) -> Result<(), sqlx::Error> {
    if renewal.next_expiry_seconds.is_some_and(|seconds| seconds <= 0.0) {
        let reaped = shared.control(async |conn| lanes::reap(conn).await).await?;
        if reaped > 0 {
            tracing::warn!(workers = reaped, "the leases of other workers are over: their lanes are free");
            // The others may have looked while this was under way.
            shared.control(async |conn| lanes::notify_lanes(conn).await).await?;
        }
    }
    // A sink that was retired, or whose row was deleted: nobody works on it.
    for pipe in shared.pipes.iter().filter(|pipe| renewal.sinks.iter().all(|state| *state.name != *pipe.name)) {
        let owned = pipe.queue().owned();
        if owned > 0 {
            tracing::info!(sink = %pipe.name, lanes = owned, "handing lanes over: the sink was retired");
            pipe.queue().begin_release(owned);
        }
    }
    for (pipe, state) in known(shared, renewal) {
        // A claim whose answer was lost leaves lanes that nobody works on; a change by hand, lanes that two work on or none will claim.
        let works_on = pipe.queue().lanes.len() as i64;
        if state.owned != works_on {
            tracing::warn!(sink = %pipe.name, works_on, owns = state.owned, "does not work on the lanes that it owns in the database; giving up the lease");
            lose(shared);
            return Ok(());
        }
        if pipe.queue().revision().is_some_and(|revision| revision != state.revision) {
            reload(shared, pipe).await?;
        }
        let share = (i64::from(LANES) + state.workers - 1) / state.workers.max(1);
        let owned = pipe.queue().owned() as i64;
        if owned > share {
            tracing::info!(sink = %pipe.name, lanes = owned - share, "handing lanes over: the workers have become more");
            pipe.queue().begin_release((owned - share) as usize);
        } else if owned < share && state.free > 0 {
            take_over(shared, pipe, share - owned).await?;
        }
        pipe.metrics.lanes.set(pipe.queue().owned() as f64);
    }
    Ok(())
}

/// Claims free lanes of a sink. What the sink is owed is known before any row of them can be read.
async fn take_over(shared: &Shared, pipe: &Pipe, limit: i64) -> Result<(), sqlx::Error> {
    let id = shared.lease.id();
    let claimed = shared.control(async |conn| lanes::claim(conn, id, &pipe.name, limit).await).await?;
    failpoint!("claim-unheard", Err(sqlx::Error::PoolTimedOut));
    if claimed.is_empty() {
        return Ok(());
    }
    let subscriptions = match shared.control(async |conn| sinks::subscriptions(conn, &pipe.name).await).await {
        Ok(subscriptions) => subscriptions,
        Err(error) => {
            // Owned lanes must not stay unworked.
            tracing::warn!(%error, "cannot load what the sink of lanes just taken is owed; giving up the lease");
            lose(shared);
            return Err(error);
        }
    };
    let orphaned = claimed.iter().filter(|claimed| claimed.orphaned).count();
    let settled_to = claimed.iter().map(|claimed| claimed.settled_to).min();
    tracing::info!(sink = %pipe.name, lanes = claimed.len(), orphaned, settled_to, "took lanes over");
    let mut queue = pipe.queue();
    // Under the queue's lock: a lease that is lost from here on takes these lanes with it.
    if id != shared.lease.id() {
        return Ok(());
    }
    queue.subscribe(subscriptions);
    for claimed in claimed {
        queue.own(claimed.lane, claimed.orphaned, claimed.settled_to, claimed.revision);
    }
    drop(queue);
    shared.reset.store(true, Ordering::Relaxed);
    shared.hint();
    Ok(())
}

/// What the sink is owed has changed, or the log has: its lanes go on from where they are settled.
pub async fn reload(shared: &Shared, pipe: &Pipe) -> Result<(), sqlx::Error> {
    let id = shared.lease.id();
    let (positions, subscriptions) = shared
        .control(async |conn| Ok((lanes::positions(conn, id, &pipe.name).await?, sinks::subscriptions(conn, &pipe.name).await?)))
        .await?;
    let mut queue = pipe.queue();
    if id != shared.lease.id() {
        return Ok(());
    }
    tracing::info!(sink = %pipe.name, "reading the log again from where it is settled");
    queue.subscribe(subscriptions);
    for position in positions {
        queue.restart(position.lane, position.settled_to, position.revision);
    }
    drop(queue);
    shared.hint();
    Ok(())
}

/// Hands over the lanes that have gone quiet. Returns whether some have not yet, and whether some were handed over.
async fn hand_over(shared: &Shared) -> (bool, bool) {
    let (id, asker) = (shared.lease.id(), shared.asker());
    let (mut handing_over, mut handed_over) = (false, false);
    for pipe in &shared.pipes {
        let (quiet, left) = {
            let mut queue = pipe.queue();
            (queue.quiet(), queue.lanes.values().any(|lane| lane.releasing))
        };
        let settlements = settle::settlements(pipe, &quiet);
        let quiet: Vec<i16> = quiet.into_iter().map(|(lane, ..)| lane).collect();
        handing_over |= left;
        if quiet.is_empty() {
            continue;
        }
        handed_over = true;
        if let Err(error) = shared.control(async |conn| lanes::release(conn, id, &pipe.name, &quiet, &settlements, asker).await).await {
            // They stay this worker's in the database, unworked, until its lease ends: so it must end.
            tracing::warn!(%error, "cannot hand lanes over; giving up the lease instead");
            lose(shared);
        }
    }
    (handing_over, handed_over)
}

/// Ends the lease on the way out: the others take the lanes at once.
pub async fn leave(shared: &Shared) {
    settle::settle(shared, 1).await;
    shared.left.cancel();
    let leases = [shared.lease.id.swap(0, Ordering::AcqRel), shared.lease.given_up.swap(0, Ordering::AcqRel)];
    shared.lease.end();
    flush_counts(shared).await;
    for id in leases.into_iter().filter(|id| *id != 0) {
        if let Err(error) = shared.control(async |conn| lanes::deregister(conn, id).await).await {
            tracing::warn!(%error, "cannot hand lanes over: the others take them when the lease ends");
        }
    }
}
