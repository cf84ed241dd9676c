//! `kind = "archive"` of a `[[sink]]`.

use super::Secret;
use super::check::{read, wrong};
use super::error::Problem;
use super::raw::Scalar;
use super::sinks::Entry;
use super::values::{self, count};
use hyper::Uri;
use ipnet::IpNet;
use std::path::PathBuf;

/// What a `[[sink]]` of this kind says.
#[derive(Debug, Clone)]
pub struct ArchiveSink {
    pub place: ArchivePlace,
    /// Objects that are put at once, 1 to 100: `batch`, default 8.
    pub batch_max: usize,
}

/// `url`: where objects are put.
#[derive(Debug, Clone)]
pub enum ArchivePlace {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`
    Bucket(Bucket),
    /// `file:///folder`, which must exist.
    Folder(PathBuf),
}

/// A bucket, or what its store calls so.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub store: Store,
    pub name: String,
    /// What every key begins with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// `None`: the provider's own.
    pub endpoint: Option<String>,
    /// Private ranges it may reach: `allow`; none by default.
    pub allow: Vec<IpNet>,
}

/// Whose protocol is spoken, and how requests are signed.
#[derive(Debug, Clone)]
pub enum Store {
    /// `s3://`: AWS, or what speaks the same.
    S3 {
        /// Default "us-east-1".
        region: String,
        access_key_id: String,
        secret_access_key: Secret<String>,
    },
    /// `gs://`: Google Cloud Storage.
    Google {
        /// The key of a service account, as Google's JSON: `service_account_key`.
        service_account_key: Secret<String>,
    },
    /// `az://`: Azure Blob Storage, whose buckets are containers.
    Azure { account: String, access_key: Secret<String> },
}

/// `url`, apart.
enum Url {
    Bucket { scheme: Scheme, name: String, prefix: String },
    Folder(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    S3,
    Google,
    Azure,
}

const SCHEMES: [(&str, Scheme); 3] = [("s3://", Scheme::S3), ("gs://", Scheme::Google), ("az://", Scheme::Azure)];

pub(super) fn archive(entry: &Entry) -> Result<ArchiveSink, Problem> {
    let raw = entry.raw;
    let place = match entry.required(&raw.url, "url", url, "s3://bucket/sluice")? {
        Url::Folder(path) => {
            only_of(entry, None)?;
            if let Some(allow) = &raw.allow {
                return Err(Problem::new(allow.span(), "`allow` is for a bucket, and `url` names a folder: remove it"));
            }
            ArchivePlace::Folder(path)
        }
        Url::Bucket { scheme, name, prefix } => {
            only_of(entry, Some(scheme))?;
            let endpoint = read(&raw.endpoint, "endpoint", endpoint)?;
            ArchivePlace::Bucket(Bucket { store: store(entry, scheme)?, name, prefix, endpoint, allow: entry.allow()? })
        }
    };
    Ok(ArchiveSink { place, batch_max: read(&raw.batch, "batch", count(1..=100))?.unwrap_or(8) })
}

fn store(entry: &Entry, scheme: Scheme) -> Result<Store, Problem> {
    let raw = entry.raw;
    Ok(match scheme {
        Scheme::S3 => Store::S3 {
            region: read(&raw.region, "region", region)?.unwrap_or_else(|| "us-east-1".into()),
            access_key_id: entry.required(&raw.access_key_id, "access_key_id", values::text, "${AWS_ACCESS_KEY_ID}")?,
            secret_access_key: entry.required(&raw.secret_access_key, "secret_access_key", secret, "${AWS_SECRET_ACCESS_KEY}")?,
        },
        Scheme::Google => Store::Google {
            service_account_key: entry.required(&raw.service_account_key, "service_account_key", secret, "${file:key.json}")?,
        },
        Scheme::Azure => Store::Azure {
            account: entry.required(&raw.account, "account", account, "${AZURE_STORAGE_ACCOUNT}")?,
            access_key: entry.required(&raw.access_key, "access_key", secret, "${AZURE_STORAGE_KEY}")?,
        },
    })
}

/// Refuses the keys of another store than `url` names; `None`: it names a folder.
fn only_of(entry: &Entry, scheme: Option<Scheme>) -> Result<(), Problem> {
    let raw = entry.raw;
    let keys = [
        ("region", &raw.region, Scheme::S3),
        ("access_key_id", &raw.access_key_id, Scheme::S3),
        ("secret_access_key", &raw.secret_access_key, Scheme::S3),
        ("service_account_key", &raw.service_account_key, Scheme::Google),
        ("account", &raw.account, Scheme::Azure),
        ("access_key", &raw.access_key, Scheme::Azure),
    ];
    for (key, item, store) in keys {
        if item.is_some() && scheme != Some(store) {
            let (prefix, _) = SCHEMES.iter().find(|(_, scheme)| *scheme == store).expect("each scheme has its prefix");
            return Err(wrong(item, &format!("`{key}` goes with a `url` that begins with {prefix}: remove it")));
        }
    }
    if scheme.is_none() && raw.endpoint.is_some() {
        return Err(wrong(&raw.endpoint, "`endpoint` is for a bucket, and `url` names a folder: remove it"));
    }
    Ok(())
}

fn secret(value: &Scalar) -> Result<Secret<String>, String> {
    values::text(value).map(Secret::new)
}

fn url(value: &Scalar) -> Result<Url, String> {
    let text = values::text(value)?;
    if let Some(path) = text.strip_prefix("file://") {
        // What comes between the second slash and the third would be a host.
        let whole = path.starts_with('/') && path.len() > 1 && !path.contains(['?', '#', '%']);
        return if whole {
            Ok(Url::Folder(path.into()))
        } else {
            Err("must name a whole path after file://, such as \"file:///var/archive\"".into())
        };
    }
    let wanted = "must be a bucket such as \"s3://bucket/prefix\" (or gs://, az://), or a folder such as \"file:///var/archive\"";
    let of = |(prefix, scheme): (&str, Scheme)| Some((text.strip_prefix(prefix)?, scheme));
    let (rest, scheme) = SCHEMES.into_iter().find_map(of).ok_or(wanted)?;
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket_like = |char: char| char.is_ascii_alphanumeric() || ".-_".contains(char);
    if !(3..=63).contains(&name.len()) || !name.chars().all(bucket_like) || !name.starts_with(|char: char| char.is_ascii_alphanumeric()) {
        return Err("must have the bucket's name after its `://`: 3 to 63 letters, digits, `.`, `-` or `_`".into());
    }
    let prefix = prefix.trim_end_matches('/');
    let segment = |segment: &str| {
        !matches!(segment, "" | "." | "..") && segment.chars().all(|char| char.is_ascii_alphanumeric() || "._-=+".contains(char))
    };
    if prefix.len() > 400 || !(prefix.is_empty() || prefix.split('/').all(segment)) {
        return Err("must have a prefix of letters, digits, `.`, `_`, `-`, `=` and `+`, in parts with one slash between them".into());
    }
    Ok(Url::Bucket { scheme, name: name.into(), prefix: prefix.into() })
}

/// It becomes part of a host's name, and of what is signed.
fn region(value: &Scalar) -> Result<String, String> {
    let region = values::text(value)?;
    let valid = region.len() <= 63 && region.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
    valid.then_some(region).ok_or_else(|| "must be a region, such as \"eu-central-1\"".into())
}

/// It becomes part of a host's name, and of what is signed.
fn account(value: &Scalar) -> Result<String, String> {
    let account = values::text(value)?;
    let valid = (3..=24).contains(&account.len()) && account.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit());
    valid.then_some(account).ok_or_else(|| "must be a storage account's name: 3 to 24 lowercase letters and digits".into())
}

fn endpoint(value: &Scalar) -> Result<String, String> {
    let url = values::http_url(value)?.expose().clone();
    let uri: Uri = url.parse().map_err(|_| "must be a URL")?;
    if uri.query().is_some() { Err("must not have a `?…` at its end: the bucket follows it".into()) } else { Ok(url) }
}
