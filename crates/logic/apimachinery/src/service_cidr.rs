//! Networks of Services' virtual addresses: the cluster's own, and those that ServiceCIDR objects add.
//!
//! In: the cluster's facts and the objects. Out: where addresses come from, and which of them would be in no network any
//! more without one of the objects.
//!
//! Invariant: the cluster's own networks come first and are always there.

use crate::{cluster::ClusterConfig, snapshot::Objects};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use std::net::IpAddr;

/// Name of the ServiceCIDR of the cluster's own networks.
pub const DEFAULT_NAME: &str = "kubernetes";
/// Keeps a ServiceCIDR that is asked to go while addresses depend on it.
pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// The ServiceCIDRs of the cluster's own networks, by name. An object holds one network of each family at most, so
/// more of them need more objects.
pub fn own(cluster: &ClusterConfig) -> Vec<(String, Vec<IpNet>)> {
    let mut all: Vec<(String, Vec<IpNet>)> = Vec::new();
    for net in &cluster.service_cidrs {
        let is_v4 = net.addr().is_ipv4();
        let fits = |nets: &[IpNet]| nets.iter().all(|other| other.addr().is_ipv4() != is_v4);
        if let Some((_, nets)) = all.iter_mut().find(|(_, nets)| fits(nets)) {
            nets.push(*net);
            continue;
        }
        let name = match all.len() {
            0 => DEFAULT_NAME.to_owned(),
            others => format!("{DEFAULT_NAME}-{}", others + 1),
        };
        all.push((name, vec![*net]));
    }
    all
}

/// One ServiceCIDR that is not the cluster's own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Further {
    name: String,
    nets: Vec<IpNet>,
    /// Whether it is asked to go: nothing new comes from it.
    going: bool,
}

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks {
    own: Vec<IpNet>,
    further: Vec<Further>,
}

impl Networks {
    /// Those of the cluster itself.
    pub fn new(cluster: &ClusterConfig) -> Self {
        Self { own: cluster.service_cidrs.clone(), further: Vec::new() }
    }

    /// Those of the cluster and of these objects.
    pub fn of(cluster: &ClusterConfig, cidrs: &Objects<ServiceCIDR>) -> Self {
        let mut networks = Self::new(cluster);
        for (key, cidr) in cidrs {
            let texts = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
            let going = cidr.metadata.deletion_timestamp.is_some();
            networks.add(&key.name, texts.iter().map(String::as_str), going);
        }
        networks
    }

    /// Adds a ServiceCIDR; what is no network is left out, and so are the cluster's own.
    pub fn add<'a>(&mut self, name: &str, cidrs: impl IntoIterator<Item = &'a str>, going: bool) {
        let parsed = cidrs.into_iter().filter_map(|text| text.parse::<IpNet>().ok());
        let nets: Vec<IpNet> = parsed.filter(|net| !self.own.contains(net)).collect();
        if !nets.is_empty() {
            self.further.push(Further { name: name.to_owned(), nets, going });
        }
    }

    /// The networks of the cluster itself.
    pub fn own(&self) -> &[IpNet] {
        &self.own
    }

    /// The networks that new addresses may come from besides the cluster's own.
    pub fn usable(&self) -> impl Iterator<Item = IpNet> {
        self.further.iter().filter(|further| !further.going).flat_map(|further| further.nets.iter().copied())
    }

    /// Whether an address would be in none of the networks without this ServiceCIDR.
    pub fn depends(&self, address: IpAddr, on: &str) -> bool {
        let inside = |net: &IpNet| net.contains(&address);
        let mut on_it = self.further.iter().filter(|further| further.name == on);
        on_it.any(|further| further.nets.iter().any(inside))
            && !self.own.iter().any(inside)
            && !self.further.iter().any(|f| f.name != on && !f.going && f.nets.iter().any(inside))
    }
}

/// The same cluster with the networks of these objects, those that are asked to go too: addresses may still be in use.
pub fn extended(cluster: &ClusterConfig, cidrs: &Objects<ServiceCIDR>) -> ClusterConfig {
    let mut cluster = cluster.clone();
    for further in Networks::of(&cluster, cidrs).further {
        cluster.service_cidrs.extend(further.nets);
    }
    cluster
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::ObjectKey;
    use serde_json::json;
    use std::sync::Arc;

    fn cluster(nets: &[&str]) -> ClusterConfig {
        let service_cidrs = nets.iter().map(|net| net.parse().unwrap()).collect();
        ClusterConfig { service_cidrs, ..ClusterConfig::default() }
    }

    #[test]
    fn own_networks_are_spread_over_as_many_objects_as_they_need() {
        let names = |nets: &[&str]| {
            own(&cluster(nets)).into_iter().map(|(name, nets)| (name, nets.len())).collect::<Vec<_>>()
        };
        assert_eq!(names(&["10.43.0.0/16"]), [("kubernetes".to_owned(), 1)]);
        assert_eq!(names(&["10.43.0.0/16", "fd00::/112"]), [("kubernetes".to_owned(), 2)]);
        let three = names(&["10.43.0.0/16", "10.44.0.0/16", "fd00::/112"]);
        assert_eq!(three, [("kubernetes".to_owned(), 2), ("kubernetes-2".to_owned(), 1)]);
    }

    #[test]
    fn addresses_depend_on_the_last_network_that_has_them() {
        let mut objects = Objects::new();
        for (name, cidr, going) in [
            ("kubernetes", "10.43.0.0/16", false),
            ("wide", "10.50.0.0/16", true),
            ("narrow", "10.50.1.0/24", false),
            ("inside", "10.43.7.0/24", true),
        ] {
            let deleted = going.then_some("2026-01-01T00:00:00Z");
            let object = json!({"metadata": {"name": name, "deletionTimestamp": deleted}, "spec": {"cidrs": [cidr, "odd"]}});
            objects.insert(ObjectKey::cluster(name), Arc::new(serde_json::from_value(object).unwrap()));
        }
        let cluster = cluster(&["10.43.0.0/16"]);
        let networks = Networks::of(&cluster, &objects);
        let depends = |address: &str, on| networks.depends(address.parse().unwrap(), on);
        assert!(depends("10.50.2.1", "wide"));
        assert!(!depends("10.50.1.1", "wide"), "narrow has it too");
        assert!(depends("10.50.1.1", "narrow"), "wide is going");
        assert!(!depends("10.43.7.1", "inside"), "the cluster's own network has it");
        assert!(!depends("10.50.2.1", "narrow") && !depends("10.43.0.1", "kubernetes"));
        assert_eq!(networks.usable().map(|net| net.to_string()).collect::<Vec<_>>(), ["10.50.1.0/24"]);
        let extended = extended(&cluster, &objects).service_cidrs;
        assert_eq!(extended.len(), 4);
        assert_eq!(extended[0], cluster.service_cidrs[0], "the cluster's own comes first");
    }
}
