//! Tells the link that an address is here now: gratuitous ARP, and unsolicited neighbour advertisements (RFC 4861).
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const BROADCAST: [u8; 6] = [0xff; 6];
/// ff02::1, and its Ethernet address (RFC 2464).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_ETHERNET: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const IPPROTO_ICMPV6: u8 = 58;
/// Only frames of this very link have it (RFC 4861 §6.1).
const HOP_LIMIT: u8 = 255;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// What is known of the address is replaced; nobody asked.
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// The announcement could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("announce {address} on {link}: {operation}")]
pub struct AnnounceError {
    /// The address.
    pub address: IpAddr,
    /// The link.
    pub link: String,
    /// What failed.
    pub operation: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Tells all on the link that the address is here: for IPv4 by one ARP request and one ARP reply from it (some listen
/// to the one, some to the other), for IPv6 by a neighbour advertisement. Frames may be lost; who takes an address over
/// sends a few, some time apart.
///
/// # Errors
/// If there is no such link, or no privilege for raw sockets (`CAP_NET_RAW`).
pub fn announce(link: &str, address: IpAddr) -> Result<(), AnnounceError> {
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
    let frames = match address {
        IpAddr::V4(address) => vec![arp(mac, address, 1), arp(mac, address, 2)],
        IpAddr::V6(address) => vec![advertisement(mac, address)],
    };
    for frame in frames {
        send(&socket, index, &frame).map_err(failed("send"))?;
    }
    Ok(())
}

/// An ARP request (1) or reply (2) that says: `address` is at `mac`.
fn arp(mac: [u8; 6], address: Ipv4Addr, operation: u16) -> Vec<u8> {
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
    parts.concat()
}

/// An unsolicited neighbour advertisement (RFC 4861 §7.2.6) that says: `address` is at `mac`.
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_LINK_LAYER_ADDRESS, 1]); // in units of 8 bytes
    message.extend(mac);
    let length = message.len() as u8;
    let pseudo_header =
        [&address.octets()[..], &ALL_NODES.octets(), &[0, 0, 0, length, 0, 0, 0, IPPROTO_ICMPV6]];
    let checksum = internet_checksum(&[&pseudo_header.concat()[..], &message].concat());
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let parts: [&[u8]; 7] = [
        &ALL_NODES_ETHERNET,
        &mac,
        &ETHERTYPE_IPV6.to_be_bytes(),
        // Version 6, no class, no flow.
        &[0x60, 0, 0, 0, 0, length, IPPROTO_ICMPV6, HOP_LIMIT],
        &address.octets(),
        &ALL_NODES.octets(),
        &message,
    ];
    parts.concat()
}

/// Of an even number of bytes (RFC 1071).
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
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
    // The kernel reads the protocol and the destination here too.
    to.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
    to.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&frame[..6]);
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
        let frame = arp([2, 0, 0, 0, 0, 9], Ipv4Addr::new(192, 0, 2, 200), 1);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6]);
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 9, 192, 0, 2, 200]);
        assert_eq!(frame[32..], [0, 0, 0, 0, 0, 0, 192, 0, 2, 200]);
    }

    #[test]
    fn an_advertisement_overrides_what_was_known() {
        let address: Ipv6Addr = "2001:db8::c8".parse().unwrap();
        let frame = advertisement([2, 0, 0, 0, 0, 9], address);
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!((&frame[22..38], &frame[38..54]), (&address.octets()[..], &ALL_NODES.octets()[..]));
        assert_eq!((&frame[54..56], &frame[58..62]), (&[136, 0][..], &[0x20, 0, 0, 0][..]));
        assert_eq!((&frame[62..78], &frame[78..]), (&address.octets()[..], &[2, 1, 2, 0, 0, 0, 0, 9][..]));
        let pseudo_header = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(internet_checksum(&[&pseudo_header[..], &frame[54..]].concat()), 0);
    }
}
