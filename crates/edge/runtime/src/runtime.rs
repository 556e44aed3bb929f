//! The server's side: starts shims, follows them, starts containers again, stops and removes Pods.
//!
//! In: bundles from the agent. Out: a table of records, published whole on a watch channel at each change, so
//! that a slow reader misses steps but never the outcome. Invariants: a Pod's record is on disk before its
//! first process is started; one task follows each container, from its first start to its last end; nothing is
//! started once a Pod is stopping.

mod follow;
mod spawn;

use crate::{
    error::Error,
    exe::Executable,
    files,
    image::ImageTable,
    record::{ContainerRecord, ContainerState, PodBundle, PodRecord, PodTable, RestartDelays},
    sys,
};
use jiff::Timestamp;
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// More Pods than this are refused (the kubelet's default is 110).
const PODS_MAX: usize = 1000;
/// More containers than this in one Pod are refused.
const CONTAINERS_MAX: usize = 32;
/// How long to wait for the end of a process after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// How this node runs Pods.
#[derive(Debug)]
pub struct RuntimeConfig {
    /// Name of this node; `echo` answers with it.
    pub node_name: String,
    /// Records and generated files, such as `/run/minisvc/pods`.
    pub state_dir: PathBuf,
    /// Logs, such as `/var/log/minisvc/pods`.
    pub log_dir: PathBuf,
    /// One log file of a container is at most this long, in bytes; two are kept of each run.
    pub log_bytes_max: u64,
    /// The binary that is executed as shim; its `main` calls [`crate::hidden::run`].
    pub executable: Executable,
    /// Directories that containers must not see; `state_dir` and `log_dir` always belong to them.
    pub masked: Vec<PathBuf>,
    /// Images.
    pub images: ImageTable,
    /// How soon containers that end are started again.
    pub restart_delays: RestartDelays,
}

impl RuntimeConfig {
    /// The usual settings for a node: `/run/minisvc/pods`, logs of 2 × 10 MiB a run, secrets masked.
    pub fn new(node_name: &str, executable: Executable) -> Self {
        Self {
            node_name: node_name.to_owned(),
            state_dir: "/run/minisvc/pods".into(),
            log_dir: "/var/log/minisvc/pods".into(),
            log_bytes_max: 10 << 20,
            executable,
            masked: vec!["/var/lib/minisvc".into(), "/etc/minisvc".into()],
            images: ImageTable::default(),
            restart_delays: RestartDelays::default(),
        }
    }
}

/// The Pods of this node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    config: RuntimeConfig,
    /// Guards changes; readers take the published table. Never held across an await.
    change: Mutex<()>,
    table: watch::Sender<Arc<PodTable>>,
}

impl Runtime {
    /// A runtime that knows of no Pod yet; [`Runtime::adopt`] finds those of an earlier server.
    ///
    /// # Errors
    /// If its directories cannot be made.
    pub fn new(config: RuntimeConfig) -> Result<Self, Error> {
        files::create_dir(&config.state_dir)?;
        files::create_dir(&config.log_dir)?;
        if !config.executable.is_protected() {
            tracing::warn!("cannot run shims from a read-only mount; do not run hostile containers as root");
        }
        let (table, _) = watch::channel(Arc::default());
        Ok(Self { inner: Arc::new(Inner { config, change: Mutex::new(()), table }) })
    }

    /// All Pods as they are now.
    pub fn pods(&self) -> Arc<PodTable> {
        self.inner.table.borrow().clone()
    }

    /// One Pod as it is now.
    pub fn pod(&self, uid: &str) -> Option<Arc<PodRecord>> {
        self.inner.table.borrow().get(uid).cloned()
    }

    /// The Pod of that name; of several with it, the one made last.
    pub fn pod_named(&self, namespace: &str, name: &str) -> Option<Arc<PodRecord>> {
        let table = self.pods();
        let named = |pod: &&Arc<PodRecord>| pod.bundle.namespace == namespace && pod.bundle.name == name;
        table.values().filter(named).max_by_key(|pod| pod.created_at).cloned()
    }

    /// Tells of every change, with the whole table as its value.
    pub fn subscribe(&self) -> watch::Receiver<Arc<PodTable>> {
        self.inner.table.subscribe()
    }

    /// Takes over the Pods that an earlier server has left: running ones are followed, those that have
    /// ended meanwhile are treated as if they ended now, never-started containers are started.
    ///
    /// A record that cannot be read is skipped with a warning: it must not keep the others from being found.
    ///
    /// # Errors
    /// If the directory of records cannot be read.
    pub async fn adopt(&self) -> Result<Vec<Arc<PodRecord>>, Error> {
        let dir = &self.inner.config.state_dir;
        let read = |source| Error::Read { path: dir.clone(), source };
        let mut adopted = Vec::new();
        for entry in fs::read_dir(dir).map_err(read)? {
            let path = entry.map_err(read)?.path().join("pod.json");
            let pod = match files::read_record::<PodRecord>(&path) {
                Ok(Some(pod)) => pod,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a Pod's record is unreadable; its processes are left alone");
                    continue;
                }
            };
            let uid = pod.bundle.uid.clone();
            if self.pod(&uid).is_some() {
                continue;
            }
            let names: Vec<String> = pod.containers.iter().map(|c| c.name.clone()).collect();
            self.inner.insert(pod);
            for name in names {
                follow::adopt(&self.inner, &uid, &name).await;
            }
            adopted.extend(self.pod(&uid));
        }
        Ok(adopted)
    }

    /// Records a Pod and starts its containers. Containers that cannot be started say so in their state.
    ///
    /// Returns when each container runs, waits or has failed; its restarts go on in the background.
    ///
    /// # Errors
    /// Nothing is started if the bundle is invalid, the uid is known already, or the record cannot be written.
    pub async fn start_pod(&self, bundle: PodBundle) -> Result<Arc<PodRecord>, Error> {
        validate(&bundle)?;
        let uid = bundle.uid.clone();
        let dir = self.inner.pod_dir(&uid);
        let pod = PodRecord {
            created_at: Timestamp::now(),
            stopping: false,
            containers: bundle.containers.iter().map(ContainerRecord::new).collect(),
            bundle,
        };
        {
            let _change = self.inner.lock();
            let table = self.pods();
            if table.contains_key(&uid) {
                return Err(Error::PodExists { uid });
            }
            if table.len() >= PODS_MAX {
                return Err(Error::TooManyPods { limit: PODS_MAX });
            }
            spawn::write_generated(&dir, &pod.bundle)?;
            files::write_record(&dir.join("pod.json"), &pod)?;
            self.inner.publish(pod.clone());
        }
        for container in &pod.containers {
            follow::start(&self.inner, &uid, &container.name).await;
        }
        self.pod(&uid).ok_or(Error::PodNotFound { uid })
    }

    /// Ends a Pod's containers: SIGTERM, and SIGKILL after `grace`. Returns when all have ended.
    ///
    /// Dropping the future does not undo what was begun; calling again goes on with the new grace.
    ///
    /// # Errors
    /// If there is no such Pod, or processes outlive SIGKILL by ten seconds (a hanging file system).
    pub async fn stop(&self, uid: &str, grace: Duration) -> Result<(), Error> {
        self.inner.update(uid, |pod| {
            pod.stopping = true;
            for container in &mut pod.containers {
                if let ContainerState::Waiting { .. } = container.state
                    && container.shim.is_none()
                    && container.restart_at.take().is_some()
                    && let Some(last) = container.last_termination.clone()
                {
                    container.state = ContainerState::Terminated(last);
                }
            }
        })?;
        let mut changes = self.subscribe();
        if self.signal_until_ended(uid, libc::SIGTERM, grace, &mut changes).await.is_empty() {
            return Ok(());
        }
        let left = self.signal_until_ended(uid, libc::SIGKILL, KILL_WAIT, &mut changes).await;
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::WouldNotEnd { uid: uid.to_owned(), containers: left.into_iter().collect() })
    }

    /// Sends `signal` once to each process 1 that runs, also to those that appear later; returns who is left.
    async fn signal_until_ended(
        &self,
        uid: &str,
        signal: i32,
        limit: Duration,
        changes: &mut watch::Receiver<Arc<PodTable>>,
    ) -> BTreeSet<String> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut signalled = BTreeSet::new();
        loop {
            let pod = changes.borrow_and_update().get(uid).cloned();
            let mut left = BTreeSet::new();
            for container in pod.iter().flat_map(|pod| &pod.containers) {
                if container.shim.is_some() || container.is_running() || is_creating(container) {
                    left.insert(container.name.clone());
                }
                if let Some(process) = container.process
                    && signalled.insert(process.pid)
                    && let Ok(pidfd) = sys::pidfd_of(process.pid, process.start_time)
                {
                    let _ = sys::pidfd_send_signal(&pidfd, signal);
                }
            }
            if left.is_empty() {
                return left;
            }
            if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return left;
            }
        }
    }

    /// Forgets a Pod that has no process any more: its records and logs are deleted.
    ///
    /// # Errors
    /// If there is no such Pod, it still runs, or its files cannot be deleted.
    pub async fn remove(&self, uid: &str) -> Result<(), Error> {
        let _change = self.inner.lock();
        let pod = self.pod(uid).ok_or_else(|| Error::PodNotFound { uid: uid.to_owned() })?;
        if !pod.stopping && !pod.is_finished() || pod.containers.iter().any(|c| c.shim.is_some()) {
            return Err(Error::PodRunning { uid: uid.to_owned() });
        }
        for path in [self.inner.log_dir(&pod.bundle), self.inner.pod_dir(uid)] {
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Remove { path, source });
                }
                _ => {}
            }
        }
        self.inner.table.send_modify(|table| {
            Arc::make_mut(table).remove(uid);
        });
        Ok(())
    }

    /// The log of a container's run number `run` (its restart count at that time).
    pub(crate) fn log_path(&self, bundle: &PodBundle, container: &str, run: u32) -> PathBuf {
        self.inner.log_path(bundle, container, run)
    }

    /// Where the shim of a container listens for clients that attach.
    pub(crate) fn container_dir(&self, uid: &str, container: &str) -> PathBuf {
        self.inner.container_dir(uid, container)
    }

    /// The binary to execute as exec helper.
    pub(crate) fn executable(&self) -> &Executable {
        &self.inner.config.executable
    }

    /// A container's whole environment and directory, as its process 1 has them.
    pub(crate) fn process_settings(
        &self,
        pod: &PodRecord,
        container: &str,
    ) -> Option<(Vec<(String, String)>, String)> {
        let spec = pod.bundle.containers.iter().find(|c| c.name == container)?;
        Some((spawn::environment(&self.inner.config, &pod.bundle, spec), spawn::working_dir(spec)))
    }
}

fn is_creating(container: &ContainerRecord) -> bool {
    container.state == ContainerState::creating()
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, ()> {
        // The mutex guards no data of its own; a panic elsewhere leaves nothing half done.
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.state_dir.join(uid)
    }

    fn log_dir(&self, bundle: &PodBundle) -> PathBuf {
        self.config.log_dir.join(format!("{}_{}_{}", bundle.namespace, bundle.name, bundle.uid))
    }

    fn log_path(&self, bundle: &PodBundle, container: &str, run: u32) -> PathBuf {
        self.log_dir(bundle).join(container).join(format!("{run}.log"))
    }

    fn container_dir(&self, uid: &str, container: &str) -> PathBuf {
        self.pod_dir(uid).join(container)
    }

    fn insert(&self, pod: PodRecord) {
        let _change = self.lock();
        self.publish(pod);
    }

    fn publish(&self, pod: PodRecord) {
        self.table.send_modify(|table| {
            Arc::make_mut(table).insert(pod.bundle.uid.clone(), Arc::new(pod));
        });
    }

    /// Changes a Pod's record, on disk first. A disk that is full is told in the log and does not stop us:
    /// the record in memory is the truth as long as this server lives.
    fn update<T>(&self, uid: &str, change: impl FnOnce(&mut PodRecord) -> T) -> Result<T, Error> {
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
    fn update_container<T>(
        &self,
        uid: &str,
        container: &str,
        change: impl FnOnce(&PodBundle, bool, &mut ContainerRecord) -> T,
    ) -> Option<T> {
        self.update(uid, |pod| {
            let record = pod.containers.iter_mut().find(|c| c.name == container)?;
            Some(change(&pod.bundle, pod.stopping, record))
        })
        .ok()
        .flatten()
    }
}

fn validate(bundle: &PodBundle) -> Result<(), Error> {
    let name = |field, value: &str| {
        let good = (1..=253).contains(&value.len())
            && !value.starts_with('.')
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if good { Ok(()) } else { Err(Error::InvalidName { field, value: value.to_owned() }) }
    };
    name("metadata.uid", &bundle.uid)?;
    name("metadata.namespace", &bundle.namespace)?;
    name("metadata.name", &bundle.name)?;
    name("spec.hostname", &bundle.hostname)?;
    let problem = |problem: String| Error::InvalidContainers {
        namespace: bundle.namespace.clone(),
        name: bundle.name.clone(),
        problem,
    };
    if bundle.containers.is_empty() || bundle.containers.len() > CONTAINERS_MAX {
        return Err(problem(format!("must be 1 to {CONTAINERS_MAX}")));
    }
    let mut names = BTreeSet::new();
    for container in &bundle.containers {
        name("spec.containers.name", &container.name)?;
        // Beside the containers' directories lies the Pod's own.
        if container.name == spawn::GENERATED_DIR || !names.insert(&container.name) {
            return Err(problem(format!("name {:?} is taken", container.name)));
        }
    }
    Ok(())
}

/// Where a shim of `container` keeps what it writes.
fn state_path(container_dir: &Path) -> PathBuf {
    container_dir.join("state.json")
}

#[cfg(test)]
mod tests;
