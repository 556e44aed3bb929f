//! Watch: the changes of a collection as they are committed, one JSON text a line.
//!
//! Invariants: events are taken from the store's bounded log when the client is ready for more, so a slow client
//! holds nothing but its place, and is told to list again (410) once that is gone; an object that begins or ceases
//! to match the selectors is told as ADDED or DELETED.

use crate::{
    accept::Form,
    metrics::{Counted, Metrics},
    path::{Parameters, Target, invalid},
    read, respond,
    select::Filter,
};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use jiff::Timestamp;
use minisvc_apimachinery::{
    Status,
    storage::{Read, Revision, Stored},
};
use minisvc_registry::IncludeObject;
use minisvc_store::{Event, Store, WatchError, Watcher};
use rand::Rng;
use serde_json::{Value, json};
use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};
use tokio::time::{Instant, Interval, Sleep};
use tokio_util::sync::CancellationToken;

/// Between two bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// Seconds a watch lasts that asks for no time: random, so that not all come back at once.
const DEFAULT_SECONDS: std::ops::Range<u64> = 1800..3600;
/// Longest watch, seconds.
const SECONDS_MAX: u64 = 24 * 3600;
/// Bytes of initial events that are put together at once.
const CHUNK_BYTES: usize = 64 << 10;

/// A watch under way.
struct Watch {
    target: Target,
    form: Form,
    include: IncludeObject,
    filter: Filter,
    /// Objects that were there already and are still to be told.
    initial: std::vec::IntoIter<Arc<Stored>>,
    /// Whether to tell when they are told.
    mark_initial_end: bool,
    /// Revision of the initial objects.
    revision: Revision,
    source: Result<Watcher, WatchError>,
    bookmarks: Option<Interval>,
    deadline: Pin<Box<Sleep>>,
    shutdown: CancellationToken,
    /// Whether a table was sent: only the first has column definitions.
    has_headers: bool,
    ended: bool,
    _counted: Counted,
}

/// Answers a watch.
pub(crate) fn watch(
    store: &Store,
    metrics: &Metrics,
    shutdown: CancellationToken,
    target: &Target,
    form: Form,
    parameters: &Parameters,
) -> Result<Response, Status> {
    let filter = Filter::of(target.resource, parameters)?;
    let include = read::include(parameters)?;
    let allow_bookmarks = parameters.flag("allowWatchBookmarks")?;
    let wants_initial = match (parameters.has("sendInitialEvents"), parameters.get("resourceVersionMatch")) {
        (true, Some("NotOlderThan")) => Some(parameters.flag("sendInitialEvents")?),
        (true, _) => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(invalid("resourceVersionMatch", "", why));
        }
        (false, None) => None,
        (false, Some(rule)) => {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(invalid("resourceVersionMatch", rule, why));
        }
    };
    let given =
        parameters.get("resourceVersion").map(read::revision).transpose()?.filter(|given| *given != 0);
    let seconds = match parameters.number::<u64>("timeoutSeconds")? {
        None | Some(0) => rand::rng().random_range(DEFAULT_SECONDS),
        Some(seconds) => seconds.min(SECONDS_MAX),
    };
    let mut prefix = target.resource.storage_prefix(target.one_namespace());
    if let (Some(name), true) =
        (filter.name(), target.one_namespace().is_some() || !target.resource.namespaced)
    {
        // One object is looked at through a hole of its size; longer names that begin alike are filtered out.
        prefix.push_str(name);
    }
    let mut initial = Vec::new();
    let view = store.view();
    let mut source = store.watch(&prefix, given.unwrap_or(view.revision()));
    if wants_initial.unwrap_or(given.is_none()) {
        if let Some(given) = given.filter(|given| *given > view.revision()) {
            source = Err(WatchError::Future { from: given, current: view.revision() });
        } else {
            view.scan(&prefix, None, &mut |key, stored| {
                if filter.matches(key, stored) {
                    initial.push(stored.clone());
                }
                true
            });
            source = store.watch(&prefix, view.revision());
        }
    }
    let watch = Watch {
        target: target.clone(),
        form,
        include,
        filter,
        initial: initial.into_iter(),
        mark_initial_end: wants_initial == Some(true) && allow_bookmarks,
        revision: view.revision(),
        source,
        bookmarks: allow_bookmarks
            .then(|| tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY)),
        deadline: Box::pin(tokio::time::sleep(Duration::from_secs(seconds))),
        shutdown,
        has_headers: false,
        ended: false,
        _counted: metrics.watching(),
    };
    let lines = stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok::<_, Infallible>(chunk), watch))
    });
    Ok(respond::bytes(StatusCode::OK, "application/json", Body::from_stream(lines)))
}

/// What to do next.
enum Step {
    Events(Result<Vec<Event>, WatchError>),
    Bookmark,
    TimeOut,
    ShutDown,
}

impl Watch {
    /// The next lines; None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        if !self.ended {
            self.tell_initial(&mut out);
        }
        while out.is_empty() && !self.ended {
            match self.step().await {
                Step::Events(Ok(events)) => {
                    for event in &events {
                        self.tell(event, &mut out);
                    }
                }
                Step::Events(Err(error)) => self.fail(error, &mut out),
                Step::Bookmark => self.bookmark(false, &mut out),
                Step::TimeOut => {
                    // Where a client that comes back can go on, even if nothing happened for long.
                    if self.bookmarks.is_some() {
                        self.bookmark(false, &mut out);
                    }
                    self.ended = true;
                }
                Step::ShutDown => self.ended = true,
            }
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }

    async fn step(&mut self) -> Step {
        let watcher = match &mut self.source {
            Ok(watcher) => watcher,
            Err(error) => return Step::Events(Err(*error)),
        };
        let bookmark = async {
            match &mut self.bookmarks {
                Some(interval) => {
                    interval.tick().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shutdown.cancelled() => Step::ShutDown,
            () = &mut self.deadline => Step::TimeOut,
            () = bookmark => Step::Bookmark,
            events = watcher.next() => Step::Events(events),
        }
    }

    fn tell_initial(&mut self, out: &mut Vec<u8>) {
        while out.len() < CHUNK_BYTES {
            let Some(stored) = self.initial.next() else {
                if std::mem::take(&mut self.mark_initial_end) {
                    self.bookmark(true, out);
                }
                return;
            };
            self.line("ADDED", &stored.value, out);
        }
    }

    fn tell(&mut self, event: &Event, out: &mut Vec<u8>) {
        let matches = |stored: &Option<Arc<Stored>>| {
            stored.as_ref().filter(|stored| self.filter.matches(&event.key, stored)).cloned()
        };
        match (matches(&event.old), matches(&event.new)) {
            (None, None) => {}
            (None, Some(new)) => self.line("ADDED", &new.value, out),
            (Some(_), Some(new)) => self.line("MODIFIED", &new.value, out),
            (Some(old), None) => {
                // The last state, at the revision of its end, so that a client can go on from there.
                let Ok(mut object) = serde_json::from_slice::<Value>(&old.value) else { return };
                object["metadata"]["resourceVersion"] = event.revision.to_string().into();
                self.line("DELETED", &object.to_string().into(), out);
            }
        }
    }

    fn bookmark(&mut self, initial_end: bool, out: &mut Vec<u8>) {
        let seen = match &self.source {
            Ok(watcher) if !initial_end => watcher.revision(),
            _ => self.revision,
        };
        let mut metadata = json!({"resourceVersion": seen.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let resource = self.target.resource;
        let object = match self.form {
            Form::Object => {
                json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata})
            }
            Form::Metadata(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
            }
            Form::Table(version) => json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata, "columnDefinitions": [], "rows": []}),
        };
        write_line("BOOKMARK", object.to_string().as_bytes(), out);
    }

    /// Tells why the watch ends, and ends it.
    fn fail(&mut self, error: WatchError, out: &mut Vec<u8>) {
        self.ended = true;
        if error == WatchError::Closed {
            return;
        }
        // A revision that was never reached is of another store, say of one restored from a backup: the client's
        // way out is the same as from one too old.
        let status = Status::expired(error.to_string());
        if let Ok(status) = serde_json::to_vec(&status) {
            write_line("ERROR", &status, out);
        }
    }

    fn line(&mut self, kind: &str, object: &Bytes, out: &mut Vec<u8>) {
        let version = match self.form {
            Form::Object => return write_line(kind, &respond::served(self.target.resource, object), out),
            Form::Metadata(version) => return write_line(kind, &respond::metadata(version, object), out),
            Form::Table(version) => version,
        };
        let Ok(object) = serde_json::from_slice::<Value>(object) else { return };
        let mut table =
            minisvc_registry::table(self.target.resource, &[&object], Timestamp::now(), self.include);
        table["apiVersion"] = format!("meta.k8s.io/{version}").into();
        table["metadata"] = json!({"resourceVersion": object.pointer("/metadata/resourceVersion")});
        if std::mem::replace(&mut self.has_headers, true) {
            table["columnDefinitions"] = json!([]);
        }
        write_line(kind, table.to_string().as_bytes(), out);
    }
}

fn write_line(kind: &str, object: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}
