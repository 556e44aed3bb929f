//! All Services and Pods with ports of the node together: the table of a node, kept up to date change by change.
//!
//! In: snapshots, one after the other. Out: the steps from the previous table to the next. Only what a change touched,
//! and what shares an address or port with that, is planned again.
//!
//! Invariants: after any sequence of updates the table is what [`desired`] gives for the last snapshot and that table;
//! a place that two claim belongs to the older one, and the other is rejected with `Conflict`.

mod claims;
mod intake;

use crate::{
    elements::{frontend_elements, node_elements, set_elements},
    numbers::{ClassNumbers, SetNumbers},
    owner::Owner,
    plan::{NodeView, Place, ServicePlan, SetName},
    sorted::{self, Sorted},
};
use claims::{Claim, Places, conflict};
use k8s_openapi::api::core::v1::{Pod, Service};
use minisvc_apimachinery::{ObjectKey, Snapshot, endpoint_slices::EndpointSlice, snapshot::Objects};
use minisvc_netstate::{
    family::Address,
    nft::{Class, Key, ServiceTable, Value, element::mark},
};
use minisvc_reconcile::{Op, Planned, Rejection};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What an update changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta<A: Address = Ipv4Addr> {
    /// Steps from the previous table to the new one: deletes first.
    pub ops: Vec<Op<Key<A>, Value<A>>>,
    /// Whether something with a UDP port was touched, so that remembered flows may be stale.
    pub udp: bool,
    /// Whether the list of rejected objects may be another.
    pub rejected: bool,
}

/// The table of a node, for one family.
#[derive(Clone, Debug)]
pub struct Planner<A: Address = Ipv4Addr> {
    node: NodeView,
    node_addresses: Vec<A>,
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
    pods: Objects<Pod>,
    /// Keys of the slices of a Service, sorted.
    slices_of: BTreeMap<ObjectKey, Vec<ObjectKey>>,
    planned: BTreeMap<Owner, Entry<A>>,
    /// Sorted.
    claims: BTreeMap<Place<A>, Vec<Claim>>,
    shared: BTreeMap<Key<A>, usize>,
    /// Those of whom something is rejected.
    rejecting: BTreeSet<Owner>,
    sets: SetNumbers<A>,
    classes: ClassNumbers,
    table: ServiceTable<A>,
    started: bool,
}

/// What is planned for an owner, and what of that is in the table.
#[derive(Clone, Debug)]
struct Entry<A: Address> {
    plan: ServicePlan<A>,
    /// Number and class of each set in use.
    numbers: Sorted<SetName, (u32, Class)>,
    /// The elements of this owner alone.
    elements: Box<[Key<A>]>,
    /// Conflicts and exhausted numbers.
    rejected: Vec<Rejection>,
}

impl<A: Address> Entry<A> {
    fn new(plan: ServicePlan<A>) -> Self {
        Self { plan, numbers: Sorted::default(), elements: Box::default(), rejected: Vec::new() }
    }
}

/// Changes to the table, last one wins.
type Changes<A> = BTreeMap<Key<A>, Option<Value<A>>>;

/// The table of a node for a snapshot. `previous` is the table in the kernel, or an empty one: numbers of endpoint sets
/// that are in it are kept.
pub fn desired<A: Address>(
    snapshot: &Snapshot,
    node: &NodeView,
    previous: ServiceTable<A>,
) -> Planned<ServiceTable<A>> {
    let mut planner = Planner::new(node.clone(), previous);
    planner.update(snapshot);
    Planned { rejected: planner.rejected(), desired: planner.table }
}

impl<A: Address> Planner<A> {
    /// A planner that starts from the table found in the kernel; the first update gives the steps from that.
    pub fn new(node: NodeView, actual: ServiceTable<A>) -> Self {
        Self {
            node_addresses: node.addresses_of().collect(),
            node,
            services: Objects::new(),
            slices: Objects::new(),
            pods: Objects::new(),
            slices_of: BTreeMap::new(),
            planned: BTreeMap::new(),
            claims: BTreeMap::new(),
            shared: BTreeMap::new(),
            rejecting: BTreeSet::new(),
            sets: SetNumbers::of(&actual),
            classes: ClassNumbers::of(&actual),
            table: actual,
            started: false,
        }
    }

    /// The table that the last update led to.
    pub fn table(&self) -> &ServiceTable<A> {
        &self.table
    }

    /// Plans for another view of the node: everything again, numbers kept.
    pub fn set_node(&mut self, node: NodeView) {
        if node != self.node {
            *self = Self::new(node, std::mem::take(&mut self.table));
        }
    }

    /// Takes in a snapshot.
    pub fn update(&mut self, snapshot: &Snapshot) -> Delta<A> {
        let touched = self.take_in(snapshot);
        let first = !self.started;
        if touched.is_empty() && !first {
            return Delta { ops: Vec::new(), udp: false, rejected: false };
        }
        let mut changes = Changes::new();
        if first {
            changes.extend(node_elements(&self.node).into_iter().map(|(key, value)| (key, Some(value))));
        }
        let mut udp = first;
        let mut again = BTreeSet::new();
        for key in &touched {
            udp |= self.plan_again(key, &mut again, &mut changes);
        }
        for key in &again {
            udp |= self.planned.get(key).is_some_and(|entry| entry.plan.has_udp());
            self.retract(key, &mut changes);
        }
        if first {
            for key in &again {
                self.recover(key);
            }
        }
        for key in &again {
            self.emit(key, &mut changes);
        }
        let rejected = self.note_rejected(touched.union(&again)) || first;
        self.started = true;
        self.sets.recovered();
        self.classes.recovered();
        if first {
            // What was found and is not planned goes.
            let found = self.table.keys().filter(|key| !changes.contains_key(key));
            let gone: Vec<_> = found.map(|key| (*key, None)).collect();
            changes.extend(gone);
        }
        Delta { ops: self.settle(changes), udp, rejected }
    }

    /// Plans anew for an owner; adds it and those who contend with it to `again`. True if it had UDP ports.
    fn plan_again(&mut self, key: &Owner, again: &mut BTreeSet<Owner>, changes: &mut Changes<A>) -> bool {
        let new = self.wanted(key);
        if new.as_ref() == self.planned.get(key).map(|entry| &entry.plan) {
            return false;
        }
        let had_udp = self.planned.get(key).is_some_and(|entry| entry.plan.has_udp());
        if let Some(old) = self.planned.get(key).map(|entry| entry.plan.clone()) {
            for place in old.frontends.keys() {
                self.unclaim(place, &(old.created_s, key.clone()), again);
            }
            self.share(&old, false, changes);
        }
        if let Some(new) = new {
            for place in new.frontends.keys() {
                self.contenders(place, again);
                sorted::insert(self.claims.entry(*place).or_default(), (new.created_s, key.clone()));
            }
            self.share(&new, true, changes);
            match self.planned.get_mut(key) {
                Some(entry) => entry.plan = new,
                None => drop(self.planned.insert(key.clone(), Entry::new(new))),
            }
            again.insert(key.clone());
        } else {
            self.retract(key, changes);
            self.release(key, &BTreeSet::new(), changes);
            self.planned.remove(key);
            again.remove(key);
        }
        had_udp
    }

    /// Counts the elements that several Services may need.
    fn share(&mut self, plan: &ServicePlan<A>, more: bool, changes: &mut Changes<A>) {
        let hairpin = plan.hairpin.iter().map(|address| Key::Hairpin(*address));
        let balancers = plan.load_balancer_ips.iter().map(|address| Key::LoadBalancerAddress(*address));
        for key in hairpin.chain(balancers) {
            let count = self.shared.entry(key).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            changes.insert(key, (*count > 0).then_some(Value::Present));
            if *count == 0 {
                self.shared.remove(&key);
            }
        }
    }

    /// Takes a Service's own elements out; its numbers stay.
    fn retract(&mut self, key: &Owner, changes: &mut Changes<A>) {
        if let Some(entry) = self.planned.get_mut(key) {
            changes.extend(std::mem::take(&mut entry.elements).iter().map(|key| (*key, None)));
        }
    }

    /// Finds the numbers that the Service's sets had in the table found at the start.
    fn recover(&mut self, key: &Owner) {
        let owned = self.places(key).owned;
        let Some(entry) = self.planned.get(key) else { return };
        let wanted: Vec<_> = entry
            .plan
            .used_sets(&owned)
            .into_iter()
            .map(|name| (name, entry.plan.roles(&owned, name, &self.node_addresses)))
            .collect();
        let mut found = Vec::new();
        for (name, frontends) in wanted {
            if let Some(number) = self.sets.recover(frontends) {
                found.push((name, number));
            }
        }
        let Some(entry) = self.planned.get_mut(key) else { return };
        for (name, number) in found {
            let Some(set) = entry.plan.sets.get(&name) else { continue };
            let class = set.class();
            if self.classes.acquire(class).is_some() {
                entry.numbers.insert(name, (number, class));
            } else {
                self.sets.release(number);
            }
        }
    }

    /// Gives back the numbers of a Service's sets that are not in `keep`.
    fn release(&mut self, key: &Owner, keep: &BTreeSet<SetName>, changes: &mut Changes<A>) {
        let Some(entry) = self.planned.get_mut(key) else { return };
        let gone: Vec<_> = entry.numbers.keys().filter(|name| !keep.contains(name)).copied().collect();
        for name in gone {
            if let Some((number, class)) = entry.numbers.remove(&name) {
                self.sets.release(number);
                if let Some(class) = self.classes.release(class) {
                    changes.insert(Key::Class(class), None);
                }
            }
        }
    }

    /// Puts a Service's elements in.
    fn emit(&mut self, key: &Owner, changes: &mut Changes<A>) {
        let Places { owned, lost } = self.places(key);
        let Some(plan) = self.planned.get(key).map(|entry| entry.plan.clone()) else { return };
        let used = plan.used_sets(&owned);
        self.release(key, &used, changes);
        let mut rejected: Vec<_> = lost.into_iter().map(|(place, to)| conflict(key, place, &to)).collect();
        let mut elements = Vec::new();
        for name in &used {
            let Some(set) = plan.sets.get(name) else { continue };
            match self.number(key, *name, set.class(), changes) {
                Some(number) => set_elements(number, set, &mut elements),
                None => rejected.push(key.reject("TooManyEndpointSets", "no number is left".to_owned())),
            }
        }
        let Some(entry) = self.planned.get_mut(key) else { return };
        let classes = &self.classes;
        let numbers = &entry.numbers;
        let mark_of = |name: SetName| {
            let found = numbers.get(&name).and_then(|(n, class)| Some(mark(classes.get(class)?, *n)));
            found.unwrap_or(minisvc_netstate::nft::element::REFUSE)
        };
        for (place, at) in &owned {
            if let Some(frontend) = plan.frontends.get(place) {
                let at = at.as_deref().unwrap_or(&self.node_addresses);
                frontend_elements(*place, frontend, at, &mark_of, &mut elements);
            }
        }
        changes.extend(elements.iter().map(|(key, value)| (*key, Some(*value))));
        entry.elements = elements.into_iter().map(|(key, _)| key).collect();
        entry.rejected = rejected;
    }

    /// The number of a set, with the class it has now.
    fn number(&mut self, key: &Owner, name: SetName, class: Class, changes: &mut Changes<A>) -> Option<u32> {
        let known = self.planned.get(key).and_then(|entry| entry.numbers.get(&name)).copied();
        if let Some((number, known)) = known
            && known == class
        {
            if let Some(class_number) = self.classes.get(&class) {
                changes.insert(Key::Class(class_number), Some(Value::Class(class)));
            }
            return Some(number);
        }
        let (class_number, _) = self.classes.acquire(class)?;
        let number = match known {
            Some((number, old)) => {
                if let Some(gone) = self.classes.release(old) {
                    changes.insert(Key::Class(gone), None);
                }
                Some(number)
            }
            None => self.sets.allocate(),
        };
        let Some(number) = number else {
            self.classes.release(class);
            return None;
        };
        changes.insert(Key::Class(class_number), Some(Value::Class(class)));
        if let Some(entry) = self.planned.get_mut(key) {
            entry.numbers.insert(name, (number, class));
        }
        Some(number)
    }

    /// Applies changes to the table; the steps that really change it.
    fn settle(&mut self, changes: Changes<A>) -> Vec<Op<Key<A>, Value<A>>> {
        let (mut deletes, mut puts) = (Vec::new(), Vec::new());
        for (key, value) in changes {
            match value {
                Some(value) if self.table.get(&key) != Some(&value) => {
                    let there = self.table.insert(key, value).is_some();
                    puts.push(if there { Op::Replace(key, value) } else { Op::Put(key, value) });
                }
                None if self.table.remove(&key).is_some() => deletes.push(Op::Delete(key)),
                _ => {}
            }
        }
        deletes.reverse();
        deletes.extend(puts);
        deletes
    }
}
