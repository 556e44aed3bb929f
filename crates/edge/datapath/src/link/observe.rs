//! Reading the kernel's state, normalized to what a plan says.

use super::message::{
    info_kind, info_vxlan, link_mac, link_mtu, link_name, link_peer, neighbour_destination, neighbour_mac,
    route_destination, route_is_ours, route_oif, route_spec,
};
use super::{LinkError, LinkTarget, connect, connect_in, ethtool};
use futures::TryStreamExt;
use ipnet::IpNet;
use minisvc_netstate::link::{
    AddressScope, LINK_PREFIX, LOOPBACK_LINK, LinkKind, LinkSpec, NetKey, NetSpec, NetState, POD_LINK, Scope,
    Sysctl,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{self as wire, AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoKind, InfoVxlan, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// All links.
pub(super) async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, LinkError> {
    handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| LinkError::Read { what: "links", source })
}

/// Names by index.
pub(super) fn names(links: &[LinkMessage]) -> BTreeMap<u32, String> {
    links.iter().filter_map(|link| Some((link.header.index, link_name(link)?.to_owned()))).collect()
}

/// An address of a link.
pub(super) struct Found {
    /// Index of the link.
    pub(super) link: u32,
    /// The address with its prefix.
    pub(super) address: IpNet,
    /// How far it is valid.
    pub(super) reach: AddressScope,
    /// Whether others may be told of it: IPv6 has temporary ones, ones about to go, and ones that another host has.
    pub(super) lasting: bool,
}

/// All addresses but IPv6's link-local ones, which the kernel makes itself.
pub(super) async fn addresses(handle: &Handle) -> Result<Vec<Found>, LinkError> {
    let all: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| LinkError::Read { what: "addresses", source })?;
    let address = |attributes: &[AddressAttribute]| {
        // A point-to-point address has the other end as its address, its own as its local one.
        let local = attributes
            .iter()
            .find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
        let plain = attributes
            .iter()
            .find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
        local.or(plain)
    };
    let global = |ip: &IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let found = all.iter().filter_map(|message| {
        let ip = address(&message.attributes).filter(global)?;
        Some(Found {
            link: message.header.index,
            address: IpNet::new(ip, message.header.prefix_len).ok()?,
            reach: if ip.is_ipv4() {
                scope_of(message.header.scope)
            } else {
                scope_of_v6(&message.attributes)
            },
            lasting: ip.is_ipv4() || is_lasting(&message.attributes),
        })
    });
    Ok(found.collect())
}

/// Without scopes of its own, IPv6 says by the preferred lifetime whether the kernel chooses an address as a source.
fn scope_of_v6(attributes: &[AddressAttribute]) -> AddressScope {
    let over = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::CacheInfo(times) if times.ifa_preferred == 0);
    if attributes.iter().any(over) { AddressScope::Host } else { AddressScope::Global }
}

fn is_lasting(attributes: &[AddressAttribute]) -> bool {
    // Of IPv6 addresses the temporary ones (RFC 8981) are called secondary.
    let passing = AddressFlags::Secondary | AddressFlags::Deprecated | AddressFlags::Dadfailed;
    !attributes
        .iter()
        .any(|attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(passing)))
}

fn scope_of(scope: wire::AddressScope) -> AddressScope {
    match scope {
        wire::AddressScope::Universe => AddressScope::Global,
        wire::AddressScope::Host => AddressScope::Host,
        other => AddressScope::Other(other.into()),
    }
}

/// The routes of the main tables.
pub(super) async fn routes(handle: &Handle) -> Result<Vec<RouteMessage>, LinkError> {
    let mut main = Vec::new();
    for every in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let all: Vec<RouteMessage> = handle
            .route()
            .get(every)
            .execute()
            .try_collect()
            .await
            .map_err(|source| LinkError::Read { what: "routes", source })?;
        main.extend(all.into_iter().filter(|route| route.header.table == RouteHeader::RT_TABLE_MAIN));
    }
    Ok(main)
}

async fn neighbours(handle: &Handle, family: AddressFamily) -> Result<Vec<NeighbourMessage>, LinkError> {
    let request = handle.neighbours().get().set_address_family(family);
    request.execute().try_collect().await.map_err(|source| LinkError::Read { what: "neighbours", source })
}

/// What the node and its Pods have of ours.
pub(super) async fn observe(target: &LinkTarget) -> Result<NetState, LinkError> {
    let namespaces = target.netns.list().map_err(|source| LinkError::Namespace { source })?;
    let mut state = NetState::new();
    // The host's end of a pair by index, and the Pod it leads to: only the Pod's end tells.
    let mut ends = BTreeMap::new();
    for name in &namespaces {
        let handle = connect_in(&target.netns, name)?;
        let links = links(&handle).await?;
        for link in links.iter().filter(|link| link_name(link) == Some(POD_LINK)) {
            ends.extend(link_peer(link).map(|index| (index, name.clone())));
        }
        let scope = Scope::Pod(name.clone());
        let sysctls = target.netns.run(name, || observed_sysctls(&scope, &Sysctl::POD));
        state.extend(sysctls.map_err(|source| LinkError::Namespace { source })??);
        observe_scope(target, &handle, &scope, &links, &ends, &mut state).await?;
        state.insert(NetKey::Namespace(name.clone()), NetSpec::Namespace);
    }
    let handle = connect()?;
    let links = links(&handle).await?;
    state.extend(observed_sysctls(&Scope::Host, &target.owned.sysctls)?);
    observe_scope(target, &handle, &Scope::Host, &links, &ends, &mut state).await?;
    let names = names(&links);
    for entry in neighbours(&handle, AddressFamily::Bridge).await? {
        let name = names.get(&entry.header.ifindex).filter(|name| name.starts_with(LINK_PREFIX));
        let entry = (name, neighbour_mac(&entry), bridge_destination(&entry));
        if let (Some(name), Some(mac), Some(destination)) = entry {
            state.insert(NetKey::Fdb(name.clone(), mac), NetSpec::Fdb(destination));
        }
    }
    Ok(state)
}

async fn observe_scope(
    target: &LinkTarget,
    handle: &Handle,
    scope: &Scope,
    links: &[LinkMessage],
    ends: &BTreeMap<u32, String>,
    state: &mut NetState,
) -> Result<(), LinkError> {
    let names = names(links);
    let host = *scope == Scope::Host;
    let ours = |name: &str| if host { name.starts_with(LINK_PREFIX) } else { name == POD_LINK };
    for link in links {
        let Some(name) = link_name(link).filter(|name| ours(name) || *name == LOOPBACK_LINK) else {
            continue;
        };
        let spec = link_spec(link, name, host, &names, ends)?;
        state.insert(NetKey::Link(scope.clone(), name.to_owned()), NetSpec::Link(spec));
    }
    for Found { link, address, reach, .. } in addresses(handle).await? {
        let Some(name) = names.get(&link) else { continue };
        if if host { target.owned.address(name, &address) } else { ours(name) } {
            state.insert(NetKey::Address(scope.clone(), name.clone(), address), NetSpec::Address(reach));
        }
    }
    let mut entries = neighbours(handle, AddressFamily::Inet).await?;
    entries.extend(neighbours(handle, AddressFamily::Inet6).await?);
    for neighbour in entries {
        let name = names.get(&neighbour.header.ifindex).filter(|name| ours(name));
        let permanent = neighbour.header.state == NeighbourState::Permanent;
        let parts = (name, neighbour_destination(&neighbour), neighbour_mac(&neighbour));
        if let (true, (Some(name), Some(address), Some(mac))) = (permanent, parts) {
            state.insert(NetKey::Neighbour(scope.clone(), name.clone(), address), NetSpec::Neighbour(mac));
        }
    }
    for route in routes(handle).await?.iter().filter(|route| route_is_ours(route)) {
        let link = route_oif(route).and_then(|index| names.get(&index));
        if let (Some(destination), Some(spec)) = (route_destination(route), route_spec(route, link)) {
            state.insert(NetKey::Route(scope.clone(), destination), NetSpec::Route(spec));
        }
    }
    Ok(())
}

/// What a link of ours is like.
pub(super) fn link_spec(
    link: &LinkMessage,
    name: &str,
    host: bool,
    names: &BTreeMap<u32, String>,
    ends: &BTreeMap<u32, String>,
) -> Result<LinkSpec, LinkError> {
    let mac = link_mac(link);
    let kind = match info_kind(link) {
        None if name == LOOPBACK_LINK => LinkKind::Loopback,
        Some(InfoKind::Veth) if host => {
            LinkKind::Veth { mac, peer_namespace: ends.get(&link.header.index).cloned() }
        }
        Some(InfoKind::Veth) => LinkKind::VethPeer { mac },
        Some(InfoKind::Vxlan) => vxlan(link, name, names)?,
        Some(InfoKind::Tun) => LinkKind::Tun,
        other => LinkKind::Other(format!("{other:?}")),
    };
    Ok(LinkSpec { kind, mtu_bytes: link_mtu(link), up: link.header.flags.contains(LinkFlags::Up) })
}

fn vxlan(link: &LinkMessage, name: &str, names: &BTreeMap<u32, String>) -> Result<LinkKind, LinkError> {
    let (mut vni, mut port, mut local, mut below, mut learning) = (0, 0, None, None, false);
    for info in info_vxlan(link) {
        match info {
            InfoVxlan::Id(id) => vni = *id,
            InfoVxlan::Port(number) => port = *number,
            InfoVxlan::Local(address) => local = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => local = Some(IpAddr::V6(*address)),
            InfoVxlan::Link(index) => below = names.get(index),
            InfoVxlan::Learning(on) => learning = *on,
            _ => {}
        }
    }
    let (Some(local), Some(underlay), false) = (local, below, learning) else {
        return Ok(LinkKind::Other("vxlan".to_owned()));
    };
    let failed =
        |source| LinkError::StepIo { operation: "read checksum offload of", key: name.to_owned(), source };
    let checksum_offload = ethtool::checksum_offload(name).map_err(failed)?;
    let underlay = underlay.clone();
    Ok(LinkKind::Vxlan { mac: link_mac(link), vni, port, local, underlay, checksum_offload })
}

/// The node that a forwarding entry points to.
fn bridge_destination(entry: &NeighbourMessage) -> Option<IpAddr> {
    use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        // The family is the bridge's, so the address comes as bytes.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from);
            v4.or_else(|| <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from))
        }
        _ => None,
    })
}

/// Settings as the current thread's namespace has them.
fn observed_sysctls(scope: &Scope, sysctls: &[Sysctl]) -> Result<NetState, LinkError> {
    sysctls
        .iter()
        .map(|sysctl| {
            let key = NetKey::Sysctl(scope.clone(), sysctl.clone());
            let failed = |source| LinkError::StepIo { operation: "read", key: key.to_string(), source };
            let value = read_sysctl(sysctl).map_err(failed)?;
            Ok((key, NetSpec::Sysctl(value)))
        })
        .collect()
}

/// The value; the wanted one where another will do.
fn read_sysctl(sysctl: &Sysctl) -> io::Result<i64> {
    if sysctl.is_met_without_ipv6() && !Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(sysctl.wanted());
    }
    let text = std::fs::read_to_string(Path::new("/proc/sys").join(sysctl.path()))?;
    let value = text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(if sysctl.is_met_by(value) { sysctl.wanted() } else { value })
}
