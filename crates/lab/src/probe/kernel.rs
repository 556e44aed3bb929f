//! What this network namespace is told to be, and each change of it, as the kernel says it.
//!
//! Only what concerns links that were there at the beginning counts: a Pod that comes changes nothing for others.
//!
//! Invariant: changes made before the stop are reported, for the last dump comes through the same socket after them.

use super::{Attempt, Report, now_us};
use futures::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage as Message, address::AddressAttribute, link::LinkAttribute,
        neighbour::NeighbourState, route::RouteAttribute,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER},
};
use std::{collections::BTreeMap, io};
use tokio::sync::watch;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`, and its answer.
const GET_GENERATION: u16 = 10 << 8 | 16;
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// `NFTA_GEN_ID`
const GENERATION_ID: u16 = 1;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// Bytes of nlmsghdr and nfgenmsg.
const HEADERS: usize = 20;

/// Number of transactions that nftables has carried out in this namespace.
fn generation() -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    let mut request = Vec::with_capacity(HEADERS);
    request.extend_from_slice(&20u32.to_ne_bytes());
    request.extend_from_slice(&GET_GENERATION.to_ne_bytes());
    request.extend_from_slice(&REQUEST.to_ne_bytes());
    request.extend_from_slice(&[0; 12]); // sequence, port, and nfgenmsg of no family
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    read_generation(&answer).ok_or_else(|| io::Error::other("nftables tells no generation"))
}

fn read_generation(answer: &[u8]) -> Option<u32> {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if u16_at(4)? != NEW_GENERATION {
        return None;
    }
    let mut at = HEADERS;
    loop {
        let length = usize::from(u16_at(at)?);
        if u16_at(at + 2)? == GENERATION_ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        at += length.max(4).next_multiple_of(4);
    }
}

/// Names of links by index.
type Links = BTreeMap<u32, String>;

async fn links(handle: &Handle) -> Result<Links, String> {
    let mut found = handle.link().get().execute();
    let mut links = Links::new();
    while let Some(link) = found.try_next().await.map_err(|error| format!("list links: {error}"))? {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        links.insert(link.header.index, name.unwrap_or_default());
    }
    Ok(links)
}

async fn addresses(handle: &Handle, links: &Links) -> Result<Vec<String>, String> {
    let mut found = handle.address().get().execute();
    let mut lines = Vec::new();
    while let Some(address) = found.try_next().await.map_err(|error| format!("list addresses: {error}"))? {
        let link = links.get(&address.header.index).map_or("?", String::as_str);
        let local = address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        lines.extend(local.map(|ip| format!("address {ip} {link}")));
    }
    Ok(lines)
}

/// In words, if it concerns a link that is known, or none at all.
fn change(message: &Message, links: &Links) -> Option<String> {
    let of = |index: u32, words: String| links.get(&index).map(|link| format!("{words} {link}"));
    let route = |verb: &str, route: &rtnetlink::packet_route::route::RouteMessage| {
        let destination = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(to) => Some(format!("{to:?}")),
            _ => None,
        });
        let out = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let words = format!(
            "{verb} route {}/{}",
            destination.unwrap_or_default(),
            route.header.destination_prefix_length
        );
        out.map_or(Some(words.clone()), |index| of(index, words))
    };
    match message {
        Message::NewLink(link) => of(link.header.index, "set link".to_owned()),
        Message::DelLink(link) => of(link.header.index, "deleted link".to_owned()),
        Message::NewAddress(address) => {
            of(address.header.index, format!("set address {:?}", address.attributes.first()))
        }
        Message::DelAddress(address) => {
            of(address.header.index, format!("deleted address {:?}", address.attributes.first()))
        }
        Message::NewRoute(message) => route("set", message),
        Message::DelRoute(message) => route("deleted", message),
        Message::NewNeighbour(entry) if entry.header.state == NeighbourState::Permanent => {
            of(entry.header.ifindex, format!("set neighbour {:?}", entry.attributes.first()))
        }
        Message::DelNeighbour(entry) if entry.header.state == NeighbourState::Permanent => {
            of(entry.header.ifindex, format!("deleted neighbour {:?}", entry.attributes.first()))
        }
        _ => None,
    }
}

/// Reports what is there, then each change until `stop`, then the generation again. With a `count` only what is there.
pub(super) async fn watch(
    count: Option<u32>,
    mut stop: watch::Receiver<bool>,
    report: &Report,
) -> Result<(), String> {
    let groups =
        [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(|error| format!("open netlink: {error}"))?;
    let connection = tokio::task::spawn_local(connection);
    let known = links(&handle).await?;
    let counted = || {
        generation().map(|generation| format!("generation {generation}")).map_err(|error| error.to_string())
    };
    let mut records = vec![counted()?];
    records.extend(addresses(&handle, &known).await?);
    say(report, records).await;
    if count.is_none() {
        let words = |message: NetlinkMessage<Message>| match message.payload {
            NetlinkPayload::InnerMessage(message) => change(&message, &known),
            _ => None,
        };
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some((message, _)) = messages.next() => {
                    if let Some(words) = words(message) {
                        say(report, vec![words]).await;
                    }
                }
            }
        }
        let last = addresses(&handle, &known).await?;
        while let Ok((message, _)) = messages.try_recv() {
            if let Some(words) = words(message) {
                say(report, vec![words]).await;
            }
        }
        let mut records = vec![counted()?];
        records.extend(last);
        say(report, records).await;
    }
    connection.abort();
    Ok(())
}

async fn say(report: &Report, records: Vec<String>) {
    let attempt = Attempt { at_us: now_us(), ok: true, records, ..Attempt::default() };
    let _nobody_listens = report.send(attempt).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_read_behind_other_attributes() {
        let mut answer = vec![0; HEADERS];
        answer[4..6].copy_from_slice(&NEW_GENERATION.to_ne_bytes());
        for (kind, value) in [(2u16, 0x0101_0101u32), (1, 77)] {
            answer.extend_from_slice(&8u16.to_ne_bytes());
            answer.extend_from_slice(&kind.to_ne_bytes());
            answer.extend_from_slice(&value.to_be_bytes());
        }
        assert_eq!(read_generation(&answer), Some(77));
        assert_eq!(read_generation(&answer[..30]), None);
    }
}
