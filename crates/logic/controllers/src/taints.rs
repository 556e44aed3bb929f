//! Taints of nodes, and which of them a Pod tolerates.
//!
//! Source: kubernetes `component-helpers/scheduling/corev1`, `pkg/controller/nodelifecycle` (`TaintNodesByCondition`).
//! Invariant: the taints that follow from a node's state are ours, by key and effect; no other is ever changed.

use crate::objects::node_condition;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::Time,
};

pub(crate) const NO_SCHEDULE: &str = "NoSchedule";
pub(crate) const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
pub(crate) const NO_EXECUTE: &str = "NoExecute";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// What `kubectl cordon` leads to.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new Pods away while they hold.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The taints that follow from a node's state, by key and effect.
fn implied(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut taints = match node_condition(node, "Ready").map(|condition| condition.status.as_str()) {
        Some("True") => Vec::new(),
        Some("False") => vec![(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)],
        Some(_) => vec![(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)],
        // It has only just registered.
        None => vec![(NOT_READY, NO_SCHEDULE)],
    };
    let holds = |kind: &str| node_condition(node, kind).is_some_and(|condition| condition.status == "True");
    taints.extend(PRESSURES.iter().filter(|(kind, _)| holds(kind)).map(|(_, key)| (*key, NO_SCHEDULE)));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        taints.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    taints
}

fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        NO_SCHEDULE => {
            let pressure = PRESSURES.iter().any(|(_, key)| *key == taint.key);
            pressure || [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
        }
        NO_EXECUTE => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        _ => false,
    }
}

/// The taints a node has.
pub(crate) fn written(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// The taints a node has, without those of ours that its state gives no reason for any more: they are about to go.
pub(crate) fn standing(node: &Node) -> impl Iterator<Item = &Taint> {
    let implied = implied(node);
    let is_implied = move |taint: &Taint| implied.contains(&(taint.key.as_str(), taint.effect.as_str()));
    written(node).iter().filter(move |taint| !is_ours(taint) || is_implied(taint))
}

/// The taints that count for new Pods: those that stand, and those that its state will lead to.
pub(crate) fn effective(node: &Node) -> Vec<Taint> {
    let mut taints: Vec<Taint> = standing(node).cloned().collect();
    let going = node.metadata.deletion_timestamp.as_ref().map(|_| (NOT_READY, NO_SCHEDULE));
    for (key, effect) in implied(node).into_iter().chain(going) {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() });
        }
    }
    taints
}

/// The taints a node must have, if they are others than it has. Those that stay keep the time they were added.
pub(crate) fn mended(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    // Before its first status there is nothing to go by.
    node_condition(node, "Ready")?;
    let (written, implied) = (written(node), implied(node));
    let mut taints: Vec<Taint> = standing(node).cloned().collect();
    // `kubectl taint` says no time: what Pods tolerate for a while is counted from when it was seen.
    for taint in taints.iter_mut().filter(|taint| taint.effect == NO_EXECUTE) {
        taint.time_added.get_or_insert(Time(now));
    }
    for (key, effect) in implied {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let (key, effect) = (key.to_owned(), effect.to_owned());
            taints.push(Taint { key, effect, value: None, time_added: Some(Time(now)) });
        }
    }
    (taints != written).then_some(taints)
}

/// What a Pod tolerates.
pub(crate) fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// Whether one toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let says = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if says(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    match says(&toleration.key) {
        None => exists,
        Some(key) if key != taint.key => false,
        Some(_) => exists || says(&toleration.value) == says(&taint.value),
    }
}

/// The first of these taints with one of these effects that a Pod does not tolerate.
pub(crate) fn untolerated<'t>(pod: &Pod, taints: &'t [Taint], effects: &[&str]) -> Option<&'t Taint> {
    let tolerations = tolerations(pod);
    taints.iter().find(|taint| {
        effects.contains(&taint.effect.as_str())
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(value: serde_json::Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    fn keys(taints: &[Taint]) -> Vec<String> {
        taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    }

    #[test]
    fn a_nodes_state_is_its_taints_and_others_stay() {
        let conditions = |ready: &str, disk: &str| json!([{ "type": "Ready", "status": ready }, { "type": "DiskPressure", "status": disk }]);
        let own = json!({ "key": "dedicated", "value": "db", "effect": "NoSchedule" });
        let mut object = node(
            json!({ "spec": { "taints": [own] }, "status": { "conditions": conditions("True", "False") } }),
        );
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(mended(&object, now), None);
        for (ready, disk, cordoned, expected) in [
            (
                "False",
                "False",
                false,
                "node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute",
            ),
            (
                "Unknown",
                "False",
                false,
                "node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute",
            ),
            (
                "True",
                "True",
                true,
                "node.kubernetes.io/disk-pressure:NoSchedule node.kubernetes.io/unschedulable:NoSchedule",
            ),
        ] {
            object.status.as_mut().unwrap().conditions =
                serde_json::from_value(conditions(ready, disk)).unwrap();
            object.spec.as_mut().unwrap().unschedulable = Some(cordoned);
            let taints = mended(&object, now).unwrap();
            assert_eq!(keys(&taints).join(" "), format!("dedicated:NoSchedule {expected}"));
            assert_eq!(keys(&effective(&object))[..1], ["dedicated:NoSchedule".to_owned()]);
            object.spec.as_mut().unwrap().taints = Some(taints.clone());
            let later = now + jiff::SignedDuration::from_secs(9);
            assert_eq!(mended(&object, later), None, "what stays keeps its time");
            assert_eq!(effective(&object), taints);
        }
        object.spec.as_mut().unwrap().unschedulable = None;
        object.status.as_mut().unwrap().conditions =
            serde_json::from_value(conditions("True", "False")).unwrap();
        assert_eq!(keys(&mended(&object, now).unwrap()), ["dedicated:NoSchedule"]);
        assert_eq!(
            keys(&effective(&object)),
            ["dedicated:NoSchedule"],
            "what is about to go keeps nobody away"
        );
        object.status.as_mut().unwrap().conditions = None;
        assert_eq!(mended(&object, now), None, "nothing is known yet");
        assert!(keys(&effective(&object)).contains(&"node.kubernetes.io/not-ready:NoSchedule".to_owned()));
    }

    #[test]
    fn a_toleration_covers_key_value_and_effect() {
        let taint = |key: &str, value: &str, effect: &str| Taint {
            key: key.to_owned(),
            value: Some(value.to_owned()),
            effect: effect.to_owned(),
            time_added: None,
        };
        for (toleration, covered, not) in [
            (json!({ "operator": "Exists" }), vec![("a", "b", "NoExecute")], vec![]),
            (
                json!({ "key": "a", "value": "b" }),
                vec![("a", "b", "NoSchedule")],
                vec![("a", "c", "NoSchedule"), ("x", "b", "NoSchedule")],
            ),
            (
                json!({ "key": "a", "operator": "Exists", "effect": "NoExecute" }),
                vec![("a", "x", "NoExecute")],
                vec![("a", "x", "NoSchedule")],
            ),
            (
                json!({ "key": "a", "operator": "Equal" }),
                vec![("a", "", "NoSchedule")],
                vec![("a", "b", "NoSchedule")],
            ),
            (json!({ "key": "", "operator": "Equal" }), vec![], vec![("", "", "NoSchedule")]),
        ] {
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            for (cases, expected) in [(covered, true), (not, false)] {
                for (key, value, effect) in cases {
                    assert_eq!(
                        tolerates(&toleration, &taint(key, value, effect)),
                        expected,
                        "{toleration:?} {key} {value} {effect}"
                    );
                }
            }
        }
    }
}
