//! A token of its ServiceAccount for a Pod: asked for as a projected volume, or given by the account.
//!
//! Source: kubernetes `plugin/pkg/admission/serviceaccount` (`mountServiceAccountToken`), `pkg/apis/core/validation`
//! (`validateProjectionSources`). Kubernetes gives every Pod a token; here an account that was given no role gives none unless it
//! or the Pod says `automountServiceAccountToken: true`, for all such a token does is to say whose it is.

use super::{validate::refuse_unsupported, volumes};
use crate::{
    account_role,
    value::{fill, int, items, items_mut, parse, text},
};
use minisvc_apimachinery::{Cause, ObjectKey, letters::letters, resource::SERVICE_ACCOUNTS, storage::Read};
use serde_json::{Map, Value, json};

/// Where programs look for it (client-go `rest.InClusterConfig`).
const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Of the volumes' names.
const STEM: &str = "kube-api-access-";
const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
/// Of tokens that nobody asked for in particular; Kubernetes tells them by this number.
const SECONDS_GIVEN: i64 = 3607;

/// Defaults of a `serviceAccountToken`.
pub(super) fn default(source: &mut Value) {
    fill(source, "expirationSeconds", SECONDS_DEFAULT);
}

/// Faults of a `serviceAccountToken`, which stands at `path`.
pub(super) fn check(source: &Value, path: &str, causes: &mut Vec<Cause>) {
    let empty = Map::new();
    let known = ["audience", "expirationSeconds", "path"];
    refuse_unsupported(source.as_object().unwrap_or(&empty), path, &known, causes);
    let why = match int(source, "/expirationSeconds") {
        Some(..SECONDS_MIN) => "may not specify a duration less than 10 minutes",
        Some(seconds) if seconds > SECONDS_MAX => "may not specify a duration larger than 2^32 seconds",
        _ => "",
    };
    if !why.is_empty() {
        let seconds = int(source, "/expirationSeconds").unwrap_or_default();
        causes.push(Cause::invalid(format!("{path}.expirationSeconds"), seconds, why));
    }
    match text(source, "/path") {
        "" => causes.push(Cause::required(format!("{path}.path"), "")),
        inner => volumes::inside(inner, &format!("{path}.path"), causes),
    }
}

/// Gives a new Pod a token, if it is to have one: a volume, and a mount in each container that has nothing in its place.
pub(super) fn give(pod: &mut Value, view: &dyn Read) {
    if !is_wanted(pod, view) {
        return;
    }
    let lists = ["/spec/initContainers", "/spec/containers"];
    let is_bare =
        |container: &Value| items(container, "/volumeMounts").iter().all(|m| text(m, "/mountPath") != PLACE);
    if !lists.iter().any(|list| items(pod, list).iter().any(is_bare)) {
        return;
    }
    let number = text(pod, "/metadata/uid")
        .bytes()
        .fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let name = format!("{STEM}{}", letters(number, 5));
    for list in lists {
        for container in items_mut(pod, list).filter(|container| is_bare(container)) {
            let mount = json!({ "name": name, "readOnly": true, "mountPath": PLACE });
            push(container, "volumeMounts", mount);
        }
    }
    let sources = json!([
        { "serviceAccountToken": { "expirationSeconds": SECONDS_GIVEN, "path": "token" } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        { "downwardAPI": { "items": [
            { "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } },
        ] } },
    ]);
    let volume =
        json!({ "name": name, "projected": { "defaultMode": volumes::MODE_DEFAULT, "sources": sources } });
    if let Some(spec) = pod.get_mut("spec") {
        push(spec, "volumes", volume);
    }
}

/// What the Pod says counts, then what its account says.
fn is_wanted(pod: &Value, view: &dyn Read) -> bool {
    let said = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_bool);
    if let Some(said) = said(pod, "/spec/automountServiceAccountToken") {
        return said;
    }
    let key = ObjectKey::new(text(pod, "/metadata/namespace"), text(pod, "/spec/serviceAccountName"));
    let account = view.get(&SERVICE_ACCOUNTS.storage_key(&key)).map(|stored| parse(&stored));
    let said = account.and_then(|account| said(&account, "/automountServiceAccountToken"));
    said.unwrap_or_else(|| account_role(view, &key).is_some())
}

fn push(object: &mut Value, list: &str, item: Value) {
    let Some(object) = object.as_object_mut() else { return };
    let list = object.entry(list).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}
