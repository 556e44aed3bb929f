//! A server that joins: a node of a cluster whose API is elsewhere.

use super::{
    checks, node,
    options::{Part, ServerArgs},
};
use anyhow::{Context, bail};
use minisvc_apimachinery::{ClusterConfig, Family};
use minisvc_apiserver::pki::node_request;
use minisvc_client::join::{JoinError, join};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, path::Path, time::Duration};
use tokio_util::sync::CancellationToken;

/// What a node remembers of its cluster, in its data directory.
pub const NODE_FILE: &str = "node.json";
/// Waits between tries to reach the first server, which may be starting.
const RETRIES: [u64; 6] = [100, 200, 500, 1000, 2000, 4000];

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Membership {
    server: String,
    node_name: String,
    node_address: IpAddr,
    ca: String,
    certificate: String,
    key: String,
    cluster: ClusterConfig,
}

/// Runs until `shutdown`.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn run(args: ServerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Some(server) = args.join.clone() else { bail!("--join is missing") };
    if args.data_dir.join("store").exists() {
        bail!(
            "{} holds a cluster's store: this was a first server; give --join another --data-dir",
            args.data_dir.display()
        );
    }
    let name = args.name()?;
    let first = resolve(&server).await?;
    let underlay = node::underlay(&args, Some(first), Family::of(first)).await?;
    checks::ports(underlay.address, !args.disable.contains(&Part::Ingress))?;
    let path = args.data_dir.join(NODE_FILE);
    let member = match read(&path)? {
        Some(member) => member,
        None => {
            let member = become_member(&args, &server, &name, underlay.address).await?;
            let text = serde_json::to_string(&member).context("encode the membership")?;
            super::write_private(&path, &text)?;
            member
        }
    };
    if (member.node_name.as_str(), member.node_address) != (name.as_str(), underlay.address) {
        bail!(
            "this machine joined as {} at {}: start it with --node-name {} --node-ip {}, or delete that node and {}",
            member.node_name,
            member.node_address,
            member.node_name,
            member.node_address,
            path.display()
        );
    }
    let underlay = node::fit(&args, underlay, &member.cluster)?;
    checks::overlay(member.cluster.overlay)?;
    same_facts(&args, &member.cluster)?;
    let papers = node::Papers { ca: member.ca, certificate: member.certificate, key: member.key };
    let agent = node::agent(&args, &name, underlay, member.cluster, &server, &papers).await?;
    Ok(agent.run(shutdown).await?)
}

/// Cluster-wide flags may be repeated on every server, but must not say something else.
fn same_facts(args: &ServerArgs, cluster: &ClusterConfig) -> anyhow::Result<()> {
    let flags = args.cluster_flags();
    if flags.is_empty() {
        return Ok(());
    }
    let said = args.cluster()?;
    for (flag, same) in [
        ("--cluster-cidr", said.cluster_cidrs == cluster.cluster_cidrs),
        ("--service-cidr", said.service_cidrs == cluster.service_cidrs),
        (
            "--service-node-port-range",
            (said.node_port_first, said.node_port_last) == (cluster.node_port_first, cluster.node_port_last),
        ),
        ("--cluster-domain", said.cluster_domain == cluster.cluster_domain),
        ("--overlay", said.overlay == cluster.overlay),
        ("--load-balancer-pool", said.load_balancer_pool == cluster.load_balancer_pool),
        ("--allowed-external-ips", said.external_ip_cidrs == cluster.external_ip_cidrs),
    ] {
        if flags.contains(&flag) && !same {
            bail!(
                "{flag}: the cluster has another value, chosen at its first server; leave the flag out here"
            );
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Option<Membership>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            Ok(Some(serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

async fn become_member(
    args: &ServerArgs,
    server: &str,
    name: &str,
    address: IpAddr,
) -> anyhow::Result<Membership> {
    let Some(token) = &args.token else {
        bail!("--join needs --token: `minisvc token` on the first server prints it")
    };
    let (key, request) = node_request(name)?;
    let mut waits = RETRIES.iter();
    let response = loop {
        match join(server, token, name, address, &request).await {
            Ok(response) => break response,
            Err(error @ JoinError::Connect { .. }) => match waits.next() {
                Some(wait) => tokio::time::sleep(Duration::from_millis(*wait)).await,
                None => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    };
    Ok(Membership {
        server: server.to_owned(),
        node_name: name.to_owned(),
        node_address: address,
        ca: response.ca,
        certificate: response.certificate,
        key,
        cluster: response.cluster,
    })
}

/// The address of the first server, of IPv4 if it has one, to find the link towards it.
async fn resolve(server: &str) -> anyhow::Result<IpAddr> {
    let uri: http::Uri =
        server.parse().with_context(|| format!("--join {server:?}: expected https://HOST:6443"))?;
    let host = uri.host().with_context(|| format!("--join {server:?}: expected https://HOST:6443"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<IpAddr> = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(6443)))
        .await
        .with_context(|| format!("--join {server}: look up {host}"))?
        .map(|found| found.ip())
        .collect();
    let chosen = found.iter().find(|address| address.is_ipv4()).or(found.first());
    chosen.copied().with_context(|| format!("--join: {host} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_server_may_be_named_by_an_address_of_either_family() {
        for (server, address) in
            [("https://192.0.2.1:6443", "192.0.2.1"), ("https://[2001:db8::1]:6443", "2001:db8::1")]
        {
            assert_eq!(resolve(server).await.unwrap(), address.parse::<IpAddr>().unwrap());
        }
        assert!(resolve("nonsense").await.is_err());
    }
}
