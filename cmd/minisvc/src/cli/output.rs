//! What `-o` asks for, and how objects are written then.

mod yaml;

use super::{api::Failure, jsonpath::Template};
use minisvc_apimachinery::resource;
use serde_json::{Value, json};
use std::io::Write;

/// What `-o` asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Format {
    /// A table.
    #[default]
    Table,
    /// A table with all of its columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `type/name` lines.
    Name,
    /// A JSONPath template.
    JsonPath(Template),
}

/// Reads `-o`, for clap.
///
/// # Errors
/// The format is unknown or its template malformed.
pub fn parse(text: &str) -> Result<Format, String> {
    match text {
        "wide" => Ok(Format::Wide),
        "json" => Ok(Format::Json),
        "yaml" => Ok(Format::Yaml),
        "name" => Ok(Format::Name),
        _ => match text.strip_prefix("jsonpath=") {
            Some(template) => {
                Template::parse(template).map(Format::JsonPath).map_err(|error| error.to_string())
            }
            None => Err(format!(
                "unable to match a printer suitable for the output format {text:?}, allowed formats are: json,jsonpath=,name,wide,yaml"
            )),
        },
    }
}

/// Writes to standard output at once.
///
/// # Errors
/// Nobody reads it any more.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| Failure::Output { source })
}

/// `service/web`, `endpointslice.discovery.k8s.io/web-1`: what `-o name` prints.
pub fn name_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = text(&object["kind"]);
    let prefix = match resource::by_kind(&text(&object["apiVersion"]), &kind) {
        Some(resource) => resource.qualified_singular(),
        None => kind.to_ascii_lowercase(),
    };
    format!("{prefix}/{}", text(&object["metadata"]["name"]))
}

/// Objects as a list that looks like one object.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// The text of an object, or of a list, in a format that is no table.
///
/// # Errors
/// A JSONPath template yields too much.
pub fn text(format: &Format, object: &Value) -> Result<String, Failure> {
    let mut object = object.clone();
    hide_managed_fields(&mut object);
    match format {
        Format::Json => json_text(&object),
        Format::Yaml => Ok(yaml::text(&object)),
        Format::JsonPath(template) => {
            template.render(&object).map_err(|error| Failure::Usage(error.to_string()))
        }
        Format::Name | Format::Table | Format::Wide => match object["items"].as_array() {
            Some(items) => Ok(items.iter().map(|item| name_of(item) + "\n").collect()),
            None => Ok(name_of(&object) + "\n"),
        },
    }
}

/// Who manages which field is of no interest to people, as kubectl has it.
fn hide_managed_fields(object: &mut Value) {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.map(|metadata| metadata.remove("managedFields"));
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(hide_managed_fields);
    }
}

/// JSON indented by four, as kubectl prints it.
fn json_text(object: &Value) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(object, &mut writer)
        .map_err(|error| Failure::Usage(format!("write JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
