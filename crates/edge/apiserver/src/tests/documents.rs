//! The OpenAPI documents say what is served, all of it and nothing else: held against discovery and the server itself.

use super::harness::{Client, Server};
use http::Method;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const METHODS: [Method; 6] =
    [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS];

/// Methods of each path.
type Paths = BTreeMap<String, BTreeSet<String>>;

fn add(paths: &mut Paths, path: &str, methods: &[&str]) {
    if !methods.is_empty() {
        paths.entry(path.to_owned()).or_default().extend(methods.iter().map(|method| (*method).to_owned()));
    }
}

/// Methods of those of these verbs that an entry of discovery has.
fn methods(entry: &Value, verbs: &[(&str, &'static str)]) -> Vec<&'static str> {
    let has = |verb: &str| entry["verbs"].as_array().unwrap().iter().any(|v| v == verb);
    verbs.iter().filter(|(verb, _)| has(verb)).map(|(_, method)| *method).collect()
}

/// What a list of resources means by paths.
fn discovered(base: &str, list: &Value) -> Paths {
    const ONE: [(&str, &str); 4] =
        [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];
    let mut paths = Paths::new();
    add(&mut paths, &format!("{base}/"), &["get"]);
    for entry in list["resources"].as_array().unwrap() {
        let namespace = if entry["namespaced"] == true { "/namespaces/{namespace}" } else { "" };
        let name = entry["name"].as_str().unwrap();
        let Some((plural, part)) = name.split_once('/') else {
            let all = [("list", "get"), ("create", "post"), ("deletecollection", "delete")];
            add(&mut paths, &format!("{base}{namespace}/{name}"), &methods(entry, &all));
            add(&mut paths, &format!("{base}{namespace}/{name}/{{name}}"), &methods(entry, &ONE));
            add(&mut paths, &format!("{base}/{name}"), &methods(entry, &all[..1]));
            continue;
        };
        let mut of_part = methods(entry, &[&ONE[..], &[("create", "post")]].concat());
        match part {
            // By SPDY, which is spoken for port forwarding only; RBAC knows the verb all the same.
            "exec" | "attach" => of_part.retain(|method| *method != "post"),
            "proxy" if of_part.len() > 1 => of_part.extend(["head", "options"]),
            _ => {}
        }
        let path = format!("{base}{namespace}/{plural}/{{name}}/{part}");
        add(&mut paths, &path, &of_part);
        if part == "proxy" {
            add(&mut paths, &format!("{path}/{{path}}"), &of_part);
        }
    }
    paths
}

/// What a document says.
fn documented(document: &Value) -> Paths {
    let mut paths = Paths::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods: Vec<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
        let methods: Vec<&str> = methods.into_iter().filter(|key| *key != "parameters").collect();
        add(&mut paths, path, &methods);
    }
    paths
}

/// Group, version and kind.
type Kinds = BTreeSet<(String, String, String)>;

fn kind(of: &Value) -> (String, String, String) {
    let text = |field: &str| of[field].as_str().unwrap_or_default().to_owned();
    (text("group"), text("version"), text("kind"))
}

/// Kinds that have a schema.
fn described(document: &Value) -> Kinds {
    let schemas = document["components"]["schemas"].as_object().unwrap().values();
    let named = schemas.filter_map(|schema| schema["x-kubernetes-group-version-kind"].as_array());
    named.flatten().map(kind).collect()
}

/// Kinds that discovery tells of, with their lists, and what every document has.
fn discovered_kinds(group: &str, version: &str, list: &Value) -> Kinds {
    let own = |kind: &str| (group.to_owned(), version.to_owned(), kind.to_owned());
    let core = |kind: &str| (String::new(), "v1".to_owned(), kind.to_owned());
    let mut kinds: Kinds = ["Status", "DeleteOptions", "APIResourceList"].map(core).into();
    kinds.insert(own("DeleteOptions"));
    for entry in list["resources"].as_array().unwrap() {
        let name = entry["kind"].as_str().unwrap();
        // The parameters of a connection are no body.
        if name.ends_with("Options") {
            continue;
        }
        match entry["group"].as_str() {
            Some(_) => kinds.insert(kind(entry)),
            None => kinds.insert(own(name)),
        };
        if entry["verbs"].as_array().unwrap().iter().any(|verb| verb == "list") {
            kinds.insert(own(&format!("{name}List")));
        }
    }
    kinds
}

async fn documents(admin: &mut Client) -> BTreeMap<String, Value> {
    let index = admin.get("/openapi/v3").await.expect(200);
    let mut found = BTreeMap::new();
    for (path, document) in index["paths"].as_object().unwrap() {
        let url = document["serverRelativeURL"].as_str().unwrap();
        found.insert(path.clone(), admin.get(url).await.expect(200));
    }
    found
}

#[tokio::test]
async fn the_documents_are_what_is_discovered() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let mut documents = documents(&mut admin).await;
    let groups = admin.get("/apis").await.expect(200);
    let mut versions = vec![(String::new(), "v1".to_owned())];
    for group in groups["groups"].as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        let document = documents.remove(&format!("apis/{name}")).unwrap_or_default();
        assert_eq!(documented(&document).keys().collect::<Vec<_>>(), [&format!("/apis/{name}/")]);
        for version in group["versions"].as_array().unwrap() {
            versions.push((name.to_owned(), version["version"].as_str().unwrap().to_owned()));
        }
    }
    for (group, version) in versions {
        let path =
            if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        let list = admin.get(&format!("/{path}")).await.expect(200);
        let document = documents.remove(&path).unwrap_or_default();
        assert_eq!(documented(&document), discovered(&format!("/{path}"), &list));
        assert_eq!(described(&document), discovered_kinds(&group, &version, &list), "{path}");
        operations_are_told_apart(&document);
    }
    let rest: Vec<&str> = documents.keys().map(String::as_str).collect();
    assert_eq!(rest, [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"]);
    for (path, document) in documents {
        assert_eq!(documented(&document).keys().collect::<Vec<_>>(), [&format!("/{path}/")]);
        admin.get(&format!("/{path}/")).await.expect(200);
    }
    server.stop().await;
}

/// Clients make functions of the ids.
fn operations_are_told_apart(document: &Value) {
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let id = operation["operationId"].as_str().unwrap_or_default();
            let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            assert!(plain && ids.insert(id.to_owned()), "{method} {path}: {id:?}");
        }
    }
}

#[tokio::test]
async fn what_is_documented_is_served_and_nothing_else() {
    let server = Server::start_with(Default::default(), 1).await;
    let mut admin = server.admin().await;
    let mut paths = Paths::new();
    for document in documents(&mut admin).await.values() {
        paths.extend(documented(document));
    }
    // Of a node's own server there is one path only, and each other is forbidden rather than missing.
    paths.retain(|path, _| !path.contains("/nodes/{name}/proxy"));
    for (template, documented) in paths {
        let path =
            template.replace("{namespace}", "default").replace("{name}", "nothing").replace("{path}", "x");
        for method in METHODS {
            let answer = admin.send(method.clone(), &path, "application/json", "{}").await;
            let missing =
                answer.code == 405 || answer.message() == "the server could not find the requested resource";
            // An upgrade that only older clients ask for is refused in words of its own.
            let by_spdy =
                method == Method::POST && (template.ends_with("/exec") || template.ends_with("/attach"));
            let expected = documented.contains(&method.as_str().to_lowercase()) || by_spdy;
            assert!(missing != expected, "{method} {path}: {} {}", answer.code, answer.text);
        }
    }
    server.stop().await;
}
