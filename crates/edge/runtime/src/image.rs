//! What a container's `image` means on this node. Nothing is pulled.

use crate::record::ContainerState;
use crate::spec::ContainerSpec;
use minisvc_images::{Image, Reference, Store, Table};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The image that is the node's own file system.
pub const HOST: &str = "docker.io/library/host:latest";
/// The built-in server that says who answered.
pub const ECHO: &str = "docker.io/library/echo:latest";

/// All images of this node.
#[derive(Clone, Debug, Default)]
pub struct ImageTable {
    /// What the server was started with, by full name.
    pub given: Table,
    /// What was added to the node.
    pub store: Option<Store>,
}

/// What a container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The container's root; none: the node's own file system.
    pub root: Option<PathBuf>,
    /// Held while it runs, so that the root stays.
    pub lock: Option<PathBuf>,
    /// Command and arguments; empty: the built-in echo server.
    pub argv: Vec<String>,
    /// What the image says of all its programs.
    pub facts: ImageFacts,
}

/// What an image says of all programs that run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageFacts {
    /// Its id: a digest, or the name of a built-in one.
    pub id: String,
    /// Environment, below the container's own.
    pub env: Vec<(String, String)>,
    /// Where programs start, if the container does not say.
    pub working_dir: String,
    /// Who runs them, if the container does not say: `user[:group]`, empty for root.
    pub user: String,
    /// The signal that asks process 1 to end; none: SIGTERM.
    pub stop_signal: Option<i32>,
    /// Process 1 is the echo server.
    pub is_echo: bool,
}

/// For the Node's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The full name.
    pub name: String,
    /// Size of its files, in bytes.
    pub bytes: u64,
}

fn waiting(reason: &str, message: String) -> ContainerState {
    ContainerState::Waiting { reason: reason.to_owned(), message }
}

impl ImageTable {
    /// The images by name. Those that cannot be read now are left out.
    pub fn list(&self) -> Vec<Listed> {
        let stored = self.store.as_ref().and_then(|store| store.table().ok()).unwrap_or_default();
        let added =
            self.given.0.iter().chain(stored.0.iter().filter(|(name, _)| !self.given.0.contains_key(*name)));
        let built_in = [HOST, ECHO].map(|name| Listed { name: name.to_owned(), bytes: 0 });
        built_in
            .into_iter()
            .chain(added.map(|(name, image)| Listed { name: name.clone(), bytes: image.bytes }))
            .collect()
    }

    /// Another value after every change.
    pub fn version(&self) -> (u64, i64, i64) {
        self.store.as_ref().map_or((0, 0, 0), Store::version)
    }

    /// Finds what `spec` runs.
    ///
    /// # Errors
    /// The waiting state to show, worded as the kubelet does.
    pub fn resolve(&self, spec: &ContainerSpec) -> Result<Resolved, ContainerState> {
        let given = || spec.command.iter().chain(&spec.args).cloned().collect::<Vec<_>>();
        let create_error = |message: &str| waiting("CreateContainerError", message.to_owned());
        let name: Reference = spec
            .image
            .parse()
            .map_err(|error: minisvc_images::Error| waiting("InvalidImageName", error.to_string()))?;
        let built_in = |id: &str, argv: Vec<String>| Resolved {
            root: None,
            lock: None,
            facts: ImageFacts { id: id.to_owned(), is_echo: argv.is_empty(), ..ImageFacts::default() },
            argv,
        };
        match name.to_string().as_str() {
            // Without an entry point of the image, the arguments are the command, as with any such image.
            HOST if given().is_empty() => Err(create_error("no command specified")),
            HOST => Ok(built_in("host", given())),
            ECHO if !spec.command.is_empty() => Ok(built_in("echo", given())),
            ECHO if !spec.args.is_empty() => Err(create_error("image \"echo\" takes no args")),
            ECHO => Ok(built_in("echo", Vec::new())),
            _ => {
                let image = self.find(&spec.image)?.ok_or_else(|| {
                    let words =
                        format!("Container image {:?} is not present with pull policy of Never", spec.image);
                    waiting("ErrImageNeverPull", words)
                })?;
                let argv = argv(&image, spec);
                if argv.is_empty() {
                    return Err(create_error("no command specified"));
                }
                Ok(Resolved {
                    root: image.root,
                    lock: image.lock,
                    argv,
                    facts: ImageFacts {
                        id: image.id,
                        env: image.env,
                        working_dir: image.working_dir,
                        user: image.user,
                        stop_signal: image.stop_signal,
                        is_echo: false,
                    },
                })
            }
        }
    }

    fn find(&self, name: &str) -> Result<Option<Image>, ContainerState> {
        let unreadable = |error: minisvc_images::Error| waiting("ImageInspectError", error.to_string());
        if let Some(image) = self.given.find(name).map_err(unreadable)? {
            return Ok(Some(image.clone()));
        }
        let Some(store) = &self.store else { return Ok(None) };
        let table = store.table().map_err(unreadable)?;
        Ok(table.find(name).map_err(unreadable)?.cloned())
    }
}

/// Command and arguments: those of the container come instead of the image's (Kubernetes, "Define a Command and Arguments").
fn argv(image: &Image, spec: &ContainerSpec) -> Vec<String> {
    let command = if spec.command.is_empty() { &image.entrypoint } else { &spec.command };
    let of_image = spec.command.is_empty() && spec.args.is_empty();
    let args = if of_image { &image.cmd } else { &spec.args };
    command.iter().chain(args).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_images::Definition;

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
    fn built_in_given_added_and_unknown_images() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("images"));
        let mut table = ImageTable { store: Some(store.clone()), ..ImageTable::default() };
        let web: Definition = "web=/etc:/bin/httpd -f".parse().unwrap();
        web.give(&store, &mut table.given).unwrap();
        store.add_program("tool:2", &["/bin/sh".to_owned(), "-x".to_owned()]).unwrap();
        let names: Vec<_> = table.list().into_iter().map(|listed| listed.name).collect();
        assert_eq!(names, [HOST, ECHO, "docker.io/library/web:latest", "docker.io/library/tool:2"]);
        assert_eq!(table.resolve(&spec("echo", &[], &[])).unwrap().argv, Vec::<String>::new());
        assert_eq!(
            table.resolve(&spec("docker.io/library/host:latest", &["sleep"], &["1"])).unwrap().argv,
            ["sleep", "1"]
        );
        let web = table.resolve(&spec("web:latest", &[], &["-v"])).unwrap();
        assert_eq!((web.root, web.argv.join(" ")), (Some("/etc".into()), "/bin/httpd -f -v".into()));
        assert_eq!(table.resolve(&spec("web", &["sh"], &[])).unwrap().argv, ["sh"]);
        let tool = table.resolve(&spec("tool:2", &[], &[])).unwrap();
        assert_eq!((tool.root, tool.argv.join(" ")), (None, "/bin/sh -x".into()));
        assert_eq!(
            waiting(table.resolve(&spec("nginx:1.27", &[], &[]))),
            (
                "ErrImageNeverPull".into(),
                "Container image \"nginx:1.27\" is not present with pull policy of Never".into()
            )
        );
        assert_eq!(table.resolve(&spec("host", &[], &["x"])).unwrap().argv, ["x"]);
        for (image, args, reason) in [
            ("host", &[][..], "CreateContainerError"),
            ("echo", &["x"], "CreateContainerError"),
            ("No Such", &[], "InvalidImageName"),
        ] {
            assert_eq!(waiting(table.resolve(&spec(image, &[], args))).0, reason);
        }
    }

    #[test]
    fn arguments_of_the_container_take_the_images_place() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("images"));
        let mut image = store.add_program("x", &["/bin/sh".to_owned()]).unwrap();
        image.cmd = vec!["-f".into()];
        for (command, args, argv_) in [
            (&[][..], &[][..], "/bin/sh -f"),
            (&[], &["a"], "/bin/sh a"),
            (&["/c"], &[], "/c"),
            (&["/c"], &["a"], "/c a"),
        ] {
            assert_eq!(argv(&image, &spec("x", command, args)).join(" "), argv_);
        }
    }
}
