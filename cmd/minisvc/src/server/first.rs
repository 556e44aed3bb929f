//! The first server: store, API, control loops and a node.

use super::{
    checks, cluster, node,
    options::{Part, ServerArgs},
};
use crate::local::Role;
use anyhow::{Context, bail};
use jiff::SignedDuration;
use minisvc_apimachinery::Family;
use minisvc_apiserver::{ApiServer, Pki, PkiOptions};
use minisvc_client::{ApiClient, Credentials};
use minisvc_controllers::node_lifecycle::Grace;
use minisvc_manager::{Manager, ManagerConfig};
use minisvc_store::{Limits, Store};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, setsockopt, socket, sockopt},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsRawFd, FromRawFd},
    path::PathBuf,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// First inherited socket (sd_listen_fds(3)).
const LISTEN_FDS_START: i32 = 3;

/// Runs until `shutdown`.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn run(args: ServerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let name = args.name()?;
    let wanted = args.cluster()?;
    let underlay = node::underlay(&args, None, wanted.primary_family()).await?;
    let underlay = node::fit(&args, underlay, &wanted)?;
    let addresses = underlay.addresses();
    checks::overlay(wanted.overlay)?;
    let listeners = listeners(args.bind)?;
    checks::ports(underlay.address, !args.disable.contains(&Part::Ingress))?;
    let cluster = cluster::settle(&args.data_dir, wanted)?;
    let options = PkiOptions {
        node_name: name.clone(),
        node_addresses: addresses.clone(),
        service_addresses: cluster.api_addresses(),
        cluster_domain: cluster.cluster_domain.clone(),
        extra_sans: args.tls_san.clone(),
        now: jiff::Timestamp::now(),
    };
    let data_dir = args.data_dir.clone();
    let (store, pki) = tokio::task::spawn_blocking(move || open(&data_dir, &options)).await??;

    let server = ApiServer::new(store.clone(), cluster.clone(), pki.clone())?;
    let stopped = CancellationToken::new();
    let serving = tokio::spawn(server.serve(listeners, stopped.clone()));

    let local = if args.bind.ip().is_unspecified() { underlay.address } else { args.bind.ip() };
    let api_url = format!("https://{}", SocketAddr::new(local, args.bind.port()));
    write_kubeconfig(&args, &pki, &api_url)?;
    // Service default/kubernetes is of the primary family, so its endpoint should be.
    let primary = addresses.iter().copied().find(|ip| Family::of(*ip) == cluster.primary_family());
    let api_server = SocketAddr::new(primary.unwrap_or(underlay.address), args.bind.port());
    let manager = manager(&name, &cluster, api_server, &api_url, &pki, grace(&args))?;
    let papers = node::Papers {
        ca: pki.ca_certificate().to_owned(),
        certificate: pki.node.certificate.clone(),
        key: pki.node.key.clone(),
    };
    let agent = node::agent(&args, &name, underlay, cluster, &api_url, &papers).await?;

    let managing = tokio::spawn(manager.run(shutdown.clone().cancelled_owned()));
    let node = agent.run(shutdown.clone());
    tokio::pin!(serving);
    let outcome = tokio::select! {
        ended = node => ended.map_err(anyhow::Error::from),
        ended = &mut serving => match ended {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(())) => Ok(()),
            Err(error) => Err(error.into()),
        },
    };
    shutdown.cancel();
    managing.abort();
    stopped.cancel();
    if !serving.is_finished() {
        let _ended = tokio::time::timeout(std::time::Duration::from_secs(6), serving).await;
    }
    store.close().await;
    outcome
}

fn open(data_dir: &std::path::Path, options: &PkiOptions) -> anyhow::Result<(Store, Arc<Pki>)> {
    let store = Store::open(&data_dir.join("store"), Limits::default())?;
    let pki = Arc::new(Pki::open(data_dir, options)?);
    Ok((store, pki))
}

/// When nodes are given up.
fn grace(args: &ServerArgs) -> Grace {
    let said = args.node_monitor_grace_period.map(|seconds| SignedDuration::from_secs(seconds.into()));
    Grace { silence: said.unwrap_or(Grace::default().silence), ..Grace::default() }
}

fn manager(
    name: &str,
    cluster: &minisvc_apimachinery::ClusterConfig,
    api_server: SocketAddr,
    api_url: &str,
    pki: &Pki,
    grace: Grace,
) -> anyhow::Result<Manager> {
    let credentials = Credentials::Certificate {
        certificate: pki.controllers.certificate.clone(),
        key: pki.controllers.key.clone(),
    };
    let client = ApiClient::from_parts(api_url, pki.ca_certificate(), &credentials)
        .context("set up the controllers' API client")?;
    let config = ManagerConfig {
        cluster: cluster.clone(),
        api_server,
        ca: pki.ca_certificate().to_owned(),
        grace,
        node_name: name.to_owned(),
    };
    Ok(Manager::new(client, config))
}

/// The API's sockets: the one of `--bind`, and those handed down by whoever started us (`LISTEN_FDS`).
#[allow(unsafe_code)]
fn listeners(bind: SocketAddr) -> anyhow::Result<Vec<TcpListener>> {
    let own = listen(bind).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "--bind {bind}: the port is in use; another minisvc server? choose another by --bind :PORT"
        ),
        _ => anyhow::anyhow!("--bind {bind}: {error}"),
    })?;
    let mut listeners = vec![own];
    let Ok(count) = std::env::var("LISTEN_FDS") else { return Ok(listeners) };
    if std::env::var("LISTEN_PID").is_ok_and(|pid| pid != std::process::id().to_string()) {
        return Ok(listeners); // meant for another process
    }
    let Ok(count @ 1..=16) = count.parse::<i32>() else { bail!("LISTEN_FDS={count:?}: expected 1 to 16") };
    for fd in LISTEN_FDS_START..LISTEN_FDS_START + count {
        // SAFETY: who set LISTEN_FDS gave us these descriptors; nobody else in this process has them.
        let listener = unsafe {
            if libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
                bail!("LISTEN_FDS={count}: descriptor {fd} is not open");
            }
            TcpListener::from_raw_fd(fd)
        };
        listener.local_addr().with_context(|| format!("LISTEN_FDS: descriptor {fd} is no TCP socket"))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Listens; `[::]` includes IPv4, whatever `net.ipv6.bindv6only` says, and is IPv4 alone where the kernel has no IPv6.
fn listen(bind: SocketAddr) -> std::io::Result<TcpListener> {
    if bind.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return TcpListener::bind(bind);
    }
    let socket = match socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
        Ok(socket) => socket,
        Err(Errno::EAFNOSUPPORT) => return TcpListener::bind((Ipv4Addr::UNSPECIFIED, bind.port())),
        Err(error) => return Err(error.into()),
    };
    setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(bind))?;
    nix::sys::socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

fn write_kubeconfig(args: &ServerArgs, pki: &Pki, api_url: &str) -> anyhow::Result<()> {
    let path: &PathBuf = &args.write_kubeconfig;
    if let Some(dir) = path.parent() {
        super::make_private_dir(dir).context("--write-kubeconfig")?;
    }
    super::write_private(path, &pki.admin_kubeconfig(api_url)).context("--write-kubeconfig")?;
    let path = Role::View.kubeconfig(path);
    super::write_private(&path, &pki.view_kubeconfig(api_url)).context("--write-kubeconfig")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn without_an_address_the_api_listens_on_those_of_both_families() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut hosts: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            hosts.push(Ipv6Addr::LOCALHOST.into());
        }
        for host in hosts {
            TcpStream::connect((host, address.port())).unwrap();
            listener.accept().unwrap();
        }
        let taken = listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port())).unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    }
}
