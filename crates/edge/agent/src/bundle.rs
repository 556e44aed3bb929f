//! Pod object → what the runtime is to run: a pure function.

mod env;
mod resources;
mod security;
#[cfg(test)]
mod tests;
mod volumes;

use crate::{life::life, pod_dns, sources::Sources};
use k8s_openapi::{
    api::core::v1::{Container, HostAlias, Pod, Service},
    apimachinery::pkg::api::resource,
};
use minisvc_apimachinery::{ClusterConfig, snapshot::Objects};
use minisvc_podnet::LocalPod;
use minisvc_runtime::volumes::Contents;
use minisvc_runtime::{ContainerPort, ContainerSpec, PodBundle, PodDns, RestartPolicy};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

/// Kubernetes' `terminationGracePeriodSeconds` where none is given.
const GRACE_S: u64 = 30;

/// What the node adds to a Pod's spec.
#[derive(Clone, Debug)]
pub struct NodeFacts<'a> {
    /// Name of the node.
    pub node_name: &'a str,
    /// Host name of the machine, which Pods in its network have too.
    pub hostname: &'a str,
    /// Addresses of the node, the primary one first.
    pub node_addresses: &'a [IpAddr],
    /// How much of each resource the node has for Pods.
    pub allocatable: &'a BTreeMap<String, resource::Quantity>,
    /// The facts all nodes share.
    pub cluster: &'a ClusterConfig,
}

/// All that a bundle is made from.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// Its name and addresses.
    pub local: &'a LocalPod,
    /// The node's part.
    pub facts: &'a NodeFacts<'a>,
    /// The ConfigMaps and Secrets that it names.
    pub sources: &'a Sources,
    /// All Services.
    pub services: &'a Objects<Service>,
}

/// A volume's files that there are not; without them nothing of a Pod is started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
pub struct Missing {
    /// The volume's name.
    pub volume: String,
    /// The kubelet's words.
    pub message: String,
}

/// The bundle of a Pod whose network namespace is at `netns` (none: it is in the node's), and the files of its volumes.
/// A container whose environment lacks something says so ([`ContainerSpec::lacks`]); the others do not wait for it.
///
/// # Errors
/// The volume that cannot be filled.
pub fn bundle(
    given: &Given<'_>,
    uid: &str,
    netns: Option<PathBuf>,
    dns: PodDns,
) -> Result<(PodBundle, Contents), Missing> {
    let Given { pod, local, facts, .. } = *given;
    let contents = volumes::contents(given)?;
    let spec = pod.spec.as_ref();
    let zone = &facts.cluster.cluster_domain;
    let (hostname, domain) = match netns {
        Some(_) => pod_dns::own_name(spec, &local.name, &local.namespace, zone),
        None => (facts.hostname.to_owned(), None),
    };
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds);
    let specs = |list: &[Container], is_init| -> Vec<ContainerSpec> {
        let with_life =
            |container| ContainerSpec { life: life(container, is_init), ..container_spec(container, given) };
        list.iter().map(with_life).collect()
    };
    let group = spec.and_then(|spec| spec.security_context.as_ref()?.fs_group);
    let bundle = PodBundle {
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
        volumes: volumes::volumes(pod),
        volume_group: group.and_then(|group| u32::try_from(group).ok()),
        grace_s: grace.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(GRACE_S),
    };
    Ok((bundle, contents))
}

fn host_alias(alias: &HostAlias) -> Option<(IpAddr, Vec<String>)> {
    Some((alias.ip.parse().ok()?, alias.hostnames.clone().unwrap_or_default()))
}

fn container_spec(container: &Container, given: &Given<'_>) -> ContainerSpec {
    let ports = container.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some(ContainerPort { port: number, protocol })
    });
    let (env, lacks) = match env::environment(container, given) {
        Ok(env) => (env, None),
        Err(message) => (Vec::new(), Some(message)),
    };
    let expand = |words: &Option<Vec<String>>| {
        words.iter().flatten().map(|word| env::expanded(word, &env)).collect::<Vec<_>>()
    };
    ContainerSpec {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone(),
        ports: ports.collect(),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        security: security::security(given.pod.spec.as_ref(), container),
        mounts: volumes::mounts(container, given.pod, &env),
        env,
        lacks,
        limits: resources::limits(container),
        ..ContainerSpec::default()
    }
}
