//! v1 Event. Source: kubernetes `pkg/apis/core/validation/events.go`, `pkg/printers/internalversion`.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    table::{Column, name, since},
    value::{at, int, text},
};
use k8s_openapi::api::core::v1::Event;
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

pub(crate) struct Events;

impl Strategy for Events {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Event>(object)
    }

    fn validate(&self, object: &Value, subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let involved = text(object, "/involvedObject/namespace");
        let namespace = subject.key.namespace.as_str();
        // Events about objects without a namespace live in `default`.
        let fits = if involved.is_empty() { namespace == "default" } else { involved == namespace };
        if !fits {
            let words = "does not match event.namespace";
            causes.push(Cause::invalid("involvedObject.namespace", involved, words));
        }
        if text(object, "/message").len() > MESSAGE_BYTES_MAX {
            causes.push(Cause::too_long("message", MESSAGE_BYTES_MAX));
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
