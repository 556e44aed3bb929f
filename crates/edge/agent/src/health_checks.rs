//! Answers load balancers that ask whether a Service has endpoints on this node (`spec.healthCheckNodePort`).
//!
//! In: Services and EndpointSlices. Out: one HTTP server for each such port, on the node's address, in kube-proxy's
//! words. Invariant: a port that cannot be had is told once and tried again; it stops no other.

use crate::{NodeIdentity, Snapshots, bounded::Bounded, health::is_right, services::LastSync};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
    routing::any,
};
use minisvc_apimachinery::resource::SERVICES;
use minisvc_client::events::{Occurrence, Recorder};
use minisvc_proxy::HealthCheck;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// Least time between two looks at what is to be served.
const PAUSE: Duration = Duration::from_millis(50);
/// When a port that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// The loop's inputs.
pub struct HealthChecks {
    /// Who we are.
    pub identity: Arc<NodeIdentity>,
    /// The cluster.
    pub snapshots: Snapshots,
    /// Events about ports that cannot be had.
    pub recorder: Arc<Recorder>,
    /// Time of the last good pass of the service table.
    pub last_sync: watch::Receiver<LastSync>,
}

/// A port that is served.
struct Port {
    check: watch::Sender<HealthCheck>,
    servers: Vec<AbortHandle>,
}

#[derive(Clone)]
struct Asked {
    check: watch::Receiver<HealthCheck>,
    last_sync: watch::Receiver<LastSync>,
}

impl HealthChecks {
    /// Runs until the snapshots end.
    pub async fn run(mut self) {
        let mut servers = JoinSet::new();
        let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
        let mut told = BTreeSet::new();
        let mut checks = minisvc_proxy::HealthChecks::new(&self.identity.name);
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                checks.update(&snapshot);
            }
            let wanted = checks.checks();
            ports.retain(|number, port| {
                let stays =
                    wanted.contains_key(number) && port.servers.iter().all(|server| !server.is_finished());
                if !stays {
                    port.servers.iter().for_each(AbortHandle::abort);
                }
                stays
            });
            told.retain(|number| wanted.contains_key(number));
            for (number, check) in wanted {
                match ports.get(number) {
                    Some(port) => drop(port.check.send_if_modified(|known| {
                        let news = known != check;
                        known.clone_from(check);
                        news
                    })),
                    None => self.open(*number, check.clone(), &mut ports, &mut servers, &mut told).await,
                }
            }
            // What has ended leaves nothing to be read.
            while servers.try_join_next().is_some() {}
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn open(
        &self,
        number: u16,
        check: HealthCheck,
        ports: &mut BTreeMap<u16, Port>,
        servers: &mut JoinSet<()>,
        told: &mut BTreeSet<u16>,
    ) {
        let listeners = match self.listeners(number).await {
            Ok(listeners) => listeners,
            Err(error) => {
                if told.insert(number) {
                    let (node, service) = (&self.identity.name, check.service);
                    let message = format!(
                        "node {node} failed to start healthcheck {service} on port {number}: {error}"
                    );
                    let reason = "FailedToStartServiceHealthcheck";
                    let what = Occurrence::warning(&SERVICES, service, "", reason, message);
                    let _nothing_depends_on_it = self.recorder.record(&what, jiff::Timestamp::now()).await;
                }
                return;
            }
        };
        told.remove(&number);
        let (check, receiver) = watch::channel(check);
        let asked = Asked { check: receiver, last_sync: self.last_sync.clone() };
        let router = Router::new().fallback(any(answer)).with_state(asked);
        let serve = |listener| {
            let router = router.clone();
            servers.spawn(async move {
                if let Err(error) = axum::serve(Bounded::new(listener), router).await {
                    tracing::warn!(%error, number, "a health check port");
                }
            })
        };
        let servers = listeners.into_iter().map(serve).collect();
        ports.insert(number, Port { check, servers });
    }

    /// Load balancers ask at the node's addresses of either family.
    async fn listeners(&self, number: u16) -> std::io::Result<Vec<TcpListener>> {
        let mut listeners = Vec::new();
        for address in self.identity.underlay.addresses() {
            listeners.push(TcpListener::bind(SocketAddr::new(address, number)).await?);
        }
        Ok(listeners)
    }
}

/// What kube-proxy answers (kubernetes pkg/proxy/healthcheck/service_health.go).
async fn answer(State(asked): State<Asked>) -> (StatusCode, HeaderMap, String) {
    let check = asked.check.borrow().clone();
    let healthy = is_right(&asked.last_sync);
    let count = check.local_endpoints;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(count));
    let status = if count > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": { "namespace": check.service.namespace, "name": check.service.name },
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    });
    (status, headers, body.to_string())
}
