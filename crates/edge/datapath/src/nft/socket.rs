//! Batches and dumps over a netlink socket.
#![allow(unsafe_code)]

use super::{
    NftError,
    encode::Request,
    wire::{ACK, BATCH_BEGIN, BATCH_END, DUMP, Message, Received, answer, attribute, messages, msg},
};
use minisvc_netstate::family::Family;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

/// `NLMSG_ERROR`
const ERROR: u16 = 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`
const DUMP_INTERRUPTED: u16 = 0x10;
/// The send buffer we ask for, in bytes: about two million elements.
pub const SEND_BUFFER: u32 = 256 << 20;
/// How long the kernel may take for an answer: a large transaction takes a second.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The kernel's own use of the send buffer, as netlink checks it.
const OVERHEAD: usize = 64;
/// Most datagrams read for one request: far more than any dump of ours has.
const DATAGRAMS_MAX: usize = 1_000_000;
/// Bytes of `struct nfgenmsg`, with which every payload begins.
const NFGENMSG: usize = 4;
/// How often an interrupted dump or transaction is tried again.
const TRIES: u32 = 5;

/// A socket to nftables in the network namespace of the thread that opened it.
pub struct NftSocket {
    socket: Socket,
    sequence: u32,
    limit: usize,
    buffer: Vec<u8>,
}

impl NftSocket {
    /// Opens it, with a send buffer of so many bytes where the system allows that.
    pub fn open(send_buffer: u32) -> Result<Self, NftError> {
        let send_buffer = libc::c_int::try_from(send_buffer).unwrap_or(libc::c_int::MAX);
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Open)?;
        socket.bind_auto().map_err(NftError::Open)?;
        let fd = socket.as_raw_fd();
        // Allowed to root of the machine only; a rootless one gets what the system allows everybody.
        if set_number(fd, libc::SO_SNDBUFFORCE, send_buffer).is_err() {
            set_number(fd, libc::SO_SNDBUF, send_buffer).map_err(NftError::Open)?;
        }
        let limit = get_number(fd, libc::SO_SNDBUF).map_err(NftError::Open)?;
        socket.set_cap_ack(true).map_err(NftError::Open)?;
        set_receive_timeout(fd).map_err(NftError::Open)?;
        let limit = usize::try_from(limit).unwrap_or(0).saturating_sub(OVERHEAD);
        Ok(Self { socket, sequence: 1, limit, buffer: vec![0; 1 << 17] })
    }

    /// Most bytes of one transaction.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Carries the requests out in one transaction, or in as few as the send buffer allows.
    pub fn commit(&mut self, requests: &[Request]) -> Result<usize, NftError> {
        let frame = 2 * Message::frame(BATCH_BEGIN).len();
        let (mut first, mut transactions) = (0, 0);
        while first < requests.len() {
            let mut bytes = frame;
            let mut end = first;
            while let Some(request) = requests.get(end)
                && (bytes + request.message.len() <= self.limit)
            {
                bytes += request.message.len();
                end += 1;
            }
            let Some(part) = requests.get(first..end).filter(|part| !part.is_empty()) else {
                let request = &requests[first];
                return Err(NftError::TooLarge {
                    operation: request.what.to_string(),
                    bytes: request.message.len(),
                    limit: self.limit,
                });
            };
            self.transaction(part, bytes)?;
            transactions += 1;
            first = end;
        }
        Ok(transactions)
    }

    fn transaction(&mut self, requests: &[Request], bytes: usize) -> Result<(), NftError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_transaction(requests, bytes) {
                Err(error) if tries < TRIES && is_temporary(&error) => {}
                result => return result,
            }
        }
    }

    fn try_transaction(&mut self, requests: &[Request], bytes: usize) -> Result<(), NftError> {
        let begin = self.next_sequence();
        let mut batch = Vec::with_capacity(bytes);
        Message::frame(BATCH_BEGIN).write(begin, 0, &mut batch);
        let mut last = begin;
        for (index, request) in requests.iter().enumerate() {
            last = self.next_sequence();
            // Kernels before 6.10 never acknowledge the end of a batch, so the last step is asked to answer.
            let flags = if index + 1 == requests.len() { ACK } else { 0 };
            request.message.write(last, flags, &mut batch);
        }
        let end = self.next_sequence();
        Message::frame(BATCH_END).write(end, 0, &mut batch);
        self.send(&batch)?;
        let mut refused = None;
        for _ in 0..DATAGRAMS_MAX {
            let length = self.receive("a transaction")?;
            for message in messages(&self.buffer[..length]) {
                if message.kind != ERROR || message.sequence < begin {
                    continue;
                }
                if let Some(source) = error_of(&message) {
                    let index = message.sequence.checked_sub(begin + 1).and_then(|i| usize::try_from(i).ok());
                    let request = index.and_then(|index| requests.get(index));
                    let operation = request.map_or("commit".to_owned(), |request| request.what.to_string());
                    refused.get_or_insert(NftError::Refused { operation, source });
                }
                if message.sequence == last || (message.sequence == begin && refused.is_some()) {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
        Err(NftError::Receive { operation: "a transaction", source: io::Error::other("no end of answers") })
    }

    /// The payloads of a dump, without the nfnetlink header. None if what is asked for is not there.
    pub fn dump(
        &mut self,
        operation: &'static str,
        family: Family,
        kind: u16,
        fill: impl Fn(&mut Message),
    ) -> Result<Option<Vec<Vec<u8>>>, NftError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_dump(operation, family, kind, &fill) {
                Err(error) if tries < TRIES && is_temporary(&error) => {}
                Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
                result => return result.map(Some),
            }
        }
    }

    fn try_dump(
        &mut self,
        operation: &'static str,
        family: Family,
        kind: u16,
        fill: &impl Fn(&mut Message),
    ) -> Result<Vec<Vec<u8>>, NftError> {
        let mut message = Message::new(family, kind, 0);
        fill(&mut message);
        let mut found = Vec::new();
        self.dump_of(message, operation, &mut |payload| found.push(payload.to_vec()))?;
        Ok(found)
    }

    /// Hands each payload of a dump to `each`, without the nfnetlink header.
    pub fn dump_of(
        &mut self,
        message: Message,
        operation: &'static str,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), NftError> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        message.write(sequence, DUMP, &mut bytes);
        self.send(&bytes)?;
        let mut interrupted = false;
        for _ in 0..DATAGRAMS_MAX {
            let length = self.receive(operation)?;
            for message in messages(&self.buffer[..length]).filter(|message| message.sequence == sequence) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    DONE | ERROR => {
                        if let Some(source) = error_of(&message) {
                            return Err(NftError::Receive { operation, source });
                        }
                        if interrupted {
                            let source = io::Error::from_raw_os_error(libc::EINTR);
                            return Err(NftError::Receive { operation, source });
                        }
                        return Ok(());
                    }
                    _ => each(message.payload.get(NFGENMSG..).unwrap_or_default()),
                }
            }
        }
        Err(NftError::Receive { operation, source: io::Error::other("no end of answers") })
    }

    /// The number of the last transaction in this network namespace, whoever made it.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        /// `NFTA_GEN_ID`
        const ID: u16 = 1;
        let mut found = None;
        self.ask(Message::of_any_family(msg::GETGEN), "the generation", &mut |message| {
            if message.kind == answer(msg::NEWGEN) {
                let id = message.payload.get(NFGENMSG..).and_then(|payload| attribute(payload, ID));
                found = id.and_then(|id| Some(u32::from_be_bytes(id.try_into().ok()?)));
            }
        })?;
        let source = || io::Error::other("it tells none");
        found.ok_or_else(|| NftError::Receive { operation: "the generation", source: source() })
    }

    /// Sends one request outside any batch and waits until the kernel did it.
    pub fn request(&mut self, message: Message, operation: &'static str) -> Result<(), NftError> {
        self.ask(message, operation, &mut |_| {})
    }

    /// The same; hands each answer before the last to `each`.
    fn ask(
        &mut self,
        message: Message,
        operation: &'static str,
        each: &mut dyn FnMut(&Received<'_>),
    ) -> Result<(), NftError> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        message.write(sequence, ACK, &mut bytes);
        self.send(&bytes)?;
        for _ in 0..DATAGRAMS_MAX {
            let length = self.receive(operation)?;
            for message in messages(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                if message.kind == ERROR {
                    let error = error_of(&message);
                    return error.map_or(Ok(()), |source| Err(NftError::Receive { operation, source }));
                }
                each(&message);
            }
        }
        Err(NftError::Receive { operation, source: io::Error::other("no end of answers") })
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        loop {
            match self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NftError::Send { bytes: bytes.len(), source }),
            }
        }
    }

    /// Reads one datagram into the buffer; its length.
    fn receive(&mut self, operation: &'static str) -> Result<usize, NftError> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => return Ok(length.min(self.buffer.len())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NftError::Receive { operation, source }),
            }
        }
    }
}

/// The error of an answer; None if it is none.
fn error_of(message: &Received<'_>) -> Option<io::Error> {
    let code = i32::from_ne_bytes(message.payload.get(..4)?.try_into().ok()?);
    (code < 0).then(|| io::Error::from_raw_os_error(-code))
}

/// Whether the kernel only asks to try again: somebody else's transaction came between.
fn is_temporary(error: &NftError) -> bool {
    const ERESTART: i32 = 85;
    match error {
        NftError::Refused { .. } | NftError::Receive { .. } => {
            matches!(error.errno(), Some(libc::EINTR | ERESTART))
        }
        _ => false,
    }
}

fn set_number(fd: RawFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a c_int that lives through the call, and the length is its size.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_number(fd: RawFd, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to locals that live through the call, and the length is the value's size.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set_receive_timeout(fd: RawFd) -> io::Result<()> {
    let time = libc::timeval { tv_sec: ANSWER_MAX.as_secs().cast_signed(), tv_usec: 0 };
    let length = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the pointer is to a timeval that lives through the call, and the length is its size.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const time).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
