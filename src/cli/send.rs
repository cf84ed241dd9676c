//! `sluice send`.

use super::{Context, Failure, dev, env, print, print_json, samples};
use crate::clock;
use crate::config::{Config, ConfigError, Part};
use crate::profile::{Place, Profile};
use crate::signature::Message;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to post to [default: the source of the config; without a config, the one of `sluice dev`]
    #[arg(long)]
    url: Option<String>,
    /// Which source of the config to sign and send for [default: the first]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Send this header, too: `x-github-event: push`, for example; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Send this file's bytes as they are, instead of a sample
    #[arg(long, value_name = "FILE", conflicts_with = "event_type")]
    file: Option<PathBuf>,
    /// Send samples of this type only [default: all six in turn]
    #[arg(long = "type", value_name = "TYPE", value_parser = samples::TYPES)]
    event_type: Option<String>,
    /// How many [default: 6; with --file or --type, 1]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// At most this many a second [default: one after the other, without a pause]
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// The event id (with --count, followed by a number) [default: a new one]
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// The company that the samples are of [default: the config's, else acme]
    #[arg(long)]
    company: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where to, signed how. The secret comes from MINDTICKLE_WEBHOOK_SECRET, the config, or `sluice dev`: never from the
/// command line, which other users of the machine can read.
struct Target {
    url: String,
    profile: Profile,
    key: Vec<u8>,
    company: String,
    /// Sent as they are.
    headers: Vec<(String, String)>,
}

/// For the whole of one request.
const TIMEOUT: Duration = Duration::from_secs(15);

impl Args {
    /// Signs and posts; says what was answered.
    pub async fn run(&self, context: &Context) -> Result<(), Failure> {
        let target = self.target(context)?;
        let file = match &self.file {
            Some(path) => Some(std::fs::read(path).map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?),
            None => None,
        };
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(Failure::failed("--rate must be more than 0"));
        }
        let count = self.count.unwrap_or(if file.is_some() || self.event_type.is_some() { 1 } else { 6 });
        let base = self.event_id.clone().unwrap_or_else(|| format!("sample-{}", clock::now().timestamp_micros()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut answers: BTreeMap<String, u64> = BTreeMap::new();
        let began = clock::instant();
        for i in 0..count {
            if let Some(rate) = self.rate {
                tokio::time::sleep_until((began + Duration::from_secs_f64(i as f64 / rate)).into()).await;
            }
            let id = if count == 1 { base.clone() } else { format!("{base}-{i}") };
            let body = file.clone().unwrap_or_else(|| self.sample(&target, i));
            let event_type = self.file.is_none().then(|| self.sample_type(i));
            let answer = post(&client, &target, &id, event_type, body).await?;
            if count <= 20 && !self.json {
                print(&format!("{id}: {answer}\n"));
            }
            *answers.entry(answer).or_default() += 1;
        }
        if self.json {
            print_json(&serde_json::json!({ "sent": count, "answers": answers }));
        } else if count > 20 {
            answers.iter().for_each(|(answer, times)| print(&format!("{times} × {answer}\n")));
        }
        let refused = answers.keys().any(|answer| !answer.starts_with('2'));
        if refused { Err(Failure::failed("not all were taken")) } else { Ok(()) }
    }

    fn sample(&self, target: &Target, i: u64) -> Vec<u8> {
        let sample = samples::sample(self.sample_type(i), &target.company, i).expect("clap admits only the six types");
        sample.to_string().into_bytes()
    }

    fn sample_type(&self, i: u64) -> &str {
        self.event_type.as_deref().unwrap_or(samples::TYPES[(i % 6) as usize])
    }

    fn target(&self, context: &Context) -> Result<Target, Failure> {
        let company = |configured: Option<&str>| self.company.clone().or(configured.map(str::to_owned)).unwrap_or_else(|| "acme".into());
        let given = env("MINDTICKLE_WEBHOOK_SECRET");
        match Config::load_part(context.config.as_deref(), &env, Part::Ingest) {
            Ok(config) => {
                let mut sources = config.sources.iter();
                let source = match &self.source {
                    Some(name) => sources.find(|source| *source.name == **name),
                    None => sources.next(),
                };
                let source = source.ok_or_else(|| Failure::config("the config has no such [[source]] to send to"))?;
                let key = source.secrets.first().and_then(|secret| source.profile.secret_form.key(secret.expose()));
                Ok(Target {
                    url: self.url.clone().unwrap_or_else(|| format!("http://{}/webhooks/{}", config.ingest.listen, source.name)),
                    profile: source.profile.clone(),
                    key: key.ok_or_else(|| Failure::config("the source has no secret"))?.into_owned(),
                    company: company(source.company_id.as_deref()),
                    headers: self.headers.clone(),
                })
            }
            // Without a usable config: what `sluice dev` listens on, and what it signs with.
            Err(error) if !context.names_config() && self.source.is_none() => {
                if !matches!(error, ConfigError::Missing { .. }) {
                    tracing::warn!(%error, "the config cannot be used: sending to `sluice dev`");
                }
                Ok(Target {
                    url: self.url.clone().unwrap_or_else(|| format!("http://{}/webhooks/mindtickle", dev::LISTEN)),
                    profile: Profile::mindtickle(),
                    key: given
                        .or_else(dev::kept_secret)
                        .ok_or_else(|| {
                            Failure::from(error)
                                .and("no secret to sign with either: set MINDTICKLE_WEBHOOK_SECRET, or run `sluice dev` first")
                        })?
                        .into_bytes(),
                    company: company(None),
                    headers: self.headers.clone(),
                })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Parses `name: value`.
fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Posts one signed body; returns the answer: status and body. The type goes into its header, where the profile has one.
async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    target: &Target,
    id: &str,
    event_type: Option<&str>,
    body: Vec<u8>,
) -> Result<String, Failure> {
    let profile = &target.profile;
    let timestamp = clock::now().timestamp_millis() / profile.timestamp_unit.ms_each();
    let timestamp = timestamp.to_string();
    let signature = Message { event_id: Some(id.as_bytes()), timestamp: Some(&timestamp), body: &body }.sign(profile, &target.key);
    let mut request = hyper::Request::post(&target.url).header("content-type", "application/json");
    for (name, value) in profile.headers(&signature, &timestamp, id) {
        request = request.header(name, value);
    }
    if let (Place::Header(name), Some(event_type)) = (&profile.event_type, event_type) {
        request = request.header(name, event_type);
    }
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::failed(format!("cannot make a request for {}: {error}", target.url)))?;
    let answer = async {
        let response = client.request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok::<_, String>(format!("{} {}", status.as_u16(), String::from_utf8_lossy(&body).trim()))
    };
    let answer = tokio::time::timeout(TIMEOUT, answer).await.unwrap_or_else(|_| Err("no answer in 15 s".into()));
    answer.map_err(|error| {
        Failure::unavailable(format!("cannot post to {}: {error}; is `sluice ingest` or `sluice dev` running?", target.url))
    })
}
