//! Which remembered UDP flows are stale.
//!
//! A UDP client that keeps its port keeps its conntrack entry, and with it an endpoint that may be gone, or none at all
//! if the flow is older than the Service. In: the table and a flow. Out: whether the kernel should forget it.

use minisvc_netstate::{
    family::{Address, Endpoint},
    flow::UdpFlow,
    nft::{
        Frontend, Key, Protocol, ServiceTable, Value,
        element::{BY_RANGE, BY_SOURCE, class_and_set},
    },
};

/// Whether the flow's destination is a Service's, and its answers come from no endpoint of that.
///
/// Also true for Services without any endpoint: their clients are to be refused, not left waiting.
pub fn udp_flow_is_stale<A: Address>(table: &ServiceTable<A>, flow: &UdpFlow<A>) -> bool {
    let Endpoint { address, port } = flow.destination;
    let frontend = Frontend { address, protocol: Protocol::Udp, port };
    match entry(table, address, frontend) {
        Some(mark) => !leads_to(table, frontend, mark, flow.reply_source),
        None => false,
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

fn leads_to<A: Address>(
    table: &ServiceTable<A>,
    frontend: Frontend<A>,
    mark: u32,
    endpoint: Endpoint<A>,
) -> bool {
    let next = |key: Key<A>| match table.get(&key) {
        Some(Value::Mark(mark)) => leads_to(table, frontend, *mark, endpoint),
        _ => false,
    };
    match mark {
        BY_RANGE => match table.get(&Key::RangedFrontend(frontend)) {
            Some(Value::Mark(BY_RANGE)) => false,
            _ => next(Key::RangedFrontend(frontend)),
        },
        BY_SOURCE => {
            [Key::InternalFrontend(frontend), Key::ExternalFrontend(frontend)].into_iter().any(|key| {
                matches!(table.get(&key), Some(Value::Mark(mark)) if *mark != BY_SOURCE && *mark != BY_RANGE)
                    && next(key)
            })
        }
        _ => class_and_set(mark).is_some_and(|(_, set)| {
            let plain = table.range(Key::Endpoint(set, 0)..=Key::Endpoint(set, u32::MAX));
            let sticky = table.range(Key::AffinityEndpoint(set, 0)..=Key::AffinityEndpoint(set, u32::MAX));
            plain.chain(sticky).any(|(_, value)| *value == Value::Endpoint(endpoint))
        }),
    }
}
