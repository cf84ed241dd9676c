//! `sluice config`.

use super::{Context, Failure, print};
use crate::config::Part;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Parse and check the config; every variable it refers to must be set
    Check,
}

impl Args {
    pub fn run(&self, context: &Context) -> Result<(), Failure> {
        match self.what {
            What::Check => check(context),
        }
    }
}

fn check(context: &Context) -> Result<(), Failure> {
    let config = context.config(Part::All)?;
    let names = |names: Vec<&str>| if names.is_empty() { "none".into() } else { names.join(", ") };
    print(&format!(
        "the config is right\nsources: {}\nsinks: {}\ndatabase: {}\n",
        names(config.sources.iter().map(|source| &*source.name).collect()),
        names(config.sinks.iter().map(|sink| &*sink.name).collect()),
        if config.database_url.is_some() { "configured" } else { "not configured: set DATABASE_URL, or database_url" },
    ));
    Ok(())
}
