//! Packets made by hand: SCTP, of which a kernel need not have sockets, and TCP segments that no socket would send.
#![allow(dead_code, missing_docs, clippy::expect_used)]

use super::pods::WAIT;
use minisvc_netstate::family::{Address, Family};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, UdpSocket},
};

pub const TCP: u8 = 6;
pub const SCTP: u8 = 132;

/// A raw IP socket of the thread's network namespace.
pub struct Raw {
    /// The calls of a UDP socket are those of a raw one; its ports are all 0.
    socket: UdpSocket,
    header: bool,
}

impl Raw {
    pub fn open<A: Address>(protocol: u8) -> Self {
        let (domain, header) = match A::FAMILY {
            Family::Ipv4 => (Domain::IPV4, true),
            Family::Ipv6 => (Domain::IPV6, false),
        };
        let protocol = Protocol::from(i32::from(protocol));
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).expect("raw socket");
        socket.set_read_timeout(Some(WAIT)).expect("timeout");
        Self { socket: socket.into(), header }
    }

    /// From now on only this address is heard, and the errors about what is sent to it.
    pub fn connect(&self, to: IpAddr) -> io::Result<()> {
        self.socket.connect((to, 0))
    }

    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send(packet).map(drop)
    }

    pub fn send_to(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        self.socket.send_to(packet, (to, 0)).map(drop)
    }

    /// The next packet without its IP header, and who sent it.
    pub fn receive(&self) -> io::Result<(Vec<u8>, IpAddr)> {
        let mut buffer = [0; 2048];
        let (length, from) = self.socket.recv_from(&mut buffer)?;
        // An IPv6 socket gives no header, an IPv4 one gives it with its length in the first byte.
        let header = if self.header { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
        Ok((buffer[header..length].to_vec(), from.ip()))
    }
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// CRC32c (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Kinds of SCTP chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    Init = 1,
    InitAck = 2,
    CookieEcho = 10,
    CookieAck = 11,
}

/// An SCTP packet of one chunk (RFC 9260, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sctp {
    pub from: u16,
    pub to: u16,
    /// What the receiver chose; 0 of an INIT.
    pub tag: u32,
    pub chunk: Chunk,
    /// Of an INIT or INIT ACK: what the sender wants to be called by.
    pub own_tag: u32,
}

const COOKIE: &[u8] = &[0, 7, 0, 8, b'm', b's', b'v', b'c'];

impl Sctp {
    pub fn bytes(&self) -> Vec<u8> {
        let body: Vec<u8> = match self.chunk {
            // Tag, window, streams out and in, first TSN; an INIT ACK with its state cookie.
            Chunk::Init | Chunk::InitAck => {
                let fixed = [self.own_tag, 65_536, 0x0001_0001, 1].map(u32::to_be_bytes).concat();
                if self.chunk == Chunk::Init { fixed } else { [&fixed[..], COOKIE].concat() }
            }
            Chunk::CookieEcho => COOKIE[4..].to_vec(),
            Chunk::CookieAck => Vec::new(),
        };
        let mut packet = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        packet.extend(self.tag.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([self.chunk as u8, 0]);
        packet.extend(u16::try_from(body.len() + 4).expect("short").to_be_bytes());
        packet.extend(body);
        let sum = crc32c(&packet);
        packet[8..12].copy_from_slice(&sum.to_le_bytes());
        packet
    }

    /// Reads a packet, whose checksum must be right.
    pub fn read(bytes: &[u8]) -> Self {
        let mut summed = bytes.to_vec();
        summed[8..12].fill(0);
        assert_eq!(bytes[8..12], crc32c(&summed).to_le_bytes(), "CRC32c of {bytes:?}");
        let kinds = [Chunk::Init, Chunk::InitAck, Chunk::CookieEcho, Chunk::CookieAck];
        let chunk =
            kinds.into_iter().find(|kind| *kind as u8 == bytes[12]).expect("a chunk of the handshake");
        let own_tag = match chunk {
            Chunk::Init | Chunk::InitAck => u32_at(bytes, 16),
            Chunk::CookieEcho | Chunk::CookieAck => 0,
        };
        Self { from: u16_at(bytes, 0), to: u16_at(bytes, 2), tag: u32_at(bytes, 4), chunk, own_tag }
    }
}

/// A TCP segment as tests forge it: an acknowledgement without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: u16,
    pub to: u16,
    pub sequence: u32,
    pub acknowledged: u32,
}

impl Segment {
    /// With its checksum over these addresses.
    pub fn bytes<A: Address>(&self, source: A, destination: A) -> Vec<u8> {
        let mut segment = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        // Twenty bytes, ACK, a window, checksum and urgent pointer.
        segment.extend([5 << 4, 0x10, 0x10, 0, 0, 0, 0, 0]);
        let pseudo = [source.octets().as_ref(), destination.octets().as_ref(), &[0, TCP, 0, 20]].concat();
        let words = pseudo.chunks(2).chain(segment.chunks(2)).map(|pair| u32::from(u16_at(pair, 0)));
        let sum = words.sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        segment[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        segment
    }
}
