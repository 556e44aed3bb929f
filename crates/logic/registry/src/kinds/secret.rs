//! v1 Secret. Source: kubernetes `pkg/apis/core/validation` (`ValidateSecret`).

use super::{
    config_map::{DATA_BYTES_MAX, check_key, decoded, entries, immutable},
    reads_as,
};
use crate::{
    context::Subject,
    strategy::Strategy,
    table::{Column, age, name},
    value::{at, fill, object_mut, strings, text},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};

pub(crate) struct Secrets;

impl Strategy for Secrets {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Secret>(object)
    }

    fn default(&self, object: &mut Value) {
        fill(object, "type", "Opaque");
        // stringData is for writing only: it goes into data, over what is there.
        let given = object.as_object_mut().and_then(|map| map.remove("stringData"));
        let Some(given) = given.as_ref().and_then(Value::as_object) else { return };
        if let Some(data) = object_mut(object, "data") {
            for (key, value) in given {
                let bytes = value.as_str().unwrap_or_default().as_bytes().to_vec();
                data.insert(key.clone(), json!(ByteString(bytes)));
            }
        }
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let mut bytes = 0;
        for (key, value) in entries(object, "data") {
            check_key("data", key, &mut causes);
            bytes += decoded(value).len();
        }
        if bytes > DATA_BYTES_MAX {
            causes.push(Cause::too_long("data", DATA_BYTES_MAX));
        }
        let mut require = |keys: &[&str]| {
            for key in keys {
                if object.get("data").and_then(|data| data.get(*key)).is_none() {
                    causes.push(Cause::required(format!("data[{key}]"), ""));
                }
            }
        };
        match text(object, "/type") {
            "kubernetes.io/tls" => require(&["tls.crt", "tls.key"]),
            "kubernetes.io/ssh-auth" => require(&["ssh-privatekey"]),
            "kubernetes.io/dockercfg" => require(&[".dockercfg"]),
            "kubernetes.io/dockerconfigjson" => require(&[".dockerconfigjson"]),
            "kubernetes.io/basic-auth" => {
                let has = |key| at(object, "/data").is_some_and(|data| data.get(key).is_some());
                if !has("username") && !has("password") {
                    causes.push(Cause::required("data[username]", ""));
                    causes.push(Cause::required("data[password]", ""));
                }
            }
            "kubernetes.io/service-account-token" => {
                let account = "kubernetes.io/service-account.name";
                let named = |(key, value): (&str, &str)| key == account && !value.is_empty();
                if !strings(object, "/metadata/annotations").any(named) {
                    causes.push(Cause::required(format!("metadata.annotations[{account}]"), ""));
                }
            }
            _ => {}
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = immutable(new, old, &["data"]);
        if text(new, "/type") != text(old, "/type") {
            causes.push(Cause::invalid("type", text(new, "/type"), "field is immutable"));
        }
        causes
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Type", "string"),
                Column::new("Data", "integer"),
                Column::new("Age", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            name(object),
            json!(text(object, "/type")),
            json!(entries(object, "data").count()),
            age(object, now),
        ]
    }
}
