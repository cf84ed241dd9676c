//! `sluice doctor`.

use super::{Context, Failure, print, print_json, samples};
use crate::config::{Config, ConfigError, Part, parse_duration};
use crate::doctor::{Finding, Level, house, provider};
use crate::store::doctor;
use crate::store::migrate::{self, SchemaError};
use crate::store::ranges;
use crate::store::servers::{Connection, Servers};
use sqlx::PgConnection;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long nothing may come before that is a warning
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = silence)]
    silence: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Looks, and says what it found: exit code 0 where nothing is worse than a note, else 1.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (config, mut found) = look_at_config(context);
        let url = context.database_url()?;
        let servers = Servers::parse(&url).map_err(|error| Failure::config(error.to_string()))?;
        let conn = servers.session("sluice doctor", doctor::SETTINGS).connect().await;
        let conn = conn.map_err(|error| Failure::database("cannot connect to the database", &error))?;
        let mut look = Look { conn, found: Vec::new() };
        look.at_all(config.as_ref(), self.silence).await?;
        found.append(&mut look.found);
        if self.json {
            let worst = found.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
            print_json(&serde_json::json!({ "worst": worst, "findings": found }));
        } else {
            found.iter().for_each(|finding| print(&lines(finding)));
        }
        let count = |level| found.iter().filter(|finding| finding.level == level).count();
        match (count(Level::Problem), count(Level::Warning)) {
            (0, 0) => Ok(()),
            (problems, warnings) => Err(Failure::failed(format!("problems: {problems}, warnings: {warnings}"))),
        }
    }
}

/// The whole config where it can be had, and what is to be said of it.
fn look_at_config(context: &Context) -> (Option<Config>, Vec<Finding>) {
    match context.load_config(Part::All) {
        Ok(config) => {
            let what = format!("it is right: {} sources, {} sinks", config.sources.len(), config.sinks.len());
            (Some(config), vec![Finding::ok("config", what)])
        }
        Err(error @ ConfigError::Missing { .. }) if !context.names_config() => {
            let action = "name it with --config, to have it compared with what is registered";
            (
                None,
                vec![Finding::new(
                    Level::Note,
                    "config",
                    "there is no config here: the database is looked at alone",
                    error.to_string(),
                    action,
                )],
            )
        }
        Err(error) => {
            let action = "correct it; where a variable is not set here, set it as the processes have it";
            (None, vec![Finding::new(Level::Problem, "config", "the config cannot be used", error.to_string(), action)])
        }
    }
}

/// One connection, and what has been found.
struct Look {
    conn: Connection,
    found: Vec<Finding>,
}

impl Look {
    async fn at_all(&mut self, config: Option<&Config>, silence: Duration) -> Result<(), Failure> {
        match migrate::check(&mut self.conn).await {
            Ok(()) => self.found.push(Finding::ok("schema", "it is the one that this version needs")),
            Err(SchemaError::Database(error)) => self.unseen("schema", &error)?,
            Err(error) => {
                let action = "see the message; until then nothing else can be looked at";
                self.found.push(Finding::new(
                    Level::Problem,
                    "schema",
                    "the schema is not the one that this version needs",
                    error.to_string(),
                    action,
                ));
            }
        }
        if let Some(server) = self.at("durability", async |conn| doctor::server(conn).await).await? {
            self.found.extend(house::server(&server));
        }
        if self.found.iter().any(|finding| finding.check == "schema" && finding.level == Level::Problem) {
            return Ok(());
        }
        let sinks = self.at_house(config).await?;
        self.at_provider(config, &sinks, silence).await
    }

    /// Returns the sinks that it saw.
    async fn at_house(&mut self, config: Option<&Config>) -> Result<Vec<doctor::Sink>, Failure> {
        if let Some(roles) = self.at("roles", async |conn| doctor::roles(conn).await).await? {
            self.found.push(house::roles(&roles));
        }
        let Some(now) = self.at("workers", async |conn| doctor::now(conn).await).await? else { return Ok(Vec::new()) };
        let sinks = self.at("sinks", async |conn| doctor::sinks(conn).await).await?;
        let workers = self.at("workers", async |conn| doctor::workers(conn).await).await?;
        if let (Some(config), Some(sinks)) = (config, &sinks) {
            self.found.extend(house::registered(&config.sinks, sinks));
        }
        if let (Some(sinks), Some(workers)) = (&sinks, &workers) {
            self.found.extend(house::delivering(sinks, workers, now));
        }
        if let Some(kept) = config.and_then(|config| config.retention.deliveries) {
            let before = now - kept;
            if let Some(ranges) = self.at("retention", async |conn| ranges::report(conn, before).await).await? {
                self.found.push(house::ranges(&ranges, before));
            }
        }
        Ok(sinks.unwrap_or_default())
    }

    async fn at_provider(&mut self, config: Option<&Config>, sinks: &[doctor::Sink], silence: Duration) -> Result<(), Failure> {
        let now = self.at("silence", async |conn| doctor::now(conn).await).await?;
        let kinds = self.at("silence", async |conn| doctor::kinds(conn).await).await?;
        let (Some(now), Some(kinds)) = (now, kinds) else { return Ok(()) };
        let kept = self.at("kept", async |conn| doctor::kept(conn).await).await?;
        if let Some(refusals) = self.at("refused", async |conn| doctor::refusals(conn).await).await? {
            self.found.extend(provider::refused(&refusals, &kinds, kept));
        }
        let sources: Vec<&str> = config.iter().flat_map(|config| &config.sources).map(|source| &*source.name).collect();
        self.found.extend(provider::silence(&kinds, &sources, now, silence));
        let wanted = sinks.iter().filter(|sink| !sink.is_retired).flat_map(|sink| sink.events.iter().flatten());
        let wanted: BTreeSet<&str> = wanted.map(String::as_str).collect();
        // Without a source of that profile the six types are not to be expected.
        let is_described = config.is_none_or(|config| config.sources.iter().any(|source| source.profile.name == "mindtickle"));
        let described: &[&str] = if is_described { &samples::TYPES } else { &[] };
        self.found.extend(provider::never_seen(&kinds, described, &wanted));
        if let Some(bodies) = self.at("repeated_ids", async |conn| doctor::repeats(conn).await).await? {
            let requests = match bodies.bodies {
                0 => None,
                _ => self.at("repeated_ids", async |conn| doctor::repeated_requests(conn).await).await?,
            };
            self.found.extend(provider::ids(&kinds, &bodies, requests.as_ref()));
        }
        if let Some(quarantines) = self.at("quarantined", async |conn| doctor::quarantines(conn).await).await? {
            self.found.extend(provider::quarantined(&quarantines, now));
        }
        if let Some(scores) = self.at("scores", async |conn| doctor::scores(conn).await).await? {
            self.found.extend(provider::scores(&scores));
        }
        if let Some(watch) = self.at("watchdog", async |conn| doctor::watch(conn).await).await? {
            self.found.extend(provider::watch(&watch, now));
        }
        Ok(())
    }

    /// `None`: it could not be looked at, which is a finding of its own. An error: the database is gone.
    async fn at<T>(
        &mut self,
        check: &'static str,
        look: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<Option<T>, Failure> {
        match look(&mut self.conn).await {
            Ok(seen) => Ok(Some(seen)),
            Err(error) => self.unseen(check, &error).map(|()| None),
        }
    }

    fn unseen(&mut self, check: &'static str, error: &sqlx::Error) -> Result<(), Failure> {
        let Some(refusal) = error.as_database_error() else { return Err(Failure::database("cannot go on looking", error)) };
        let why = match refusal.code().as_deref() {
            Some("42501") => format!("this role lacks the right: {}", refusal.message()),
            Some("57014") => "it took longer than 15 s, and was given up".into(),
            // admin_shutdown, crash_shutdown, cannot_connect_now.
            Some("57P01" | "57P02" | "57P03") => {
                return Err(Failure::unavailable(format!("the database went away: {}", refusal.message())));
            }
            _ => refusal.message().to_owned(),
        };
        self.found.push(Finding::unseen(check, why));
        Ok(())
    }
}

fn lines(finding: &Finding) -> String {
    let mut text = format!("{:<8} {:<13} {}\n", finding.level.word(), finding.check, finding.what);
    for (label, said) in [("seen", &finding.evidence), ("do", &finding.action)] {
        if let Some(said) = said {
            text += &format!("{:22} {label}: {said}\n", "");
        }
    }
    text
}

fn silence(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).filter(|time| !time.is_zero()).ok_or("write a duration such as 24h or 90m")
}
