//! From a snapshot to the route table.
//!
//! In: Ingresses, IngressClasses, Services, EndpointSlices, Secrets. Out: the table, and what was left out with the reason.

use crate::{
    backend::{Backends, Fault},
    table::{Certificate, PathType, RouteTable},
};
use k8s_openapi::api::{
    core::v1::Secret,
    networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressTLS},
};
use minisvc_apimachinery::{
    ObjectKey, Snapshot, Synced, ingress_class, service_changes::ServiceChanges, snapshot::Objects,
};
use minisvc_reconcile::{Planned, Rejection};
use std::{collections::BTreeSet, sync::Arc};

/// The route table of a snapshot. Ingresses of another class are ignored.
pub fn desired(snapshot: &Synced<Snapshot>) -> Planned<RouteTable> {
    plan(snapshot, &backends(snapshot))
}

/// The route table, followed from snapshot to snapshot.
///
/// Invariant: after any sequence of updates it is what [`desired`] gives for the last snapshot; changes of Services that
/// no Ingress leads to cost nothing.
#[derive(Debug, Default)]
pub struct Follower {
    ingresses: Objects<Ingress>,
    classes: Objects<IngressClass>,
    secrets: Objects<Secret>,
    changes: ServiceChanges,
    /// The Services that Ingresses lead to, those that do not exist as well.
    backends: BTreeSet<ObjectKey>,
    started: bool,
}

impl Follower {
    /// Takes in a snapshot: the table, if that may be another than before.
    pub fn update(&mut self, snapshot: &Synced<Snapshot>) -> Option<Planned<RouteTable>> {
        let same = self.started
            && self.ingresses.ptr_eq(&snapshot.ingresses)
            && self.classes.ptr_eq(&snapshot.ingress_classes)
            && self.secrets.ptr_eq(&snapshot.secrets);
        let touched = self.changes.take_in(snapshot);
        if same && touched.is_disjoint(&self.backends) {
            return None;
        }
        self.started = true;
        self.ingresses = snapshot.ingresses.clone();
        self.classes = snapshot.ingress_classes.clone();
        self.secrets = snapshot.secrets.clone();
        self.backends = backends(snapshot);
        Some(plan(snapshot, &self.backends))
    }
}

/// The Ingresses that are served here.
fn ingresses(snapshot: &Snapshot) -> Vec<(&ObjectKey, &Ingress)> {
    let ours = |ingress: &Ingress| ingress_class::is_ours(ingress, &snapshot.ingress_classes);
    let all = snapshot.ingresses.iter().map(|(key, ingress)| (key, &**ingress));
    all.filter(|(_, ingress)| ours(ingress)).collect()
}

/// The Services that those lead to.
fn backends(snapshot: &Snapshot) -> BTreeSet<ObjectKey> {
    let of_ingress = |(key, ingress): (&ObjectKey, &Ingress)| {
        let spec = ingress.spec.iter();
        let named = spec.flat_map(|spec| {
            let paths =
                spec.rules.iter().flatten().filter_map(|rule| rule.http.as_ref()).flat_map(|h| &h.paths);
            spec.default_backend.iter().chain(paths.map(|path| &path.backend))
        });
        let services = named.filter_map(|backend| backend.service.as_ref());
        services.map(|service| ObjectKey::new(&*key.namespace, &*service.name)).collect::<Vec<_>>()
    };
    ingresses(snapshot).into_iter().flat_map(of_ingress).collect()
}

fn plan(snapshot: &Snapshot, backends: &BTreeSet<ObjectKey>) -> Planned<RouteTable> {
    let backends = Backends::new(snapshot, backends);
    let mut plan = Plan { snapshot, backends, table: RouteTable::default(), rejected: Vec::new() };
    let mut ingresses = ingresses(snapshot);
    // The older Ingress has what two of them claim, so that a new one cannot take over a host.
    ingresses.sort_by_key(|(key, ingress)| {
        (ingress.metadata.creation_timestamp.as_ref().map(|time| time.0), (*key).clone())
    });
    for (key, ingress) in ingresses {
        plan.add(key, ingress);
    }
    plan.rejected.sort();
    Planned { desired: plan.table, rejected: plan.rejected }
}

struct Plan<'a> {
    snapshot: &'a Snapshot,
    backends: Backends<'a>,
    table: RouteTable,
    rejected: Vec<Rejection>,
}

impl Plan<'_> {
    fn add(&mut self, key: &ObjectKey, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else { return };
        for (index, tls) in spec.tls.iter().flatten().enumerate() {
            self.add_tls(key, &format!("spec.tls[{index}]"), tls);
        }
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            let field = format!("spec.rules[{index}]");
            let Some(host) = host_of(rule.host.as_deref().unwrap_or_default()) else {
                let message =
                    format!("{field}.host: Invalid value: {:?}", rule.host.as_deref().unwrap_or_default());
                self.reject(key, ("InvalidHost", message));
                continue;
            };
            for (index, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                self.add_path(key, &format!("{field}.http.paths[{index}]"), &host, path);
            }
        }
        if let Some(backend) = &spec.default_backend
            && let Some(backend) = self.backend(key, "spec.defaultBackend", backend)
            && !self.table.add_default(backend)
        {
            let message = "spec.defaultBackend: an older Ingress has set the default backend".to_owned();
            self.reject(key, ("Conflict", message));
        }
    }

    fn add_path(&mut self, key: &ObjectKey, field: &str, host: &str, path: &HTTPIngressPath) {
        let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let kind = match path.path_type.as_str() {
            "Exact" => PathType::Exact,
            "Prefix" | "ImplementationSpecific" => PathType::Prefix,
            other => {
                self.reject(
                    key,
                    ("InvalidPathType", format!("{field}.pathType: Unsupported value: {other:?}")),
                );
                return;
            }
        };
        if !text.starts_with('/') {
            let message = format!("{field}.path: Invalid value: {text:?}: must be an absolute path");
            self.reject(key, ("InvalidPath", message));
            return;
        }
        let Some(backend) = self.backend(key, field, &path.backend) else { return };
        if !self.table.add_path(host, kind, text, &backend) {
            let message = format!("{field}: an older Ingress or rule has {host:?} {text:?}");
            self.reject(key, ("Conflict", message));
        }
    }

    fn add_tls(&mut self, key: &ObjectKey, field: &str, tls: &IngressTLS) {
        // Without a Secret it says that the hosts may be served with a default certificate: there is none.
        let Some(name) = &tls.secret_name else { return };
        let secret = ObjectKey::new(&*key.namespace, &**name);
        let Some(object) = self.snapshot.secrets.get(&secret) else {
            self.reject(key, ("SecretNotFound", format!("{field}.secretName: Secret {name:?} not found")));
            return;
        };
        let part = |part: &str| Some(object.data.as_ref()?.get(part)?.0.clone());
        let (Some(chain_pem), Some(key_pem)) = (part("tls.crt"), part("tls.key")) else {
            let message = format!("{field}.secretName: Secret {name:?} needs both tls.crt and tls.key");
            self.reject(key, ("InvalidSecret", message));
            return;
        };
        let certificate = Arc::new(Certificate { secret, chain_pem, key_pem });
        let hosts = tls.hosts.as_deref().filter(|hosts| !hosts.is_empty());
        for host in hosts.unwrap_or(&[String::new()]) {
            let Some(host) = host_of(host) else {
                self.reject(key, ("InvalidHost", format!("{field}.hosts: Invalid value: {host:?}")));
                continue;
            };
            if !self.table.add_certificate(&host, &certificate) {
                let message = format!("{field}.hosts: an older Ingress has another certificate for {host:?}");
                self.reject(key, ("Conflict", message));
            }
        }
    }

    fn backend(
        &mut self,
        key: &ObjectKey,
        field: &str,
        backend: &IngressBackend,
    ) -> Option<Arc<crate::Backend>> {
        let (backend, fault) = match self.backends.resolve(&key.namespace, backend) {
            Ok((backend, fault)) => (Some(backend), fault),
            Err(fault) => (None, Some(fault)),
        };
        if let Some((reason, message)) = fault {
            self.reject(key, (reason, format!("{field}: {message}")));
        }
        backend
    }

    fn reject(&mut self, key: &ObjectKey, (reason, message): Fault) {
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        self.rejected.push(Rejection { kind: "Ingress", namespace, name, reason, message });
    }
}

/// A rule's host as the table has it: lower-cased, empty for every host; None: it is no host.
fn host_of(host: &str) -> Option<String> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let valid = host.is_empty() || (host.len() <= 253 && !is_address && name.split('.').all(label));
    valid.then(|| host.to_ascii_lowercase())
}
