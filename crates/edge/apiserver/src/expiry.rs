//! Events end: nobody deletes them, so the server does, an hour after they were last said (kube-apiserver's
//! `--event-ttl`).
//!
//! Invariant: one pass deletes at most [`DELETES_MAX`] Events, in one commit.

use jiff::{SignedDuration, Timestamp};
use minisvc_apimachinery::{
    resource::EVENTS,
    storage::{Change, Read},
};
use minisvc_store::{CommitError, Store};
use std::{convert::Infallible, time::Duration};

/// How long an Event is kept after it was last said.
const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);
/// How often expired Events are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// Events deleted in one commit.
const DELETES_MAX: usize = 5000;

/// Deletes expired Events until the store is closed.
pub(crate) async fn expire_events(store: Store) {
    let mut interval = tokio::time::interval(EVERY);
    loop {
        interval.tick().await;
        let now = Timestamp::now();
        let pass = store.commit(move |view| {
            let changes = expired(view, now);
            let count = changes.len();
            Ok::<_, Infallible>((changes, count))
        });
        match pass.await {
            Ok(done) if done.value > 0 => tracing::debug!(events = done.value, "expired"),
            Ok(_) => {}
            Err(CommitError::Store(_)) => return,
            Err(error) => tracing::warn!(%error, "expire events"),
        }
    }
}

fn expired(view: &dyn Read, now: Timestamp) -> Vec<Change> {
    let mut changes = Vec::new();
    view.scan(&EVENTS.storage_prefix(None), None, &mut |key, stored| {
        let said = serde_json::from_slice::<serde_json::Value>(&stored.value)
            .ok()
            .and_then(|event| last_said(&event));
        if said.is_none_or(|said| now.duration_since(said) > EVENT_TTL) {
            changes.push(Change::Delete { key: key.to_owned() });
        }
        changes.len() < DELETES_MAX
    });
    changes
}

/// When an Event was last said; None for one that says no time at all.
fn last_said(event: &serde_json::Value) -> Option<Timestamp> {
    let paths = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/firstTimestamp",
        "/metadata/creationTimestamp",
    ];
    paths.iter().find_map(|path| event.pointer(path)?.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn events_go_an_hour_after_they_were_last_said() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), minisvc_store::Limits::default()).unwrap();
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().unwrap();
        let event = |name: &str, last: &str| Change::PutObject {
            key: format!("events/default/{name}"),
            value: json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": last}),
        };
        let events = vec![event("old", "2026-01-01T00:59:00Z"), event("said-again", "2026-01-01T01:30:00Z")];
        store.commit(move |_| Ok::<_, Infallible>((events, ()))).await.unwrap();
        let expired = expired(&store.view(), now);
        assert_eq!(expired, [Change::Delete { key: "events/default/old".to_owned() }]);
    }
}
