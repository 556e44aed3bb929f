//! What is on the disk: one sled tree, key → revision (8 bytes, big endian) and value; and the newest revision
//! under a key of its own, written in the same batch.
//!
//! Invariant: when [`Disk::write`] returns Ok, its batch outlives a loss of power, as far as the disk obeys fdatasync.

use crate::{
    StoreError,
    files::{Directory, TakeError},
    view::{State, Write},
};
use bytes::Bytes;
use minisvc_apimachinery::storage::{Revision, Stored};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

/// No storage key contains a zero byte, so this one is out of their way.
const REVISION_KEY: &[u8] = b"\0revision";
const TREE: &str = "state";

/// Why a batch is not known to be on the disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("writing: {0}")]
    Apply(#[source] sled::Error),
    #[error("flushing: {0}")]
    Flush(#[source] sled::Error),
    #[error("syncing {path}: {source}")]
    Sync { path: PathBuf, source: std::io::Error },
}

pub(crate) struct Disk {
    tree: sled::Tree,
    // After the tree: dropping the last handle closes the files.
    db: sled::Db,
    file: File,
    // After the database: the next process may come once all is closed.
    _directory: Directory,
    path: PathBuf,
    blobs: PathBuf,
    /// Names in `blobs/` that were synced already.
    synced_blobs: BTreeSet<OsString>,
}

impl Disk {
    /// Opens or makes the store, and reads all of it.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<(Self, State), StoreError> {
        let failed = |source: Arc<dyn std::error::Error + Send + Sync>| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let directory = Directory::take(path).map_err(|error| match error {
            TakeError::InUse => StoreError::InUse { path: path.to_owned() },
            TakeError::Io(error) => failed(Arc::new(error)),
        })?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .mode(sled::Mode::HighThroughput);
        let db = config.open().map_err(|e| failed(Arc::new(e)))?;
        let tree = db.open_tree(TREE).map_err(|e| failed(Arc::new(e)))?;
        let state = read_all(path, &tree)?;
        let db_path = path.join("db");
        let file = File::open(&db_path).map_err(|e| failed(Arc::new(e)))?;
        directory.sync(path).map_err(|e| failed(Arc::new(e)))?;
        let blobs = path.join("blobs");
        let synced_blobs = BTreeSet::new();
        let mut disk = Self { tree, db, file, _directory: directory, path: db_path, blobs, synced_blobs };
        disk.sync().map_err(|e| failed(Arc::new(e)))?;
        Ok((disk, state))
    }

    /// Writes all of it and the revision as one atomic batch, and waits until it is on the disk.
    pub(crate) fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = &'a Write>,
        revision: Revision,
    ) -> Result<(), WriteError> {
        let mut batch = sled::Batch::default();
        for write in writes {
            match &write.new {
                Some(stored) => {
                    let mut value = Vec::with_capacity(8 + stored.value.len());
                    value.extend_from_slice(&stored.revision.to_be_bytes());
                    value.extend_from_slice(&stored.value);
                    batch.insert(write.key.as_bytes(), value);
                }
                None => batch.remove(write.key.as_bytes()),
            }
        }
        batch.insert(REVISION_KEY, &revision.to_be_bytes());
        self.tree.apply_batch(batch).map_err(WriteError::Apply)?;
        self.sync()
    }

    fn sync(&mut self) -> Result<(), WriteError> {
        self.db.flush().map_err(WriteError::Flush)?;
        self.sync_blobs().map_err(|source| WriteError::Sync { path: self.blobs.clone(), source })?;
        self.file.sync_data().map_err(|source| WriteError::Sync { path: self.path.clone(), source })
    }

    /// sled puts pages too large for its log into files of their own, and never syncs them.
    fn sync_blobs(&mut self) -> std::io::Result<()> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.blobs)? {
            names.insert(entry?.file_name());
        }
        let mut new = names.difference(&self.synced_blobs).peekable();
        if new.peek().is_some() {
            for name in new {
                match File::open(self.blobs.join(name)) {
                    Ok(blob) => blob.sync_all()?,
                    // Replaced by a newer page meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            File::open(&self.blobs)?.sync_all()?;
        }
        self.synced_blobs = names;
        Ok(())
    }
}

fn read_all(path: &Path, tree: &sled::Tree) -> Result<State, StoreError> {
    let damaged = |key: &[u8], what| StoreError::Damaged {
        path: path.to_owned(),
        key: String::from_utf8_lossy(key).into_owned(),
        what,
    };
    let mut state = State::default();
    let mut entries = Vec::new();
    let mut newest = 0;
    for entry in tree {
        let (key, value) =
            entry.map_err(|e| StoreError::Open { path: path.to_owned(), source: Arc::new(e) })?;
        let (revision, value) =
            value.split_first_chunk::<8>().ok_or_else(|| damaged(&key, "its revision is missing"))?;
        let revision = u64::from_be_bytes(*revision);
        if &*key == REVISION_KEY {
            state.revision = revision;
            continue;
        }
        let name = std::str::from_utf8(&key).map_err(|_| damaged(&key, "the key is not UTF-8"))?;
        newest = newest.max(revision);
        let stored = Stored { revision, value: Bytes::copy_from_slice(value) };
        entries.push((Arc::<str>::from(name), Arc::new(stored)));
    }
    if newest > state.revision {
        return Err(damaged(REVISION_KEY, "an object is newer than the store's revision"));
    }
    state.entries = entries.into_iter().collect();
    Ok(state)
}
