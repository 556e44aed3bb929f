//! What happens to the first packet of a connection on one node, in the words of Services.
//!
//! In: a planner that has taken in the cluster, and a packet. Out: the Service that owns the place it is sent to, the
//! policy that counts for such a client, every endpoint with its share, or why nobody answers.
//!
//! Invariant: what becomes of the packet is said by [`trace`] over the planner's table, the same that is sent to the
//! kernel; the objects are only asked for names and reasons.

use crate::{Planner, host_port, owner::Owner, plan::Place, service::view, trace};
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::Snapshot;
use minisvc_netstate::{
    family::{Address, Endpoint, Network},
    nft::{Class, Connection, Frontend, Packet, Step, Verdict},
};

/// By which of its addresses a Service was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Its cluster IP.
    ClusterIp,
    /// A port of the node.
    NodePort,
    /// Its load balancer's address.
    LoadBalancer,
    /// One of its external IPs.
    ExternalIp,
    /// A port of the node that is a Pod's.
    HostPort,
}

/// The Service or Pod a packet is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched<A: Address> {
    /// Which one.
    pub owner: Owner,
    /// The port of the Service, or of the Pod's container.
    pub port: u16,
    /// That port's name; empty if it has none.
    pub port_name: String,
    /// How it was reached.
    pub entry: Entry,
    /// Whether the client counts as inside: a Pod, or this node itself.
    pub inside: bool,
    /// Whether the policy for such clients is `Local`.
    pub local: bool,
    /// `spec.trafficDistribution`, where it counts: endpoints may be kept for nodes or zones.
    pub distribution: Option<String>,
    /// Who may use the load balancer's address; None: everybody.
    pub source_ranges: Option<Vec<A::Net>>,
    /// For how many idle seconds a client keeps its endpoint.
    pub affinity_s: Option<u32>,
}

/// An endpoint that a packet may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<A> {
    /// Which one.
    pub endpoint: Endpoint<A>,
    /// Its source becomes the node's address.
    pub masquerade: bool,
    /// Of [`Outcome::Endpoints`]' picks, how many lead here.
    pub picks: u32,
}

/// Why nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The Service has no usable endpoint.
    NoEndpoint,
    /// It has some, but none on this node, and the policy is `Local`.
    NoLocalEndpoint,
    /// The client is in none of `loadBalancerSourceRanges`.
    SourceNotAllowed,
    /// The address is for Services, and no Service has that port of it.
    NoSuchPort,
}

/// What becomes of the packet on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    /// It goes on as it is.
    Pass {
        /// Its source becomes the node's address if it leaves the node.
        masquerade: bool,
    },
    /// It goes to one of these endpoints.
    Endpoints {
        /// Each, by address.
        choices: Vec<Choice<A>>,
        /// How many equally likely picks there are.
        picks: u32,
    },
    /// The client is told that nothing answers there.
    Refused(Reason),
    /// Silence.
    Dropped(Reason),
}

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<A: Address> {
    /// What it is for, if it is for any.
    pub matched: Option<Matched<A>>,
    /// What becomes of it.
    pub outcome: Outcome<A>,
    /// Rules that matched, in order; of several endpoints, those for the first.
    pub steps: Vec<Step>,
}

/// Explains a packet. `planner` must have been updated with `snapshot`.
pub fn explain<A: Address>(planner: &Planner<A>, snapshot: &Snapshot, packet: &Packet<A>) -> Explanation<A> {
    let walk = |random| trace(planner.table(), packet, &Connection { random, remembered: None });
    let first = walk(0);
    let matched = matched(planner, snapshot, packet);
    let outcome = match first.verdict {
        Verdict::Pass { masquerade } => Outcome::Pass { masquerade },
        Verdict::Refuse if matched.is_some() => Outcome::Refused(Reason::NoEndpoint),
        Verdict::Refuse => Outcome::Refused(Reason::NoSuchPort),
        Verdict::Drop => Outcome::Dropped(dropped(matched.as_ref(), &first.steps)),
        Verdict::Endpoint { .. } => {
            // The chain that picks says among how many.
            let class = first.steps.iter().find_map(|step| Class::from_chain(&step.chain));
            let picks = class.map_or(1, |class| u32::from(class.endpoints));
            let mut choices: Vec<Choice<A>> = Vec::new();
            for verdict in (0..picks).map(|random| walk(random).verdict) {
                let Verdict::Endpoint { endpoint, masquerade } = verdict else { continue };
                match choices.iter_mut().find(|choice| choice.endpoint == endpoint) {
                    Some(choice) => choice.picks += 1,
                    None => choices.push(Choice { endpoint, masquerade, picks: 1 }),
                }
            }
            Outcome::Endpoints { choices, picks }
        }
    };
    Explanation { matched, outcome, steps: first.steps }
}

/// A port of the node that leads to a Pod on it, whoever comes.
fn of_pod<A: Address>(owner: &Owner, pod: &Pod, packet: &Packet<A>, inside: bool) -> Option<Matched<A>> {
    let port = host_port::port_behind(pod, (packet.destination.into(), packet.protocol, packet.port))?;
    Some(Matched {
        owner: owner.clone(),
        port: u16::try_from(port.container_port).ok()?,
        port_name: port.name.clone().unwrap_or_default(),
        entry: Entry::HostPort,
        inside,
        local: true,
        distribution: None,
        source_ranges: None,
        affinity_s: None,
    })
}

/// A source that is in the ranges was let through to another chain; the rest is the Local policy.
fn dropped<A: Address>(matched: Option<&Matched<A>>, steps: &[Step]) -> Reason {
    let ranged = matched.is_some_and(|matched| matched.source_ranges.is_some());
    let refused =
        steps.iter().filter(|step| step.chain == "by_range").any(|step| !step.rule.contains("goto"));
    if ranged && refused { Reason::SourceNotAllowed } else { Reason::NoLocalEndpoint }
}

fn matched<A: Address>(planner: &Planner<A>, snapshot: &Snapshot, packet: &Packet<A>) -> Option<Matched<A>> {
    let Packet { destination: address, protocol, port, .. } = *packet;
    let (place, owner, plan) = planner.owner_at(Frontend { address, protocol, port })?;
    let inside =
        packet.from_node || planner.node().cluster_networks::<A>().iter().any(|net| net.holds(packet.source));
    let key = match owner {
        Owner::Service(key) => key,
        Owner::Pod(key) => return of_pod(owner, snapshot.pods.get(key)?, packet, inside),
    };
    let service = snapshot.services.get(key)?;
    let view = view::<A>(service, &mut Vec::new())?;
    let entry = match place {
        Place::NodePort(..) => Entry::NodePort,
        Place::Address(frontend) if view.cluster_ips.contains(&frontend.address) => Entry::ClusterIp,
        Place::Address(frontend) if view.load_balancer_ips.contains(&frontend.address) => Entry::LoadBalancer,
        Place::Address(_) => Entry::ExternalIp,
    };
    let port = view.ports.iter().find(|port| {
        let number = if entry == Entry::NodePort { port.node_port } else { Some(port.port) };
        port.protocol == packet.protocol && number == Some(packet.port)
    })?;
    let local = match entry {
        Entry::ClusterIp => view.internal_local,
        // Who is inside already reaches every endpoint.
        _ => view.external_local && !inside,
    };
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.clone());
    Some(Matched {
        owner: owner.clone(),
        port: port.port,
        port_name: port.name.clone(),
        entry,
        inside,
        local,
        distribution: distribution.filter(|_| !local),
        source_ranges: plan.frontends.get(&place)?.source_ranges.clone(),
        affinity_s: view.affinity_s,
    })
}
