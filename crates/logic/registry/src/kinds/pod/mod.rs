//! v1 Pod: bound to a node once, otherwise fixed; ends gracefully.
//!
//! Source: kubernetes `pkg/registry/core/pod/strategy.go`, `pkg/apis/core/validation`.

use super::{reads_as, service_account};
use crate::{
    Context, Outcome, Status,
    context::Subject,
    kinds, meta,
    strategy::Strategy,
    table::{Column, age, name},
    value::{at, fill, int, items, items_mut, keep, object_mut, parse, set, text, time},
};
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::{
    Cause, ObjectKey,
    resource::{PODS, SERVICE_ACCOUNTS},
    storage::Read,
};
use serde_json::{Value, json};

mod addresses;
mod affinity;
mod columns;
mod env;
mod evict;
mod host;
mod init;
mod lifecycle;
mod names;
mod probes;
mod requirements;
mod resources;
mod security;
mod token;
mod topology;
pub(super) mod validate;
mod volumes;

pub use evict::evict;

const GRACE_SECONDS_DEFAULT: i64 = 30;
/// How long a Pod stays on a node that is silent or not ready, unless it says otherwise.
const TOLERATION_SECONDS_DEFAULT: i64 = 300;

pub(crate) struct Pods;

impl Strategy for Pods {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Pod>(object)
    }

    fn default(&self, object: &mut Value) {
        addresses::default(object);
        object_mut(object, "spec");
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        default_spec(spec);
        host::default(spec);
        resources::request_limits(spec);
        fill(spec, "enableServiceLinks", true);
        // `serviceAccount` is the older name of the field; where both are said, the newer one counts.
        let accounts = ["/serviceAccountName", "/serviceAccount"].map(|field| text(spec, field).to_owned());
        if let Some(account) = accounts.into_iter().find(|name| !name.is_empty()) {
            name_account(object, &account);
        }
    }

    fn prepare_create(&self, object: &mut Value, _subject: &Subject<'_>) {
        if let Some(map) = object.as_object_mut() {
            let class = resources::class(map.get("spec").unwrap_or(&Value::Null));
            map.insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
        }
        if text(object, "/spec/serviceAccountName").is_empty() {
            name_account(object, service_account::DEFAULT);
        }
        tolerate_for_a_while(object);
    }

    fn mutate(&self, object: &mut Value, view: &dyn Read) {
        token::give(object, view);
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        validate::spec(object.get("spec").unwrap_or(&Value::Null), "spec")
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        validate::update(new, old)
    }

    fn admit(
        &self,
        view: &dyn Read,
        new: &Value,
        old: Option<&Value>,
        subject: &Subject<'_>,
    ) -> Result<(), Status> {
        let account = text(new, "/spec/serviceAccountName");
        // The default account comes a moment after its namespace: a Pod may be there first.
        if old.is_some() || account == service_account::DEFAULT {
            return Ok(());
        }
        let namespace = subject.key.namespace.as_str();
        if view.get(&SERVICE_ACCOUNTS.storage_key(&ObjectKey::new(namespace, account))).is_some() {
            return Ok(());
        }
        let looked_up = format!("error looking up service account {namespace}/{account}");
        let why = format!("{looked_up}: serviceaccount {account:?} not found");
        Err(Status::forbidden(subject.resource, &subject.key.name, &why))
    }

    fn subresource(&self, name: &str, sent: &Value, old: &Value) -> Option<Value> {
        // Only the status: with the labels a node could put its Pods behind any Service.
        (name == "status").then(|| {
            let mut new = old.clone();
            keep(&mut new, sent, "status");
            new
        })
    }

    fn validate_subresource(&self, name: &str, new: &Value, _old: &Value) -> Vec<Cause> {
        if name == "status" { addresses::check(new) } else { Vec::new() }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn grace(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let own = int(object, "/spec/terminationGracePeriodSeconds");
        let seconds = requested.or(own).unwrap_or(GRACE_SECONDS_DEFAULT);
        let over = ["Succeeded", "Failed"].contains(&text(object, "/status/phase"));
        Some(match seconds {
            _ if over || text(object, "/spec/nodeName").is_empty() => 0,
            i64::MIN..0 => 1,
            _ => seconds,
        })
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Ready", "string"),
                Column::new("Status", "string"),
                Column::new("Restarts", "string"),
                Column::new("Age", "string"),
                Column::wide("IP", "string"),
                Column::wide("Node", "string"),
                Column::wide("Nominated Node", "string"),
                Column::wide("Readiness Gates", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let row = columns::row(object);
        let or_none = |pointer: &str| match text(object, pointer) {
            "" => "<none>".to_owned(),
            words => words.to_owned(),
        };
        vec![
            name(object),
            json!(row.ready()),
            json!(row.status),
            json!(row.restarts(now)),
            age(object, now),
            json!(or_none("/status/podIP")),
            json!(or_none("/spec/nodeName")),
            json!(or_none("/status/nominatedNodeName")),
            json!(columns::gates(object)),
        ]
    }
}

fn name_account(pod: &mut Value, name: &str) {
    set(pod, "spec", "serviceAccountName", name);
    set(pod, "spec", "serviceAccount", name);
}

/// Defaults of a Pod's spec, in a Pod or in a template of Pods.
pub(super) fn default_spec(spec: &mut Value) {
    fill(spec, "restartPolicy", "Always");
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "schedulerName", "default-scheduler");
    fill(spec, "terminationGracePeriodSeconds", GRACE_SECONDS_DEFAULT);
    fill(spec, "securityContext", json!({}));
    volumes::default(spec);
    for list in ["/containers", "/initContainers"] {
        items_mut(spec, list).for_each(default_container);
    }
}

/// What Kubernetes' DefaultTolerationSeconds adds to a new Pod.
fn tolerate_for_a_while(pod: &mut Value) {
    let mut tolerations = items(pod, "/spec/tolerations").to_vec();
    let said = tolerations.len();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |toleration: &Value| {
            [key, ""].contains(&text(toleration, "/key"))
                && ["NoExecute", ""].contains(&text(toleration, "/effect"))
        };
        if !tolerations[..said].iter().any(covers) {
            let seconds = TOLERATION_SECONDS_DEFAULT;
            let effect = "NoExecute";
            tolerations.push(
                json!({"key": key, "operator": "Exists", "effect": effect, "tolerationSeconds": seconds}),
            );
        }
    }
    set(pod, "spec", "tolerations", tolerations);
}

fn default_container(container: &mut Value) {
    let image = text(container, "/image");
    let (_, last) = image.rsplit_once('/').unwrap_or(("", image));
    let latest = !last.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    fill(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    resources::default(container);
    probes::default(container);
    lifecycle::default(container);
    for port in items_mut(container, "/ports") {
        fill(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "/env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            fill(field, "apiVersion", "v1");
        }
        variable.pointer_mut("/valueFrom/resourceFieldRef").into_iter().for_each(resources::default_field);
    }
}

/// Binds a Pod to a node: a create of `pods/NAME/binding`. The answer is a `Status`.
///
/// # Errors
/// 404 without the Pod, 409 if it is bound or going already or is another than the binding's uid says, 422 naming
/// the faulty field of the binding.
pub fn bind(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    key: &ObjectKey,
    binding: &Value,
) -> Result<Outcome, Status> {
    let storage_key = PODS.storage_key(key);
    let stored = view.get(&storage_key).ok_or_else(|| Status::not_found(&PODS, &key.name))?;
    let kind = text(binding, "/target/kind");
    let node = text(binding, "/target/name");
    let mut causes = Vec::new();
    if !["", "Node"].contains(&kind) {
        causes.push(Cause::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if node.is_empty() {
        causes.push(Cause::required("target.name", ""));
    }
    if !causes.is_empty() {
        return Err(Status::invalid(&PODS, &key.name, causes));
    }
    let mut pod = parse(&stored);
    let conflict = |why: String| Err(Status::conflict(&PODS, &key.name, &why));
    let uid = text(binding, "/metadata/uid");
    if !uid.is_empty() && uid != text(&pod, "/metadata/uid") {
        let stored = text(&pod, "/metadata/uid");
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}"
        ));
    }
    if at(&pod, "/metadata/deletionTimestamp").is_some() {
        return conflict(format!("pod {} is being deleted, cannot be assigned to a host", key.name));
    }
    let bound = text(&pod, "/spec/nodeName");
    if !bound.is_empty() {
        return conflict(format!("pod {} is already assigned to node {bound:?}", key.name));
    }
    set(&mut pod, "spec", "nodeName", node);
    set_scheduled(&mut pod, ctx.now);
    if kinds::strategy(&PODS)?.has_generation() {
        let generation = int(&pod, "/metadata/generation").unwrap_or(0);
        set(&mut pod, "metadata", "generation", generation + 1);
    }
    meta::drop_server_fields(&mut pod);
    Ok(Outcome::put(storage_key, pod, Vec::new(), ctx.dry_run).told_by_status())
}

fn set_scheduled(pod: &mut Value, now: jiff::Timestamp) {
    let mut conditions = items(pod, "/status/conditions").to_vec();
    conditions.retain(|condition| text(condition, "/type") != "PodScheduled");
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                           "lastTransitionTime": time(now)}));
    if let Some(status) = object_mut(pod, "status") {
        status.insert("conditions".to_owned(), Value::Array(conditions));
    }
}
