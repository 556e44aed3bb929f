//! Create, update, patch, delete: from the request through the registry into the store.
//!
//! Invariant: everything that depends on what is stored happens in the store's writer, in one commit with what
//! follows from it.

use crate::{
    accept::Form,
    auth::{self, Asked, Guard, User},
    body::{self, Validation},
    manager,
    patch::{Patch, check_apply},
    path::{Parameters, Target},
    respond,
    select::Filter,
};
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey, Resource, Status,
    decode::Decoded,
    managed::Force,
    patch,
    resource::SCALE,
    storage::{Change, Read, Revision, Stored},
};
use minisvc_registry::{Context, DeleteOptions, Outcome};
use minisvc_store::{CommitError, Store};
use rand::Rng;
use serde_json::{Value, json};
use std::sync::Arc;

/// Deletes of one collection under way at once.
const DELETES_AT_ONCE: usize = 32;

/// A write, read and checked as far as that goes without the store.
pub(crate) struct Write<'a> {
    pub(crate) store: &'a Store,
    pub(crate) cluster: &'a Arc<ClusterConfig>,
    pub(crate) user: &'a User,
    pub(crate) verb: &'static str,
    pub(crate) guard: Guard,
    pub(crate) target: &'a Target,
    pub(crate) parameters: &'a Parameters,
    pub(crate) headers: &'a HeaderMap,
}

impl Write<'_> {
    fn subresource(&self) -> Option<String> {
        Some(self.target.subresource.clone()).filter(|name| !name.is_empty())
    }

    /// The kind that is sent: that of the object, but for `scale`.
    fn sent_kind(&self) -> &'static Resource {
        if self.target.subresource == "scale" { &SCALE } else { self.target.resource }
    }

    fn key(&self) -> ObjectKey {
        ObjectKey::new(&*self.target.namespace, &*self.target.name)
    }

    /// Commits what the registry makes of the request, in the name of `manager`.
    async fn commit<F>(
        &self,
        manager: String,
        sent: Option<Value>,
        f: F,
    ) -> Result<(Revision, Outcome), Status>
    where
        F: FnOnce(&mut Context<'_>, &dyn Read, Option<Value>) -> Result<Outcome, Status> + Send + 'static,
    {
        let dry_run = body::dry_run(self.parameters)?;
        let (user, verb, target, guard) =
            (self.user.clone(), self.verb, self.target.clone(), self.guard.clone());
        let check = move |view: &dyn Read, sent: Option<&Value>| {
            Asked { user: &user, verb, target: &target, fields: "" }.check(&guard, view, sent)
        };
        commit(self.store, self.cluster, manager, dry_run, move |context, view| {
            check(view, sent.as_ref())?;
            f(context, view, sent)
        })
        .await
    }

    /// Answers a POST of an object, a binding or an eviction.
    pub(crate) async fn create(&self, body: Bytes) -> Result<Response, Status> {
        let decoded = body::decode(self.headers, &body)?;
        let resource = self.target.resource;
        let manager = manager::of(self.parameters, self.headers, "CreateOptions")?;
        let act = match self.target.subresource.as_str() {
            "binding" => {
                Some(minisvc_registry::bind as fn(&mut Context<'_>, &dyn Read, &ObjectKey, &Value) -> _)
            }
            "eviction" => Some(minisvc_registry::evict as _),
            _ => None,
        };
        if let Some(act) = act {
            let key = self.key();
            let done = self.commit(manager, Some(decoded.value), move |context, view, sent| {
                act(context, view, &key, &sent.unwrap_or_default())
            });
            return Ok(answer(done.await?, &[]));
        }
        let warnings =
            Validation::of(self.parameters)?.check(resource, &decoded.value, &decoded.duplicates)?;
        let namespace = self.target.one_namespace().map(str::to_owned);
        if resource.namespaced && namespace.is_none() {
            return Err(Status::method_not_supported(resource, "create without a namespace"));
        }
        let created = self.commit(manager, Some(decoded.value), move |context, view, object| {
            minisvc_registry::create(
                context,
                view,
                resource,
                namespace.as_deref(),
                object.unwrap_or_default(),
            )
        });
        Ok(answer(created.await?, &warnings))
    }

    /// Answers a PUT.
    pub(crate) async fn update(&self, body: Bytes) -> Result<Response, Status> {
        let decoded = body::decode(self.headers, &body)?;
        let resource = self.target.resource;
        let warnings =
            Validation::of(self.parameters)?.check(self.sent_kind(), &decoded.value, &decoded.duplicates)?;
        let (key, subresource) = (self.key(), self.subresource());
        let manager = manager::of(self.parameters, self.headers, "UpdateOptions")?;
        let updated = self.commit(manager, Some(decoded.value), move |context, view, object| {
            let object = object.unwrap_or_default();
            minisvc_registry::update(context, view, resource, &key, object, subresource.as_deref())
        });
        Ok(answer(updated.await?, &warnings))
    }

    /// Answers a PATCH.
    pub(crate) async fn patch(&self, body: Bytes) -> Result<Response, Status> {
        let patch = Patch::read(self.headers, &body)?;
        let (manager, force) = manager::of_patch(self.parameters, self.headers, &patch)?;
        let validation = Validation::of(self.parameters)?;
        let (resource, kind_sent) = (self.target.resource, self.sent_kind());
        let (key, subresource) = (self.key(), self.subresource());
        let (kind, decoded) = match patch {
            Patch::Change { kind, decoded } => (kind, decoded),
            Patch::Apply { decoded } => return self.apply(manager, force, validation, decoded).await,
        };
        let warnings = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = warnings.clone();
        let patched = self.commit(manager, None, move |context, view, _| {
            let apply = |old: &Value| {
                let new = patch::apply(kind, kind_sent, old, &decoded.value)?;
                let found = validation.check(kind_sent, &new, &decoded.duplicates)?;
                *noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
                Ok(new)
            };
            minisvc_registry::patch(context, view, resource, &key, &apply, subresource.as_deref())
        });
        let patched = patched.await?;
        let warnings = warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(answer(patched, &warnings))
    }

    /// Answers a PATCH that is a server-side apply.
    async fn apply(
        &self,
        manager: String,
        force: Force,
        validation: Validation,
        decoded: Decoded,
    ) -> Result<Response, Status> {
        let resource = self.target.resource;
        let warnings = check_apply(validation, self.sent_kind(), &decoded)?;
        let (key, subresource) = (self.key(), self.subresource());
        // What is not there is made, by those who may.
        let create = Asked { user: self.user, verb: "create", target: self.target, fields: "" };
        let may_create = auth::authorize(&create).map(drop);
        let applied = self.commit(manager, None, move |context, view, _| {
            if view.get(&resource.storage_key(&key)).is_none() {
                may_create?;
            }
            let subresource = subresource.as_deref();
            minisvc_registry::apply(context, view, resource, &key, &decoded.value, force, subresource)
        });
        Ok(answer(applied.await?, &warnings))
    }

    /// Answers a DELETE of one object.
    pub(crate) async fn delete(&self, body: Bytes) -> Result<Response, Status> {
        let options = self.delete_options(&body)?;
        let (key, resource) = (self.key(), self.target.resource);
        let deleted = self.commit(String::new(), None, move |context, view, _| {
            minisvc_registry::delete(context, view, resource, &key, &options)
        });
        let (revision, outcome) = deleted.await?;
        // A Pod is answered even when it is gone, as Kubernetes does.
        if outcome.deleted && resource.kind != "Pod" {
            let text =
                |pointer: &str| outcome.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let details = minisvc_apimachinery::status::Details {
                name: self.target.name.clone(),
                group: resource.group.to_owned(),
                kind: resource.plural.to_owned(),
                uid: text("/metadata/uid").to_owned(),
                ..Default::default()
            };
            return Ok(respond::status(&Status::success(details)));
        }
        Ok(answer((revision, outcome), &[]))
    }

    /// Answers a DELETE of a collection: each object by itself, as Kubernetes does; what went meanwhile is no fault.
    pub(crate) async fn delete_collection(&self, body: Bytes) -> Result<Response, Status> {
        let options = self.delete_options(&body)?;
        let filter = Filter::of(self.target.resource, self.parameters)?;
        let dry_run = body::dry_run(self.parameters)?;
        let view = self.store.view();
        let mut found: Vec<(String, Arc<Stored>)> = Vec::new();
        let prefix = self.target.resource.storage_prefix(self.target.one_namespace());
        view.scan(&prefix, None, &mut |key, stored| {
            if filter.matches(key, stored) {
                found.push((key.to_owned(), stored.clone()));
            }
            true
        });
        let resource = self.target.resource;
        let keys: Vec<ObjectKey> = found.iter().map(|(key, _)| object_key(resource, key)).collect();
        let deletes = keys.into_iter().map(|key| {
            let (store, cluster, options) = (self.store.clone(), self.cluster.clone(), options.clone());
            async move {
                commit(&store, &cluster, String::new(), dry_run, move |context, view| {
                    minisvc_registry::delete(context, view, resource, &key, &options)
                })
                .await
            }
        });
        let results: Vec<_> = stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).collect().await;
        for result in results {
            match result {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        let metadata = json!({"resourceVersion": self.store.view().revision().to_string()});
        let items = found.into_iter().map(|(_, stored)| stored).collect();
        Ok(respond::list(resource, Form::Object, &metadata, items))
    }

    /// `DeleteOptions` from the body, with what the query adds.
    fn delete_options(&self, body: &[u8]) -> Result<DeleteOptions, Status> {
        let mut value = match body.is_empty() {
            true => json!({}),
            false => body::decode(self.headers, body)?.value,
        };
        let Some(object) = value.as_object_mut() else {
            return Err(Status::bad_request("the request's body: DeleteOptions must be an object"));
        };
        if let Some(seconds) = self.parameters.number::<i64>("gracePeriodSeconds")? {
            object.entry("gracePeriodSeconds").or_insert(seconds.into());
        }
        if let Some(policy) = self.parameters.get("propagationPolicy") {
            object.entry("propagationPolicy").or_insert(policy.into());
        }
        DeleteOptions::from_value(&value).map_err(Status::bad_request)
    }
}

/// The object that a storage key names.
fn object_key(resource: &Resource, storage_key: &str) -> ObjectKey {
    let mut parts = storage_key.splitn(3, '/').skip(1);
    let first = parts.next().unwrap_or_default();
    match (resource.namespaced, parts.next()) {
        (true, Some(name)) => ObjectKey::new(first, name),
        _ => ObjectKey::cluster(first),
    }
}

/// Runs the registry in the store's writer. What it changes is of `manager`.
pub(crate) async fn commit<F>(
    store: &Store,
    cluster: &Arc<ClusterConfig>,
    manager: String,
    dry_run: bool,
    f: F,
) -> Result<(Revision, Outcome), Status>
where
    F: FnOnce(&mut Context<'_>, &dyn Read) -> Result<Outcome, Status> + Send + 'static,
{
    let cluster = cluster.clone();
    let committed = store.commit(move |view| {
        let mut context = Context {
            now: Timestamp::now(),
            uid: &mut uid,
            random: &mut || rand::rng().random(),
            cluster: &cluster,
            dry_run,
            manager: &manager,
        };
        let mut outcome = f(&mut context, view)?;
        let changes: Vec<Change> = std::mem::take(&mut outcome.changes);
        Ok((changes, outcome))
    });
    let committed = committed.await.map_err(refusal)?;
    Ok((committed.revision, committed.value))
}

/// The answer to a commit that did not happen.
pub(crate) fn refusal(error: CommitError<Status>) -> Status {
    match error {
        CommitError::Refused(status) => status,
        CommitError::Store(error) => Status::unavailable(error.to_string()),
        error @ (CommitError::Panicked | CommitError::Bad(_)) => Status::internal(error),
    }
}

/// A random (version 4) UUID.
pub(crate) fn uid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn answer((revision, mut outcome): (Revision, Outcome), warnings: &[String]) -> Response {
    let metadata = outcome.object.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata.filter(|_| outcome.written) {
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    }
    let status = if outcome.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = respond::json(status, &outcome.object);
    body::warn(response.headers_mut(), warnings);
    response
}
