//! Requests of the operations of an OpenAPI document.

use super::values::{self, Maker, NAMES};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use std::sync::Arc;

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];
const NAMESPACES: [&str; 10] = [
    "default",
    "default",
    "default",
    "default",
    "default",
    "default",
    "default",
    "default",
    "kube-system",
    "nowhere",
];
const ACCEPTS: [&str; 8] = [
    "application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "*/*;q=0.1",
    "text/html",
    ";;,=",
];
const MEDIA: [&str; 8] = [
    "application/json",
    "application/json; charset=utf-8",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/x-www-form-urlencoded",
    "text/plain",
    "",
    "/",
];

/// An operation, as a document describes it.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: String,
    document: Arc<Value>,
    /// Names and types of the parameters of the query.
    query: Vec<(String, String)>,
    /// Media types that it takes, each with what a body is.
    bodies: Vec<(String, Value)>,
    kind: Value,
    /// What an answer is that tells no kind.
    answer: Value,
    /// Whether it lists the objects of every namespace.
    pub(super) lists_all: bool,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Operation {
    pub(super) fn api_version(&self) -> String {
        let text = |field: &str| self.kind[field].as_str().unwrap_or_default();
        let (group, version) = (text("group"), text("version"));
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }

    /// What of an answer does not fit the schema of its own kind, which must be in the document.
    pub(super) fn misfit(&self, answer: &Value) -> Option<String> {
        let (group, version) = match answer["apiVersion"].as_str().unwrap_or_default().split_once('/') {
            Some(both) => both,
            None => ("", answer["apiVersion"].as_str().unwrap_or_default()),
        };
        let kind = json!({"group": group, "version": version, "kind": answer["kind"]});
        let kinds = |schema: &Value| {
            schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|k| k.contains(&kind))
        };
        let schema = self.schemas().as_object().unwrap().values().find(|schema| kinds(schema));
        match schema {
            Some(schema) => values::misfit(self.schemas(), schema, answer),
            None if answer.get("apiVersion").is_none() && self.answer.is_object() => {
                values::misfit(self.schemas(), &self.answer, answer)
            }
            None => Some(format!(": no schema of {kind}")),
        }
    }

    /// Whether an object is of the kind that this is of.
    pub(super) fn is_of(&self, object: &Value) -> bool {
        object["kind"] == self.kind["kind"] && object["apiVersion"] == self.api_version()
    }

    pub(super) fn schemas(&self) -> &Value {
        &self.document["components"]["schemas"]
    }
}

/// Every operation of a document.
pub(super) fn operations(document: &Arc<Value>) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in
            item.as_object().unwrap().iter().filter(|(key, _)| METHODS.contains(&key.as_str()))
        {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let query = parameters.filter(|parameter| parameter["in"] == "query").map(|parameter| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                (text(&parameter["name"]), text(&parameter["schema"]["type"]))
            });
            let bodies = operation["requestBody"]["content"].as_object().into_iter().flatten();
            found.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                document: Arc::clone(document),
                query: query.collect(),
                bodies: bodies.map(|(media, body)| (media.clone(), body["schema"].clone())).collect(),
                kind: operation["x-kubernetes-group-version-kind"].clone(),
                answer: operation["responses"]["200"]["content"]["application/json"]["schema"].clone(),
                lists_all: operation["x-kubernetes-action"] == "list" && !path.contains('{'),
            });
        }
    }
    found
}

/// A request to be sent.
pub(super) struct Made {
    pub(super) method: Method,
    /// Path and query, encoded.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Path of the operation it is of.
    pub(super) operation: String,
    /// Whether the answer may have no end.
    pub(super) lasts: bool,
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}\n{:?}\n", self.method, self.path, self.headers)?;
        let shown = &self.body[..self.body.len().min(8000)];
        write!(f, "{}", String::from_utf8_lossy(shown).escape_debug())
    }
}

/// Percent-encodes whatever means something in a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let byte = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}

impl Maker {
    /// A path of this operation.
    pub(super) fn path(&mut self, operation: &Operation) -> String {
        self.begin();
        let parts = operation.path.split('/').map(|part| match part {
            "{namespace}" if !self.one_in(20) => (*self.pick(&NAMESPACES)).to_owned(),
            "{name}" if !self.one_in(20) => (*self.pick(&NAMES)).to_owned(),
            part if part.starts_with('{') => encoded(&self.text("")),
            part => part.to_owned(),
        });
        parts.collect::<Vec<_>>().join("/")
    }

    /// A request at this path, now and then by another method. Its object is made of one that is valid, if there is one.
    pub(super) fn request(&mut self, operation: &Operation, path: String, valid: Option<Value>) -> Made {
        let mut made = Made {
            method: operation.method.clone(),
            path,
            headers: HeaderMap::new(),
            body: Vec::new(),
            operation: operation.path.clone(),
            lasts: false,
        };
        if self.one_in(40) {
            made.method = self.pick(&METHODS).to_uppercase().parse().unwrap();
        }
        if !operation.bodies.is_empty() {
            self.body(operation, valid, &mut made);
        } else if self.one_in(20) {
            made.body = b"{}".to_vec();
        }
        self.query(operation, &mut made);
        if self.one_in(4) {
            made.headers
                .insert(header::ACCEPT, HeaderValue::from_static(self.pick::<&'static str>(&ACCEPTS)));
        }
        made
    }

    fn query(&mut self, operation: &Operation, made: &mut Made) {
        let mut pairs = Vec::new();
        for (name, kind) in &operation.query {
            let needed = name == "fieldManager" && made.method == Method::PATCH;
            if !self.one_in(if needed { 1 } else { 6 }) {
                continue;
            }
            let value = match kind.as_str() {
                _ if self.one_in(10) => self.text(name),
                "boolean" => self.boolean().to_string(),
                "integer" => self.integer().to_string(),
                _ => self.text(name),
            };
            // Whatever the value: the server may take it for a yes.
            made.lasts |= name == "watch" || name == "follow";
            pairs.push(format!("{}={}", encoded(name), encoded(&value)));
        }
        if self.one_in(40) {
            pairs.push(
                self.pick(&["x", "=", "&&", "%zz=1", "watch=", "limit=1&limit=2", "dryRun"]).to_string(),
            );
            made.lasts |= pairs.last().is_some_and(|pair| pair.starts_with("watch"));
        }
        if !pairs.is_empty() {
            made.path = format!("{}?{}", made.path, pairs.join("&"));
        }
    }

    fn body(&mut self, operation: &Operation, valid: Option<Value>, made: &mut Made) {
        let (media, schema) = self.pick(&operation.bodies);
        let media = if media == "*/*" { "application/json" } else { media.as_str() };
        let mut object = match valid {
            Some(mut valid) if !self.one_in(3) => {
                for _ in 0..self.below(4) {
                    self.change(&mut valid);
                }
                valid
            }
            _ if media == "application/json-patch+json" => self.json_patch(),
            _ => self.value(operation.schemas(), schema, ""),
        };
        if object.is_object() && !media.contains("patch") && !self.one_in(30) {
            if operation.method != Method::DELETE {
                object["kind"] = operation.kind["kind"].clone();
                object["apiVersion"] = json!(operation.api_version());
            }
            if object.get("metadata").is_some_and(Value::is_object) {
                let name = operation.path.split('/').position(|part| part == "{name}");
                let name = name.and_then(|at| made.path.split('/').nth(at)).map(str::to_owned);
                object["metadata"]["name"] = json!(name.unwrap_or_else(|| format!("new-{}", self.below(20))));
            }
        }
        made.body = object.to_string().into_bytes();
        if self.one_in(25) {
            made.body = self.broken(std::mem::take(&mut made.body));
        }
        let media = if self.one_in(25) { *self.pick(&MEDIA) } else { media };
        made.headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
    }

    /// Some operations on some places.
    fn json_patch(&mut self) -> Value {
        const PLACES: [&str; 12] = [
            "/metadata/labels",
            "/metadata/labels/a",
            "/metadata/name",
            "/spec",
            "/spec/ports/0",
            "/spec/ports/-",
            "/spec/type",
            "/status",
            "",
            "/",
            "/a~1b/~0",
            "/metadata/annotations/x",
        ];
        let count = self.below(4);
        let operations = (0..count).map(|_| {
            let op = *self.pick(&["add", "remove", "replace", "move", "copy", "test", "none"]);
            let mut operation = json!({"op": op, "path": self.pick(&PLACES)});
            if !self.one_in(5) {
                operation["value"] = self.any(2);
                operation["from"] = json!(self.pick(&PLACES));
            }
            operation
        });
        Value::Array(operations.collect())
    }

    /// A body that is none, or is no more.
    fn broken(&mut self, mut body: Vec<u8>) -> Vec<u8> {
        match self.below(8) {
            0 => body.truncate(self.below(body.len().max(1))),
            1 => body.clear(),
            2 => body = b"k8s\0\x0a\x05\x0a\x02v1\x12\xff\xff\xff\x0f".to_vec(),
            3 => body = [b"[".repeat(500), b"]".repeat(500)].concat(),
            4 => body.extend_from_slice(b" {}"),
            5 => body = b"a: &a [*a]\n---\nb: |\n  c\n".to_vec(),
            6 => body = br#"{"apiVersion":"v1","kind":"List","items":[{}],"items":null,"x":1e999}"#.to_vec(),
            _ => {
                let at = self.below(body.len().max(1));
                if let Some(byte) = body.get_mut(at) {
                    *byte = 0xff;
                }
            }
        }
        body
    }
}
