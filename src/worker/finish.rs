//! The finisher: records what became of deliveries, in bulk. One task, natural batching: while one batch is being
//! committed, the next one gathers.

use super::Shared;
use super::pipe::Pipe;
use super::queue::{Place, Settled};
use super::session::Session;
use crate::clock;
use crate::failpoint::failpoint;
use crate::store::lanes;
use crate::store::outcomes::{self, FailedTry, Finished, Postponed, Target};
use metrics::histogram;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Rows in one statement.
const BATCH_MAX: usize = 1000;

/// A batch of this size says that more are on their way: it is given time to grow, which delays no event on its way to
/// the sink. A smaller one goes at once, a larger one has grown enough.
const LINGER_FROM: usize = 16;
const LINGER_UNTIL: usize = 200;
const LINGER: Duration = Duration::from_millis(2);

/// How long the rows that an operator's open transaction holds are left alone before the next try to write them.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

/// For how long after meeting such rows every write looks for them first.
const WARY_FOR: Duration = Duration::from_secs(10);

/// A row on its way to being recorded.
pub struct Write {
    pub pipe: Arc<Pipe>,
    pub place: Place,
    /// It was at the head of its key: when this is recorded, the next one's turn has come.
    pub head: bool,
    /// It counts towards [`Pipe::unrecorded_max`].
    pub counted: bool,
    pub what: What,
    /// The try that failed, if one did.
    pub failed: Option<FailedTry>,
}

pub enum What {
    Finish(Finished),
    Postpone(Postponed),
    /// It is not as it was read: it is to be read again.
    Nothing(Target),
}

impl Write {
    /// Takes it into account that this outcome is to be recorded.
    pub fn count(&mut self) {
        self.counted = true;
        self.pipe.unrecorded.fetch_add(1, Ordering::Relaxed);
    }

    fn uncount(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.pipe.unrecorded.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn target(&self) -> &Target {
        match &self.what {
            What::Finish(row) => &row.target,
            What::Postpone(row) => &row.target,
            What::Nothing(target) => target,
        }
    }
}

/// Records until the channel closes and all is written, or until `shared.shutdown` loses its patience.
pub async fn run(shared: Arc<Shared>, mut writes: mpsc::UnboundedReceiver<Write>) {
    let mut session = Session::new(shared.connections.clone());
    let mut locked: Vec<Write> = Vec::new();
    let mut locked_again_at = clock::instant();
    let mut wary_until = clock::instant();
    let batch_rows = histogram!("sluice_finish_batch_rows");
    loop {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        if locked.is_empty() {
            if writes.recv_many(&mut batch, BATCH_MAX).await == 0 {
                return;
            }
        } else {
            let pause = tokio::time::sleep_until(locked_again_at.into());
            tokio::select! {
                count = writes.recv_many(&mut batch, BATCH_MAX) => if count == 0 && shared.shutdown.is_aborted() { return },
                () = pause => {}
            }
            if clock::instant() >= locked_again_at {
                batch.append(&mut locked);
                locked_again_at = clock::instant() + LOCKED_PAUSE;
            }
        }
        if (LINGER_FROM..LINGER_UNTIL).contains(&batch.len()) {
            tokio::time::sleep(LINGER).await;
            while batch.len() < BATCH_MAX
                && let Ok(write) = writes.try_recv()
            {
                batch.push(write);
            }
        }
        if batch.is_empty() {
            continue;
        }
        batch_rows.record(batch.len() as f64);
        // Rows sorted by position touch the index in its order.
        batch.sort_unstable_by_key(|write| write.place.seq);
        let Some(mut left_out) = record(&shared, &mut session, batch, &mut wary_until).await else { return };
        if locked.is_empty() && !left_out.is_empty() {
            locked_again_at = clock::instant() + LOCKED_PAUSE;
        }
        locked.append(&mut left_out);
    }
}

/// Writes a batch, however long the database takes to let it, and settles its rows. Returns those that were locked;
/// `None`: the shutdown's patience is over.
async fn record(shared: &Shared, session: &mut Session, batch: Vec<Write>, wary_until: &mut Instant) -> Option<Vec<Write>> {
    let mut batch = batch;
    let free = loop {
        // What was tried under another history of the database is another event's there.
        batch.retain_mut(|write| {
            let is_current = write.pipe.is_of_this_history(write.place.epoch);
            if !is_current {
                write.uncount();
            }
            is_current
        });
        if batch.is_empty() {
            break None;
        }
        let wary = clock::instant() < *wary_until;
        match write(session, &batch, wary).await {
            Ok(free) => break free,
            Err(error) if is_lock_timeout(&error) => *wary_until = clock::instant() + WARY_FOR,
            Err(error) => {
                shared.store_down.store(true, Ordering::Relaxed);
                tracing::warn!(rows = batch.len(), %error, "cannot record outcomes; trying again");
                tokio::select! {
                    () = shared.shutdown.aborted() => return None,
                    () = tokio::time::sleep(Duration::from_millis(300)) => {}
                }
            }
        }
    };
    if shared.store_down.swap(false, Ordering::Relaxed) {
        shared.wake_all();
    }
    let (mut written, mut left_out) = (Vec::with_capacity(batch.len()), Vec::new());
    for (i, mut write) in batch.into_iter().enumerate() {
        if free.as_ref().is_none_or(|free| free[i]) {
            written.push(write);
        } else {
            // However many rows an operator holds, the others must go on.
            write.uncount();
            left_out.push(write);
        }
    }
    failpoint!("record-done");
    settle(shared, written);
    if !left_out.is_empty() {
        tracing::info!(rows = left_out.len(), "an open transaction holds these rows: recording their outcomes when it ends");
    }
    Some(left_out)
}

/// One batch, one transaction where it takes more than one statement. Returns which rows were free to be written; `None`: all.
async fn write(session: &mut Session, batch: &[Write], wary: bool) -> Result<Option<Vec<bool>>, sqlx::Error> {
    let simple = !wary && batch.iter().all(|write| matches!(write.what, What::Finish(_)) && write.failed.is_none());
    session
        .run(async |conn| {
            if simple {
                let rows: Vec<&Finished> = batch.iter().filter_map(Write::finished).collect();
                outcomes::finish(conn, &rows).await?;
                return Ok(None);
            }
            let mut tx = sqlx::Connection::begin(conn).await?;
            let mut free = if wary { Some(outcomes::lock_free(&mut tx, batch.iter().map(Write::target)).await?) } else { None };
            // A worker that is frozen before its commit loses its lease. The next owner must not have looked for waiting rows by then.
            let lanes: BTreeSet<(&str, i16)> =
                batch.iter().filter_map(|write| write.postponed().map(|row| (&*row.target.sink, write.place.lane))).collect();
            if !lanes.is_empty() {
                // Those that an operator's open change of their sink holds are left for later, like rows.
                let held = lanes::hold(&mut tx, lanes.iter().copied()).await?;
                if held.len() < lanes.len() {
                    let free = free.get_or_insert_with(|| vec![true; batch.len()]);
                    for (free, write) in free.iter_mut().zip(batch) {
                        *free &= write
                            .postponed()
                            .is_none_or(|row| held.iter().any(|(sink, lane)| *sink == *row.target.sink && *lane == write.place.lane));
                    }
                }
            }
            let free_rows = || batch.iter().enumerate().filter(|(i, _)| free.as_ref().is_none_or(|free| free[*i])).map(|(_, write)| write);
            let failed: Vec<&FailedTry> = free_rows().filter_map(|write| write.failed.as_ref()).collect();
            if !failed.is_empty() {
                outcomes::keep_failed(&mut tx, &failed).await?;
            }
            let finished: Vec<&Finished> = free_rows().filter_map(Write::finished).collect();
            if !finished.is_empty() {
                outcomes::finish(&mut tx, &finished).await?;
            }
            let postponed: Vec<&Postponed> = free_rows().filter_map(Write::postponed).collect();
            if !postponed.is_empty() {
                outcomes::postpone(&mut tx, &postponed).await?;
                failpoint!("postponed");
            }
            tx.commit().await?;
            Ok(free)
        })
        .await
}

impl Write {
    fn finished(&self) -> Option<&Finished> {
        match &self.what {
            What::Finish(row) => Some(row),
            What::Postpone(_) | What::Nothing(_) => None,
        }
    }

    fn postponed(&self) -> Option<&Postponed> {
        match &self.what {
            What::Postpone(row) => Some(row),
            What::Finish(_) | What::Nothing(_) => None,
        }
    }
}

/// Tells the queues what the database holds now.
fn settle(shared: &Shared, mut written: Vec<Write>) {
    for pipe in &shared.pipes {
        let mut queue = None;
        for write in written.iter_mut().filter(|write| Arc::ptr_eq(&write.pipe, pipe)) {
            let queue = queue.get_or_insert_with(|| pipe.queue());
            let settled = match &write.what {
                What::Finish(_) => Settled::Done,
                What::Postpone(row) => row.due_at.map_or(Settled::Parked, Settled::Waits),
                What::Nothing(_) => Settled::Unknown,
            };
            queue.settle(write.place, settled);
            if write.head && !matches!(settled, Settled::Waits(_)) {
                queue.advance(write.place);
            }
            write.uncount();
        }
        if queue.take().is_some() {
            pipe.wake.notify_one();
        }
    }
    // Room for more, and perhaps something due sooner than the fetcher thought.
    shared.fetch.notify_one();
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
