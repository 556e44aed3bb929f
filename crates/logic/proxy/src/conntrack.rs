//! Which remembered UDP flows are stale.
//!
//! A UDP client that keeps its port keeps its conntrack entry, and with it an endpoint that may be gone, or none at all
//! if the flow is older than the Service. In: the table, the nodes' addresses and a flow. Out: whether the kernel should forget it.
//!
//! Forgetting a flow that was right costs it another pick; so where a table cannot tell, it is forgotten.

use minisvc_netstate::{
    family::{Address, Endpoint, Network},
    flow::UdpFlow,
    nft::{
        Frontend, Key, Protocol, ServiceTable, Value,
        element::{BY_RANGE, BY_SOURCE, class_and_set},
    },
};
use std::collections::BTreeSet;

/// Whether the flow's destination is a Service's, and its answers come from no endpoint that its client may have.
///
/// Also true for Services without any endpoint, and of what no Service has any more: their clients are to be refused,
/// not left waiting. `nodes` are the addresses of all nodes, which Pods in their networks have too.
pub fn udp_flow_is_stale<A: Address>(
    table: &ServiceTable<A>,
    nodes: &BTreeSet<A>,
    flow: &UdpFlow<A>,
) -> bool {
    let Endpoint { address, port } = flow.destination;
    let frontend = Frontend { address, protocol: Protocol::Udp, port };
    match entry(table, address, frontend) {
        Some(mark) => !leads_to(table, frontend, mark, flow),
        None => flow.reply_source != flow.destination && was_ours(table, nodes, flow),
    }
}

fn entry<A: Address>(table: &ServiceTable<A>, address: A, frontend: Frontend<A>) -> Option<u32> {
    if let Some(Value::Mark(mark)) = table.get(&Key::Frontend(frontend)) {
        return Some(*mark);
    }
    table.get(&Key::NodeAddress(address))?;
    match table.get(&Key::NodePort(Protocol::Udp, frontend.port))? {
        Value::Mark(mark) => Some(*mark),
        _ => None,
    }
}

/// Whether a translated flow that is no Service's was one's: by its address, or because it leads to a Pod or to a node.
fn was_ours<A: Address>(table: &ServiceTable<A>, nodes: &BTreeSet<A>, flow: &UdpFlow<A>) -> bool {
    // These keys are the last.
    let mut services = table.keys().rev().map_while(|key| match key {
        Key::ServiceNetwork(net) => Some(net),
        _ => None,
    });
    let address = flow.destination.address;
    services.any(|net| net.holds(address))
        || table.contains_key(&Key::LoadBalancerAddress(address))
        || is_pod(table, flow.reply_source.address)
        || nodes.contains(&flow.reply_source.address)
}

fn is_pod<A: Address>(table: &ServiceTable<A>, address: A) -> bool {
    // These keys are the first.
    let mut pods = table.keys().map_while(|key| match key {
        Key::ClusterNetwork(net) => Some(net),
        _ => None,
    });
    pods.any(|net| net.holds(address))
}

fn leads_to<A: Address>(
    table: &ServiceTable<A>,
    frontend: Frontend<A>,
    mark: u32,
    flow: &UdpFlow<A>,
) -> bool {
    let source = flow.source.address;
    let next = |key: Key<A>, but: &[u32]| match table.get(&key) {
        Some(Value::Mark(mark)) if !but.contains(mark) => leads_to(table, frontend, *mark, flow),
        _ => false,
    };
    match mark {
        BY_RANGE => may_come(table, frontend, source) && next(Key::RangedFrontend(frontend), &[BY_RANGE]),
        BY_SOURCE => {
            let inside = is_pod(table, source)
                || table.contains_key(&Key::NodeAddress(source))
                || source == frontend.address;
            let key = if inside { Key::InternalFrontend(frontend) } else { Key::ExternalFrontend(frontend) };
            next(key, &[BY_SOURCE, BY_RANGE])
        }
        _ => class_and_set(mark).is_some_and(|(_, set)| {
            let plain = table.range(Key::Endpoint(set, 0)..=Key::Endpoint(set, u32::MAX));
            let sticky = table.range(Key::AffinityEndpoint(set, 0)..=Key::AffinityEndpoint(set, u32::MAX));
            plain.chain(sticky).any(|(_, value)| *value == Value::Endpoint(flow.reply_source))
        }),
    }
}

fn may_come<A: Address>(table: &ServiceTable<A>, frontend: Frontend<A>, source: A) -> bool {
    let mut ranges =
        table.range(Key::SourceRange(frontend, A::Net::everything())..).map_while(|(key, _)| match key {
            Key::SourceRange(of, net) if *of == frontend => Some(net),
            _ => None,
        });
    ranges.any(|net| net.holds(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_flow_of_a_service_that_is_gone_is_known_by_where_it_leads() {
        let end = |address: [u8; 4], port| Endpoint { address: Ipv4Addr::from(address), port };
        let client = end([198, 51, 100, 9], 4000);
        let flow = |reply_source| UdpFlow {
            source: client,
            destination: end([192, 0, 2, 1], 30053),
            reply_source,
            reply_destination: client,
        };
        let table =
            ServiceTable::from([(Key::ClusterNetwork("10.42.0.0/16".parse().unwrap()), Value::Present)]);
        let nodes = BTreeSet::from([Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)]);
        for (leads_to, stale) in [
            (end([10, 42, 0, 2], 53), true),
            (end([192, 0, 2, 2], 53), true),
            (end([192, 0, 2, 1], 53), true),
            // Untranslated; and translated by somebody else.
            (end([192, 0, 2, 1], 30053), false),
            (end([172, 17, 0, 2], 53), false),
        ] {
            assert_eq!(udp_flow_is_stale(&table, &nodes, &flow(leads_to)), stale, "{leads_to}");
        }
    }
}
