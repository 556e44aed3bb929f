//! The paths of a kind, with the parameters and extensions that kubectl looks for.

use crate::kinds::REF_PREFIX;
use minisvc_apimachinery::{
    Resource,
    resource::{SCALE, TOKEN_REQUESTS},
};
use serde_json::{Map, Value, json};

/// Names the kind that an operation or a schema is about.
pub const GVK: &str = "x-kubernetes-group-version-kind";
const ACTION: &str = "x-kubernetes-action";
/// The schema of what is POSTed to `serviceaccounts/NAME/token`.
pub const TOKEN: &str = "io.k8s.api.authentication.v1.TokenRequest";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

type Parameter = (&'static str, &'static str, &'static str);

const READ: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "allowWatchBookmarks requests watch events with type \"BOOKMARK\"."),
    ("continue", "string", "The continue option should be set when retrieving more results from the server."),
    (
        "fieldSelector",
        "string",
        "A selector to restrict the list of returned objects by their fields. Defaults to everything.",
    ),
    (
        "labelSelector",
        "string",
        "A selector to restrict the list of returned objects by their labels. Defaults to everything.",
    ),
    ("limit", "integer", "limit is a maximum number of responses to return for a list call."),
    (
        "resourceVersion",
        "string",
        "resourceVersion sets a constraint on what resource versions a request may be served from.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "resourceVersionMatch determines how resourceVersion is applied to list calls.",
    ),
    (
        "timeoutSeconds",
        "integer",
        "Timeout for the list/watch call. This limits the duration of the call, regardless of any activity or inactivity.",
    ),
    (
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications.",
    ),
];
const WRITE: &[Parameter] = &[
    (
        "dryRun",
        "string",
        "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed",
    ),
    (
        "fieldManager",
        "string",
        "fieldManager is a name associated with the actor or entity that is making these changes.",
    ),
    (
        "fieldValidation",
        "string",
        "fieldValidation instructs the server on how to handle objects in the request containing unknown or duplicate fields. Valid values are: - Ignore - Warn - Strict",
    ),
];
const DELETE: &[Parameter] = &[
    WRITE[0],
    (
        "gracePeriodSeconds",
        "integer",
        "The duration in seconds before the object should be deleted. The value zero indicates delete immediately.",
    ),
    ("propagationPolicy", "string", "Whether and how garbage collection will be performed."),
];
const LOG: &[Parameter] = &[
    (
        "container",
        "string",
        "The container for which to stream logs. Defaults to only container if there is one.",
    ),
    ("follow", "boolean", "Follow the log stream of the pod."),
    ("tailLines", "integer", "If set, the number of lines from the end of the logs to show."),
];
const EXEC: &[Parameter] = &[
    (
        "command",
        "string",
        "Command is the remote command to execute. argv array. Not executed within a shell.",
    ),
    ("container", "string", "Container in which to execute the command."),
    ("stderr", "boolean", "Redirect the standard error stream of the pod for this call."),
    ("stdin", "boolean", "Redirect the standard input stream of the pod for this call."),
    ("stdout", "boolean", "Redirect the standard output stream of the pod for this call."),
    ("tty", "boolean", "TTY if true indicates that a tty will be allocated for the exec call."),
];
const ATTACH: &[Parameter] = &[
    ("container", "string", "The container in which to execute the command."),
    ("stderr", "boolean", "Stderr if true indicates that stderr is to be redirected for the attach call."),
    ("stdout", "boolean", "Stdout if true indicates that stdout is to be redirected for the attach call."),
];
const PORT_FORWARD: &[Parameter] =
    &[("ports", "integer", "List of ports to forward Required when using WebSockets")];

fn query(parameters: &[Parameter]) -> Value {
    parameters
        .iter()
        .map(|(name, kind, description)| {
            json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
        })
        .collect()
}

fn in_path(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description,
        "schema": {"type": "string", "uniqueItems": true}})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{REF_PREFIX}{name}")})
}

#[derive(Clone)]
struct Writer<'a> {
    resource: &'a Resource,
    schema: &'a str,
    tag: String,
}

impl Writer<'_> {
    /// An operation; `body` is the schema sent, `answer` the one given back.
    fn operation(
        &self,
        action: &str,
        about: &str,
        parameters: &[Parameter],
        body: Option<&str>,
        answer: &str,
    ) -> Value {
        let code = if action == "post" { "201" } else { "200" };
        let mut operation = json!({
            "tags": [self.tag],
            "description": about,
            "parameters": query(parameters),
            "responses": {code: {"description": "OK", "content": {"application/json": {"schema": reference(answer)}}}},
            ACTION: action,
            GVK: {"group": self.resource.group, "kind": self.resource.kind, "version": self.resource.version},
        });
        if let Some(body) = body {
            let types: &[&str] = match action {
                "patch" => PATCH_TYPES,
                _ => &["*/*"],
            };
            let content: Map<String, Value> =
                types.iter().map(|kind| ((*kind).to_owned(), json!({"schema": reference(body)}))).collect();
            operation["requestBody"] = json!({"content": content, "required": action != "delete"});
        }
        operation
    }

    fn collection(&self) -> Value {
        let kind = self.resource.kind;
        let list = format!("{}List", self.schema);
        let status = format!("{META}Status");
        json!({
            "get": self.operation("list", &format!("list objects of kind {kind}"), READ, None, &list),
            "post": self.operation("post", &format!("create a {kind}"), WRITE, Some(self.schema), self.schema),
            "delete": self.operation("deletecollection", &format!("delete a collection of {kind}"),
                &[READ, DELETE].concat(), Some(&format!("{META}DeleteOptions")), &status),
        })
    }

    fn readable(&self, what: &str) -> Value {
        let patch = format!("{META}Patch");
        let force = [WRITE, &[("force", "boolean", "Force is going to \"force\" Apply requests.")]].concat();
        json!({
            "get": self.operation("get", &format!("read {what}"), &[], None, self.schema),
            "put": self.operation("put", &format!("replace {what}"), WRITE, Some(self.schema), self.schema),
            "patch": self.operation("patch", &format!("partially update {what}"), &force, Some(&patch), self.schema),
        })
    }

    fn object(&self) -> Value {
        let kind = self.resource.kind;
        let mut item = self.readable(&format!("the specified {kind}"));
        let (options, status) = (format!("{META}DeleteOptions"), format!("{META}Status"));
        item["delete"] =
            self.operation("delete", &format!("delete a {kind}"), DELETE, Some(&options), &status);
        item
    }

    /// A subresource that is only created, of a kind of its own.
    fn created(&self, about: &str, body: &str, answer: &str, of: (&str, &str, &str)) -> Value {
        let mut post = self.operation("post", &format!("create {about}"), WRITE, Some(body), answer);
        let (group, version, kind) = of;
        post[GVK] = json!({"group": group, "version": version, "kind": kind});
        json!({"post": post})
    }

    fn subresource(&self, name: &str) -> Value {
        let kind = self.resource.kind;
        let about = format!("{name} of the specified {kind}");
        match name {
            "binding" => {
                let binding = "io.k8s.api.core.v1.Binding";
                self.created(&about, binding, &format!("{META}Status"), ("", "v1", "Binding"))
            }
            "eviction" => {
                let eviction = "io.k8s.api.policy.v1.Eviction";
                self.created(&about, eviction, &format!("{META}Status"), ("policy", "v1", "Eviction"))
            }
            "token" => {
                let Resource { group, version, kind, .. } = TOKEN_REQUESTS;
                self.created(&about, TOKEN, TOKEN, (group, version, kind))
            }
            "finalize" => {
                json!({"put": self.operation("put", &format!("replace {about}"), WRITE, Some(self.schema), self.schema)})
            }
            "scale" => Writer { schema: "io.k8s.api.autoscaling.v1.Scale", resource: &SCALE, ..self.clone() }
                .readable(&about),
            _ => self.readable(&about),
        }
    }

    /// An operation on the options of a connection, which are a kind of their own.
    fn connect(&self, about: &str, parameters: &[Parameter], options: &str) -> Value {
        let mut operation = self.stream("connect", about, parameters);
        // By this clients find an object's PATCH among all operations, so it must not name the object's kind.
        operation[GVK] =
            json!({"group": self.resource.group, "version": self.resource.version, "kind": options});
        operation
    }

    fn stream(&self, action: &str, about: &str, parameters: &[Parameter]) -> Value {
        let mut operation = self.operation(action, about, parameters, None, self.schema);
        operation["responses"] =
            json!({"200": {"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}}});
        operation
    }
}

/// A word with its first letter in upper case.
fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// Kubernetes' id of an operation, of which clients make functions: `replaceCoreV1NamespacedServiceStatus`.
fn id(resource: &Resource, path: &str, method: &str, operation: &Value) -> String {
    let group = resource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    let group = format!("{}{}", capital(group), capital(resource.version));
    let namespaced = if path.contains("{namespace}") { "Namespaced" } else { "" };
    let rest = path.split_once("{name}").map(|(_, rest)| rest).unwrap_or_default();
    let part: String = rest
        .split('/')
        .map(|part| if part == "{path}" { "WithPath".into() } else { capital(part) })
        .collect();
    let name = format!("{namespaced}{}{part}", resource.kind);
    match operation[ACTION].as_str().unwrap_or_default() {
        "connect" => format!("connect{group}{}{name}", capital(method)),
        "deletecollection" => format!("delete{group}Collection{name}"),
        "list" if resource.namespaced && namespaced.is_empty() => {
            format!("list{group}{name}ForAllNamespaces")
        }
        "get" => format!("read{group}{name}"),
        "post" => format!("create{group}{name}"),
        "put" => format!("replace{group}{name}"),
        action => format!("{action}{group}{name}"),
    }
}

/// Adds the paths of one kind.
pub fn add(paths: &mut Map<String, Value>, resource: &Resource, schema: &str) {
    let writer = Writer { resource, schema, tag: tag(resource) };
    let namespace = resource.namespaced.then_some("{namespace}");
    let mut put = |path: String, mut item: Value| {
        let mut parameters = Vec::new();
        if path.contains("{name}") {
            parameters.push(in_path("name", &format!("name of the {}", resource.kind)));
        }
        if path.contains("{path}") {
            parameters.push(in_path("path", "path to the resource"));
        }
        if path.contains("{namespace}") {
            parameters
                .push(in_path("namespace", "object name and auth scope, such as for teams and projects"));
        }
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            operation["operationId"] = json!(id(resource, &path, method, operation));
        }
        if !parameters.is_empty() {
            item["parameters"] = Value::Array(parameters);
        }
        paths.insert(path, item);
    };
    if !resource.verbs.contains(&"list") {
        let create = writer.collection()["post"].take();
        put(resource.path(namespace, None), json!({"post": create}));
        return;
    }
    put(resource.path(namespace, None), writer.collection());
    put(resource.path(namespace, Some("{name}")), writer.object());
    for name in resource.subresources {
        put(format!("{}/{name}", resource.path(namespace, Some("{name}"))), writer.subresource(name));
    }
    if resource.namespaced {
        let list = writer.collection()["get"].take();
        put(resource.path(None, None), json!({"get": list}));
    }
    if resource.group.is_empty() && ["Node", "Pod", "Service"].contains(&resource.kind) {
        let all: &[&str] = match resource.kind {
            "Node" => &["get"],
            _ => &["delete", "get", "head", "options", "patch", "post", "put"],
        };
        for path in ["proxy", "proxy/{path}"] {
            let operation = |method: &&str| {
                let about =
                    format!("connect {} requests to proxy of {}", method.to_uppercase(), resource.kind);
                ((*method).to_owned(), writer.connect(&about, &[], &format!("{}ProxyOptions", resource.kind)))
            };
            let item = Value::Object(all.iter().map(operation).collect());
            put(format!("{}/{path}", resource.path(namespace, Some("{name}"))), item);
        }
    }
    if (resource.group, resource.kind) == ("", "Pod") {
        let pod = resource.path(namespace, Some("{name}"));
        put(format!("{pod}/log"), json!({"get": writer.stream("get", "read log of the specified Pod", LOG)}));
        let exec = writer.connect("connect GET requests to exec of Pod", EXEC, "PodExecOptions");
        put(format!("{pod}/exec"), json!({"get": exec}));
        let attach = writer.connect("connect GET requests to attach of Pod", ATTACH, "PodAttachOptions");
        put(format!("{pod}/attach"), json!({"get": attach}));
        let connect = |method: &str| {
            let about = format!("connect {method} requests to portforward of Pod");
            writer.connect(&about, PORT_FORWARD, "PodPortForwardOptions")
        };
        put(format!("{pod}/portforward"), json!({"get": connect("GET"), "post": connect("POST")}));
    }
}

fn tag(resource: &Resource) -> String {
    let group = resource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    format!("{group}_{}", resource.version)
}
