//! Get and list.
//!
//! Invariants: an answer comes from one version of the store; pages of one list come from the same version, or the
//! client is told to begin again (410); stored bytes go out as they are unless a table is asked for.

use crate::{
    accept::Form,
    path::{Parameters, Target, invalid},
    respond,
    select::Filter,
};
use axum::response::Response;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use jiff::Timestamp;
use minisvc_apimachinery::{
    Cause, ObjectKey, Resource, Status,
    resource::SCALE,
    storage::{Read, Revision, Stored},
};
use minisvc_registry::IncludeObject;
use minisvc_store::{Store, View};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Objects looked at before other tasks get their turn.
const SCAN_A_TURN: usize = 512;
/// Versions of the store that are kept for lists under way, and how long.
const PAGED_VIEWS: usize = 32;
const PAGED_FOR: Duration = Duration::from_secs(300);

/// The versions of the store that continue tokens name.
#[derive(Default)]
pub(crate) struct Pages(Mutex<VecDeque<(Instant, View)>>);

impl Pages {
    fn keep(&self, view: &View) {
        let mut views = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|(since, kept)| since.elapsed() < PAGED_FOR && kept.revision() != view.revision());
        while views.len() >= PAGED_VIEWS {
            views.pop_front();
        }
        views.push_back((Instant::now(), view.clone()));
    }

    fn find(&self, revision: Revision) -> Option<View> {
        let views = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh =
            |(since, view): &&(Instant, View)| view.revision() == revision && since.elapsed() < PAGED_FOR;
        views.iter().find(fresh).map(|(_, view)| view.clone())
    }
}

/// A continue token: which version, and where the next page begins.
#[derive(Serialize, Deserialize)]
struct Token {
    rv: Revision,
    after: String,
}

/// A number that names a version of the store.
pub(crate) fn revision(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| invalid("resourceVersion", text, "must be a number that this API gave"))
}

/// Chooses the version a list is answered from, and the key to go on after.
fn choose(store: &Store, pages: &Pages, parameters: &Parameters) -> Result<(View, Option<String>), Status> {
    let given = parameters.get("resourceVersion").map(revision).transpose()?;
    let rule = parameters.get("resourceVersionMatch");
    if let Some(token) = parameters.get("continue") {
        if given.is_some_and(|revision| revision != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token: Token = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| {
                Status::bad_request("continue key is not valid: it is not one that this API gave")
            })?;
        let expired = "The provided continue parameter is too old to display a consistent list result. \
                       You must start a new list without the continue parameter.";
        let view = pages.find(token.rv).ok_or_else(|| Status::expired(expired))?;
        return Ok((view, Some(token.after)));
    }
    let view = store.view();
    match (rule, given) {
        (Some(rule), None) => {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            Err(invalid("resourceVersionMatch", rule, why))
        }
        (Some("Exact"), Some(0)) => {
            let why = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
            Err(invalid("resourceVersionMatch", "Exact", why))
        }
        (_, Some(wanted)) if wanted > view.revision() => Err(too_large(wanted, view.revision())),
        (Some("Exact"), Some(wanted)) if wanted != view.revision() => {
            let too_old =
                || Status::expired(format!("The resourceVersion for the provided list is too old: {wanted}"));
            pages.find(wanted).map(|view| (view, None)).ok_or_else(too_old)
        }
        (None | Some("Exact" | "NotOlderThan"), _) => Ok((view, None)),
        (Some(other), _) => {
            let why = "supported values: \"Exact\", \"NotOlderThan\"";
            Err(invalid("resourceVersionMatch", other, why))
        }
    }
}

fn too_large(wanted: Revision, current: Revision) -> Status {
    let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
    let mut status = Status::failure(504, "Timeout", message);
    status.details =
        Some(minisvc_apimachinery::status::Details { retry_after_seconds: Some(1), ..Default::default() });
    status
}

/// The stored object.
///
/// # Errors
/// 404.
pub(crate) fn find(view: &View, target: &Target) -> Result<Arc<Stored>, Status> {
    let key = ObjectKey::new(&*target.namespace, &*target.name);
    view.get(&target.resource.storage_key(&key))
        .ok_or_else(|| Status::not_found(target.resource.stored(), &target.name))
}

/// Answers a get.
pub(crate) fn get(
    store: &Store,
    target: &Target,
    form: Form,
    parameters: &Parameters,
) -> Result<Response, Status> {
    let view = store.view();
    let wanted = parameters.get("resourceVersion").map(revision).transpose()?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > view.revision()) {
        return Err(too_large(wanted, view.revision()));
    }
    let stored = find(&view, target)?;
    if target.subresource == "scale" {
        let object: Value = serde_json::from_slice(&stored.value).map_err(Status::internal)?;
        let scale = minisvc_registry::scale(&object);
        let Form::Table(version) = form else { return Ok(respond::json(StatusCode::OK, &scale)) };
        let table = table_of(&SCALE, version, &[&scale], include(parameters)?);
        return Ok(respond::json(StatusCode::OK, &table));
    }
    match form {
        Form::Object => {
            let bytes = respond::served(target.resource, &stored.value);
            Ok(respond::bytes(StatusCode::OK, "application/json", bytes))
        }
        Form::Metadata(version) => {
            let bytes = respond::metadata(version, &stored.value);
            Ok(respond::bytes(StatusCode::OK, "application/json", bytes))
        }
        Form::Table(version) => {
            let table = table(target, version, &[stored], include(parameters)?)?;
            Ok(respond::json(StatusCode::OK, &table))
        }
    }
}

/// Which part of each object a table's rows carry.
pub(crate) fn include(parameters: &Parameters) -> Result<IncludeObject, Status> {
    match parameters.get("includeObject") {
        None | Some("Metadata") => Ok(IncludeObject::Metadata),
        Some("None") => Ok(IncludeObject::None),
        Some("Object") => Ok(IncludeObject::Object),
        Some(other) => {
            Err(invalid("includeObject", other, "must be one of \"None\", \"Metadata\", \"Object\""))
        }
    }
}

/// A table of stored objects.
pub(crate) fn table(
    target: &Target,
    version: &str,
    objects: &[Arc<Stored>],
    include: IncludeObject,
) -> Result<Value, Status> {
    let parsed: Result<Vec<Value>, _> =
        objects.iter().map(|stored| serde_json::from_slice(&stored.value)).collect();
    let parsed = parsed.map_err(Status::internal)?;
    let parsed: Vec<&Value> = parsed.iter().collect();
    Ok(table_of(target.resource, version, &parsed, include))
}

fn table_of(resource: &Resource, version: &str, objects: &[&Value], include: IncludeObject) -> Value {
    let mut table = minisvc_registry::table(resource, objects, Timestamp::now(), include);
    table["apiVersion"] = format!("meta.k8s.io/{version}").into();
    table
}

/// What a scan found.
struct Page {
    items: Vec<Arc<Stored>>,
    /// Key of the last item, if there are more behind it.
    last: Option<String>,
    /// How many more there are; known only without selectors.
    remaining: Option<u64>,
}

/// Collects up to `limit` objects; lets other tasks run in between.
async fn scan(view: &View, target: &Target, filter: &Filter, after: Option<String>, limit: usize) -> Page {
    let prefix = target.resource.storage_prefix(target.one_namespace());
    let mut items: Vec<Arc<Stored>> = Vec::new();
    let mut last_item = None;
    let mut cursor = after;
    loop {
        let mut looked_at = 0;
        let mut next = None;
        let mut more = false;
        view.scan(&prefix, cursor.as_deref(), &mut |key, stored| {
            if looked_at == SCAN_A_TURN {
                next.get_or_insert_with(String::new);
                return false;
            }
            looked_at += 1;
            if filter.matches(key, stored) {
                if items.len() == limit {
                    more = true;
                    return false;
                }
                items.push(stored.clone());
                last_item = Some(key.to_owned());
            }
            next = None;
            if looked_at == SCAN_A_TURN {
                next = Some(key.to_owned());
            }
            true
        });
        if more {
            let remaining = match (&last_item, filter.is_everything()) {
                (Some(last), true) => Some(count(view, &prefix, last).await),
                _ => None,
            };
            return Page { items, last: last_item, remaining };
        }
        match next {
            Some(key) => cursor = Some(key),
            None => return Page { items, last: None, remaining: None },
        }
        tokio::task::yield_now().await;
    }
}

/// How many keys follow `after`.
async fn count(view: &View, prefix: &str, after: &str) -> u64 {
    let mut total = 0;
    let mut cursor = after.to_owned();
    loop {
        let mut turn: usize = 0;
        view.scan(prefix, Some(&cursor.clone()), &mut |key, _| {
            turn += 1;
            if turn == SCAN_A_TURN * 8 {
                key.clone_into(&mut cursor);
                return false;
            }
            true
        });
        total += turn as u64;
        if turn < SCAN_A_TURN * 8 {
            return total;
        }
        tokio::task::yield_now().await;
    }
}

/// Answers a list.
pub(crate) async fn list(
    store: &Store,
    pages: &Pages,
    target: &Target,
    form: Form,
    parameters: &Parameters,
) -> Result<Response, Status> {
    let filter = Filter::of(target.resource, parameters)?;
    let include = include(parameters)?;
    let limit = match parameters.number::<i64>("limit")? {
        None | Some(0) => usize::MAX,
        Some(limit) if limit > 0 => usize::try_from(limit).unwrap_or(usize::MAX),
        Some(limit) => {
            let cause = Cause::invalid("limit", limit, "must be greater than or equal to 0");
            return Err(Status::bad_request(cause.to_string()));
        }
    };
    let (view, after) = choose(store, pages, parameters)?;
    let page = scan(&view, target, &filter, after, limit).await;
    let mut metadata = json!({"resourceVersion": view.revision().to_string()});
    if let Some(after) = page.last {
        pages.keep(&view);
        let token = serde_json::to_vec(&Token { rv: view.revision(), after }).map_err(Status::internal)?;
        metadata["continue"] = URL_SAFE_NO_PAD.encode(token).into();
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    match form {
        Form::Object | Form::Metadata(_) => Ok(respond::list(target.resource, form, &metadata, page.items)),
        Form::Table(version) => {
            let target = target.clone();
            // Rows are made from parsed objects, which may take long: not on a worker that serves others.
            let table = tokio::task::spawn_blocking(move || {
                let mut table = table(&target, version, &page.items, include)?;
                table["metadata"] = metadata;
                Ok::<_, Status>(table.to_string())
            });
            let table = table.await.map_err(Status::internal)??;
            Ok(respond::bytes(StatusCode::OK, "application/json", table))
        }
    }
}
