//! One task a Pod: starts its containers in their order, and ends those that have nobody to run for any more.
//!
//! What is next is decided by [`order::next`], on the newest record. Invariant: a container is begun once, under the lock of the
//! table, and never once the Pod is stopping.

use super::{Inner, end, follow};
use crate::order::{self, Next};
use std::{sync::Arc, time::Duration};

/// How long to wait before what did not end is told so again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Starts what may start now, one after the other.
pub(super) async fn start_due(inner: &Arc<Inner>, uid: &str) {
    while let Some(pod) = inner.pod(uid) {
        let Next::Start(container) = order::next(&pod) else { return };
        let begun = inner.update_container(uid, container, |_, stopping, record| {
            record.life.begun |= !stopping;
            !stopping
        });
        if begun == Some(true) {
            follow::start(inner, uid, container).await;
        }
    }
}

/// Does what is next, in the background, until the Pod is over or forgotten.
pub(super) fn go_on(inner: &Arc<Inner>, uid: &str) {
    let (inner, uid) = (Arc::clone(inner), uid.to_owned());
    tokio::spawn(async move {
        let mut changes = inner.table.subscribe();
        loop {
            start_due(&inner, &uid).await;
            let Some(pod) = changes.borrow_and_update().get(&uid).cloned() else { return };
            match order::next(&pod) {
                Next::Start(_) => continue,
                Next::End => {
                    let grace = Duration::from_secs(pod.bundle.grace_s);
                    match end::all(&inner, &uid, grace).await {
                        Ok(left) if left.is_empty() => {}
                        Ok(_) => tokio::time::sleep(AGAIN_AFTER).await,
                        Err(_) => return,
                    }
                    continue;
                }
                Next::Wait if pod.is_finished() => return,
                Next::Wait => {}
            }
            let changed = changes.wait_for(|table| table.get(&uid).is_none_or(|now| !Arc::ptr_eq(now, &pod)));
            if changed.await.is_err() {
                return;
            }
        }
    });
}
