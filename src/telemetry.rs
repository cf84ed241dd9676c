//! Logs on stderr, metrics for Prometheus. Neither ever carries a secret, a payload, a signature or personal data.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Log lines that wait to be written. At some 200 bytes each, a few megabytes.
const LINES_MAX: usize = 10_000;

/// Sends log lines to stderr: for people, or one JSON object a line. `RUST_LOG` filters them; default `info`.
///
/// The server's notices are left out by default: they may come from anybody's trigger, and say anything.
///
/// Whoever reads them may stop reading: lines are written by a thread of their own, and are dropped beyond [`LINES_MAX`]. What is
/// written when the guard is dropped is on its way; a reader that does not read makes that take a second. `None`: logs are set up already.
pub fn init_logs(json: bool) -> Option<WorkerGuard> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx::postgres::notice=off"));
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).finish(std::io::stderr());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A closed stderr loses the line. Without this, the report of that would panic, and take the task that logged with it.
    let lines = lines.log_internal_errors(false);
    let set = if json {
        lines.json().flatten_event(true).finish().try_init()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).finish().try_init()
    };
    set.is_ok().then_some(guard)
}

/// Times from a fast commit to the longest timeout, in seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Sizes of batches, in events.
const EVENTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// What `/metrics` renders. The first call installs the recorder: before it, metrics go nowhere and cost nothing, so call it
/// before making the handles that are to be seen.
///
/// Whoever calls this must call [`PrometheusHandle::run_upkeep`] every few seconds, or histograms grow until they are read.
pub fn metrics_handle() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    // Held over the installation, so that of two callers the second gets the first one's recorder.
    let mut handle = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*handle {
        return Ok(handle.clone());
    }
    let installed = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_events".into()), EVENTS)?
        .install_recorder()?;
    Ok(handle.insert(installed).clone())
}
