//! Which nodes a Pod wants by their labels: `nodeSelector`, `affinity.nodeAffinity`.
//!
//! Source: kubernetes `component-helpers/scheduling/corev1/nodeaffinity`.

use k8s_openapi::api::core::v1::{Node, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Pod};

fn affinity(pod: &Pod) -> Option<&NodeAffinity> {
    pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

fn label<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Whether a node is one of those a Pod can run on.
pub(super) fn allows(pod: &Pod, node: &Node) -> bool {
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let selected = selector
        .is_none_or(|wanted| wanted.iter().all(|(key, value)| label(node, key) == Some(value.as_str())));
    let required = affinity(pod)
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// How much a Pod would like a node: the weights of what it prefers, added up.
pub(super) fn preference(pod: &Pod, node: &Node) -> i64 {
    let preferred = affinity(pod)
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref());
    // A preference for nothing in particular is one for every node, in vain.
    let liked = preferred.unwrap_or_default().iter().filter(|term| matches(&term.preference, node));
    liked.map(|term| i64::from(term.weight)).sum()
}

/// All of a term must hold; one that says nothing matches no node.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let of_name = |wanted: &NodeSelectorRequirement| {
        wanted.key == "metadata.name" && holds(wanted, node.metadata.name.as_deref())
    };
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|wanted| holds(wanted, label(node, &wanted.key)))
        && fields.iter().all(of_name)
}

fn holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|other| other == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
