//! How much of the disk what containers have written takes.
//!
//! Invariants: no symbolic link is followed and no other file system is entered, whatever a container makes of the tree
//! meanwhile; a walk is bounded in depth and in names, and what is beyond that does not count.

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    sys::stat::{FileStat, Mode, fstat, fstatat},
};
use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Names that are looked at.
const NAMES_MAX: usize = 1_000_000;
/// Directories within each other that are looked at; each holds a descriptor open.
const DEPTH_MAX: usize = 64;
/// Unit of `st_blocks`, in bytes (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// Bytes on disk of all below a directory, as `du -x` counts them: a file of several names once.
///
/// # Errors
/// If the directory itself cannot be read.
pub(crate) fn disk_bytes(dir: &Path) -> nix::Result<u64> {
    let dir = Dir::open(dir, FLAGS, Mode::empty())?;
    let device = fstat(dir.as_fd())?.st_dev;
    let mut walk = Walk { device, names_left: NAMES_MAX, linked: BTreeSet::new() };
    Ok(walk.directory(dir, DEPTH_MAX))
}

const FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

struct Walk {
    device: u64,
    names_left: usize,
    /// Files of several names that were counted, by their inode.
    linked: BTreeSet<u64>,
}

impl Walk {
    fn directory(&mut self, mut dir: Dir, depth_left: usize) -> u64 {
        // A descriptor of its own: the iterator has the directory.
        let Ok(at) = dir.as_fd().try_clone_to_owned() else { return 0 };
        let mut bytes = 0_u64;
        for entry in dir.iter().map_while(Result::ok) {
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            if self.names_left == 0 {
                break;
            }
            self.names_left -= 1;
            // What is gone meanwhile takes no room.
            let Ok(stat) = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            bytes = bytes.saturating_add(self.own(&stat));
            let may_be_directory = !matches!(entry.file_type(), Some(Type::File | Type::Symlink));
            if may_be_directory && stat.st_dev == self.device && depth_left > 0 {
                bytes = bytes.saturating_add(self.below(&at, name, depth_left - 1));
            }
        }
        bytes
    }

    fn below(&mut self, at: &OwnedFd, name: &std::ffi::CStr, depth_left: usize) -> u64 {
        match Dir::openat(at, name, FLAGS, Mode::empty()) {
            Ok(dir) => self.directory(dir, depth_left),
            Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT) => 0,
            Err(error) => {
                tracing::debug!(%error, "a directory of a volume cannot be read");
                0
            }
        }
    }

    fn own(&mut self, stat: &FileStat) -> u64 {
        let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if !is_directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return 0;
        }
        u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn what_is_written_counts_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("large"), vec![1; 4 << 20]).unwrap();
        let empty = disk_bytes(&volume).unwrap();
        symlink(&outside, volume.join("away")).unwrap();
        symlink(&outside, volume.join("a/away")).unwrap();
        let little = disk_bytes(&volume).unwrap() - empty;
        assert!(little < 64 << 10, "{little}");
        fs::write(volume.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(volume.join("a/b/file"), volume.join("again")).unwrap();
        let sparse = fs::File::create(volume.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let more = disk_bytes(&volume).unwrap() - empty;
        assert!((1 << 20..(1 << 20) + (128 << 10)).contains(&more), "{more}");
        assert!(disk_bytes(&volume.join("away")).is_err(), "a link is no volume");
    }

    #[test]
    fn a_deep_tree_ends_the_walk() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_owned();
        (0..200).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), vec![1; 1 << 20]).unwrap();
        assert!(disk_bytes(dir.path()).unwrap() < 1 << 20);
    }
}
