//! The parts of a cluster network that nodes get for their Pods.

use crate::{address, number};
use ipnet::IpNet;

/// The `n`th network of `prefix_len` bits inside `cluster`, counted from 0. None past the end, or if
/// `prefix_len` is no longer prefix of the family.
pub fn subnet(cluster: IpNet, prefix_len: u8, n: u128) -> Option<IpNet> {
    let bits = prefix_len.checked_sub(cluster.prefix_len())?;
    let host_bits = cluster.max_prefix_len().checked_sub(prefix_len)?;
    if u32::from(bits) < u128::BITS && n >> bits != 0 {
        return None;
    }
    let step = n.checked_mul(1_u128.checked_shl(u32::from(host_bits))?)?;
    let base = number(cluster.network()).checked_add(step)?;
    IpNet::new(address(base, cluster.addr())?, prefix_len).ok()
}

/// The lowest network of `prefix_len` bits inside `cluster` that `is_used` does not claim.
///
/// `is_used` should answer by overlap, because nodes may have been given networks of another length before.
pub fn next_subnet(cluster: IpNet, prefix_len: u8, is_used: impl Fn(IpNet) -> bool) -> Option<IpNet> {
    let mut n = 0;
    loop {
        let candidate = subnet(cluster, prefix_len, n)?;
        if !is_used(candidate) {
            return Some(candidate);
        }
        n += 1;
    }
}
