//! Pod object → what the runtime is to run: a pure function.

mod security;

use crate::{life::life, pod_dns};
use k8s_openapi::api::core::v1::{Container, EnvVar, HostAlias, Pod};
use minisvc_apimachinery::ClusterConfig;
use minisvc_podnet::LocalPod;
use minisvc_runtime::{ContainerPort, ContainerSpec, PodBundle, PodDns, RestartPolicy};
use std::{net::IpAddr, path::PathBuf};

/// Kubernetes' `terminationGracePeriodSeconds` where none is given.
const GRACE_S: u64 = 30;

/// What the node adds to a Pod's spec.
#[derive(Clone, Debug)]
pub struct NodeFacts<'a> {
    /// Name of the node.
    pub node_name: &'a str,
    /// Addresses of the node, the primary one first.
    pub node_addresses: &'a [IpAddr],
    /// The facts all nodes share.
    pub cluster: &'a ClusterConfig,
}

/// The bundle of a Pod whose address is decided and whose network namespace is at `netns`.
pub fn bundle(
    pod: &Pod,
    uid: &str,
    local: &LocalPod,
    netns: PathBuf,
    dns: PodDns,
    facts: &NodeFacts<'_>,
) -> PodBundle {
    let spec = pod.spec.as_ref();
    let zone = &facts.cluster.cluster_domain;
    let (hostname, domain) = pod_dns::own_name(spec, &local.name, &local.namespace, zone);
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds);
    let specs = |list: &[Container], is_init| -> Vec<ContainerSpec> {
        let with_life = |container| ContainerSpec {
            life: life(container, is_init),
            ..container_spec(container, pod, local, facts)
        };
        list.iter().map(with_life).collect()
    };
    PodBundle {
        uid: uid.to_owned(),
        namespace: local.namespace.clone(),
        name: local.name.clone(),
        hostname,
        domain,
        addresses: local.addresses.clone(),
        netns,
        dns,
        host_aliases: aliases.iter().filter_map(host_alias).collect(),
        restart_policy: match spec.and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        },
        init_containers: specs(init, true),
        containers: specs(containers, false),
        grace_s: grace.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(GRACE_S),
    }
}

fn host_alias(alias: &HostAlias) -> Option<(IpAddr, Vec<String>)> {
    Some((alias.ip.parse().ok()?, alias.hostnames.clone().unwrap_or_default()))
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
        security: security::security(pod.spec.as_ref(), container),
        ..ContainerSpec::default()
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
        "status.podIP" => first(&local.addresses),
        "status.podIPs" => all(&local.addresses),
        "status.hostIP" => first(facts.node_addresses),
        "status.hostIPs" => all(facts.node_addresses),
        _ => String::new(),
    }
}

fn first(addresses: &[IpAddr]) -> String {
    addresses.first().map(ToString::to_string).unwrap_or_default()
}

fn all(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(yaml: &str) -> Pod {
        serde_json::from_str(yaml).unwrap()
    }

    #[test]
    fn a_bundle_has_the_pods_names_environment_and_expanded_arguments() {
        let pod = pod(r#"{"metadata":{"name":"web","namespace":"shop","uid":"u1"},"spec":{
            "hostname":"db-0","subdomain":"db","hostAliases":[{"ip":"192.0.2.9","hostnames":["foo","bar.example"]}],"containers":[{"name":"c",
            "image":"host","command":["sh","-c","echo $(WHO) $$(X) $(NOBODY) $5"],
            "env":[{"name":"WHO","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}],
            "stdin":true,"tty":true,
            "ports":[{"containerPort":8080},{"containerPort":53,"protocol":"UDP"}]}]}}"#);
        let addresses = ["10.42.1.5", "fd42:0:0:1::5"].map(|address| address.parse().unwrap());
        let local = LocalPod::new("u1", "shop", "web", addresses.to_vec());
        let cluster = ClusterConfig::default();
        let node_addresses = [IpAddr::from([192, 0, 2, 1])];
        let facts = NodeFacts { node_name: "node1", node_addresses: &node_addresses, cluster: &cluster };
        let bundle = bundle(&pod, "u1", &local, "/run/minisvc/netns/u1".into(), PodDns::default(), &facts);
        assert_eq!(bundle.hostname, "db-0");
        let names = "db-0.db.shop.svc.cluster.local\tdb-0";
        let own = format!("10.42.1.5\t{names}\nfd42:0:0:1::5\t{names}\n");
        let aliases = "\n# Entries added by HostAliases.\n192.0.2.9\tfoo\tbar.example\n";
        assert!(
            bundle.hosts().ends_with(&format!("fe00::2\tip6-allrouters\n{own}{aliases}")),
            "{}",
            bundle.hosts()
        );
        let container = &bundle.containers[0];
        assert_eq!(container.command[2], "echo 10.42.1.5 $(X) $(NOBODY) $5");
        assert_eq!(container.ports[1].protocol, "UDP");
        assert_eq!((container.stdin, container.stdin_once, container.tty), (true, false, true));
    }
}
