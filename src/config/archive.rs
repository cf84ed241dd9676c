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
    /// `s3://bucket/prefix`
    Bucket(Bucket),
    /// `file:///folder`, which must exist.
    Folder(PathBuf),
}

/// A bucket of S3, or of what speaks the same.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub name: String,
    /// What every key begins with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Default "us-east-1".
    pub region: String,
    /// `None`: AWS.
    pub endpoint: Option<String>,
    pub access_key_id: String,
    pub secret_access_key: Secret<String>,
    /// Private ranges it may reach: `allow`; none by default.
    pub allow: Vec<IpNet>,
}

/// `url`, apart.
enum Url {
    Bucket { name: String, prefix: String },
    Folder(PathBuf),
}

pub(super) fn archive(entry: &Entry) -> Result<ArchiveSink, Problem> {
    let raw = entry.raw;
    let place = match entry.required(&raw.url, "url", url, "s3://bucket/sluice")? {
        Url::Folder(path) => {
            let bucket_keys = [
                ("region", &raw.region),
                ("endpoint", &raw.endpoint),
                ("access_key_id", &raw.access_key_id),
                ("secret_access_key", &raw.secret_access_key),
            ];
            if let Some((key, item)) = bucket_keys.into_iter().find(|(_, item)| item.is_some()) {
                return Err(wrong(item, &format!("`{key}` is for a bucket, and `url` names a folder: remove it")));
            }
            if let Some(allow) = &raw.allow {
                return Err(Problem::new(allow.span(), "`allow` is for a bucket, and `url` names a folder: remove it"));
            }
            ArchivePlace::Folder(path)
        }
        Url::Bucket { name, prefix } => ArchivePlace::Bucket(Bucket {
            name,
            prefix,
            region: read(&raw.region, "region", region)?.unwrap_or_else(|| "us-east-1".into()),
            endpoint: read(&raw.endpoint, "endpoint", endpoint)?,
            access_key_id: entry.required(&raw.access_key_id, "access_key_id", values::text, "${AWS_ACCESS_KEY_ID}")?,
            secret_access_key: entry.required(&raw.secret_access_key, "secret_access_key", secret, "${AWS_SECRET_ACCESS_KEY}")?,
            allow: entry.allow()?,
        }),
    };
    Ok(ArchiveSink { place, batch_max: read(&raw.batch, "batch", count(1..=100))?.unwrap_or(8) })
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
    let wanted = "must be a bucket such as \"s3://bucket/prefix\", or a folder such as \"file:///var/archive\"";
    let rest = text.strip_prefix("s3://").ok_or(wanted)?;
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket_like = |char: char| char.is_ascii_alphanumeric() || ".-_".contains(char);
    if !(3..=63).contains(&name.len()) || !name.chars().all(bucket_like) || !name.starts_with(|char: char| char.is_ascii_alphanumeric()) {
        return Err("must have the bucket's name after s3://: 3 to 63 letters, digits, `.`, `-` or `_`".into());
    }
    let prefix = prefix.trim_end_matches('/');
    let segment = |segment: &str| {
        !matches!(segment, "" | "." | "..") && segment.chars().all(|char| char.is_ascii_alphanumeric() || "._-=+".contains(char))
    };
    if prefix.len() > 400 || !(prefix.is_empty() || prefix.split('/').all(segment)) {
        return Err("must have a prefix of letters, digits, `.`, `_`, `-`, `=` and `+`, in parts with one slash between them".into());
    }
    Ok(Url::Bucket { name: name.into(), prefix: prefix.into() })
}

/// It becomes part of a host's name, and of what is signed.
fn region(value: &Scalar) -> Result<String, String> {
    let region = values::text(value)?;
    let valid = region.len() <= 63 && region.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
    valid.then_some(region).ok_or_else(|| "must be a region, such as \"eu-central-1\"".into())
}

fn endpoint(value: &Scalar) -> Result<String, String> {
    let url = values::http_url(value)?.expose().clone();
    let uri: Uri = url.parse().map_err(|_| "must be a URL")?;
    if uri.query().is_some() { Err("must not have a `?…` at its end: the bucket follows it".into()) } else { Ok(url) }
}
