//! Which node runs a Pod.
//!
//! In: Pods without a node. Out: for each a binding, or a condition `PodScheduled=False` in Kubernetes' words.
//!
//! A node fits if it is Ready, schedulable, matches the Pod's nodeSelector and node affinity, has no taint the Pod does not
//! tolerate, room for another Pod, what the Pod requests, and the ports of the host that it takes; and if the Pods that are there allow
//! it (`neighbours`). Of those that fit, one that has no taint against it (`PreferNoSchedule`) is taken, then the one the Pod prefers,
//! by the node and then by the Pods that are there, then one of the zone, and of the zone the one, with the fewest Pods of the same kind (of the Services that select the Pod; else of the same owner; else with the same
//! labels), then the one of which the least is taken, then the first by name. Pods of one pass count for those after them.

mod admission;
mod fit;
mod neighbours;
mod node_affinity;
mod places;
mod requests;
mod terms;
#[cfg(test)]
mod tests;

pub use admission::{Rejection, rejection};

use crate::{
    objects::{is_over, node_of, pod_condition, selector, selects, uid},
    plan::{Notice, Plan, Write},
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use minisvc_apimachinery::{ObjectKey, Snapshot, resource::PODS};
use neighbours::{Neighbours, Verdict};
use places::{Place, Places};
use requests::Wanted;
use serde_json::json;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Most Pods of one pass; the rest are placed in the next.
pub const PASS_MAX: usize = 200;

/// What Pods are of the same kind by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Service(ObjectKey),
    Owner(String),
    Labels(String, BTreeMap<String, String>),
}

/// Plans the Pods that have no node, the oldest first.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut pending: Vec<(&ObjectKey, &Pod)> =
        snapshot.pods.iter().map(|(key, pod)| (key, pod.as_ref())).filter(|(_, pod)| waits(pod)).collect();
    let mut plan = Plan::default();
    if pending.is_empty() {
        return plan;
    }
    pending.sort_by(|a, b| {
        (&a.1.metadata.creation_timestamp, a.0).cmp(&(&b.1.metadata.creation_timestamp, b.0))
    });
    // Pods that were refused before wait behind those that are new, so they cannot fill every pass.
    pending.sort_by_key(|(_, pod)| pod_condition(pod, "PodScheduled").is_some());
    let refused_only = pending.iter().all(|(_, pod)| pod_condition(pod, "PodScheduled").is_some());
    if !refused_only {
        pending.truncate(PASS_MAX);
    }
    let mut places = Places::new(snapshot);
    let mut counts = Counts::new(snapshot, &places, &pending);
    let mut neighbours = Neighbours::new(snapshot, &places);
    for (key, pod) in pending {
        let wanted = Wanted::of(pod);
        let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
        let mut fitting: Vec<Fitting> = Vec::new();
        let verdicts = neighbours.judge(key, pod, &places.all);
        for ((number, place), verdict) in places.all.iter().enumerate().zip(verdicts) {
            let mut words = fit::refusals(pod, &wanted, place);
            match verdict {
                _ if !words.is_empty() => {}
                Verdict::Refused(word) => words.push(word.to_owned()),
                Verdict::Liked(liked, crowd) => fitting.push(Fitting { number, liked, crowd }),
            }
            words.into_iter().for_each(|words| *refusals.entry(words).or_default() += 1);
        }
        match counts.best(key, pod, &places.all, &fitting) {
            Some(number) => {
                counts.placed(key, &places.all[number]);
                neighbours.take(key, pod, number);
                places.all[number].take(&wanted);
                let node = places.all[number].name.to_owned();
                let message = format!("Successfully assigned {key} to {node}");
                let notice = Notice::new(&PODS, key, &pod.metadata, "Scheduled", message);
                plan.notices.push(notice.with(&PODS, key));
                plan.writes.push(Write::Bind { pod: key.clone(), uid: uid(&pod.metadata).to_owned(), node });
            }
            None => refuse(key, pod, &fit::message(snapshot.nodes.len(), &refusals), now, &mut plan),
        }
    }
    plan
}

fn waits(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let ours =
        spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == "default-scheduler");
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    node_of(pod).is_none() && pod.metadata.deletion_timestamp.is_none() && !is_over(pod) && ours && !gated
}

fn refuse(key: &ObjectKey, pod: &Pod, message: &str, now: Timestamp, plan: &mut Plan) {
    let present = pod_condition(pod, "PodScheduled");
    let same = present.is_some_and(|condition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref() == Some(message)
    });
    if same {
        return;
    }
    let since = present
        .filter(|condition| condition.status == "False")
        .and_then(|condition| condition.last_transition_time.clone())
        .unwrap_or(Time(now));
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    let mut conditions: Vec<_> = conditions.iter().map(|condition| json!(condition)).collect();
    conditions.push(json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": message, "lastTransitionTime": since,
    }));
    plan.writes.push(Write::status(&PODS, key, &pod.metadata, json!({ "conditions": conditions })));
    let notice = Notice::warning(&PODS, key, &pod.metadata, "FailedScheduling", message.to_owned());
    plan.notices.push(notice.with(&PODS, key));
}

/// A node that takes a Pod.
struct Fitting {
    number: usize,
    /// How much the Pod and those that are there like each other.
    liked: i64,
    /// How many Pods are there that it would rather be away from.
    crowd: usize,
}

/// How many Pods that are alike are where: by node, and by zone.
struct Counts<'a> {
    of_node: BTreeMap<(Group, &'a str), usize>,
    of_zone: BTreeMap<(Group, &'a str), usize>,
    groups: BTreeMap<&'a ObjectKey, Vec<Group>>,
}

impl<'a> Counts<'a> {
    fn new(snapshot: &'a Snapshot, places: &Places<'a>, pending: &[(&'a ObjectKey, &'a Pod)]) -> Self {
        let groups: BTreeMap<&ObjectKey, Vec<Group>> =
            pending.iter().map(|(key, pod)| (*key, groups_of(snapshot, key, pod))).collect();
        let mut counts = Self { of_node: BTreeMap::new(), of_zone: BTreeMap::new(), groups };
        let wanted: BTreeSet<Group> = counts.groups.values().flatten().cloned().collect();
        for (key, pod, number) in places.placed(snapshot) {
            if pod.metadata.deletion_timestamp.is_some() {
                continue; // takes room, but will not serve
            }
            for group in wanted.iter().filter(|group| belongs(snapshot, key, pod, group)) {
                counts.count(group, &places.all[number]);
            }
        }
        counts
    }

    fn count(&mut self, group: &Group, place: &Place<'a>) {
        *self.of_node.entry((group.clone(), place.name)).or_default() += 1;
        *self.of_zone.entry((group.clone(), place.zone())).or_default() += 1;
    }

    /// The number of the best place of those that fit.
    fn best(&self, key: &ObjectKey, pod: &Pod, places: &[Place<'a>], fitting: &[Fitting]) -> Option<usize> {
        let groups = self.groups.get(key).map(Vec::as_slice).unwrap_or_default();
        let alike = |counted: &BTreeMap<(Group, &'a str), usize>, at: &'a str| -> usize {
            groups.iter().filter_map(|group| counted.get(&(group.clone(), at))).sum()
        };
        let best = fitting.iter().min_by_key(|fitting| {
            let place = &places[fitting.number];
            let liked =
                (Reverse(node_affinity::preference(pod, place.node)), Reverse(fitting.liked), fitting.crowd);
            let spread = (alike(&self.of_zone, place.zone()), alike(&self.of_node, place.name));
            (fit::reluctance(pod, place.node), liked, spread, place.load(), place.pods, place.name)
        });
        best.map(|fitting| fitting.number)
    }

    fn placed(&mut self, key: &ObjectKey, place: &Place<'a>) {
        for group in self.groups.get(key).cloned().unwrap_or_default() {
            self.count(&group, place);
        }
    }
}

fn controller_of(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.as_deref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// What a Pod is like: the Services that select it; without any, its owner; without one, its app label or all labels.
fn groups_of(snapshot: &Snapshot, key: &ObjectKey, pod: &Pod) -> Vec<Group> {
    let namespace = key.namespace.as_str();
    let services = snapshot
        .services
        .range(ObjectKey::new(namespace, "")..)
        .take_while(|(key, _)| key.namespace == namespace);
    let selecting: Vec<Group> = services
        .filter(|(_, service)| selector(service).is_some_and(|selector| selects(selector, &pod.metadata)))
        .map(|(key, _)| Group::Service(key.clone()))
        .collect();
    if !selecting.is_empty() {
        return selecting;
    }
    if let Some(owner) = controller_of(pod) {
        return vec![Group::Owner(owner.to_owned())];
    }
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let app =
        ["app.kubernetes.io/name", "app", "k8s-app"].into_iter().find_map(|name| labels.get_key_value(name));
    let labels = match app {
        Some((name, value)) => [(name.clone(), value.clone())].into(),
        None => labels,
    };
    if labels.is_empty() { Vec::new() } else { vec![Group::Labels(namespace.to_owned(), labels)] }
}

fn belongs(snapshot: &Snapshot, key: &ObjectKey, pod: &Pod, group: &Group) -> bool {
    match group {
        Group::Service(service) => {
            service.namespace == key.namespace
                && snapshot
                    .services
                    .get(service)
                    .and_then(|service| selector(service))
                    .is_some_and(|selector| selects(selector, &pod.metadata))
        }
        Group::Owner(uid) => controller_of(pod) == Some(uid),
        Group::Labels(namespace, labels) => *namespace == key.namespace && selects(labels, &pod.metadata),
    }
}
