//! What is served, as clients discover it: versions, groups, resources; and the OpenAPI documents.

use crate::{auth::KEY_SET_PATHS, pki::AccountKey, respond};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use minisvc_apimachinery::{
    Resource, Status,
    resource::{SCALE, TOKEN_REQUESTS, served},
    schema,
};
use serde_json::{Value, json};

/// What `/version` says; the wire API is Kubernetes 1.33's.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": format!("v1.33.0+minisvc-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// A subresource as discovery tells it.
struct Subresource {
    name: &'static str,
    verbs: Vec<&'static str>,
    /// The kind it takes, of the group and version of its parent unless `of` says another.
    kind: &'static str,
    of: Option<(&'static str, &'static str)>,
}

impl Subresource {
    fn new(name: &'static str, verbs: &[&'static str], kind: &'static str) -> Self {
        Self { name, verbs: verbs.to_vec(), kind, of: None }
    }
}

/// Every subresource of a kind.
fn subresources(resource: &Resource) -> Vec<Subresource> {
    let mut found: Vec<_> = resource
        .subresources
        .iter()
        .map(|name| match *name {
            "binding" => Subresource::new("binding", &["create"], "Binding"),
            // By its group and version kubectl drain knows that Pods can be evicted.
            "eviction" => Subresource {
                of: Some(("policy", "v1")),
                ..Subresource::new("eviction", &["create"], "Eviction")
            },
            "scale" => Subresource {
                of: Some((SCALE.group, SCALE.version)),
                ..Subresource::new("scale", &["get", "patch", "update"], SCALE.kind)
            },
            "token" => Subresource {
                of: Some((TOKEN_REQUESTS.group, TOKEN_REQUESTS.version)),
                ..Subresource::new("token", TOKEN_REQUESTS.verbs, TOKEN_REQUESTS.kind)
            },
            "finalize" => Subresource::new("finalize", &["update"], resource.kind),
            name => Subresource::new(name, &["get", "patch", "update"], resource.kind),
        })
        .collect();
    if ["Node", "Pod", "Service"].contains(&resource.kind) {
        const ALL: &[&str] = &["create", "delete", "get", "patch", "update"];
        let (verbs, kind) = match resource.kind {
            "Node" => (&["get"][..], "NodeProxyOptions"),
            "Pod" => (ALL, "PodProxyOptions"),
            _ => (ALL, "ServiceProxyOptions"),
        };
        found.push(Subresource::new("proxy", verbs, kind));
    }
    if resource.kind == "Pod" {
        found.push(Subresource::new("attach", &["create", "get"], "PodAttachOptions"));
        found.push(Subresource::new("exec", &["create", "get"], "PodExecOptions"));
        found.push(Subresource::new("log", &["get"], "Pod"));
        found.push(Subresource::new("portforward", &["create", "get"], "PodPortForwardOptions"));
    }
    found
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> = served().map(|r| r.group).filter(|group| !group.is_empty()).collect();
    groups.dedup();
    groups
}

fn versions(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<_> = served().filter(|r| r.group == group).map(|r| r.version).collect();
    versions.dedup();
    versions
}

fn group_value(group: &str) -> Value {
    let versions: Vec<Value> = versions(group)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first().cloned();
    json!({"name": group, "versions": versions, "preferredVersion": preferred})
}

/// `/api`, as this address serves it.
pub(crate) fn core(headers: &HeaderMap) -> Response {
    if let Some(version) = wants_aggregated(headers) {
        return aggregated(version, &[""]);
    }
    respond::json(
        StatusCode::OK,
        &json!({"kind": "APIVersions", "versions": versions(""), "serverAddressByClientCIDRs": []}),
    )
}

/// `/apis`.
pub(crate) fn group_list(headers: &HeaderMap) -> Response {
    if let Some(version) = wants_aggregated(headers) {
        return aggregated(version, &groups());
    }
    let groups: Vec<Value> = groups().into_iter().map(group_value).collect();
    respond::json(StatusCode::OK, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/<group>`.
pub(crate) fn group(name: &str) -> Response {
    let mut value = group_value(name);
    if let Some(object) = value.as_object_mut() {
        object.insert("kind".to_owned(), "APIGroup".into());
        object.insert("apiVersion".to_owned(), "v1".into());
    }
    respond::json(StatusCode::OK, &value)
}

/// `/api/v1`, `/apis/<group>/<version>`.
pub(crate) fn resources(group: &str, version: &str) -> Response {
    let mut list = Vec::new();
    let mut name = "v1".to_owned();
    for resource in served().filter(|r| r.group == group && r.version == version) {
        name = resource.api_version();
        let mut value = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
        });
        for (field, words) in [("shortNames", resource.short_names), ("categories", resource.categories)] {
            if !words.is_empty() {
                value[field] = json!(words);
            }
        }
        list.push(value);
        for subresource in subresources(resource) {
            let mut value = json!({
                "name": format!("{}/{}", resource.plural, subresource.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if let Some((group, version)) = subresource.of {
                value["group"] = group.into();
                value["version"] = version.into();
            }
            list.push(value);
        }
    }
    let value =
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list});
    respond::json(StatusCode::OK, &value)
}

/// Which version of aggregated discovery the client takes, if any.
fn wants_aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    accept.split(',').find_map(|range| {
        let has = |wanted: &str| range.split(';').any(|part| part.trim() == wanted);
        let aggregated = has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io");
        ["v2", "v2beta1"].into_iter().find(|version| aggregated && has(&format!("v={version}")))
    })
}

fn aggregated(version: &'static str, groups: &[&str]) -> Response {
    let kind = |(group, version): (&str, &str), kind: &str| json!({"group": group, "version": version, "kind": kind});
    let resource = |r: &Resource| {
        let own = (r.group, r.version);
        let subresources: Vec<Value> = subresources(r)
            .into_iter()
            .map(|sub| {
                let kind = kind(sub.of.unwrap_or(own), sub.kind);
                json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs})
            })
            .collect();
        json!({
            "resource": r.plural,
            "responseKind": kind(own, r.kind),
            "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": r.singular,
            "verbs": r.verbs,
            "shortNames": r.short_names,
            "categories": r.categories,
            "subresources": subresources,
        })
    };
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = versions(group)
                .into_iter()
                .map(|version| {
                    let rows = served().filter(|r| r.group == *group && r.version == version);
                    let resources: Vec<Value> = rows.map(resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let mut response = respond::json(StatusCode::OK, &value);
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(media) = HeaderValue::try_from(media) {
        response.headers_mut().insert(header::CONTENT_TYPE, media);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// How long clients may keep what they learnt of the issuer of tokens.
const ISSUER_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=3600");

fn cached(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, ISSUER_CACHE);
    response
}

/// `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0): where the issuer's keys are.
pub(crate) fn issuer(issuer: &str) -> Response {
    cached(respond::json(
        StatusCode::OK,
        &json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}{}", KEY_SET_PATHS[0]),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [AccountKey::ALGORITHM],
        }),
    ))
}

/// `/openid/v1/jwks`.
pub(crate) fn key_set(keys: &Value) -> Response {
    cached(respond::bytes(StatusCode::OK, "application/jwk-set+json", keys.to_string()))
}

/// `/openapi/v3`.
pub(crate) fn openapi_index() -> Response {
    let paths: serde_json::Map<String, Value> = schema::documents()
        .iter()
        .map(|document| {
            let url = format!("/openapi/v3/{}?hash={}", document.path, document.hash);
            (document.path.to_owned(), json!({"serverRelativeURL": url}))
        })
        .collect();
    respond::json(StatusCode::OK, &json!({"paths": paths}))
}

/// `/openapi/v3/<path>`.
pub(crate) fn openapi(path: &str, headers: &HeaderMap) -> Result<Response, Status> {
    let document =
        schema::documents().iter().find(|document| document.path == path).ok_or_else(Status::no_such_path)?;
    let etag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let mut response = if known {
        respond::empty(StatusCode::NOT_MODIFIED)
    } else {
        respond::bytes(StatusCode::OK, "application/json", document.bytes)
    };
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}
