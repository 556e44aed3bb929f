//! UDP: a datagram in, a datagram out, from the address it was sent to.

use super::{Identity, sockets};
use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg},
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
    rc::Rc,
};
use tokio::{io::Interest, net::UdpSocket};

/// Answers until dropped.
pub(super) async fn serve(socket: UdpSocket, identity: Rc<Identity>) {
    loop {
        let Ok((client, ours)) = socket.async_io(Interest::READABLE, || receive(&socket)).await else {
            continue; // an ICMP error of an earlier answer
        };
        let answer = identity.line("UDP", sockets::plain(client));
        // A full send queue loses the answer, as UDP may.
        let _ = socket.async_io(Interest::WRITABLE, || send(&socket, answer.as_bytes(), client, ours)).await;
    }
}

/// Who sent the next datagram, and to which of our addresses, in the form of the socket's family. Its contents do not
/// matter.
fn receive(socket: &UdpSocket) -> io::Result<(SocketAddr, Option<IpAddr>)> {
    let mut byte = [0u8; 1];
    let mut control = cmsg_space!(libc::in6_pktinfo); // the larger of the two
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC,
    )?;
    let client = message.address.as_ref().and_then(client_of).ok_or(io::ErrorKind::InvalidData)?;
    let ours = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
        }
        _ => None,
    });
    // Nothing can be sent from the address of a group.
    Ok((client, ours.filter(|ours| !ours.to_canonical().is_multicast())))
}

fn client_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).into()))
}

fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr, ours: Option<IpAddr>) -> io::Result<()> {
    let v4 = |ours: Ipv4Addr| libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(ours).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let v6 = |ours: Ipv6Addr| libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: ours.octets() },
        ipi6_ifindex: 0, // a client on the link is named with its link
    };
    let (info4, info6) = match ours {
        Some(IpAddr::V4(ours)) => (Some(v4(ours)), None),
        Some(IpAddr::V6(ours)) => (None, Some(v6(ours))),
        None => (None, None),
    };
    let control: Vec<ControlMessage<'_>> = (info4.as_ref().map(ControlMessage::Ipv4PacketInfo).into_iter())
        .chain(info6.as_ref().map(ControlMessage::Ipv6PacketInfo))
        .collect();
    let to = SockaddrStorage::from(client);
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}
