//! Another image for a container of a running Pod.
//!
//! Invariant: the new name is on disk before the run with the old one is ended, so that a server that takes over in
//! between starts the new one.

use super::{
    Inner,
    end::{self, Ending},
};
use jiff::Timestamp;
use std::{sync::Arc, time::Duration};

/// Gives `container` the image, and ends its run if there is one. Source: kubelet `computePodActions`, which has a changed
/// container restart regardless of the restart policy; init containers that are over stay so.
pub(super) fn renew(inner: &Arc<Inner>, uid: &str, container: &str, image: &str) {
    let running = inner.update(uid, |pod| {
        let grace_s = pod.bundle.grace_s;
        let specs = pod.bundle.init_containers.iter_mut().chain(&mut pod.bundle.containers);
        specs.filter(|spec| spec.name == container).for_each(|spec| spec.image = image.to_owned());
        let stopping = pod.stopping;
        let record = pod.all_mut().find(|record| record.name == container)?;
        if record.restart_at.is_some() {
            // It failed with the other image: that says nothing about this one.
            record.crashes = 0;
            record.restart_at = Some(Timestamp::now());
        }
        record.renewed = record.is_active() && !stopping;
        record.renewed.then_some((record.restart_count, grace_s))
    });
    let Ok(Some((run, grace_s))) = running else { return };
    let (inner, uid, container) = (Arc::clone(inner), uid.to_owned(), container.to_owned());
    tokio::spawn(async move {
        let words = format!("Container {container} definition changed, will be restarted");
        let ending = Ending {
            uid: &uid,
            container: &container,
            run,
            grace: Duration::from_secs(grace_s),
            words,
            in_turn: false,
        };
        if !end::one(&inner, ending).await {
            tracing::error!(uid, container, "a container outlives SIGKILL");
        }
    });
}
