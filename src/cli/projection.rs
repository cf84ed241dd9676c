//! `sluice projection`.

use super::{Context, Failure, confirmed, operator, print, print_json};
use crate::clock;
use crate::sink::projection::observe;
use crate::store::projections;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Empty the tables, and fill them again from all events whose payloads are still stored
    Rebuild(Rebuild),
}

#[derive(Debug, clap::Args)]
struct Rebuild {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let Command::Rebuild(rebuild) = &self.command;
        rebuild.run(context).await
    }
}

impl Rebuild {
    /// Safe beside running workers: what they write commutes with what this writes, and a worker's event is committed, and so read here, before the
    /// worker can have it. The figures grow back while it runs. A sink's `when` and `events` are not asked.
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let mut conn = operator(context).await?;
        let failed = |error| Failure::database("cannot rebuild", &error);
        if !self.yes && !confirmed("empty the projections' tables, and fill them again from the events whose payloads are still stored?")? {
            return Err(Failure::failed("nothing was changed"));
        }
        let began = clock::instant();
        projections::begin_rebuild(&mut conn).await.map_err(failed)?;
        let (mut after, mut read, mut applied, mut left_out) = (0, 0_u64, 0_u64, 0_u64);
        loop {
            let stored = projections::stored_events(&mut conn, after).await.map_err(failed)?;
            let Some(last) = stored.last() else { break };
            after = last.seq;
            read += stored.len() as u64;
            let seen: Vec<_> = stored.iter().filter_map(|event| observe(&event.payload, event.seq, event.received_at).ok()).collect();
            left_out += (stored.len() - seen.len()) as u64;
            for outcome in projections::apply_all(&mut conn, &seen).await.map_err(failed)? {
                match outcome {
                    Ok(_) => applied += 1,
                    Err(_) => left_out += 1,
                }
            }
        }
        projections::end_rebuild(&mut conn).await.map_err(failed)?;
        let seconds = (clock::instant() - began).as_secs_f64();
        if self.json {
            print_json(&serde_json::json!({ "events": read, "applied": applied, "left_out": left_out, "seconds": seconds }));
        } else {
            let rate = read as f64 / seconds.max(0.001);
            print(&format!(
                "{read} events read in {seconds:.1} s ({rate:.0} a second): {applied} applied, {left_out} are of other types or lack a field\n"
            ));
        }
        Ok(())
    }
}
