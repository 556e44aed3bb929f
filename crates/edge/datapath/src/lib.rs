//! Targets: rtnetlink, netns-rs, nft over netlink, TUN, conntrack.

pub mod announce;
pub mod conntrack;
pub mod link;
pub mod netns;
pub mod nft;
pub mod tun;
