//! Which Pods a Pod wants to be near to or far from: the terms of `podAffinity` and `podAntiAffinity`.
//!
//! Source: kubernetes `pkg/scheduler/framework/types.go` (`AffinityTerm`). Invariant: a term that cannot be read matches no Pod.

use k8s_openapi::{
    api::core::v1::{Affinity, Pod, PodAffinityTerm, WeightedPodAffinityTerm},
    apimachinery::pkg::apis::meta::v1 as meta,
};
use minisvc_apimachinery::{ObjectKey, Snapshot, selector::LabelSelector};
use std::collections::BTreeMap;

fn affinity(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref()?.affinity.as_ref()
}

/// The terms of one kind that must hold.
type Required = Option<Vec<PodAffinityTerm>>;
/// The same that are wished for.
type Preferred = Option<Vec<WeightedPodAffinityTerm>>;

fn near(pod: &Pod) -> Option<(&Required, &Preferred)> {
    let near = affinity(pod)?.pod_affinity.as_ref()?;
    Some((
        &near.required_during_scheduling_ignored_during_execution,
        &near.preferred_during_scheduling_ignored_during_execution,
    ))
}

fn far(pod: &Pod) -> Option<(&Required, &Preferred)> {
    let far = affinity(pod)?.pod_anti_affinity.as_ref()?;
    Some((
        &far.required_during_scheduling_ignored_during_execution,
        &far.preferred_during_scheduling_ignored_during_execution,
    ))
}

/// One term, for a Pod of one namespace.
pub(super) struct Term<'a> {
    selector: Option<LabelSelector>,
    namespaces: Namespaces<'a>,
    /// Label of nodes whose equal values make one domain.
    pub(super) topology_key: &'a str,
}

enum Namespaces<'a> {
    /// The Pod's own.
    Own(&'a str),
    Named(&'a [String], Option<LabelSelector>),
}

impl<'a> Term<'a> {
    fn new(namespace: &'a str, term: &'a PodAffinityTerm) -> Self {
        let named = term.namespaces.as_deref().unwrap_or_default();
        let namespaces = match &term.namespace_selector {
            None if named.is_empty() => Namespaces::Own(namespace),
            selecting => Namespaces::Named(named, read(selecting.as_ref())),
        };
        Self { selector: read(term.label_selector.as_ref()), namespaces, topology_key: &term.topology_key }
    }

    /// Whether it means this Pod.
    pub(super) fn matches(&self, snapshot: &Snapshot, key: &ObjectKey, pod: &Pod) -> bool {
        let in_namespace = match &self.namespaces {
            Namespaces::Own(own) => *own == key.namespace,
            Namespaces::Named(named, selector) => {
                named.contains(&key.namespace)
                    || selector.as_ref().is_some_and(|selector| {
                        let object = snapshot.namespaces.get(&ObjectKey::cluster(key.namespace.as_str()));
                        object.is_some_and(|object| has_labels(selector, object.metadata.labels.as_ref()))
                    })
            }
        };
        let selects = |selector| has_labels(selector, pod.metadata.labels.as_ref());
        in_namespace && self.selector.as_ref().is_some_and(selects)
    }
}

/// A selector as it is written; none selects nothing.
pub(super) fn read(selector: Option<&meta::LabelSelector>) -> Option<LabelSelector> {
    LabelSelector::from_selector(selector?).ok()
}

pub(super) fn has_labels(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.map_or_else(|| selector.matches(&BTreeMap::new()), |labels| selector.matches(labels))
}

/// What a Pod says of other Pods.
pub(super) struct Terms<'a> {
    /// Those that must be near.
    pub(super) near: Vec<Term<'a>>,
    /// Those that must not be.
    pub(super) far: Vec<Term<'a>>,
    /// How much more, or less, it likes a place for each Pod that is near.
    pub(super) liked: Vec<(i64, Term<'a>)>,
}

impl<'a> Terms<'a> {
    pub(super) fn of(namespace: &'a str, pod: &'a Pod) -> Self {
        let required = |of: Option<(&'a Required, &'a Preferred)>| -> Vec<Term<'a>> {
            let terms = of.and_then(|(required, _)| required.as_deref()).unwrap_or_default();
            terms.iter().map(|term| Term::new(namespace, term)).collect()
        };
        let preferred = |of: Option<(&'a Required, &'a Preferred)>, sign: i64| {
            let terms = of.and_then(|(_, preferred)| preferred.as_deref()).unwrap_or_default();
            terms.iter().map(move |weighted| {
                (sign * i64::from(weighted.weight), Term::new(namespace, &weighted.pod_affinity_term))
            })
        };
        let (near, far) = (near(pod), far(pod));
        Self {
            near: required(near),
            far: required(far),
            liked: preferred(near, 1).chain(preferred(far, -1)).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.near.is_empty() && self.far.is_empty() && self.liked.is_empty()
    }
}
