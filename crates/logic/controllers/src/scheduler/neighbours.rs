//! Where a Pod may be because of the Pods that are there: `podAffinity`, `podAntiAffinity`, `topologySpreadConstraints`.
//!
//! In: the Pods on the nodes, those of this pass too. Out: for each node a word against it, or how much it is liked.
//!
//! Source: kubernetes `pkg/scheduler/framework/plugins/{interpodaffinity,podtopologyspread}`, whose words these are. Invariants: what an
//! older Pod keeps away from it stays away; a domain is counted over all nodes that the Pod could be on.

use super::{
    node_affinity,
    places::{Place, Places},
    terms::{Term, Terms, has_labels, read},
};
use crate::taints;
use k8s_openapi::{
    api::core::v1::{Pod, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement,
};
use minisvc_apimachinery::{ObjectKey, Snapshot, selector::LabelSelector};
use std::collections::{BTreeMap, BTreeSet};

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const NOT_FAR: &str = "node(s) didn't match pod anti-affinity rules";
const KEPT_AWAY: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
/// What a Pod that must be near another is worth to that other, as Kubernetes has it (`hardPodAffinityWeight`).
const MUTUAL_WEIGHT: i64 = 1;

/// A domain: label and value of nodes.
type Domain<'a> = (&'a str, &'a str);

/// The Pods on the nodes.
pub(super) struct Neighbours<'a> {
    snapshot: &'a Snapshot,
    /// With the number of their place.
    pods: Vec<(&'a ObjectKey, &'a Pod, usize)>,
    /// Those of them that say something of others.
    speaking: Vec<(&'a ObjectKey, &'a Pod, usize, Terms<'a>)>,
}

/// What a place is worth to one Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing, and why.
    Refused(&'static str),
    /// How much it is liked; and how many Pods are there that it would rather be away from.
    Liked(i64, usize),
}

impl<'a> Neighbours<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, places: &Places<'a>) -> Self {
        let mut neighbours = Self { snapshot, pods: Vec::new(), speaking: Vec::new() };
        for (key, pod, number) in places.placed(snapshot) {
            neighbours.take(key, pod, number);
        }
        neighbours
    }

    /// A Pod is on this place from now on.
    pub(super) fn take(&mut self, key: &'a ObjectKey, pod: &'a Pod, number: usize) {
        self.pods.push((key, pod, number));
        let terms = Terms::of(&key.namespace, pod);
        if !terms.is_empty() {
            self.speaking.push((key, pod, number, terms));
        }
    }

    /// What each place is worth to a Pod, in the order of the places.
    pub(super) fn judge(&self, key: &'a ObjectKey, pod: &'a Pod, places: &[Place<'a>]) -> Vec<Verdict> {
        let terms = Terms::of(&key.namespace, pod);
        let constraints = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref());
        let constraints = constraints.unwrap_or_default();
        if terms.is_empty() && constraints.is_empty() && self.speaking.is_empty() {
            return vec![Verdict::Liked(0, 0); places.len()];
        }
        let spreads = self.spreads(key, pod, constraints, places);
        let near = self.near(&terms, key, pod, places);
        let far = self.domains(&terms.far, places);
        let kept_away = self.kept_away(key, pod, places);
        let liked = self.liked(&terms, key, pod, places);
        let judge = |place: &Place<'a>| {
            let is_in = |domains: &BTreeSet<Domain<'_>>| {
                domains.iter().any(|(label, value)| place.label(label) == Some(*value))
            };
            let word = spreads.iter().find_map(|spread| spread.refusal(place));
            let word = word
                .or_else(|| (!near.allows(&terms, place)).then_some(NOT_NEAR))
                .or_else(|| is_in(&far).then_some(NOT_FAR))
                .or_else(|| is_in(&kept_away).then_some(KEPT_AWAY));
            match word {
                Some(word) => Verdict::Refused(word),
                None => {
                    let here = liked.iter().filter(|((label, value), _)| place.label(label) == Some(*value));
                    let crowd = spreads.iter().map(|spread| spread.crowd(place));
                    Verdict::Liked(here.map(|(_, weight)| weight).sum(), crowd.fold(0, usize::saturating_add))
                }
            }
        };
        places.iter().map(judge).collect()
    }

    /// The domains in which a Pod is that one of these terms means.
    fn domains<'t>(&self, terms: &'t [Term<'_>], places: &[Place<'a>]) -> BTreeSet<Domain<'t>>
    where
        'a: 't,
    {
        let mut found = BTreeSet::new();
        for term in terms {
            for (key, pod, number) in &self.pods {
                if let Some(value) = places[*number].label(term.topology_key)
                    && term.matches(self.snapshot, key, pod)
                {
                    found.insert((term.topology_key, value));
                }
            }
        }
        found
    }

    fn near(&self, terms: &Terms<'a>, key: &ObjectKey, pod: &Pod, places: &[Place<'a>]) -> Near<'a> {
        let mut near = Near::default();
        if terms.near.is_empty() {
            return near;
        }
        let all =
            |key: &ObjectKey, pod: &Pod| terms.near.iter().all(|term| term.matches(self.snapshot, key, pod));
        for (_, _, number) in self.pods.iter().filter(|(key, pod, _)| all(key, pod)) {
            for term in &terms.near {
                let value = places[*number].label(term.topology_key);
                near.domains.extend(value.map(|value| (term.topology_key, value)));
            }
        }
        // The first of a group that wants to be together has nobody to be near to.
        near.is_first = near.domains.is_empty() && all(key, pod);
        near
    }

    /// The domains that Pods which are there keep this one away from.
    fn kept_away(&self, key: &ObjectKey, pod: &Pod, places: &[Place<'a>]) -> BTreeSet<Domain<'_>> {
        let mut found = BTreeSet::new();
        for (_, _, number, terms) in &self.speaking {
            for term in &terms.far {
                if let Some(value) = places[*number].label(term.topology_key)
                    && term.matches(self.snapshot, key, pod)
                {
                    found.insert((term.topology_key, value));
                }
            }
        }
        found
    }

    /// How much each domain is liked: by the Pod for the Pods that are there, and by these for the Pod.
    fn liked<'t>(
        &'t self,
        terms: &'t Terms<'a>,
        key: &ObjectKey,
        pod: &Pod,
        places: &[Place<'a>],
    ) -> BTreeMap<Domain<'t>, i64> {
        let mut found: BTreeMap<Domain<'t>, i64> = BTreeMap::new();
        let mut add = |term: &'t Term<'a>, number: usize, weight: i64| {
            if let Some(value) = places[number].label(term.topology_key) {
                *found.entry((term.topology_key, value)).or_default() += weight;
            }
        };
        for (weight, term) in &terms.liked {
            for (other, pod, number) in &self.pods {
                if term.matches(self.snapshot, other, pod) {
                    add(term, *number, *weight);
                }
            }
        }
        for (_, _, number, terms) in &self.speaking {
            let mutual = terms.near.iter().map(|term| (MUTUAL_WEIGHT, term));
            for (weight, term) in terms.liked.iter().map(|(weight, term)| (*weight, term)).chain(mutual) {
                if term.matches(self.snapshot, key, pod) {
                    add(term, *number, weight);
                }
            }
        }
        found
    }

    fn spreads(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        constraints: &'a [TopologySpreadConstraint],
        places: &[Place<'a>],
    ) -> Vec<Spread<'a>> {
        let is_hard =
            |constraint: &&TopologySpreadConstraint| constraint.when_unsatisfiable == "DoNotSchedule";
        let keys: Vec<&str> =
            constraints.iter().filter(is_hard).map(|constraint| constraint.topology_key.as_str()).collect();
        let labelled = |place: &Place<'_>| keys.iter().all(|key| place.label(key).is_some());
        let mut spreads = Vec::new();
        for constraint in constraints {
            let selector = selector(constraint, pod);
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            let counted: Vec<Option<&str>> = places
                .iter()
                .map(|place| {
                    let counts = labelled(place) && can_be_on(constraint, pod, place);
                    place.label(&constraint.topology_key).filter(|_| counts)
                })
                .collect();
            counted.iter().flatten().for_each(|value| *counts.entry(value).or_default() = 0);
            let matches = |pod: &Pod| {
                selector.as_ref().is_some_and(|selector| has_labels(selector, pod.metadata.labels.as_ref()))
            };
            for (other, pod, number) in &self.pods {
                if other.namespace == key.namespace
                    && pod.metadata.deletion_timestamp.is_none()
                    && let Some(value) = counted[*number]
                    && matches(pod)
                {
                    *counts.entry(value).or_default() += 1;
                }
            }
            let domains_min = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
            let least = counts.values().min().copied().filter(|_| counts.len() >= domains_min).unwrap_or(0);
            spreads.push(Spread {
                topology_key: &constraint.topology_key,
                is_hard: is_hard(&constraint),
                skew_max: usize::try_from(constraint.max_skew).unwrap_or(1),
                itself: usize::from(matches(pod)),
                counts,
                least,
            });
        }
        spreads
    }
}

/// The domains that a Pod must be in.
#[derive(Default)]
struct Near<'a> {
    domains: BTreeSet<Domain<'a>>,
    /// It is the first of those that it wants to be near to.
    is_first: bool,
}

impl<'a> Near<'a> {
    fn allows(&self, terms: &Terms<'a>, place: &Place<'a>) -> bool {
        terms.near.iter().all(|term| {
            let value = place.label(term.topology_key);
            value.is_some_and(|value| self.is_first || self.domains.contains(&(term.topology_key, value)))
        })
    }
}

/// One constraint, counted.
struct Spread<'a> {
    topology_key: &'a str,
    is_hard: bool,
    skew_max: usize,
    /// Whether the Pod counts itself.
    itself: usize,
    counts: BTreeMap<&'a str, usize>,
    least: usize,
}

impl Spread<'_> {
    fn count(&self, place: &Place<'_>) -> Option<usize> {
        place.label(self.topology_key).map(|value| self.counts.get(value).copied().unwrap_or(0))
    }

    fn refusal(&self, place: &Place<'_>) -> Option<&'static str> {
        match self.count(place) {
            _ if !self.is_hard => None,
            None => Some(NO_LABEL),
            Some(count) => (count + self.itself > self.least + self.skew_max).then_some(SKEWED),
        }
    }

    /// How many are there already; of what is wished only.
    fn crowd(&self, place: &Place<'_>) -> usize {
        if self.is_hard { 0 } else { self.count(place).unwrap_or(usize::MAX) }
    }
}

/// Whether the Pods of a place count: by default if the Pod's node affinity allows it, whatever its taints.
fn can_be_on(constraint: &TopologySpreadConstraint, pod: &Pod, place: &Place<'_>) -> bool {
    let honours = |policy: &Option<String>, otherwise| policy.as_deref().map_or(otherwise, |p| p == "Honor");
    let (by_affinity, by_taints) =
        (honours(&constraint.node_affinity_policy, true), honours(&constraint.node_taints_policy, false));
    let tolerated =
        || taints::untolerated(pod, &place.taints, &[taints::NO_SCHEDULE, taints::NO_EXECUTE]).is_none();
    (!by_affinity || node_affinity::allows(pod, place.node)) && (!by_taints || tolerated())
}

/// Which Pods a constraint counts: `matchLabelKeys` are the Pod's own values of these labels.
fn selector(constraint: &TopologySpreadConstraint, pod: &Pod) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    let labels = pod.metadata.labels.as_ref();
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = labels.and_then(|labels| labels.get(key)) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: "In".to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    read(Some(&selector))
}

#[cfg(test)]
mod tests;
