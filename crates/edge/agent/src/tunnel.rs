//! The node's user-space tunnel, for the overlay `tun`: a process of its own that this one starts and instructs.
//!
//! Invariant: it is left alone when this process ends, however that comes; one started later finds it, and replaces
//! it only if it runs another program than itself.

use crate::AgentError;
use minisvc_datapath::tun::{
    control::{self, Wanted},
    worker,
};
use minisvc_netstate::link::TUN_LINK;
use minisvc_podnet::Tunnel;
use std::path::PathBuf;

/// Queues of the TUN device, each read by a thread.
const QUEUES: usize = 2;

/// The tunnel's process, as this one knows it.
pub(crate) struct TunnelProcess {
    socket: PathBuf,
    /// Which was said to run.
    said: Option<u32>,
}

impl Default for TunnelProcess {
    fn default() -> Self {
        Self { socket: control::SOCKET.into(), said: None }
    }
}

impl TunnelProcess {
    /// Sees to it that the wanted tunnel is carried, or that none is.
    pub(crate) async fn set(&mut self, wanted: Option<&Tunnel>) -> Result<(), AgentError> {
        let wanted = wanted.map(|tunnel| Wanted {
            link: TUN_LINK.to_owned(),
            local: tunnel.local,
            mtu_bytes: tunnel.mtu_bytes,
            queues: QUEUES,
            peers: tunnel.peers.clone(),
        });
        let socket = self.socket.clone();
        let work = move || match wanted {
            Some(wanted) => worker::carry(&socket, wanted).map(Some),
            None => control::end(&socket).map(|()| None),
        };
        let answer = tokio::task::spawn_blocking(work)
            .await
            .map_err(|source| AgentError::TunnelTask { source })?
            .map_err(|source| AgentError::TunnelProcess { source })?;
        let Some(answer) = answer else { return Ok(()) };
        if let Some(why) = answer.error {
            return Err(AgentError::Tunnel { why });
        }
        if self.said.replace(answer.pid) != Some(answer.pid) {
            tracing::info!(pid = answer.pid, "the tunnel between nodes is carried by a process of its own");
        }
        tracing::debug!(pid = answer.pid, stats = ?answer.stats, "tunnel");
        Ok(())
    }
}
