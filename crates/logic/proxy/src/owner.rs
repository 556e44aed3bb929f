//! Who wants something of the table: a Service, or a Pod that has ports of the node.

use minisvc_apimachinery::ObjectKey;
use minisvc_reconcile::Rejection;
use std::fmt;

/// An object that claims places. Of two that are equally old a Service comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A Service, by its addresses and node ports.
    Service(ObjectKey),
    /// A Pod, by its containers' `hostPort`s.
    Pod(ObjectKey),
}

impl Owner {
    /// Its key among those of its kind.
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Service(key) | Self::Pod(key) => key,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::Pod(_) => "Pod",
        }
    }

    /// A reason to leave something of it out.
    pub fn reject(&self, reason: &'static str, message: String) -> Rejection {
        let key = self.key();
        Rejection {
            kind: self.kind(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            reason,
            message,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.key())
    }
}
