//! v1 Service: virtual addresses and node ports, given or allocated in the request itself.
//!
//! - [`fields`]: what is filled in, taken over from the old version, wiped on a change of type.
//! - [`validate`], [`addresses`]: what is refused, in Kubernetes' words.
//! - [`allocate`]: addresses and ports and their records.
//!
//! Source: kubernetes `pkg/registry/core/service`, `pkg/apis/core/validation`.

use super::reads_as;
use crate::{
    Context, Status,
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{int, items, keep, strings, text},
};
use k8s_openapi::api::core::v1::Service;
use minisvc_apimachinery::{
    Cause,
    storage::{Change, Read},
};
use serde_json::{Value, json};

mod addresses;
pub(crate) mod allocate;
mod fields;
mod validate;

pub use allocate::NODE_PORT_RECORDS;

pub(crate) struct Services;

impl Strategy for Services {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Service>(object)
    }

    fn check_name(&self, name: &str) -> syntax::Faults {
        syntax::label_1035(name)
    }

    fn default(&self, object: &mut Value) {
        fields::default(object);
    }

    fn prepare_create(&self, object: &mut Value, subject: &Subject<'_>) {
        if let Some(map) = object.as_object_mut() {
            map.insert("status".to_owned(), json!({"loadBalancer": {}}));
        }
        fields::normalize(object, None);
        fields::settle_families(object, None, subject.cluster);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, subject: &Subject<'_>) {
        keep(new, old, "status");
        fields::normalize(new, Some(old));
        fields::take_over_allocated(new, old);
        fields::wipe_by_type(new, old);
        fields::settle_families(new, Some(old), subject.cluster);
    }

    fn validate(&self, object: &Value, subject: &Subject<'_>) -> Vec<Cause> {
        validate::service(object, subject.cluster)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        validate::update(new, old)
    }

    fn admit(
        &self,
        _view: &dyn Read,
        new: &Value,
        old: Option<&Value>,
        subject: &Subject<'_>,
    ) -> Result<(), Status> {
        // CVE-2020-8554: whoever may write a Service could take any address for himself.
        let before = old.map(|old| items(old, "/spec/externalIPs")).unwrap_or_default();
        let allowed = |ip: &Value| {
            let address = ip.as_str().and_then(|text| text.parse().ok());
            address.is_some_and(|address| subject.cluster.allows_external_ip(address))
        };
        let mut refused =
            items(new, "/spec/externalIPs").iter().filter(|ip| !before.contains(ip) && !allowed(ip));
        let Some(ip) = refused.next() else { return Ok(()) };
        let why = if subject.cluster.external_ip_cidrs.is_empty() {
            "spec.externalIPs: Use of external IPs is denied by admission control".to_owned()
        } else {
            let ip = ip.as_str().unwrap_or_default();
            format!(
                "spec.externalIPs: {ip} is in none of the networks that this cluster allows external IPs of"
            )
        };
        Err(Status::forbidden(subject.resource, &subject.key.name, &why))
    }

    fn allocate(
        &self,
        ctx: &mut Context<'_>,
        view: &dyn Read,
        new: Option<&mut Value>,
        old: Option<&Value>,
        subject: &Subject<'_>,
    ) -> Result<Vec<Change>, Status> {
        allocate::allocate(ctx, view, new, old, subject)
    }

    fn validate_subresource(&self, _name: &str, new: &Value, _old: &Value) -> Vec<Cause> {
        validate::status(new)
    }

    fn may_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Type", "string"),
                Column::new("Cluster-IP", "string"),
                Column::new("External-IP", "string"),
                Column::new("Port(s)", "string"),
                Column::new("Age", "string"),
                Column::wide("Selector", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let or_none = |words: String| if words.is_empty() { "<none>".to_owned() } else { words };
        let selector: Vec<String> =
            strings(object, "/spec/selector").map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            name(object),
            json!(text(object, "/spec/type")),
            json!(or_none(text(object, "/spec/clusterIP").to_owned())),
            json!(external(object)),
            json!(or_none(ports(object))),
            age(object, now),
            json!(or_none(selector.join(","))),
        ]
    }
}

/// The addresses or names in `status.loadBalancer`.
pub(super) fn status_addresses(object: &Value) -> Vec<String> {
    items(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| match text(ingress, "/ip") {
            "" => text(ingress, "/hostname").to_owned(),
            ip => ip.to_owned(),
        })
        .filter(|address| !address.is_empty())
        .collect()
}

fn external(object: &Value) -> String {
    let given = items(object, "/spec/externalIPs").iter().filter_map(Value::as_str).map(str::to_owned);
    match text(object, "/spec/type") {
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let mut all = status_addresses(object);
            all.extend(given);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => {
            let all: Vec<String> = given.collect();
            if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
        }
    }
}

fn ports(object: &Value) -> String {
    let one = |port: &Value| {
        let (number, protocol) = (int(port, "/port").unwrap_or(0), text(port, "/protocol"));
        match int(port, "/nodePort").unwrap_or(0) {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    };
    items(object, "/spec/ports").iter().map(one).collect::<Vec<_>>().join(",")
}
