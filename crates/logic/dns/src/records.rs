//! What a snapshot says, indexed for lookup.
//!
//! In: [`Snapshot`]s, one after the other. Out: one [`Entry`] for each Service that has names, and the names of
//! their addresses. Invariant: after any sequence of updates the records equal those built anew.

use crate::name::canonical;
use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    networking::v1::ServiceCIDR,
};
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey, Snapshot, Synced, endpoint_slices::EndpointSlice, service_changes::service_of,
    service_cidr, snapshot::Objects,
};
use minisvc_reconcile::Rejection;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// The names of a cluster. Cloning is O(1).
#[derive(Clone, Debug)]
pub struct Records {
    pub(crate) zone: Arc<str>,
    pub(crate) reverse_zones: Arc<[IpNet]>,
    config: Arc<ClusterConfig>,
    service_cidrs: Objects<ServiceCIDR>,
    pub(crate) dns_addresses: Arc<[IpAddr]>,
    pub(crate) serial: u32,
    /// Namespace → Service → what its names answer.
    pub(crate) entries: OrdMap<Arc<str>, OrdMap<Arc<str>, Arc<Entry>>>,
    /// Address → names.
    pub(crate) pointers: OrdMap<IpAddr, Vec<Pointer>>,
    rejected: OrdMap<ObjectKey, Rejection>,
    /// Names of the slices of a Service, sorted.
    slices_of: OrdMap<ObjectKey, Vec<String>>,
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
}

/// What the names of one Service answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A Service with virtual addresses.
    Virtual { addresses: Vec<IpAddr>, ports: Vec<Port> },
    /// A headless Service with at least one endpoint; endpoints are sorted and distinct.
    Headless { endpoints: Vec<Endpoint>, ports: Vec<Port> },
    /// An alias for a name elsewhere.
    External { target: Arc<str> },
}

/// A named port of a Service, or of one endpoint of a headless Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    /// Lower-cased, `tcp`, `udp` or `sctp`.
    pub(crate) protocol: &'static str,
    pub(crate) name: Arc<str>,
    pub(crate) number: u16,
    /// Headless: the name of the endpoint. Empty otherwise.
    pub(crate) endpoint: Arc<str>,
}

/// An address of a headless Service under the endpoint's own name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) name: Arc<str>,
    pub(crate) address: IpAddr,
}

/// What an address is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pointer {
    pub(crate) namespace: Arc<str>,
    pub(crate) service: Arc<str>,
    /// Name of the endpoint; None: the address is the Service's.
    pub(crate) endpoint: Option<Arc<str>>,
}

impl Records {
    /// The records of a cluster.
    pub fn new(config: &ClusterConfig, snapshot: &Synced<Snapshot>) -> Self {
        let zone = config.cluster_domain.trim_end_matches('.').to_ascii_lowercase();
        let mut records = Self {
            zone: zone.into(),
            reverse_zones: config.service_cidrs.iter().chain(&config.cluster_cidrs).copied().collect(),
            config: config.clone().into(),
            service_cidrs: OrdMap::new(),
            dns_addresses: config.dns_addresses().into(),
            serial: 0,
            entries: OrdMap::new(),
            pointers: OrdMap::new(),
            rejected: OrdMap::new(),
            slices_of: OrdMap::new(),
            services: OrdMap::new(),
            slices: OrdMap::new(),
        };
        records.update(snapshot);
        records
    }

    /// Makes these the records of a newer snapshot of the same cluster; returns whether any record changed.
    ///
    /// Visits only Services that differ from the last snapshot, or one of whose EndpointSlices does.
    pub fn update(&mut self, snapshot: &Synced<Snapshot>) -> bool {
        let mut touched = BTreeSet::new();
        let (old, new) = (self.slices.clone(), snapshot.endpoint_slices.clone());
        for item in old.diff(&new) {
            let (before, after) = match item {
                DiffItem::Add(key, slice) => (None, Some((key, slice))),
                DiffItem::Remove(key, slice) => (Some((key, slice)), None),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
            };
            if let Some((key, service)) = before.and_then(|(key, slice)| Some((key, service_of(slice)?))) {
                self.unlink(&service, &key.name);
                touched.insert(service);
            }
            if let Some((key, service)) = after.and_then(|(key, slice)| Some((key, service_of(slice)?))) {
                self.link(&service, &key.name);
                touched.insert(service);
            }
        }
        for item in self.services.diff(&snapshot.services) {
            let (DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. }) =
                item;
            touched.insert(key.clone());
        }
        self.services = snapshot.services.clone();
        self.slices = new;
        let mut changed = self.find_reverse_zones(snapshot);
        for key in touched {
            changed |= self.refresh(&key);
        }
        self.serial = self.serial.wrapping_add(u32::from(changed));
        changed
    }

    /// Makes the reverse zones those of the networks there are; returns whether they changed.
    fn find_reverse_zones(&mut self, snapshot: &Snapshot) -> bool {
        if self.service_cidrs.ptr_eq(&snapshot.service_cidrs) {
            return false;
        }
        self.service_cidrs = snapshot.service_cidrs.clone();
        let config = service_cidr::extended(&self.config, &self.service_cidrs);
        let zones: Arc<[IpNet]> = config.service_cidrs.iter().chain(&config.cluster_cidrs).copied().collect();
        let changed = zones != self.reverse_zones;
        self.reverse_zones = zones;
        changed
    }

    /// Services that have no names because of what they say, with the reason.
    pub fn rejected(&self) -> impl Iterator<Item = &Rejection> {
        self.rejected.values()
    }

    /// Number of Services that have names.
    pub fn service_count(&self) -> usize {
        self.entries.values().map(OrdMap::len).sum()
    }

    fn link(&mut self, service: &ObjectKey, slice: &str) {
        let names = self.slices_of.entry(service.clone()).or_default();
        if let Err(at) = names.binary_search_by(|name| name.as_str().cmp(slice)) {
            // Most Services have one: room for no more.
            names.reserve_exact(1);
            names.insert(at, slice.to_owned());
        }
    }

    fn unlink(&mut self, service: &ObjectKey, slice: &str) {
        if let Some(names) = self.slices_of.get_mut(service) {
            names.retain(|name| name != slice);
            if names.is_empty() {
                self.slices_of.remove(service);
            }
        }
    }

    /// Makes the entry of one Service what the snapshot says; returns whether it changed.
    fn refresh(&mut self, key: &ObjectKey) -> bool {
        let new = match self.entry(key) {
            Ok(entry) => {
                self.rejected.remove(key);
                entry
            }
            Err(rejection) => {
                self.rejected.insert(key.clone(), rejection);
                None
            }
        };
        let old =
            self.entries.get(key.namespace.as_str()).and_then(|names| names.get(key.name.as_str())).cloned();
        if old.as_deref() == new.as_ref() {
            return false;
        }
        let (namespace, service): (Arc<str>, Arc<str>) =
            (key.namespace.as_str().into(), key.name.as_str().into());
        for (address, pointer) in old.iter().flat_map(|entry| entry.pointers(&namespace, &service)) {
            if let Some(pointers) = self.pointers.get_mut(&address) {
                pointers.retain(|p| *p != pointer);
                if pointers.is_empty() {
                    self.pointers.remove(&address);
                }
            }
        }
        let Some(new) = new else {
            if let Some(names) = self.entries.get_mut(&namespace) {
                names.remove(&service);
                if names.is_empty() {
                    self.entries.remove(&namespace);
                }
            }
            return true;
        };
        for (address, pointer) in new.pointers(&namespace, &service) {
            let pointers = self.pointers.entry(address).or_default();
            if let Err(at) = pointers.binary_search(&pointer) {
                pointers.insert(at, pointer);
            }
        }
        self.entries.entry(namespace).or_default().insert(service, Arc::new(new));
        true
    }

    /// What the snapshot says about one Service; None: it has no names.
    fn entry(&self, key: &ObjectKey) -> Result<Option<Entry>, Rejection> {
        let Some(spec) = self.services.get(key).and_then(|service| service.spec.as_ref()) else {
            return Ok(None);
        };
        let rejection = |reason, message| Rejection {
            kind: "Service",
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            reason,
            message,
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            let name = spec.external_name.as_deref().unwrap_or_default();
            return match canonical(name) {
                Some(target) => Ok(Some(Entry::External { target: target.into() })),
                None => Err(rejection(
                    "InvalidExternalName",
                    format!("spec.externalName: Invalid value: {name:?}: must be a DNS name"),
                )),
            };
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            return Ok(self.headless(key, spec));
        }
        let addresses = virtual_addresses(spec).map_err(|text| {
            rejection(
                "InvalidAddress",
                format!("spec.clusterIPs: Invalid value: {text:?}: must be an IP address"),
            )
        })?;
        let mut ports: Vec<_> = spec.ports.iter().flatten().filter_map(virtual_port).collect();
        ports.sort();
        ports.dedup();
        Ok((!addresses.is_empty()).then_some(Entry::Virtual { addresses, ports }))
    }

    fn headless(&self, key: &ObjectKey, spec: &ServiceSpec) -> Option<Entry> {
        let publish_all = spec.publish_not_ready_addresses == Some(true);
        let mut endpoints = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for name in self.slices_of.get(key).into_iter().flatten() {
            let Some(slice) = self.slices.get(&ObjectKey::new(&*key.namespace, &**name)) else { continue };
            let slice_ports: Vec<_> = slice.ports.iter().flatten().filter_map(slice_port).collect();
            for endpoint in &slice.endpoints {
                // Ready unless said otherwise, as the API defines it.
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                // A slice of type FQDN holds names, which parse as no address.
                let address = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok());
                let Some(address) = address.filter(|_| ready || publish_all) else { continue };
                let hostname = endpoint.hostname.as_deref().and_then(canonical).filter(|h| !h.contains('.'));
                let name: Arc<str> = hostname.unwrap_or_else(|| dashed(address)).into();
                ports.extend(slice_ports.iter().cloned().map(|port| Port { endpoint: name.clone(), ..port }));
                endpoints.insert(Endpoint { name, address });
            }
        }
        (!endpoints.is_empty()).then(|| Entry::Headless {
            endpoints: endpoints.into_iter().collect(),
            ports: ports.into_iter().collect(),
        })
    }
}

impl Entry {
    /// The addresses of this Service with what they are called.
    fn pointers(&self, namespace: &Arc<str>, service: &Arc<str>) -> Vec<(IpAddr, Pointer)> {
        let pointer = |endpoint| Pointer { namespace: namespace.clone(), service: service.clone(), endpoint };
        match self {
            Self::Virtual { addresses, .. } => addresses.iter().map(|a| (*a, pointer(None))).collect(),
            Self::Headless { endpoints, .. } => {
                endpoints.iter().map(|e| (e.address, pointer(Some(e.name.clone())))).collect()
            }
            Self::External { .. } => Vec::new(),
        }
    }
}

/// `clusterIPs`, or `clusterIP` alone; an address that was not given yet is none.
fn virtual_addresses(spec: &ServiceSpec) -> Result<Vec<IpAddr>, String> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let texts = if listed.is_empty() { spec.cluster_ip.as_slice() } else { listed };
    let parse = |text: &String| text.parse().map_err(|_| text.clone());
    texts.iter().filter(|text| !text.is_empty()).map(parse).collect()
}

fn virtual_port(port: &ServicePort) -> Option<Port> {
    named_port(port.name.as_deref(), port.protocol.as_deref(), Some(port.port))
}

fn slice_port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> Option<Port> {
    named_port(port.name.as_deref(), port.protocol.as_deref(), port.port)
}

/// A port that has an SRV record: only named ones do.
fn named_port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    let protocol = match protocol.unwrap_or("TCP") {
        "TCP" => "tcp",
        "UDP" => "udp",
        "SCTP" => "sctp",
        _ => return None,
    };
    let name = canonical(name?)?.into();
    Some(Port { protocol, name, number: u16::try_from(number?).ok()?, endpoint: "".into() })
}

/// The name of an endpoint without a hostname: its address with dashes.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
