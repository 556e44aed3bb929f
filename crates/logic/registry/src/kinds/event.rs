//! Events, as v1 and as events.k8s.io/v1, which are stored alike: the rules of the older API for what comes by it, and
//! stricter ones for what comes by the newer. Faults name the fields of the stored form, as in Kubernetes.
//!
//! Source: kubernetes `pkg/apis/core/validation/events.go`, `pkg/printers/internalversion`.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, name, since},
    value::{at, int, is_blank, text},
};
use k8s_openapi::api::core::v1::Event;
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};

const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of the message of an event that has a time of its own.
const NOTE_BYTES_MAX: usize = 1024;
const WORD_BYTES_MAX: usize = 128;
/// What an update by the newer API may not change: all but the series.
const IMMUTABLE: [&str; 13] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

pub(crate) struct Events;

impl Strategy for Events {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Event>(object)
    }

    fn validate(&self, object: &Value, subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let involved = text(object, "/involvedObject/namespace");
        let namespace = subject.key.namespace.as_str();
        let is_new = at(object, "/eventTime").is_some();
        // Events about objects without a namespace live in `default`; newer ones also where the system's are.
        let fits = match (involved, is_new) {
            ("", false) => namespace == "default",
            ("", true) => ["default", "kube-system"].contains(&namespace),
            (involved, false) => involved == namespace,
            (_, true) => true,
        };
        if !fits {
            let words = "does not match event.namespace";
            causes.push(Cause::invalid("involvedObject.namespace", involved, words));
        }
        if text(object, "/message").len() > MESSAGE_BYTES_MAX {
            causes.push(Cause::too_long("message", MESSAGE_BYTES_MAX));
        }
        if is_new {
            check_new(object, &mut causes);
        }
        causes
    }

    fn may_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::new("Last Seen", "string"),
                Column::new("Type", "string"),
                Column::new("Reason", "string"),
                Column::new("Object", "string"),
                Column::wide("Subobject", "string"),
                Column::wide("Source", "string"),
                Column::new("Message", "string"),
                Column::wide("First Seen", "string"),
                Column::wide("Count", "integer"),
                Column::wide_name(),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let first = at(object, "/firstTimestamp").or_else(|| at(object, "/eventTime"));
        let last = at(object, "/series/lastObservedTime").or_else(|| at(object, "/lastTimestamp")).or(first);
        let kind = text(object, "/involvedObject/kind").to_ascii_lowercase();
        let about = match text(object, "/involvedObject/name") {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        let source = match (text(object, "/source/component"), text(object, "/source/host")) {
            ("", _) => text(object, "/reportingComponent").to_owned(),
            (component, "") => component.to_owned(),
            (component, host) => format!("{component}, {host}"),
        };
        let count = int(object, "/series/count").or_else(|| int(object, "/count")).unwrap_or(1);
        vec![
            since(last, now),
            json!(text(object, "/type")),
            json!(text(object, "/reason")),
            json!(about),
            json!(text(object, "/involvedObject/fieldPath")),
            json!(source),
            json!(text(object, "/message").trim()),
            since(first, now),
            json!(count.max(1)),
            name(object),
        ]
    }
}

/// Faults of an event that has a time of its own.
fn check_new(object: &Value, causes: &mut Vec<Cause>) {
    let controller = text(object, "/reportingComponent");
    if controller.is_empty() {
        causes.push(Cause::required("reportingController", ""));
    }
    for fault in syntax::qualified_name(controller) {
        causes.push(Cause::invalid("reportingController", controller, &fault));
    }
    for field in ["reportingInstance", "action", "reason"] {
        let given = text(object, &format!("/{field}"));
        if given.is_empty() {
            causes.push(Cause::required(field, ""));
        }
        check_length(field, given, WORD_BYTES_MAX, causes);
    }
    check_length("message", text(object, "/message"), NOTE_BYTES_MAX, causes);
}

fn check_length(field: &str, given: &str, max: usize, causes: &mut Vec<Cause>) {
    if given.len() > max {
        causes.push(Cause::invalid(field, "", &format!("can have at most {max} characters")));
    }
}

fn check_series(object: &Value, causes: &mut Vec<Cause>) {
    let Some(series) = at(object, "/series") else { return };
    if int(series, "/count").unwrap_or(0) < 2 {
        causes.push(Cause::invalid("series.count", "", "should be at least 2"));
    }
    if at(series, "/lastObservedTime").is_none() {
        causes.push(Cause::required("series.lastObservedTime", ""));
    }
}

/// events.k8s.io/v1 Event.
pub(crate) struct EventsK8sIo;

impl Strategy for EventsK8sIo {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        Events.check_types(object)
    }

    fn validate(&self, object: &Value, subject: &Subject<'_>) -> Vec<Cause> {
        Events.validate(object, subject)
    }

    fn validate_create(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        check_series(object, &mut causes);
        if at(object, "/eventTime").is_none() {
            causes.push(Cause::required("eventTime", ""));
        }
        let kind = text(object, "/type");
        if !["Normal", "Warning"].contains(&kind) {
            causes.push(Cause::invalid("type", "", &format!("has invalid value: {kind}")));
        }
        for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            if !is_blank(object.get(field)) {
                causes.push(Cause::invalid(field, "", "needs to be unset"));
            }
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let same = |field: &str| {
            let (new, old) = (new.get(field), old.get(field));
            new == old || (is_blank(new) && is_blank(old))
        };
        if !same("series") {
            check_series(new, &mut causes);
        }
        for field in IMMUTABLE.into_iter().filter(|field| !same(field)) {
            let said = if field == "reportingComponent" { "reportingController" } else { field };
            let given = new.get(field).cloned().unwrap_or_default();
            causes.push(Cause::invalid(said, given, "field is immutable"));
        }
        causes
    }

    fn may_create_on_update(&self) -> bool {
        Events.may_create_on_update()
    }

    fn columns(&self) -> &'static [Column] {
        Events.columns()
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        Events.cells(object, now)
    }
}
