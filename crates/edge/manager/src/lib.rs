//! The control loops of the control plane, as a plain API client.
//!
//! ```text
//! Synced<Snapshot> ── controllers plan ──▶ writes ── ledger: one at a time for each object ──▶ API
//! ```
//!
//! Invariants: nothing is planned before every list was complete; an object is not written again before the last write
//! to it shows in the snapshot; controllers that give out addresses wait until all they gave shows; a write that fails
//! is planned anew from a newer snapshot after a pause, and holds nobody else up.

mod apply;
mod ledger;
mod rounds;
mod services;
mod workloads;

use minisvc_apimachinery::ClusterConfig;
use minisvc_client::{ApiClient, Contact, Interest, Kind, events, events::Occurrence, follow};
use minisvc_controllers::{Notice, node_lifecycle::Grace, service_account};
use rounds::Rounds;
use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// Most writes under way at once.
const IN_FLIGHT_MAX: usize = 16;
/// Most notices waiting to be told; more are dropped.
const NOTICES_MAX: usize = 256;
/// How often the loops look at the clock.
const TICK: Duration = Duration::from_millis(100);
/// Older news than this are no basis for declaring a node dead.
const BLIND_AFTER: Duration = Duration::from_millis(2500);
/// The manager counts as unhealthy if it did not hear of the server for this long.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// What the manager must know.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// The facts all nodes share.
    pub cluster: ClusterConfig,
    /// Where nodes and Pods reach the API server: becomes the endpoint of Service `default/kubernetes`.
    pub api_server: SocketAddr,
    /// The CA's certificates, PEM: what Pods verify the API server by.
    pub ca: String,
    /// When silent nodes count as dead.
    pub grace: Grace,
    /// Name of the node this runs on, for Events.
    pub node_name: String,
}

/// Whether the control loops run.
#[derive(Clone, Debug)]
pub struct Health {
    ready: watch::Receiver<bool>,
    contact: Contact,
}

impl Health {
    /// Why the control loops do not work at present; none if they do.
    pub fn problem(&self) -> Option<String> {
        if !*self.ready.borrow() {
            let why = self.contact.problem().unwrap_or_else(|| "waiting for the first lists".to_owned());
            return Some(format!("the control loops have not started: {why}"));
        }
        let age = self.contact.age();
        if age > STALE_AFTER {
            return Some(format!("the API server was last heard of {} s ago", age.as_secs()));
        }
        self.contact.problem()
    }

    /// Waits until what every cluster has is there: the namespaces and the Services `kubernetes` and `kube-dns`.
    /// False if the manager ended before that.
    pub async fn ready(&mut self) -> bool {
        self.ready.wait_for(|ready| *ready).await.is_ok()
    }
}

/// The control loops of the control plane.
#[derive(Debug)]
pub struct Manager {
    client: ApiClient,
    config: ManagerConfig,
    follower: minisvc_client::Follower,
    /// What only the garbage collector looks at.
    rest: minisvc_client::Follower,
    ready: watch::Sender<bool>,
    health: Health,
}

impl Manager {
    /// Begins to follow the cluster. Must be called within a tokio runtime.
    pub fn new(client: ApiClient, config: ManagerConfig) -> Self {
        let interest = Interest::new([
            Kind::Namespaces,
            Kind::Nodes,
            Kind::Pods,
            Kind::Deployments,
            Kind::ReplicaSets,
            Kind::Services,
            Kind::Endpoints,
            Kind::EndpointSlices,
            Kind::Ingresses,
            Kind::IngressClasses,
            Kind::ServiceCidrs,
            Kind::Leases,
            Kind::ServiceAccounts,
        ])
        .with_fields(Kind::ConfigMaps, &format!("metadata.name={}", service_account::ROOT_CA));
        let follower = follow(&client, &interest);
        let rest =
            follow(&client, &Interest::in_metadata_of([Kind::ConfigMaps, Kind::IpAddresses, Kind::Secrets]));
        let (ready, receiver) = watch::channel(false);
        let health = Health { ready: receiver, contact: follower.contact() };
        Self { client, config, follower, rest, ready, health }
    }

    /// Tells whether the loops run.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Runs until `shutdown` completes. Writes under way are abandoned then: the next start plans them again.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut snapshots = self.follower.snapshots();
        let mut rest = self.rest.snapshots();
        let contact = self.follower.contact();
        let (notices, receiver) = mpsc::channel(NOTICES_MAX);
        let recorder = events::Recorder::new(self.client.clone(), "minisvc-manager", &self.config.node_name);
        let mut recording = tokio::task::JoinSet::new();
        recording.spawn(record(recorder, receiver));
        let mut rounds = Rounds::new(self.client.clone(), self.config.clone(), notices);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                changed = snapshots.changed() => if changed.is_err() { return },
                changed = rest.changed() => if changed.is_err() { return },
                () = rounds.landed() => {}
                _ = tick.tick() => {}
            }
            let Some(snapshot) = snapshots.borrow_and_update().as_ref().map(Arc::clone) else { continue };
            let blind = contact.age() > BLIND_AFTER || contact.problem().is_some();
            rounds.see_rest(rest.borrow_and_update().clone());
            rounds.round(&snapshot, blind, Instant::now());
            if rounds.is_bootstrapped() {
                self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
            }
        }
    }
}

async fn record(recorder: events::Recorder, mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        let what = if notice.warning { Occurrence::warning } else { Occurrence::normal };
        let what = what(notice.resource, notice.key, &notice.uid, notice.reason, notice.message);
        if let Err(error) = recorder.record(&what, jiff::Timestamp::now()).await {
            tracing::debug!(%error, "event not recorded");
        }
    }
}

#[cfg(test)]
mod tests;
