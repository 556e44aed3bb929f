//! Network namespaces of Pods, kept by files in one directory.
//!
//! Invariants:
//! - No thread that lives on ever changes its namespace: whatever must run inside one runs on a thread of its own,
//!   which ends there. (netns-rs' own `run` has no guard against a panic in between.)
//! - A file counts as a namespace only if the kernel says so: after a reboot plain files may be left.

use netns_rs::{Env, NetNs};
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use std::io;
use std::path::PathBuf;

/// Where Pods' namespaces are kept.
pub const DIRECTORY: &str = "/run/minisvc/netns";

/// A directory of namespaces.
#[derive(Clone, Debug)]
pub struct NetnsDir(PathBuf);

impl Default for NetnsDir {
    fn default() -> Self {
        Self(PathBuf::from(DIRECTORY))
    }
}

impl Env for NetnsDir {
    fn persist_dir(&self) -> PathBuf {
        self.0.clone()
    }
}

/// What went wrong with a namespace. All fields name it.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It could not be made.
    #[error("create network namespace {name:?}")]
    Create {
        /// The namespace.
        name: String,
        /// Why.
        source: netns_rs::Error,
    },
    /// It could not be removed.
    #[error("remove network namespace {name:?}")]
    Remove {
        /// The namespace.
        name: String,
        /// Why.
        source: netns_rs::Error,
    },
    /// It could not be entered.
    #[error("enter network namespace {name:?}")]
    Enter {
        /// The namespace.
        name: String,
        /// Why.
        source: netns_rs::Error,
    },
    /// No thread could be had, or what ran on it panicked.
    #[error("run in network namespace {name:?}")]
    Thread {
        /// The namespace.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The directory could not be read.
    #[error("list network namespaces in {directory:?}")]
    List {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl NetnsDir {
    /// Namespaces in another directory than [`DIRECTORY`].
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// Path of a namespace's file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether there is such a namespace; a left-over file is none.
    pub fn exists(&self, name: &str) -> bool {
        statfs(&self.path(name)).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
    }

    /// Makes a namespace. No error if it exists.
    ///
    /// # Errors
    /// If the kernel refuses; needs `CAP_SYS_ADMIN`.
    pub fn create(&self, name: &str) -> Result<(), NetnsError> {
        if self.exists(name) {
            return Ok(());
        }
        NetNs::new_with_env(name, self.clone())
            .map(drop)
            .map_err(|source| NetnsError::Create { name: name.to_owned(), source })
    }

    /// Removes a namespace. What still runs in it keeps it until it ends. No error if there is none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&self, name: &str) -> Result<(), NetnsError> {
        if !self.exists(name) {
            // A left-over file is nobody's.
            let _ = std::fs::remove_file(self.path(name));
            return Ok(());
        }
        NetNs::get_from_env(name, self.clone())
            .and_then(NetNs::remove)
            .map_err(|source| NetnsError::Remove { name: name.to_owned(), source })
    }

    /// The namespaces there are, by name.
    ///
    /// # Errors
    /// If the directory cannot be read; one that does not exist is empty.
    pub fn list(&self) -> Result<Vec<String>, NetnsError> {
        let failed = |source| NetnsError::List { directory: self.0.clone(), source };
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
            if self.exists(&name) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Runs `body` inside a namespace, on a thread of its own.
    ///
    /// # Errors
    /// If there is no such namespace, or `body` panics.
    pub fn run<T: Send>(&self, name: &str, body: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let netns = NetNs::get_from_env(name, self.clone())
            .map_err(|source| NetnsError::Enter { name: name.to_owned(), source })?;
        let failed = |source| NetnsError::Thread { name: name.to_owned(), source };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || netns.enter().map(|()| body()))
                .map_err(failed)?;
            thread
                .join()
                .map_err(|_| failed(io::Error::other("panicked")))?
                .map_err(|source| NetnsError::Enter { name: name.to_owned(), source })
        })
    }

    /// Removes the directory and its mount, if no namespace is left in it.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn release(&self) -> Result<(), NetnsError> {
        if self.list()?.is_empty() {
            // Neither is there if nothing was ever made.
            let _ = umount2(&self.0, MntFlags::MNT_DETACH);
            let _ = std::fs::remove_dir(&self.0);
        }
        Ok(())
    }
}
