//! Images as flags and config files define them.

use crate::{Error, Image, Reference, Store, Table};
use std::{path::PathBuf, str::FromStr};

/// What an image is to be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A program of the node and its arguments.
    Program(Vec<String>),
    /// A directory of the node, and what runs in it.
    Directory {
        /// The directory.
        root: PathBuf,
        /// Program and arguments; may be empty.
        entrypoint: Vec<String>,
    },
    /// An archive.
    Archive(PathBuf),
}

/// A name and what it is to mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name.
    pub name: String,
    /// Its meaning.
    pub what: What,
}

impl Definition {
    /// Makes the image, and adds it to `given`: an archive is imported into `store`, all else is kept nowhere.
    ///
    /// # Errors
    /// As those of [`Store::add_program`], [`Store::add_root`] and [`Store::import`].
    pub fn give(&self, store: &Store, given: &mut Table) -> Result<(), Error> {
        let name = crate::store::new_name(&self.name)?;
        let image = match &self.what {
            What::Program(program) => Image::of_program(&name, program)?,
            What::Directory { root, entrypoint } => store.directory(&name, root, entrypoint)?,
            What::Archive(archive) => store.import(&self.name, archive)?,
        };
        given.0.insert(name.to_string(), image);
        Ok(())
    }
}

/// `NAME=DIR[:ENTRYPOINT]`, `NAME=exec:PROGRAM [ARGS]` or `NAME=oci:ARCHIVE`; commands are split at spaces.
impl FromStr for Definition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |problem| Error::Name { text: text.to_owned(), problem };
        let form = "expected NAME=DIR[:ENTRYPOINT], NAME=exec:PROGRAM or NAME=oci:ARCHIVE";
        let (name, rest) = text.split_once('=').ok_or_else(|| wrong(form))?;
        let _valid: Reference = crate::store::new_name(name)?;
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let what = if let Some(program) = rest.strip_prefix("exec:") {
            What::Program(words(program))
        } else if let Some(archive) = rest.strip_prefix("oci:") {
            What::Archive(archive.into())
        } else {
            let (root, entrypoint) = rest.split_once(':').unwrap_or((rest, ""));
            if !root.starts_with('/') {
                return Err(wrong("the directory must be an absolute path"));
            }
            What::Directory { root: root.into(), entrypoint: words(entrypoint) }
        };
        Ok(Self { name: name.to_owned(), what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_read_and_bad_ones_refused() {
        let read = |text: &str| text.parse::<Definition>().unwrap().what;
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let root = "/srv/web".into();
        assert_eq!(
            read("web:1=/srv/web:/bin/httpd -f"),
            What::Directory { root, entrypoint: words(&["/bin/httpd", "-f"]) }
        );
        assert_eq!(read("sh=exec:/bin/sh -c true"), What::Program(words(&["/bin/sh", "-c", "true"])));
        assert_eq!(read("me/app=oci:app.tar"), What::Archive("app.tar".into()));
        for (text, part) in [
            ("web", "NAME=DIR"),
            ("=/x", "empty"),
            ("host=/x", "built in"),
            ("web=x", "absolute"),
            ("W=/x", "lower"),
        ] {
            let error = text.parse::<Definition>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
