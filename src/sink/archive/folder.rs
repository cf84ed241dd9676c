//! Objects in a folder: each is on disk, under its own name only when it is whole.

use crate::sink::file::sync_folder;
use bytes::Bytes;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Objects that are written at once, those of tries that were given up included.
const WRITING_MAX: usize = 8;

/// See the module's documentation.
pub struct Folder {
    root: Arc<Path>,
    /// Which folder it is, and not only where: at a mount point there is another one when nothing is mounted.
    identity: (u64, u64),
    /// A permit is held by the thread that writes, also when its try has been given up: so a disk that hangs blocks these threads and not
    /// one a try, until none is left in the process, for names of other sinks' hosts neither.
    writing: Arc<Semaphore>,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Written,
    /// It was there already.
    There,
}

impl Folder {
    /// Takes a folder that is there, and makes none.
    pub fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.into(), identity: identity(root)?, writing: Arc::new(Semaphore::new(WRITING_MAX)) })
    }

    /// Writes an object where there is none yet. It, and its name, are on disk when this returns, whoever has written it.
    pub async fn put(&self, key: &str, payload: Bytes) -> io::Result<Put> {
        let (root, identity, key) = (self.root.clone(), self.identity, PathBuf::from(key));
        self.on_disk(move || put(&root, identity, &key, &payload)).await
    }

    /// Waits for the disk.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let permit = self.writing.clone().acquire_owned().await.map_err(io::Error::other)?;
        let working = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        working.await.map_err(io::Error::other)?
    }
}

fn put(root: &Path, expected: (u64, u64), key: &Path, payload: &[u8]) -> io::Result<Put> {
    if identity(root)? != expected {
        return Err(io::Error::new(io::ErrorKind::NotFound, "another folder is in its place, since the worker has started"));
    }
    let target = root.join(key);
    let put = if fs::exists(&target)? { Put::There } else { write(root, key, &target, payload)? };
    // Each name on the way, lest one that another process has just made be lost with the power.
    for name in key.ancestors().filter(|name| !name.as_os_str().is_empty()) {
        sync_folder(&root.join(name))?;
    }
    Ok(put)
}

fn write(root: &Path, key: &Path, target: &Path, payload: &[u8]) -> io::Result<Put> {
    let mut above: Vec<_> = key.ancestors().skip(1).filter(|name| !name.as_os_str().is_empty()).collect();
    above.reverse();
    // One by one, and never the root itself.
    for name in above {
        fs::create_dir(root.join(name)).or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
    }
    // No object's name ends so.
    let mut half = target.as_os_str().to_owned();
    half.push(format!("~{}", Uuid::new_v4().simple()));
    let written = File::create_new(&half).and_then(|mut file| {
        file.write_all(payload)?;
        file.sync_all()
    });
    let linked = written.and_then(|()| fs::hard_link(&half, target));
    // Should that fail, it is one half-written file more, which nobody reads.
    let _ = fs::remove_file(&half);
    match linked {
        Ok(()) => Ok(Put::Written),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Put::There),
        Err(error) => Err(error),
    }
}

fn identity(root: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(root)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(numbers(&metadata))
}

#[cfg(unix)]
fn numbers(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// There is no such thing: that it is there has to do.
#[cfg(not(unix))]
fn numbers(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    const KEY: &str = "mindtickle/2026-01-02/evt_1.json";

    async fn put(folder: &Folder, payload: &'static [u8]) -> Result<Put, io::ErrorKind> {
        folder.put(KEY, Bytes::from_static(payload)).await.map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn an_object_is_written_once_and_nothing_is_left_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        assert_eq!(put(&folder, b"first").await, Ok(Put::Written));
        assert_eq!(put(&folder, b"second").await, Ok(Put::There));
        assert_eq!(fs::read(place.path().join(KEY)).unwrap(), b"first");
        assert_eq!(fs::read_dir(place.path().join(KEY).parent().unwrap()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_folder_that_is_gone_or_another_is_not_written() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("archive");
        fs::create_dir(&root).unwrap();
        let folder = Folder::open(&root).unwrap();
        // As when it is unmounted: what is there then is another.
        let mounted = place.path().join("elsewhere");
        fs::rename(&root, &mounted).unwrap();
        assert_eq!(put(&folder, b"x").await, Err(io::ErrorKind::NotFound));
        assert!(!root.exists(), "it was made again");
        fs::create_dir(&root).unwrap();
        assert_eq!(put(&folder, b"x").await, Err(io::ErrorKind::NotFound));
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir(&root).unwrap();
        fs::rename(&mounted, &root).unwrap();
        assert_eq!(put(&folder, b"x").await, Ok(Put::Written));
    }

    #[tokio::test]
    async fn a_disk_that_hangs_blocks_no_more_threads_than_that_however_many_tries_are_given_up() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let stuck = Arc::new(AtomicUsize::new(0));
        let mut hangs = Vec::new();
        for _ in 0..3 * WRITING_MAX {
            let (hang, until) = mpsc::channel::<()>();
            hangs.push(hang);
            let stuck = stuck.clone();
            let work = folder.on_disk(move || {
                stuck.fetch_add(1, Ordering::SeqCst);
                let _ = until.recv();
                Ok(())
            });
            assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        }
        assert!(stuck.load(Ordering::SeqCst) <= WRITING_MAX);
        drop(hangs);
        assert_eq!(put(&folder, b"x").await, Ok(Put::Written));
        assert!(stuck.load(Ordering::SeqCst) <= WRITING_MAX);
    }
}
