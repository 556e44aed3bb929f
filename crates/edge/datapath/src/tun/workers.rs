//! The two loops of a tunnel.

use super::{Counters, Shared, count, ends};
use bytes::BytesMut;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tun_rs::{GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

/// Largest payload of one batch of datagrams to one peer, below what fits into one UDP packet before segmentation.
const BATCH_BYTES_MAX: usize = 64_000;
/// Room for one read: a datagram, or as many as the kernel coalesces.
const READ_BYTES: usize = 65_535;
/// Linux, `linux/virtio_net.h`: the checksum is left to us; nothing is to be split.
const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
/// Where a UDP header has its checksum; no other protocol has it there.
const UDP_CHECKSUM_AT: u16 = 6;
/// Reads per call.
const READS: usize = 8;

/// Waits until `fd` is ready. False if the tunnel is stopped.
fn wait(fd: BorrowedFd<'_>, ready: PollFlags, stopped: &UnixStream) -> bool {
    let mut fds = [PollFd::new(fd, ready), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => return fds[1].revents().is_none_or(|events| events.is_empty()),
        }
    }
}

fn descriptor(device: &SyncDevice) -> BorrowedFd<'_> {
    // SAFETY: the device is borrowed for as long as its descriptor.
    unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) }
}

/// TUN to UDP, until stopped.
pub(super) fn send(shared: &Shared, device: &SyncDevice, stopped: &UnixStream) {
    let mut read = vec![0u8; VIRTIO_NET_HDR_LEN + READ_BYTES];
    let mut packets = vec![vec![0u8; shared.mtu_bytes]; IDEAL_BATCH_SIZE];
    let mut sizes = vec![0usize; IDEAL_BATCH_SIZE];
    let mut batch = Vec::with_capacity(BATCH_BYTES_MAX + shared.mtu_bytes);
    while wait(descriptor(device), PollFlags::POLLIN, stopped) {
        let packets_read = match device.recv_multiple(&mut read, &mut packets, &mut sizes, 0) {
            Ok(packets_read) => packets_read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // The link is gone: nothing will ever come.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV)) => {
                tracing::warn!(%error, "the tun link is gone");
                return;
            }
            Err(error) => {
                // A packet that cannot be split, such as one larger than the link's MTU.
                tracing::debug!(%error, "packet dropped");
                count(&shared.counters.dropped_sent, 1);
                continue;
            }
        };
        if packets_read == 1 {
            write_no_zero_checksum(&read, &mut packets[0][..sizes[0]]);
        }
        let peers = shared.peers.load();
        let mut next = 0;
        while next < packets_read {
            let Some(peer) = ends(&packets[next][..sizes[next]]).and_then(|(_, to)| peers.find(to)) else {
                count(&shared.counters.dropped_sent, 1);
                next += 1;
                continue;
            };
            let segment = sizes[next];
            let segments_max = shared.state.max_gso_segments().max(1);
            let mut segments = 0;
            batch.clear();
            while next < packets_read && segments < segments_max && batch.len() + segment <= BATCH_BYTES_MAX {
                let packet = &packets[next][..sizes[next]];
                let same = ends(packet).and_then(|(_, to)| peers.find(to)) == Some(peer);
                if packet.len() > segment || !same {
                    break;
                }
                batch.extend_from_slice(packet);
                segments += 1;
                next += 1;
                // Only the last segment may be shorter.
                if packet.len() < segment {
                    break;
                }
            }
            if !transmit(shared, peer, &batch, segment, segments, stopped) {
                return;
            }
        }
    }
}

/// A UDP checksum that tun-rs computed for the kernel and that came out as zero is written 0xffff (RFC 768): zero means
/// that there is none, and over IPv6 such a datagram is dropped. `read` begins with the kernel's header; packets that
/// tun-rs made by splitting are right already.
fn write_no_zero_checksum(read: &[u8], packet: &mut [u8]) {
    let Ok(header) = VirtioNetHdr::decode(read) else { return };
    let computed = header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    if !computed || header.gso_type != VIRTIO_NET_HDR_GSO_NONE || header.csum_offset != UDP_CHECKSUM_AT {
        return;
    }
    let at = usize::from(header.csum_start) + usize::from(UDP_CHECKSUM_AT);
    if let Some(checksum) = packet.get_mut(at..at + 2)
        && *checksum == [0, 0]
    {
        checksum.fill(0xff);
    }
}

/// Sends one batch. False if the tunnel is stopped meanwhile.
fn transmit(
    shared: &Shared,
    destination: SocketAddr,
    contents: &[u8],
    segment: usize,
    segments: usize,
    stopped: &UnixStream,
) -> bool {
    let segment_size = (segments > 1).then_some(segment);
    let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
    loop {
        match shared.state.try_send(UdpSockRef::from(&shared.socket), &transmit) {
            Ok(()) => {
                count(&shared.counters.sent, segments);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait(shared.socket.as_fd(), PollFlags::POLLOUT, stopped) {
                    return false;
                }
            }
            Err(error) => {
                // The peer may be away, or the link down: what runs over the tunnel repeats what matters.
                tracing::debug!(%error, %destination, "packets dropped");
                count(&shared.counters.dropped_sent, segments);
                return true;
            }
        }
    }
}

/// UDP to TUN, until stopped.
pub(super) fn receive(shared: &Shared, devices: &[Arc<SyncDevice>], stopped: &UnixStream) {
    let mut buffer = vec![0u8; READ_BYTES * READS];
    let mut metas = vec![RecvMeta::default(); READS];
    let mut table = GROTable::default();
    let mut pool: Vec<BytesMut> =
        (0..IDEAL_BATCH_SIZE).map(|_| BytesMut::with_capacity(VIRTIO_NET_HDR_LEN + READ_BYTES)).collect();
    while wait(shared.socket.as_fd(), PollFlags::POLLIN, stopped) {
        let mut slices: Vec<IoSliceMut<'_>> = buffer.chunks_mut(READ_BYTES).map(IoSliceMut::new).collect();
        let received = match shared.state.recv(UdpSockRef::from(&shared.socket), &mut slices, &mut metas) {
            Ok(received) => received,
            Err(error) => {
                // Errors of earlier sends are reported here too, and mean nothing to the next read.
                tracing::trace!(%error, "read");
                continue;
            }
        };
        let peers = shared.peers.load();
        let mut pooled = 0;
        for (meta, chunk) in metas[..received].iter().zip(buffer.chunks(READ_BYTES)) {
            // A flow between two nodes stays on one queue, so its packets stay in order.
            let device = &devices[usize::from(queue_of(meta.addr)) % devices.len()];
            for packet in chunk[..meta.len].chunks(meta.stride.max(1)) {
                let owner = ends(packet).and_then(|(from, _)| peers.find(from));
                if !owner.is_some_and(|owner| is_same(owner, meta.addr)) {
                    count(&shared.counters.dropped_received, 1);
                    continue;
                }
                let slot = &mut pool[pooled];
                slot.clear();
                slot.resize(VIRTIO_NET_HDR_LEN, 0);
                slot.extend_from_slice(packet);
                pooled += 1;
                if pooled == pool.len() {
                    write(&shared.counters, device, &mut table, &mut pool[..pooled]);
                    pooled = 0;
                }
            }
            if devices.len() > 1 {
                write(&shared.counters, device, &mut table, &mut pool[..pooled]);
                pooled = 0;
            }
        }
        write(&shared.counters, &devices[0], &mut table, &mut pool[..pooled]);
    }
}

/// Whether both are one place: what the kernel tells of an IPv6 sender has parts that are not the address.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip(), one.port()) == (other.ip(), other.port())
}

fn queue_of(peer: SocketAddr) -> u8 {
    match peer {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(v6) => v6.ip().octets()[15],
    }
}

fn write(counters: &Counters, device: &SyncDevice, table: &mut GROTable, packets: &mut [BytesMut]) {
    if packets.is_empty() {
        return;
    }
    let number = packets.len();
    match device.send_multiple(table, packets, VIRTIO_NET_HDR_LEN) {
        Ok(_) => count(&counters.received, number),
        Err(error) => {
            // The link is down, or full.
            tracing::debug!(%error, "packets dropped");
            count(&counters.dropped_received, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computed_checksum_of_zero_is_written_as_ones() {
        let header = |flags, csum_offset| {
            let header = VirtioNetHdr { flags, csum_start: 40, csum_offset, ..VirtioNetHdr::default() };
            let mut bytes = [0; VIRTIO_NET_HDR_LEN];
            header.encode(&mut bytes).unwrap();
            bytes
        };
        let written = |header: [u8; VIRTIO_NET_HDR_LEN], checksum: [u8; 2]| {
            let mut packet = [0x60; 60];
            packet[46..48].copy_from_slice(&checksum);
            write_no_zero_checksum(&header, &mut packet);
            [packet[46], packet[47]]
        };
        let udp = header(VIRTIO_NET_HDR_F_NEEDS_CSUM, 6);
        assert_eq!(written(udp, [0, 0]), [0xff, 0xff]);
        assert_eq!(written(udp, [0, 7]), [0, 7]);
        // What the sender wrote itself, and what is no UDP.
        assert_eq!(written(header(0, 6), [0, 0]), [0, 0]);
        assert_eq!(written(header(VIRTIO_NET_HDR_F_NEEDS_CSUM, 16), [0, 0]), [0, 0]);
        write_no_zero_checksum(&udp, &mut [0x60; 41]);
    }
}
