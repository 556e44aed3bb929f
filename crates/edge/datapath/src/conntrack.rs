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
/// `CTA_FILTER`: which parts of the given tuples entries must have.
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_PROTO_NUM`
const FILTER_BY_PROTO_NUM: u32 = 1 << 3;

/// Deletes the UDP entries that `stale` tells; how many there were.
///
/// # Errors
/// If the kernel cannot be asked, or refuses for another reason than that the entry is gone already.
pub fn delete_udp_flows<A: Address>(stale: impl Fn(&UdpFlow<A>) -> bool) -> Result<usize, NftError> {
    let mut socket = NftSocket::open(SEND_BUFFER)?;
    let mut flows = Vec::new();
    let mut each = |entry: &[u8]| {
        if flows.len() < DELETES_MAX
            && let Some(flow) = flow(entry)
            && stale(&flow)
        {
            flows.push(flow);
        }
    };
    match socket.dump_of(udp_entries(A::FAMILY), "list UDP conntrack entries", &mut each) {
        // A kernel that knows no such filter, or not for this.
        Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            let all = Message::conntrack(A::FAMILY, ctnetlink::GET, 0);
            socket.dump_of(all, "list conntrack entries", &mut each)?;
        }
        result => result?,
    }
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

/// Asks for the UDP entries alone; kernels before 5.8 give all, and [`flow`] passes over the others.
fn udp_entries(family: Family) -> Message {
    let mut message = Message::conntrack(family, ctnetlink::GET, 0);
    message.nested(TUPLE_ORIG, |m| {
        m.nested(TUPLE_PROTO, |m| {
            m.attribute(PROTO_NUM, &[UDP]);
        });
    });
    message.nested(FILTER, |m| {
        m.attribute(FILTER_ORIG_FLAGS, &FILTER_BY_PROTO_NUM.to_ne_bytes());
        m.attribute(FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes());
    });
    message
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::wire::CREATE;
    use nix::sched::{CloneFlags, unshare};
    use std::net::Ipv4Addr;

    const TCP: u8 = 6;

    /// `IPCTNL_MSG_CT_NEW`
    const NEW: u16 = 0;
    /// `CTA_TIMEOUT`
    const TIMEOUT: u16 = 7;

    /// Makes an entry that nothing was sent for.
    fn make(socket: &mut NftSocket, protocol: u8, number: u16) -> Result<(), NftError> {
        let [client, server] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Ipv4Addr::from);
        let (client, server) =
            (Endpoint { address: client, port: 1024 + number }, Endpoint { address: server, port: 80 });
        let mut message = Message::conntrack(Family::Ipv4, NEW, CREATE);
        for (kind, from, to) in [(TUPLE_ORIG, client, server), (TUPLE_REPLY, server, client)] {
            message.nested(kind, |m| {
                m.nested(TUPLE_IP, |m| {
                    m.attribute(1, from.address.octets().as_ref());
                    m.attribute(2, to.address.octets().as_ref());
                });
                m.nested(TUPLE_PROTO, |m| {
                    m.attribute(PROTO_NUM, &[protocol]);
                    m.attribute(PROTO_SRC_PORT, &from.port.to_be_bytes());
                    m.attribute(PROTO_DST_PORT, &to.port.to_be_bytes());
                });
            });
        }
        message.attribute(TIMEOUT, &600_u32.to_be_bytes());
        socket.request(message, "make a conntrack entry")
    }

    fn listed(socket: &mut NftSocket, message: Message) -> usize {
        let mut count = 0;
        socket.dump_of(message, "list", &mut |_| count += 1).expect("a list");
        count
    }

    /// Most entries of a node are TCP's: they are not to be copied out for a UDP port that changed.
    #[test]
    fn only_udp_entries_are_asked_for_and_only_stale_ones_deleted() {
        let test = || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                return eprintln!("skipped: a network namespace: {error}");
            }
            let mut socket = NftSocket::open(SEND_BUFFER).expect("a socket");
            for (protocol, count) in [(TCP, 500), (UDP, 3)] {
                for number in 0..count {
                    if let Err(error) = make(&mut socket, protocol, number) {
                        return eprintln!("skipped: no conntrack entries by netlink: {error}");
                    }
                }
            }
            let all = Message::conntrack(Family::Ipv4, ctnetlink::GET, 0);
            assert_eq!(listed(&mut socket, all), 503);
            assert_eq!(listed(&mut socket, udp_entries(Family::Ipv4)), 3);
            let deleted = delete_udp_flows(|flow: &UdpFlow| flow.source.port == 1025).expect("deleted");
            assert_eq!(deleted, 1);
            assert_eq!(listed(&mut socket, Message::conntrack(Family::Ipv4, ctnetlink::GET, 0)), 502);
        };
        std::thread::spawn(test).join().expect("the test");
    }
}
