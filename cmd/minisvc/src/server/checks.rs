//! What must hold before a server starts, said with what to do about it.

use anyhow::{Context, bail};
use minisvc_agent::{HEALTH_PORT, NODE_PORT};
use minisvc_apimachinery::Overlay;
use std::net::{IpAddr, SocketAddr, TcpListener};

/// CAP_NET_ADMIN and CAP_SYS_ADMIN (capability.h).
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Whether this process may change links and mounts.
///
/// # Errors
/// If not.
pub fn privileges() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    for (bit, name) in NEEDED {
        if effective & (1 << bit) == 0 {
            bail!(
                "minisvc server needs {name}: run it as root, or try a whole cluster without root by `minisvc lab up`"
            );
        }
    }
    Ok(())
}

/// Whether the node's own ports are free, known before the node joins or its store is made.
///
/// # Errors
/// Naming the first that is not.
pub fn ports(address: IpAddr, ingress: bool) -> anyhow::Result<()> {
    let another = "another minisvc server, or a kubelet? End that first: one machine is one node";
    let without = "end what uses it, or run this node without Ingresses by `--disable ingress`";
    let ingress_ports = [(80, "Ingresses", without), (443, "Ingresses", without)];
    let own = [(NODE_PORT, "logs and exec", another), (HEALTH_PORT, "health and metrics", another)];
    for (port, purpose, advice) in own.into_iter().chain(ingress_ports.into_iter().filter(|_| ingress)) {
        let at = SocketAddr::new(address, port);
        if let Err(error) = TcpListener::bind(at) {
            match error.kind() {
                std::io::ErrorKind::AddrInUse => bail!("{at}, for {purpose}, is in use: {advice}"),
                _ => bail!("listen on {at} for {purpose}: {error}"),
            }
        }
    }
    Ok(())
}

/// Whether this machine can carry the cluster's overlay.
///
/// # Errors
/// If the device of user-space tunnels is missing or closed to us.
pub fn overlay(overlay: Overlay) -> anyhow::Result<()> {
    const TUN: &str = "/dev/net/tun";
    if overlay != Overlay::Tun {
        return Ok(());
    }
    match std::fs::OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error) => bail!(
            "--overlay tun: open {TUN}: {error}; load the module tun and run as root, or choose --overlay vxlan"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let address = IpAddr::from([127, 0, 97, 1]);
        let _taken = TcpListener::bind((address, NODE_PORT)).unwrap();
        let error = ports(address, false).unwrap_err().to_string();
        assert!(
            error.starts_with("127.0.97.1:10250, for logs and exec, is in use: another minisvc"),
            "{error}"
        );
    }
}
