//! The node's service table: from the newest snapshot to the kernel, again and again.
//!
//! In: Services, EndpointSlices, Nodes. Out: the kernel's table, the load-balancer addresses this node holds, the
//! time of the last good pass.
//!
//! Invariant: the kernel's table is read only at start, after a failed change, and after somebody else's change of any
//! table; a restart changes what differs and nothing else.

use crate::{NodeIdentity, Snapshots};
use minisvc_apimachinery::{ObjectKey, Snapshot, resource::SERVICES};
use minisvc_client::events::{Occurrence, Recorder};
use minisvc_datapath::{
    conntrack,
    nft::{NftError, ServiceTableTarget},
};
use minisvc_proxy::{NodeView, Planner, load_balancer_addresses_of, udp_flow_is_stale};
use minisvc_reconcile::{Backoff, Rejection, Target};
use std::{
    collections::BTreeSet,
    net::IpAddr,
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

/// What a pass needs, moved to a thread that may block and back.
struct Table {
    target: ServiceTableTarget,
    planner: Planner,
    /// Not read back before this.
    rest_until: Instant,
}

impl ServiceLoop {
    /// Runs until the snapshots end.
    pub async fn run(mut self) {
        let mut table: Option<Table> = None;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        let mut said = BTreeSet::new();
        loop {
            let mut wait = LOOK;
            let snapshot = self.snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                self.hold(&snapshot);
                let NodeIdentity { name, underlay, cluster, .. } = &*self.identity;
                let node = NodeView::of(&snapshot, name, underlay.address, cluster);
                let pass = tokio::task::spawn_blocking(move || pass(table, node, &snapshot)).await;
                match pass {
                    Ok(Ok((done, rejected))) => {
                        backoff.succeeded();
                        table = Some(done);
                        self.synced.send_replace(Some(Instant::now()));
                        if let Some(rejected) = rejected {
                            self.say(rejected, &mut said).await;
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the service table is not as it must be; reading it back");
                        table = None;
                        wait = backoff.failed();
                    }
                    Err(error) => {
                        tracing::error!(%error, "planning the service table");
                        table = None;
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

    fn hold(&self, snapshot: &Snapshot) {
        let held: Vec<IpAddr> =
            load_balancer_addresses_of(&self.identity.name, snapshot).into_iter().collect();
        self.held.send_if_modified(|known| {
            let changed = *known != held;
            *known = held;
            changed
        });
    }

    /// Says once of each rejected Service why.
    async fn say(&self, rejected: Vec<Rejection>, said: &mut BTreeSet<Rejection>) {
        said.retain(|known| rejected.contains(known));
        for rejection in rejected {
            if said.insert(rejection.clone()) {
                let key = ObjectKey::new(&rejection.namespace, &rejection.name);
                let what = Occurrence::warning(&SERVICES, key, "", rejection.reason, rejection.message);
                let _nothing_depends_on_it = self.recorder.record(&what, jiff::Timestamp::now()).await;
            }
        }
    }
}

/// One pass; blocking. Returns the rejected objects if they may be others than before.
fn pass(
    table: Option<Table>,
    node: NodeView,
    snapshot: &Snapshot,
) -> Result<(Table, Option<Vec<Rejection>>), NftError> {
    let known = match table {
        Some(mut table) => {
            let as_left = Instant::now() < table.rest_until || !table.target.others_changed_something()?;
            as_left.then_some(table)
        }
        None => None,
    };
    let mut table = match known {
        Some(mut table) => {
            table.planner.set_node(node);
            table
        }
        None => {
            let started = Instant::now();
            let mut target = ServiceTableTarget::open()?;
            let actual = target.observe()?;
            let rest_until = Instant::now() + started.elapsed() * REST;
            Table { target, planner: Planner::new(node, &actual), rest_until }
        }
    };
    let delta = table.planner.update(snapshot);
    if !delta.ops.is_empty() {
        table.target.apply(&delta.ops)?;
        tracing::debug!(steps = delta.ops.len(), "service table changed");
    }
    if delta.udp {
        match conntrack::delete_udp_flows(|flow| udp_flow_is_stale(table.planner.table(), flow)) {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(flows, "stale UDP flows forgotten"),
            Err(error) => tracing::warn!(%error, "stale UDP flows are not forgotten"),
        }
    }
    let rejected = delta.rejected.then(|| table.planner.rejected());
    Ok((table, rejected))
}
