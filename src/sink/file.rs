//! `kind = "file"`: appends one line of JSON for each event (NDJSON), on disk before it counts as delivered.
//!
//! A line holds `event_id`, `type`, `source`, `received_at`, `idempotency_key` and `payload`, the JSON value as it came
//! but for line breaks between its parts, which become blanks; or `payload_base64`, where the payload is not JSON.
//!
//! Several processes may append to one file, and it may be renamed or truncated at any time: each batch opens it anew and
//! holds its lock. A try that was broken off may leave part of a line; the next batch ends that line first, so a
//! reader skips at most lines that are no JSON, and finds every event.

use super::{Delivery, OpenError, Outcomes, Sink};
use crate::delivery::{Blame, Failure, Outcome};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

/// One disk write costs the same for all of these as for one.
const BATCH_MAX: usize = 256;
/// Lines are collected up to this size before they are written: a batch of usual events is one write, one of large ones stays bounded in memory.
const WRITE_BYTES: usize = 4 << 20;

/// Appends events to one file.
pub struct FileSink {
    path: Arc<Path>,
    /// Held by the thread that writes, also when its try has been given up: so a disk that hangs blocks one thread and not one a try.
    writing: Arc<Mutex<()>>,
}

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    event_id: &'a str,
    r#type: Option<&'a str>,
    source: &'a str,
    received_at: DateTime<Utc>,
    idempotency_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl FileSink {
    /// Creates the file where it is absent, so that a path that cannot work is refused at once.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        open(path).map_err(|source| OpenError::File { path: path.display().to_string(), source })?;
        Ok(Self { path: path.into(), writing: Arc::default() })
    }

    async fn append(&self, batch: &[Delivery]) -> io::Result<()> {
        let (path, batch) = (self.path.clone(), batch.to_vec());
        let writing = self.writing.clone().lock_owned().await;
        let written = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            append(&path, &batch)
        });
        written.await.map_err(io::Error::other)?
    }
}

impl Sink for FileSink {
    fn deliver<'a>(&'a self, batch: &'a [Delivery]) -> Outcomes<'a> {
        Box::pin(async move {
            let outcome = match self.append(batch).await {
                Ok(()) => Outcome::Delivered { status: None },
                Err(error) => Outcome::Failed(Failure {
                    blame: Blame::Sink,
                    status: None,
                    error: format!("cannot append to {}: {error}; check the disk's space and the file's rights", self.path.display()),
                    response: None,
                    retry_after: None,
                }),
            };
            vec![outcome; batch.len()]
        })
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    // Events hold personal data: not for everyone on the machine.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

/// Writes all lines and returns when they are on disk. Dropping the file releases its lock.
fn append(path: &Path, batch: &[Delivery]) -> io::Result<()> {
    let mut file = open(path)?;
    file.lock()?;
    let len = file.metadata()?.len();
    let mut lines = Vec::new();
    if !ends_with_a_line(&mut file, len)? {
        lines.push(b'\n');
    }
    for delivery in batch {
        push_line(&mut lines, delivery)?;
        if lines.len() >= WRITE_BYTES {
            file.write_all(&lines)?;
            lines.clear();
        }
    }
    file.write_all(&lines)?;
    file.sync_data()?;
    if len == 0 { sync_folder(path) } else { Ok(()) }
}

fn ends_with_a_line(file: &mut File, len: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if len > 0 {
        file.seek(SeekFrom::Start(len - 1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last == [b'\n'])
}

fn push_line(lines: &mut Vec<u8>, delivery: &Delivery) -> io::Result<()> {
    let payload = serde_json::from_slice(&delivery.payload).ok().map(on_one_line).transpose()?;
    let line = Line {
        event_id: &delivery.event_id,
        r#type: delivery.event_type.as_deref(),
        source: &delivery.source,
        received_at: delivery.received_at,
        idempotency_key: delivery.idempotency_key.to_string(),
        payload_base64: payload.is_none().then(|| STANDARD.encode(&delivery.payload)),
        payload,
    };
    serde_json::to_writer(&mut *lines, &line)?;
    lines.push(b'\n');
    Ok(())
}

/// JSON has line breaks only where it may as well have blanks: within its strings they are escaped.
fn on_one_line(json: &RawValue) -> serde_json::Result<Cow<'_, RawValue>> {
    let is_break = |char: char| matches!(char, '\n' | '\r');
    if !json.get().contains(is_break) {
        return Ok(Cow::Borrowed(json));
    }
    RawValue::from_string(json.get().replace(is_break, " ")).map(Cow::Owned)
}

/// A new file is only safe once its name is, and names are in the folder.
/// Returns when the name at this path is on disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let folder: PathBuf = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).into();
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::Value;
    use std::fs;

    fn delivery(event_id: &str, payload: &[u8]) -> Delivery {
        Delivery {
            seq: 1,
            source: "mindtickle".into(),
            event_id: event_id.into(),
            event_type: Some("course.completed".into()),
            order_key: None,
            received_at: DateTime::from_timestamp(1_700_000_000, 123_000_000).unwrap(),
            payload: Bytes::copy_from_slice(payload),
            traceparent: None,
            idempotency_key: crate::sink::idempotency_key("mindtickle", event_id, "file"),
        }
    }

    fn line(payload: &[u8]) -> String {
        let mut lines = Vec::new();
        push_line(&mut lines, &delivery("evt_1", payload)).unwrap();
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn a_line_holds_the_event_and_its_payload_as_it_came() {
        let expected = concat!(
            r#"{"event_id":"evt_1","type":"course.completed","source":"mindtickle","received_at":"2023-11-14T22:13:20.123Z","#,
            r#""idempotency_key":"KEY","payload":{"b":1.0,"a":1e400,"b":9007199254740993}}"#,
            "\n",
        );
        let expected = expected.replace("KEY", &delivery("evt_1", b"").idempotency_key.to_string());
        assert_eq!(line(br#"{"b":1.0,"a":1e400,"b":9007199254740993}"#), expected);
        assert!(line(b"null").contains("\"payload\":null}"));
    }

    #[test]
    fn json_over_several_lines_becomes_one_line_with_the_same_value() {
        let payload = b"\r\n{\n  \"a\": \"x\\ny\",\r\n  \"b\": [\n1\n]\n}\n";
        let line = line(payload);
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["payload"], serde_json::from_slice::<Value>(payload).unwrap());
    }

    #[test]
    fn a_payload_that_is_not_json_is_kept_byte_for_byte() {
        for payload in [b"".as_slice(), b"{", b"\xef\xbb\xbf{}", b"\"\xff\"", b"\"a\nb\"", b"{} {}", b"plain\ntext"] {
            let value: Value = serde_json::from_str(&line(payload)).unwrap();
            assert_eq!(STANDARD.decode(value["payload_base64"].as_str().unwrap()).unwrap(), payload);
            assert!(value.get("payload").is_none());
        }
    }

    #[tokio::test]
    async fn batches_are_appended_in_order_by_any_number_of_writers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        let sinks = [(); 2].map(|()| Arc::new(FileSink::open(&path).unwrap()));
        let mut writes = tokio::task::JoinSet::new();
        for batch in 0..8 {
            let sink = sinks[batch % 2].clone();
            let deliveries: Vec<Delivery> =
                (0..BATCH_MAX).map(|n| delivery(&format!("{batch}-{n}"), format!("\"{}\"", "x".repeat(n * 100)).as_bytes())).collect();
            writes.spawn(async move { sink.deliver(&deliveries).await });
        }
        for outcomes in writes.join_all().await {
            assert_eq!(outcomes, vec![Outcome::Delivered { status: None }; BATCH_MAX]);
        }
        let text = fs::read_to_string(&path).unwrap();
        let ids: Vec<String> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), 8 * BATCH_MAX);
        for batch in ids.chunks(BATCH_MAX) {
            let (number, _) = batch[0].split_once('-').unwrap();
            assert!(batch.iter().enumerate().all(|(n, id)| *id == format!("{number}-{n}")), "the lines of batches are mixed");
        }
    }

    #[tokio::test]
    async fn a_line_that_a_crash_cut_short_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        let sink = FileSink::open(&path).unwrap();
        sink.deliver(&[delivery("before", b"{}")]).await;
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"event_id\":\"torn").unwrap();
        for id in ["after", "later"] {
            sink.deliver(&[delivery(id, b"{}")]).await;
        }
        let text = fs::read_to_string(&path).unwrap();
        let ids: Vec<Option<Value>> =
            text.lines().map(|line| Some(serde_json::from_str::<Value>(line).ok()?["event_id"].clone())).collect();
        assert_eq!(ids, [Some("before".into()), None, Some("after".into()), Some("later".into())]);
    }

    #[tokio::test]
    async fn a_file_that_is_renamed_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        let sink = FileSink::open(&path).unwrap();
        sink.deliver(&[delivery("old", b"{}")]).await;
        fs::rename(&path, folder.path().join("events.1")).unwrap();
        sink.deliver(&[delivery("new", b"{}")]).await;
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[tokio::test]
    async fn trouble_with_the_disk_is_the_sinks_and_fails_the_whole_batch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner").join("events.ndjson");
        let Err(error) = FileSink::open(&path).map(drop) else { panic!("a missing folder was taken") };
        assert!(error.to_string().contains("events.ndjson"));
        fs::create_dir(path.parent().unwrap()).unwrap();
        let sink = FileSink::open(&path).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        let outcomes = sink.deliver(&[delivery("a", b"s3cret"), delivery("b", b"s3cret")]).await;
        assert_eq!(outcomes.len(), 2);
        for outcome in outcomes {
            let Outcome::Failed(failure) = outcome else { panic!("nothing was written") };
            assert_eq!(failure.blame, Blame::Sink);
            assert!(!failure.error.contains("s3cret"));
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_disk_is_the_sinks_trouble() {
        let sink = FileSink { path: Path::new("/dev/full").into(), writing: Arc::default() };
        let outcomes = sink.deliver(&[delivery("a", b"{}")]).await;
        assert!(matches!(&outcomes[..], [Outcome::Failed(Failure { blame: Blame::Sink, .. })]), "{outcomes:?}");
    }
}
