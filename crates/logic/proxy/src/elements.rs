//! A plan as elements of the table, once sets and classes have numbers.

use crate::plan::{EndpointSet, FrontendPlan, NodeView, Place, SetName, Target};
use minisvc_netstate::{
    family::{Address, Endpoint},
    nft::{
        Frontend, Key, Value,
        element::{BY_RANGE, BY_SOURCE, DROP, REFUSE},
    },
};

/// The elements that do not depend on Services.
pub fn node_elements<A: Address>(node: &NodeView) -> Vec<(Key<A>, Value<A>)> {
    let clusters = node.cluster_networks::<A>().into_iter().map(Key::ClusterNetwork);
    let services = node.service_networks::<A>().into_iter().map(Key::ServiceNetwork);
    let dns = node.dns_address().into_iter().map(Key::LocalService);
    let own = node.addresses_of().map(Key::NodeAddress);
    clusters.chain(services).chain(dns).chain(own).map(|key| (key, Value::Present)).collect()
}

/// The elements of an endpoint set with this number.
pub fn set_elements<A: Address>(number: u32, set: &EndpointSet<A>, out: &mut Vec<(Key<A>, Value<A>)>) {
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
fn affinity_slots<A: Address>(endpoints: &[Endpoint<A>]) -> Vec<u32> {
    let mut taken = std::collections::BTreeSet::new();
    endpoints
        .iter()
        .map(|endpoint| {
            let address = endpoint.address.number();
            let folded = (address >> 64) as u64 ^ address as u64;
            let value = folded << 16 ^ u64::from(endpoint.port);
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
pub fn frontend_elements<A: Address>(
    place: Place<A>,
    plan: &FrontendPlan<A>,
    node_addresses: &[A],
    mark: &dyn Fn(SetName) -> u32,
    out: &mut Vec<(Key<A>, Value<A>)>,
) {
    let value = |target: Target| match target {
        Target::Set(name) => mark(name),
        Target::Refuse => REFUSE,
        Target::Drop => DROP,
    };
    let addresses: Vec<Frontend<A>> = match place {
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
