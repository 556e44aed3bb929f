//! The part every server has: its underlay, its Pods, its control loops.

use super::{
    networks,
    options::{Part, ServerArgs},
};
use anyhow::{Context, bail};
use minisvc_agent::{Agent, AgentConfig, Underlay};
use minisvc_apimachinery::{ClusterConfig, Family};
use minisvc_client::{ApiClient, Credentials};
use minisvc_datapath::link::underlay_facts;
use minisvc_podnet::{Asked, IPV6_MTU_MIN_BYTES, choose_underlay, pod_mtu_bytes};
use minisvc_runtime::{
    Executable, ImageTable, Runtime, RuntimeConfig,
    cgroup::{self, Groups},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{net::IpAddr, sync::Arc};

/// A node's certificate, and the CA that signed it.
pub struct Papers {
    /// The cluster's CA, PEM.
    pub ca: String,
    /// Certificate of the node as client and server, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
}

/// The link and address by which this node reaches the others.
///
/// # Errors
/// If that is not certain; the text says what to choose from.
pub async fn underlay(args: &ServerArgs, join: Option<IpAddr>, primary: Family) -> anyhow::Result<Underlay> {
    let (interfaces, routes) = underlay_facts().await.context("read this node's links")?;
    let node_ips = args.node_ips();
    Ok(choose_underlay(&interfaces, &routes, Asked { node_ips: &node_ips, join, primary })?)
}

/// The underlay as a cluster needs it: without an address of a family that the cluster has not.
///
/// # Errors
/// If this machine cannot carry a family of the cluster, or its addresses do not go with the cluster's networks.
pub fn fit(args: &ServerArgs, mut underlay: Underlay, cluster: &ClusterConfig) -> anyhow::Result<Underlay> {
    let families = cluster.families();
    networks::check(
        cluster,
        &if args.node_ips().is_empty() { vec![underlay.address] } else { args.node_ips() },
    )?;
    underlay.second = underlay.second.filter(|net| families.contains(&Family::of_net(*net)));
    if families.contains(&Family::Ipv6) {
        if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
            bail!(
                "the cluster has IPv6, and this machine's kernel has none: start it without ipv6.disable=1"
            );
        }
        let mtu_bytes = pod_mtu_bytes(cluster.overlay, &underlay);
        if mtu_bytes < IPV6_MTU_MIN_BYTES {
            bail!(
                "the cluster has IPv6, whose packets of {IPV6_MTU_MIN_BYTES} bytes must pass everywhere, and {mtu_bytes} pass \
                 between Pods of nodes on {}, whose MTU is {}: raise that, or choose --overlay host-gw",
                underlay.ifname,
                underlay.mtu_bytes
            );
        }
    }
    Ok(underlay)
}

/// Binds what the node serves and prepares its loops.
///
/// # Errors
/// If a port is in use, or a certificate or directory unusable.
pub async fn agent(
    args: &ServerArgs,
    name: &str,
    underlay: Underlay,
    cluster: ClusterConfig,
    api_url: &str,
    papers: &Papers,
) -> anyhow::Result<Agent> {
    let credentials =
        Credentials::Certificate { certificate: papers.certificate.clone(), key: papers.key.clone() };
    let client = ApiClient::from_parts(api_url, &papers.ca, &credentials).context("set up the API client")?;
    let executable = Executable::current().context("open this program")?;
    let mut config = RuntimeConfig::new(name, executable);
    config.log_dir = args.data_dir.join("logs");
    config.volume_dir = args.data_dir.join("volumes");
    config.masked.push(args.data_dir.clone());
    config.masked.extend(args.write_kubeconfig.parent().map(Into::into));
    config.images = images(args)?;
    config.groups = Groups::find(&cgroup::name_for(&args.data_dir));
    let runtime = Runtime::new(config).context("set up the runtime of pods")?;
    let config = AgentConfig {
        node_name: name.to_owned(),
        underlay,
        cluster,
        node_port_addresses: args.node_port_addresses()?,
        control_plane: args.join.is_none(),
        client,
        runtime,
        tls: tls(papers)?,
        dns: !args.disable.contains(&Part::Dns),
        ingress: !args.disable.contains(&Part::Ingress),
    };
    Ok(Agent::bind(config).await?)
}

/// The node's images: those that the server was started with come before those that were added.
fn images(args: &ServerArgs) -> anyhow::Result<ImageTable> {
    let store = crate::image::store(&args.data_dir);
    let mut given = minisvc_images::Table::default();
    for definition in &args.image {
        definition.give(&store, &mut given).context("--image")?;
    }
    Ok(ImageTable { given, store: Some(store) })
}

fn tls(papers: &Papers) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let ca = CertificateDer::from_pem_slice(papers.ca.as_bytes()).context("read the CA's certificate")?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(papers.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .context("read the node's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(papers.key.as_bytes()).context("read the node's key")?;
    Ok(minisvc_runtime::node::tls_config(&ca, chain, key)?)
}
