//! Gratuitous ARP: tells the link that an address is here now.
#![allow(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ETHERTYPE_ARP: u16 = 0x0806;
const ARP_FRAME_BYTES: usize = 42;
const BROADCAST: [u8; 6] = [0xff; 6];

/// The announcement could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("announce {address} on {link}: {operation}")]
pub struct AnnounceError {
    /// The address.
    pub address: Ipv4Addr,
    /// The link.
    pub link: String,
    /// What failed.
    pub operation: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Sends one ARP request and one ARP reply for the address, from it, to all: some listen to the one, some to the
/// other. Frames may be lost; who takes an address over sends a few, some time apart.
///
/// # Errors
/// If there is no such link, or no privilege for raw sockets (`CAP_NET_RAW`).
pub fn announce(link: &str, address: Ipv4Addr) -> Result<(), AnnounceError> {
    let failed = |operation| {
        let link = link.to_owned();
        move |source| AnnounceError { address, link, operation, source }
    };
    let index =
        nix::net::if_::if_nametoindex(link).map_err(io::Error::from).map_err(failed("find the link"))?;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed("open a raw socket")(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just opened and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mac = mac_of(&socket, link).map_err(failed("read the link's Ethernet address"))?;
    for operation in [1, 2] {
        send(&socket, index, &frame(mac, address, operation)).map_err(failed("send"))?;
    }
    Ok(())
}

/// An ARP request (1) or reply (2) that says: `address` is at `mac`.
fn frame(mac: [u8; 6], address: Ipv4Addr, operation: u16) -> [u8; ARP_FRAME_BYTES] {
    let target = if operation == 1 { [0; 6] } else { BROADCAST };
    let parts: [&[u8]; 9] = [
        &BROADCAST,
        &mac,
        &ETHERTYPE_ARP.to_be_bytes(),
        // Ethernet, IPv4, address lengths.
        &[0, 1, 8, 0, 6, 4],
        &operation.to_be_bytes(),
        &mac,
        &address.octets(),
        &target,
        &address.octets(),
    ];
    let mut frame = [0; ARP_FRAME_BYTES];
    for (to, from) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    frame
}

fn mac_of(socket: &OwnedFd, link: &str) -> io::Result<[u8; 6]> {
    // SAFETY: ifreq is plain data; all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes().take(room)) {
        *to = from as libc::c_char;
    }
    // SAFETY: the socket is open and the request lives for the whole call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as _, &mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled this member of the union.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(data) {
        *to = from as u8;
    }
    Ok(mac)
}

fn send(socket: &OwnedFd, index: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data; all zeroes are a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = ETHERTYPE_ARP.to_be();
    to.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&BROADCAST);
    // SAFETY: both pointers are to live values of the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_who_is_where() {
        let frame = frame([2, 0, 0, 0, 0, 9], Ipv4Addr::new(192, 0, 2, 200), 1);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6]);
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 9, 192, 0, 2, 200]);
        assert_eq!(frame[32..], [0, 0, 0, 0, 0, 0, 192, 0, 2, 200]);
    }
}
