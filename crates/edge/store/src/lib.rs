//! The revisioned key-value store under the API: sled on disk, one writer, group commit, a bounded watch log.
//!
//! In: closures `view → changes` ([`Store::commit`]). Out: the newest durable state ([`Store::view`]) and the
//! events between two revisions of it ([`Store::watch`]).
//!
//! Invariants:
//! - A commit is acknowledged, seen by readers and told to watchers only after its bytes are on the disk
//!   (sled's `flush`, then fdatasync: sled's own flush is no fsync).
//! - A commit is wholly on the disk or not at all; revisions are consecutive, one a commit that changes anything.
//! - Readers never wait for the writer, and a slow watcher never holds anybody up: it gets
//!   [`WatchError::Compacted`].
//! - After an error of the disk nothing is written any more ([`StoreError::Failed`]); reads go on.

mod disk;
mod files;
mod log;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use log::{Event, WatchError, Watcher};
pub use view::{BadChange, View};
pub use writer::{CommitError, Committed};

use arc_swap::ArcSwap;
use minisvc_apimachinery::storage::{Change, Read, Revision};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use tokio::sync::{mpsc, oneshot};

/// Why the store cannot be opened or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store open.
    #[error("store {path} is in use by another process: stop it, or choose another data directory")]
    InUse {
        /// Directory of the store.
        path: PathBuf,
    },
    /// The store cannot be opened.
    #[error("opening the store {path}: {source}")]
    Open {
        /// Directory of the store.
        path: PathBuf,
        /// What the disk or sled said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// What is on the disk is not what this store writes.
    #[error("store {path} is damaged at key {key:?}: {what}")]
    Damaged {
        /// Directory of the store.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A write failed before; the store takes no more until the process is restarted.
    #[error(
        "the store takes no more writes since one failed ({reason}); mend the disk and restart the server"
    )]
    Failed {
        /// What the disk or sled said.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commits that may wait for the writer; more wait in [`Store::commit`].
    pub queued_commits: usize,
    /// Commits in one write to the disk.
    pub batch_commits: usize,
    /// Bytes after which no further commit joins a write to the disk.
    pub batch_bytes: usize,
    /// Events kept for watchers.
    pub log_events: usize,
    /// Bytes of values kept for watchers.
    pub log_bytes: usize,
    /// sled's page cache, bytes. The state itself is in memory, so this can be small.
    pub cache_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queued_commits: 1024,
            batch_commits: 256,
            batch_bytes: 4 << 20,
            log_events: 10_000,
            log_bytes: 16 << 20,
            cache_bytes: 4 << 20,
        }
    }
}

struct Shared {
    view: ArcSwap<view::State>,
    log: log::Log,
    failed: OnceLock<String>,
}

/// A handle on an open store; clones are the same store.
///
/// The store closes when [`Store::close`] is called or the last handle is dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    queue: mpsc::Sender<writer::Message>,
}

impl Store {
    /// Opens the store in this directory, which is made if it is not there. Blocks while the state is read.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Open`], [`StoreError::Damaged`].
    pub fn open(path: &Path, limits: Limits) -> Result<Self, StoreError> {
        let (disk, state) = disk::Disk::open(path, limits.cache_bytes)?;
        let log = log::Log::new(state.revision, limits.log_events, limits.log_bytes);
        let shared = Arc::new(Shared { view: ArcSwap::from_pointee(state), log, failed: OnceLock::new() });
        let (queue, messages) = mpsc::channel(limits.queued_commits.max(1));
        let writer = writer::Writer::new(disk, shared.clone(), messages, limits);
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| StoreError::Open { path: path.to_owned(), source: Arc::new(source) })?;
        Ok(Self { shared, queue })
    }

    /// The newest durable state. O(1); does not change afterwards.
    pub fn view(&self) -> View {
        View::new(self.shared.view.load_full())
    }

    /// Runs `f` in the writer, on the state with every commit before it, and writes the changes it returns as one
    /// commit. `f` must not block. It runs exactly once if this future is awaited to its end; if the future is
    /// dropped, the commit may or may not happen.
    ///
    /// No changes, no new revision. An `Err` of `f` writes nothing, and nobody else notices.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn commit<T, E, F>(&self, f: F) -> Result<Committed<T>, CommitError<E>>
    where
        F: FnOnce(&dyn Read) -> Result<(Vec<Change>, T), E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let (ack, answer) = oneshot::channel();
        let job = writer::job(f, ack);
        self.queue.send(writer::Message::Commit(job)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Every event of keys that start with `prefix` after revision `from`, in order, now and to come.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] if events after `from` are not kept any more, [`WatchError::Future`] if `from`
    /// was not reached yet.
    pub fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, WatchError> {
        self.shared.log.watch(prefix, from)
    }

    /// Ok while writes are taken.
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Closed`].
    pub fn health(&self) -> Result<(), StoreError> {
        match self.shared.failed.get() {
            Some(reason) => Err(StoreError::Failed { reason: reason.clone() }),
            None if self.queue.is_closed() => Err(StoreError::Closed),
            None => Ok(()),
        }
    }

    /// Writes what is queued, closes the files and ends all watchers. Later commits get [`StoreError::Closed`].
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(writer::Message::Close(done)).await.is_ok() {
            // An error means that somebody else closed it meanwhile.
            let _ = closed.await;
        }
    }
}
