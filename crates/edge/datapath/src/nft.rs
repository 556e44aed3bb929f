//! The service table in the kernel: nftables over netlink, without any library or tool in between.
//!
//! - [`wire`]: attributes and messages as bytes. [`encode`]: the typed table as messages. [`decode`]: dumps as the
//!   typed table. [`socket`]: batches and dumps over a netlink socket. [`target`]: [`ServiceTableTarget`].
//!
//! Invariants: only the tables `ip minisvc` and `ip6 minisvc` are ever read or written; a change is one transaction as long as it fits
//! the socket's send buffer, and in parts that are right by themselves where it does not.

mod decode;
mod encode;
pub(crate) mod socket;
mod target;
mod userdata;
pub(crate) mod wire;

pub use target::ServiceTableTarget;

use std::io;

/// What can go wrong with the table.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No netlink socket.
    #[error("open nfnetlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel did not take a batch.
    #[error("send {bytes} bytes to nftables: {source}")]
    Send {
        /// Size of the batch.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// The kernel did not answer.
    #[error("read nftables' answer to {operation}: {source}")]
    Receive {
        /// What was asked.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a step; nothing of its transaction was carried out.
    #[error("{operation}: {source}")]
    Refused {
        /// The step.
        operation: String,
        /// Why.
        source: io::Error,
    },
    /// A single message is larger than the socket takes.
    #[error("{operation}: {bytes} bytes are more than the send buffer of {limit} bytes")]
    TooLarge {
        /// The step.
        operation: String,
        /// Its size.
        bytes: usize,
        /// The socket's limit.
        limit: usize,
    },
}

impl NftError {
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source)
            | Self::Send { source, .. }
            | Self::Receive { source, .. }
            | Self::Refused { source, .. } => source.raw_os_error(),
            Self::TooLarge { .. } => None,
        }
    }
}
