//! Tokens of ServiceAccounts for this node's Pods: each is asked for once, kept while it is young, and replaced in time.
//!
//! Source: kubelet `pkg/kubelet/token/token_manager.go`. Invariants: a token is bound to its Pod, so it ends with it; none is
//! kept longer than its Pod is here; one that cannot be replaced is used until its end.

use crate::AgentError;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Pod, ServiceAccountTokenProjection},
};
use minisvc_apimachinery::{ObjectKey, resource::SERVICE_ACCOUNTS};
use minisvc_client::ApiClient;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// No token is used longer than this, however long it is good.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);
const SECONDS_DEFAULT: i64 = 3600;

/// What tokens differ in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish {
    /// For whom it is; empty: for the API.
    audience: String,
    /// How long it is to be good, in seconds.
    seconds: i64,
}

impl Wish {
    /// What a part of a volume asks for.
    pub fn of(source: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(SECONDS_DEFAULT),
        }
    }
}

/// The tokens that the volumes of a Pod ask for.
pub fn wishes(pod: &Pod) -> impl Iterator<Item = Wish> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let parts = volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    parts.filter_map(|part| part.service_account_token.as_ref().map(Wish::of))
}

#[derive(Clone, Debug)]
struct Issued {
    token: String,
    made: Timestamp,
    /// How long it is good.
    lasts: SignedDuration,
}

impl Issued {
    /// Kubelet `requiresRefresh`: in the last fifth of its life.
    fn is_old(&self, now: Timestamp) -> bool {
        now.duration_since(self.made) >= AGE_MAX.min(self.lasts * 4 / 5)
    }

    fn is_over(&self, now: Timestamp) -> bool {
        now.duration_since(self.made) >= self.lasts
    }
}

/// Those that were handed out, by the UID of their Pod.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<BTreeMap<String, BTreeMap<Wish, Issued>>>);

impl Tokens {
    /// Every token that a Pod asks for.
    ///
    /// # Errors
    /// If there is none that is good, and the API gives none.
    pub async fn of(&self, client: &ApiClient, pod: &Pod) -> Result<BTreeMap<Wish, String>, AgentError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut found = BTreeMap::new();
        for wish in wishes(pod) {
            let now = Timestamp::now();
            let kept = self.locked(|pods| pods.get(uid).and_then(|issued| issued.get(&wish)).cloned());
            let token = match kept {
                Some(kept) if !kept.is_old(now) => kept.token,
                kept => match (issue(client, pod, uid, &wish, now).await, kept) {
                    (Ok(issued), _) => {
                        let token = issued.token.clone();
                        self.locked(|pods| {
                            pods.entry(uid.to_owned()).or_default().insert(wish.clone(), issued)
                        });
                        token
                    }
                    (Err(error), Some(kept)) if !kept.is_over(now) => {
                        tracing::warn!(%uid, %error, "a token is not replaced yet");
                        kept.token
                    }
                    (Err(error), _) => return Err(error),
                },
            };
            found.insert(wish, token);
        }
        Ok(found)
    }

    /// Forgets those of a Pod that has left.
    pub fn forget(&self, uid: &str) {
        self.locked(|pods| pods.remove(uid));
    }

    fn locked<T>(&self, act: impl FnOnce(&mut BTreeMap<String, BTreeMap<Wish, Issued>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn issue(
    client: &ApiClient,
    pod: &Pod,
    uid: &str,
    wish: &Wish,
    now: Timestamp,
) -> Result<Issued, AgentError> {
    let text = |said: Option<&String>| said.cloned().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_ref());
    let key = ObjectKey::new(text(pod.metadata.namespace.as_ref()), text(account));
    let audiences: Vec<&str> = [wish.audience.as_str()].into_iter().filter(|said| !said.is_empty()).collect();
    let to =
        json!({ "apiVersion": "v1", "kind": "Pod", "name": text(pod.metadata.name.as_ref()), "uid": uid });
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": { "audiences": audiences, "expirationSeconds": wish.seconds, "boundObjectRef": to },
    });
    let failed = |source| AgentError::Api {
        operation: "request a token of",
        object: format!("serviceaccount {key}"),
        source,
    };
    let answer: TokenRequest =
        client.create_sub(&SERVICE_ACCOUNTS, &key, "token", &request).await.map_err(failed)?;
    // By this node's own clock: the API's may differ.
    let seconds = answer.spec.expiration_seconds.unwrap_or(wish.seconds);
    let token = answer.status.map(|status| status.token).unwrap_or_default();
    Ok(Issued { token, made: now, lasts: SignedDuration::from_secs(seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_in_the_last_fifth_of_its_life_or_after_a_day() {
        let made: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let issued =
            |seconds| Issued { token: String::new(), made, lasts: SignedDuration::from_secs(seconds) };
        let after = |seconds| made + SignedDuration::from_secs(seconds);
        assert!(!issued(1000).is_old(after(799)) && issued(1000).is_old(after(800)));
        assert!(!issued(1000).is_over(after(999)) && issued(1000).is_over(after(1000)));
        let year = issued(365 * 86400);
        assert!(!year.is_old(after(86399)) && year.is_old(after(86400)) && !year.is_over(after(86400)));
    }
}
