//! `sluice replay`.

use super::{Context, Failure, confirmed, operator, print, print_json};
use crate::clock;
use crate::config;
use crate::store::replay::{self, Preview, Selection};
use chrono::{DateTime, Utc};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of this sink only
    #[arg(long)]
    sink: Option<String>,
    /// Received at or after this: a time (2026-11-20T10:00:00Z) or how long ago (6h)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    since: Option<DateTime<Utc>>,
    /// Received before this
    #[arg(long, value_name = "WHEN", value_parser = when)]
    until: Option<DateTime<Utc>>,
    /// Deliveries in this status
    #[arg(long, default_value = "dead", value_parser = ["dead", "delivered", "skipped", "pending"])]
    status: String,
    /// Show what would be delivered again, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Shows what is meant, asks, and resets it. Workers give replays at most a fifth of their capacity while fresh events wait.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let selection = Selection { sink: self.sink.clone(), since: self.since, until: self.until, status: self.status.clone() };
        let mut conn = operator(context).await?;
        let failed = |error| Failure::database("cannot replay", &error);
        if let Some(sink) = &self.sink {
            let known = replay::sinks(&mut conn).await.map_err(failed)?;
            if !known.contains(sink) {
                return Err(Failure::failed(format!("there is no sink named {sink}; there are: {}", known.join(", "))));
            }
        }
        let preview = replay::preview(&mut conn, &selection).await.map_err(failed)?;
        if !self.json {
            print(&describe(&selection, &preview));
        }
        if self.dry_run || preview.deliveries == 0 {
            if self.json {
                print_json(&serde_json::json!({ "replayed": 0, "would_replay": preview }));
            }
            return Ok(());
        }
        if !self.yes && !confirmed("deliver them again?")? {
            return Err(Failure::failed("nothing was changed"));
        }
        let replayed = replay::replay(&mut conn, &selection).await.map_err(failed)?;
        if self.json {
            print_json(&serde_json::json!({ "replayed": replayed }));
        } else {
            print(&format!("{replayed} deliveries are pending again; watch them with: sluice status\n"));
        }
        Ok(())
    }
}

fn describe(selection: &Selection, preview: &Preview) -> String {
    let of = selection.sink.as_ref().map_or("every sink".into(), |sink| format!("sink {sink}"));
    let mut text = format!("{} {} deliveries of {of}", preview.deliveries, selection.status);
    if let (Some(oldest), Some(newest)) = (preview.oldest_received_at, preview.newest_received_at) {
        text += &format!(", received {} to {}", oldest.format("%Y-%m-%d %H:%M:%S UTC"), newest.format("%Y-%m-%d %H:%M:%S UTC"));
    }
    text + "\n"
}

/// A point in time: RFC 3339, or a duration before now.
fn when(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let ago = config::parse_duration(text).ok_or("neither a time such as 2026-11-20T10:00:00Z nor a duration such as 6h")?;
    let ago = chrono::Duration::from_std(ago).map_err(|_| "too long ago")?;
    clock::now().checked_sub_signed(ago).ok_or_else(|| "too long ago".into())
}
