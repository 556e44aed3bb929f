//! Manifests from `-f`: files, folders, standard input. All are read and checked before anything is sent.

use super::api::Failure;
use clap::Args;
use minisvc_apimachinery::{
    Resource, Status,
    decode::{self, Limits},
    schema,
};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// Files of one command.
const FILES_MAX: usize = 10_000;

/// Which manifests.
#[derive(Debug, Clone, Default, Args)]
pub struct FileArgs {
    /// A file or folder of manifests (YAML or JSON), or - for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Also read folders inside folders
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// An object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Where it came from.
    pub source: String,
    /// Its kind.
    pub resource: &'static Resource,
    /// The object.
    pub object: Value,
}

impl Item {
    /// `metadata.name`, empty if the server is to make one.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `Service "web"`.
    pub fn title(&self) -> String {
        title(&self.object)
    }

    /// One line a problem, naming file, object and field, for what the server refused.
    pub fn refusal(&self, status: &Status) -> Vec<String> {
        let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
        let place = format!("{}: {}", self.source, self.title());
        if causes.is_empty() {
            return vec![format!("{place}: {}", status.message)];
        }
        causes.iter().map(|cause| format!("{place}: {cause}")).collect()
    }
}

fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&object["metadata"]["name"]);
    let name = if name.is_empty() { text(&object["metadata"]["generateName"]) } else { name };
    let kind = text(&object["kind"]);
    format!("{} {name:?}", if kind.is_empty() { "object" } else { &kind })
}

/// Reads every manifest and checks every object against its schema.
///
/// # Errors
/// A file cannot be read; or objects have problems, which have then been printed, one a line.
pub fn load(args: &FileArgs) -> Result<Vec<Item>, Failure> {
    if args.filename.is_empty() {
        return Err(Failure::Usage("must specify -f".to_owned()));
    }
    let mut items = Vec::new();
    let mut problems = Vec::new();
    for path in files(args)? {
        let (source, text) = read(&path)?;
        check(&source, &text, &mut items, &mut problems);
    }
    if problems.is_empty() && items.is_empty() {
        return Err(Failure::Usage("no objects passed".to_owned()));
    }
    if problems.is_empty() {
        return Ok(items);
    }
    for problem in problems {
        eprintln!("{problem}");
    }
    Err(Failure::Reported)
}

/// Adds the objects of one text, and a line for each problem.
fn check(source: &str, text: &[u8], items: &mut Vec<Item>, problems: &mut Vec<String>) {
    let objects = match decode::manifest(text, Limits::MANIFEST) {
        Ok(objects) => objects,
        Err(error) => return problems.push(format!("{source}: {error}")),
    };
    for object in objects {
        let place = format!("{source}: {}", title(&object));
        match decode::identify(&object) {
            Err(causes) => problems.extend(causes.iter().map(|cause| format!("{place}: {cause}"))),
            Ok(resource) => {
                let found = schema::validate(resource, &object);
                for problem in &found {
                    let words = problem.to_string();
                    let named = problem.is_strict_only() || problem.field.is_empty();
                    let field = if named { String::new() } else { format!("{}: ", problem.field) };
                    problems.push(format!("{place}: {field}{words}"));
                }
                items.push(Item { source: source.to_owned(), resource, object });
            }
        }
    }
}

fn files(args: &FileArgs) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in &args.filename {
        if path.is_dir() {
            folder(path, args.recursive, &mut files)?;
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

/// The manifests of a folder, by name.
fn folder(path: &Path, recursive: bool, into: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |source| Failure::Read { path: path.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        entries.push(entry.map_err(unreadable)?.path());
    }
    entries.sort();
    for entry in entries {
        let known = |ending: &std::ffi::OsStr| ["yaml", "yml", "json"].iter().any(|known| ending == *known);
        if entry.is_dir() {
            if recursive && !entry.is_symlink() {
                folder(&entry, recursive, into)?;
            }
        } else if entry.extension().is_some_and(known) {
            into.push(entry);
        }
        if into.len() > FILES_MAX {
            return Err(Failure::Usage(format!("{}: more than {FILES_MAX} files", path.display())));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<(String, Vec<u8>), Failure> {
    let unreadable = |source| Failure::Read { path: path.to_owned(), source };
    // One byte more than allowed is enough to see that it is too long.
    let max = Limits::MANIFEST.bytes_max as u64 + 1;
    let mut text = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(max).read_to_end(&mut text).map_err(unreadable)?;
        return Ok(("standard input".to_owned(), text));
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(max).read_to_end(&mut text).map_err(unreadable)?;
    Ok((path.display().to_string(), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::{Cause, resource::SERVICES};

    fn problems(text: &str) -> Vec<String> {
        let (mut items, mut problems) = (Vec::new(), Vec::new());
        check("web.yaml", text.as_bytes(), &mut items, &mut problems);
        problems
    }

    #[test]
    fn each_problem_names_file_object_and_field() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  foo: 1\n  ports: [{port: x}]\n\
                    ---\napiVersion: v1\nkind: Deployment\nmetadata: {name: d}\n---\napiVersion: v1\nkind: Pod\n";
        assert_eq!(
            problems(text),
            [
                "web.yaml: Service \"web\": unknown field \"spec.foo\"",
                "web.yaml: Service \"web\": spec.ports[0].port: json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32",
                "web.yaml: Deployment \"d\": kind: Invalid value: \"Deployment\": no matches for kind \"Deployment\" in version \"v1\"",
                "web.yaml: Pod \"\": metadata.name: Required value: name or generateName is required",
            ]
        );
        assert!(problems("a: [")[0].starts_with("web.yaml: line "));
        let item = Item {
            source: "web.yaml".to_owned(),
            resource: &SERVICES,
            object: serde_json::json!({"kind": "Service", "metadata": {"name": "web"}}),
        };
        let causes = vec![
            Cause::invalid("spec.ports[0].port", 70000, "must be between 1 and 65535, inclusive"),
            Cause::required("spec.type", ""),
        ];
        assert_eq!(
            item.refusal(&Status::invalid(&SERVICES, "web", causes)),
            [
                "web.yaml: Service \"web\": spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "web.yaml: Service \"web\": spec.type: Required value",
            ]
        );
    }

    #[test]
    fn folders_are_read_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let pod = |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n");
        fs::create_dir(dir.path().join("inner")).unwrap();
        for (file, name) in [("b.yaml", "b"), ("a.yml", "a"), ("c.txt", "c"), ("inner/d.json", "d")] {
            fs::write(dir.path().join(file), pod(name)).unwrap();
        }
        let names = |recursive| -> Vec<String> {
            let args = FileArgs { filename: vec![dir.path().to_owned()], recursive };
            load(&args).unwrap().iter().map(|item| item.name().to_owned()).collect()
        };
        assert_eq!(names(false), ["a", "b"]);
        assert_eq!(names(true), ["a", "b", "d"]);
        let missing = FileArgs { filename: vec![dir.path().join("x")], recursive: false };
        assert!(matches!(load(&missing), Err(Failure::Read { .. })));
    }
}
