//! Whether a node runs a Pod that was bound to it, by whomever: what the scheduler looks at, looked at once more.
//!
//! A Pod with `nodeName` never met the scheduler; and of two that were bound at once only one may fit. Source: kubelet
//! `pkg/kubelet/lifecycle/predicate.go` (`generalFilter`), whose reasons and words these are.

use super::{
    fit, node_affinity,
    places::Place,
    requests::{CPU, Wanted},
};
use crate::taints;
use k8s_openapi::api::core::v1::{Node, Pod};
use minisvc_apimachinery::Quantity;

/// Why a Pod fails before it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One word, such as `NodePorts` or `OutOfcpu`.
    pub reason: String,
    /// What is in its way.
    pub message: String,
}

/// Why `node` does not run `pod` beside `others`, which it runs; none if it does.
pub fn rejection<'p>(pod: &Pod, node: &Node, others: impl Iterator<Item = &'p Pod>) -> Option<Rejection> {
    let mut place = Place::new(node.metadata.name.as_deref().unwrap_or_default(), node);
    others.for_each(|other| place.take(&Wanted::of(other)));
    let wanted = Wanted::of(pod);
    if let Some(short) = fit::shortages(&wanted, &place).into_iter().next() {
        let fit::Shortage { name, wanted, used, has } = short;
        let [wanted, used, has] = [wanted, used, has]
            .map(|amount: Quantity| if name == CPU { amount.millis() } else { amount.units() });
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {has}"
        );
        return Some(Rejection { reason: format!("OutOf{name}"), message });
    }
    let (plugin, words) = if !node_affinity::allows(pod, node) {
        ("NodeAffinity", fit::NO_AFFINITY)
    } else if fit::is_port_taken(&wanted, &place) {
        ("NodePorts", fit::NO_PORTS)
    } else if taints::untolerated(pod, taints::written(node), &[taints::NO_EXECUTE]).is_some() {
        ("TaintToleration", "node(s) had taints that the pod didn't tolerate")
    } else {
        return None;
    };
    Some(Rejection { reason: plugin.to_owned(), message: format!("Predicate {plugin} failed: {words}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rejected(pod: Value, others: &[Value]) -> Option<(String, String)> {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": "n", "labels": { "disk": "ssd" } },
            "spec": { "taints": [
                { "key": "soft", "effect": "NoSchedule" }, { "key": "hard", "value": "v", "effect": "NoExecute" }] },
            "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "3" } },
        }))
        .unwrap();
        let read = |spec: &Value| -> Pod { serde_json::from_value(json!({ "spec": spec })).unwrap() };
        let others: Vec<Pod> = others.iter().map(read).collect();
        let mut pod = read(&pod);
        let spec = pod.spec.get_or_insert_default();
        if spec.priority.take().is_none() {
            spec.tolerations =
                Some(vec![serde_json::from_value(json!({ "key": "hard", "operator": "Exists" })).unwrap()]);
        }
        rejection(&pod, &node, others.iter()).map(|rejection| (rejection.reason, rejection.message))
    }

    fn asks(amounts: Value) -> Value {
        json!({ "containers": [{ "name": "c", "resources": { "requests": amounts } }] })
    }

    fn takes(port: i32) -> Value {
        json!({ "containers": [{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": port }] }] })
    }

    #[test]
    fn a_pod_that_does_not_fit_is_rejected_in_the_kubelets_words() {
        let some = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
        assert_eq!(rejected(asks(json!({ "cpu": "500m" })), &[asks(json!({ "cpu": "1500m" }))]), None);
        assert_eq!(
            rejected(asks(json!({ "cpu": "501m" })), &[asks(json!({ "cpu": "1500m" }))]),
            some(
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"
            )
        );
        let words =
            "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824";
        assert_eq!(rejected(asks(json!({ "memory": "2Gi" })), &[]), some("OutOfmemory", words));
        let three = [takes(1), takes(2), takes(3)];
        let words = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        assert_eq!(rejected(takes(4), &three), some("OutOfpods", words));
        assert_eq!(rejected(takes(4), &three[..2]), None);
        let words = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        assert_eq!(rejected(takes(2), &three[..2]), some("NodePorts", words));
        let elsewhere = json!({ "containers": [], "nodeSelector": { "disk": "tape" } });
        let words = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        assert_eq!(rejected(elsewhere, &[]), some("NodeAffinity", words));
        let words = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        assert_eq!(rejected(json!({ "containers": [], "priority": 1 }), &[]), some("TaintToleration", words));
    }
}
