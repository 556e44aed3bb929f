//! Per kind: defaulting, validation, allocation, update rules, table columns.
//!
//! In: a request (an object, or a key and what to do with it) and a consistent view of the store. Out: the changes
//! that carry it out, and the object to answer with; or a [`Status`] in Kubernetes' words, and nothing changes.
//!
//! - [`create`], [`update`], [`patch`], [`apply`], [`delete`], [`bind`], [`evict`]: the verbs, alike for every kind.
//! - [`token_request`], [`check_token`]: tokens of ServiceAccounts.
//! - [`upgrade`]: what older versions stored otherwise.
//! - [`table`]: `meta.k8s.io/v1` Table, as kubectl prints it.
//! - `kinds`: one file a kind, each a [`strategy::Strategy`].
//! - `meta`: what holds for `metadata` of every kind; `syntax`: names, labels, addresses.
//!
//! Invariants: pure (time, uids and random numbers are passed in); unknown fields of an object survive; addresses
//! and ports of Services have one record each, written and deleted in the same commit as the Service.

// A Status is the answer of a refused request, made once and sent: a box around it would buy nothing.
#![allow(clippy::result_large_err)]

mod context;
mod create;
mod delete;
mod kinds;
mod meta;
mod owners;
mod scale;
mod strategy;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod update;
mod upgrade;
mod value;

pub use context::{Context, DeleteOptions, Outcome, Preconditions, Propagation};
pub use create::create;
pub use delete::delete;
pub use kinds::pod::{bind, evict};
pub use kinds::service::NODE_PORT_RECORDS;
pub use kinds::service_account::{
    AccountRole, Bound, Claims, Issue, Reference, account_role, account_user, answered, check_token,
    token_request,
};
pub use minisvc_apimachinery::Status;
pub use owners::apply;
pub use scale::scale;
pub use table::{IncludeObject, table};
pub use update::{patch, update};
pub use upgrade::upgrade;
