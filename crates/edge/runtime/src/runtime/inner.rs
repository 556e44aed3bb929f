//! The table of records, and where on disk everything of a Pod lies.

use super::{
    RuntimeConfig,
    told::{Told, What},
};
use crate::{
    error::Error,
    files,
    record::{ContainerRecord, PodRecord, PodTable},
    spec::PodBundle,
};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{broadcast, watch};

/// What all clones of a runtime share.
pub(super) struct Inner {
    pub(super) config: RuntimeConfig,
    /// Guards changes; readers take the published table. Never held across an await.
    pub(super) change: Mutex<()>,
    pub(super) table: watch::Sender<Arc<PodTable>>,
    /// What there is to tell people.
    pub(super) told: broadcast::Sender<Told>,
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        // The mutex guards no data of its own; a panic elsewhere leaves nothing half done.
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.state_dir.join(uid)
    }

    /// Where a Pod's volumes on disk are.
    pub(super) fn volume_dir(&self, uid: &str) -> PathBuf {
        self.config.volume_dir.join(uid)
    }

    pub(super) fn log_dir(&self, bundle: &PodBundle) -> PathBuf {
        self.config.log_dir.join(format!("{}_{}_{}", bundle.namespace, bundle.name, bundle.uid))
    }

    pub(super) fn log_path(&self, bundle: &PodBundle, container: &str, run: u32) -> PathBuf {
        self.log_dir(bundle).join(container).join(format!("{run}.log"))
    }

    pub(super) fn container_dir(&self, uid: &str, container: &str) -> PathBuf {
        self.pod_dir(uid).join(container)
    }

    pub(super) fn insert(&self, pod: PodRecord) {
        let _change = self.lock();
        self.publish(pod);
    }

    pub(super) fn publish(&self, pod: PodRecord) {
        self.table.send_modify(|table| {
            Arc::make_mut(table).insert(pod.bundle.uid.clone(), Arc::new(pod));
        });
    }

    /// Changes a Pod's record, on disk first. A disk that is full is told in the log and does not stop us:
    /// the record in memory is the truth as long as this server lives.
    pub(super) fn update<T>(&self, uid: &str, change: impl FnOnce(&mut PodRecord) -> T) -> Result<T, Error> {
        let _change = self.lock();
        let old = self.table.borrow().get(uid).cloned();
        let old = old.ok_or_else(|| Error::PodNotFound { uid: uid.to_owned() })?;
        let mut pod = (*old).clone();
        let result = change(&mut pod);
        if pod != *old {
            if let Err(error) = files::write_record(&self.pod_dir(uid).join("pod.json"), &pod) {
                tracing::error!(%error, pod = pod.bundle.name, "a Pod's record could not be written");
            }
            self.publish(pod);
        }
        Ok(result)
    }

    /// Changes one container's record.
    pub(super) fn update_container<T>(
        &self,
        uid: &str,
        container: &str,
        change: impl FnOnce(&PodBundle, bool, &mut ContainerRecord) -> T,
    ) -> Option<T> {
        self.update(uid, |pod| {
            let PodRecord { bundle, stopping, init_containers, containers, .. } = pod;
            let mut all = init_containers.iter_mut().chain(containers);
            Some(change(bundle, *stopping, all.find(|c| c.name == container)?))
        })
        .ok()
        .flatten()
    }

    /// One Pod as it is now.
    pub(super) fn pod(&self, uid: &str) -> Option<Arc<PodRecord>> {
        self.table.borrow().get(uid).cloned()
    }

    /// Tells people of a container; if nobody listens, nothing is lost that matters.
    pub(super) fn tell(&self, bundle: &PodBundle, container: &str, what: What) {
        let _ = self.told.send(Told::new(bundle, container, what));
    }
}
