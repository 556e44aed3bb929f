//! `minisvc describe`: objects for people to read, with the events about them.

mod kinds;
mod pod;
mod probe;
mod service;
mod text;

use super::{
    api::{ACCEPT_JSON, Api, Call, Failure},
    config::ConnectArgs,
    manifest::{self, FileArgs},
    output::print,
    target,
};
use clap::Args;
use jiff::Timestamp;
use minisvc_apimachinery::{Resource, resource};
use serde_json::Value;
use std::{path::PathBuf, process::ExitCode};
use text::{Text, age, str_of};

/// Events shown of one object.
const EVENTS_MAX: usize = 100;

/// `minisvc describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// TYPE[,TYPE…] [NAME or its beginning…], or TYPE/NAME…
    #[arg(value_name = "TYPE")]
    words: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Leave the events out
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true)]
    show_events: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// What else a description shows.
struct Surroundings {
    now: Timestamp,
    /// EndpointSlices of a Service; Pods of a Node.
    related: Vec<Value>,
}

/// Runs the command.
pub async fn run(args: DescribeArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let by_file = if args.files.filename.is_empty() { None } else { Some(manifest::load(&args.files)?) };
    let api = args.connect.connect(fallbacks).await?;
    let describer = Describer { api, args, now: Timestamp::now() };
    let mut objects: Vec<(&'static Resource, Value)> = Vec::new();
    let mut failed = false;
    if let Some(items) = by_file {
        for item in items {
            let namespace = item.object["metadata"]["namespace"].as_str().unwrap_or(&describer.api.namespace);
            let path = item.resource.path(Some(namespace), Some(item.name()));
            objects.push((item.resource, describer.api.json(Call::get(path, ACCEPT_JSON)).await?));
        }
    } else {
        for target in target::parse(&describer.args.words)? {
            for found in describer.find(target.resource, &target.names).await? {
                match found {
                    Ok(object) => objects.push((target.resource, object)),
                    Err(failure) => {
                        eprintln!("{failure}");
                        failed = true;
                    }
                }
            }
        }
    }
    if objects.is_empty() && !failed {
        eprintln!("No resources found in {} namespace.", describer.api.namespace);
    }
    for (index, (resource, object)) in objects.iter().enumerate() {
        let gap = if index > 0 { "\n\n" } else { "" };
        print(&format!("{gap}{}", describer.describe(resource, object).await?))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Describer {
    api: Api,
    args: DescribeArgs,
    now: Timestamp,
}

impl Describer {
    async fn list(&self, resource: &Resource, call: Call) -> Result<Vec<Value>, Failure> {
        let mut list = self.api.json(call).await?;
        let mut items = match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        for item in &mut items {
            item["apiVersion"] = resource.api_version().into();
            item["kind"] = resource.kind.into();
        }
        Ok(items)
    }

    /// The objects of these names; a name that nothing has may be the beginning of some.
    async fn find(
        &self,
        resource: &'static Resource,
        names: &[String],
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        let namespace = (!self.args.all_namespaces).then_some(self.api.namespace.as_str());
        let all = Call::get(resource.path(namespace, None), ACCEPT_JSON)
            .maybe("labelSelector", self.args.selector.as_deref());
        if names.is_empty() {
            return Ok(self.list(resource, all).await?.into_iter().map(Ok).collect());
        }
        if self.args.all_namespaces || self.args.selector.is_some() {
            let words = "name cannot be provided when a selector or all namespaces are specified";
            return Err(Failure::Usage(words.to_owned()));
        }
        let mut found = Vec::new();
        for name in names {
            let call = Call::get(resource.path(namespace, Some(name)), ACCEPT_JSON);
            match self.api.json(call).await {
                Ok(object) => found.push(Ok(object)),
                Err(failure) if failure.is_not_found() => {
                    let list = self.list(resource, all.clone()).await?;
                    let begins =
                        |object: &Value| str_of(&object["metadata"]["name"]).starts_with(name.as_str());
                    let matching: Vec<Value> = list.into_iter().filter(begins).collect();
                    if matching.is_empty() {
                        found.push(Err(failure));
                    }
                    found.extend(matching.into_iter().map(Ok));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }

    async fn describe(&self, resource: &'static Resource, object: &Value) -> Result<String, Failure> {
        let metadata = &object["metadata"];
        let (name, namespace) = (str_of(&metadata["name"]), metadata["namespace"].as_str());
        let related = match resource.kind {
            "Service" => {
                let label = format!("kubernetes.io/service-name={name}");
                let path = resource::ENDPOINT_SLICES.path(namespace, None);
                let call = Call::get(path, ACCEPT_JSON).query("labelSelector", label);
                self.list(&resource::ENDPOINT_SLICES, call).await?
            }
            "Node" => {
                let path = resource::PODS.path(None, None);
                let call =
                    Call::get(path, ACCEPT_JSON).query("fieldSelector", format!("spec.nodeName={name}"));
                self.list(&resource::PODS, call).await?
            }
            _ => Vec::new(),
        };
        let mut text = describe(resource, object, &Surroundings { now: self.now, related });
        if self.args.show_events && resource.kind != "Event" {
            let mut selector = format!("involvedObject.kind={},involvedObject.name={name}", resource.kind);
            // A Node's events say its name as its UID, in Kubernetes too.
            if let (Some(uid), false) = (metadata["uid"].as_str(), resource.kind == "Node") {
                selector.push_str(&format!(",involvedObject.uid={uid}"));
            }
            let path = resource::EVENTS.path(namespace, None);
            let call = Call::get(path, ACCEPT_JSON).query("fieldSelector", selector);
            events(&self.list(&resource::EVENTS, call).await?, self.now, &mut text);
        }
        Ok(text.render())
    }
}

/// The description of an object without its events.
fn describe(resource: &Resource, object: &Value, around: &Surroundings) -> Text {
    let mut text = Text::default();
    let metadata = &object["metadata"];
    text.line(0, "Name", str_of(&metadata["name"]));
    if resource.namespaced {
        text.line(0, "Namespace", str_of(&metadata["namespace"]));
    }
    text.map(0, "Labels", &metadata["labels"], "=");
    text.map(0, "Annotations", &metadata["annotations"], ": ");
    match resource.kind {
        "Service" => service::describe(object, around, &mut text),
        "Pod" => pod::describe(object, &mut text),
        "Node" => kinds::node(object, around, &mut text),
        "Namespace" => text.line(0, "Status", str_of(&object["status"]["phase"])),
        "Ingress" => kinds::ingress(object, &mut text),
        "EndpointSlice" => service::endpoint_slice(object, &mut text),
        "ConfigMap" => kinds::config_map(object, &mut text),
        "Secret" => kinds::secret(object, &mut text),
        _ => kinds::anything(object, &mut text),
    }
    text
}

fn events(events: &[Value], now: Timestamp, text: &mut Text) {
    if events.is_empty() {
        return text.line(0, "Events", "<none>");
    }
    let when = |event: &Value| -> String {
        let times = [
            &event["series"]["lastObservedTime"],
            &event["lastTimestamp"],
            &event["eventTime"],
            &event["firstTimestamp"],
            &event["metadata"]["creationTimestamp"],
        ];
        times.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut sorted: Vec<&Value> = events.iter().collect();
    sorted.sort_by_key(|event| when(event));
    let skipped = sorted.len().saturating_sub(EVENTS_MAX);
    let mut rows = Vec::new();
    for event in &sorted[skipped..] {
        let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
        let mut seen = age(&when(event), now);
        if count > 1 {
            let first = event["firstTimestamp"].as_str().map(|first| age(first, now));
            seen = format!("{seen} (x{count} over {})", first.unwrap_or_else(|| seen.clone()));
        }
        let from = [&event["source"]["component"], &event["reportingComponent"]];
        let from = from.into_iter().map(str_of).find(|from| !from.is_empty()).unwrap_or_default();
        let message = str_of(&event["message"]).trim().to_owned();
        rows.push(vec![str_of(&event["type"]), str_of(&event["reason"]), seen, from, message]);
    }
    text.heading(0, "Events");
    text.table(1, &["Type", "Reason", "Age", "From", "Message"], rows);
}

#[cfg(test)]
mod tests;
