//! What the node answers for others: cluster DNS, and HTTP ingress.
//!
//! Invariant: nothing is answered from an incomplete view; the last complete one stays while the API is away.

use crate::{AgentError, NodeIdentity, Snapshots, pod_dns::parse_resolv_conf};
use ipnet::IpNet;
use minisvc_apimachinery::{
    ObjectKey,
    resource::{INGRESSES, SECRETS},
};
use minisvc_client::events::{Occurrence, Recorder};
use minisvc_dns::Records;
use minisvc_ingress_proxy::IngressProxy;
use minisvc_nameserver::Nameserver;
use minisvc_reconcile::Rejection;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// Binds the cluster's DNS addresses; the addresses themselves are put on `lo` by the network loop.
///
/// # Errors
/// If the port is taken or may not be bound.
pub fn bind_dns(identity: &NodeIdentity) -> Result<Option<Nameserver>, AgentError> {
    let own = identity.cluster.dns_addresses();
    if own.is_empty() {
        return Ok(None);
    }
    let resolvers = parse_resolv_conf(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut allowed = identity.cluster.cluster_cidrs.clone();
    allowed.extend(loopback.into_iter().chain(identity.underlay.addresses()).map(IpNet::from));
    let at = |address| SocketAddr::new(address, DNS_PORT);
    let config = minisvc_nameserver::Config {
        // A node whose own programs ask cluster DNS must not forward to itself.
        upstreams: resolvers.nameservers.into_iter().filter(|server| !own.contains(server)).map(at).collect(),
        addresses: own.into_iter().map(at).collect(),
        sockets_per_address: std::thread::available_parallelism().map_or(1, usize::from).min(4),
        allowed,
    };
    Nameserver::bind(&config).map(Some).map_err(|source| AgentError::Nameserver { source })
}

/// Keeps a name server's records equal to the newest snapshot.
pub async fn keep_records(
    identity: Arc<NodeIdentity>,
    handle: minisvc_nameserver::Handle,
    mut snapshots: Snapshots,
) {
    let mut records: Option<Records> = None;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            let changed = match &mut records {
                Some(records) => records.update(&snapshot),
                none => none.replace(Records::new(&identity.cluster, &snapshot)).is_none(),
            };
            if let (true, Some(records)) = (changed, &records) {
                handle.publish(records.clone());
            }
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Binds the node's HTTP and HTTPS ports.
///
/// # Errors
/// If a port is taken or may not be bound.
pub fn bind_ingress(identity: &NodeIdentity) -> Result<IngressProxy, AgentError> {
    let own = identity.underlay.addresses();
    let at = |port| own.iter().map(|address| SocketAddr::new(*address, port)).collect();
    let config = minisvc_ingress_proxy::Config { http: at(80), https: at(443) };
    IngressProxy::bind(&config).map_err(|source| AgentError::Ingress { source })
}

/// Keeps an ingress proxy's routes equal to the newest snapshot.
pub async fn keep_routes(
    handle: minisvc_ingress_proxy::Handle,
    recorder: Arc<Recorder>,
    mut snapshots: Snapshots,
) {
    let mut follower = minisvc_ingress::Follower::default();
    let mut last = None;
    let mut said: BTreeSet<Rejection> = BTreeSet::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            let planned = follower.update(&snapshot).filter(|planned| last.as_ref() != Some(planned));
            if let Some(planned) = planned {
                let mut rejected = handle.publish(planned.desired.clone());
                rejected.extend(planned.rejected.iter().cloned());
                last = Some(planned);
                said.retain(|known| rejected.contains(known));
                for rejection in rejected {
                    if said.insert(rejection.clone()) {
                        say(&recorder, &rejection).await;
                    }
                }
            }
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

async fn say(recorder: &Recorder, rejection: &Rejection) {
    let resource = if rejection.kind == SECRETS.kind { &SECRETS } else { &INGRESSES };
    let key = ObjectKey::new(&rejection.namespace, &rejection.name);
    let what = Occurrence::warning(resource, key, "", rejection.reason, rejection.message.clone());
    let _nothing_depends_on_it = recorder.record(&what, jiff::Timestamp::now()).await;
}
