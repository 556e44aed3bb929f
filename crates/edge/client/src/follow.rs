//! List and watch of several kinds, folded into one snapshot.
//!
//! In: an [`Interest`]. Out: a [`Follower`] whose receiver holds the newest snapshot.
//!
//! Invariants: nothing is published before every kind's first list ended; a lost connection or a `410 Gone` leaves the
//! last snapshot standing until the new list is complete; what vanished meanwhile is gone then. Snapshots are
//! published at once when quiet, and at most every [`COALESCE`] in a burst.

use crate::{
    ApiClient,
    fold::{Folded, Relist},
};
use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    networking::v1::{IPAddress, Ingress, IngressClass, ServiceCIDR},
};
use kube::{
    Api,
    core::PartialObjectMeta,
    runtime::watcher::{self, Error as WatcherError, watcher},
};
use minisvc_apimachinery::{Snapshot, Synced, endpoint_slices::EndpointSlice, snapshot::Objects};
use minisvc_reconcile::Backoff;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

/// Least time between two snapshots of a burst.
pub const COALESCE: Duration = Duration::from_millis(4);
/// A watch is opened anew after this long, seconds.
const WATCH_SECONDS: u32 = 120;
/// First and longest wait before a watch is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// After this long without a failure, the next one is a first one.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);
/// How often the server is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A failure counts as present for this long: longer than the longest wait between two tries.
const PROBLEM_LASTS: Duration = Duration::from_secs(5);

/// A kind that a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // each is the kind of its name
pub enum Kind {
    Namespaces,
    Nodes,
    Pods,
    Deployments,
    ReplicaSets,
    Services,
    Endpoints,
    EndpointSlices,
    Ingresses,
    IngressClasses,
    IpAddresses,
    ServiceCidrs,
    Secrets,
    Leases,
    ServiceAccounts,
    ConfigMaps,
}

/// Which objects of a kind, as the API's selectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Selector {
    labels: Option<String>,
    fields: Option<String>,
    metadata_only: bool,
    /// See [`Interest::targets_of_node`].
    targets_of: Option<String>,
}

/// Which objects a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    kinds: BTreeMap<Kind, Selector>,
}

impl Interest {
    /// All objects of these kinds.
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self { kinds: kinds.into_iter().map(|kind| (kind, Selector::default())).collect() }
    }

    /// Of all objects of these kinds the metadata alone: the rest of each is empty, and is never sent.
    pub fn in_metadata_of(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let selector = Selector { metadata_only: true, ..Selector::default() };
        Self { kinds: kinds.into_iter().map(|kind| (kind, selector.clone())).collect() }
    }

    /// Of the Pods, only those of one node (`spec.nodeName`).
    #[must_use]
    pub fn pods_of_node(self, node: &str) -> Self {
        self.with_fields(Kind::Pods, &format!("spec.nodeName={node}"))
    }

    /// Of the endpoints in EndpointSlices, what they are made from (`targetRef`) only of those on one node: nearly half of
    /// what endpoints cost.
    #[must_use]
    pub fn targets_of_node(mut self, node: &str) -> Self {
        self.kinds.entry(Kind::EndpointSlices).or_default().targets_of = Some(node.to_owned());
        self
    }

    /// Of a kind, only those with these labels, such as `app=web`.
    #[must_use]
    pub fn with_labels(mut self, kind: Kind, selector: &str) -> Self {
        self.kinds.entry(kind).or_default().labels = Some(selector.to_owned());
        self
    }

    /// Of a kind, only those with these fields, such as `metadata.name=web`.
    #[must_use]
    pub fn with_fields(mut self, kind: Kind, selector: &str) -> Self {
        self.kinds.entry(kind).or_default().fields = Some(selector.to_owned());
        self
    }
}

/// When the server was last heard of.
#[derive(Clone, Debug)]
pub struct Contact {
    state: Arc<Mutex<ContactState>>,
}

#[derive(Debug)]
struct ContactState {
    last: Instant,
    problems: BTreeMap<Kind, (Instant, String)>,
}

impl Contact {
    fn new() -> Self {
        let state = ContactState { last: Instant::now(), problems: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn made(&self) {
        locked(&self.state).last = Instant::now();
    }

    fn lost(&self, kind: Kind, why: String) {
        locked(&self.state).problems.insert(kind, (Instant::now(), why));
    }

    fn healed(&self, kind: Kind) {
        let mut state = locked(&self.state);
        state.last = Instant::now();
        state.problems.remove(&kind);
    }

    /// Time since the server was last heard of (or since the follower was made): how old the snapshot may be.
    pub fn age(&self) -> Duration {
        locked(&self.state).last.elapsed()
    }

    /// Why a kind cannot be followed at present, if one cannot.
    pub fn problem(&self) -> Option<String> {
        let state = locked(&self.state);
        let mut present = state.problems.iter().filter(|(_, (at, _))| at.elapsed() < PROBLEM_LASTS);
        present.next().map(|(kind, (_, why))| format!("{kind:?}: {why}"))
    }
}

/// The newest snapshot, and the tasks that keep it new: they end when this is dropped.
#[derive(Debug)]
pub struct Follower {
    snapshots: watch::Receiver<Option<Arc<Synced<Snapshot>>>>,
    contact: Contact,
    _tasks: JoinSet<()>,
}

impl Follower {
    /// The newest snapshot; none before every first list ended. Each clone sees changes on its own.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Synced<Snapshot>>>> {
        self.snapshots.clone()
    }

    /// How old the snapshot may be.
    pub fn contact(&self) -> Contact {
        self.contact.clone()
    }
}

/// What the tasks share.
struct Shared {
    snapshot: Mutex<(Snapshot, BTreeSet<Kind>)>,
    changed: Notify,
    contact: Contact,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic between two field writes leaves nothing half done here: the maps are replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the objects of `interest`. Must be called within a tokio runtime; never fails: what cannot be had is tried
/// again until it can, and [`Contact::problem`] says why it cannot.
pub fn follow(client: &ApiClient, interest: &Interest) -> Follower {
    let contact = Contact::new();
    let shared = Arc::new(Shared {
        snapshot: Mutex::new((Snapshot::default(), BTreeSet::new())),
        changed: Notify::new(),
        contact: contact.clone(),
    });
    let (sender, snapshots) = watch::channel(None);
    let mut tasks = JoinSet::new();
    for (kind, selector) in &interest.kinds {
        tasks.spawn(follow_kind(client, *kind, selector, Arc::clone(&shared)));
    }
    tasks.spawn(publish(Arc::clone(&shared), interest.kinds.keys().copied().collect(), sender));
    tasks.spawn(ping(client.clone(), contact.clone()));
    Follower { snapshots, contact, _tasks: tasks }
}

fn follow_kind(
    client: &ApiClient,
    kind: Kind,
    selector: &Selector,
    shared: Arc<Shared>,
) -> BoxFuture<'static, ()> {
    let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
    config.label_selector.clone_from(&selector.labels);
    config.field_selector.clone_from(&selector.fields);
    let relist = Relist::new(selector.targets_of.clone());
    let config = (config, selector.metadata_only, relist);
    let kube = client.kube();
    match kind {
        Kind::Namespaces => Box::pin(run::<Namespace>(kube, config, kind, shared, |s, o| s.namespaces = o)),
        Kind::Nodes => Box::pin(run::<Node>(kube, config, kind, shared, |s, o| s.nodes = o)),
        Kind::Pods => Box::pin(run::<Pod>(kube, config, kind, shared, |s, o| s.pods = o)),
        Kind::Deployments => {
            Box::pin(run::<Deployment>(kube, config, kind, shared, |s, o| s.deployments = o))
        }
        Kind::ReplicaSets => {
            Box::pin(run::<ReplicaSet>(kube, config, kind, shared, |s, o| s.replica_sets = o))
        }
        Kind::Services => Box::pin(run::<Service>(kube, config, kind, shared, |s, o| s.services = o)),
        Kind::Endpoints => Box::pin(run::<Endpoints>(kube, config, kind, shared, |s, o| s.endpoints = o)),
        Kind::EndpointSlices => Box::pin(run::<EndpointSlice>(kube, config, kind, shared, |s, o| {
            s.endpoint_slices = o;
        })),
        Kind::Ingresses => Box::pin(run::<Ingress>(kube, config, kind, shared, |s, o| s.ingresses = o)),
        Kind::IngressClasses => Box::pin(run::<IngressClass>(kube, config, kind, shared, |s, o| {
            s.ingress_classes = o;
        })),
        Kind::IpAddresses => {
            Box::pin(run::<IPAddress>(kube, config, kind, shared, |s, o| s.ip_addresses = o))
        }
        Kind::ServiceCidrs => {
            Box::pin(run::<ServiceCIDR>(kube, config, kind, shared, |s, o| s.service_cidrs = o))
        }
        Kind::Secrets => Box::pin(run::<Secret>(kube, config, kind, shared, |s, o| s.secrets = o)),
        Kind::Leases => Box::pin(run::<Lease>(kube, config, kind, shared, |s, o| s.leases = o)),
        Kind::ServiceAccounts => Box::pin(run::<ServiceAccount>(kube, config, kind, shared, |s, o| {
            s.service_accounts = o;
        })),
        Kind::ConfigMaps => Box::pin(run::<ConfigMap>(kube, config, kind, shared, |s, o| s.config_maps = o)),
    }
}

/// An object of which only the metadata came.
fn bare<T: kube::Resource + Default>(event: watcher::Event<PartialObjectMeta<T>>) -> watcher::Event<T> {
    let whole = |partial: PartialObjectMeta<T>| {
        let mut object = T::default();
        *object.meta_mut() = partial.metadata;
        object
    };
    match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(partial) => watcher::Event::InitApply(whole(partial)),
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::Apply(partial) => watcher::Event::Apply(whole(partial)),
        watcher::Event::Delete(partial) => watcher::Event::Delete(whole(partial)),
    }
}

async fn run<T>(
    client: kube::Client,
    (config, metadata_only, mut relist): (watcher::Config, bool, Relist),
    kind: Kind,
    shared: Arc<Shared>,
    show: fn(&mut Snapshot, Objects<T>),
) where
    T: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Default
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let mut events = match metadata_only {
        true => watcher(Api::<PartialObjectMeta<T>>::all(client), config).map_ok(bare).boxed(),
        false => watcher(Api::<T>::all(client), config).boxed(),
    };
    let mut staged = Objects::new();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut failed_at: Option<Instant> = None;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if failed_at.is_some_and(|at| at.elapsed() > FORGIVEN_AFTER) {
                    backoff.succeeded();
                }
                failed_at = Some(Instant::now());
                // A relist after 410 is routine, and the next step of the watcher.
                if matches!(&error, WatcherError::WatchError(status) if status.code == 410) {
                    tracing::debug!(?kind, "watch window passed: listing again");
                    backoff.succeeded();
                    continue;
                }
                let wait = backoff.failed();
                tracing::debug!(?kind, %error, ?wait, "watch failed");
                shared.contact.lost(kind, error.to_string());
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        let started = matches!(event, watcher::Event::Init);
        let folded = relist.fold(&mut staged, event);
        if started {
            continue; // said before the server was asked
        }
        shared.contact.healed(kind);
        if folded == Folded::Nothing {
            continue;
        }
        backoff.succeeded();
        let mut guard = locked(&shared.snapshot);
        show(&mut guard.0, staged.clone());
        if folded == Folded::Complete {
            guard.1.insert(kind);
        }
        drop(guard);
        shared.changed.notify_one();
    }
}

async fn publish(
    shared: Arc<Shared>,
    wanted: BTreeSet<Kind>,
    sender: watch::Sender<Option<Arc<Synced<Snapshot>>>>,
) {
    let mut last: Option<Instant> = None;
    loop {
        if !wanted.is_empty() {
            shared.changed.notified().await;
        }
        // What is readable already belongs to this snapshot.
        tokio::task::yield_now().await;
        if let Some(rest) = last.and_then(|at| COALESCE.checked_sub(at.elapsed())) {
            tokio::time::sleep(rest).await;
        }
        let (snapshot, complete) = {
            let guard = locked(&shared.snapshot);
            (guard.0.clone(), wanted.is_subset(&guard.1))
        };
        if complete {
            last = Some(Instant::now());
            if sender.send(Some(Arc::new(Synced::after_all_lists(snapshot)))).is_err() || wanted.is_empty() {
                return;
            }
        }
    }
}

async fn ping(client: ApiClient, contact: Contact) {
    let client = client.with_request_timeout(PING_EVERY * 2);
    loop {
        if client.ping("/version").await.is_ok() {
            contact.made();
        }
        tokio::time::sleep(PING_EVERY).await;
    }
}
