//! The schemas of every served kind, made from k8s-openapi's types.

use anyhow::{Context, bail};
use k8s_openapi::{
    api::{
        apps, authentication, authorization, autoscaling, coordination, core, discovery, events, networking,
        policy,
    },
    apimachinery::pkg::apis::meta::v1 as meta,
    schemars::{SchemaGenerator, generate::SchemaSettings},
};
use minisvc_apimachinery::Resource;
use serde_json::{Map, Value, json};

/// Where references point to.
pub const REF_PREFIX: &str = "#/components/schemas/";
/// Name of the schema of `metav1.ListMeta`.
pub const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Schemas that every document has: the bodies of delete, patch and failure.
pub fn common(generator: &mut SchemaGenerator) {
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::Status>();
}

/// A generator whose references point into `components.schemas`.
pub fn generator() -> SchemaGenerator {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    SchemaGenerator::new(settings)
}

/// Adds the schema of a kind and all it refers to; out: its name.
///
/// # Errors
/// The kind is served but has no type here.
pub fn add(generator: &mut SchemaGenerator, resource: &Resource) -> anyhow::Result<String> {
    let schema = match (resource.group, resource.version, resource.kind) {
        ("", "v1", "ConfigMap") => generator.subschema_for::<core::v1::ConfigMap>(),
        ("", "v1", "Endpoints") => generator.subschema_for::<core::v1::Endpoints>(),
        ("", "v1", "Event") => generator.subschema_for::<core::v1::Event>(),
        ("", "v1", "Namespace") => generator.subschema_for::<core::v1::Namespace>(),
        ("", "v1", "Node") => generator.subschema_for::<core::v1::Node>(),
        ("", "v1", "Pod") => {
            generator.subschema_for::<core::v1::Binding>();
            generator.subschema_for::<policy::v1::Eviction>();
            generator.subschema_for::<core::v1::Pod>()
        }
        ("", "v1", "ServiceAccount") => {
            generator.subschema_for::<authentication::v1::TokenRequest>();
            generator.subschema_for::<core::v1::ServiceAccount>()
        }
        ("", "v1", "Secret") => generator.subschema_for::<core::v1::Secret>(),
        ("", "v1", "Service") => generator.subschema_for::<core::v1::Service>(),
        ("apps", "v1", "Deployment") => generator.subschema_for::<apps::v1::Deployment>(),
        ("apps", "v1", "ReplicaSet") => generator.subschema_for::<apps::v1::ReplicaSet>(),
        ("autoscaling", "v1", "Scale") => generator.subschema_for::<autoscaling::v1::Scale>(),
        ("authentication.k8s.io", "v1", kind) => match kind {
            "SelfSubjectReview" => generator.subschema_for::<authentication::v1::SelfSubjectReview>(),
            "TokenReview" => generator.subschema_for::<authentication::v1::TokenReview>(),
            kind => bail!("no type for the served kind {kind}"),
        },
        ("authorization.k8s.io", "v1", kind) => match kind {
            "LocalSubjectAccessReview" => {
                generator.subschema_for::<authorization::v1::LocalSubjectAccessReview>()
            }
            "SelfSubjectAccessReview" => {
                generator.subschema_for::<authorization::v1::SelfSubjectAccessReview>()
            }
            "SelfSubjectRulesReview" => {
                generator.subschema_for::<authorization::v1::SelfSubjectRulesReview>()
            }
            "SubjectAccessReview" => generator.subschema_for::<authorization::v1::SubjectAccessReview>(),
            kind => bail!("no type for the served kind {kind}"),
        },
        ("coordination.k8s.io", "v1", "Lease") => generator.subschema_for::<coordination::v1::Lease>(),
        ("discovery.k8s.io", "v1", "EndpointSlice") => {
            generator.subschema_for::<discovery::v1::EndpointSlice>()
        }
        ("events.k8s.io", "v1", "Event") => generator.subschema_for::<events::v1::Event>(),
        ("networking.k8s.io", "v1", "Ingress") => generator.subschema_for::<networking::v1::Ingress>(),
        ("networking.k8s.io", "v1", "IPAddress") => generator.subschema_for::<networking::v1::IPAddress>(),
        ("networking.k8s.io", "v1", "ServiceCIDR") => {
            generator.subschema_for::<networking::v1::ServiceCIDR>()
        }
        ("networking.k8s.io", "v1", "IngressClass") => {
            generator.subschema_for::<networking::v1::IngressClass>()
        }
        (group, version, kind) => bail!("no type for the served kind {group}/{version} {kind}"),
    };
    let target = schema.as_value().get("$ref").and_then(Value::as_str).context("schema without a name")?;
    Ok(target.trim_start_matches(REF_PREFIX).to_owned())
}

/// The schema of the list of a kind.
pub fn list_of(item: &str, kind: &str) -> Value {
    let described = |about: &str| json!({"description": about, "type": "string"});
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": described("APIVersion defines the versioned schema of this representation of an object."),
            "kind": described("Kind is a string value representing the REST resource this object represents."),
            "metadata": {"description": "Standard list metadata.", "allOf": [{"$ref": format!("{REF_PREFIX}{LIST_META}")}]},
            "items": {
                "description": format!("List of {kind} objects."),
                "type": "array",
                "items": {"$ref": format!("{REF_PREFIX}{item}")},
            },
        },
    })
}

/// Turns what schemars wrote into Kubernetes' dialect of OpenAPI v3, in place.
pub fn normalize(schemas: &mut Map<String, Value>) {
    for (name, schema) in schemas.iter_mut() {
        match name.strip_prefix("io.k8s.apimachinery.pkg.").unwrap_or_default() {
            "util.intstr.IntOrString" => {
                replace(
                    schema,
                    json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
                );
            }
            "api.resource.Quantity" => {
                replace(schema, json!({"oneOf": [{"type": "string"}, {"type": "number"}]}))
            }
            _ => rewrite(schema),
        }
    }
    if let Some(patch) = schemas.get_mut(&format!("{META}Patch")) {
        replace(patch, json!({"type": "object"}));
    }
}

fn replace(schema: &mut Value, with: Value) {
    let description = schema.get("description").cloned();
    *schema = with;
    if let Some(description) = description {
        schema["description"] = description;
    }
}

fn rewrite(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            // OpenAPI 3.0 ignores what stands beside `$ref`, so a description moves it into `allOf`.
            if map.len() > 1
                && let Some(target) = map.remove("$ref")
            {
                map.insert("allOf".to_owned(), json!([{"$ref": target}]));
            }
            map.values_mut().for_each(rewrite);
        }
        Value::Array(items) => items.iter_mut().for_each(rewrite),
        _ => {}
    }
}
