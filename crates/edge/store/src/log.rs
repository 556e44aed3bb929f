//! The watch log: the newest events, bounded by count and bytes, read by any number of watchers.
//!
//! Invariants: events are in the order of their revisions; a watcher gets every event of its prefix or an error;
//! the events of one commit are dropped together as far as watchers can tell (`floor`).

use minisvc_apimachinery::storage::{Revision, Stored};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// One key before and after a commit.
#[derive(Clone, Debug)]
pub struct Event {
    /// Revision of the commit.
    pub revision: Revision,
    /// Storage key.
    pub key: Arc<str>,
    /// Value before; None if the key was absent.
    pub old: Option<Arc<Stored>>,
    /// Value after; None if the key was deleted.
    pub new: Option<Arc<Stored>>,
}

impl Event {
    fn bytes(&self) -> usize {
        let size = |stored: &Option<Arc<Stored>>| stored.as_ref().map_or(0, |stored| stored.value.len());
        self.key.len() + size(&self.old) + size(&self.new)
    }
}

/// Why a watch cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Events after the asked revision are not kept any more: list again.
    #[error("too old resource version: {from} ({floor})")]
    Compacted {
        /// Revision that was asked for.
        from: Revision,
        /// Oldest revision that can be asked for.
        floor: Revision,
    },
    /// The store has not reached the asked revision.
    #[error("Too large resource version: {from}, current: {current}")]
    Future {
        /// Revision that was asked for.
        from: Revision,
        /// Newest revision.
        current: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    /// Number of the first event in `events`, counted from the opening of the store.
    first: u64,
    /// No event after this revision was dropped.
    floor: Revision,
    /// Newest revision told.
    revision: Revision,
    /// Dropped when the store closes, which ends the watchers.
    wake: Option<watch::Sender<Revision>>,
}

struct Bounds {
    events: usize,
    bytes: usize,
}

pub(crate) struct Log {
    ring: Arc<Mutex<Ring>>,
    bounds: Bounds,
}

/// Most events that one [`Watcher::next`] returns.
const EVENTS_A_CALL: usize = 256;
/// Most events looked at under one lock.
const SCANNED_A_LOCK: usize = 4096;

impl Log {
    pub(crate) fn new(revision: Revision, events: usize, bytes: usize) -> Self {
        let ring = Ring {
            events: VecDeque::new(),
            bytes: 0,
            first: 0,
            floor: revision,
            revision,
            wake: Some(watch::Sender::new(revision)),
        };
        Self { ring: Arc::new(Mutex::new(ring)), bounds: Bounds { events, bytes } }
    }

    /// Appends the events of commits up to `revision`, drops old ones beyond the bounds, wakes the watchers.
    pub(crate) fn append(&self, events: impl Iterator<Item = Event>, revision: Revision) {
        let mut ring = lock(&self.ring);
        for event in events {
            ring.bytes += event.bytes();
            ring.events.push_back(event);
        }
        ring.revision = revision;
        while ring.events.len() > self.bounds.events || ring.bytes > self.bounds.bytes {
            let Some(event) = ring.events.pop_front() else { break };
            ring.bytes -= event.bytes();
            ring.first += 1;
            ring.floor = event.revision;
        }
        if let Some(wake) = &ring.wake {
            wake.send_replace(revision);
        }
    }

    pub(crate) fn close(&self) {
        lock(&self.ring).wake = None;
    }

    pub(crate) fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, WatchError> {
        let ring = lock(&self.ring);
        let Some(wake) = &ring.wake else { return Err(WatchError::Closed) };
        if from < ring.floor {
            return Err(WatchError::Compacted { from, floor: ring.floor });
        }
        if from > ring.revision {
            return Err(WatchError::Future { from, current: ring.revision });
        }
        let skipped = ring.events.partition_point(|event| event.revision <= from);
        Ok(Watcher {
            ring: self.ring.clone(),
            wake: wake.subscribe(),
            prefix: prefix.into(),
            next: ring.first + skipped as u64,
            seen: from,
        })
    }
}

// A panic while the lock is held cannot leave a half-done ring behind that matters: appending is the only write.
fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the watch log.
pub struct Watcher {
    ring: Arc<Mutex<Ring>>,
    wake: watch::Receiver<Revision>,
    prefix: Box<str>,
    /// Number of the next event to look at.
    next: u64,
    /// Every event up to this revision was given or is of no interest.
    seen: Revision,
}

impl Watcher {
    /// Revision up to which this watcher has told everything; for bookmarks.
    pub fn revision(&self) -> Revision {
        self.seen
    }

    /// The next events of the prefix, at least one, in order. Waits for them. Cancel safe.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] if this watcher was too slow, [`WatchError::Closed`].
    pub async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        loop {
            self.wake.borrow_and_update();
            let (events, at_end) = self.take()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if at_end {
                self.wake.changed().await.map_err(|_| WatchError::Closed)?;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// What is there already, and whether the end of the log was reached.
    fn take(&mut self) -> Result<(Vec<Event>, bool), WatchError> {
        let ring = lock(&self.ring);
        if self.next < ring.first {
            return Err(WatchError::Compacted { from: self.seen, floor: ring.floor });
        }
        let offset = (self.next - ring.first) as usize;
        let mut found = Vec::new();
        for event in ring.events.range(offset..).take(SCANNED_A_LOCK) {
            if event.key.starts_with(&*self.prefix) {
                if found.len() == EVENTS_A_CALL {
                    break;
                }
                found.push(event.clone());
            }
            // The events of one commit may be told in two calls; only then is its revision seen.
            self.seen = event.revision - 1;
            self.next += 1;
        }
        let at_end = self.next == ring.first + ring.events.len() as u64;
        if at_end {
            self.seen = ring.revision;
        }
        Ok((found, at_end))
    }
}
