//! `sluice status`.

use super::{Context, Failure, operator, print, print_json};
use crate::store::health::{self, Received, SinkStatus};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    received_last_day: Received,
    sinks: Vec<SinkStatus>,
}

impl Args {
    /// Backlog, lag and dead letters by sink.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let mut conn = operator(context).await?;
        let failed = |error| Failure::database("cannot read the status", &error);
        let status = Status {
            received_last_day: health::received(&mut conn).await.map_err(failed)?,
            sinks: health::sinks(&mut conn).await.map_err(failed)?,
        };
        if self.json {
            print_json(&status);
        } else {
            print(&table(&status));
        }
        Ok(())
    }
}

fn table(status: &Status) -> String {
    let received = &status.received_last_day;
    let mut text = format!("received in the last day: {} ({} quarantined)", received.events, received.quarantined);
    if let Some(last) = received.last {
        text += &format!(", the last at {}", last.format("%Y-%m-%d %H:%M:%S UTC"));
    }
    text += &format!(
        "\n\n{:<20} {:>9} {:>9} {:>9} {:>10} {:>7} {:>12}  {}\n",
        "sink", "pending", "waiting", "dead", "lag", "workers", "1h delivered", "state"
    );
    for sink in &status.sinks {
        let lag = sink.lag_seconds.map_or("-".into(), |seconds| format!("{seconds:.1} s"));
        text += &format!(
            "{:<20} {:>9} {:>9} {:>9} {:>10} {:>7} {:>12}  {}\n",
            sink.sink,
            sink.pending,
            sink.waiting,
            sink.dead,
            lag,
            sink.workers,
            sink.delivered_last_hour,
            state(sink)
        );
    }
    if status.sinks.is_empty() {
        text += "no sink is registered: start a worker whose config has one\n";
    }
    text
}

fn state(sink: &SinkStatus) -> String {
    let reason = sink.breaker_reason.as_deref().unwrap_or("no reason kept");
    match (sink.paused, sink.breaker.as_str(), sink.workers) {
        (true, _, _) => "paused by the operator".into(),
        (_, "open" | "half-open", _) => format!("resting: {reason}"),
        (_, _, 0) => "no worker".into(),
        _ => "delivering".into(),
    }
}
