//! The node's service tables, one a family: from the newest snapshot to the kernel, again and again.
//!
//! In: Services, EndpointSlices, Nodes. Out: the kernel's tables, the load-balancer addresses this node holds, the
//! time of the last good pass.
//!
//! Invariant: a table is read from the kernel only at start, after a failed change, and after somebody else's change of any
//! table; a restart changes what differs and nothing else.

use crate::{NodeIdentity, PortAddresses, Snapshots};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    resource::{PODS, Resource, SERVICES},
};
use minisvc_client::events::{Occurrence, Recorder};
use minisvc_datapath::{
    conntrack,
    nft::{NftError, ServiceTableTarget},
};
use minisvc_netstate::family::Address;
use minisvc_podnet::internal_ips;
use minisvc_proxy::{Held, NodeView, Planner, udp_flow_is_stale};
use minisvc_reconcile::{Backoff, Rejection, Target};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// When the table was last known to be right.
pub type LastSync = Option<Instant>;

/// How often the kernel is asked whether somebody else changed any table; ours is read back then.
const LOOK: Duration = Duration::from_secs(1);
/// After the table was read back it is let be for so many times as long as that took.
const REST: u32 = 10;
/// Most calls of [`conntrack::delete_udp_flows`] in a pass; together more flows than conntrack remembers by default.
const CALLS_MAX: usize = 64;

/// The loop's inputs and outputs.
pub struct ServiceLoop {
    /// Who we are.
    pub identity: Arc<NodeIdentity>,
    /// The cluster.
    pub snapshots: Snapshots,
    /// Events about rejected Services.
    pub recorder: Arc<Recorder>,
    /// Load-balancer addresses this node must hold.
    pub held: watch::Sender<Vec<IpAddr>>,
    /// Time of the last good pass.
    pub synced: watch::Sender<LastSync>,
}

/// The table of one family.
struct Table<A: Address> {
    target: ServiceTableTarget<A>,
    planner: Planner<A>,
    /// Not read back before this.
    rest_until: Instant,
    flows: Flows,
}

/// When the UDP flows that conntrack remembers are held against the table.
///
/// Twice for each change: a packet that was on its way through the old table while that was done leaves its flow after it.
#[derive(Clone, Copy)]
enum Flows {
    Due,
    Again(Instant),
    Settled,
}

/// What a pass needs, moved to a thread that may block and back. None: to be read from the kernel.
#[derive(Default)]
struct Tables {
    v4: Option<Table<Ipv4Addr>>,
    v6: Option<Table<Ipv6Addr>>,
}

/// What a pass over one table changed.
struct Change {
    /// Whether the objects left out may be others than before.
    rejected: bool,
    /// The kernel's generation before and after our steps.
    generation: (Option<u32>, Option<u32>),
}

impl ServiceLoop {
    /// Runs until the snapshots end.
    pub async fn run(mut self) {
        let mut tables = Tables::default();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        let mut said = BTreeSet::new();
        let mut held = Held::new(&self.identity.name);
        loop {
            let mut wait = LOOK;
            let snapshot = self.snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                self.hold(&mut held, &snapshot);
                let NodeIdentity { name, cluster, ports_at, .. } = &*self.identity;
                let PortAddresses { node_ports, host_ports } = ports_at.borrow().clone();
                let node = NodeView::of(&snapshot, name, node_ports, host_ports, cluster);
                let known = std::mem::take(&mut tables);
                let pass = tokio::task::spawn_blocking(move || known.pass(&node, &snapshot)).await;
                match pass {
                    Ok(Ok((done, rejected))) => {
                        backoff.succeeded();
                        tables = done;
                        self.synced.send_replace(Some(Instant::now()));
                        if let Some(rejected) = rejected {
                            self.say(rejected, &mut said).await;
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the service table is not as it must be; reading it back");
                        wait = backoff.failed();
                    }
                    Err(error) => {
                        tracing::error!(%error, "planning the service table");
                        wait = backoff.failed();
                    }
                }
            }
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn hold(&self, held: &mut Held, snapshot: &Snapshot) {
        if held.update(snapshot) {
            let held: Vec<IpAddr> = held.addresses().iter().copied().collect();
            self.held.send_if_modified(|known| {
                let changed = *known != held;
                *known = held;
                changed
            });
        }
    }

    /// Says once of each rejected Service or Pod why.
    async fn say(&self, rejected: Vec<Rejection>, said: &mut BTreeSet<Rejection>) {
        said.retain(|known| rejected.contains(known));
        for rejection in rejected {
            if said.insert(rejection.clone()) {
                let key = ObjectKey::new(&rejection.namespace, &rejection.name);
                let (kind, uid) = self.kind_and_uid(rejection.kind, &key);
                let what = Occurrence::warning(kind, key, &uid, rejection.reason, rejection.message);
                let _nothing_depends_on_it = self.recorder.record(&what, jiff::Timestamp::now()).await;
            }
        }
    }
}

impl ServiceLoop {
    fn kind_and_uid(&self, kind: &str, key: &ObjectKey) -> (&'static Resource, String) {
        let snapshot = self.snapshots.borrow().clone();
        let of = |meta: &ObjectMeta| meta.uid.clone();
        let uid = snapshot.and_then(|snapshot| match kind {
            "Pod" => of(&snapshot.pods.get(key)?.metadata),
            _ => of(&snapshot.services.get(key)?.metadata),
        });
        (if kind == "Pod" { &PODS } else { &SERVICES }, uid.unwrap_or_default())
    }
}

impl Tables {
    /// One pass over the tables of the cluster's families; blocking. Returns the rejected objects if they may be others
    /// than before.
    fn pass(
        mut self,
        node: &NodeView,
        snapshot: &Snapshot,
    ) -> Result<(Self, Option<Vec<Rejection>>), NftError> {
        let has = |v4: bool| node.cluster.service_cidrs.iter().any(|net| net.addr().is_ipv4() == v4);
        let mut rejected = false;
        if has(true) {
            let change = pass(&mut self.v4, node, snapshot)?;
            if let (Some(other), (before, after)) = (&mut self.v6, change.generation) {
                other.target.neighbour_changed(before, after);
            }
            rejected |= change.rejected;
        }
        if has(false) {
            let change = pass(&mut self.v6, node, snapshot)?;
            if let (Some(other), (before, after)) = (&mut self.v4, change.generation) {
                other.target.neighbour_changed(before, after);
            }
            rejected |= change.rejected;
        }
        // What both tables leave out for the same reason is said once.
        let all = || {
            let v4 = self.v4.iter().flat_map(|table| table.planner.rejected());
            let v6 = self.v6.iter().flat_map(|table| table.planner.rejected());
            v4.chain(v6).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let rejected = rejected.then(all);
        Ok((self, rejected))
    }
}

impl<A: Address> Table<A> {
    /// Makes conntrack forget the UDP flows that are stale, if it is time; what fails is tried again with the next pass.
    fn forget_flows(&mut self, snapshot: &Snapshot) {
        let next = match self.flows {
            Flows::Due => Flows::Again(Instant::now() + LOOK),
            Flows::Again(at) if at <= Instant::now() => Flows::Settled,
            Flows::Again(_) | Flows::Settled => return,
        };
        let nodes = snapshot.nodes.values().filter_map(|node| internal_ips(node).ok()).flatten();
        let nodes: BTreeSet<A> = nodes.filter_map(A::of).collect();
        let mut all = 0;
        for _ in 0..CALLS_MAX {
            match conntrack::delete_udp_flows(|flow| udp_flow_is_stale(self.planner.table(), &nodes, flow)) {
                Ok(flows) => {
                    all += flows;
                    if flows < conntrack::DELETES_MAX {
                        self.flows = next;
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "stale UDP flows are not forgotten");
                    break;
                }
            }
        }
        if all > 0 {
            tracing::debug!(flows = all, "stale UDP flows forgotten");
        }
    }
}

/// One pass over one family's table; it is left None if that fails, and read from the kernel the next time.
fn pass<A: Address>(
    known: &mut Option<Table<A>>,
    node: &NodeView,
    snapshot: &Snapshot,
) -> Result<Change, NftError> {
    let as_left = match known.take() {
        Some(mut table) => {
            let as_left = Instant::now() < table.rest_until || !table.target.others_changed_something()?;
            as_left.then_some(table)
        }
        None => None,
    };
    let mut table = match as_left {
        Some(mut table) => {
            table.planner.set_node(node.clone());
            table
        }
        None => {
            let started = Instant::now();
            let mut target = ServiceTableTarget::open()?;
            let planner = Planner::new(node.clone(), target.observe()?);
            let rest_until = Instant::now() + started.elapsed() * REST;
            Table { target, planner, rest_until, flows: Flows::Due }
        }
    };
    let delta = table.planner.update(snapshot);
    let before = table.target.generation();
    if !delta.ops.is_empty() {
        table.target.apply(&delta.ops)?;
        tracing::debug!(family = A::FAMILY.name(), steps = delta.ops.len(), "service table changed");
    }
    if delta.udp {
        table.flows = Flows::Due;
    }
    table.forget_flows(snapshot);
    let generation = (before, table.target.generation());
    *known = Some(table);
    Ok(Change { rejected: delta.rejected, generation })
}

#[cfg(test)]
mod tests;
