//! `sluice completions`.

use super::{Cli, Failure};
use clap::CommandFactory;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell that is to complete
    shell: clap_complete::Shell,
}

impl Args {
    /// Prints the script on stdout.
    pub fn run(&self) -> Result<(), Failure> {
        clap_complete::generate(self.shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
        Ok(())
    }
}
