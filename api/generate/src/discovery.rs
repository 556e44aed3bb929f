//! What is discovered rather than stored: groups, versions, resources, and who issues tokens.
//!
//! The resources of a group and version stand in its own document; each of the others has a document, as in Kubernetes.

use crate::{
    kinds::{self, REF_PREFIX},
    operations::GVK,
};
use anyhow::Context;
use k8s_openapi::{
    apimachinery::pkg::{apis::meta::v1 as meta, version::Info},
    schemars::{JsonSchema, SchemaGenerator},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const RESOURCES: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

/// Adds the schema of what [`resources`] answers.
pub fn add_schema(generator: &mut SchemaGenerator) {
    generator.subschema_for::<meta::APIResourceList>();
}

/// The path of a group and version, and what is there; the schema gets its kind.
///
/// # Errors
/// There is no such schema.
pub fn resources(
    schemas: &mut Map<String, Value>,
    group: &str,
    version: &str,
) -> anyhow::Result<(String, Value)> {
    schemas.get_mut(RESOURCES).context("no schema of APIResourceList")?[GVK] =
        json!([{"group": "", "kind": "APIResourceList", "version": "v1"}]);
    let path = match group {
        "" => format!("/api/{version}/"),
        group => format!("/apis/{group}/{version}/"),
    };
    let answer = json!({"$ref": format!("{REF_PREFIX}{RESOURCES}")});
    Ok((path.clone(), get(&path, "get available resources", &answer)))
}

fn get(path: &str, about: &str, answer: &Value) -> Value {
    let id: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    json!({"get": {
        "description": about,
        "operationId": format!("get{id}"),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": answer}}}},
    }})
}

/// A document of one path that answers a `T`.
fn document<T: JsonSchema>(path: &str, about: &str, kind: &str) -> anyhow::Result<Value> {
    let mut generator = kinds::generator();
    let schema = generator.subschema_for::<T>();
    let name = schema.as_value().get("$ref").and_then(Value::as_str).context("schema without a name")?;
    let name = name.trim_start_matches(REF_PREFIX).to_owned();
    let mut schemas = generator.take_definitions(true);
    kinds::normalize(&mut schemas);
    if !kind.is_empty() {
        schemas.get_mut(&name).context("no schema")?[GVK] =
            json!([{"group": "", "kind": kind, "version": "v1"}]);
    }
    Ok(whole(path, about, &json!({"$ref": format!("{REF_PREFIX}{name}")}), Value::Object(schemas)))
}

fn whole(path: &str, about: &str, answer: &Value, schemas: Value) -> Value {
    let mut document = json!({
        "openapi": "3.0.0",
        "info": {"title": "minisvc", "version": "v1.33.0"},
        "paths": {path: get(path, about, answer)},
        "components": {"schemas": schemas},
    });
    document.sort_all_objects();
    document
}

/// The further documents: path below `/openapi/v3` and content.
///
/// # Errors
/// A type has no schema.
pub fn documents(groups: &BTreeSet<&str>) -> anyhow::Result<Vec<(String, Value)>> {
    let object = json!({"type": "object"});
    let mut documents = vec![
        (
            "api".to_owned(),
            document::<meta::APIVersions>("/api/", "get available API versions", "APIVersions")?,
        ),
        (
            "apis".to_owned(),
            document::<meta::APIGroupList>("/apis/", "get available API groups", "APIGroupList")?,
        ),
        (
            "version".to_owned(),
            document::<Info>("/version/", "get the version information for this server", "")?,
        ),
    ];
    for (path, about) in [
        (".well-known/openid-configuration", "get service account issuer OpenID configuration"),
        (
            "openid/v1/jwks",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
        ),
    ] {
        documents.push((path.to_owned(), whole(&format!("/{path}/"), about, &object, json!({}))));
    }
    for group in groups.iter().filter(|group| !group.is_empty()) {
        let path = format!("apis/{group}");
        let document =
            document::<meta::APIGroup>(&format!("/{path}/"), "get information of a group", "APIGroup")?;
        documents.push((path, document));
    }
    Ok(documents)
}
