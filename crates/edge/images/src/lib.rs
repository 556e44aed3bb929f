//! The images of a node: what a name means, and archives made into root directories. Nothing is ever pulled.
//!
//! In: `minisvc image add` and the server's flags, archives on disk ([OCI image layout] or `docker save`). Out: for a
//! container's `image`, the [`Image`] that it runs. Invariants: an image in the table is whole on disk; what an archive
//! says is believed only as far as its digests show it; nothing in an archive reaches outside of its own root directory;
//! an image in use is not taken away.
//!
//! [OCI image layout]: https://github.com/opencontainers/image-spec/blob/main/image-layout.md

mod archive;
mod config;
mod definition;
mod error;
mod layer;
mod reference;
mod store;
mod table;
mod unpack;

#[cfg(test)]
mod tests;

pub use definition::{Definition, What};
pub use error::Error;
pub use reference::Reference;
pub use store::Store;
pub use table::{Image, Origin, Table};
