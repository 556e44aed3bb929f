//! Reading netlink messages, and writing those that rtnetlink's builders cannot express.

use ipnet::IpNet;
use minisvc_netstate::link::{Mac, ROUTE_PROTOCOL, RouteSpec};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) fn link_name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

pub(super) fn link_mtu(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or(0)
}

pub(super) fn link_mac(link: &LinkMessage) -> Mac {
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Mac(mac.unwrap_or_default())
}

/// Index of the link at the other end, or below.
pub(super) fn link_peer(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

fn link_infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes.iter().flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.as_slice(),
        _ => &[],
    })
}

pub(super) fn info_kind(link: &LinkMessage) -> Option<&InfoKind> {
    link_infos(link).find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

pub(super) fn info_vxlan(link: &LinkMessage) -> &[InfoVxlan] {
    let found = link_infos(link).find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data.as_slice()),
        _ => None,
    });
    found.unwrap_or_default()
}

pub(super) fn neighbour_destination(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

pub(super) fn neighbour_mac(neighbour: &NeighbourMessage) -> Option<Mac> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

pub(super) fn route_destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    // A default route says its family only.
    let everywhere = match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    IpNet::new(address.unwrap_or(everywhere), route.header.destination_prefix_length).ok()
}

pub(super) fn route_oif(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

pub(super) fn route_gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    })
}

pub(super) fn route_source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => ip(address),
        _ => None,
    })
}

pub(super) fn route_metric(route: &RouteMessage) -> u32 {
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

/// Whether the route is ours; its table is known to be the main one.
pub(super) fn route_is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

/// The message for a route of ours. `index` is that of the link it names. None if its addresses are of two families.
pub(super) fn route_message(destination: &IpNet, spec: &RouteSpec, index: u32) -> Option<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.network(), destination.prefix_len())
        .ok()?
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    let (gateway, onlink, source) = match spec {
        RouteSpec::Unreachable => return Some(builder.kind(RouteType::Unreachable).build()),
        RouteSpec::Via { gateway, onlink, source, .. } => (gateway, *onlink, source),
    };
    let mut builder = builder.output_interface(index);
    builder = match gateway {
        Some(gateway) => builder.gateway(*gateway).ok()?,
        // IPv6 has no such scope, and takes any.
        None => builder.scope(RouteScope::Link),
    };
    if let Some(source) = source {
        builder = builder.pref_source(*source).ok()?;
    }
    Some(if onlink { builder.onlink() } else { builder }.build())
}

/// The message that deletes our route to a destination, whatever it says: the kernel matches only what is given, and
/// the protocol keeps others' routes out.
pub(super) fn route_deletion(destination: &IpNet) -> Option<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.network(), destination.prefix_len())
        .ok()?
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .scope(RouteScope::NoWhere)
        .kind(RouteType::Unspec);
    Some(builder.build())
}

/// What a route of ours says. None if it names a link that is gone.
pub(super) fn route_spec(route: &RouteMessage, link: Option<&String>) -> Option<RouteSpec> {
    if route.header.kind == RouteType::Unreachable {
        return Some(RouteSpec::Unreachable);
    }
    Some(RouteSpec::Via {
        link: link?.clone(),
        gateway: route_gateway(route),
        onlink: route.header.flags.contains(RouteFlags::Onlink),
        source: route_source(route),
    })
}
