//! Health and metrics of the node, on kube-proxy's port and paths (virtual-ips.md, "health checks").

use crate::{NodeIdentity, Snapshots, bounded::Bounded, services::LastSync};
use axum::{Router, extract::State, http::StatusCode, routing::get};
use minisvc_apimachinery::ObjectKey;
use minisvc_client::Contact;
use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};

/// The service table must have been right within this time.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// Where the numbers come from.
pub struct Numbers {
    /// Who we are.
    pub identity: Arc<NodeIdentity>,
    /// The cluster.
    pub snapshots: Snapshots,
    /// Contact with the API.
    pub contact: Contact,
    /// When the service table was last known to be right.
    pub last_sync: watch::Receiver<LastSync>,
    /// Cluster DNS.
    pub dns: Option<minisvc_nameserver::Handle>,
    /// HTTP ingress.
    pub ingress: Option<minisvc_ingress_proxy::Handle>,
}

/// Serves `/healthz`, `/livez` and `/metrics`.
pub async fn serve(listener: TcpListener, numbers: Numbers) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(numbers));
    if let Err(error) = axum::serve(Bounded::new(listener), router).await {
        tracing::error!(%error, "health server");
    }
}

/// Whether the service table was right lately.
pub fn is_right(last_sync: &watch::Receiver<LastSync>) -> bool {
    last_sync.borrow().is_some_and(|at| at.elapsed() < STALE_AFTER)
}

/// As [`livez`]; a node that is being deleted is to get no more traffic, though nothing is wrong with it (KEP-3836).
async fn healthz(State(numbers): State<Arc<Numbers>>) -> (StatusCode, String) {
    let key = ObjectKey::cluster(&*numbers.identity.name);
    let snapshot = numbers.snapshots.borrow().clone();
    let node = snapshot.as_ref().and_then(|snapshot| snapshot.nodes.get(&key));
    if node.is_some_and(|node| node.metadata.deletion_timestamp.is_some()) {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is being deleted\n".to_owned());
    }
    livez(State(numbers)).await
}

async fn livez(State(numbers): State<Arc<Numbers>>) -> (StatusCode, String) {
    let age = numbers.last_sync.borrow().map(|at| at.elapsed());
    match age {
        Some(age) if age < STALE_AFTER => {
            (StatusCode::OK, format!("ok: service table right {age:.1?} ago\n"))
        }
        Some(age) => (StatusCode::SERVICE_UNAVAILABLE, format!("service table last right {age:.1?} ago\n")),
        None => (StatusCode::SERVICE_UNAVAILABLE, "service table not programmed yet\n".to_owned()),
    }
}

async fn metrics(State(numbers): State<Arc<Numbers>>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, kind: &str, value: f64| {
        let _infallible = write!(text, "# TYPE {name} {kind}\n{name} {value}\n");
    };
    let age = numbers.last_sync.borrow().map_or(f64::INFINITY, |at| at.elapsed().as_secs_f64());
    line("minisvc_service_table_age_seconds", "gauge", age);
    line("minisvc_api_contact_age_seconds", "gauge", numbers.contact.age().as_secs_f64());
    #[allow(clippy::cast_precision_loss)] // a metric is a float by its format
    if let Some(dns) = &numbers.dns {
        let counters = dns.counters();
        for (name, counter) in [
            ("minisvc_dns_questions_total", &counters.questions),
            ("minisvc_dns_answered_total", &counters.answered),
            ("minisvc_dns_nxdomain_total", &counters.no_such_name),
            ("minisvc_dns_forwarded_total", &counters.forwarded),
            ("minisvc_dns_failed_total", &counters.failed),
            ("minisvc_dns_refused_total", &counters.refused),
        ] {
            line(name, "counter", counter.load(Relaxed) as f64);
        }
    }
    #[allow(clippy::cast_precision_loss)]
    if let Some(ingress) = &numbers.ingress {
        let counters = ingress.counters();
        for (name, counter) in [
            ("minisvc_ingress_requests_total", &counters.requests),
            ("minisvc_ingress_not_found_total", &counters.not_found),
            ("minisvc_ingress_no_endpoints_total", &counters.no_endpoints),
            ("minisvc_ingress_retries_total", &counters.retries),
        ] {
            line(name, "counter", counter.load(Relaxed) as f64);
        }
    }
    text
}
