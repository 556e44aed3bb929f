//! What a Pod asks of its node: amounts, and ports of the host.
//!
//! Source: kubernetes `component-helpers/resource` (`PodRequests`), `pkg/scheduler/framework` (`HostPortInfo`).

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource,
};
use minisvc_apimachinery::{Quantity, containers};
use std::{collections::BTreeMap, net::IpAddr};

pub(super) const CPU: &str = "cpu";
pub(super) const MEMORY: &str = "memory";
/// How a node says how many Pods it takes.
pub(super) const PODS: &str = "pods";
/// What a container that does not say is taken for when nodes are compared, as in Kubernetes: 100m CPU, 200 MiB.
const USUAL: [(&str, Quantity); 2] =
    [(CPU, Quantity::from_millis(100)), (MEMORY, Quantity::from_units(200 << 20))];

/// Amounts by name of the resource.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// Adds up.
pub(super) fn add(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let slot = sum.entry(name.clone()).or_default();
        *slot = *slot + *amount;
    }
}

/// Amounts as an object says them; what cannot be read is nothing.
pub(super) fn amounts(said: Option<&BTreeMap<String, resource::Quantity>>) -> Amounts {
    let read =
        |(name, amount): (&String, &resource::Quantity)| Some((name.clone(), Quantity::parse(&amount.0)?));
    said.into_iter().flatten().filter_map(read).collect()
}

/// A container's requests; a limit alone is a request too.
fn of_container(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    let mut wanted = amounts(resources.and_then(|resources| resources.limits.as_ref()));
    wanted.extend(amounts(resources.and_then(|resources| resources.requests.as_ref())));
    wanted
}

fn usual(container: &Container) -> Amounts {
    let mut wanted = of_container(container);
    for (name, amount) in USUAL {
        wanted.entry(name.to_owned()).or_insert(amount);
    }
    wanted
}

/// Containers at once, or the largest of those that come before them: they run one after another, beside the sidecars
/// that were started by then.
fn sum(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut wanted = of(container);
        if containers::is_sidecar(container) {
            add(&mut sidecars, &wanted);
            wanted.clone_from(&sidecars);
        } else {
            add(&mut wanted, &sidecars);
        }
        raise(&mut most, &wanted);
    }
    let mut all = sidecars;
    spec.containers.iter().for_each(|container| add(&mut all, &of(container)));
    raise(&mut all, &most);
    all
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let slot = most.entry(name.clone()).or_default();
        *slot = (*slot).max(*amount);
    }
}

/// What a Pod asks for.
fn of(pod: &Pod) -> Amounts {
    sum(pod, of_container)
}

/// What a Pod weighs when nodes are compared.
fn weight(pod: &Pod) -> Amounts {
    sum(pod, usual)
}

/// All that a Pod takes of a node.
pub(super) struct Wanted {
    /// What it requests.
    pub(super) amounts: Amounts,
    /// The same, with what is usual for containers that do not say.
    pub(super) weight: Amounts,
    /// Ports of the host.
    pub(super) ports: Vec<HostPort>,
}

impl Wanted {
    pub(super) fn of(pod: &Pod) -> Self {
        Self { amounts: of(pod), weight: weight(pod), ports: host_ports(pod) }
    }
}

/// A port of the host that a Pod takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostPort {
    port: i32,
    protocol: String,
    /// None: on every address.
    address: Option<IpAddr>,
}

impl HostPort {
    /// Whether both cannot be on one host.
    pub(super) fn is_in_the_way_of(&self, other: &Self) -> bool {
        let same_address = match (self.address, other.address) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

/// The ports of the host that a Pod takes; one on the host's network takes those of its containers.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let on_host = spec.host_network.unwrap_or(false);
    let ports = containers::lasting(spec).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let said = port.host_port.filter(|port| *port > 0);
            let number = said.or_else(|| on_host.then_some(port.container_port))?;
            let address = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
            Some(HostPort {
                port: number,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: address.filter(|address| !address.is_unspecified()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn container(cpu: &str) -> Value {
        json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } })
    }

    #[test]
    fn containers_add_up_and_the_largest_before_them_counts() {
        let cpu = |spec: Value| of(&pod(spec)).get(CPU).copied().unwrap_or_default().millis();
        assert_eq!(cpu(json!({ "containers": [container("100m"), container("0.2")] })), 300);
        let before = json!([container("1"), container("2")]);
        assert_eq!(cpu(json!({ "initContainers": before, "containers": [container("500m")] })), 2000);
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        // One beside nothing, then the sidecar, then one beside the sidecar.
        let before = json!([container("1"), sidecar, container("1")]);
        assert_eq!(cpu(json!({ "initContainers": before, "containers": [container("500m")] })), 1100);
        assert_eq!(cpu(json!({ "initContainers": before, "containers": [container("2")] })), 2100);
        let limit = json!({ "name": "c", "resources": { "limits": { "cpu": "3", "memory": "1Gi" }, "requests": { "cpu": "1" } } });
        let wanted = of(&pod(json!({ "containers": [limit] })));
        assert_eq!((wanted[CPU], wanted[MEMORY]), (Quantity::from_units(1), Quantity::from_units(1 << 30)));
        let silent = weight(&pod(json!({ "containers": [{ "name": "c" }] })));
        assert_eq!((silent[CPU].millis(), silent[MEMORY].units()), (100, 200 << 20));
        assert!(of(&pod(json!({ "containers": [{ "name": "c" }] }))).is_empty());
    }

    #[test]
    fn ports_of_the_host_meet_by_protocol_and_address() {
        let one = |port: Value, on_host: bool| {
            let spec = json!({ "hostNetwork": on_host, "containers": [{ "name": "c", "ports": [port] }] });
            host_ports(&pod(spec)).pop()
        };
        assert_eq!(one(json!({ "containerPort": 80 }), false), None);
        let plain = one(json!({ "containerPort": 80, "hostPort": 8080 }), false).unwrap();
        let on_host = one(json!({ "containerPort": 8080, "protocol": "TCP" }), true).unwrap();
        assert!(plain.is_in_the_way_of(&on_host));
        let at =
            |ip: &str| one(json!({ "containerPort": 1, "hostPort": 8080, "hostIP": ip }), false).unwrap();
        assert!(
            at("0.0.0.0").is_in_the_way_of(&at("127.0.0.1")) && at("::").is_in_the_way_of(&at("10.0.0.1"))
        );
        assert!(
            at("10.0.0.1").is_in_the_way_of(&at("10.0.0.1"))
                && !at("10.0.0.1").is_in_the_way_of(&at("10.0.0.2"))
        );
        let udp = one(json!({ "containerPort": 1, "hostPort": 8080, "protocol": "UDP" }), false).unwrap();
        assert!(!plain.is_in_the_way_of(&udp));
    }
}
