//! The service table: one nftables table of ours for each family, `ip minisvc` and `ip6 minisvc`, as values.
//!
//! - [`element`]: everything that changes, as sorted map elements ([`ServiceTable`]).
//! - [`schema`]: the named sets and maps that hold the elements.
//! - [`rules`]: the constant chains, and the one chain per [`Class`], as typed statements; [`hook`]: where they are called.
//! - [`text`]: the same in nft's language, for people and goldens.
//! - [`trace`]: what a packet meets, by executing the very statements that are sent to the kernel.
//!
//! How a new connection passes: `services` finds its frontend and gets an endpoint set as a mark, `class << 20 | set`;
//! `dispatch` goes to the chain of the class, which rewrites the mark to `0x6d000000 | set` and picks an endpoint by
//! it. Before the packet is routed, `new` puts the marks back to zero, so that no policy routing of others sees them,
//! and refuses what is addressed to the service network but is no frontend. Packets of known connections leave at the
//! first rule.
//!
//! Invariants: a rule is within what nft 1.0.6 can list and load (but for IPv6's chains of session affinity: it lists them,
//! and aborts when it is to load an update of a map by keys of more than 16 bytes); a packet that is not for a Service keeps its mark; the
//! two tables have the same chains and maps, and differ in what an address is.

pub mod element;
pub mod hook;
pub mod rules;
pub mod schema;
pub mod text;
pub mod trace;

pub use element::{Class, Frontend, Key, Protocol, ServiceTable, Value};
pub use rules::{Chain, Statement};
pub use schema::Set;
pub use trace::{Connection, Packet, Step, Verdict, trace};
