//! Bearers: the two secrets of the cluster, and the tokens of ServiceAccounts.
//!
//! Invariant: a token of an account is good while the account is there; which role it has is read anew each time.

use super::User;
use crate::pki::{AccountKey, Pki};
use http::{HeaderMap, header::AUTHORIZATION};
use jiff::Timestamp;
use minisvc_apimachinery::{ObjectKey, Status, join, storage::Read};
use minisvc_registry::{Bound, Claims, account_role, check_token};
use minisvc_store::Store;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};

const INVALID: &str = "invalid bearer token";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Group of every ServiceAccount; those of one namespace are in `system:serviceaccounts:NAMESPACE` too.
pub(super) const ACCOUNTS: &str = "system:serviceaccounts";

/// What bearers may show. The secrets are kept as hashes, so that comparing takes the same time whatever is shown.
pub(crate) struct Tokens {
    admin: [u8; 32],
    join: [u8; 32],
    key: Arc<AccountKey>,
    /// Who makes the tokens, and for whom they are if they are for the API itself.
    issuer: String,
    store: Store,
}

impl Tokens {
    pub(crate) fn new(pki: &Pki, issuer: String, store: Store) -> Self {
        Self {
            admin: Sha256::digest(&pki.admin_token).into(),
            join: Sha256::digest(&pki.join_token.secret).into(),
            key: pki.account_key.clone(),
            issuer,
            store,
        }
    }

    /// Who sent the request; None: nobody said. A wrong token is refused, even next to a good certificate.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&User>,
    ) -> Result<Option<User>, Status> {
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(certificate.cloned()) };
        let token = header
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or_else(Status::unauthorized)?;
        let found = self.bearer(token.trim(), &[]).map_err(|why| {
            tracing::debug!(why, "a bearer was refused");
            Status::unauthorized()
        });
        found.map(|(user, _)| Some(user))
    }

    /// Who a token is of, and for which of these audiences it is; without any: for the API itself.
    ///
    /// # Errors
    /// Why it is not taken, in Kubernetes' words.
    pub(crate) fn bearer(&self, token: &str, audiences: &[String]) -> Result<(User, Vec<String>), String> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let user = if hash == self.admin {
            Some(User::new(join::ADMIN, join::MASTERS))
        } else {
            (hash == self.join).then(|| User::new("system:bootstrap", join::BOOTSTRAPPERS))
        };
        if let Some(user) = user {
            let own = vec![self.issuer.clone()];
            let wanted = audiences.is_empty() || audiences.contains(&self.issuer);
            return if wanted { Ok((user, own)) } else { Err(INVALID.to_owned()) };
        }
        let claims: Claims = self.key.verify(token).ok_or_else(|| INVALID.to_owned())?;
        let wanted = if audiences.is_empty() { std::slice::from_ref(&self.issuer) } else { audiences };
        let found: Vec<String> = claims.aud.iter().filter(|of| wanted.contains(of)).cloned().collect();
        let view = self.store.view();
        let why = if claims.iss != self.issuer {
            Err(format!("token issuer {:?} is invalid", claims.iss))
        } else if found.is_empty() {
            Err(format!("token audiences {:?} is invalid for the target audiences {wanted:?}", claims.aud))
        } else {
            check_token(&view, &claims, Timestamp::now())
        };
        why.map_err(|why| format!("{INVALID}, {why}"))?;
        Ok((account(&view, claims), found))
    }
}

/// The account that a token is of.
fn account(view: &dyn Read, claims: Claims) -> User {
    let Claims { jti, kubernetes: Bound { namespace, serviceaccount, pod, node, .. }, .. } = claims;
    let mut extra = BTreeMap::from([("credential-id", format!("JTI={jti}"))]);
    if let Some(pod) = pod {
        extra.extend([("pod-name", pod.name), ("pod-uid", pod.uid)]);
    }
    if let Some(node) = node {
        extra.extend([("node-name", node.name), ("node-uid", node.uid)]);
    }
    let said = extra.into_iter().filter(|(_, value)| !value.is_empty());
    let groups = vec![ACCOUNTS.to_owned(), format!("{ACCOUNTS}:{namespace}")];
    User {
        uid: serviceaccount.uid,
        extra: said
            .map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value]))
            .collect(),
        ..User::authenticated(claims.sub, groups).with_role(view)
    }
}

impl User {
    /// The same user with the role that it was given, if it is a ServiceAccount by its name.
    pub(crate) fn with_role(self, view: &dyn Read) -> Self {
        let account = self.name.strip_prefix(ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
        let role = account.and_then(|(namespace, name)| account_role(view, &ObjectKey::new(namespace, name)));
        Self { role, ..self }
    }
}
