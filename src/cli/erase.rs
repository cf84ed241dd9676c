//! `sluice erase`.

use super::{Context, Failure, confirmed, operator, print, print_json};
use crate::store::people;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The person, as the provider names them
    #[arg(long, value_name = "ID")]
    user: String,
    /// Of this company only
    #[arg(long)]
    company: Option<String>,
    /// Show how much there is, and change nothing
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
    /// Removes a person's payloads, the sinks' answers to them, and the order key; event ids and hashes stay.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let mut conn = operator(context).await?;
        let failed = |error| Failure::database("cannot erase", &error);
        let company = self.company.as_deref();
        let mut erasure = people::erase(&mut conn, &self.user, company, true).await.map_err(failed)?;
        if !self.json {
            print(&format!("{} events can be erased, {} are still owed to a sink and stay\n", erasure.erased, erasure.owed));
        }
        if !self.dry_run && erasure.erased > 0 {
            if !self.yes && !confirmed("erase them for good?")? {
                return Err(Failure::failed("nothing was changed"));
            }
            erasure = people::erase(&mut conn, &self.user, company, false).await.map_err(failed)?;
        }
        if self.json {
            print_json(&serde_json::json!({ "dry_run": self.dry_run, "erased": erasure.erased, "owed": erasure.owed }));
        } else if !self.dry_run {
            print(&format!(
                "erased; what sinks and file sinks hold is theirs to erase{}\n",
                if erasure.owed > 0 { ". Run it again when nothing is owed" } else { "" }
            ));
        }
        Ok(())
    }
}
