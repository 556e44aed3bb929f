//! `minisvc image`: the images of this node. Needs no server: a running one sees the change at once.

use crate::cli::table::Table;
use anyhow::bail;
use clap::{Args, Subcommand};
use minisvc_images::{Definition, Image, Origin, Reference, Store, What};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// `minisvc image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Give this node an image. Nothing is ever pulled from a registry.
    #[command(group = clap::ArgGroup::new("of").required(true))]
    Add(AddArgs),
    /// List this node's images.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Take images away from this node; those that running containers use stay.
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
}

/// `minisvc image add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What Pods name it by.
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    /// A program of this node and its arguments, up to the end of the line; it sees the node's files, read-only.
    #[arg(long, group = "of", num_args = 1.., allow_hyphen_values = true, value_name = "PATH [ARGS]")]
    exec: Vec<String>,
    /// A directory of this node that is the root of its containers; they change copies of its files only.
    #[arg(long, group = "of", value_name = "DIR")]
    root: Option<PathBuf>,
    /// What runs in --root if a Pod names no command: program and arguments, up to the end of the line.
    #[arg(long, requires = "root", num_args = 1.., allow_hyphen_values = true, value_name = "PROGRAM [ARGS]")]
    entrypoint: Vec<String>,
    /// An archive of an OCI layout or of `docker save`, compressed or not.
    #[arg(long, group = "of", value_name = "ARCHIVE")]
    oci: Option<PathBuf>,
    #[command(flatten)]
    of: Node,
}

/// `minisvc image list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// `json` for the whole table.
    #[arg(long, short, value_parser = ["json"])]
    output: Option<String>,
    #[command(flatten)]
    of: Node,
}

/// `minisvc image remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The images' names.
    #[arg(required = true, value_name = "NAME[:TAG]")]
    names: Vec<String>,
    #[command(flatten)]
    of: Node,
}

/// Where the node keeps its images.
#[derive(Debug, Args)]
struct Node {
    /// The server's --data-dir.
    #[arg(long, env = "MINISVC_DATA_DIR", default_value = "/var/lib/minisvc")]
    data_dir: PathBuf,
}

/// The images of the node with this data directory.
pub fn store(data_dir: &Path) -> Store {
    Store::new(data_dir.join("images"))
}

/// Runs one of these commands.
///
/// # Errors
/// If the image cannot be made, is not there, or is in use.
pub fn run(command: ImageCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Add(args) => {
            let store = store(&args.of.data_dir);
            let definition = definition(args)?;
            let image = store.add(&definition)?;
            println!("image {} added ({})", familiar(&definition.name), short(&image.id));
        }
        ImageCommand::List(args) => {
            let table = store(&args.of.data_dir).table()?;
            match args.output {
                Some(_) => println!("{}", serde_json::to_string_pretty(&json!({ "images": table }))?),
                None => print!("{}", list(&table.0.into_iter().collect::<Vec<_>>())),
            }
        }
        ImageCommand::Remove(args) => {
            let store = store(&args.of.data_dir);
            for name in args.names {
                store.remove(&name)?;
                println!("image {} removed", familiar(&name));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn definition(args: AddArgs) -> anyhow::Result<Definition> {
    let AddArgs { name, exec, root, entrypoint, oci, of: _ } = args;
    let what = match (root, oci) {
        (Some(root), _) => What::Directory { root: std::path::absolute(root)?, entrypoint },
        (None, Some(archive)) => What::Archive(archive),
        (None, None) if exec.is_empty() => bail!("one of --exec, --root and --oci is needed"),
        (None, None) => What::Program(exec),
    };
    Ok(Definition { name, what })
}

fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

fn short(id: &str) -> &str {
    id.strip_prefix("sha256:").and_then(|digits| digits.get(..12)).unwrap_or(id)
}

/// The table that `image list` prints; the images that are always there first.
fn list(images: &[(String, Image)]) -> String {
    let kind = |origin| match origin {
        Origin::Exec => "exec",
        Origin::Root => "root",
        Origin::Oci => "oci",
    };
    let row = |cells: [&str; 6]| cells.map(str::to_owned).to_vec();
    let mut table = Table {
        headers: row(["Name", "Tag", "Image ID", "Size", "Kind", "Runs"]),
        rows: vec![
            row(["host", "latest", "host", "-", "built-in", "what the Pod says, in the node's own files"]),
            row(["echo", "latest", "echo", "-", "built-in", "a server that says who answered"]),
        ],
    };
    for (full, image) in images {
        let (name, tag) = match full.parse::<Reference>() {
            Ok(name) => (Reference { tag: None, ..name.clone() }.familiar(), name.tag.unwrap_or_default()),
            Err(_) => (full.clone(), String::new()),
        };
        let runs: Vec<&str> = image.entrypoint.iter().chain(&image.cmd).map(String::as_str).collect();
        let size = if image.bytes == 0 { "-".to_owned() } else { size(image.bytes) };
        table.rows.push(row([&name, &tag, short(&image.id), &size, kind(image.origin), &runs.join(" ")]));
    }
    table.text(true, &[]).0
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ids_are_short() {
        assert_eq!(
            (size(1500), size(7_340_000), size(2_500_000_000)),
            ("1.5 kB".into(), "7.3 MB".into(), "2.50 GB".into())
        );
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("host"), "host");
    }

    #[test]
    fn the_table_has_built_in_and_added_images() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.add_program("me/tool:2", &["/bin/sh".to_owned(), "-c".to_owned()]).unwrap();
        let text = list(&store.table().unwrap().0.into_iter().collect::<Vec<_>>());
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1][..2], ["host", "latest"]);
        assert_eq!((rows[3][0], rows[3][1], rows[3][3], rows[3][4]), ("me/tool", "2", "-", "exec"));
        assert!(text.ends_with("/bin/sh -c\n"));
    }
}
