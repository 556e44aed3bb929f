//! The node's links: from the newest snapshot and the node's Pods to the kernel, again and again.
//!
//! In: Nodes, the Pods that want a network, the load-balancer addresses to hold. Out: the kernel's state, and
//! [`Wired`], the Pods whose network is made.
//!
//! Invariant: until this node's Node has a podCIDR nothing is changed, so a restart takes nothing away.

use crate::{AgentError, NodeIdentity, Snapshots, tunnel::TunnelProcess};
use minisvc_apimachinery::service_cidr::extended;
use minisvc_datapath::{announce::announce, link::LinkTarget, netns::NetnsDir};
use minisvc_podnet::{LocalPod, NodeView, PodNetwork, desired, owned};
use minisvc_reconcile::{Backoff, Rejection};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Pods that want or have a network, by uid.
pub type LocalPods = BTreeMap<String, LocalPod>;
/// Uids of the Pods whose network is made.
pub type Wired = Arc<BTreeSet<String>>;

/// How often the kernel is compared even if nothing changed: someone else may have changed it.
const RECHECK: Duration = Duration::from_secs(10);
/// Waits before each announcement of a load-balancer address that was taken.
const ANNOUNCEMENTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1)];

/// The loop's inputs and output.
pub struct NetworkLoop {
    /// Who we are.
    pub identity: Arc<NodeIdentity>,
    /// The cluster.
    pub snapshots: Snapshots,
    /// Pods that want a network.
    pub pods: watch::Receiver<LocalPods>,
    /// Load-balancer addresses this node must hold.
    pub held: watch::Receiver<Vec<IpAddr>>,
    /// Where to say whose network is made.
    pub wired: watch::Sender<Wired>,
    /// Nodes that were left out, and of which it was said.
    pub said: BTreeSet<Rejection>,
}

impl NetworkLoop {
    /// Runs until its inputs end.
    pub async fn run(mut self) {
        let mut target =
            LinkTarget::new(owned(&self.identity.cluster, &self.identity.underlay), NetnsDir::default());
        let mut tunnel = TunnelProcess::default();
        let mut last: Option<PodNetwork> = None;
        let mut announced = BTreeSet::new();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let pods = self.pods.borrow_and_update().clone();
            let held = self.held.borrow_and_update().clone();
            let wanted = self.desired(&pods, &held);
            let mut wait = RECHECK;
            if let Some(wanted) = wanted {
                match apply(&mut target, &mut tunnel, &wanted).await {
                    Ok(()) => {
                        backoff.succeeded();
                        self.announce(&held, &mut announced);
                        let done: BTreeSet<String> = pods.into_keys().collect();
                        self.wired.send_if_modified(|wired| {
                            let changed = **wired != done;
                            *wired = Arc::new(done);
                            changed
                        });
                        last = Some(wanted);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the node's links are not as they must be; trying again");
                        last = None;
                        wait = backoff.failed();
                    }
                }
            }
            if !self.changed(wait, last.as_ref()).await {
                return;
            }
        }
    }

    fn desired(&mut self, pods: &LocalPods, held: &[IpAddr]) -> Option<PodNetwork> {
        let snapshot = self.snapshots.borrow_and_update().clone()?;
        let cluster = extended(&self.identity.cluster, &snapshot.service_cidrs);
        let view = NodeView {
            node_name: &self.identity.name,
            cluster: &cluster,
            underlay: &self.identity.underlay,
            lb_addresses: held,
        };
        match desired(&snapshot, &view, pods) {
            Ok(planned) => {
                self.said.retain(|known| planned.rejected.contains(known));
                for rejection in planned.rejected {
                    if !self.said.contains(&rejection) {
                        let Rejection { kind, name, message, .. } = &rejection;
                        tracing::warn!(kind, name, message, "left out of the node's network");
                        self.said.insert(rejection);
                    }
                }
                Some(planned.desired)
            }
            Err(not_ready) => {
                tracing::debug!(%not_ready, "the node's network waits");
                None
            }
        }
    }

    /// Waits until what is desired changes (true) or an input ends (false).
    async fn changed(&mut self, wait: Duration, last: Option<&PodNetwork>) -> bool {
        let recheck = tokio::time::sleep(wait);
        tokio::pin!(recheck);
        loop {
            let alive = tokio::select! {
                () = &mut recheck => return true,
                changed = self.snapshots.changed() => changed.is_ok(),
                changed = self.pods.changed() => changed.is_ok(),
                changed = self.held.changed() => changed.is_ok(),
            };
            if !alive {
                return false;
            }
            let pods = self.pods.borrow_and_update().clone();
            let held = self.held.borrow_and_update().clone();
            let wanted = self.desired(&pods, &held);
            if wanted.is_some() && wanted.as_ref() != last {
                self.pods.mark_changed();
                return true;
            }
        }
    }

    /// Tells the neighbours on the underlay which load-balancer addresses came here; a few times, for frames get lost.
    fn announce(&self, held: &[IpAddr], announced: &mut BTreeSet<IpAddr>) {
        announced.retain(|address| held.contains(address));
        for address in held {
            if announced.insert(*address) {
                tracing::info!(%address, "load-balancer address taken");
                let (link, address) = (self.identity.underlay.ifname.clone(), *address);
                tokio::spawn(async move {
                    for wait in ANNOUNCEMENTS {
                        tokio::time::sleep(wait).await;
                        if let Err(error) = announce(&link, address) {
                            tracing::warn!(%error, "a load-balancer address is not announced");
                        }
                    }
                });
            }
        }
    }
}

async fn apply(
    target: &mut LinkTarget,
    tunnel: &mut TunnelProcess,
    wanted: &PodNetwork,
) -> Result<(), AgentError> {
    let steps = target
        .converge(&wanted.links)
        .await
        .map_err(|source| AgentError::Links { operation: "set up the node's links", source })?;
    if steps > 0 {
        tracing::debug!(steps, "links changed");
    }
    tunnel.set(wanted.tunnel.as_ref()).await
}
