//! Pod object → what the runtime is to run: a pure function.

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use minisvc_apimachinery::ClusterConfig;
use minisvc_podnet::LocalPod;
use minisvc_runtime::{ContainerPort, ContainerSpec, PodBundle, PodDns, RestartPolicy};
use std::{net::IpAddr, path::PathBuf};

/// What the node adds to a Pod's spec.
#[derive(Clone, Debug)]
pub struct NodeFacts<'a> {
    /// Name of the node.
    pub node_name: &'a str,
    /// Address of the node.
    pub node_address: IpAddr,
    /// The facts all nodes share.
    pub cluster: &'a ClusterConfig,
    /// `nameserver` and `search` lines of the node itself, for `dnsPolicy: Default`.
    pub node_dns: &'a PodDns,
}

/// The bundle of a Pod whose address is decided and whose network namespace is at `netns`.
pub fn bundle(pod: &Pod, uid: &str, local: &LocalPod, netns: PathBuf, facts: &NodeFacts<'_>) -> PodBundle {
    let spec = pod.spec.as_ref();
    let hostname = spec.and_then(|spec| spec.hostname.clone()).unwrap_or_else(|| local.name.clone());
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    PodBundle {
        uid: uid.to_owned(),
        namespace: local.namespace.clone(),
        name: local.name.clone(),
        hostname: hostname.chars().take(63).collect(),
        address: Some(local.address),
        netns,
        dns: dns(pod, &local.namespace, facts),
        host_aliases: Vec::new(),
        restart_policy: match spec.and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        },
        containers: containers.iter().map(|container| container_spec(container, pod, local, facts)).collect(),
    }
}

/// The search path of Kubernetes (dns-pod-service): the Pod's namespace, all Services, the zone; `ndots:5`.
fn dns(pod: &Pod, namespace: &str, facts: &NodeFacts<'_>) -> PodDns {
    let policy = pod.spec.as_ref().and_then(|spec| spec.dns_policy.as_deref());
    if policy == Some("Default") {
        return facts.node_dns.clone();
    }
    let zone = &facts.cluster.cluster_domain;
    let mut searches = vec![format!("{namespace}.svc.{zone}"), format!("svc.{zone}"), zone.clone()];
    searches.extend(facts.node_dns.searches.iter().cloned());
    PodDns {
        nameservers: facts.cluster.dns_address().into_iter().collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn container_spec(
    container: &Container,
    pod: &Pod,
    local: &LocalPod,
    facts: &NodeFacts<'_>,
) -> ContainerSpec {
    let ports = container.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some(ContainerPort { port: number, protocol })
    });
    let env: Vec<(String, String)> = container
        .env
        .iter()
        .flatten()
        .map(|variable| (variable.name.clone(), value(variable, pod, local, facts)))
        .collect();
    let expand = |words: &Option<Vec<String>>| {
        words.iter().flatten().map(|word| expanded(word, &env)).collect::<Vec<_>>()
    };
    ContainerSpec {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone(),
        ports: ports.collect(),
        env,
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
    }
}

/// Value of an environment variable; the fields that may be referred to are those the registry lets through.
fn value(variable: &EnvVar, pod: &Pod, local: &LocalPod, facts: &NodeFacts<'_>) -> String {
    let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
    let Some(field) = field else { return variable.value.clone().unwrap_or_default() };
    match field.field_path.as_str() {
        "metadata.name" => local.name.clone(),
        "metadata.namespace" => local.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "spec.nodeName" => facts.node_name.to_owned(),
        "spec.serviceAccountName" => {
            pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.podIP" | "status.podIPs" => local.address.to_string(),
        "status.hostIP" | "status.hostIPs" => facts.node_address.to_string(),
        _ => String::new(),
    }
}

/// `$(NAME)` in commands and arguments; `$$` is a dollar sign, an unknown name stays as it is
/// (k8s.io/kubernetes third_party/forked/golang/expansion).
fn expanded(word: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The node's own name resolution, from the text of its `/etc/resolv.conf`.
pub fn parse_resolv_conf(text: &str) -> PodDns {
    let mut dns = PodDns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                dns.nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
            }
            Some("search") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(yaml: &str) -> Pod {
        serde_json::from_str(yaml).unwrap()
    }

    #[test]
    fn a_bundle_has_the_pods_search_path_environment_and_expanded_arguments() {
        let pod = pod(
            r#"{"metadata":{"name":"web","namespace":"shop","uid":"u1"},"spec":{"containers":[{"name":"c",
            "image":"host","command":["sh","-c","echo $(WHO) $$(X) $(NOBODY) $5"],
            "env":[{"name":"WHO","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}],
            "stdin":true,"tty":true,
            "ports":[{"containerPort":8080},{"containerPort":53,"protocol":"UDP"}]}]}}"#,
        );
        let local = LocalPod::new("u1", "shop", "web", IpAddr::from([10, 42, 1, 5]));
        let cluster = ClusterConfig::default();
        let node_dns = parse_resolv_conf("nameserver 9.9.9.9\nsearch example.org\n");
        let facts = NodeFacts {
            node_name: "node1",
            node_address: IpAddr::from([192, 0, 2, 1]),
            cluster: &cluster,
            node_dns: &node_dns,
        };
        let bundle = bundle(&pod, "u1", &local, "/run/minisvc/netns/u1".into(), &facts);
        assert_eq!(bundle.hostname, "web");
        assert_eq!(
            bundle.dns.resolv_conf(),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.43.0.10\noptions ndots:5\n"
        );
        let container = &bundle.containers[0];
        assert_eq!(container.command[2], "echo 10.42.1.5 $(X) $(NOBODY) $5");
        assert_eq!(container.ports[1].protocol, "UDP");
        assert_eq!((container.stdin, container.stdin_once, container.tty), (true, false, true));
    }
}
