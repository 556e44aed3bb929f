//! The node's image table: names to file systems and entry points. No registry, nothing is pulled.

use crate::record::ContainerState;
use crate::spec::ContainerSpec;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// A name the operator has mapped to a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedImage {
    /// Becomes the container's root, read-only.
    pub root: PathBuf,
    /// What runs if the container names no command; may be empty.
    pub entrypoint: Vec<String>,
}

impl MappedImage {
    /// Parses `NAME=DIR[:ENTRYPOINT]`, the entry point split at spaces.
    ///
    /// # Errors
    /// One line that says which part is missing or wrong.
    pub fn parse(text: &str) -> Result<(String, Self), ImageMappingError> {
        let error = |problem| ImageMappingError { text: text.to_owned(), problem };
        let (name, rest) = text.split_once('=').ok_or_else(|| error("expected NAME=DIR[:ENTRYPOINT]"))?;
        let (dir, entrypoint) = rest.split_once(':').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(error("the name is empty"));
        }
        if [HOST, ECHO].contains(&name) {
            return Err(error("this name is built in"));
        }
        if !dir.starts_with('/') {
            return Err(error("the directory must be an absolute path"));
        }
        let entrypoint = entrypoint.split_whitespace().map(str::to_owned).collect();
        Ok((name.to_owned(), Self { root: dir.into(), entrypoint }))
    }
}

/// A mapping that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("image mapping {text:?}: {problem}")]
pub struct ImageMappingError {
    text: String,
    problem: &'static str,
}

/// The image that is the node's own file system.
pub const HOST: &str = "host";
/// The built-in server that says who answered.
pub const ECHO: &str = "echo";

/// All images of this node.
#[derive(Clone, Debug, Default)]
pub struct ImageTable {
    /// What the operator has added to the built-in ones.
    pub mapped: BTreeMap<String, MappedImage>,
}

/// What a container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The container's root; none: the node's own file system.
    pub root: Option<PathBuf>,
    /// Command and arguments; empty: the built-in echo server.
    pub argv: Vec<String>,
}

impl ImageTable {
    /// The images' names, for `status.images` of the Node.
    pub fn names(&self) -> Vec<String> {
        [HOST, ECHO].into_iter().map(str::to_owned).chain(self.mapped.keys().cloned()).collect()
    }

    /// Finds what `spec` runs.
    ///
    /// # Errors
    /// The waiting state to show, worded as the kubelet does.
    pub fn resolve(&self, spec: &ContainerSpec) -> Result<Resolved, ContainerState> {
        let given = || spec.command.iter().chain(&spec.args).cloned().collect::<Vec<_>>();
        // A tag or a registry says nothing here, but manifests written elsewhere may carry the default tag.
        let name = spec.image.strip_suffix(":latest").unwrap_or(&spec.image);
        let create_error = |message: &str| ContainerState::Waiting {
            reason: "CreateContainerError".to_owned(),
            message: message.to_owned(),
        };
        match name {
            // Without an entry point of the image, the arguments are the command, as with any such image.
            HOST if given().is_empty() => Err(create_error("no command specified")),
            HOST => Ok(Resolved { root: None, argv: given() }),
            ECHO if !spec.command.is_empty() => Ok(Resolved { root: None, argv: given() }),
            ECHO if !spec.args.is_empty() => Err(create_error("image \"echo\" takes no args")),
            ECHO => Ok(Resolved { root: None, argv: Vec::new() }),
            _ => {
                let Some(image) = self.mapped.get(name) else {
                    return Err(ContainerState::Waiting {
                        reason: "ErrImageNeverPull".to_owned(),
                        message: format!(
                            "Container image {:?} is not present with pull policy of Never",
                            spec.image
                        ),
                    });
                };
                let argv = if spec.command.is_empty() {
                    image.entrypoint.iter().chain(&spec.args).cloned().collect()
                } else {
                    given()
                };
                if argv.is_empty() {
                    return Err(create_error("no command specified"));
                }
                Ok(Resolved { root: Some(image.root.clone()), argv })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(image: &str, command: &[&str], args: &[&str]) -> ContainerSpec {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        ContainerSpec { image: image.into(), command: own(command), args: own(args), ..Default::default() }
    }

    fn waiting(result: Result<Resolved, ContainerState>) -> (String, String) {
        match result {
            Err(ContainerState::Waiting { reason, message }) => (reason, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn built_in_mapped_and_unknown_images() {
        let (name, image) = MappedImage::parse("web=/srv/web:/bin/httpd -f").unwrap();
        let table = ImageTable { mapped: BTreeMap::from([(name, image)]) };
        assert_eq!(table.names(), ["host", "echo", "web"]);
        assert_eq!(table.resolve(&spec("echo", &[], &[])).unwrap().argv, Vec::<String>::new());
        assert_eq!(table.resolve(&spec("host", &["sleep"], &["1"])).unwrap().argv, ["sleep", "1"]);
        let web = table.resolve(&spec("web:latest", &[], &["-v"])).unwrap();
        assert_eq!((web.root, web.argv.join(" ")), (Some("/srv/web".into()), "/bin/httpd -f -v".into()));
        assert_eq!(table.resolve(&spec("web", &["sh"], &[])).unwrap().argv, ["sh"]);
        assert_eq!(
            waiting(table.resolve(&spec("nginx:1.27", &[], &[]))),
            (
                "ErrImageNeverPull".into(),
                "Container image \"nginx:1.27\" is not present with pull policy of Never".into()
            )
        );
        assert_eq!(table.resolve(&spec("host", &[], &["x"])).unwrap().argv, ["x"]);
        assert_eq!(waiting(table.resolve(&spec("host", &[], &[]))).0, "CreateContainerError");
        assert_eq!(waiting(table.resolve(&spec("echo", &[], &["x"]))).0, "CreateContainerError");
    }

    #[test]
    fn bad_mappings_are_refused() {
        for (text, part) in
            [("web", "NAME=DIR"), ("=/x", "empty"), ("host=/x", "built in"), ("web=x", "absolute")]
        {
            let error = MappedImage::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
