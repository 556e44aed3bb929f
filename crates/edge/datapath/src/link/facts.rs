//! What a node has besides ours: from this the underlay is chosen.

use super::message::{
    info_kind, link_mtu, link_name, route_destination, route_gateway, route_metric, route_oif, route_source,
};
use super::{LinkError, connect, observe};
use minisvc_netstate::link::{Interface, InterfaceRoute, LOOPBACK_LINK, ROUTE_PROTOCOL};
use netlink_packet_route::link::{InfoKind, LinkFlags};
use netlink_packet_route::route::{RouteProtocol, RouteType};

/// All links with their addresses, and the routes of the main table that are not ours.
///
/// # Errors
/// If the kernel cannot be read.
pub async fn underlay_facts() -> Result<(Vec<Interface>, Vec<InterfaceRoute>), LinkError> {
    let handle = connect()?;
    let links = observe::links(&handle).await?;
    let addresses = observe::addresses(&handle).await?;
    let interfaces = links
        .iter()
        .map(|link| {
            let name = link_name(link).unwrap_or_default();
            let own = addresses.iter().filter(|found| found.link == link.header.index && found.lasting);
            Interface {
                name: name.to_owned(),
                up: link.header.flags.contains(LinkFlags::Up),
                loopback: name == LOOPBACK_LINK,
                hardware: info_kind(link) != Some(&InfoKind::Veth),
                mtu_bytes: link_mtu(link),
                addresses: own.map(|found| found.address).collect(),
            }
        })
        .collect();
    let names = observe::names(&links);
    let routes = observe::routes(&handle).await?;
    let routes = routes
        .iter()
        .filter(|route| {
            route.header.kind == RouteType::Unicast
                && route.header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL)
        })
        .filter_map(|route| {
            Some(InterfaceRoute {
                destination: route_destination(route)?,
                ifname: names.get(&route_oif(route)?)?.clone(),
                source: route_source(route),
                gateway: route_gateway(route),
                metric: route_metric(route),
            })
        })
        .collect();
    Ok((interfaces, routes))
}
