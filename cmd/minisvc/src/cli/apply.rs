//! `minisvc apply` and `minisvc create`.
//!
//! `apply` keeps the manifest in an annotation, as kubectl does, so that the next one knows what was dropped; both
//! programs understand each other's annotation.

use super::{
    api::{ACCEPT_JSON, Api, Call, Failure},
    config::ConnectArgs,
    manifest::{self, FileArgs, Item},
    output::{self, Format, print},
};
use clap::{Args, ValueEnum};
use http::Method;
use minisvc_apimachinery::patch::three_way;
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode};

/// Where the manifest of the last apply is kept.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// How much of it is to happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum DryRun {
    /// All of it
    #[default]
    None,
    /// Nothing is sent
    Client,
    /// The server does all but store it
    Server,
}

impl DryRun {
    fn words(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

#[derive(Debug, Clone, Args)]
struct WriteArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Whether anything is to happen
    #[arg(long, value_enum, default_value = "none", num_args = 0..=1, default_missing_value = "client",
        require_equals = true, value_name = "none|client|server")]
    dry_run: DryRun,
    /// json, yaml, name or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT", value_parser = output::parse)]
    output: Option<Format>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `minisvc apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    write: WriteArgs,
}

/// `minisvc create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `apply`.
pub async fn apply(args: ApplyArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    run(args.write, fallbacks, true).await
}

/// Runs `create`.
pub async fn create(args: CreateArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    run(args.write, fallbacks, false).await
}

async fn run(args: WriteArgs, fallbacks: &[PathBuf], applies: bool) -> Result<ExitCode, Failure> {
    let items = manifest::load(&args.files)?;
    let api = args.connect.connect(fallbacks).await?;
    let writer = Writer { api, args };
    let items = items.into_iter().map(|item| writer.placed(item)).collect::<Result<Vec<_>, _>>()?;
    let mut failed = false;
    for item in items {
        let outcome = if applies { writer.apply(&item).await } else { writer.create(&item).await };
        match outcome {
            Ok((object, verb)) => writer.say(&object, verb)?,
            Err(Failure::Server(status)) if status.code != 401 => {
                item.refusal(&status).iter().for_each(|line| eprintln!("{line}"));
                failed = true;
            }
            Err(other) => return Err(other),
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Writer {
    api: Api,
    args: WriteArgs,
}

impl Writer {
    /// The item with its namespace.
    fn placed(&self, mut item: Item) -> Result<Item, Failure> {
        if !item.resource.namespaced {
            return Ok(item);
        }
        let own = item.object["metadata"]["namespace"].as_str().filter(|own| !own.is_empty());
        match (own, &self.args.connect.namespace) {
            (Some(own), Some(flag)) if own != flag => Err(Failure::Usage(format!(
                "{}: {}: the namespace from the provided object {own:?} does not match the namespace {flag:?}. \
                 You must pass '--namespace={own}' to perform this operation.",
                item.source,
                item.title()
            ))),
            (Some(_), _) => Ok(item),
            (None, _) => {
                item.object["metadata"]["namespace"] = self.api.namespace.as_str().into();
                Ok(item)
            }
        }
    }

    fn say(&self, object: &Value, verb: &str) -> Result<(), Failure> {
        match &self.args.output {
            None | Some(Format::Table | Format::Wide) => {
                print(&format!("{} {verb}{}\n", output::name_of(object), self.args.dry_run.words()))
            }
            Some(format) => print(&output::text(format, object)?),
        }
    }

    fn write(&self, method: Method, path: String, kind: &'static str, body: Value) -> Call {
        let manager = "minisvc-client-side-apply";
        let call = Call::with_body(method, path, kind, body)
            .query("fieldManager", manager)
            .query("fieldValidation", "Strict");
        if self.args.dry_run == DryRun::Server { call.query("dryRun", "All") } else { call }
    }

    fn path(item: &Item, named: bool) -> String {
        let namespace = item.object["metadata"]["namespace"].as_str();
        item.resource.path(namespace, named.then(|| item.name()))
    }

    async fn post(&self, item: &Item, object: Value) -> Result<(Value, &'static str), Failure> {
        if self.args.dry_run == DryRun::Client {
            return Ok((object, "created"));
        }
        let call = self.write(Method::POST, Self::path(item, false), ACCEPT_JSON, object);
        Ok((self.api.json(call).await?, "created"))
    }

    async fn create(&self, item: &Item) -> Result<(Value, &'static str), Failure> {
        self.post(item, item.object.clone()).await
    }

    async fn apply(&self, item: &Item) -> Result<(Value, &'static str), Failure> {
        if item.name().is_empty() {
            return Err(Failure::Usage(format!(
                "{}: {}: cannot use generate name with apply",
                item.source,
                item.title()
            )));
        }
        let modified = annotated(&item.object);
        let current = match self.api.json(Call::get(Self::path(item, true), ACCEPT_JSON)).await {
            Ok(current) => current,
            Err(failure) if failure.is_not_found() => return self.post(item, modified).await,
            Err(failure) => return Err(failure),
        };
        let original = last_applied(&current);
        if original.is_none() {
            eprintln!(
                "Warning: resource {} is missing the {LAST_APPLIED} annotation which is required by apply; it will be patched automatically.",
                output::name_of(&current)
            );
        }
        let patch = three_way(item.resource, original.as_ref(), &modified, &current);
        if patch.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok((current, "unchanged"));
        }
        if self.args.dry_run == DryRun::Client {
            return Ok((current, "configured"));
        }
        let call = self.write(Method::PATCH, Self::path(item, true), STRATEGIC, patch);
        let after = self.api.json(call).await?;
        let same = self.args.dry_run == DryRun::None && written(&after) == written(&current);
        Ok((after, if same { "unchanged" } else { "configured" }))
    }
}

/// What persons write of an object. A patch can hold what the server has already (a default within a list that
/// is replaced whole, `stringData`); that it changed nothing is not seen by the object's version, for a status
/// may have been written meanwhile.
fn written(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    object
}

/// The manifest with itself in its annotation, in kubectl's form.
fn annotated(manifest: &Value) -> Value {
    let mut object = manifest.clone();
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{object}\n");
    object["metadata"]["annotations"][LAST_APPLIED] = text.into();
    object
}

/// The manifest of the last apply, if the object has one that can be read.
fn last_applied(object: &Value) -> Option<Value> {
    serde_json::from_str(object["metadata"]["annotations"][LAST_APPLIED].as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::{
        patch::{PatchType, apply},
        resource::SERVICES,
    };

    #[test]
    fn a_status_that_moved_meanwhile_is_no_change_of_what_is_written() {
        let object = |version: &str, phase: &str, image: &str| {
            json!({"metadata": {"name": "web", "resourceVersion": version, "managedFields": [{"time": version}]},
                "spec": {"image": image}, "status": {"phase": phase}})
        };
        let current = object("1", "Pending", "echo");
        assert_eq!(written(&object("2", "Running", "echo")), written(&current));
        assert_ne!(written(&object("2", "Running", "host")), written(&current));
    }

    #[test]
    fn an_applied_manifest_is_unchanged_until_it_changes() {
        let manifest = |port: u16| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
                "spec": {"ports": [{"port": port}]}})
        };
        let mut current = annotated(&manifest(80));
        assert_eq!(
            current["metadata"]["annotations"][LAST_APPLIED],
            "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"annotations\":{},\"name\":\"web\",\"namespace\":\"default\"},\"spec\":{\"ports\":[{\"port\":80}]}}\n"
        );
        current["spec"]["clusterIP"] = "10.43.0.7".into();
        let patch = |port| {
            three_way(&SERVICES, last_applied(&current).as_ref(), &annotated(&manifest(port)), &current)
        };
        assert_eq!(patch(80), json!({}));
        let after = apply(PatchType::Strategic, &SERVICES, &current, &patch(81)).unwrap();
        assert_eq!(after["spec"], json!({"ports": [{"port": 81}], "clusterIP": "10.43.0.7"}));
        assert_eq!(last_applied(&after).unwrap()["spec"]["ports"][0]["port"], 81);
    }
}
