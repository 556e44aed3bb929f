//! networking.k8s.io/v1 IngressClass, and which one new Ingresses get.
//!
//! Source: kubernetes `pkg/apis/networking/validation`, `plugin/pkg/admission/network/defaultingressclass`.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{at, fill, parse, text},
};
use k8s_openapi::api::networking::v1::IngressClass;
use minisvc_apimachinery::{
    Cause, ingress_class::DEFAULT_ANNOTATION, resource::INGRESS_CLASSES, storage::Read,
};
use serde_json::{Value, json};

const CONTROLLER_BYTES_MAX: usize = 250;
const SCOPES: [&str; 2] = ["Cluster", "Namespace"];

pub(crate) struct IngressClasses;

impl Strategy for IngressClasses {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<IngressClass>(object)
    }

    fn default(&self, object: &mut Value) {
        if let Some(parameters) = object.pointer_mut("/spec/parameters") {
            fill(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let controller = text(object, "/spec/controller");
        if controller.len() > CONTROLLER_BYTES_MAX {
            causes.push(Cause::too_long("spec.controller", CONTROLLER_BYTES_MAX));
        }
        if controller.is_empty() {
            causes.push(Cause::required("spec.controller", ""));
        } else {
            for (part, fault) in syntax::domain_prefixed_path(controller) {
                causes.push(Cause::invalid("spec.controller", part, &fault));
            }
        }
        if let Some(parameters) = at(object, "/spec/parameters") {
            check_parameters(parameters, &mut causes);
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let (controller, before) = (text(new, "/spec/controller"), text(old, "/spec/controller"));
        if controller == before {
            return Vec::new();
        }
        vec![Cause::invalid("spec.controller", controller, "field is immutable")]
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Controller", "string"),
                Column::new("Parameters", "string"),
                Column::new("Age", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let parameters = match at(object, "/spec/parameters") {
            None => "<none>".to_owned(),
            Some(parameters) => {
                let group = at(parameters, "/apiGroup").and_then(Value::as_str);
                let group = group.map_or_else(String::new, |group| format!(".{group}"));
                format!("{}{group}/{}", text(parameters, "/kind"), text(parameters, "/name"))
            }
        };
        vec![name(object), json!(text(object, "/spec/controller")), json!(parameters), age(object, now)]
    }
}

fn check_parameters(parameters: &Value, causes: &mut Vec<Cause>) {
    let field = |name: &str| format!("spec.parameters.{name}");
    if let Some(group) = at(parameters, "/apiGroup").and_then(Value::as_str) {
        for fault in syntax::subdomain(group) {
            causes.push(Cause::invalid(field("apiGroup"), group, &fault));
        }
    }
    for part in ["kind", "name"] {
        let given = text(parameters, &format!("/{part}"));
        if given.is_empty() {
            causes.push(Cause::required(field(part), &format!("{part} is required")));
        }
        for fault in syntax::path_segment(given) {
            causes.push(Cause::invalid(field(part), given, &fault));
        }
    }
    let namespace = at(parameters, "/namespace").and_then(Value::as_str);
    match (text(parameters, "/scope"), namespace) {
        ("Namespace", None) => {
            let words = "`parameters.scope` is set to 'Namespace'";
            causes.push(Cause::required(field("namespace"), words));
        }
        ("Namespace", Some(namespace)) => {
            for fault in syntax::label(namespace) {
                causes.push(Cause::invalid(field("namespace"), namespace, &fault));
            }
        }
        ("Cluster", Some(_)) => {
            causes.push(Cause::forbidden(field("namespace"), "`parameters.scope` is set to 'Cluster'"));
        }
        ("Cluster", None) => {}
        (other, _) => causes.push(Cause::not_supported(field("scope"), other, &SCOPES)),
    }
}

/// Name of the class that a new Ingress without one gets: of those marked, the newest, then the first by name.
pub(super) fn default_name(view: &dyn Read) -> Option<String> {
    let mut found: Option<(String, String)> = None;
    view.scan(&INGRESS_CLASSES.storage_prefix(None), None, &mut |_, stored| {
        let class = parse(stored);
        let marked = class.pointer("/metadata/annotations").and_then(|all| all.get(DEFAULT_ANNOTATION));
        if marked == Some(&json!("true")) {
            let made = text(&class, "/metadata/creationTimestamp");
            // The scan is in the order of names, and times of one form compare as text.
            if found.as_ref().is_none_or(|(newest, _)| made > newest.as_str()) {
                found = Some((made.to_owned(), text(&class, "/metadata/name").to_owned()));
            }
        }
        true
    });
    found.map(|(_, name)| name)
}
