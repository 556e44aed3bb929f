//! Rounds: which controllers plan on a snapshot, and which of their writes are sent.

use crate::{
    IN_FLIGHT_MAX, ManagerConfig,
    apply::apply,
    ledger::{Controller, Ledger, Outcome, Target, target},
    services::{BY_SERVICE, Services},
    workloads::Workloads,
};
use jiff::Timestamp;
use minisvc_apimachinery::{ObjectKey, Snapshot, Synced};
use minisvc_client::ApiClient;
use minisvc_controllers::{
    Notice, Plan, Write, bootstrap, garbage, ingress_status, namespace, node_ipam,
    node_lifecycle::{self, Observations},
    scheduler, service_account, service_cidr, service_lb,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};

/// Most writes that wait; what does not fit is planned again.
const QUEUE_MAX: usize = 4096;
/// Most writes of Endpoints under way at once: traffic follows the slices, so those go first.
const ENDPOINTS_IN_FLIGHT_MAX: usize = IN_FLIGHT_MAX / 4;
/// A controller rests at least this many times as long as it planned.
pub(crate) const REST: u32 = 4;
/// How often silent nodes are looked for.
const LIFECYCLE_EVERY: Duration = Duration::from_millis(250);
/// How often Deployments and ReplicaSets are looked at: Pods become available, and updates late, by time alone.
const WORKLOADS_EVERY: Duration = Duration::from_secs(1);
/// How often every controller plans even if nothing seems to have changed.
const ANYWAY_EVERY: Duration = Duration::from_secs(30);
/// A longer pause between two rounds means that we were stopped, or that the clock was set.
const GAP_MAX_SECONDS: f64 = 2.0;

type Kinds = fn(&Snapshot, &Snapshot) -> bool;

/// The controllers that plan on the whole snapshot, and whether two snapshots are the same to them.
const WHOLE: &[(Controller, Kinds)] = &[
    (Controller::Bootstrap, |a, b| {
        a.namespaces.ptr_eq(&b.namespaces)
            && a.services.ptr_eq(&b.services)
            && a.endpoints.ptr_eq(&b.endpoints)
            && a.endpoint_slices.ptr_eq(&b.endpoint_slices)
            && a.ingress_classes.ptr_eq(&b.ingress_classes)
            && a.service_cidrs.ptr_eq(&b.service_cidrs)
    }),
    (Controller::NodeLifecycle, |a, b| a.nodes.ptr_eq(&b.nodes) && a.pods.ptr_eq(&b.pods)),
    (Controller::Scheduler, |a, b| {
        a.nodes.ptr_eq(&b.nodes)
            && a.pods.ptr_eq(&b.pods)
            && a.services.ptr_eq(&b.services)
            && a.namespaces.ptr_eq(&b.namespaces)
    }),
    (Controller::Deployment, |a, b| {
        a.deployments.ptr_eq(&b.deployments)
            && a.replica_sets.ptr_eq(&b.replica_sets)
            && a.pods.ptr_eq(&b.pods)
    }),
    (Controller::ReplicaSet, |a, b| a.replica_sets.ptr_eq(&b.replica_sets) && a.pods.ptr_eq(&b.pods)),
    (Controller::NodeIpam, |a, b| a.nodes.ptr_eq(&b.nodes)),
    (Controller::ServiceLb, |a, b| a.services.ptr_eq(&b.services)),
    (Controller::ServiceCidr, |a, b| {
        a.service_cidrs.ptr_eq(&b.service_cidrs) && a.services.ptr_eq(&b.services)
    }),
    (Controller::IngressStatus, |a, b| {
        a.ingresses.ptr_eq(&b.ingresses)
            && a.ingress_classes.ptr_eq(&b.ingress_classes)
            && a.nodes.ptr_eq(&b.nodes)
    }),
    (Controller::Namespace, |a, b| a.namespaces.ptr_eq(&b.namespaces)),
    (Controller::ServiceAccount, |a, b| {
        a.namespaces.ptr_eq(&b.namespaces) && a.service_accounts.ptr_eq(&b.service_accounts)
    }),
    (Controller::RootCa, |a, b| a.namespaces.ptr_eq(&b.namespaces) && a.config_maps.ptr_eq(&b.config_maps)),
    (Controller::Garbage, garbage::is_same),
];

/// Hands something on to be told; dropped if there is too much.
fn tell(notices: &mpsc::Sender<Notice>, notice: Notice) {
    if notices.try_send(notice).is_err() {
        tracing::debug!("too much to tell: an event is dropped");
    }
}

struct Queued {
    write: Write,
    notices: Vec<Notice>,
    /// For which object it was planned, by a controller that plans object by object.
    subject: Option<ObjectKey>,
}

/// When a controller planned last, and on what.
struct Turn {
    on: Arc<Synced<Snapshot>>,
    at: Instant,
    not_before: Instant,
    again: bool,
}

/// One write on its way: what it is to, who planned it for which object, how it ended.
struct Flight {
    controller: Controller,
    target: Target,
    subject: Option<ObjectKey>,
    is_create: bool,
    outcome: Outcome,
}

pub(crate) struct Rounds {
    client: ApiClient,
    config: ManagerConfig,
    notices: mpsc::Sender<Notice>,
    ledger: Ledger,
    queues: BTreeMap<Controller, VecDeque<Queued>>,
    /// Whose write was sent last.
    sent: Option<Controller>,
    flights: JoinSet<Flight>,
    landed: Vec<Flight>,
    endpoints_flying: usize,
    seen: Observations,
    clock: Option<Timestamp>,
    turns: BTreeMap<Controller, Turn>,
    /// Metadata of the kinds that only the garbage collector looks at; none before they were listed.
    rest: Option<Arc<Synced<Snapshot>>>,
    services: Services,
    workloads: Workloads,
    bootstrapped: bool,
}

impl Rounds {
    pub(crate) fn new(client: ApiClient, config: ManagerConfig, notices: mpsc::Sender<Notice>) -> Self {
        Self {
            client,
            config,
            notices,
            ledger: Ledger::default(),
            queues: BTreeMap::new(),
            sent: None,
            flights: JoinSet::new(),
            landed: Vec::new(),
            endpoints_flying: 0,
            seen: Observations::default(),
            clock: None,
            turns: BTreeMap::new(),
            rest: None,
            services: Services::default(),
            workloads: Workloads::default(),
            bootstrapped: false,
        }
    }

    /// Takes the newest metadata of the kinds that only the garbage collector looks at.
    pub(crate) fn see_rest(&mut self, rest: Option<Arc<Synced<Snapshot>>>) {
        let same = match (&self.rest, &rest) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if !same {
            self.rest = rest;
            self.turns.entry(Controller::Garbage).and_modify(|turn| turn.again = true);
        }
    }

    /// Whether the last bootstrap plan had nothing left to do.
    pub(crate) fn is_bootstrapped(&self) -> bool {
        self.bootstrapped
    }

    /// Waits until a write has ended; for ever if none is under way. Cancel-safe.
    pub(crate) async fn landed(&mut self) {
        match self.flights.join_next().await {
            Some(Ok(flight)) => self.landed.push(flight),
            Some(Err(error)) => tracing::error!(%error, "a write ended abnormally"),
            None => std::future::pending().await,
        }
    }

    /// Plans on `snapshot` what is due, and sends what there is room for. `blind`: the snapshot may be old.
    pub(crate) fn round(&mut self, snapshot: &Arc<Synced<Snapshot>>, blind: bool, now: Instant) {
        let time = Timestamp::now();
        while let Some(done) = self.flights.try_join_next() {
            match done {
                Ok(flight) => self.landed.push(flight),
                Err(error) => tracing::error!(%error, "a write ended abnormally"),
            }
        }
        for flight in std::mem::take(&mut self.landed) {
            self.ended(flight, snapshot, now);
        }
        self.ledger.seen(snapshot, now);
        self.look(snapshot, blind, time);
        self.by_service(snapshot, now);
        for &(controller, same) in WHOLE {
            if self.is_due(controller, same, snapshot, now) {
                self.whole(controller, snapshot, time, now);
            }
        }
        self.send();
    }

    fn ended(&mut self, flight: Flight, snapshot: &Snapshot, now: Instant) {
        let Flight { controller, target, subject, is_create, outcome } = flight;
        self.ledger.ended(&target, &outcome, now);
        self.endpoints_flying -= usize::from(controller == Controller::Endpoints);
        if let Some(subject) = subject.as_ref().filter(|_| is_create) {
            let notice = self.workloads.created(controller, subject, &outcome, snapshot);
            notice.into_iter().for_each(|notice| tell(&self.notices, notice));
        }
        if outcome.is_failure() {
            // What failed is planned again once its pause is over.
            if let Some(service) = subject.filter(|_| BY_SERVICE.contains(&controller)) {
                self.services.again(controller, service);
            }
            self.turns.values_mut().for_each(|turn| turn.again = true);
        }
    }

    fn look(&mut self, snapshot: &Snapshot, blind: bool, time: Timestamp) {
        let gap = self.clock.map_or(0.0, |last| time.duration_since(last).as_secs_f64());
        self.clock = Some(time);
        self.seen.observe(snapshot, time);
        if blind || !(0.0..GAP_MAX_SECONDS).contains(&gap) {
            self.seen.blind(time);
        }
    }

    fn is_due(
        &mut self,
        controller: Controller,
        same: Kinds,
        snapshot: &Arc<Synced<Snapshot>>,
        now: Instant,
    ) -> bool {
        let exclusive = matches!(controller, Controller::NodeIpam | Controller::ServiceLb);
        if exclusive && self.ledger.is_busy(controller) {
            return false;
        }
        let Some(turn) = self.turns.get_mut(&controller) else { return true };
        if now < turn.not_before {
            return false;
        }
        let every = match controller {
            Controller::NodeLifecycle => LIFECYCLE_EVERY,
            Controller::Deployment | Controller::ReplicaSet => WORKLOADS_EVERY,
            _ => ANYWAY_EVERY,
        };
        if turn.again || now.saturating_duration_since(turn.at) >= every || !same(&turn.on, snapshot) {
            return true;
        }
        // As good as planned on this one: the next is compared with it, and the older one is let go.
        turn.on = Arc::clone(snapshot);
        false
    }

    fn whole(
        &mut self,
        controller: Controller,
        snapshot: &Arc<Synced<Snapshot>>,
        time: Timestamp,
        now: Instant,
    ) {
        let config = &self.config;
        let plan = match controller {
            Controller::Deployment | Controller::ReplicaSet => {
                let open = self.ledger.busy_for(controller);
                let mut again = false;
                for (object, plan) in self.workloads.plan(controller, snapshot, open, time) {
                    again |= self.enqueue(controller, plan, Some(&object), now);
                }
                return self.turned(controller, snapshot, now, again);
            }
            Controller::Bootstrap => bootstrap::plan(snapshot, &config.cluster, config.api_server),
            Controller::NodeLifecycle => node_lifecycle::plan(snapshot, &self.seen, &config.grace, time),
            Controller::Scheduler => scheduler::plan(snapshot, time),
            Controller::NodeIpam => node_ipam::plan(snapshot, &config.cluster),
            Controller::ServiceLb => service_lb::plan(snapshot, &config.cluster),
            Controller::ServiceCidr => service_cidr::plan(snapshot, &config.cluster, time),
            Controller::IngressStatus => ingress_status::plan(snapshot),
            Controller::Namespace => namespace::plan(snapshot),
            Controller::ServiceAccount => service_account::plan(snapshot),
            Controller::RootCa => service_account::plan_root_ca(snapshot, &config.ca),
            Controller::Garbage => match &self.rest {
                Some(rest) => garbage::plan(snapshot, rest),
                None => Plan::default(),
            },
            // Planned Service by Service.
            Controller::EndpointSlice | Controller::Endpoints | Controller::Mirroring => Plan::default(),
        };
        if controller == Controller::Bootstrap {
            self.bootstrapped = plan.is_settled();
        }
        let again = self.enqueue(controller, plan, None, now);
        self.turned(controller, snapshot, now, again);
    }

    /// A controller has planned.
    fn turned(
        &mut self,
        controller: Controller,
        snapshot: &Arc<Synced<Snapshot>>,
        now: Instant,
        again: bool,
    ) {
        let ended = Instant::now();
        let turn = Turn {
            on: Arc::clone(snapshot),
            at: now,
            not_before: ended + ended.saturating_duration_since(now).min(Duration::from_secs(1)) * REST,
            again,
        };
        self.turns.insert(controller, turn);
    }

    /// Queues what can be sent; returns whether something was left out.
    fn enqueue(
        &mut self,
        controller: Controller,
        plan: Plan,
        subject: Option<&ObjectKey>,
        now: Instant,
    ) -> bool {
        let mut told: BTreeMap<Target, Vec<Notice>> = BTreeMap::new();
        for notice in plan.notices {
            match &notice.with_write {
                Some((resource, key)) => told.entry((resource, key.clone())).or_default().push(notice),
                None => tell(&self.notices, notice),
            }
        }
        let mut left_out = false;
        for write in plan.writes {
            let queue = self.queues.entry(controller).or_default();
            if queue.len() >= QUEUE_MAX || !self.ledger.admit(controller, subject, &write, now) {
                left_out = true;
                continue;
            }
            let notices = told.remove(&target(&write)).unwrap_or_default();
            queue.push_back(Queued { write, notices, subject: subject.cloned() });
        }
        left_out
    }

    fn by_service(&mut self, snapshot: &Arc<Synced<Snapshot>>, now: Instant) {
        self.services.see(snapshot);
        for controller in BY_SERVICE {
            for (service, plan) in self.services.plan(controller, snapshot, now) {
                if !self.enqueue(controller, plan, Some(&service), now) {
                    self.services.done(controller, &service);
                }
            }
        }
    }

    fn send(&mut self) {
        while self.flights.len() < IN_FLIGHT_MAX {
            // One of each controller in turn: a flood of one does not hold up the others.
            let turn = self.sent;
            let full = self.endpoints_flying >= ENDPOINTS_IN_FLIGHT_MAX;
            let mut waiting = self
                .queues
                .keys()
                .copied()
                .filter(|controller| !full || *controller != Controller::Endpoints);
            let first = waiting.clone().next();
            let Some(controller) = waiting.find(|controller| Some(*controller) > turn).or(first) else {
                return;
            };
            self.sent = Some(controller);
            let Some(queue) = self.queues.get_mut(&controller) else { return };
            let taken = queue.pop_front();
            if queue.is_empty() {
                self.queues.remove(&controller);
            }
            let Some(Queued { write, notices, subject }) = taken else { continue };
            self.endpoints_flying += usize::from(controller == Controller::Endpoints);
            let (client, sender) = (self.client.clone(), self.notices.clone());
            self.flights.spawn(async move {
                let outcome = apply(&client, &write).await;
                if !outcome.is_failure() {
                    notices.into_iter().for_each(|notice| tell(&sender, notice));
                }
                let is_create = matches!(write, Write::Create { .. });
                Flight { controller, target: target(&write), subject, is_create, outcome }
            });
        }
    }
}
