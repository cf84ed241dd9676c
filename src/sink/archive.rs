//! `kind = "archive"`: an object an event, in a bucket of S3, Google Cloud Storage or Azure, or in a folder. The object is the payload's exact bytes.
//!
//! Its key is `{prefix}/{source}/{day of received_at, UTC}/{event id, percent-encoded}.json`, the same on every try and replay, and it is
//! put only where there is none yet: an object is written once and never again, and what is there already counts as delivered.
//!
//! | the store | is taken as |
//! | --- | --- |
//! | answers 200 or another 2xx; or 412 (Azure: 409 `BlobAlreadyExists`), since the object is there | delivered |
//! | answers another 409, 500 or another 5xx; 400 because a request came in pieces | trouble with this event |
//! | answers 413, or 400 because of the object's size or key | permanent |
//! | answers 429, or 503 `SlowDown` or `ServerBusy` | a rate limit |
//! | answers 408, 502, 503, 504, 507; cannot be resolved or reached; breaks off | trouble of the sink |
//! | answers 401, 403; 404 (no such bucket), 3xx (another region), 501 (cannot put only where there is none), another 400 | a refusal: the sink rests, nothing is buried |
//! | a folder cannot be written: no right to, or it is gone, or is another than at the start (not mounted) | a refusal |
//! | … or no space, or any other trouble with the disk | trouble of the sink |
//!
//! The library signs requests and knows where a bucket is; they go out through [`Client`](super::client::Client), as those of every other
//! sink do (see [`transport`]), so the same check of addresses and the same certificates hold. It does not retry.

mod folder;
mod transport;

use super::{Delivery, OpenError, Outcomes, Sink};
use crate::config::{self, ArchivePlace, Bucket, Store};
use crate::delivery::{Blame, Failure, Outcome};
use folder::{Folder, Put};
use futures_util::FutureExt;
use futures_util::future::join_all;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{Attribute, Attributes, Error, ObjectStore, PutMode, PutOptions, RetryConfig};
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;
use transport::{Carried, Transport};

/// Of an event's id in a key. A file's name has at most 255 bytes.
const ID_BYTES_MAX: usize = 200;

/// See the module's documentation.
pub struct ArchiveSink {
    place: Place,
    prefix: String,
    batch_max: usize,
}

enum Place {
    Folder(Folder),
    Bucket {
        live: Box<dyn ObjectStore>,
        /// The same, but it sends nothing, and its transport keeps what it would send.
        rehearsal: Box<dyn ObjectStore>,
        rehearsed: Arc<Transport>,
    },
}

impl ArchiveSink {
    /// Checks that a folder is there. `concurrency` batches are put at once.
    pub fn new(config: &config::ArchiveSink, concurrency: usize) -> Result<Self, OpenError> {
        let batch_max = config.batch_max;
        match &config.place {
            ArchivePlace::Folder(path) => {
                let opened = Folder::open(path);
                let folder = opened.map_err(|_| OpenError::Archive("is not there: make the folder, or mount it"))?;
                Ok(Self { place: Place::Folder(folder), prefix: String::new(), batch_max })
            }
            ArchivePlace::Bucket(bucket) => {
                let https = bucket.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https:"));
                let live = Transport::live(&bucket.allow, concurrency.saturating_mul(batch_max), https).map_err(OpenError::Tls)?;
                let rehearsed = Arc::new(Transport::rehearsal());
                let (live, rehearsal) = (open(bucket, &Arc::new(live))?, open(bucket, &rehearsed)?);
                Ok(Self { place: Place::Bucket { live, rehearsal, rehearsed }, prefix: bucket.prefix.clone(), batch_max })
            }
        }
    }

    async fn attempt(&self, delivery: &Delivery) -> Outcome {
        match &self.place {
            Place::Folder(folder) => match folder.put(&self.key(delivery), delivery.payload.clone()).await {
                Ok(Put::Written | Put::There) => Outcome::Delivered { status: None },
                Err(error) => Outcome::Failed(folder_failure(&error)),
            },
            Place::Bucket { live, .. } => self.put(live.as_ref(), delivery).await,
        }
    }

    async fn put(&self, bucket: &dyn ObjectStore, delivery: &Delivery) -> Outcome {
        let Ok(key) = Path::parse(self.key(delivery)) else {
            return Outcome::Failed(Failure::permanent("the event's id makes no key"));
        };
        let attributes = Attributes::from_iter([(Attribute::ContentType, "application/json")]);
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        match bucket.put_opts(&key, delivery.payload.clone().into(), options).await {
            Ok(_) => Outcome::Delivered { status: Some(200) },
            Err(Error::AlreadyExists { .. }) => Outcome::Delivered { status: Some(412) },
            Err(error) => Outcome::Failed(bucket_failure(&error)),
        }
    }

    fn key(&self, delivery: &Delivery) -> String {
        key(&self.prefix, delivery)
    }
}

impl Sink for ArchiveSink {
    fn preview(&self, delivery: &Delivery) -> Result<String, Outcome> {
        let payload = String::from_utf8_lossy(&delivery.payload);
        let Place::Bucket { rehearsal, rehearsed, .. } = &self.place else {
            return Ok(format!("{}\n\n{payload}", self.key(delivery)));
        };
        // It waits for nothing, since nothing is sent.
        self.put(rehearsal.as_ref(), delivery).now_or_never();
        Ok(format!("{}\n{payload}", rehearsed.rehearsed()))
    }

    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        Box::pin(join_all(batch.iter().map(|delivery| self.attempt(delivery))))
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }
}

fn open(bucket: &Bucket, transport: &Arc<Transport>) -> Result<Box<dyn ObjectStore>, OpenError> {
    let connector = transport::Connector(Arc::clone(transport));
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    match &bucket.store {
        Store::S3 { region, access_key_id, secret_access_key } => {
            let mut builder = AmazonS3Builder::new()
                .with_bucket_name(&bucket.name)
                .with_region(region)
                .with_access_key_id(access_key_id)
                .with_secret_access_key(secret_access_key.expose())
                .with_allow_http(true)
                .with_retry(retry)
                .with_http_connector(connector);
            if let Some(endpoint) = &bucket.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            boxed(builder.build(), "names no bucket that can be used")
        }
        Store::Google { service_account_key } => {
            let mut builder = GoogleCloudStorageBuilder::new()
                .with_bucket_name(&bucket.name)
                .with_service_account_key(service_account_key.expose())
                .with_retry(retry)
                .with_http_connector(connector);
            if let Some(endpoint) = &bucket.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            boxed(
                builder.build(),
                "has a `service_account_key` that cannot be used: give the JSON file of the key, whole, as Google made it",
            )
        }
        Store::Azure { account, access_key } => {
            let mut builder = MicrosoftAzureBuilder::new()
                .with_container_name(&bucket.name)
                .with_account(account)
                .with_access_key(access_key.expose())
                .with_allow_http(true)
                .with_retry(retry)
                .with_http_connector(connector);
            if let Some(endpoint) = &bucket.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            boxed(builder.build(), "has an `access_key` that cannot be used: it is 88 characters of base64, as Azure shows it")
        }
    }
}

/// The library's own words could show a key.
fn boxed<S: ObjectStore>(opened: object_store::Result<S>, otherwise: &'static str) -> Result<Box<dyn ObjectStore>, OpenError> {
    opened.map(|store| Box::new(store) as Box<dyn ObjectStore>).map_err(|_| OpenError::Archive(otherwise))
}

/// Where the event's object is.
fn key(prefix: &str, delivery: &Delivery) -> String {
    let slash = if prefix.is_empty() { "" } else { "/" };
    let day = delivery.received_at.format("%Y-%m-%d");
    format!("{prefix}{slash}{}/{day}/{}.json", delivery.source, encoded(&delivery.event_id))
}

/// An event's id as part of a key: letters, digits, `-`, `_` and `.` as they are, other bytes as `%` and two digits. What is then too long
/// for a file's name ends in `~` and the id's SHA-256 instead; no other id has a `~`.
fn encoded(id: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    let whole: String = id.bytes().map(byte).collect();
    if whole.len() <= ID_BYTES_MAX {
        return whole;
    }
    format!("{}~{}", &whole[..ID_BYTES_MAX / 2], hex::encode(Sha256::digest(id.as_bytes())))
}

/// What an error of the library means: what the answer meant.
fn bucket_failure(error: &Error) -> Failure {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |&cause| cause.source());
    // The library's own words would name keys, and with them events.
    let unknown = || failed(Blame::Event, "the store gave no answer that makes sense".to_owned());
    causes.find_map(|cause| cause.downcast_ref::<Carried>()).map_or_else(unknown, |carried| carried.0.clone())
}

/// What it means that the system says this.
fn folder_failure(error: &io::Error) -> Failure {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    match error.kind() {
        PermissionDenied | NotFound | NotADirectory | ReadOnlyFilesystem => {
            failed(Blame::Refused, format!("cannot write into the folder: {error}; check that it is there and writable"))
        }
        _ => failed(Blame::Sink, format!("cannot write into the folder: {error}")),
    }
}

fn failed(blame: Blame, error: String) -> Failure {
    Failure { blame, status: None, error, response: None, retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_the_disk_is_the_sinks_and_a_folder_that_may_not_be_written_is_a_refusal() {
        for (kind, expected) in [
            (io::ErrorKind::StorageFull, Blame::Sink),
            (io::ErrorKind::QuotaExceeded, Blame::Sink),
            (io::ErrorKind::Other, Blame::Sink),
            (io::ErrorKind::PermissionDenied, Blame::Refused),
            (io::ErrorKind::ReadOnlyFilesystem, Blame::Refused),
            (io::ErrorKind::NotFound, Blame::Refused),
        ] {
            assert_eq!(folder_failure(&kind.into()).blame, expected, "{kind:?}");
        }
    }

    #[test]
    fn an_id_becomes_one_part_of_a_key_and_no_two_the_same() {
        for (id, expected) in
            [("evt_1", "evt_1"), ("..", ".."), ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"), ("a%2Fb", "a%252Fb"), ("a b~c", "a%20b%7Ec")]
        {
            assert_eq!(encoded(id), expected);
        }
        let (one, other) = ("/".repeat(199) + "a", "/".repeat(199) + "b");
        assert!(encoded(&one) != encoded(&other) && encoded(&one).len() + ".json".len() <= 255);
        assert_eq!(encoded(&"x".repeat(200)), "x".repeat(200));
    }
}
