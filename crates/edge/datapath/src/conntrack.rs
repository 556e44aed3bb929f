//! Forgetting UDP flows that conntrack remembers: ctnetlink over a netlink socket.
//!
//! In: a decision about each flow, made elsewhere. Out: how many entries were deleted. Flows of other protocols are
//! never touched: an established TCP connection goes on. At most [`DELETES_MAX`] entries go in one call.

use crate::nft::{
    NftError,
    socket::{NftSocket, SEND_BUFFER},
    wire::{Message, attribute, ctnetlink},
};
use minisvc_netstate::{
    family::{Address, Endpoint, Family},
    flow::UdpFlow,
};

/// Most entries deleted in one call; the caller calls again while something is left.
pub const DELETES_MAX: usize = 10_000;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// Deletes the UDP entries that `stale` tells; how many there were.
///
/// # Errors
/// If the kernel cannot be asked, or refuses for another reason than that the entry is gone already.
pub fn delete_udp_flows<A: Address>(stale: impl Fn(&UdpFlow<A>) -> bool) -> Result<usize, NftError> {
    let mut socket = NftSocket::open(SEND_BUFFER)?;
    let mut flows = Vec::new();
    let entries = socket.dump_of(
        Message::conntrack(A::FAMILY, ctnetlink::GET, 0),
        "list conntrack entries",
        &mut |entry| {
            if flows.len() < DELETES_MAX
                && let Some(flow) = flow(entry)
                && stale(&flow)
            {
                flows.push(flow);
            }
        },
    );
    entries?;
    for flow in &flows {
        let mut message = Message::conntrack(A::FAMILY, ctnetlink::DELETE, 0);
        message.nested(TUPLE_ORIG, |m| write_tuple(m, flow.source, flow.destination));
        match socket.request(message, "delete conntrack entry") {
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(flows.len())
}

/// `CTA_IP_V4_SRC` and `_DST`, `CTA_IP_V6_SRC` and `_DST`
fn ends(family: Family) -> (u16, u16) {
    match family {
        Family::Ipv4 => (1, 2),
        Family::Ipv6 => (3, 4),
    }
}

fn write_tuple<A: Address>(message: &mut Message, source: Endpoint<A>, destination: Endpoint<A>) {
    let (from, to) = ends(A::FAMILY);
    message.nested(TUPLE_IP, |m| {
        m.attribute(from, source.address.octets().as_ref());
        m.attribute(to, destination.address.octets().as_ref());
    });
    message.nested(TUPLE_PROTO, |m| {
        m.attribute(PROTO_NUM, &[UDP]);
        m.attribute(PROTO_SRC_PORT, &source.port.to_be_bytes());
        m.attribute(PROTO_DST_PORT, &destination.port.to_be_bytes());
    });
}

/// The flow of an entry; None if it is not UDP over this family.
fn flow<A: Address>(entry: &[u8]) -> Option<UdpFlow<A>> {
    let (source, destination) = read_tuple(attribute(entry, TUPLE_ORIG)?)?;
    let (reply_source, reply_destination) = read_tuple(attribute(entry, TUPLE_REPLY)?)?;
    Some(UdpFlow { source, destination, reply_source, reply_destination })
}

fn read_tuple<A: Address>(tuple: &[u8]) -> Option<(Endpoint<A>, Endpoint<A>)> {
    let (ip, protocol) = (attribute(tuple, TUPLE_IP)?, attribute(tuple, TUPLE_PROTO)?);
    if attribute(protocol, PROTO_NUM)? != [UDP] {
        return None;
    }
    let end = |address, port| {
        let port = u16::from_be_bytes(attribute(protocol, port)?.try_into().ok()?);
        Some(Endpoint { address: A::read(attribute(ip, address)?)?, port })
    };
    let (from, to) = ends(A::FAMILY);
    Some((end(from, PROTO_SRC_PORT)?, end(to, PROTO_DST_PORT)?))
}
