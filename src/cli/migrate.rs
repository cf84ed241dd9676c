//! `sluice migrate`.

use super::{Context, Failure, print};
use crate::store::migrate::{self, Standstill, State};
use crate::store::pooler::NotOurs;
use crate::store::roles;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Print the SQL that would run, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also make the roles sluice_ingest, sluice_worker, sluice_operator and sluice_reader, with the least rights for each
    #[arg(long)]
    roles: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Apply what is missing (the default)
    Up {
        /// Print the SQL that would run, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List the migrations, and which are applied
    Status,
}

impl Args {
    /// Brings the schema up to this version. Safe when two run at once: one waits for the other.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let url = context.database_url()?;
        match self.what {
            Some(What::Status) => status(&url).await,
            Some(What::Up { dry_run: true }) => self.dry_run(&url).await,
            _ if self.dry_run => self.dry_run(&url).await,
            _ => self.up(&url).await,
        }
    }

    async fn up(&self, url: &str) -> Result<(), Failure> {
        let applied = up(url).await?;
        // Rights on what a migration has made anew are given by it, where roles are used.
        if self.roles || (applied > 0 && roles::are_used(url).await.map_err(failure)?) {
            roles::grant(url).await.map_err(failure)?;
            print(&format!("granted their rights to {}\n", roles::ROLES.join(", ")));
        }
        Ok(())
    }

    async fn dry_run(&self, url: &str) -> Result<(), Failure> {
        dry_run(url).await?;
        if self.roles {
            print(roles::SQL);
        }
        Ok(())
    }
}

/// Returns how many migrations were applied.
async fn up(url: &str) -> Result<usize, Failure> {
    warn(url).await?;
    let applied = migrate::up(url).await.map_err(failure)?;
    for migration in &applied {
        print(&format!("applied {:04} {} ({} ms)\n", migration.version, migration.description, migration.took.as_millis()));
    }
    if applied.is_empty() {
        print("the schema is current\n");
    }
    Ok(applied.len())
}

/// Says beforehand what stands still, and for how long about.
async fn warn(url: &str) -> Result<(), Failure> {
    if let Some(Standstill { events, seconds }) = migrate::standstill(url).await.map_err(failure)? {
        eprintln!(
            "This database is of version 0.1. About {events} events are stored: migrating takes about {seconds} s, during which nothing is \
             received (ingest answers 503) and nothing delivered. There is no way back to 0.1. Killed midway, it keeps nothing and can be run again."
        );
    }
    Ok(())
}

async fn dry_run(url: &str) -> Result<(), Failure> {
    warn(url).await?;
    let planned = migrate::dry_run(url).await.map_err(failure)?;
    if planned.first().is_some_and(|migration| migration.version == 1) {
        print("create schema if not exists sluice;\n-- Besides, sluice.migrations is made, which keeps what was applied.\n\n");
    }
    for migration in &planned {
        print(&format!("-- {:04} {}\n{}\n", migration.version, migration.description, migration.sql));
    }
    if planned.is_empty() {
        print("-- the schema is current: nothing would run\n");
    }
    Ok(())
}

async fn status(url: &str) -> Result<(), Failure> {
    for line in migrate::status(url).await.map_err(failure)? {
        let state = match line.state {
            State::Applied(at) => format!("applied {}", at.format("%Y-%m-%d %H:%M:%S UTC")),
            State::Pending => "pending: run sluice migrate".into(),
            State::Differs(at) => format!("differs from this binary's; applied {}", at.format("%Y-%m-%d %H:%M:%S UTC")),
            State::Unknown(at) => format!("unknown to this binary; applied {}", at.format("%Y-%m-%d %H:%M:%S UTC")),
        };
        print(&format!("{:04} {:<12} {state}\n", line.version, line.description));
    }
    Ok(())
}

fn failure(error: migrate::Error) -> Failure {
    match &error {
        migrate::Error::Connect(source) => Failure::database("cannot connect to the database", source),
        migrate::Error::Url(_) | migrate::Error::NotOurs(NotOurs::Pooled { .. }) => Failure::config(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}
