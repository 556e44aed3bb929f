//! What a Pod may say of its volumes, and its containers of where they see them.
//!
//! Source: kubernetes `pkg/apis/core/validation`, `ValidateVolumes`, `ValidateVolumeMounts`. Invariant: no volume shows
//! anything of the node or of other machines; a type that does is refused by name.

use super::{
    env, resources, token,
    validate::{choice, refuse_unsupported},
};
use crate::{
    syntax,
    value::{at, fill, int, is_blank, items, items_mut, keep_amount, text},
};
use minisvc_apimachinery::{Cause, quantity::Quantity};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const VOLUMES_MAX: usize = 256;
const TYPES: [&str; 5] = ["configMap", "downwardAPI", "emptyDir", "projected", "secret"];
const PROJECTED: [&str; 4] = ["configMap", "downwardAPI", "secret", "serviceAccountToken"];
pub(super) const MODE_DEFAULT: i64 = 0o644;
/// What a file of the downward API can hold, beside one label or annotation.
const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const MOUNT: [&str; 7] =
    ["mountPath", "mountPropagation", "name", "readOnly", "recursiveReadOnly", "subPath", "subPathExpr"];
/// Parts of a container's view that are the kernel's.
const KERNELS: [&str; 2] = ["/proc", "/sys"];

/// Defaults of the volumes of a spec.
pub(super) fn default(spec: &mut Value) {
    for volume in items_mut(spec, "/volumes") {
        let Some(map) = volume.as_object_mut() else { continue };
        if !map.iter().any(|(field, value)| field != "name" && !value.is_null()) {
            map.insert("emptyDir".to_owned(), json!({}));
        }
        if let Some(limit) = volume.pointer_mut("/emptyDir/sizeLimit") {
            keep_amount(limit);
        }
        for kind in ["configMap", "downwardAPI", "projected", "secret"] {
            if let Some(source) = volume.get_mut(kind).filter(|source| source.is_object()) {
                fill(source, "defaultMode", MODE_DEFAULT);
                for part in items_mut(source, "/sources") {
                    part.get_mut("downwardAPI").into_iter().for_each(default_fields);
                    let account_token = part.get_mut("serviceAccountToken").filter(|token| token.is_object());
                    account_token.into_iter().for_each(token::default);
                }
                default_fields(source);
            }
        }
    }
}

fn default_fields(source: &mut Value) {
    for item in items_mut(source, "/items") {
        if let Some(field) = item.get_mut("fieldRef") {
            fill(field, "apiVersion", "v1");
        }
        item.get_mut("resourceFieldRef").into_iter().for_each(resources::default_field);
    }
}

/// Faults of the volumes of the spec at `path`; their names.
pub(super) fn check<'s>(spec: &'s Value, path: &str, causes: &mut Vec<Cause>) -> BTreeSet<&'s str> {
    let volumes = items(spec, "/volumes");
    let mut names = BTreeSet::new();
    if volumes.len() > VOLUMES_MAX {
        causes.push(Cause::too_many(format!("{path}.volumes"), volumes.len(), VOLUMES_MAX));
        return names;
    }
    for (i, volume) in volumes.iter().enumerate() {
        let path = format!("{path}.volumes[{i}]");
        let name = text(volume, "/name");
        if name.is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
        for fault in if name.is_empty() { Vec::new() } else { syntax::label(name) } {
            causes.push(Cause::invalid(format!("{path}.name"), name, &fault));
        }
        if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), name));
        }
        let empty = Map::new();
        let map = volume.as_object().unwrap_or(&empty);
        let known: Vec<&str> = TYPES.into_iter().chain(["name"]).collect();
        refuse_unsupported(map, &path, &known, causes);
        let mut given = TYPES.into_iter().filter(|kind| volume.get(kind).is_some_and(|v| !v.is_null()));
        if let Some(kind) = given.next() {
            source(volume, kind, &path, causes);
        }
        for more in given {
            causes
                .push(Cause::forbidden(format!("{path}.{more}"), "may not specify more than 1 volume type"));
        }
    }
    names
}

fn source(volume: &Value, kind: &str, path: &str, causes: &mut Vec<Cause>) {
    let source = &volume[kind];
    let path = format!("{path}.{kind}");
    mode(source, "defaultMode", &path, causes);
    match kind {
        "emptyDir" => scratch(source, &path, causes),
        "projected" => {
            for (i, each) in items(source, "/sources").iter().enumerate() {
                let path = format!("{path}.sources[{i}]");
                let empty = Map::new();
                refuse_unsupported(each.as_object().unwrap_or(&empty), &path, &PROJECTED, causes);
                for kind in PROJECTED.into_iter().filter(|kind| each.get(kind).is_some_and(Value::is_object))
                {
                    let path = format!("{path}.{kind}");
                    match kind {
                        "serviceAccountToken" => token::check(&each[kind], &path, causes),
                        _ => files(&each[kind], kind, "name", &path, causes),
                    }
                }
            }
        }
        "secret" => files(source, kind, "secretName", &path, causes),
        _ => files(source, kind, "name", &path, causes),
    }
}

fn scratch(source: &Value, path: &str, causes: &mut Vec<Cause>) {
    choice(source, "/medium", &format!("{path}.medium"), &["Memory"], causes);
    let Some(limit) = at(source, "/sizeLimit").filter(|limit| !is_blank(Some(limit))) else { return };
    let path = format!("{path}.sizeLimit");
    let text = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
    match Quantity::parse(&text) {
        None => causes.push(Cause::invalid(path, text, "must be a quantity")),
        Some(quantity) if quantity.units() < 0 => {
            causes.push(Cause::forbidden(path, "SizeLimit field must be a valid resource quantity"));
        }
        Some(_) => {}
    }
}

fn text_of<'v>(object: &'v Value, field: &str) -> &'v str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A volume, or a part of one, of files: of which object, and which of its keys where.
fn files(source: &Value, kind: &str, name_field: &str, path: &str, causes: &mut Vec<Cause>) {
    let of_pod = kind == "downwardAPI";
    let name = text_of(source, name_field);
    if !of_pod && name.is_empty() {
        causes.push(Cause::required(format!("{path}.{name_field}"), ""));
    }
    for (i, item) in items(source, "/items").iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        mode(item, "mode", &path, causes);
        match text(item, "/path") {
            "" => causes.push(Cause::required(format!("{path}.path"), "")),
            inner => inside(inner, &format!("{path}.path"), causes),
        }
        if !of_pod {
            if text(item, "/key").is_empty() {
                causes.push(Cause::required(format!("{path}.key"), ""));
            }
            continue;
        }
        let empty = Map::new();
        let known = ["fieldRef", "mode", "path", "resourceFieldRef"];
        refuse_unsupported(item.as_object().unwrap_or(&empty), &path, &known, causes);
        match (at(item, "/fieldRef"), at(item, "/resourceFieldRef")) {
            (None, None) => {
                causes.push(Cause::required(path, "one of fieldRef and resourceFieldRef is required"));
                continue;
            }
            (Some(_), Some(_)) => {
                let words = "fieldRef and resourceFieldRef can not be specified simultaneously";
                causes.push(Cause::invalid(path, "resource", words));
                continue;
            }
            (None, Some(resource)) => {
                resources::check_field(resource, &format!("{path}.resourceFieldRef"), true, causes);
                continue;
            }
            (Some(_), None) => {}
        }
        match text(item, "/fieldRef/fieldPath") {
            "" => causes.push(Cause::required(format!("{path}.fieldRef.fieldPath"), "")),
            field if FIELDS.contains(&field) || env::is_entry(field) => {}
            field => causes.push(Cause::not_supported(format!("{path}.fieldRef.fieldPath"), field, &FIELDS)),
        }
    }
}

fn mode(object: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    if let Some(mode) = int(object, &format!("/{field}"))
        && !(0..=0o777).contains(&mode)
    {
        let words = "must be a number between 0 and 0777 (octal), both inclusive";
        causes.push(Cause::invalid(format!("{path}.{field}"), mode, words));
    }
}

/// Faults of a path that must stay in its volume.
pub(super) fn inside(inner: &str, path: &str, causes: &mut Vec<Cause>) {
    if inner.starts_with('/') {
        causes.push(Cause::invalid(path, inner, "must be a relative path"));
    }
    if inner.split('/').any(|part| part == "..") {
        causes.push(Cause::invalid(path, inner, "must not contain '..'"));
    } else if inner.starts_with("..") || inner.split('/').any(|part| part.starts_with("..")) {
        causes.push(Cause::invalid(path, inner, "must not start with '..'"));
    }
}

/// Faults of where a container sees volumes.
pub(super) fn mounts(container: &Value, path: &str, volumes: &BTreeSet<&str>, causes: &mut Vec<Cause>) {
    let mut places = BTreeSet::new();
    for (i, mount) in items(container, "/volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        let empty = Map::new();
        refuse_unsupported(mount.as_object().unwrap_or(&empty), &path, &MOUNT, causes);
        match text(mount, "/name") {
            "" => causes.push(Cause::required(format!("{path}.name"), "")),
            name if !volumes.contains(name) => causes.push(Cause::not_found(format!("{path}.name"), name)),
            _ => {}
        }
        let place = text(mount, "/mountPath");
        let field = format!("{path}.mountPath");
        let under = |dir: &&str| {
            place.strip_prefix(*dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if place.is_empty() {
            causes.push(Cause::required(field, ""));
        } else if !place.starts_with('/') || place.split('/').any(|part| part == "..") {
            causes.push(Cause::invalid(field, place, "must be an absolute path without '..'"));
        } else if place.trim_matches('/').is_empty() || KERNELS.iter().any(under) {
            causes.push(Cause::forbidden(field, "no volume can be mounted there"));
        } else if !places.insert(place.trim_end_matches('/')) {
            causes.push(Cause::invalid(field, place, "must be unique"));
        }
        for field in ["subPath", "subPathExpr"] {
            inside(text(mount, &format!("/{field}")), &format!("{path}.{field}"), causes);
        }
        if !text(mount, "/subPath").is_empty() && !text(mount, "/subPathExpr").is_empty() {
            let words = "subPathExpr and subPath are mutually exclusive";
            causes.push(Cause::invalid(format!("{path}.subPathExpr"), text(mount, "/subPathExpr"), words));
        }
        choice(mount, "/mountPropagation", &format!("{path}.mountPropagation"), &["None"], causes);
        choice(mount, "/recursiveReadOnly", &format!("{path}.recursiveReadOnly"), &["Disabled"], causes);
    }
}
