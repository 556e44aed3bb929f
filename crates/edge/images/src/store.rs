//! The node's images on disk.
//!
//! Layout: `table.json` (names to images), `roots/<id>` (root directories of imported ones), `roots/<id>.lock` (held,
//! shared, by whoever runs it), `lock` (held while something is changed). Invariants: the table is replaced whole; a root
//! directory is complete before a name means it, and taken away only when no name means it and nobody holds it.

use crate::{
    Definition, Error, Image, Origin, Reference, Table, What,
    archive::{Archive, digest_of},
    config::{Runs, signal},
    unpack::{Bounds, unpack},
};
use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Images that are always there and mean the same on every node.
const BUILT_IN: [&str; 2] = ["docker.io/library/host", "docker.io/library/echo"];
/// Most images of a node.
const IMAGES_MAX: usize = 1000;
/// Longest table, in bytes.
const TABLE_BYTES_MAX: u64 = 16 << 20;

/// The images in a directory. Several processes may use it at once.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The images below `dir`, such as `/var/lib/minisvc/images`; it is made when something is added.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// What there is now.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn table(&self) -> Result<Table, Error> {
        let path = self.dir.join("table.json");
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Table::default()),
            other => other.map_err(Error::disk("open", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(TABLE_BYTES_MAX).read_to_end(&mut bytes).map_err(Error::disk("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::disk("read", &path)(error.into()))
    }

    /// Another value after every change of the table; for those who wait for one.
    pub fn version(&self) -> (u64, i64, i64) {
        fs::metadata(self.dir.join("table.json"))
            .map_or((0, 0, 0), |meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }

    /// Makes `name` mean a program of the node and its arguments.
    ///
    /// # Errors
    /// If the program cannot be executed.
    pub fn add_program(&self, name: &str, program: &[String]) -> Result<Image, Error> {
        let name = new_name(name)?;
        let image = Image::of_program(&name, program)?;
        self.put(&name, image)
    }

    /// Makes `name` mean a directory of the node, which is left as it is.
    ///
    /// # Errors
    /// If it is no directory, or holds the node's own secrets.
    pub fn add_root(&self, name: &str, root: &Path, entrypoint: &[String]) -> Result<Image, Error> {
        let name = new_name(name)?;
        let image = self.directory(&name, root, entrypoint)?;
        self.put(&name, image)
    }

    pub(crate) fn directory(
        &self,
        name: &Reference,
        root: &Path,
        entrypoint: &[String],
    ) -> Result<Image, Error> {
        let image = Image::of_directory(name, root, entrypoint)?;
        if self.dir.starts_with(root) {
            let problem = format!("holds the images themselves ({})", self.dir.display());
            return Err(Error::Definition { name: name.to_string(), path: root.to_owned(), problem });
        }
        Ok(image)
    }

    /// Adds what is defined.
    ///
    /// # Errors
    /// As [`Store::add_program`], [`Store::add_root`] and [`Store::import`].
    pub fn add(&self, definition: &Definition) -> Result<Image, Error> {
        let name = &definition.name;
        match &definition.what {
            What::Program(program) => self.add_program(name, program),
            What::Directory { root, entrypoint } => self.add_root(name, root, entrypoint),
            What::Archive(archive) => self.import(name, archive),
        }
    }

    /// Imports an archive: the only image in it, or the one called `name`.
    ///
    /// # Errors
    /// If it is no archive of images, is for another machine, does not hold what its digests say, or is too large. The
    /// images of before are then as they were.
    pub fn import(&self, name: &str, archive: &Path) -> Result<Image, Error> {
        let name = new_name(name)?;
        let bounds = Bounds::default();
        let _lock = self.lock()?;
        let archive = Archive::open(archive, &self.dir, bounds.bytes)?;
        let chosen = archive.choose(&name)?;
        let (config, id) = archive.config(&chosen)?;
        let runs = config.config.unwrap_or_default();
        let hex = id.trim_start_matches("sha256:");
        let root = self.dir.join("roots").join(hex);
        let known = self.table()?.0.into_values().find(|image| image.root.as_ref() == Some(&root));
        let bytes = match known {
            Some(known) if root.is_dir() => known.bytes,
            _ => {
                let new = tempfile::Builder::new().prefix("new-").tempdir_in(&self.dir);
                let new = new.map_err(Error::disk("make a directory in", &self.dir))?;
                let done = unpack(&archive, &chosen.layers, &config.rootfs.diff_ids, new.path(), bounds)?;
                fs::set_permissions(new.path(), fs::Permissions::from_mode(0o755))
                    .and_then(|()| remove_all(&root))
                    .and_then(|()| fs::rename(new.path(), &root))
                    .map_err(Error::disk("make", &root))?;
                done.bytes
            }
        };
        let lock = self.dir.join("roots").join(format!("{hex}.lock"));
        File::create(&lock).map_err(Error::disk("make", &lock))?;
        let image = Image { manifest: chosen.manifest, bytes, ..imported(&archive, runs, id, root, lock)? };
        self.put_locked(&name, image)
    }

    /// Takes away a name, and the files that nothing else means.
    ///
    /// # Errors
    /// If there is no such image, or a running container uses its files.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let name: Reference = name.parse()?;
        refuse_built_in(&name)?;
        let full = name.to_string();
        let unknown = || Error::Unknown { name: full.clone() };
        if !self.dir.is_dir() {
            return Err(unknown());
        }
        let _lock = self.lock()?;
        let mut table = self.table()?;
        let image = table.0.remove(&full).ok_or_else(unknown)?;
        let shared = table.0.values().any(|other| other.root == image.root);
        if let (Some(lock), false) = (&image.lock, shared)
            && lock.exists()
            && free(lock).map_err(Error::disk("lock", lock))?.is_none()
        {
            return Err(Error::InUse { name: full });
        }
        self.write(&table)?;
        self.sweep(&table)
    }

    fn put(&self, name: &Reference, image: Image) -> Result<Image, Error> {
        let _lock = self.lock()?;
        self.put_locked(name, image)
    }

    fn put_locked(&self, name: &Reference, image: Image) -> Result<Image, Error> {
        let mut table = self.table()?;
        table.0.insert(name.to_string(), image.clone());
        if table.0.len() > IMAGES_MAX {
            return Err(Error::disk("add to", &self.dir)(io::Error::other(format!(
                "more than {IMAGES_MAX} images; remove some"
            ))));
        }
        self.write(&table)?;
        self.sweep(&table)?;
        Ok(image)
    }

    /// Nobody else changes anything while it is held.
    fn lock(&self) -> Result<Flock<File>, Error> {
        let roots = self.dir.join("roots");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&roots);
        made.map_err(Error::disk("make", &roots))?;
        let path = self.dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::disk("open", &path))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| Error::disk("lock", &path)(error.into()))
    }

    fn write(&self, table: &Table) -> Result<(), Error> {
        let path = self.dir.join("table.json");
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(&serde_json::to_vec_pretty(table)?)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(Error::disk("write", &path))
    }

    /// Takes away root directories that nobody needs, and what an import that was cut off has left.
    fn sweep(&self, table: &Table) -> Result<(), Error> {
        let needed: BTreeSet<&Path> = table.0.values().filter_map(|image| image.root.as_deref()).collect();
        let sweep = || -> io::Result<()> {
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                let name = entry.file_name();
                let left = name.as_encoded_bytes();
                if left.starts_with(b"new-") || left.starts_with(b".tmp") {
                    remove_all(&entry.path())?;
                }
            }
            for entry in fs::read_dir(self.dir.join("roots"))? {
                let root = entry?.path();
                let lock = root.with_extension("lock");
                if root.extension().is_some() || needed.contains(root.as_path()) {
                    continue;
                }
                let Some(_nobody_begins_meanwhile) = free(&lock)? else { continue };
                remove_all(&root)?;
                fs::remove_file(&lock)?;
            }
            Ok(())
        };
        sweep().map_err(Error::disk("tidy", &self.dir))
    }
}

impl Image {
    /// Keeps the image's files from being taken away, until the process ends or what is returned is dropped.
    ///
    /// # Errors
    /// If they are gone, or going.
    pub fn hold(lock: &Path) -> io::Result<Flock<File>> {
        Flock::lock(File::open(lock)?, FlockArg::LockSharedNonblock).map_err(|(_, error)| error.into())
    }

    /// A program of the node.
    pub(crate) fn of_program(name: &Reference, program: &[String]) -> Result<Self, Error> {
        let path = PathBuf::from(program.first().map(String::as_str).unwrap_or_default());
        let fail = |problem: &str| {
            Err(Error::Definition { name: name.to_string(), path: path.clone(), problem: problem.to_owned() })
        };
        if !path.is_absolute() {
            return fail("the program must be an absolute path");
        }
        match fs::metadata(&path) {
            Err(error) => return fail(&error.to_string()),
            Ok(meta) if !meta.is_file() || meta.mode() & 0o111 == 0 => {
                return fail("is no program that can be executed");
            }
            Ok(_) => {}
        }
        Ok(Self { entrypoint: program.to_owned(), ..Self::defined(Origin::Exec, program) })
    }

    /// A directory of the node.
    pub(crate) fn of_directory(name: &Reference, root: &Path, entrypoint: &[String]) -> Result<Self, Error> {
        let fail = |problem: &str| {
            Err(Error::Definition {
                name: name.to_string(),
                path: root.to_owned(),
                problem: problem.to_owned(),
            })
        };
        if !root.is_absolute() {
            return fail("the directory must be an absolute path");
        }
        if root.parent().is_none() {
            return fail("is the node's own root, which is the image host");
        }
        match fs::metadata(root) {
            Err(error) => return fail(&error.to_string()),
            Ok(meta) if !meta.is_dir() => return fail("is no directory"),
            Ok(_) => {}
        }
        let said: Vec<String> =
            std::iter::once(root.display().to_string()).chain(entrypoint.iter().cloned()).collect();
        Ok(Self {
            root: Some(root.to_owned()),
            entrypoint: entrypoint.to_owned(),
            ..Self::defined(Origin::Root, &said)
        })
    }

    fn defined(origin: Origin, said: &[String]) -> Self {
        Self {
            origin,
            id: digest_of(format!("{origin:?}\0{}", said.join("\0")).as_bytes()),
            manifest: None,
            root: None,
            lock: None,
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            stop_signal: None,
            bytes: 0,
            added_at: Timestamp::now(),
        }
    }
}

/// What an archive's config says of how its image runs.
fn imported(archive: &Archive, runs: Runs, id: String, root: PathBuf, lock: PathBuf) -> Result<Image, Error> {
    let stop_signal = match runs.stop_signal.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let number = signal(text);
            Some(number.ok_or_else(|| archive.wrong(format!("StopSignal {text:?} is no signal")))?)
        }
    };
    let pair = |text: String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text, String::new()),
    };
    Ok(Image {
        origin: Origin::Oci,
        id,
        manifest: None,
        root: Some(root),
        lock: Some(lock),
        entrypoint: runs.entrypoint.unwrap_or_default(),
        cmd: runs.cmd.unwrap_or_default(),
        env: runs.env.unwrap_or_default().into_iter().map(pair).collect(),
        working_dir: runs.working_dir.unwrap_or_default(),
        user: runs.user.unwrap_or_default(),
        stop_signal,
        bytes: 0,
        added_at: Timestamp::now(),
    })
}

/// A name that may be given to an image; with a digest nothing can be added.
pub(crate) fn new_name(text: &str) -> Result<Reference, Error> {
    let name: Reference = text.parse()?;
    if name.digest.is_some() {
        return Err(Error::Name { text: text.to_owned(), problem: "a digest cannot be given; give a tag" });
    }
    refuse_built_in(&name)?;
    Ok(name)
}

fn refuse_built_in(name: &Reference) -> Result<(), Error> {
    match BUILT_IN.contains(&name.repository.as_str()) {
        true => Err(Error::BuiltIn { name: name.familiar() }),
        false => Ok(()),
    }
}

/// The lock file, which is made if it is not there; none if somebody holds it.
fn free(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
