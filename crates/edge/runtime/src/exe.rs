//! The executable that becomes shims, echo servers and exec helpers.
//!
//! Invariant: containers can reach their own `/proc/<pid>/exe`, which may be this binary. It is run from
//! a read-only, detached copy of its mount, so that nothing in a container can write to the file behind
//! it (the lesson of CVE-2019-5736).

use crate::{error::Error, sys};
use nix::fcntl::{OFlag, open};
use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// An open executable.
#[derive(Debug)]
pub struct Executable {
    fd: OwnedFd,
    protected: bool,
}

impl Executable {
    /// The program that this process runs.
    ///
    /// # Errors
    /// [`Error::OpenExecutable`].
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new("/proc/self/exe"))
    }

    /// The program at `path`.
    ///
    /// # Errors
    /// [`Error::OpenExecutable`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        // A link of /proc may lead to a mount of another namespace, which cannot be copied; its name may.
        let candidates = [Some(path.to_owned()), fs::read_link(path).ok()];
        for candidate in candidates.iter().flatten().filter_map(|p| p.to_str()) {
            let tree = sys::open_tree_clone(candidate, false).and_then(|fd| {
                sys::mount_setattr(Some(&fd), "", false, sys::RDONLY | sys::NOSUID)?;
                Ok(fd)
            });
            if let Ok(fd) = tree {
                return Ok(Self { fd, protected: true });
            }
        }
        let fd = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
            .map_err(|errno| Error::OpenExecutable { source: errno.into() })?;
        Ok(Self { fd, protected: false })
    }

    /// Whether it is run from a read-only mount. If not, a hostile container as root could overwrite it.
    pub fn is_protected(&self) -> bool {
        self.protected
    }

    /// A path that executes it, valid in children of this process until they execute.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }
}
