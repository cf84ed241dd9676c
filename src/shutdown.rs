//! Stopping in two stages: first softly (take nothing new, finish what is under way), then hard (drop it). Counted and bounded.

use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// The process's two tokens, and the tasks that it waits for. Clones share all three.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Nothing stops it but [`Shutdown::begin`] and [`Shutdown::abort`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens for SIGTERM and SIGINT: the first begins the shutdown; the second, or the end of `bound`, makes it hard.
    pub fn on_signals(bound: Duration) -> std::io::Result<Self> {
        let shutdown = Self::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stopping = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(bound_s = bound.as_secs(), "stopping: finishing what is under way");
            stopping.begin();
            tokio::select! {
                _ = terminate.recv() => tracing::warn!("second signal: stopping at once"),
                _ = interrupt.recv() => tracing::warn!("second signal: stopping at once"),
                () = sleep(bound) => tracing::warn!("not finished in time: stopping at once"),
            }
            stopping.abort();
        });
        Ok(shutdown)
    }

    /// A part that stops when this does, or earlier by itself. It has tasks of its own.
    pub fn part(&self) -> Self {
        Self { soft: self.soft.child_token(), hard: self.hard.child_token(), tasks: TaskTracker::new() }
    }

    /// A part that is still needed while the others finish: only a hard stop reaches it.
    pub fn last_part(&self) -> Self {
        Self { soft: self.hard.child_token(), hard: self.hard.child_token(), tasks: TaskTracker::new() }
    }

    /// Begins the soft stage.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Begins the hard stage: tracked tasks are dropped where they are.
    pub fn abort(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Completes when the soft stage begins.
    pub fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.soft.cancelled()
    }

    /// Whether the soft stage has begun.
    pub fn is_begun(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Whether the hard stage has begun.
    pub fn is_aborted(&self) -> bool {
        self.hard.is_cancelled()
    }

    /// Completes when the hard stage begins.
    pub fn aborted(&self) -> WaitForCancellationFuture<'_> {
        self.hard.cancelled()
    }

    /// Runs a task that [`Shutdown::finish`] waits for, and that the hard stage drops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let hard = self.hard.clone();
        self.tasks.spawn(async move {
            hard.run_until_cancelled(task).await;
        })
    }

    /// Waits for the tracked tasks, for at most `bound`; then drops them. Returns whether all of them ended by themselves.
    pub async fn finish(&self, bound: Duration) -> bool {
        self.tasks.close();
        tokio::select! {
            // Looked at first: with no task left it does not matter how the shutdown went.
            biased;
            () = self.tasks.wait() => return true,
            () = self.hard.cancelled() => {}
            () = sleep(bound) => {}
        }
        self.abort();
        self.tasks.wait().await;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_by_itself_is_waited_for_and_one_that_does_not_is_dropped() {
        let shutdown = Shutdown::new();
        let soft = shutdown.clone();
        shutdown.spawn(async move { soft.begun().await });
        shutdown.begin();
        assert!(shutdown.finish(Duration::from_secs(60)).await);

        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending());
        assert!(!shutdown.finish(Duration::ZERO).await);
    }

    #[test]
    fn a_part_stops_with_the_whole_and_the_last_part_only_when_it_is_hard() {
        let whole = Shutdown::new();
        let (part, last) = (whole.part(), whole.last_part());
        whole.begin();
        assert!(part.is_begun() && !last.is_begun());
        whole.abort();
        assert!(last.is_begun());

        let whole = Shutdown::new();
        whole.part().abort();
        assert!(!whole.is_begun());
    }
}
