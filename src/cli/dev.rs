//! `sluice dev`: all in one, for a first look.

use super::{Context, Failure, bind, env, print, samples, shutdown};
use crate::clock;
use crate::config::{Config, Part};
use crate::dev::{DataDirEnv, Options, PrivatePostgres, default_data_dir};
use crate::ingest::Keyring;
use crate::profile::Profile;
use crate::signature::Message;
use crate::store::servers::Servers;
use crate::store::{lanes, migrate};
use crate::{ingest, worker};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;

/// Where `sluice dev` listens unless it is told otherwise.
pub const LISTEN: &str = "127.0.0.1:8080";

/// For tries in flight and requests under way; a second Ctrl-C cuts it short.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to receive webhooks
    #[arg(long, value_name = "ADDRESS", default_value = LISTEN)]
    listen: SocketAddr,
    /// The folder for the private Postgres and the file sink [default: SLUICE_DEV_DIR, else the user's data folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Args {
    /// Runs a database (unless `DATABASE_URL` is set), ingest, and a worker, until Ctrl-C.
    ///
    /// With `--config` it runs that config's sources and sinks (its `listen` and `ops_listen` are not used); without, a MindTickle source and a
    /// file sink, also where there is a sluice.toml.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let shutdown = shutdown(DRAIN)?;
        let dir = self.folder()?;
        let listener = bind(self.listen, "--listen").await?;
        let (postgres, url) = match env("DATABASE_URL") {
            Some(url) => (None, url),
            None => {
                eprintln!("starting a private Postgres in {} ...", dir.display());
                let options = Options { search_path: std::env::var_os("PATH"), ..Options::default() };
                let postgres = PrivatePostgres::start(&dir, options).await.map_err(|error| Failure::failed(error.to_string()))?;
                let url = postgres.url().to_owned();
                (Some(postgres), url)
            }
        };
        migrate::up(&url).await.map_err(|error| Failure::failed(error.to_string()))?;
        if postgres.is_some() {
            // Nobody else works on a private database: leases that a killed program left behind need not be waited for.
            end_leases(&url).await.map_err(|error| Failure::database("cannot end old leases", &error))?;
            keep(&dir, URL_FILE, &url).map_err(|error| Failure::failed(format!("cannot write to {}: {error}", dir.display())))?;
        }
        let config = self.config(context, &dir, &url)?;
        let (ops, worker_ops) = (operators_port().await?, operators_port().await?);
        welcome(&config, self.listen, [ops.1, worker_ops.1], &dir, postgres.as_ref());
        let worker = tokio::spawn({
            let (config, shutdown) = (config.clone(), shutdown.clone());
            async move { worker::run(&config, Some(worker_ops.0), shutdown).await }
        });
        let received = ingest::run(&config, &Keyring::new(&config.sources), listener, Some(ops.0), shutdown.clone()).await;
        shutdown.begin();
        let delivered = worker.await;
        if let Some(postgres) = postgres {
            // Best effort: a URL that leads nowhere is refused by the connection.
            let _ = std::fs::remove_file(dir.join(URL_FILE));
            postgres.stop().await.map_err(|error| Failure::failed(error.to_string()))?;
        }
        received.map_err(|error| Failure::failed(error.to_string()))?;
        match delivered {
            Ok(result) => result.map_err(|error| Failure::failed(error.to_string())),
            Err(error) => Err(Failure::failed(format!("the worker ended unexpectedly: {error}"))),
        }
    }

    fn folder(&self) -> Result<PathBuf, Failure> {
        let dir = self.data_dir.clone().or_else(data_dir);
        let dir = dir.ok_or_else(|| Failure::failed("no folder to keep data in: name one with --data-dir or SLUICE_DEV_DIR"))?;
        std::path::absolute(&dir).map_err(|error| Failure::failed(format!("cannot use {}: {error}", dir.display())))
    }

    fn config(&self, context: &Context, dir: &Path, url: &str) -> Result<Config, Failure> {
        let environment = |name: &str| if name == "DATABASE_URL" { Some(url.to_owned()) } else { env(name) };
        if context.names_config() {
            return Ok(Config::load_part(context.config.as_deref(), &environment, Part::All)?);
        }
        let secret = match env("MINDTICKLE_WEBHOOK_SECRET") {
            Some(secret) => secret,
            None => secret(dir).map_err(|error| Failure::failed(format!("cannot keep a secret in {}: {error}", dir.display())))?,
        };
        let environment = |name: &str| match name {
            "SLUICE_DEV_SECRET" => Some(secret.clone()),
            "SLUICE_DEV_EVENTS" => Some(events_file(dir).display().to_string()),
            name => environment(name),
        };
        Ok(Config::parse(DEV_CONFIG, "the config of sluice dev", &environment)?)
    }
}

/// One source, one sink: what a first look needs.
const DEV_CONFIG: &str = r#"
[[source]]
name = "mindtickle"
profile = "mindtickle"
secrets = ["${SLUICE_DEV_SECRET}"]

[[sink]]
name = "events"
kind = "file"
path = "${SLUICE_DEV_EVENTS}"
"#;

pub(super) fn data_dir() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name);
    default_data_dir(&DataDirEnv { sluice_dev_dir: var("SLUICE_DEV_DIR"), xdg_data_home: var("XDG_DATA_HOME"), home: var("HOME") })
}

fn events_file(dir: &Path) -> PathBuf {
    dir.join("events.ndjson")
}

/// The secret that `sluice dev` signs with, where it has run before.
pub fn kept_secret() -> Option<String> {
    std::fs::read_to_string(data_dir()?.join("webhook-secret")).ok().filter(|secret| !secret.is_empty())
}

/// The URL of the private Postgres that runs now, with its password.
const URL_FILE: &str = "database-url";

/// The database of a `sluice dev` that is running, or was killed.
pub fn kept_url() -> Option<String> {
    std::fs::read_to_string(data_dir()?.join(URL_FILE)).ok().filter(|url| !url.is_empty())
}

async fn end_leases(url: &str) -> Result<(), sqlx::Error> {
    let servers = Servers::parse(url).map_err(|error| sqlx::Error::Configuration(error.into()))?;
    let mut conn = servers.session("sluice dev", &[]).connect().await?;
    lanes::end_all(&mut conn).await
}

/// A free port on 127.0.0.1, for `/livez`, `/readyz` and `/metrics`.
async fn operators_port() -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), "the operators' port").await?;
    let address = listener.local_addr().map_err(|error| Failure::failed(error.to_string()))?;
    Ok((listener, address))
}

/// Writes a file that only we may read.
fn keep(dir: &Path, name: &str, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::create_dir_all(dir)?;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(name))?.write_all(text.as_bytes())
}

/// The secret kept in the folder; made when first asked for.
fn secret(dir: &Path) -> std::io::Result<String> {
    let path = dir.join("webhook-secret");
    match std::fs::read_to_string(&path) {
        Ok(secret) if !secret.is_empty() => return Ok(secret),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let secret = format!("dev-{}", uuid::Uuid::new_v4().simple());
    keep(dir, "webhook-secret", &secret)?;
    Ok(secret)
}

/// Says where everything is, and what to try.
fn welcome(config: &Config, listen: SocketAddr, ops: [SocketAddr; 2], dir: &Path, postgres: Option<&PrivatePostgres>) {
    let psql = postgres.map_or_else(|| "psql \"$DATABASE_URL\"".into(), PrivatePostgres::psql_line);
    let mut text = format!("\nsluice is up: ingest and a worker in one process\n\n  receiving   http://{listen}/webhooks/{{source}}\n");
    text += &format!("  operating   http://{}/metrics (ingest), http://{}/metrics (worker); /readyz, /livez\n", ops[0], ops[1]);
    text += &format!("  psql        {psql}\n");
    if let Some(postgres) = postgres {
        text += &format!("  data        {}\n  server log  {}\n", dir.display(), postgres.log_path().display());
    }
    for sink in &config.sinks {
        text += &format!("  sink        {} ({})", sink.name, sink.kind.name());
        if let crate::config::SinkKind::File(file) = &sink.kind {
            text += &format!(" {}", file.path.display());
        }
        text += "\n";
    }
    if let Some(line) = curl(config, listen) {
        text += &format!("\ntry it (the signature is good for a day):\n\n{line}\n");
    }
    text += "\nthen, in psql:\n\n  select * from sluice.outbox;\n  update sluice.outbox set status = 'pending' where event_id = 'evt_1';   -- deliver it again\n\nCtrl-C stops it all.\n\n";
    print(&text);
}

/// A signed request that can be pasted.
fn curl(config: &Config, listen: SocketAddr) -> Option<String> {
    let source = config.sources.first()?;
    let profile: &Profile = &source.profile;
    let company = source.company_id.as_deref().unwrap_or("acme");
    let body = samples::sample("course.completed", company, 1)?.to_string();
    let timestamp = clock::now().timestamp().to_string();
    let key = profile.secret_form.key(source.secrets.first()?.expose())?;
    let message = Message { event_id: Some(b"evt_1"), timestamp: Some(&timestamp), body: body.as_bytes() };
    let signature = message.sign(profile, &key);
    let signed = profile.headers(&signature, &timestamp, "evt_1");
    let headers: String = signed.iter().map(|(name, value)| format!("    -H '{name}: {value}' \\\n")).collect();
    Some(format!(
        "  curl -i http://{listen}/webhooks/{} \\\n    -H 'content-type: application/json' \\\n{headers}    -d '{}'",
        source.name,
        body.replace('\'', r"'\''")
    ))
}
