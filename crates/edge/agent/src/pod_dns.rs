//! The names a Pod sees: its `/etc/resolv.conf` and its own name, as the kubelet forms them.
//!
//! Pure but for [`node_resolution`] and [`node_hostname`]. Invariant: what is formed is within what resolvers read (glibc's limits); what
//! had to be left out is said.
//!
//! Source: kubernetes `pkg/kubelet/network/dns`, `pkg/kubelet/kubelet_pods.go`.

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use minisvc_apimachinery::ClusterConfig;
use minisvc_runtime::PodDns;
use std::{collections::BTreeSet, fs, net::IpAddr};

/// Name servers a resolver asks.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
/// Longest search path: longer ones end some resolvers.
const SEARCH_BYTES_MAX: usize = 253;
/// Longest search list, spaces included.
const SEARCH_LIST_BYTES_MAX: usize = 2048;
/// Longest host name.
const HOSTNAME_BYTES_MAX: usize = 63;

/// The name resolution of a Pod, and what had to be left out of it, in the kubelet's words.
pub(crate) fn form(
    pod: &Pod,
    namespace: &str,
    cluster: &ClusterConfig,
    node: &PodDns,
) -> (PodDns, Vec<String>) {
    let spec = pod.spec.as_ref();
    let mut dns = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
        Some("None") => PodDns::default(),
        Some("Default") => node.clone(),
        // The kubelet's word: who is in the node's network sees its names, unless asked otherwise.
        Some("ClusterFirst") | None if is_in_node_network(spec) => node.clone(),
        // As the kubelet does where a cluster has no DNS.
        _ if cluster.dns_address().is_none() => node.clone(),
        _ => {
            let zone = &cluster.cluster_domain;
            let mut searches = vec![format!("{namespace}.svc.{zone}"), format!("svc.{zone}"), zone.clone()];
            searches.extend(node.searches.iter().cloned());
            PodDns {
                nameservers: cluster.dns_address().into_iter().collect(),
                searches: distinct(searches),
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        merge(&mut dns, config);
    }
    let left_out = fit(&mut dns);
    (dns, left_out)
}

/// Whether a Pod is in its node's own network.
pub(crate) fn is_in_node_network(spec: Option<&PodSpec>) -> bool {
    spec.and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Adds what the Pod says itself; an option of the same name replaces the one there is.
fn merge(dns: &mut PodDns, config: &PodDNSConfig) {
    let servers = config.nameservers.iter().flatten().filter_map(|server| server.parse::<IpAddr>().ok());
    dns.nameservers.extend(servers);
    dns.nameservers = distinct(std::mem::take(&mut dns.nameservers));
    dns.searches.extend(config.searches.iter().flatten().cloned());
    dns.searches = distinct(std::mem::take(&mut dns.searches));
    for option in config.options.iter().flatten() {
        let Some(name) = option.name.as_deref() else { continue };
        let value = option.value.as_deref().filter(|value| !value.is_empty());
        let text = value.map_or_else(|| name.to_owned(), |value| format!("{name}:{value}"));
        let same = |known: &&mut String| known.split(':').next() == Some(name);
        match dns.options.iter_mut().find(same) {
            Some(known) => *known = text,
            None => dns.options.push(text),
        }
    }
}

fn fit(dns: &mut PodDns) -> Vec<String> {
    let mut left_out = Vec::new();
    if dns.nameservers.len() > NAMESERVERS_MAX {
        dns.nameservers.truncate(NAMESERVERS_MAX);
        let line: Vec<String> = dns.nameservers.iter().map(IpAddr::to_string).collect();
        left_out.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            line.join(" ")
        ));
    }
    let before = dns.searches.len();
    dns.searches.truncate(SEARCHES_MAX);
    dns.searches.retain(|search| search.len() <= SEARCH_BYTES_MAX);
    while dns.searches.join(" ").len() > SEARCH_LIST_BYTES_MAX {
        dns.searches.pop();
    }
    if dns.searches.len() < before {
        left_out.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            dns.searches.join(" ")
        ));
    }
    left_out
}

fn distinct<T: Clone + Ord>(all: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    all.into_iter().filter(|item| seen.insert(item.clone())).collect()
}

/// The host name of a Pod, and the domain in which a headless Service gives it that name.
pub(crate) fn own_name(
    spec: Option<&PodSpec>,
    name: &str,
    namespace: &str,
    zone: &str,
) -> (String, Option<String>) {
    let said = |field: Option<&String>| field.filter(|text| !text.is_empty()).cloned();
    let mut hostname = said(spec.and_then(|spec| spec.hostname.as_ref())).unwrap_or_else(|| name.to_owned());
    if hostname.len() > HOSTNAME_BYTES_MAX {
        hostname.truncate(HOSTNAME_BYTES_MAX);
        hostname.truncate(hostname.trim_end_matches(['-', '.']).len());
    }
    let subdomain = said(spec.and_then(|spec| spec.subdomain.as_ref()));
    (hostname, subdomain.map(|subdomain| format!("{subdomain}.{namespace}.svc.{zone}")))
}

/// The machine's host name; the node's name, if that is none a Pod can have.
pub(crate) fn node_hostname(node_name: &str) -> String {
    let plain = |name: &String| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        !name.is_empty() && !name.starts_with('.') && name.bytes().all(known)
    };
    let name = fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    name.ok().filter(plain).unwrap_or_else(|| node_name.to_owned())
}

/// The node's own name resolution.
///
/// Where systemd-resolved answers on the node's loopback only, it is what that asks: a Pod cannot reach the loopback.
pub(crate) fn node_resolution() -> PodDns {
    let read = |path| parse_resolv_conf(&fs::read_to_string(path).unwrap_or_default());
    let node = read("/etc/resolv.conf");
    if node.nameservers.is_empty() || !node.nameservers.iter().all(IpAddr::is_loopback) {
        return node;
    }
    let behind = read("/run/systemd/resolve/resolv.conf");
    if behind.nameservers.is_empty() { node } else { behind }
}

/// Name resolution from the text of a `resolv.conf`; lines that cannot be read are left out, as resolvers do.
pub(crate) fn parse_resolv_conf(text: &str) -> PodDns {
    let mut dns = PodDns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                dns.nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
            }
            // With and without the dot at the end it is one domain.
            Some("search") => {
                let plain =
                    |word: &str| if word == "." { word } else { word.trim_end_matches('.') }.to_owned();
                dns.searches = words.map(plain).collect();
            }
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn formed(spec: Value) -> (String, Vec<String>) {
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let node =
            parse_resolv_conf("nameserver 9.9.9.9\nsearch example.org. cluster.local\noptions rotate\n");
        let (dns, left_out) = form(&pod, "shop", &ClusterConfig::default(), &node);
        (dns.resolv_conf(), left_out)
    }

    #[test]
    fn each_policy_gives_the_kubelets_text() {
        let table = [
            (
                json!({ "containers": [], "dnsPolicy": "ClusterFirst" }),
                "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.43.0.10\noptions ndots:5\n",
            ),
            (
                json!({ "containers": [], "dnsPolicy": "Default" }),
                "search example.org cluster.local\nnameserver 9.9.9.9\noptions rotate\n",
            ),
            (
                json!({ "containers": [], "hostNetwork": true }),
                "search example.org cluster.local\nnameserver 9.9.9.9\noptions rotate\n",
            ),
            (
                json!({ "containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet" }),
                "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.43.0.10\noptions ndots:5\n",
            ),
            (
                json!({ "containers": [], "dnsPolicy": "None", "dnsConfig": { "nameservers": ["192.0.2.1", "2001:db8::1"],
                    "searches": ["ns1.svc.cluster-domain.example", "my.dns.search.suffix"],
                    "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }] } }),
                "search ns1.svc.cluster-domain.example my.dns.search.suffix\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:2 edns0\n",
            ),
            (
                json!({ "containers": [], "dnsConfig": { "nameservers": ["10.43.0.10", "192.0.2.1"],
                    "searches": ["svc.cluster.local", "more.example"],
                    "options": [{ "name": "timeout", "value": "1" }, { "name": "ndots", "value": "1" }] } }),
                "search shop.svc.cluster.local svc.cluster.local cluster.local example.org more.example\n\
                 nameserver 10.43.0.10\nnameserver 192.0.2.1\noptions ndots:1 timeout:1\n",
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(formed(spec.clone()), (expected.to_owned(), Vec::new()), "{spec}");
        }
    }

    #[test]
    fn what_resolvers_do_not_read_is_left_out_and_said() {
        let (text, said) = formed(json!({ "containers": [], "dnsConfig": {
            "nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
            "searches": (0..30).map(|i| format!("s{i}.example")).collect::<Vec<_>>() } }));
        assert!(text.contains("nameserver 192.0.2.2\noptions") && text.contains(" s27.example\n"), "{text}");
        assert!(
            said[0].ends_with("the applied nameserver line is: 10.43.0.10 192.0.2.1 192.0.2.2"),
            "{said:?}"
        );
        assert!(said[1].starts_with("Search Line limits were exceeded, some search paths have been omitted"));
        let long: Vec<String> = (0..10).map(|i| format!("{i}{}", ".abcdefg".repeat(30))).collect();
        let (text, said) = formed(json!({ "containers": [], "dnsConfig": { "searches": long } }));
        let search = text.lines().next().unwrap().strip_prefix("search ").unwrap();
        assert!((1800..=2048).contains(&search.len()) && said.len() == 1, "{}", search.len());
    }

    #[test]
    fn a_pod_is_called_by_its_hostname_in_the_domain_of_its_subdomain() {
        let name = |spec: Value, name: &str| {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            own_name(Some(&spec), name, "shop", "cluster.local")
        };
        assert_eq!(name(json!({ "containers": [] }), "web"), ("web".into(), None));
        assert_eq!(
            name(json!({ "containers": [], "hostname": "db-0", "subdomain": "db" }), "web"),
            ("db-0".into(), Some("db.shop.svc.cluster.local".into()))
        );
        let long = format!("{}-x", "a".repeat(62));
        assert_eq!(
            name(json!({ "containers": [], "hostname": "", "subdomain": "" }), &long),
            ("a".repeat(62), None)
        );
    }
}
