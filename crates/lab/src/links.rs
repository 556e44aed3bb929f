//! The lab's own links: the shared underlay and each member's card.
//!
//! Invariant: the underlay is a bridge in the supervisor's network namespace; a member sees only `lo` and `eth0`.

use crate::{
    LabError,
    layout::{Member, underlay_prefix_len},
};
use futures::TryStreamExt;
use minisvc_apimachinery::Family;
use netlink_packet_route::{
    address::AddressHeaderFlags,
    link::{InfoData, InfoKind, InfoVeth},
};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::{path::Path, time::Duration};

const UNDERLAY: &str = "underlay";
const CARD: &str = "eth0";
/// What this network namespace has of IPv6; not there if the kernel has none.
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// Whether the kernel has IPv6.
pub fn has_ipv6() -> bool {
    Path::new(IPV6).exists()
}

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

/// Inside a member: waits for its card and gives it its addresses.
///
/// # Errors
/// If the card does not come within a few seconds or the kernel refuses.
pub async fn configure_card(member: &Member) -> Result<(), LabError> {
    if has_ipv6() {
        prepare_ipv6(member)?;
    }
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
    for family in Family::ALL.into_iter().filter(|family| *family == Family::Ipv4 || has_ipv6()) {
        let mut add = handle.address().add(card, member.address_of(family), underlay_prefix_len(family));
        if family == Family::Ipv6 {
            // Nobody else has it, and an address that is still looked for cannot be used.
            add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        add.execute().await.map_err(failed("address", CARD))?;
    }
    Ok(())
}

/// What a machine starts with may come from the host: IPv6 is on, and only nodes may forward.
fn prepare_ipv6(member: &Member) -> Result<(), LabError> {
    let mut wanted = vec![("all/disable_ipv6", "0"), ("default/disable_ipv6", "0")];
    if !member.is_node {
        wanted.push(("all/forwarding", "0"));
    }
    for (name, value) in wanted {
        let path = Path::new(IPV6).join(name);
        if std::fs::read_to_string(&path).is_ok_and(|found| found.trim() == value) {
            continue;
        }
        std::fs::write(&path, value).map_err(|source| LabError::File { operation: "set", path, source })?;
    }
    Ok(())
}
