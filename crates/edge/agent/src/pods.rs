//! The life of this node's Pods: address, network, processes, status, end.
//!
//! One worker a Pod, at most [`WORKERS_MAX`]; each acts on the newest Pod object and the newest runtime record and
//! repeats what failed. What a Pod needs to be taken over after a restart is in the runtime's records; an address
//! that was given but whose Pod was not started yet is simply given again.
//!
//! Invariant: a Pod's processes start only after its network was made, and its network is taken away only after
//! its processes have ended and no EndpointSlice names it: whoever is still sent there is refused at once. A Pod in the
//! node's own network waits for none, and has the node's addresses.

mod addresses;
mod admission;
mod before;
mod deadline;
mod end;
mod evict;

use crate::{
    AgentError, NodeIdentity, Snapshots,
    bundle::{Given, NodeFacts, bundle},
    network::{LocalPods, Wired},
    pod_dns,
    sources::{self, Sources},
    status,
    tokens::Tokens,
};
pub use addresses::follow_pod_cidrs;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use minisvc_apimachinery::{ObjectKey, resource::PODS};
use minisvc_client::{
    ApiClient, PatchKind,
    events::{Occurrence, Recorder},
};
use minisvc_datapath::netns::NetnsDir;
use minisvc_podnet::LocalPod;
use minisvc_reconcile::Backoff;
use minisvc_runtime::{PodBundle, PodDns, PodRecord, PodTable, Runtime, volumes::Contents};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// More Pods than this are not run on one node.
pub const PODS_MAX: usize = 500;
/// The same with those that are over or are rejected, whose objects are still there.
const WORKERS_MAX: usize = 4 * PODS_MAX;
/// Longest wait for a Pod's network before it is said in an Event.
const WIRE_WAIT: Duration = Duration::from_secs(10);

/// What all workers share.
pub struct Pods {
    /// Who we are.
    pub identity: Arc<NodeIdentity>,
    /// The API.
    pub client: ApiClient,
    /// Events.
    pub recorder: Arc<Recorder>,
    /// Processes.
    pub runtime: Runtime,
    /// The cluster.
    pub snapshots: Snapshots,
    /// Pods that want a network, read by the network loop.
    pub local: watch::Sender<LocalPods>,
    /// Pods whose network is made.
    pub wired: watch::Receiver<Wired>,
    /// The addresses given last, one a family, so that a freed one is given again late.
    pub last_addresses: Mutex<Vec<IpAddr>>,
    /// The Pods that hold a place on this node and do not show it by a status yet.
    pub admitted: Mutex<BTreeSet<String>>,
    /// Tokens that Pods have.
    pub tokens: Tokens,
}

impl Pods {
    /// Takes over the Pods an earlier server left: their addresses are theirs before any is given anew.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub async fn adopt(&self) -> Result<usize, AgentError> {
        let adopted = self.runtime.adopt().await.map_err(|source| AgentError::Runtime {
            operation: "adopt",
            pod: "records".to_owned(),
            source,
        })?;
        self.local.send_modify(|local| {
            for record in &adopted {
                let PodRecord { bundle, .. } = record.as_ref();
                if !bundle.addresses.is_empty() && bundle.netns.is_some() {
                    let addresses = bundle.addresses.clone();
                    let pod = LocalPod::new(&bundle.uid, &bundle.namespace, &bundle.name, addresses);
                    local.insert(bundle.uid.clone(), pod);
                }
            }
        });
        Ok(adopted.len())
    }

    /// Runs a worker for each Pod bound to this node and each that still runs here, until the snapshots end.
    pub async fn run(self: Arc<Self>) {
        let mut snapshots = self.snapshots.clone();
        let mut workers: BTreeMap<String, watch::Sender<Option<Arc<Pod>>>> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                let bound: BTreeMap<&str, &Arc<Pod>> = snapshot
                    .pods
                    .values()
                    .filter_map(|pod| Some((pod.metadata.uid.as_deref()?, pod)))
                    .collect();
                workers.retain(|_, worker| !worker.is_closed());
                let left = self.left();
                for uid in bound.keys().copied().chain(left.iter().map(String::as_str)) {
                    let pod = bound.get(uid).map(|pod| Arc::clone(pod));
                    if let Some(worker) = workers.get(uid) {
                        worker.send_if_modified(|known| {
                            let changed = *known != pod;
                            *known = pod;
                            changed
                        });
                    } else if workers.len() < WORKERS_MAX {
                        let (sender, receiver) = watch::channel(pod);
                        workers.insert(uid.to_owned(), sender);
                        tasks.spawn(Arc::clone(&self).worker(uid.to_owned(), receiver));
                    }
                }
                let gone: Vec<String> =
                    workers.keys().filter(|uid| !bound.contains_key(uid.as_str())).cloned().collect();
                for uid in gone {
                    if let Some(worker) = workers.get(&uid) {
                        worker.send_if_modified(|known| known.take().is_some());
                    }
                }
            }
            // A worker that ended has done its work; only news can make more of it.
            while let Some(_ended) = tasks.try_join_next() {}
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    /// The Pods that have something here, whether they are bound to this node or not any more.
    fn left(&self) -> BTreeSet<String> {
        let running = self.runtime.subscribe();
        let running = running.borrow();
        self.local.borrow().keys().chain(running.keys()).cloned().collect()
    }

    async fn worker(self: Arc<Self>, uid: String, mut pod: watch::Receiver<Option<Arc<Pod>>>) {
        let mut table = self.runtime.subscribe();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let before = table.borrow_and_update().get(&uid).cloned();
            let wanted = pod.borrow_and_update().clone();
            let step = match &wanted {
                Some(object) if object.metadata.deletion_timestamp.is_none() => self.keep(&uid, object).await,
                other => tokio::select! {
                    ended = self.end(&uid, other.as_deref()) => match ended {
                        Ok(()) => return self.leave(&uid),
                        Err(error) => Err(error),
                    },
                    () = end::hurried(&mut pod, other.as_deref()) => continue,
                },
            };
            let retry = match step {
                Ok(()) => {
                    backoff.succeeded();
                    None
                }
                Err(error) => {
                    tracing::warn!(%uid, %error, "pod");
                    if let Some(object) = &wanted {
                        self.explain(&uid, object, &error).await;
                    }
                    Some(backoff.failed())
                }
            };
            let refreshed = wanted.as_deref().is_some_and(sources::may_change);
            let again = async {
                match retry {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = pod.changed() => if changed.is_err() { return },
                () = changed_record(&mut table, &uid, before.as_ref()) => {}
                () = deadline::reached(wanted.as_deref()) => {}
                () = tokio::time::sleep(sources::again(before.as_deref())), if refreshed => {
                    if let Some(object) = &wanted
                        && let Err(error) = self.refresh(&uid, object).await
                    {
                        self.explain(&uid, object, &error).await;
                    }
                }
                () = again => {}
            }
        }
    }

    /// Makes a Pod run, if it does not, and its status true.
    async fn keep(&self, uid: &str, pod: &Pod) -> Result<(), AgentError> {
        let is_over = pod.status.as_ref().is_some_and(status::is_over);
        if !is_over && deadline::left(pod, jiff::Timestamp::now()) == Some(Duration::ZERO) {
            self.give_up(uid, pod).await?;
        } else if !is_over && self.runtime.pod(uid).is_none() {
            if let Some(rejection) = self.admit(uid, pod) {
                return self.reject(uid, pod, &rejection).await;
            }
            self.start(uid, pod).await?;
        } else if let Some(spec) = &pod.spec {
            let all = spec.init_containers.iter().flatten().chain(&spec.containers);
            let images =
                all.filter_map(|container| Some((container.name.as_str(), container.image.as_deref()?)));
            self.runtime.set_images(uid, images);
        }
        self.write_status(uid, pod).await
    }

    async fn start(&self, uid: &str, pod: &Pod) -> Result<(), AgentError> {
        let name = key(pod).to_string();
        let (local, netns) = if pod_dns::is_in_node_network(pod.spec.as_ref()) {
            let ObjectKey { namespace, name } = key(pod);
            (LocalPod::new(uid, &namespace, &name, self.identity.underlay.addresses()), None)
        } else {
            let local = self.wire(uid, pod, &name).await?;
            let netns = NetnsDir::default().path(&local.netns);
            (local, Some(netns))
        };
        let node = pod_dns::node_resolution();
        let (dns, left_out) = pod_dns::form(pod, &local.namespace, &self.identity.cluster, &node);
        for words in left_out {
            self.say(pod, "DNSConfigForming", &words).await;
        }
        let (bundle, contents) = self.bundle(pod, uid, &local, netns, dns).await?;
        let failed = |source| AgentError::Runtime { operation: "start", pod: name, source };
        let before = before::before(pod);
        self.runtime.start_pod_with(bundle, &contents, &before).await.map_err(failed)?;
        if !before.is_empty() {
            let words = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            let what = Occurrence::normal(&PODS, key(pod), uid, "SandboxChanged", words);
            let _nothing_depends_on_it = self.recorder.record(&what, jiff::Timestamp::now()).await;
        }
        Ok(())
    }

    /// What a Pod is to be run from, by what the objects it names hold now.
    async fn bundle(
        &self,
        pod: &Pod,
        uid: &str,
        local: &LocalPod,
        netns: Option<PathBuf>,
        dns: PodDns,
    ) -> Result<(PodBundle, Contents), AgentError> {
        let sources = Sources::read(&self.client, &self.tokens, pod).await?;
        let snapshot = self.snapshots.borrow().clone();
        let services = snapshot.as_ref().map(|snapshot| snapshot.services.clone()).unwrap_or_default();
        let node =
            snapshot.as_ref().and_then(|s| s.nodes.get(&ObjectKey::cluster(self.identity.name.as_str())));
        let allocatable = node.and_then(|node| node.status.as_ref()?.allocatable.clone()).unwrap_or_default();
        let facts = NodeFacts {
            node_name: &self.identity.name,
            hostname: &pod_dns::node_hostname(&self.identity.name),
            node_addresses: &self.identity.underlay.addresses(),
            allocatable: &allocatable,
            cluster: &self.identity.cluster,
        };
        let given = Given { pod, local, facts: &facts, sources: &sources, services: &services };
        bundle(&given, uid, netns, dns).map_err(|source| AgentError::Missing { source })
    }

    /// Gives a running Pod the files and the environment that it would have if it were started now. What it lacks now
    /// and had before, it keeps.
    async fn refresh(&self, uid: &str, pod: &Pod) -> Result<(), AgentError> {
        let Some(record) = self.runtime.pod(uid).filter(|record| !record.is_finished()) else {
            return Ok(());
        };
        let name = key(pod).to_string();
        let (netns, dns) = (record.bundle.netns.clone(), record.bundle.dns.clone());
        let local = LocalPod::new(
            uid,
            &record.bundle.namespace,
            &record.bundle.name,
            record.bundle.addresses.clone(),
        );
        let (bundle, contents) = self.bundle(pod, uid, &local, netns, dns).await?;
        let failed = |source| AgentError::Runtime { operation: "refresh", pod: name, source };
        self.runtime.refresh(&bundle, &contents).map_err(failed)
    }

    /// Says why a Pod is not started or not kept.
    async fn explain(&self, uid: &str, pod: &Pod, error: &AgentError) {
        let reason = if matches!(error, AgentError::Missing { .. }) { "FailedMount" } else { "FailedSync" };
        self.say(pod, reason, &error.to_string()).await;
        if self.runtime.pod(uid).is_none()
            && let Err(error) = self.write_status(uid, pod).await
        {
            tracing::debug!(%uid, %error, "pod");
        }
    }

    async fn write_status(&self, uid: &str, pod: &Pod) -> Result<(), AgentError> {
        let record = self.runtime.pod(uid);
        let now = jiff::Timestamp::now();
        let mut wanted = status::desired(pod, record.as_deref(), &self.identity.underlay.addresses(), now);
        if record.is_none()
            && !status::is_over(&wanted)
            && let Some((reason, message)) = deadline::never_started(pod, now)
        {
            status::fail(&mut wanted, reason, message);
        }
        self.write(uid, pod, wanted).await
    }

    /// Makes a Pod's status what is `wanted`.
    async fn write(&self, uid: &str, pod: &Pod, wanted: PodStatus) -> Result<(), AgentError> {
        if pod.status.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let key = key(pod);
        let patch = status::patch(uid, &wanted).map_err(|source| AgentError::Status { source })?;
        let written: Result<Pod, _> =
            self.client.patch(&PODS, &key, Some("status"), PatchKind::Strategic, &patch).await;
        match written {
            Ok(_) => Ok(()),
            // Deleted meanwhile, or another Pod of the same name: the next snapshot says so.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(source) => {
                Err(AgentError::Api { operation: "write status of pod", object: key.to_string(), source })
            }
        }
    }

    async fn say(&self, pod: &Pod, reason: &str, message: &str) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let what = Occurrence::warning(&PODS, key(pod), uid, reason, message.to_owned());
        let _nothing_depends_on_it = self.recorder.record(&what, jiff::Timestamp::now()).await;
    }
}

/// Waits until the record of one Pod is another than `before`.
async fn changed_record(
    table: &mut watch::Receiver<Arc<PodTable>>,
    uid: &str,
    before: Option<&Arc<PodRecord>>,
) {
    while table.borrow_and_update().get(uid) == before {
        if table.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn key(pod: &Pod) -> ObjectKey {
    ObjectKey::new(
        pod.metadata.namespace.clone().unwrap_or_default(),
        pod.metadata.name.clone().unwrap_or_default(),
    )
}
