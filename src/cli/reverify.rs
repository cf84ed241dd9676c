//! `sluice reverify`.

use super::{Context, Failure, operator, print, print_json};
use crate::config::Part;
use crate::ingest::reverify;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show how many would be let in, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Lets in requests that were kept because they did not verify, and do with the secrets of today.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let config = context.config(Part::Ingest)?;
        let mut conn = operator(context).await?;
        let reverified = reverify::run(&mut conn, &config, self.dry_run).await;
        let reverified = reverified.map_err(|error| Failure::database("cannot let requests in", &error))?;
        if self.json {
            print_json(&reverified);
        } else if self.dry_run {
            print(&format!("{} would be let in; {} do not verify\n", reverified.stored, reverified.left));
        } else {
            let (stored, duplicates) = (reverified.stored, reverified.duplicates);
            let (conflicts, left) = (reverified.conflicts, reverified.left);
            print(&format!(
                "{stored} let in, {duplicates} were stored already, {conflicts} quarantined as conflicts; {left} do not verify\n"
            ));
        }
        Ok(())
    }
}
