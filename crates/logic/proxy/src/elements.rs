//! A plan as elements of the table, once sets and classes have numbers.

use crate::plan::{EndpointSet, FrontendPlan, NodeView, Place, SetName, Target};
use minisvc_netstate::nft::{
    Frontend, Key, Value,
    element::{BY_RANGE, BY_SOURCE, DROP, REFUSE},
};
use std::net::{Ipv4Addr, SocketAddrV4};

/// The elements that do not depend on Services.
pub fn node_elements(node: &NodeView) -> Vec<(Key, Value)> {
    let clusters = node.cluster_networks().into_iter().map(Key::ClusterNetwork);
    let services = node.service_networks().into_iter().map(Key::ServiceNetwork);
    let dns = node.dns_address().into_iter().map(Key::LocalService);
    let own = node.addresses_v4().map(Key::NodeAddress);
    clusters.chain(services).chain(dns).chain(own).map(|key| (key, Value::Present)).collect()
}

/// The elements of an endpoint set with this number.
pub fn set_elements(number: u32, set: &EndpointSet, out: &mut Vec<(Key, Value)>) {
    let slots = if set.affinity_s.is_some() { affinity_slots(&set.endpoints) } else { Vec::new() };
    for (index, endpoint) in (0..).zip(&set.endpoints) {
        match slots.get(index as usize) {
            None => out.push((Key::Endpoint(number, index), Value::Endpoint(*endpoint))),
            Some(slot) => {
                out.push((Key::AffinitySlot(number, index), Value::Slot(*slot)));
                out.push((Key::AffinityEndpoint(number, *slot), Value::Endpoint(*endpoint)));
            }
        }
    }
}

/// A slot for each endpoint that follows from the endpoint itself, so that it stays while others come and go and
/// after any restart. Should two endpoints of a set meet in one slot, the later takes the next.
fn affinity_slots(endpoints: &[SocketAddrV4]) -> Vec<u32> {
    let mut taken = std::collections::BTreeSet::new();
    endpoints
        .iter()
        .map(|endpoint| {
            let value = u64::from(u32::from(*endpoint.ip())) << 16 | u64::from(endpoint.port());
            let hash = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut slot = (hash >> 32) as u32;
            while slot == 0 || !taken.insert(slot) {
                slot = slot.wrapping_add(1);
            }
            slot
        })
        .collect()
}

/// The elements of a frontend; `mark` gives the mark of an endpoint set.
pub fn frontend_elements(
    place: Place,
    plan: &FrontendPlan,
    node_addresses: &[Ipv4Addr],
    mark: &dyn Fn(SetName) -> u32,
    out: &mut Vec<(Key, Value)>,
) {
    let value = |target: Target| match target {
        Target::Set(name) => mark(name),
        Target::Refuse => REFUSE,
        Target::Drop => DROP,
    };
    let addresses: Vec<Frontend> = match place {
        Place::Address(frontend) => vec![frontend],
        Place::NodePort(protocol, port) => {
            node_addresses.iter().map(|address| Frontend { address: *address, protocol, port }).collect()
        }
    };
    let (internal, external) = (value(plan.internal), value(plan.external));
    let mut entry = internal;
    if internal != external {
        entry = BY_SOURCE;
        for frontend in &addresses {
            out.push((Key::InternalFrontend(*frontend), Value::Mark(internal)));
            out.push((Key::ExternalFrontend(*frontend), Value::Mark(external)));
        }
    }
    if let Some(ranges) = &plan.source_ranges {
        for frontend in &addresses {
            out.push((Key::RangedFrontend(*frontend), Value::Mark(entry)));
            let ranges = ranges.iter().map(|range| Key::SourceRange(*frontend, *range));
            out.extend(ranges.map(|key| (key, Value::Present)));
        }
        entry = BY_RANGE;
    }
    if plan.masquerade {
        out.extend(addresses.iter().map(|frontend| (Key::Masqueraded(*frontend), Value::Present)));
    }
    let key = match place {
        Place::Address(frontend) => Key::Frontend(frontend),
        Place::NodePort(protocol, port) => Key::NodePort(protocol, port),
    };
    out.push((key, Value::Mark(entry)));
}
