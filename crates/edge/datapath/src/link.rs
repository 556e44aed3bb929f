//! [`LinkTarget`]: a node's links, addresses, neighbours, FDB entries and routes in the kernel.
//!
//! Invariants:
//! - Only what [`minisvc_netstate::link`] says is ours is observed, changed or removed.
//! - `observe` after a successful `apply` of a difference to `desired` returns `desired`.
//! - No netlink socket outlives the call that opened it: one in a Pod's namespace would keep that alive.

mod apply;
mod error;
mod ethtool;
mod facts;
mod message;
mod observe;

pub use error::LinkError;
pub use facts::underlay_facts;

use crate::netns::NetnsDir;
use minisvc_netstate::link::{NetKey, NetSpec, NetState, Owned};
use minisvc_reconcile::{Op, diff};
use rtnetlink::Handle;

/// Rounds of observing and applying before [`LinkTarget::converge`] gives up. Two suffice when a link is replaced
/// and takes what is on it along; the third is for a change from outside in between.
const ROUNDS_MAX: usize = 3;

/// The kernel's network state of the namespace that the process is in, and of the Pods' namespaces.
///
/// Works as [`minisvc_reconcile::Target`], but asynchronously.
#[derive(Clone, Debug)]
pub struct LinkTarget {
    pub(crate) owned: Owned,
    pub(crate) netns: NetnsDir,
}

impl LinkTarget {
    /// Nothing is opened yet. `owned` says which addresses on foreign links are ours.
    pub fn new(owned: Owned, netns: NetnsDir) -> Self {
        Self { owned, netns }
    }

    /// Reads what is ours, of the node and of every Pod's namespace.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub async fn observe(&mut self) -> Result<NetState, LinkError> {
        observe::observe(self).await
    }

    /// Carries out the steps in order. A step that fails does not keep the others from being tried.
    ///
    /// # Errors
    /// The first failure and the count of all, if any step failed; the caller observes again.
    pub async fn apply(&mut self, ops: &[Op<NetKey, NetSpec>]) -> Result<(), LinkError> {
        apply::apply(self, ops).await
    }

    /// Observes and applies until nothing differs. Returns how many steps were carried out: 0 if all was right.
    ///
    /// # Errors
    /// If a step fails, or the state still differs after some rounds.
    pub async fn converge(&mut self, desired: &NetState) -> Result<usize, LinkError> {
        let mut steps = 0;
        let mut left = Vec::new();
        for _ in 0..ROUNDS_MAX {
            left = diff(desired, &self.observe().await?);
            if left.is_empty() {
                return Ok(steps);
            }
            steps += left.len();
            self.apply(&left).await?;
        }
        let first = left.first().map(|op| op.key().to_string());
        Err(LinkError::Unsettled { key: first.unwrap_or_default() })
    }
}

/// A netlink connection of the current thread's namespace. The connection ends with the last handle.
pub(crate) fn connect() -> Result<Handle, LinkError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|source| LinkError::Socket { source })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// A netlink connection of a Pod's namespace: the socket is made inside and stays bound to it.
pub(crate) fn connect_in(netns: &NetnsDir, name: &str) -> Result<Handle, LinkError> {
    let runtime = tokio::runtime::Handle::current();
    let made = netns.run(name, || {
        let _entered = runtime.enter();
        connect()
    });
    made.map_err(|source| LinkError::Namespace { source })?
}
