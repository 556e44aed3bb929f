//! `minisvc get`: tables made by the server, or the objects themselves.

mod layout;

use super::{
    api::{ACCEPT_JSON, ACCEPT_TABLE, Api, Call, Failure},
    config::ConnectArgs,
    manifest::{self, FileArgs},
    output::{self, Format, print},
    table::Table,
    target::{self, Target},
};
use clap::Args;
use futures::StreamExt;
use layout::Layout;
use minisvc_apimachinery::{Resource, Status};
use serde_json::Value;
use std::{path::PathBuf, pin::pin, process::ExitCode};

/// Objects asked for at a time.
const PAGE: &str = "500";

/// `minisvc get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// TYPE[,TYPE…] [NAME…], or TYPE/NAME…
    #[arg(value_name = "TYPE")]
    words: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels (app=web,tier!=db)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects with these fields (spec.nodeName=node1)
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// wide, json, yaml, name or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT", value_parser = output::parse)]
    output: Option<Format>,
    /// Go on printing what changes
    #[arg(short, long)]
    watch: bool,
    /// Leave the headers out
    #[arg(long)]
    no_headers: bool,
    /// Show labels in a last column
    #[arg(long)]
    show_labels: bool,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// One request: a collection, or one object of it.
#[derive(Debug, Clone)]
struct Fetch {
    resource: &'static Resource,
    namespace: Option<String>,
    name: Option<String>,
}

impl Fetch {
    fn path(&self) -> String {
        self.resource.path(self.namespace.as_deref(), self.name.as_deref())
    }
}

/// Runs the command.
pub async fn run(args: GetArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let api = args.connect.connect(fallbacks).await?;
    let groups = groups(&args, &api)?;
    let getter = Getter { api, format: args.output.clone().unwrap_or_default(), args };
    if getter.args.watch {
        return getter.watch(&groups).await;
    }
    match getter.format {
        Format::Table | Format::Wide => getter.tables(&groups).await,
        _ => getter.objects(&groups).await,
    }
}

/// What to fetch, by type.
fn groups(args: &GetArgs, api: &Api) -> Result<Vec<Vec<Fetch>>, Failure> {
    let mut groups: Vec<Vec<Fetch>> = Vec::new();
    if !args.files.filename.is_empty() {
        for item in manifest::load(&args.files)? {
            let namespace =
                item.object["metadata"]["namespace"].as_str().unwrap_or(&api.namespace).to_owned();
            let fetch = Fetch {
                resource: item.resource,
                namespace: Some(namespace),
                name: Some(item.name().to_owned()),
            };
            match groups.iter_mut().find(|group| group[0].resource == fetch.resource) {
                Some(group) => group.push(fetch),
                None => groups.push(vec![fetch]),
            }
        }
        return Ok(groups);
    }
    for Target { resource, names } in target::parse(&args.words)? {
        if args.all_namespaces && !names.is_empty() {
            return Err(Failure::Usage(
                "a resource cannot be retrieved by name across all namespaces".to_owned(),
            ));
        }
        if !names.is_empty() && (args.selector.is_some() || args.field_selector.is_some()) {
            return Err(Failure::Usage("name cannot be provided when a selector is specified".to_owned()));
        }
        let namespace = (!args.all_namespaces).then(|| api.namespace.clone());
        let fetch = |name| Fetch { resource, namespace: namespace.clone(), name };
        groups.push(match names.is_empty() {
            true => vec![fetch(None)],
            false => names.into_iter().map(|name| fetch(Some(name))).collect(),
        });
    }
    Ok(groups)
}

struct Getter {
    api: Api,
    format: Format,
    args: GetArgs,
}

impl Getter {
    fn call(&self, fetch: &Fetch, accept: &'static str) -> Call {
        let call = Call::get(fetch.path(), accept);
        if fetch.name.is_some() {
            return call;
        }
        call.maybe("labelSelector", self.args.selector.as_deref())
            .maybe("fieldSelector", self.args.field_selector.as_deref())
            .query("limit", PAGE)
    }

    /// Fetches page by page.
    async fn pages(&self, fetch: &Fetch, accept: &'static str) -> Result<Vec<Value>, Failure> {
        let mut pages = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = self.api.json(self.call(fetch, accept).maybe("continue", next.as_deref())).await?;
            next = page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()).map(str::to_owned);
            pages.push(page);
            if next.is_none() || fetch.name.is_some() {
                return Ok(pages);
            }
        }
    }

    /// Says what is missing, and whether that is a failure.
    fn missing(&self, failure: Failure) -> Result<bool, Failure> {
        if !failure.is_not_found() {
            return Err(failure);
        }
        if self.args.ignore_not_found {
            return Ok(false);
        }
        eprintln!("{failure}");
        Ok(true)
    }

    fn layout<'a>(&self, resource: &'a Resource, prefixed: bool) -> Layout<'a> {
        Layout {
            wide: self.format == Format::Wide,
            namespace: self.args.all_namespaces && resource.namespaced,
            labels: self.args.show_labels,
            prefix: prefixed.then_some(resource),
        }
    }

    async fn tables(&self, groups: &[Vec<Fetch>]) -> Result<ExitCode, Failure> {
        let (mut failed, mut printed) = (false, false);
        for group in groups {
            let layout = self.layout(group[0].resource, groups.len() > 1);
            let mut table = Table::default();
            for fetch in group {
                match self.pages(fetch, ACCEPT_TABLE).await {
                    Ok(pages) => pages.iter().for_each(|page| layout.add(page, &mut table)),
                    Err(failure) => failed |= self.missing(failure)?,
                }
            }
            if !table.rows.is_empty() {
                let gap = if printed && !self.args.no_headers { "\n" } else { "" };
                print(&format!("{gap}{}", table.text(!self.args.no_headers, &[]).0))?;
                printed = true;
            }
        }
        let named = groups.iter().flatten().any(|fetch| fetch.name.is_some());
        if !(printed || failed || named || self.args.ignore_not_found) {
            eprintln!("{}", self.nothing_found(groups));
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn nothing_found(&self, groups: &[Vec<Fetch>]) -> String {
        let namespaced = groups.iter().flatten().any(|fetch| fetch.resource.namespaced);
        if namespaced && !self.args.all_namespaces {
            format!("No resources found in {} namespace.", self.api.namespace)
        } else {
            "No resources found".to_owned()
        }
    }

    async fn objects(&self, groups: &[Vec<Fetch>]) -> Result<ExitCode, Failure> {
        let mut failed = false;
        let mut objects = Vec::new();
        for fetch in groups.iter().flatten() {
            match self.pages(fetch, ACCEPT_JSON).await {
                Ok(pages) => {
                    pages.into_iter().for_each(|page| take_items(page, fetch.resource, &mut objects))
                }
                Err(failure) => failed |= self.missing(failure)?,
            }
        }
        let one = groups.len() == 1 && groups[0].len() == 1 && groups[0][0].name.is_some();
        let answer = match objects.len() {
            0 if one || self.format == Format::Name => Value::Null,
            1 if one => objects.remove(0),
            _ => output::list(objects),
        };
        if !answer.is_null() {
            print(&output::text(&self.format, &answer)?)?;
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn watch(&self, groups: &[Vec<Fetch>]) -> Result<ExitCode, Failure> {
        let [group] = groups else {
            return Err(Failure::Usage("you may only specify a single resource type".to_owned()));
        };
        let [fetch] = group.as_slice() else {
            return Err(Failure::Usage("only one object can be watched by name".to_owned()));
        };
        let mut collection = fetch.clone();
        let name = collection.name.take();
        let only = name.as_ref().map(|name| format!("metadata.name={name}"));
        let table = matches!(self.format, Format::Table | Format::Wide);
        let accept = if table { ACCEPT_TABLE } else { ACCEPT_JSON };
        let base = self.call(&collection, accept).maybe("fieldSelector", only.as_deref());
        let first = self.api.json(base.clone()).await?;
        let mut version = text(&first["metadata"]["resourceVersion"]);
        let mut printer = Printer {
            layout: self.layout(fetch.resource, false),
            getter: self,
            headers: !self.args.no_headers,
            widths: Vec::new(),
        };
        printer.list(first, fetch.resource, table)?;
        loop {
            let call = Call {
                query: base.query.iter().filter(|(name, _)| *name != "limit").cloned().collect(),
                ..base.clone()
            };
            let events = self
                .api
                .watch(call.query("resourceVersion", version.clone()).query("allowWatchBookmarks", "true"))
                .await?;
            let mut events = pin!(events);
            while let Some(event) = events.next().await {
                let mut event = event?;
                let object = event["object"].take();
                if event["type"] == "ERROR" {
                    let status = serde_json::from_value::<Status>(object);
                    let status = status.unwrap_or_else(Status::internal);
                    return Err(Failure::Server(Box::new(status)));
                }
                if let Some(newer) = version_of(&object) {
                    version = newer;
                }
                if event["type"] != "BOOKMARK" {
                    printer.event(&object, table)?;
                }
            }
            // The server ends watches now and then; a pause keeps one that ends them at once from being flooded.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The newest version that an event tells: of the object, or of the row of a table.
fn version_of(object: &Value) -> Option<String> {
    let rows = object["rows"].as_array();
    let row = rows.and_then(|rows| rows.last()).map(|row| &row["object"]["metadata"]["resourceVersion"]);
    let version = [row, Some(&object["metadata"]["resourceVersion"])].into_iter().flatten();
    version.filter_map(Value::as_str).find(|version| !version.is_empty()).map(str::to_owned)
}

/// The objects of an answer; items of a list do not name their kind, so it is added.
fn take_items(mut answer: Value, resource: &Resource, into: &mut Vec<Value>) {
    match answer.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if answer["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
            for mut item in items {
                item["apiVersion"] = resource.api_version().into();
                item["kind"] = resource.kind.into();
                into.push(item);
            }
        }
        _ => into.push(answer),
    }
}

struct Printer<'a> {
    layout: Layout<'a>,
    getter: &'a Getter,
    headers: bool,
    widths: Vec<usize>,
}

impl Printer<'_> {
    fn list(&mut self, answer: Value, resource: &Resource, table: bool) -> Result<(), Failure> {
        if table {
            return self.event(&answer, true);
        }
        let mut objects = Vec::new();
        take_items(answer, resource, &mut objects);
        objects.iter().try_for_each(|object| self.event(object, false))
    }

    fn event(&mut self, object: &Value, table: bool) -> Result<(), Failure> {
        if !table {
            let separator = if self.getter.format == Format::Yaml { "---\n" } else { "" };
            return print(&format!("{separator}{}", output::text(&self.getter.format, object)?));
        }
        let mut rows = Table::default();
        self.layout.add(object, &mut rows);
        if rows.rows.is_empty() {
            return Ok(());
        }
        let (text, widths) = rows.text(self.headers, &self.widths);
        self.headers = false;
        self.widths = widths;
        print(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::resource::SERVICES;
    use serde_json::json;

    #[test]
    fn versions_and_items_are_found() {
        let row = json!({"object": {"metadata": {"resourceVersion": "7"}}});
        assert_eq!(version_of(&json!({"kind": "Table", "rows": [row]})), Some("7".to_owned()));
        assert_eq!(version_of(&json!({"metadata": {"resourceVersion": "9"}})), Some("9".to_owned()));
        let mut items = Vec::new();
        take_items(json!({"kind": "ServiceList", "items": [{"metadata": {}}]}), &SERVICES, &mut items);
        assert_eq!(items, [json!({"apiVersion": "v1", "kind": "Service", "metadata": {}})]);
        take_items(json!({"kind": "ConfigMap", "data": {}}), &SERVICES, &mut items);
        assert_eq!(items.len(), 2);
    }
}
