//! A Pod's volumes on this node: directories for scratch, and files of ConfigMaps, Secrets and the Pod's own fields.
//!
//! In: what a volume is ([`Volume`]) and, for one of files, what is in it. Invariants: files change all at once, by the
//! kubelet's layout (`..data` leads to the directory of the current ones, each name in the volume leads through it; source:
//! kubernetes pkg/volume/util/atomic_writer.go); a file's path never leaves its volume; volumes go with their Pod, and
//! outlive its containers.

use crate::error::Error;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{Gid, chown},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

/// Directory of a Pod's volumes, beside those of its containers: no container has such a name.
const DIR: &str = "_volumes";
/// Where the current files are.
const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";
/// Most files of a volume.
const FILES_MAX: usize = 10_000;

/// A volume of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Name, unique in the Pod.
    pub name: String,
    /// What is in it.
    pub kind: VolumeKind,
}

/// What is in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeKind {
    /// What containers write (`emptyDir`).
    #[serde(rename_all = "camelCase")]
    Scratch {
        /// In memory.
        memory: bool,
        /// It holds so many bytes; on disk, what has more is told by [`crate::Runtime::overfull`].
        bytes_max: Option<u64>,
    },
    /// Files given by the agent, which containers only read.
    Files,
}

/// Where a container sees a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Name of the volume.
    pub volume: String,
    /// Absolute path in the container.
    pub path: String,
    /// Which part of the volume; empty for all of it.
    pub sub_path: String,
    /// Whether it may not be written to.
    pub read_only: bool,
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFile {
    /// Relative path; parts are names, none begins with `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub data: Vec<u8>,
}

/// The files of volumes, by the volume's name.
pub type Contents = BTreeMap<String, Vec<VolumeFile>>;

/// Where the volumes of a node are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    /// The Pod's own directory, which is usually memory; files and memory volumes are there.
    pub(crate) pod_dir: &'a Path,
    /// A directory on disk for the Pod's other volumes.
    pub(crate) disk_dir: &'a Path,
}

impl Places<'_> {
    /// The directory that is a volume.
    pub(crate) fn of(&self, volume: &Volume) -> PathBuf {
        match volume.kind {
            VolumeKind::Scratch { memory: false, .. } => self.disk_dir.join(&volume.name),
            _ => self.pod_dir.join(DIR).join(&volume.name),
        }
    }
}

/// Makes a Pod's volumes and fills them; what is there stays.
pub(crate) fn make(
    places: Places<'_>,
    volumes: &[Volume],
    contents: &Contents,
    group: Option<u32>,
) -> Result<(), Error> {
    for volume in volumes {
        let dir = places.of(volume);
        let fail = |source| Error::Volume { operation: "make", volume: volume.name.clone(), source };
        match volume.kind {
            VolumeKind::Scratch { memory, bytes_max } => {
                scratch(&dir, memory, bytes_max, group).map_err(fail)?;
            }
            VolumeKind::Files => write(&dir, &volume.name, contents.get(&volume.name), group)?,
        }
    }
    Ok(())
}

/// Everybody may write to it, as in Kubernetes: containers are users of their own.
fn scratch(dir: &Path, memory: bool, bytes_max: Option<u64>, group: Option<u32>) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    fs::create_dir(dir)?;
    if memory {
        let options = bytes_max.map(|bytes| format!("size={bytes}"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), dir, Some("tmpfs"), flags, options.as_deref())?;
    }
    if let Some(group) = group {
        chown(dir, None, Some(Gid::from_raw(group)))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// Makes the files of a volume these. Files that are the same are left alone.
///
/// # Errors
/// If a path leaves the volume, there are too many files, or they cannot be written; the old ones then stay.
pub(crate) fn write(
    dir: &Path,
    volume: &str,
    files: Option<&Vec<VolumeFile>>,
    group: Option<u32>,
) -> Result<(), Error> {
    let fail = |source| Error::Volume { operation: "write", volume: volume.to_owned(), source };
    let files = files.map(Vec::as_slice).unwrap_or_default();
    if files.len() > FILES_MAX || files.iter().any(|file| !is_inside(&file.path)) {
        return Err(fail(io::Error::from(io::ErrorKind::InvalidFilename)));
    }
    replace(dir, files, group).map_err(fail)
}

fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    parts.peek().is_some()
        && parts.all(
            |part| matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b"..")),
        )
}

fn replace(dir: &Path, files: &[VolumeFile], group: Option<u32>) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && is_same(&dir.join(old), files)?
    {
        return Ok(());
    }
    let name = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let new = dir.join(&name);
    fs::create_dir(&new)?;
    for file in files {
        let path = new.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.data)?;
        let readable = if group.is_some() { 0o440 } else { 0 };
        chown(&path, None, group.map(Gid::from_raw))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode & 0o7777 | readable))?;
    }
    let next = dir.join(DATA_NEXT);
    let _left_by_a_crash = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    let wanted: BTreeSet<&str> = files.iter().filter_map(|file| file.path.split('/').next()).collect();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let known = entry.file_name();
        let known = known.to_str().unwrap_or_default();
        if known == DATA || known == name {
            continue;
        }
        if known.starts_with("..") {
            fs::remove_dir_all(entry.path())?;
        } else if !wanted.contains(known) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether these are the files of a directory.
fn is_same(dir: &Path, files: &[VolumeFile]) -> io::Result<bool> {
    for file in files {
        let path = dir.join(&file.path);
        let Ok(meta) = fs::metadata(&path) else { return Ok(false) };
        let mode = meta.permissions().mode() & 0o7777;
        if mode & !0o440 != file.mode & 0o7777 & !0o440
            || meta.len() != file.data.len() as u64
            || fs::read(&path)? != file.data
        {
            return Ok(false);
        }
    }
    Ok(count(dir)? == files.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut found = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        found += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(found)
}

/// Takes a Pod's volumes away with what is in them.
pub(crate) fn remove(places: Places<'_>, volumes: &[Volume]) -> Result<(), Error> {
    for volume in volumes {
        let fail = |source| Error::Volume { operation: "remove", volume: volume.name.clone(), source };
        if let VolumeKind::Scratch { memory: true, .. } = volume.kind {
            match umount2(&places.of(volume), MntFlags::MNT_DETACH) {
                Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
                Err(error) => return Err(fail(error.into())),
            }
        }
    }
    match fs::remove_dir_all(places.disk_dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Remove { path: places.disk_dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, mode: u32, data: &str) -> VolumeFile {
        VolumeFile { path: path.to_owned(), mode, data: data.into() }
    }

    #[test]
    fn files_change_all_at_once_and_the_same_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let dir = &dir.path().join("v");
        let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
        write(dir, "v", Some(&vec![file("a", 0o644, "1"), file("sub/b", 0o600, "2")]), None).unwrap();
        assert_eq!((read("a"), read("sub/b")), (Some("1".into()), Some("2".into())));
        assert_eq!(fs::metadata(dir.join("sub/b")).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read_link(dir.join(DATA)).unwrap();
        write(dir, "v", Some(&vec![file("a", 0o644, "1"), file("sub/b", 0o600, "2")]), None).unwrap();
        assert_eq!(fs::read_link(dir.join(DATA)).unwrap(), before);
        write(dir, "v", Some(&vec![file("a", 0o644, "3"), file("c", 0o644, "")]), None).unwrap();
        assert_eq!((read("a"), read("sub/b"), read("c")), (Some("3".into()), None, Some(String::new())));
        let names: BTreeSet<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        write(dir, "v", None, None).unwrap();
        assert_eq!(read("a"), None);
    }

    #[test]
    fn no_path_leaves_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "", "a/../../x", "..x", "a/..b"] {
            write(&dir.path().join("v"), "v", Some(&vec![file(path, 0o644, "")]), None).unwrap_err();
        }
        assert!(!dir.path().join("x").exists());
    }
}
