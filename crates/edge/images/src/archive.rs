//! An image archive on disk: its files by name, and the images that they make.
//!
//! In: a tar file, plain or compressed, laid out by OCI or by `docker save`. Invariants: only what is asked for is read
//! into memory, and at most [`JSON_BYTES_MAX`] of it; a blob named by digest has that digest.

use crate::{
    Error, Reference,
    config::{Config, Index, Manifest, Saved},
    reference::is_digest,
};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
};

/// Longest manifest, index or config, in bytes (registries take 4 MiB).
const JSON_BYTES_MAX: u64 = 4 << 20;
/// Most files of an archive.
const FILES_MAX: usize = 100_000;
/// Indexes in indexes.
const DEPTH_MAX: usize = 4;
/// Most images of an archive.
const IMAGES_MAX: usize = 1000;
/// Most links from one name to the next.
const HOPS_MAX: usize = 8;

/// A file of the archive.
#[derive(Clone, Debug)]
enum Held {
    Bytes { offset: u64, length: u64 },
    Link(String),
}

/// An open archive.
pub(crate) struct Archive {
    path: PathBuf,
    file: File,
    files: BTreeMap<String, Held>,
}

/// One image of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Names as written there.
    pub(crate) names: Vec<String>,
    /// Digest of the manifest, if there is one.
    pub(crate) manifest: Option<String>,
    /// Path of the config.
    pub(crate) config: String,
    /// Paths of the layers, the lowest first.
    pub(crate) layers: Vec<String>,
}

impl Archive {
    /// Opens it; `scratch` is a directory for the plain file that a compressed archive is made into first, at most
    /// `bytes_max` long.
    pub(crate) fn open(path: &Path, scratch: &Path, bytes_max: u64) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Archive { path: path.to_owned(), problem };
        let mut file = File::open(path).map_err(Error::disk("open", path))?;
        if !file.metadata().map_err(Error::disk("look at", path))?.is_file() {
            return Err(wrong("is no regular file".to_owned()));
        }
        let mut plain = BufReader::new(&file);
        if Packed::of(plain.fill_buf().map_err(Error::disk("read", path))?) != Packed::Not {
            let unpacked = decoder(plain).map_err(|error| wrong(format!("unpack: {error}")))?;
            let mut target =
                tempfile::tempfile_in(scratch).map_err(Error::disk("make a file in", scratch))?;
            let copied = io::copy(&mut unpacked.take(bytes_max + 1), &mut target);
            if copied.map_err(|error| wrong(format!("unpack: {error}")))? > bytes_max {
                return Err(wrong(format!("holds more than {} GiB", bytes_max >> 30)));
            }
            file = target;
        }
        file.seek(SeekFrom::Start(0)).map_err(Error::disk("read", path))?;
        let files =
            files(&file).map_err(|error| wrong(format!("is no tar archive: {}", printable(&error))))?;
        Ok(Self { path: path.to_owned(), file, files })
    }

    pub(crate) fn wrong(&self, problem: impl Into<String>) -> Error {
        Error::Archive { path: self.path.clone(), problem: problem.into() }
    }

    /// Its path, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the archive, unpacked if it is compressed.
    pub(crate) fn read(&self, name: &str) -> Result<Box<dyn Read + '_>, Error> {
        decoder(BufReader::with_capacity(1 << 16, self.section(name)?))
            .map_err(|error| self.wrong(format!("{name}: unpack: {error}")))
    }

    fn section(&self, name: &str) -> Result<Section<'_>, Error> {
        let mut name = name.to_owned();
        for _ in 0..HOPS_MAX {
            match self.files.get(&name) {
                Some(Held::Bytes { offset, length }) => {
                    return Ok(Section { file: &self.file, offset: *offset, left: *length });
                }
                Some(Held::Link(target)) => name.clone_from(target),
                None => break,
            }
        }
        Err(self.wrong(format!("{name} is not in it")))
    }

    /// A JSON file of the archive, and its digest.
    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<(T, String), Error> {
        let section = self.section(name)?;
        if section.left > JSON_BYTES_MAX {
            return Err(self.wrong(format!("{name} is longer than {} MiB", JSON_BYTES_MAX >> 20)));
        }
        let mut bytes = Vec::new();
        let mut section = section;
        section.read_to_end(&mut bytes).map_err(Error::disk("read", &self.path))?;
        let value = serde_json::from_slice(&bytes).map_err(|error| self.wrong(format!("{name}: {error}")))?;
        Ok((value, digest_of(&bytes)))
    }

    /// A JSON blob that has the digest it is named by.
    fn blob<T: DeserializeOwned>(&self, digest: &str) -> Result<T, Error> {
        let (value, found) = self.json(&self.blob_path(digest)?)?;
        if found != digest {
            return Err(self.wrong(format!("blob {digest} has digest {found}")));
        }
        Ok(value)
    }

    fn blob_path(&self, digest: &str) -> Result<String, Error> {
        match digest.strip_prefix("sha256:") {
            Some(hex) if is_digest(digest) => Ok(format!("blobs/sha256/{hex}")),
            _ => Err(self.wrong(format!("digest {digest:?} is not a SHA-256"))),
        }
    }

    /// The config of an image, and its digest, which is the image's id.
    pub(crate) fn config(&self, candidate: &Candidate) -> Result<(Config, String), Error> {
        let (config, id): (Config, String) = self.json(&candidate.config)?;
        if let Some(foreign) = config.foreign() {
            return Err(self.wrong(format!("the image is for {foreign}")));
        }
        // In the layout of OCI the path is the digest; docker save's older one names the file so.
        let name = candidate.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if name.len() == 64 && id.strip_prefix("sha256:") != Some(name) {
            return Err(self.wrong(format!("{} has digest {id}", candidate.config)));
        }
        Ok((config, id))
    }

    /// The image that `name` means: the only one, or the one of that name.
    pub(crate) fn choose(&self, name: &Reference) -> Result<Candidate, Error> {
        let mut all = self.images()?;
        if all.len() > 1 {
            all.sort_by_key(|candidate| !candidate.names.iter().any(|said| is_called(said, name)));
            let called = all.iter().filter(|c| c.names.iter().any(|said| is_called(said, name))).count();
            if called != 1 {
                let names: Vec<String> =
                    all.into_iter().flat_map(|candidate| candidate.names).take(20).collect();
                let names = if names.is_empty() { "none of them named".to_owned() } else { names.join(", ") };
                return Err(self.wrong(format!("holds several images, {called} of them {name}: {names}")));
            }
        }
        all.into_iter()
            .next()
            .ok_or_else(|| self.wrong(format!("holds no image for linux/{}", crate::config::ARCHITECTURE)))
    }

    fn images(&self) -> Result<Vec<Candidate>, Error> {
        if self.files.contains_key("index.json") {
            let (index, _) = self.json::<Index>("index.json")?;
            let mut found = Vec::new();
            self.collect(&index, &[], 0, &mut found)?;
            return Ok(found);
        }
        if !self.files.contains_key("manifest.json") {
            return Err(self.wrong("has neither index.json (OCI) nor manifest.json (docker save)"));
        }
        let (saved, _) = self.json::<Vec<Saved>>("manifest.json")?;
        let one = |Saved { config, repo_tags, layers }: Saved| Candidate {
            names: repo_tags.unwrap_or_default(),
            manifest: None,
            config: clean(Path::new(&config)).unwrap_or_default(),
            layers: layers.iter().map(|layer| clean(Path::new(layer)).unwrap_or_default()).collect(),
        };
        Ok(saved.into_iter().take(IMAGES_MAX).map(one).collect())
    }

    fn collect(
        &self,
        index: &Index,
        names: &[String],
        depth: usize,
        found: &mut Vec<Candidate>,
    ) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("indexes lie too deep in each other"));
        }
        for descriptor in &index.manifests {
            let own = descriptor.names();
            let names = if own.is_empty() { names } else { &own };
            if descriptor.is_index() {
                self.collect(&self.blob(&descriptor.digest)?, names, depth + 1, found)?;
                continue;
            }
            // An image for another machine may be named without being in the archive.
            if !descriptor.runs_here() || found.len() >= IMAGES_MAX {
                continue;
            }
            let manifest: Manifest = self.blob(&descriptor.digest)?;
            let layers = manifest.layers.iter().map(|layer| self.blob_path(&layer.digest));
            found.push(Candidate {
                names: names.to_owned(),
                manifest: Some(descriptor.digest.clone()),
                config: self.blob_path(&manifest.config.digest)?,
                layers: layers.collect::<Result<_, _>>()?,
            });
        }
        Ok(())
    }
}

/// Whether what an archive says of an image is this name; some say the tag alone.
fn is_called(said: &str, name: &Reference) -> bool {
    said.parse::<Reference>().is_ok_and(|said| said == *name) || name.tag.as_deref() == Some(said)
}

/// Digest of `bytes`, as in descriptors.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// What went wrong, in one line: the words of a decoder may hold what it read.
fn printable(error: &io::Error) -> String {
    error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect()
}

/// Where the files of a tar archive lie in it.
fn files(file: &File) -> io::Result<BTreeMap<String, Held>> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = clean(&entry.path()?);
        let held = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                Some(Held::Bytes { offset: entry.raw_file_position(), length: entry.size() })
            }
            // docker save shares equal layers so.
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default();
                let dir = name.as_deref().and_then(|name| Path::new(name).parent());
                clean(&dir.unwrap_or(Path::new("")).join(target)).map(Held::Link)
            }
            tar::EntryType::Link => clean(&entry.link_name()?.unwrap_or_default()).map(Held::Link),
            _ => None,
        };
        if let (Some(name), Some(held)) = (name, held) {
            files.insert(name, held);
        }
        if files.len() > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files")));
        }
    }
    if files.is_empty() {
        return Err(io::Error::other("there is no file in it"));
    }
    Ok(files)
}

/// A path in an archive without `.` and `..`; none if it leaves the archive.
fn clean(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::ParentDir => {
                parts.pop()?;
            }
            _ => {}
        }
    }
    Some(parts.join("/"))
}

/// A part of a file.
struct Section<'f> {
    file: &'f File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// How bytes are compressed, by how they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packed {
    Not,
    Gzip,
    Zstd,
}

impl Packed {
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Not,
        }
    }
}

/// Reads what `source` is compressed from.
fn decoder<'s>(mut source: impl BufRead + 's) -> io::Result<Box<dyn Read + 's>> {
    Ok(match Packed::of(source.fill_buf()?) {
        Packed::Not => Box::new(source),
        Packed::Gzip => Box::new(MultiGzDecoder::new(source)),
        Packed::Zstd => Box::new(Zstd { decoder: FrameDecoder::new(), source, is_in_frame: false }),
    })
}

/// All frames of a zstd file, one after the other; the decoder knows one (RFC 8878, section 3.1).
struct Zstd<S> {
    decoder: FrameDecoder,
    source: S,
    is_in_frame: bool,
}

impl<S: BufRead> Read for Zstd<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { decoder, source, is_in_frame } = self;
        loop {
            if *is_in_frame {
                while decoder.can_collect() < buffer.len() && !decoder.is_finished() {
                    let missing = buffer.len() - decoder.can_collect();
                    let decoded =
                        decoder.decode_blocks(&mut *source, BlockDecodingStrategy::UptoBytes(missing));
                    decoded.map_err(io::Error::other)?;
                }
                let read = decoder.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                *is_in_frame = false;
            }
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match decoder.init(&mut *source) {
                Ok(()) => *is_in_frame = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut source.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
