//! `sluice mindtickle`.

use super::{Context, Failure, env, print, print_json, samples};
use crate::config::{COMPANY_VARIABLE, Config, ConfigError, Mindtickle, Part};
use crate::provider::{Api, ApiError, Webhook, WebhookId};
use hyper::Uri;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Have events sent to a URL; prints the new webhook's id
    Register {
        /// Where ingest is reached from outside: https://…/webhooks/mindtickle
        #[arg(long, value_parser = url)]
        url: String,
        /// Event types, with commas between [default: the six that are described]
        #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = event_type)]
        events: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// The webhooks, and whether they are active
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Switch a suspended webhook on again
    Reactivate {
        /// As `list` shows it
        id: WebhookId,
        #[command(flatten)]
        output: Output,
    },
    /// Replace the event types that a webhook is subscribed to
    Subscribe {
        /// As `list` shows it
        id: WebhookId,
        /// All of them, with commas between
        #[arg(long, value_name = "TYPES", value_delimiter = ',', required = true, value_parser = event_type)]
        events: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Clone, Copy, clap::Args)]
struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Asks the provider's API.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let config = config(context)?;
        let api = Api::open(&config)?;
        match &self.what {
            What::Register { url, events, output } => {
                let company = config.company_id.as_deref().ok_or_else(|| {
                    Failure::config(format!("whose webhook is it? Set {COMPANY_VARIABLE}, or `company_id` in [mindtickle] of the config"))
                })?;
                let events = if events.is_empty() { samples::TYPES.map(String::from).to_vec() } else { events.clone() };
                note_unknown(&events);
                let webhook = api.register(url, &events, company).await?;
                output.one(&webhook, "registered");
            }
            What::List { output } => {
                let list = api.list().await?;
                if let Some(unseen) = &list.unseen {
                    eprintln!("sluice: note: {unseen}");
                }
                output.all(&list.webhooks);
            }
            What::Reactivate { id, output } => output.one(&api.reactivate(id).await?, "re-activated"),
            What::Subscribe { id, events, output } => {
                note_unknown(events);
                output.one(&api.subscribe(id, events).await?, "subscribed");
            }
        }
        Ok(())
    }
}

/// `[mindtickle]`; without a config file, what the environment says.
fn config(context: &Context) -> Result<Mindtickle, Failure> {
    match context.load_config(Part::Provider) {
        Ok(config) => Ok(config.mindtickle),
        Err(ConfigError::Missing { .. }) if !context.names_config() => Ok(Config::parse("", "the environment", &env)?.mindtickle),
        Err(error) => Err(error.into()),
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Down(why) | ApiError::Busy(why) => Self::unavailable(why),
            ApiError::Refused(why) => Self::failed(why),
            ApiError::Config(why) => Self::config(why),
        }
    }
}

impl Output {
    fn one(self, webhook: &Webhook, done: &str) {
        if self.json {
            print_json(webhook);
        } else {
            print(&format!("{done}: {}\n", line(webhook).trim_end()));
        }
    }

    fn all(self, webhooks: &[Webhook]) {
        if self.json {
            print_json(&serde_json::json!({ "webhooks": webhooks }));
        } else if webhooks.is_empty() {
            print("no webhook is registered: sluice mindtickle register --url https://…/webhooks/mindtickle\n");
        } else {
            webhooks.iter().for_each(|webhook| print(&line(webhook)));
        }
    }
}

fn line(webhook: &Webhook) -> String {
    let events = webhook.events.as_ref().map(|events| events.join(",")).unwrap_or_default();
    let (status, url) = (webhook.status.as_deref().unwrap_or("-"), webhook.url.as_deref().unwrap_or("-"));
    format!("{}  {status}  {url}  {events}\n", webhook.webhook_id)
}

/// A type with a slip in it would be asked for, and never come.
fn note_unknown(events: &[String]) {
    for event in events.iter().filter(|event| !samples::TYPES.contains(&event.as_str())) {
        eprintln!("sluice: note: {event} is none of the event types that are described: {}", samples::TYPES.join(", "));
    }
}

fn event_type(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let valid = !text.is_empty() && text.chars().count() <= 200 && !text.contains(char::is_control);
    valid.then(|| text.to_owned()).ok_or("write event types such as quiz.submitted")
}

fn url(text: &str) -> Result<String, &'static str> {
    let uri: Option<Uri> = text.parse().ok();
    let valid =
        uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty()));
    valid.then(|| text.to_owned()).ok_or("write an http or https URL with a host")
}
