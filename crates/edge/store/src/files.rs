//! The store's directory before sled sees it: taken by one process, and rid of what a killed one left half written.
//!
//! sled 0.34 writes two files beside its log without a way back: `snap.….generating`, which becomes the log's index
//! by a rename but is read as one even before it (spacejam/sled #1527), and `conf`, written in place when a
//! store is made. A process killed in between leaves a store that sled calls corrupt, with every record intact.
//!
//! Invariant: only what holds no record is removed, and only by whoever holds the directory's lock.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
};

/// The directory of an open store; other processes are kept out until it is dropped.
pub(crate) struct Directory {
    file: File,
}

/// Why a directory could not be taken.
pub(crate) enum TakeError {
    InUse,
    Io(io::Error),
}

impl From<io::Error> for TakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Directory {
    /// Makes the directory if it is not there, and takes it. Mends what a kill left.
    pub(crate) fn take(path: &Path) -> Result<Self, TakeError> {
        std::fs::create_dir_all(path)?;
        let file = File::open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => TakeError::InUse,
            TryLockError::Error(error) => TakeError::Io(error),
        })?;
        remove_unfinished_snapshots(path)?;
        remove_unfinished_settings(path)?;
        Ok(Self { file })
    }

    /// Makes the names in the directory, and its own, outlive a loss of power.
    pub(crate) fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path.join("conf"))?.sync_all()?;
        self.file.sync_all()?;
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// sled makes the index anew from the finished one before it, or from the whole log.
fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// `conf` is written before the log is there: without a log nothing depends on it.
fn remove_unfinished_settings(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path.join("db")) {
        Ok(log) if log.len() > 0 => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    match std::fs::remove_file(path.join("conf")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
