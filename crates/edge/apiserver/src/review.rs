//! Reviews: questions about who asks and what they may, answered by the very rules that requests meet.
//!
//! Invariant: nothing is stored.

use crate::{
    ApiServer,
    auth::{self, Attributes, Guard, User},
    body::{self, Validation},
    path::{Parameters, Target},
    respond,
};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use minisvc_apimachinery::{Cause, ObjectKey, Resource, Status, resource::PODS, sent};
use serde_json::{Value, json};

/// Answers a POST of a review.
///
/// # Errors
/// 400 or 422 naming the field.
pub(crate) fn answer(
    api: &ApiServer,
    user: &User,
    target: &Target,
    headers: &HeaderMap,
    parameters: &Parameters,
    body: &[u8],
) -> Result<Response, Status> {
    let decoded = body::decode(headers, body)?;
    let (kind, mut review) = (target.resource, decoded.value);
    if kind.namespaced && target.namespace.is_empty() {
        return Err(Status::method_not_supported(kind, "create without a namespace"));
    }
    check_kind(kind, &mut review)?;
    settle_namespace(target, &mut review)?;
    body::dry_run(parameters)?;
    let warnings = Validation::of(parameters)?.check(kind, &review, &decoded.duplicates)?;
    let spec = review.get("spec").cloned().unwrap_or_default();
    let status = match kind.kind {
        "SelfSubjectReview" => json!({"userInfo": info(user)}),
        "TokenReview" => token(api, &spec)?,
        "SelfSubjectRulesReview" => rules(user, &spec)?,
        _ => {
            let namespace = review.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
            let causes = faults(target, namespace, &spec);
            if !causes.is_empty() {
                return Err(Status::invalid(kind, "", causes));
            }
            match kind.kind {
                "SelfSubjectAccessReview" => access(api, user, &spec),
                _ => access(api, &named(api, &spec), &spec),
            }
        }
    };
    review["status"] = status;
    let mut response = respond::json(StatusCode::CREATED, &review);
    body::warn(response.headers_mut(), &warnings);
    Ok(response)
}

/// Checks that the object is of this kind; sets what was left out.
pub(crate) fn check_kind(kind: &Resource, review: &mut Value) -> Result<(), Status> {
    sent::check_kind(kind, review)?;
    if review["metadata"].is_null() {
        review["metadata"] = json!({});
    }
    Ok(())
}

/// Sets the namespace of the path, which must be the object's if it has one.
fn settle_namespace(target: &Target, review: &mut Value) -> Result<(), Status> {
    let metadata = review.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata.filter(|_| target.resource.namespaced) {
        let given = metadata.entry("namespace").or_insert_with(|| json!(target.namespace));
        if *given != json!(target.namespace) {
            return Err(sent::other_namespace());
        }
    }
    Ok(())
}

fn info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Who a token is of.
fn token(api: &ApiServer, spec: &Value) -> Result<Value, Status> {
    let token = text(spec, "token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    Ok(match api.tokens.bearer(token, &strings(spec, "audiences")) {
        Ok((user, audiences)) => json!({"authenticated": true, "user": info(&user), "audiences": audiences}),
        Err(why) => json!({"user": {}, "error": format!("[{why}]")}),
    })
}

/// Everything that may be done in a namespace.
fn rules(user: &User, spec: &Value) -> Result<Value, Status> {
    let namespace = text(spec, "namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths, mut incomplete) = (Vec::new(), Vec::new(), false);
    for role in auth::roles(user) {
        for rule in role.rules.iter().filter(|r| r.namespace.is_empty() || r.namespace == namespace) {
            let mut value =
                json!({"verbs": rule.verbs, "apiGroups": [rule.group], "resources": rule.resources});
            match (rule.limit, user.node()) {
                (auth::Limit::OwnName, Some(node)) => value["resourceNames"] = json!([node]),
                (auth::Limit::None | auth::Limit::OwnName, _) => {}
                _ => incomplete = true,
            }
            resources.push(value);
        }
        if !role.paths.is_empty() {
            paths.push(json!({"verbs": role.path_verbs, "nonResourceURLs": role.paths}));
        }
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
    if incomplete {
        status["evaluationError"] =
            json!("a node writes only pods that are bound to it, and reads only what they name");
    }
    Ok(status)
}

/// The user that a SubjectAccessReview names: exactly the groups that it says.
fn named(api: &ApiServer, spec: &Value) -> User {
    let user =
        User { name: text(spec, "user").to_owned(), groups: strings(spec, "groups"), ..User::default() };
    user.with_role(&api.store.view())
}

/// Whether the user may do what the review asks about.
fn access(api: &ApiServer, user: &User, spec: &Value) -> Value {
    let Some(asked) = spec.get("resourceAttributes").filter(|asked| !asked.is_null()) else {
        let path = spec.get("nonResourceAttributes").unwrap_or(&Value::Null);
        let (verb, path) = (text(path, "verb"), text(path, "path"));
        return json!({"allowed": auth::roles(user).any(|role| role.allows_path(verb, path))});
    };
    let attributes = Attributes {
        verb: text(asked, "verb"),
        group: text(asked, "group"),
        resource: text(asked, "resource"),
        subresource: text(asked, "subresource"),
        namespace: text(asked, "namespace"),
        name: text(asked, "name"),
        fields: asked.get("fieldSelector").map_or("", |selector| text(selector, "rawSelector")),
    };
    let allowed = match auth::decide(user, &attributes) {
        Some(Guard::BoundTo(node)) => {
            let key = PODS.storage_key(&ObjectKey::new(attributes.namespace, attributes.name));
            auth::is_bound_to(&api.store.view(), &key, &node).unwrap_or(false)
        }
        Some(Guard::NamedByPodsOf(node)) => {
            let Attributes { resource, namespace, name, .. } = attributes;
            auth::is_named_by_pods_of(&api.store.view(), resource, namespace, name, &node)
        }
        decided => decided.is_some(),
    };
    json!({"allowed": allowed})
}

/// Faults of an access review, in Kubernetes' words.
fn faults(target: &Target, namespace: &str, spec: &Value) -> Vec<Cause> {
    let part = |name: &str| spec.get(name).filter(|part| !part.is_null());
    let (resource, path) = (part("resourceAttributes"), part("nonResourceAttributes"));
    let mut causes = Vec::new();
    match (resource, path) {
        (Some(_), Some(path)) => causes.push(Cause::invalid(
            "spec.nonResourceAttributes",
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => causes.push(Cause::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let kind = target.resource.kind;
    if kind != "SelfSubjectAccessReview"
        && text(spec, "user").is_empty()
        && strings(spec, "groups").is_empty()
    {
        let why = "at least one of user or group must be specified";
        causes.push(Cause::invalid("spec.user", "", why));
    }
    if kind == "LocalSubjectAccessReview" {
        let asked = resource.map(|resource| text(resource, "namespace"));
        if let Some(asked) = asked.filter(|asked| *asked != namespace) {
            let why = "must match metadata.namespace";
            causes.push(Cause::invalid("spec.resourceAttributes.namespace", asked, why));
        }
        if let Some(path) = path {
            let why = "disallowed on this kind of request";
            causes.push(Cause::invalid("spec.nonResourceAttributes", path.clone(), why));
        }
    }
    causes
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn strings(of: &Value, field: &str) -> Vec<String> {
    let items = of.get(field).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}
