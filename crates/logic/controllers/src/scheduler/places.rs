//! The nodes as they are while Pods are placed: what they offer, and what is taken of it.

use super::requests::{self, Amounts, CPU, HostPort, MEMORY, Wanted};
use crate::{
    objects::{is_over, node_of},
    taints,
};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use minisvc_apimachinery::{ObjectKey, Snapshot};
use std::collections::BTreeMap;

/// Where Kubernetes says a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// One node.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) node: &'a Node,
    pub(super) taints: Vec<Taint>,
    /// Number of Pods it takes, if it says.
    pub(super) room: Option<usize>,
    pub(super) allocatable: Amounts,
    pub(super) pods: usize,
    pub(super) used: Amounts,
    /// The same, with what is usual for Pods that do not say.
    pub(super) weight: Amounts,
    pub(super) ports: Vec<HostPort>,
}

impl<'a> Place<'a> {
    pub(super) fn new(name: &'a str, node: &'a Node) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let allocatable = requests::amounts(allocatable);
        Self {
            name,
            node,
            taints: taints::effective(node),
            room: allocatable.get(requests::PODS).map(|pods| usize::try_from(pods.units()).unwrap_or(0)),
            allocatable,
            pods: 0,
            used: Amounts::new(),
            weight: Amounts::new(),
            ports: Vec::new(),
        }
    }

    /// The value of one of its labels.
    pub(super) fn label(&self, key: &str) -> Option<&'a str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Its zone; nodes that do not say are in one of their own.
    pub(super) fn zone(&self) -> &'a str {
        self.label(ZONE).unwrap_or_default()
    }

    /// A Pod is here from now on.
    pub(super) fn take(&mut self, wanted: &Wanted) {
        self.pods += 1;
        requests::add(&mut self.used, &wanted.amounts);
        requests::add(&mut self.weight, &wanted.weight);
        self.ports.extend(wanted.ports.iter().cloned());
    }

    /// How much of it is taken, in thousandths, as kube-scheduler's `LeastAllocated` sees it; 0 if it does not say what it has.
    pub(super) fn load(&self) -> i64 {
        let share = |name: &str| {
            let has = self.allocatable.get(name)?.millis();
            let taken = self.weight.get(name).copied().unwrap_or_default().millis();
            (has > 0).then(|| i64::try_from(i128::from(taken) * 1000 / i128::from(has)).unwrap_or(i64::MAX))
        };
        let shares: Vec<i64> = [CPU, MEMORY].into_iter().filter_map(share).collect();
        if shares.is_empty() { 0 } else { shares.iter().sum::<i64>() / shares.len() as i64 }
    }
}

/// All nodes, in the order of their names.
pub(super) struct Places<'a> {
    pub(super) all: Vec<Place<'a>>,
    by_name: BTreeMap<&'a str, usize>,
}

impl<'a> Places<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let all: Vec<Place<'a>> =
            snapshot.nodes.iter().map(|(key, node)| Place::new(&key.name, node)).collect();
        let by_name = all.iter().enumerate().map(|(index, place)| (place.name, index)).collect();
        let mut places = Self { all, by_name };
        for (_, pod, index) in places.placed(snapshot) {
            places.all[index].take(&Wanted::of(pod));
        }
        places
    }

    /// Every Pod that takes room on a node that is there, with the node's number.
    pub(super) fn placed(&self, snapshot: &'a Snapshot) -> Vec<(&'a ObjectKey, &'a Pod, usize)> {
        let here = |(key, pod): (&'a ObjectKey, &'a std::sync::Arc<Pod>)| {
            let index = self.by_name.get(node_of(pod)?).copied()?;
            (!is_over(pod)).then_some((key, &**pod, index))
        };
        snapshot.pods.iter().filter_map(here).collect()
    }
}
