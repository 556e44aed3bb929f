//! One document for each group and version, and what is in all of them.

use crate::{discovery, kinds, merge, operations};
use anyhow::Context;
use minisvc_apimachinery::{Resource, resource};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Every document: file name and text.
///
/// # Errors
/// A served kind has no type, or the table of list semantics names a field that no schema has.
pub fn all() -> anyhow::Result<Vec<(String, String)>> {
    let mut groups: BTreeMap<(&str, &str), Vec<&Resource>> = BTreeMap::new();
    for resource in resource::served() {
        groups.entry((resource.group, resource.version)).or_default().push(resource);
    }
    let mut unused = merge::fields();
    let mut documents = Vec::new();
    for (path, document) in discovery::documents(&groups.keys().map(|(group, _)| *group).collect())? {
        documents.push((format!("{}.json", path.replace('/', "__")), text(&document)?));
    }
    for ((group, version), resources) in groups {
        let name = if group.is_empty() {
            format!("api__{version}.json")
        } else {
            format!("apis__{group}__{version}.json")
        };
        let document = document(&resources, &mut unused).with_context(|| name.clone())?;
        documents.push((name, text(&document)?));
    }
    anyhow::ensure!(unused.is_empty(), "no schema has these fields of the table: {unused:?}");
    Ok(documents)
}

fn document(resources: &[&Resource], unused: &mut merge::Fields) -> anyhow::Result<Value> {
    let mut generator = kinds::generator();
    kinds::common(&mut generator);
    discovery::add_schema(&mut generator);
    let mut named = Vec::new();
    for resource in resources {
        named.push((*resource, kinds::add(&mut generator, resource)?));
    }
    let scaled = resources.iter().any(|resource| resource.subresources.contains(&"scale"));
    let scale = if scaled { Some(kinds::add(&mut generator, &resource::SCALE)?) } else { None };
    let mut schemas = generator.take_definitions(true);
    kinds::normalize(&mut schemas);
    let mut paths = Map::new();
    for (resource, name) in &named {
        finish_kind(&mut schemas, resource, name)?;
        operations::add(&mut paths, resource, name);
        if **resource == resource::SERVICE_ACCOUNTS {
            finish_kind(&mut schemas, &resource::TOKEN_REQUESTS, operations::TOKEN)?;
        }
    }
    if let Some(name) = scale {
        finish_kind(&mut schemas, &resource::SCALE, &name)?;
    }
    let first = named.first().context("a document without a kind")?.0;
    name_common(&mut schemas, first);
    let (path, item) = discovery::resources(&mut schemas, first.group, first.version)?;
    paths.insert(path, item);
    merge::apply(&mut schemas, unused)?;
    let mut document = json!({
        "openapi": "3.0.0",
        "info": {"title": "minisvc", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    });
    document.sort_all_objects();
    Ok(document)
}

/// Names the kinds of bodies that are no resources, in a document of that resource's group and version.
fn name_common(schemas: &mut Map<String, Value>, of: &Resource) {
    let core = ("", "v1");
    let mut groups = vec![core];
    if (of.group, of.version) != core {
        groups.push((of.group, of.version));
    }
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1";
    for (name, kind, of) in [
        (format!("{meta}.Status"), "Status", vec![core]),
        // As in Kubernetes, of every group that is deleted from.
        (format!("{meta}.DeleteOptions"), "DeleteOptions", groups),
        ("io.k8s.api.core.v1.Binding".to_owned(), "Binding", vec![core]),
        ("io.k8s.api.policy.v1.Eviction".to_owned(), "Eviction", vec![("policy", "v1")]),
    ] {
        if let Some(schema) = schemas.get_mut(&name) {
            let kinds =
                of.iter().map(|(group, version)| json!({"group": group, "kind": kind, "version": version}));
            schema[operations::GVK] = kinds.collect();
        }
    }
}

/// Names the kind, adds its list, and drops what only k8s-openapi requires.
fn finish_kind(schemas: &mut Map<String, Value>, resource: &Resource, name: &str) -> anyhow::Result<()> {
    let gvk = |kind: &str| json!([{"group": resource.group, "kind": kind, "version": resource.version}]);
    let schema =
        schemas.get_mut(name).and_then(Value::as_object_mut).with_context(|| format!("no schema {name}"))?;
    schema.insert(operations::GVK.to_owned(), gvk(resource.kind));
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "metadata");
        if required.is_empty() {
            schema.remove("required");
        }
    }
    if !resource.verbs.contains(&"list") {
        return Ok(());
    }
    let mut list = kinds::list_of(name, resource.kind);
    let list_kind = format!("{}List", resource.kind);
    list[operations::GVK] = gvk(&list_kind);
    schemas.insert(format!("{name}List"), list);
    Ok(())
}

/// One line a schema and a path: small, and a change shows as the lines it touches.
fn text(document: &Value) -> anyhow::Result<String> {
    let lines = |value: &Value| -> anyhow::Result<String> {
        let entries = value.as_object().context("an object")?;
        let lines: Result<Vec<String>, serde_json::Error> = entries
            .iter()
            .map(|(key, value)| {
                Ok(format!("{}:{}", serde_json::to_string(key)?, serde_json::to_string(value)?))
            })
            .collect();
        Ok(lines?.join(",\n"))
    };
    Ok(format!(
        "{{\"openapi\":{},\n\"info\":{},\n\"paths\":{{\n{}\n}},\n\"components\":{{\"schemas\":{{\n{}\n}}}}}}\n",
        document["openapi"],
        document["info"],
        lines(&document["paths"])?,
        lines(&document["components"]["schemas"])?,
    ))
}
