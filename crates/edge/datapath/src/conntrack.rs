//! Forgetting UDP flows that conntrack remembers: ctnetlink over a netlink socket.
//!
//! In: a decision about each flow, made elsewhere. Out: how many entries were deleted. Flows of other protocols are
//! never touched: an established TCP connection goes on. At most [`DELETES_MAX`] entries go in one call.

use crate::nft::{
    NftError,
    socket::{NftSocket, SEND_BUFFER},
    wire::{Message, attribute, ctnetlink},
};
use minisvc_netstate::flow::UdpFlow;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Most entries deleted in one call; the caller calls again while something is left.
pub const DELETES_MAX: usize = 10_000;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// Deletes the UDP entries that `stale` tells; how many there were.
///
/// # Errors
/// If the kernel cannot be asked, or refuses for another reason than that the entry is gone already.
pub fn delete_udp_flows(stale: impl Fn(&UdpFlow) -> bool) -> Result<usize, NftError> {
    let mut socket = NftSocket::open(SEND_BUFFER)?;
    let mut flows = Vec::new();
    let entries =
        socket.dump_of(Message::conntrack(ctnetlink::GET, 0), "list conntrack entries", &mut |entry| {
            if flows.len() < DELETES_MAX
                && let Some(flow) = flow(entry)
                && stale(&flow)
            {
                flows.push(flow);
            }
        });
    entries?;
    for flow in &flows {
        let mut message = Message::conntrack(ctnetlink::DELETE, 0);
        message.nested(TUPLE_ORIG, |m| write_tuple(m, flow.source, flow.destination));
        match socket.request(message, "delete conntrack entry") {
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(flows.len())
}

fn write_tuple(message: &mut Message, source: SocketAddrV4, destination: SocketAddrV4) {
    message.nested(TUPLE_IP, |m| {
        m.attribute(IP_V4_SRC, &source.ip().octets()).attribute(IP_V4_DST, &destination.ip().octets());
    });
    message.nested(TUPLE_PROTO, |m| {
        m.attribute(PROTO_NUM, &[UDP]);
        m.attribute(PROTO_SRC_PORT, &source.port().to_be_bytes());
        m.attribute(PROTO_DST_PORT, &destination.port().to_be_bytes());
    });
}

/// The flow of an entry; None if it is not UDP over IPv4.
fn flow(entry: &[u8]) -> Option<UdpFlow> {
    let (source, destination) = read_tuple(attribute(entry, TUPLE_ORIG)?)?;
    let (reply_source, reply_destination) = read_tuple(attribute(entry, TUPLE_REPLY)?)?;
    Some(UdpFlow { source, destination, reply_source, reply_destination })
}

fn read_tuple(tuple: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let (ip, protocol) = (attribute(tuple, TUPLE_IP)?, attribute(tuple, TUPLE_PROTO)?);
    if attribute(protocol, PROTO_NUM)? != [UDP] {
        return None;
    }
    let address = |kind| -> Option<Ipv4Addr> {
        let octets: [u8; 4] = attribute(ip, kind)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    };
    let port =
        |kind| -> Option<u16> { Some(u16::from_be_bytes(attribute(protocol, kind)?.try_into().ok()?)) };
    let source = SocketAddrV4::new(address(IP_V4_SRC)?, port(PROTO_SRC_PORT)?);
    Some((source, SocketAddrV4::new(address(IP_V4_DST)?, port(PROTO_DST_PORT)?)))
}
