//! v1 ServiceAccount: who a Pod is to the API.
//!
//! - [`token`]: what its tokens say.
//!
//! Source: kubernetes `pkg/registry/core/serviceaccount/strategy.go`, `pkg/apis/core/validation`.

use super::reads_as;
use crate::{
    Status,
    context::Subject,
    strategy::Strategy,
    table::{Column, age, name},
    value::{items, items_mut, parse},
};
use k8s_openapi::api::core::v1::ServiceAccount;
use minisvc_apimachinery::{Cause, ObjectKey, resource::SERVICE_ACCOUNTS, storage::Read};
use serde_json::{Value, json};

mod token;

pub use token::{Bound, Claims, Issue, Reference, account_user, answered, check_token, token_request};

/// Annotation that gives an account a role. As no role may write ServiceAccounts but the administrator's, nobody
/// gives more than they have.
const ROLE: &str = "minisvc.io/role";

/// What an account may do beyond what every account may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountRole {
    /// Everything.
    Admin,
    /// Read all but Secrets.
    View,
}

impl AccountRole {
    const NAMES: [&str; 2] = ["admin", "view"];

    fn named(name: &str) -> Option<Self> {
        match name {
            "admin" => Some(Self::Admin),
            "view" => Some(Self::View),
            _ => None,
        }
    }
}

/// The role that an account was given.
pub fn account_role(view: &dyn Read, key: &ObjectKey) -> Option<AccountRole> {
    let stored = view.get(&SERVICE_ACCOUNTS.storage_key(key))?;
    AccountRole::named(role(&parse(&stored))?)
}

fn role(account: &Value) -> Option<&str> {
    account.pointer("/metadata/annotations")?.get(ROLE)?.as_str()
}

/// The account of Pods that name none; every namespace has it.
pub(super) const DEFAULT: &str = "default";

pub(crate) struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<ServiceAccount>(object)
    }

    fn prepare_create(&self, object: &mut Value, _subject: &Subject<'_>) {
        clean_secrets(object);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, _subject: &Subject<'_>) {
        clean_secrets(new);
    }

    fn admit(
        &self,
        _view: &dyn Read,
        new: &Value,
        _old: Option<&Value>,
        subject: &Subject<'_>,
    ) -> Result<(), Status> {
        // Here, because an update of nothing but metadata is not validated otherwise.
        let Some(role) = role(new).filter(|role| AccountRole::named(role).is_none()) else { return Ok(()) };
        let cause = Cause::not_supported(format!("metadata.annotations[{ROLE}]"), role, &AccountRole::NAMES);
        Err(Status::invalid(subject.resource, &subject.key.name, vec![cause]))
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::name(), Column::new("Secrets", "string"), Column::new("Age", "string")] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(object), json!(items(object, "/secrets").len()), age(object, now)]
    }
}

/// Of a reference to a Secret only its name counts: it is always one of the same namespace.
fn clean_secrets(object: &mut Value) {
    for secret in items_mut(object, "/secrets") {
        if let Some(reference) = secret.as_object_mut() {
            reference.retain(|field, _| field == "name");
        }
    }
}
