//! What can go wrong with links.

use crate::netns::NetnsError;
use std::io;

/// A failed operation on the kernel's network state.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No netlink socket.
    #[error("open a netlink socket")]
    Socket {
        /// Why.
        source: io::Error,
    },
    /// A Pod's namespace.
    #[error(transparent)]
    Namespace {
        /// Why.
        source: NetnsError,
    },
    /// A table could not be read.
    #[error("read {what}")]
    Read {
        /// Which.
        what: &'static str,
        /// Why.
        source: rtnetlink::Error,
    },
    /// A step failed.
    #[error("{operation} {key}")]
    Step {
        /// `put` or `delete`.
        operation: &'static str,
        /// What.
        key: String,
        /// Why.
        source: rtnetlink::Error,
    },
    /// A step failed outside netlink.
    #[error("{operation} {key}")]
    StepIo {
        /// `put`, `delete` or `read`.
        operation: &'static str,
        /// What.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// Something that is not ours is where ours should be.
    #[error("put {key}: there is one already that is not minisvc's; remove it, or choose other networks")]
    Foreign {
        /// What.
        key: String,
    },
    /// A link that something else needs is not there.
    #[error("link {link:?} does not exist")]
    LinkMissing {
        /// Its name.
        link: String,
    },
    /// A TUN link cannot be made.
    #[error("tun overlay needs /dev/net/tun: load the module tun and run as root, or choose --overlay vxlan")]
    TunUnavailable {
        /// Why.
        source: io::Error,
    },
    /// A key came with another thing's spec.
    #[error("put {key}: the value given is of another kind")]
    Mismatch {
        /// What.
        key: String,
    },
    /// Several steps failed.
    #[error("{failed} steps failed, the first: {first}")]
    Steps {
        /// How many.
        failed: usize,
        /// The first.
        #[source]
        first: Box<LinkError>,
    },
    /// Something keeps changing back.
    #[error("{key} still differs after being put right")]
    Unsettled {
        /// What.
        key: String,
    },
}

/// The errno of a netlink refusal, positive.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| code.get().abs()),
        _ => None,
    }
}
