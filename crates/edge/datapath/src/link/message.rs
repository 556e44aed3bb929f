//! Reading netlink messages, and writing those that rtnetlink's builders cannot express.

use ipnet::IpNet;
use minisvc_netstate::link::{Mac, ROUTE_PROTOCOL, RouteSpec};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;
use std::net::{IpAddr, Ipv4Addr};

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
    IpNet::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), route.header.destination_prefix_length)
        .ok()
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

/// The message for a route of ours. `index` is that of the link it names. None if an address is not IPv4.
pub(super) fn route_message(destination: &IpNet, spec: &RouteSpec, index: u32) -> Option<RouteMessage> {
    let IpNet::V4(net) = destination else { return None };
    let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(net.network(), net.prefix_len())
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    match spec {
        RouteSpec::Unreachable => builder = builder.kind(RouteType::Unreachable),
        RouteSpec::Via { gateway, onlink, source, .. } => {
            builder = builder.output_interface(index);
            match gateway {
                Some(IpAddr::V4(gateway)) => builder = builder.gateway(*gateway),
                Some(IpAddr::V6(_)) => return None,
                None => builder = builder.scope(RouteScope::Link),
            }
            match source {
                Some(IpAddr::V4(source)) => builder = builder.pref_source(*source),
                Some(IpAddr::V6(_)) => return None,
                None => {}
            }
            if *onlink {
                builder = builder.onlink();
            }
        }
    }
    Some(builder.build())
}

/// The message that deletes our route to a destination, whatever it says: the kernel matches only what is given, and
/// the protocol keeps others' routes out. None if it is not IPv4.
pub(super) fn route_deletion(destination: &IpNet) -> Option<RouteMessage> {
    let IpNet::V4(net) = destination else { return None };
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(net.network(), net.prefix_len())
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
