//! A Pod's volumes in the container's view of the file system.
//!
//! Invariants: a part of a volume (`subPath`) is looked up within the volume, whatever links are in it; what is mounted
//! has no devices and no set-user-ID. A place that is not there is made: in a writable directory as such, in a read-only
//! one by a small copy of that directory's own level, whose entries are the ones that were there.

use crate::{sys, volumes::Mount};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, mkdirat},
    unistd::pivot_root,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
};

/// Most entries of a directory that is copied to make a place in it.
const ENTRIES_MAX: usize = 4096;

/// A volume for the shim: which directory of the node, and where to mount it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimMount {
    /// The volume's directory on the node.
    pub(crate) source: PathBuf,
    /// How.
    pub(crate) mount: Mount,
}

/// A volume that is open, to be attached once its place is there.
pub(super) struct Opened {
    path: String,
    is_dir: bool,
    tree: OwnedFd,
}

/// Opens the volumes while the node's directories are in sight; those whose path is part of another's come later.
pub(super) fn open(mounts: &[ShimMount]) -> Result<Vec<Opened>, String> {
    let mut opened = Vec::new();
    for ShimMount { source, mount } in mounts {
        let fail = |error: io::Error| format!("open volume {:?} for {}: {error}", mount.volume, mount.path);
        let root = File::open(source).map_err(fail)?;
        let part = part(&root, &mount.sub_path).map_err(fail)?;
        let is_dir = part.metadata().map_err(fail)?.is_dir();
        let path = format!("/proc/self/fd/{}", part.as_raw_fd());
        let tree = sys::open_tree_clone(&path, false).map_err(fail)?;
        let read_only = if mount.read_only { sys::RDONLY } else { 0 };
        sys::mount_setattr(Some(&tree), "", false, sys::NOSUID | sys::NODEV | read_only).map_err(fail)?;
        opened.push(Opened { path: mount.path.clone(), is_dir, tree });
    }
    opened.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(opened)
}

/// A part of a volume; made if it is not there, as the kubelet does.
fn part(root: &File, sub_path: &str) -> io::Result<File> {
    let within = |path: &str| -> nix::Result<File> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(File::from(openat2(root, path, how)?))
    };
    let mut reached = String::from(".");
    let mut part = within(&reached)?;
    for name in sub_path.split('/').filter(|name| !name.is_empty()) {
        reached = format!("{reached}/{name}");
        part = match within(&reached) {
            Err(Errno::ENOENT) => {
                mkdirat(&part, name, Mode::from_bits_truncate(0o755))?;
                within(&reached)?
            }
            other => other?,
        };
    }
    Ok(part)
}

/// Makes a root directory with room for those volumes whose first directory is not there. Before anything else is mounted.
pub(super) fn make_root(volumes: &[Opened]) -> Result<(), String> {
    let missing: Vec<&str> = volumes
        .iter()
        .filter_map(|volume| volume.path.split('/').find(|part| !part.is_empty()))
        .filter(|name| fs::symlink_metadata(Path::new("/").join(name)).is_err())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let fail = |what: &str, error: io::Error| format!("make a root directory, {what}: {error}");
    let entries = entries(Path::new("/")).map_err(|error| fail("list", error))?;
    // It is put together over any directory, which is among its entries already.
    let dir = entries.iter().find(|(_, entry)| matches!(entry, Entry::Tree { is_dir: true, .. }));
    let (name, _) = dir.ok_or_else(|| fail("find a place", io::ErrorKind::NotFound.into()))?;
    let scaffold = Path::new("/").join(name);
    tmpfs(&scaffold, 0o755).map_err(|error| fail("mount", error))?;
    place(&entries, &scaffold).map_err(|error| fail("fill", error))?;
    for name in missing {
        let _also_another_volumes = fs::create_dir(scaffold.join(name));
    }
    std::env::set_current_dir(&scaffold).map_err(|error| fail("enter", error))?;
    pivot_root(".", ".").map_err(|error| fail("change to", error.into()))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|error| fail("leave the old one", error.into()))?;
    std::env::set_current_dir("/").map_err(|error| fail("enter", error))
}

/// Makes the places of all volumes in a root directory that can be written to still.
pub(super) fn make_places(volumes: &[Opened]) -> Result<(), String> {
    for Opened { path, is_dir, .. } in volumes {
        make_place(Path::new(path), *is_dir).map_err(|error| format!("make a place at {path}: {error}"))?;
    }
    Ok(())
}

/// Attaches the volumes, when all else is mounted.
pub(super) fn attach(volumes: Vec<Opened>) -> Result<(), String> {
    for Opened { path, is_dir, tree } in volumes {
        let fail = |error: io::Error| format!("mount volume at {path}: {error}");
        make_place(Path::new(&path), is_dir).map_err(fail)?;
        sys::move_mount(&tree, &path).map_err(fail)?;
    }
    Ok(())
}

/// Makes a mount point of the wanted kind, if there is none.
fn make_place(path: &Path, is_dir: bool) -> io::Result<()> {
    if let Ok(found) = fs::metadata(path) {
        return match found.is_dir() == is_dir {
            true => Ok(()),
            false if is_dir => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            false => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        };
    }
    let parent = path.parent().ok_or(io::ErrorKind::InvalidFilename)?;
    make_place(parent, true)?;
    let make = || if is_dir { fs::create_dir(path) } else { File::create(path).map(drop) };
    match make() {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            open_up(parent, make)?;
            Ok(())
        }
        other => other,
    }
}

/// Covers a read-only directory with a copy of its own level, changes that, and makes it read-only.
fn open_up(dir: &Path, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let dir = fs::canonicalize(dir)?;
    let mode = fs::metadata(&dir)?.mode() & 0o7777;
    let entries = entries(&dir)?;
    tmpfs(&dir, mode)?;
    place(&entries, &dir)?;
    change()?;
    sys::mount_setattr(None, dir.to_str().ok_or(io::ErrorKind::InvalidFilename)?, false, sys::RDONLY)
}

fn tmpfs(target: &Path, mode: u32) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(format!("mode={mode:o},size=1m").as_str()))?)
}

/// An entry of a directory.
enum Entry {
    Link(PathBuf),
    Tree { is_dir: bool, tree: OwnedFd },
}

fn entries(dir: &Path) -> io::Result<Vec<(PathBuf, Entry)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let held = if kind.is_symlink() {
            Entry::Link(fs::read_link(entry.path())?)
        } else {
            let path = entry.path();
            let path = path.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
            Entry::Tree { is_dir: kind.is_dir(), tree: sys::open_tree_clone(path, true)? }
        };
        found.push((entry.file_name().into(), held));
        if found.len() > ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries in {}", dir.display())));
        }
    }
    Ok(found)
}

fn place(entries: &[(PathBuf, Entry)], dir: &Path) -> io::Result<()> {
    for (name, entry) in entries {
        let path = dir.join(name);
        match entry {
            Entry::Link(target) => symlink(target, &path)?,
            Entry::Tree { is_dir, tree } => {
                if *is_dir {
                    fs::create_dir(&path)?;
                } else {
                    File::create(&path)?;
                }
                sys::move_mount(tree, path.to_str().ok_or(io::ErrorKind::InvalidFilename)?)?;
            }
        }
    }
    Ok(())
}
