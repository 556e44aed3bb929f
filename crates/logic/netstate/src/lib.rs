//! Typed links, addresses, routes, neighbours, nft tables and map elements.

pub mod family;
pub mod flow;
pub mod link;
pub mod nft;
