//! `sluice route`.

use super::{Context, Failure, print, print_json};
use crate::clock;
use crate::config::{self, Part};
use crate::delivery::Outcome;
use crate::profile::{Facts, Profile};
use crate::sink::{self, Delivery};
use crate::store::servers::Servers;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show which sinks an event would go to, what is skipped and why, and the request that would go out; sends nothing
    Test(Test),
}

#[derive(Debug, clap::Args)]
struct Test {
    /// The event's payload, as the provider posts it
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
    /// The source that it would come to [default: the first of the config]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The event's id
    #[arg(long, value_name = "ID", default_value = "evt_test")]
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What would become of an event.
#[derive(Serialize)]
struct Report {
    source: String,
    event_id: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    company_id: Option<String>,
    order_key: Option<String>,
    /// Why it would be held back from every sink.
    quarantine: Option<String>,
    sinks: Vec<Route>,
}

/// What would become of it at one sink.
#[derive(Serialize)]
struct Route {
    sink: String,
    kind: &'static str,
    /// `sent`, `skipped`, `dead`, or `not subscribed`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

impl Args {
    pub fn run(&self, context: &Context) -> Result<(), Failure> {
        match &self.what {
            What::Test(test) => test.run(context),
        }
    }
}

impl Test {
    fn run(&self, context: &Context) -> Result<(), Failure> {
        let config = context.config(Part::All)?;
        let payload = std::fs::read(&self.event).map_err(|error| {
            Failure::failed(format!("cannot read {}: {error}; name the payload's file with --event", self.event.display()))
        })?;
        let (source, profile) = self.source(&config)?;
        let (facts, quarantine) = match profile.read(&payload) {
            Ok(facts) => (facts, None),
            Err(reason) => (Facts::default(), Some(reason)),
        };
        let delivery = self.delivery(&source, &facts, payload);
        let routes = match quarantine {
            Some(_) => Ok(Vec::new()),
            None => {
                let servers = servers(&config)?;
                config.sinks.iter().map(|sink| route(sink, &servers, &delivery)).collect()
            }
        };
        let report = Report {
            source: source.to_string(),
            event_id: delivery.event_id,
            event_type: facts.event_type,
            company_id: facts.company_id,
            order_key: delivery.order_key,
            quarantine,
            sinks: routes?,
        };
        if self.json {
            print_json(&report);
        } else {
            print(&table(&report));
        }
        Ok(())
    }

    fn source(&self, config: &config::Config) -> Result<(Arc<str>, Profile), Failure> {
        let found = match &self.source {
            Some(name) => config.sources.iter().find(|source| *source.name == **name),
            None => config.sources.first(),
        };
        match (found, &self.source) {
            (Some(source), _) => Ok((source.name.clone(), source.profile.clone())),
            (None, None) => Ok(("mindtickle".into(), Profile::mindtickle())),
            (None, Some(name)) => Err(Failure::config(format!("the config has no [[source]] named {name}: correct --source, or add it"))),
        }
    }

    fn delivery(&self, source: &Arc<str>, facts: &Facts, payload: Vec<u8>) -> Delivery {
        Delivery {
            seq: 0,
            source: source.clone(),
            event_id: self.id.clone(),
            event_type: facts.event_type.clone(),
            order_key: facts.user.as_ref().map(|user| format!("{}/{user}", facts.company_id.as_deref().unwrap_or(""))),
            received_at: clock::now(),
            payload: payload.into(),
            traceparent: None,
            idempotency_key: uuid::Uuid::nil(),
        }
    }
}

/// What sinks that write to the database are given. Nothing connects to it here.
fn servers(config: &config::Config) -> Result<Servers, Failure> {
    let url = config.database_url.as_ref().map_or("postgres://127.0.0.1", |url| url.expose());
    Servers::parse(url).map_err(|error| Failure::config(error.to_string()))
}

fn route(config: &config::Sink, servers: &Servers, delivery: &Delivery) -> Result<Route, Failure> {
    let opened = sink::open(config, servers).map_err(|error| Failure::config(format!("the sink {}: {error}", config.name)))?;
    let key = sink::idempotency_key(&delivery.source, &delivery.event_id, &config.name);
    let delivery = Delivery { idempotency_key: key, ..delivery.clone() };
    let (result, reason, request) = what_becomes(config, &*opened, &delivery);
    Ok(Route { sink: config.name.to_string(), kind: config.kind.name(), result, reason, request })
}

/// As the worker does it: event types, then `when`, then the sink itself.
fn what_becomes(config: &config::Sink, sink: &dyn sink::Sink, delivery: &Delivery) -> (&'static str, Option<String>, Option<String>) {
    let subscribes = |events: &Vec<String>| delivery.event_type.as_ref().is_some_and(|event_type| events.contains(event_type));
    if !config.events.as_ref().is_none_or(subscribes) {
        return ("not subscribed", Some("`events` does not list its type".into()), None);
    }
    match config.when.as_ref().map(|when| delivery.subject().and_then(|subject| when.holds(&subject))) {
        None | Some(Ok(true)) => {}
        Some(Ok(false)) => return ("skipped", Some("`when` is false for it".into()), None),
        Some(Err(error)) => return ("dead", Some(format!("cannot tell whether `when` holds: {error}")), None),
    }
    match sink.preview(delivery) {
        Ok(request) => ("sent", None, Some(request)),
        Err(Outcome::Skipped { reason }) => ("skipped", Some(reason), None),
        Err(Outcome::Failed(failure)) => ("dead", Some(failure.error), None),
        Err(Outcome::Delivered { .. }) => ("sent", None, None),
    }
}

fn table(report: &Report) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
    let mut text = format!(
        "source: {}\nevent id: {}\ntype: {}\ncompany: {}\norder key: {}\n",
        report.source,
        report.event_id,
        or_none(&report.event_type),
        or_none(&report.company_id),
        or_none(&report.order_key)
    );
    if let Some(reason) = &report.quarantine {
        return text + &format!("\nquarantined, and sent to no sink: {reason}\n");
    }
    for route in &report.sinks {
        text += &format!("\n{} ({}): {}", route.sink, route.kind, route.result);
        if let Some(reason) = &route.reason {
            text += &format!(": {reason}");
        }
        text.push('\n');
        for line in route.request.iter().flat_map(|request| request.lines()) {
            text += &format!("    {line}\n");
        }
    }
    if report.sinks.is_empty() {
        text += "\nthe config has no sink\n";
    }
    text
}
