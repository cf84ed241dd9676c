//! `sluice migrate`.

use super::{Context, Failure, print};
use crate::store::migrate::{self, State};
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
        up(url).await?;
        if self.roles {
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

async fn up(url: &str) -> Result<(), Failure> {
    let applied = migrate::up(url).await.map_err(failure)?;
    for migration in &applied {
        print(&format!("applied {:04} {} ({} ms)\n", migration.version, migration.description, migration.took.as_millis()));
    }
    if applied.is_empty() {
        print("the schema is current\n");
    }
    Ok(())
}

async fn dry_run(url: &str) -> Result<(), Failure> {
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
