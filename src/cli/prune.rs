//! `sluice prune`.

use super::{Context, Failure, confirmed, operator, print, print_json};
use crate::store::ranges::{self, Range};
use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice prune --before 2026-01-01 --dry-run\n  sluice prune --before 2026-06-01 --payloads --yes")]
pub struct Args {
    /// Drop what was received before this day, or this moment (2026-01-31, or RFC 3339)
    #[arg(long, value_name = "DATE", value_parser = moment)]
    before: DateTime<Utc>,
    /// Drop payloads only; events, deliveries and attempts stay
    #[arg(long)]
    payloads: bool,
    /// Show what would be dropped and what keeps the rest, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let day = || text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0).map(|day| day.and_utc());
    text.parse().ok().or_else(day).ok_or_else(|| "write a day, such as 2026-01-31, or a moment, such as 2026-01-31T12:00:00Z".into())
}

/// Tries to detach one range while others read and store.
const TRIES: usize = 40;

impl Args {
    /// Drops the whole ranges of the log that lie before the date and of which nothing is owed. Event ids stay.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let mut conn = operator(context).await?;
        let failed = |error| Failure::database("cannot look at the ranges of the log", &error);
        let ranges = ranges::report(&mut conn, self.before).await.map_err(failed)?;
        let (doomed, kept): (Vec<Range>, Vec<Range>) =
            ranges.into_iter().partition(|range| range.kept_by.is_none() && !(self.payloads && range.payloads_gone));
        if !self.json {
            for range in &kept {
                print(&format!("{} stays: {}\n", name(range), range.kept_by.as_deref().unwrap_or("its payloads are gone")));
            }
            for range in &doomed {
                print(&format!("{} goes: {} bytes\n", name(range), self.bytes(range)));
            }
        }
        let mut dropped = Vec::new();
        if !self.dry_run && !doomed.is_empty() {
            if !self.yes && !confirmed("drop them for good?")? {
                return Err(Failure::failed("nothing was changed"));
            }
            for range in &doomed {
                match self.detach(&mut conn, range).await? {
                    None => dropped.push(range.number),
                    Some(reason) => print(&format!("{} stays: {reason}\n", name(range))),
                }
            }
            ranges::drop_detached(&mut conn).await.map_err(|error| Failure::database("cannot drop what was detached", &error))?;
        }
        if self.json {
            let doomed: Vec<i32> = doomed.iter().map(|range| range.number).collect();
            print_json(
                &serde_json::json!({ "dry_run": self.dry_run, "before": self.before, "could_go": doomed, "dropped": dropped, "kept": kept }),
            );
        }
        Ok(())
    }

    fn bytes(&self, range: &Range) -> i64 {
        if self.payloads { range.payload_bytes } else { range.bytes }
    }

    async fn detach(&self, conn: &mut PgConnection, range: &Range) -> Result<Option<String>, Failure> {
        let mut prevented = None;
        for _ in 0..TRIES {
            prevented = ranges::detach(conn, range.number, self.before, self.payloads)
                .await
                .map_err(|error| Failure::database("cannot drop a range of the log (this needs the schema's owner)", &error))?;
            match &prevented {
                Some(reason) if reason.contains("tried again") => tokio::time::sleep(std::time::Duration::from_millis(250)).await,
                _ => break,
            }
        }
        Ok(prevented)
    }
}

fn name(range: &Range) -> String {
    let newest = range.newest_received_at.map_or("empty".into(), |newest| format!("newest event {}", newest.format("%Y-%m-%d %H:%M UTC")));
    format!("range {} (up to seq {}, {newest})", range.number, range.until_seq - 1)
}
