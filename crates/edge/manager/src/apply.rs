//! Carries out one write.
//!
//! Invariant: after an outcome other than `Failed` the object's version is known. A write whose fate is unknown (no
//! answer) is followed by reads until one is answered.

use crate::ledger::Outcome;
use minisvc_apimachinery::{ObjectKey, Resource, resource::NAMESPACES, resource::PODS};
use minisvc_client::{ApiClient, ClientError, DeleteOptions, PatchKind};
use minisvc_controllers::{Owner, Write};
use minisvc_reconcile::Backoff;
use serde_json::{Value, json};
use std::time::Duration;

/// First and longest wait between two reads of an object whose fate is unknown.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(crate) async fn apply(client: &ApiClient, write: &Write) -> Outcome {
    let error = match carry_out(client, write).await {
        Ok(outcome) => return outcome,
        Err(error) => error,
    };
    let (resource, key) = write.target();
    if error.is_conflict() || error.is_already_exists() {
        tracing::debug!(%error, "planned on an old version: again");
        return Outcome::Failed;
    }
    if error.is_not_found() {
        tracing::debug!(%error, "gone meanwhile");
        return Outcome::Failed;
    }
    if error.is_refusal() {
        tracing::warn!(%error, "write refused");
        return Outcome::Refused(error.refusal());
    }
    tracing::debug!(%error, "no answer to a write: asking what became of it");
    let mut backoff = Backoff::new(ASK_AGAIN.0, ASK_AGAIN.1);
    loop {
        tokio::time::sleep(backoff.failed()).await;
        match client.get_optional::<Value>(resource, key).await {
            Ok(Some(object)) => return Outcome::Landed { revision: revision(&object) },
            Ok(None) if matches!(write, Write::Create { .. }) => return Outcome::Failed,
            Ok(None) => return Outcome::Gone,
            Err(error) => tracing::debug!(%error, "still no answer"),
        }
    }
}

fn revision(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

async fn carry_out(client: &ApiClient, write: &Write) -> Result<Outcome, ClientError> {
    let landed = |object: Value| Outcome::Landed { revision: revision(&object) };
    match write {
        Write::Create { resource, key, object } => {
            client.create(resource, &key.namespace, object).await.map(landed)
        }
        Write::Replace { resource, key, object } => {
            client.replace(resource, key, None, object).await.map(landed)
        }
        Write::Patch { resource, key, subresource, patch } => {
            client.patch(resource, key, *subresource, PatchKind::Merge, patch).await.map(landed)
        }
        Write::Adopt { resource, key, patch, owner } => {
            let present: Option<Value> = client.get_optional(owner.resource, &owner.key).await?;
            let stays = |object: &Value| {
                object["metadata"]["uid"] == owner.uid.as_str()
                    && object["metadata"]["deletionTimestamp"].is_null()
            };
            if !present.as_ref().is_some_and(stays) {
                return Ok(Outcome::Failed);
            }
            client.patch(resource, key, None, PatchKind::Merge, patch).await.map(landed)
        }
        Write::Bind { pod, uid, node } => bind(client, pod, uid, node).await,
        Write::Delete { resource, key, how } => {
            if any_exists(client, &how.unless_exists).await? {
                return Ok(Outcome::Failed);
            }
            let options = DeleteOptions {
                uid: Some(how.uid.clone()).filter(|uid| !uid.is_empty()),
                resource_version: how.version.clone(),
                grace_seconds: how.grace_seconds,
                foreground: how.foreground,
            };
            client.delete(resource, key, &options).await.map(|_| Outcome::Gone)
        }
        Write::Empty { namespace, resources, finalized } => {
            empty(client, namespace, resources, finalized).await
        }
    }
}

async fn bind(client: &ApiClient, pod: &ObjectKey, uid: &str, node: &str) -> Result<Outcome, ClientError> {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": { "namespace": pod.namespace, "name": pod.name, "uid": uid },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    client.create_sub::<Value>(&PODS, pod, "binding", &binding).await?;
    // The answer to a binding is a Status: the Pod's new version must be asked for.
    let pod: Option<Value> = client.get_optional(&PODS, pod).await?;
    Ok(pod.map_or(Outcome::Gone, |pod| Outcome::Landed { revision: revision(&pod) }))
}

async fn any_exists(client: &ApiClient, owners: &[Owner]) -> Result<bool, ClientError> {
    for owner in owners {
        let present: Option<Value> = client.get_optional(owner.resource, &owner.key).await?;
        let same = |object: &Value| owner.uid.is_empty() || object["metadata"]["uid"] == owner.uid.as_str();
        if present.as_ref().is_some_and(same) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn empty(
    client: &ApiClient,
    namespace: &ObjectKey,
    resources: &[&'static Resource],
    finalized: &Value,
) -> Result<Outcome, ClientError> {
    let mut rest = false;
    for resource in resources {
        let list: Value = client.list(resource, &namespace.name, "limit=1").await?;
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        client.delete_collection(resource, &namespace.name).await?;
        let list: Value = client.list(resource, &namespace.name, "limit=1").await?;
        rest |= !list["items"].as_array().is_none_or(Vec::is_empty);
    }
    if rest {
        return Ok(Outcome::Failed); // Pods take their time to end
    }
    match client.replace::<Value>(&NAMESPACES, namespace, Some("finalize"), finalized).await {
        Ok(object) => Ok(Outcome::Landed { revision: revision(&object) }),
        Err(error) if error.is_not_found() => Ok(Outcome::Gone),
        Err(error) => Err(error),
    }
}
