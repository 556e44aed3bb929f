//! What can go wrong with images.

use std::{io, path::PathBuf};

/// Why something about an image could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image can have this name.
    #[error("image name {text:?}: {problem}")]
    Name {
        /// As given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It always means the same.
    #[error("image {name:?} is built in")]
    BuiltIn {
        /// The name.
        name: String,
    },
    /// There is no such image.
    #[error("no image {name:?} on this node")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Containers run it.
    #[error("image {name:?} is in use by a running container; delete its pods first")]
    InUse {
        /// The name.
        name: String,
    },
    /// A program or a directory that cannot be an image.
    #[error("image {name:?}: {path}: {problem}")]
    Definition {
        /// The image's name.
        name: String,
        /// The program or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An archive that is none, or does not hold what it says.
    #[error("image archive {path}: {problem}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A layer of an archive that cannot be unpacked.
    #[error("image archive {path}: layer {layer}: {entry:?}: {problem}")]
    Layer {
        /// The archive.
        path: PathBuf,
        /// Counted from 1, the lowest.
        layer: usize,
        /// The file in the layer; empty for the layer itself.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk said no.
    #[error("{operation} {path}: {source}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was tried on which path.
    pub(crate) fn disk<'a>(
        operation: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Disk { operation, path: path.to_owned(), source }
    }
}
