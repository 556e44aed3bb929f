//! The flags of `minisvc server`.
//!
//! Each has an environment variable (`MINISVC_…`) and a key of the same name in the config file. Flags win over
//! variables, variables over the file, the file over the defaults.

use super::networks::{NodeIps, address_range, networks, one_of_each};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use minisvc_agent::NodePortAddresses;
use minisvc_apimachinery::{ClusterConfig, Overlay};
use minisvc_images::Definition;
use serde_json::Value;
use std::{
    ffi::OsString,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Where the config file is looked for if none is named.
const CONFIG_FILE: &str = "/etc/minisvc/config.yaml";
/// Largest config file, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Parts that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Cluster DNS on this node.
    Dns,
    /// HTTP and HTTPS for Ingresses on this node.
    Ingress,
    /// Addresses for Services of type LoadBalancer (first server).
    Servicelb,
}

/// How Pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverlayName {
    /// Kernel VXLAN, UDP port 8472.
    Vxlan,
    /// Plain routes; the nodes share a link.
    HostGw,
    /// A TUN device, user space, UDP port 51820.
    Tun,
}

impl From<OverlayName> for Overlay {
    fn from(name: OverlayName) -> Self {
        match name {
            OverlayName::Vxlan => Self::Vxlan,
            OverlayName::HostGw => Self::HostGw,
            OverlayName::Tun => Self::Tun,
        }
    }
}

/// `minisvc server`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ServerArgs {
    /// Name of this node [default: the host name].
    #[arg(long, env = "MINISVC_NODE_NAME", value_name = "N")]
    pub node_name: Option<String>,
    /// Address at which the other nodes reach this one, or one of each family [default: the one towards the server,
    /// if that is certain].
    #[arg(long, env = "MINISVC_NODE_IP", value_name = "IP[,IP]")]
    pub node_ip: Option<NodeIps>,
    /// Where this node keeps its state.
    #[arg(long, env = "MINISVC_DATA_DIR", default_value = "/var/lib/minisvc", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the API listens, without IP on every address of both families (first server).
    #[arg(long, env = "MINISVC_BIND", default_value = ":6443", value_parser = parse_bind, value_name = "[IP]:PORT")]
    pub bind: SocketAddr,
    /// Network of the Pods, or one of each family, the primary one first [default: 10.42.0.0/16].
    #[arg(long, env = "MINISVC_CLUSTER_CIDR", value_name = "CIDR[,CIDR]")]
    pub cluster_cidr: Option<String>,
    /// Network of the Services' virtual addresses, of the families of --cluster-cidr [default: 10.43.0.0/16].
    #[arg(long, env = "MINISVC_SERVICE_CIDR", value_name = "CIDR[,CIDR]")]
    pub service_cidr: Option<String>,
    /// Ports for Services of type NodePort [default: 30000-32767].
    #[arg(long, env = "MINISVC_SERVICE_NODE_PORT_RANGE", value_name = "FROM-TO")]
    pub service_node_port_range: Option<String>,
    /// Addresses of this node on which node ports answer: `primary`, those by which the other nodes reach it, or all its
    /// own in these networks; never localhost.
    #[arg(
        long,
        env = "MINISVC_NODEPORT_ADDRESSES",
        default_value = "primary",
        value_name = "primary|CIDR[,CIDR…]"
    )]
    pub nodeport_addresses: String,
    /// DNS zone of the cluster [default: cluster.local].
    #[arg(long, env = "MINISVC_CLUSTER_DOMAIN", value_name = "ZONE")]
    pub cluster_domain: Option<String>,
    /// How Pods of different nodes reach each other [default: vxlan].
    #[arg(long, env = "MINISVC_OVERLAY")]
    pub overlay: Option<OverlayName>,
    /// Addresses for Services of type LoadBalancer, of either family [default: none].
    #[arg(long, env = "MINISVC_LOAD_BALANCER_POOL", value_name = "CIDR|FROM-TO[,…]")]
    pub load_balancer_pool: Option<String>,
    /// Networks of which `spec.externalIPs` of Services may be: whoever may write Services can then take an address of
    /// theirs [default: none].
    #[arg(long, env = "MINISVC_ALLOWED_EXTERNAL_IPS", value_name = "CIDR")]
    pub allowed_external_ips: Option<String>,
    /// Silence, in seconds, after which a node is NotReady and its endpoints are left out; 2 or more [default: 40].
    #[arg(long, env = "MINISVC_NODE_MONITOR_GRACE_PERIOD", value_parser = clap::value_parser!(u32).range(2..=3600), value_name = "SECONDS")]
    pub node_monitor_grace_period: Option<u32>,
    /// Where the API's objects are kept.
    #[arg(long, env = "MINISVC_DATASTORE", default_value = "sled")]
    pub datastore: String,
    /// Parts to leave out.
    #[arg(long, env = "MINISVC_DISABLE", value_delimiter = ',')]
    pub disable: Vec<Part>,
    /// Another name or address of the API for its certificate.
    #[arg(long, env = "MINISVC_TLS_SAN", value_delimiter = ',', value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// An image for Pods, beside those of `minisvc image add`: a directory and what runs in it, a program
    /// (NAME=exec:PROGRAM ARGS) or an archive (NAME=oci:ARCHIVE).
    #[arg(long, env = "MINISVC_IMAGE", value_name = "NAME=DIR[:ENTRYPOINT]")]
    pub image: Vec<Definition>,
    /// Where to write the administrator's kubeconfig, and beside it, as FILE.view, the one that only reads (first server).
    #[arg(
        long,
        env = "MINISVC_WRITE_KUBECONFIG",
        default_value = "/etc/minisvc/kubeconfig",
        value_name = "FILE"
    )]
    pub write_kubeconfig: PathBuf,
    /// Join the cluster of this server instead of being the first.
    #[arg(long, env = "MINISVC_JOIN", value_name = "https://HOST:6443")]
    pub join: Option<String>,
    /// The join token: `minisvc token` on the first server prints it.
    #[arg(long, env = "MINISVC_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Config file: these flags as YAML, without the dashes [default: /etc/minisvc/config.yaml, if it is there].
    #[arg(long, env = "MINISVC_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

fn parse_bind(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
        return Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    }
    text.parse().map_err(|_| "expected [IP]:PORT".to_owned())
}

impl ServerArgs {
    /// What no single flag can check.
    ///
    /// # Errors
    /// Naming the flags that contradict each other.
    pub fn check(self) -> anyhow::Result<Self> {
        if self.datastore != "sled" {
            bail!("--datastore {}: only sled is served by this version", self.datastore);
        }
        if self.join.is_some()
            && self.token.is_none()
            && !self.data_dir.join(super::joined::NODE_FILE).exists()
        {
            bail!("--join needs --token: `minisvc token` on the first server prints it");
        }
        if self.join.is_none() && self.token.is_some() {
            bail!("--token needs --join https://HOST:6443");
        }
        self.node_port_addresses()?;
        Ok(self)
    }

    /// The name of this node.
    ///
    /// # Errors
    /// If it is no DNS name.
    pub fn name(&self) -> anyhow::Result<String> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()
                .context("read the host name")?
                .to_string_lossy()
                .to_ascii_lowercase(),
        };
        if !is_dns_subdomain(&name) {
            bail!(
                "--node-name {name:?}: must be a lower-case DNS name of at most 63 characters, such as node1"
            );
        }
        Ok(name)
    }

    /// The addresses of `--node-ip` in their order: none, one, or one of each family.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        self.node_ip.map(NodeIps::addresses).unwrap_or_default()
    }

    /// The cluster's facts as these flags say them.
    ///
    /// # Errors
    /// Naming the flag that is malformed.
    pub fn cluster(&self) -> anyhow::Result<ClusterConfig> {
        let mut config = ClusterConfig::default();
        if let Some(text) = &self.cluster_cidr {
            config.cluster_cidrs = one_of_each("--cluster-cidr", text)?;
        }
        if let Some(text) = &self.service_cidr {
            config.service_cidrs = one_of_each("--service-cidr", text)?;
        }
        if let Some(text) = &self.service_node_port_range {
            let parsed = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            match parsed {
                Some((first, last)) if 0 < first && first <= last => {
                    (config.node_port_first, config.node_port_last) = (first, last);
                }
                _ => bail!("--service-node-port-range {text:?}: expected FROM-TO, such as 30000-32767"),
            }
        }
        if let Some(domain) = &self.cluster_domain {
            if !is_dns_subdomain(domain) {
                bail!("--cluster-domain {domain:?}: must be a DNS name such as cluster.local");
            }
            config.cluster_domain.clone_from(domain);
        }
        if let Some(overlay) = self.overlay {
            config.overlay = overlay.into();
        }
        if let Some(text) = &self.load_balancer_pool {
            config.load_balancer_pool = text.split(',').map(address_range).collect::<anyhow::Result<_>>()?;
        }
        if let Some(text) = &self.allowed_external_ips {
            config.external_ip_cidrs = networks("--allowed-external-ips", text)?;
        }
        if self.disable.contains(&Part::Servicelb) {
            config.load_balancer_pool.clear();
        }
        Ok(config)
    }

    /// Where node ports answer.
    ///
    /// # Errors
    /// If it is neither `primary` nor networks.
    pub fn node_port_addresses(&self) -> anyhow::Result<NodePortAddresses> {
        match self.nodeport_addresses.as_str() {
            "primary" => Ok(NodePortAddresses::Primary),
            text => networks("--nodeport-addresses", text).map(NodePortAddresses::Within),
        }
    }

    /// The cluster-wide flags that were given, for a node that takes them from the cluster instead.
    pub fn cluster_flags(&self) -> Vec<&'static str> {
        [
            ("--cluster-cidr", self.cluster_cidr.is_some()),
            ("--service-cidr", self.service_cidr.is_some()),
            ("--service-node-port-range", self.service_node_port_range.is_some()),
            ("--cluster-domain", self.cluster_domain.is_some()),
            ("--overlay", self.overlay.is_some()),
            ("--load-balancer-pool", self.load_balancer_pool.is_some()),
            ("--allowed-external-ips", self.allowed_external_ips.is_some()),
            ("--node-monitor-grace-period", self.node_monitor_grace_period.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
    }
}

fn is_dns_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 63 && name.split('.').all(label)
}

/// The command line with the config file's keys put before the flags of `minisvc server`, so that flags win.
///
/// # Errors
/// If the file that was named cannot be read, or a key is not a flag.
pub fn with_config_file(args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    if args.get(1).is_none_or(|command| command != "server") {
        return Ok(args);
    }
    let named = args
        .iter()
        .position(|arg| arg == "--config")
        .and_then(|at| args.get(at + 1).cloned())
        .or_else(|| args.iter().find_map(|arg| Some(arg.to_str()?.strip_prefix("--config=")?.into())))
        .or_else(|| std::env::var_os("MINISVC_CONFIG"));
    let path = PathBuf::from(named.clone().unwrap_or_else(|| CONFIG_FILE.into()));
    if named.is_none() && !path.exists() {
        return Ok(args);
    }
    let from_file = flags_of(&path)?;
    let (head, tail) = args.split_at(2);
    Ok(head.iter().cloned().chain(from_file).chain(tail.iter().cloned()).collect())
}

fn flags_of(path: &Path) -> anyhow::Result<Vec<OsString>> {
    let shown = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("--config: read {shown}"))?.len();
    if size > CONFIG_BYTES_MAX {
        bail!("--config: {shown} has {size} bytes; at most {CONFIG_BYTES_MAX} are read");
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("--config: read {shown}"))?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("--config: {shown}"))?;
    let Value::Object(keys) = value else { bail!("--config: {shown}: expected `key: value` lines") };
    let command = ServerArgs::augment_args(clap::Command::new("server"));
    let mut flags = Vec::new();
    for (key, value) in keys {
        let known = command.get_arguments().find(|arg| arg.get_long() == Some(key.as_str()));
        let Some(known) = known.filter(|_| key != "config") else {
            bail!("--config: {shown}: unknown key {key:?}");
        };
        if known.get_env().is_some_and(|variable| std::env::var_os(variable).is_some()) {
            continue;
        }
        let words: Vec<String> = match value {
            Value::Array(items) => items.iter().map(scalar).collect::<Option<_>>(),
            other => scalar(&other).map(|word| vec![word]),
        }
        .with_context(|| format!("--config: {shown}: {key}: expected a value or a list of values"))?;
        // A flag that is given once takes a list in one word.
        let words = match known.get_action() {
            clap::ArgAction::Append => words,
            _ => vec![words.join(",")],
        };
        flags.extend(words.into_iter().map(|word| OsString::from(format!("--{key}={word}"))));
    }
    Ok(flags)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
