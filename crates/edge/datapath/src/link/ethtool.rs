//! Transmit checksum offload of a link, by the ethtool ioctl: netlink's route family has no word for it.
#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Whether the link leaves checksums of what it sends to whatever comes after it.
pub(super) fn checksum_offload(link: &str) -> io::Result<bool> {
    let mut value = EthtoolValue { cmd: ETHTOOL_GTXCSUM, data: 0 };
    ethtool(link, &mut value)?;
    Ok(value.data != 0)
}

/// Turns that on or off; off turns segmentation offload off too, as the kernel cannot have one without the other.
pub(super) fn set_checksum_offload(link: &str, on: bool) -> io::Result<()> {
    ethtool(link, &mut EthtoolValue { cmd: ETHTOOL_STXCSUM, data: u32::from(on) })
}

fn ethtool(link: &str, value: &mut EthtoolValue) -> io::Result<()> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: ifreq is plain data; all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if link.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    // SAFETY: the socket is open, and the request points to a live ethtool_value for the whole call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
