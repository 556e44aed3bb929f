//! The lab's own links: the shared underlay and each member's card.
//!
//! Invariant: the underlay is a bridge in the supervisor's network namespace; a member sees only `lo` and `eth0`.

use crate::{LabError, layout::UNDERLAY_PREFIX_LEN};
use futures::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::{net::IpAddr, net::Ipv4Addr, time::Duration};

const UNDERLAY: &str = "underlay";
const CARD: &str = "eth0";

fn failed(operation: &'static str, name: &str) -> impl FnOnce(rtnetlink::Error) -> LabError {
    let name = name.to_owned();
    move |source| LabError::Link { operation, name, source }
}

/// A netlink handle of the current network namespace.
///
/// # Errors
/// If the socket cannot be opened.
pub fn handle() -> Result<Handle, LabError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| LabError::File {
        operation: "open netlink for",
        path: CARD.into(),
        source,
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index(handle: &Handle, name: &str) -> Result<u32, LabError> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    let link = found.map_err(failed("find", name))?;
    link.map(|link| link.header.index).ok_or_else(|| LabError::Refused { why: format!("no link {name}") })
}

/// Makes the underlay.
///
/// # Errors
/// If the kernel refuses.
pub async fn make_underlay(handle: &Handle) -> Result<(), LabError> {
    let bridge = LinkBridge::new(UNDERLAY).up().build();
    handle.link().add(bridge).execute().await.map_err(failed("add", UNDERLAY))
}

/// Pulls a member's plug. The kernel would, some time after the member's last process; its name may be wanted now.
pub async fn unplug(handle: &Handle, member: &str) {
    if let Ok(port) = index(handle, &port(member)).await {
        let _kernel_was_first = handle.link().del(port).execute().await;
    }
}

fn port(member: &str) -> String {
    format!("u-{member}")
}

/// Plugs the member whose process (in our pid namespace) is `pid` into the underlay.
///
/// # Errors
/// If the kernel refuses.
pub async fn plug(handle: &Handle, member: &str, pid: u32) -> Result<(), LabError> {
    let bridge = index(handle, UNDERLAY).await?;
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(CARD.to_owned()).setns_by_pid(pid).build();
    let port = port(member);
    let link = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(port.clone())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge)
        .up()
        .build();
    handle.link().add(link).execute().await.map_err(failed("add", &port))
}

/// Inside a member: waits for its card and gives it its address.
///
/// # Errors
/// If the card does not come within a few seconds or the kernel refuses.
pub async fn configure_card(address: Ipv4Addr) -> Result<(), LabError> {
    let handle = handle()?;
    let mut waited = 0;
    let card = loop {
        match index(&handle, CARD).await {
            Ok(index) => break index,
            Err(error) if waited > 500 => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        waited += 1;
    };
    let lo = index(&handle, "lo").await?;
    for link in [lo, card] {
        let up = LinkUnspec::new_with_index(link).up().build();
        handle.link().set(up).execute().await.map_err(failed("set up", CARD))?;
    }
    let added = handle.address().add(card, IpAddr::V4(address), UNDERLAY_PREFIX_LEN).execute().await;
    added.map_err(failed("address", CARD))
}
