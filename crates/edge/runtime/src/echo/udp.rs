//! UDP: a datagram in, a datagram out, from the address it was sent to.

use super::Identity;
use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    rc::Rc,
};
use tokio::{io::Interest, net::UdpSocket};

/// Binds a socket that is told where each datagram was sent to.
pub(super) async fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).await?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    Ok(socket)
}

/// Answers until dropped.
pub(super) async fn serve(socket: UdpSocket, identity: Rc<Identity>) {
    loop {
        let Ok((client, ours)) = socket.async_io(Interest::READABLE, || receive(&socket)).await else {
            continue; // an ICMP error of an earlier answer
        };
        let answer = identity.line("UDP", SocketAddr::V4(client));
        // A full send queue loses the answer, as UDP may.
        let _ = socket.async_io(Interest::WRITABLE, || send(&socket, answer.as_bytes(), client, ours)).await;
    }
}

/// Who sent the next datagram, and to which of our addresses. Its contents do not matter.
fn receive(socket: &UdpSocket) -> io::Result<(SocketAddrV4, Option<Ipv4Addr>)> {
    let mut byte = [0u8; 1];
    let mut control = cmsg_space!(libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC,
    )?;
    let client = message.address.ok_or(io::ErrorKind::InvalidData)?;
    let ours = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))),
        _ => None,
    });
    Ok((client.into(), ours))
}

fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddrV4, ours: Option<Ipv4Addr>) -> io::Result<()> {
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: ours.map_or(0, u32::from).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    let to = SockaddrIn::from(client);
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}
