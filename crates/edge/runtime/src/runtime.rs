//! The server's side: starts shims, follows them, starts containers again, stops and removes Pods.
//!
//! In: bundles from the agent. Out: a table of records, published whole on a watch channel at each change, so
//! that a slow reader misses steps but never the outcome. Invariants: a Pod's record is on disk before its
//! first process is started; one task follows each container, from its first start to its last end; nothing is
//! started once a Pod is stopping.

mod check;
mod drive;
mod end;
mod follow;
mod inner;
mod mind;
mod renew;
mod spawn;
mod told;

use crate::{
    before::{self, Before},
    cgroup::Groups,
    error::Error,
    exe::Executable,
    exec::Settings,
    files,
    image::ImageTable,
    record::{Failure, PodRecord, PodTable, RestartDelays},
    spec::PodBundle,
    usage,
    volumes::{self, Contents, Places, Volume, VolumeKind},
};
use inner::Inner;
use jiff::Timestamp;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{broadcast, watch};
pub use told::Told;

/// More Pods than this are refused (the kubelet's default is 110).
const PODS_MAX: usize = 1000;
/// What is told and not heard yet is forgotten beyond this.
const TOLD_MAX: usize = 1024;

/// How this node runs Pods.
#[derive(Debug)]
pub struct RuntimeConfig {
    /// Name of this node; `echo` answers with it.
    pub node_name: String,
    /// Records and generated files, such as `/run/minisvc/pods`.
    pub state_dir: PathBuf,
    /// Volumes that are kept on disk, such as `/var/lib/minisvc/volumes`; masked as `state_dir` is.
    pub volume_dir: PathBuf,
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
    /// Control groups.
    pub groups: Groups,
    /// How soon containers that end are started again.
    pub restart_delays: RestartDelays,
}

impl RuntimeConfig {
    /// The usual settings for a node: `/run/minisvc/pods`, logs of 2 × 10 MiB a run, secrets masked.
    pub fn new(node_name: &str, executable: Executable) -> Self {
        Self {
            node_name: node_name.to_owned(),
            state_dir: "/run/minisvc/pods".into(),
            volume_dir: "/var/lib/minisvc/volumes".into(),
            log_dir: "/var/log/minisvc/pods".into(),
            log_bytes_max: 10 << 20,
            executable,
            masked: vec!["/var/lib/minisvc".into(), "/etc/minisvc".into()],
            images: ImageTable::default(),
            groups: Groups::find("minisvc"),
            restart_delays: RestartDelays::default(),
        }
    }
}

/// The Pods of this node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
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
        let (told, _) = broadcast::channel(TOLD_MAX);
        Ok(Self { inner: Arc::new(Inner { config, change: Mutex::new(()), table, told }) })
    }

    /// All Pods as they are now.
    pub fn pods(&self) -> Arc<PodTable> {
        self.inner.table.borrow().clone()
    }

    /// One Pod as it is now.
    pub fn pod(&self, uid: &str) -> Option<Arc<PodRecord>> {
        self.inner.pod(uid)
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

    /// What happens to containers from now on, for people. Who listens too slowly misses some of it.
    pub fn listen(&self) -> broadcast::Receiver<Told> {
        self.inner.told.subscribe()
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
        // Left by Pods that have ended without us, or went with the power.
        self.inner.config.groups.sweep();
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
            let begun = pod.all().filter(|c| c.life.begun);
            let names: Vec<String> = begun.map(|c| c.name.clone()).collect();
            self.inner.insert(pod);
            for name in names {
                follow::adopt(&self.inner, &uid, &name).await;
            }
            drive::go_on(&self.inner, &uid);
            adopted.extend(self.pod(&uid));
        }
        Ok(adopted)
    }

    /// Records a Pod and starts those of its containers that come first, or all if there are no init containers.
    /// Containers that cannot be started say so in their state.
    ///
    /// Returns when each of these runs, waits or has failed; the rest goes on in the background.
    ///
    /// # Errors
    /// Nothing is started if the bundle is invalid, the uid is known already, or the record cannot be written.
    pub async fn start_pod(&self, bundle: PodBundle) -> Result<Arc<PodRecord>, Error> {
        self.start_pod_with(bundle, &Contents::new(), &[]).await
    }

    /// As [`Runtime::start_pod`], with the files of its volumes, and what is known of containers that ran before the node
    /// was switched off.
    ///
    /// # Errors
    /// As there, and if a volume cannot be made.
    pub async fn start_pod_with(
        &self,
        bundle: PodBundle,
        contents: &Contents,
        before: &[Before],
    ) -> Result<Arc<PodRecord>, Error> {
        check::check(&bundle)?;
        let uid = bundle.uid.clone();
        let dir = self.inner.pod_dir(&uid);
        let now = Timestamp::now();
        let mut pod = PodRecord::new(bundle, now);
        before::go_on(&mut pod, before, now);
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
            let disk_dir = self.inner.volume_dir(&uid);
            let places = Places { pod_dir: &dir, disk_dir: &disk_dir };
            volumes::make(places, &pod.bundle.volumes, contents, pod.bundle.volume_group)?;
            files::write_record(&dir.join("pod.json"), &pod)?;
            self.inner.publish(pod);
        }
        drive::start_due(&self.inner, &uid).await;
        drive::go_on(&self.inner, &uid);
        self.pod(&uid).ok_or(Error::PodNotFound { uid })
    }

    /// Makes what a running Pod is given anew: files of its volumes, which its containers see at once, and their
    /// environment and arguments, which they have from their next start on. What is the same is left alone.
    ///
    /// # Errors
    /// If there is no such Pod, or a volume cannot be written.
    pub fn refresh(&self, fresh: &PodBundle, contents: &Contents) -> Result<(), Error> {
        let uid = &fresh.uid;
        let known = self.pod(uid).ok_or_else(|| Error::PodNotFound { uid: uid.clone() })?;
        let (pod_dir, disk_dir) = (self.inner.pod_dir(uid), self.inner.volume_dir(uid));
        let places = Places { pod_dir: &pod_dir, disk_dir: &disk_dir };
        for volume in known.bundle.volumes.iter().filter(|volume| volume.kind == VolumeKind::Files) {
            let (dir, files) = (places.of(volume), contents.get(&volume.name));
            volumes::write(&dir, &volume.name, files, known.bundle.volume_group)?;
        }
        self.inner.update(uid, |pod| {
            let bundle = &mut pod.bundle;
            for spec in bundle.init_containers.iter_mut().chain(&mut bundle.containers) {
                if let Some(fresh) = fresh.spec(&spec.name) {
                    spec.lacks.clone_from(&fresh.lacks);
                    if fresh.lacks.is_some() {
                        continue;
                    }
                    spec.env.clone_from(&fresh.env);
                    spec.command.clone_from(&fresh.command);
                    spec.args.clone_from(&fresh.args);
                }
            }
        })
    }

    /// Gives containers of a running Pod other images: those that run are ended with the Pod's grace, in the background,
    /// and started again, whatever the Pod's policy; those that wait try at once. Names that the Pod has not, and images
    /// that are the same, change nothing.
    pub fn set_images<'a>(&self, uid: &str, images: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (container, image) in images {
            let Some(pod) = self.pod(uid) else { return };
            if pod.bundle.spec(container).is_none_or(|spec| spec.image == image) || pod.is_finished() {
                continue;
            }
            renew::renew(&self.inner, uid, container, image);
        }
    }

    /// The directory of volumes on disk; made with the first of them.
    pub fn volume_dir(&self) -> &Path {
        &self.inner.config.volume_dir
    }

    /// The node's images, for its status.
    pub fn images(&self) -> &ImageTable {
        &self.inner.config.images
    }

    /// Ends a Pod's containers: their hooks, SIGTERM, and SIGKILL after `grace`. Returns when all have ended.
    ///
    /// Dropping the future does not undo what was begun; calling again goes on with the new grace.
    ///
    /// # Errors
    /// If there is no such Pod, or processes outlive SIGKILL by ten seconds (a hanging file system).
    pub async fn stop(&self, uid: &str, grace: Duration) -> Result<(), Error> {
        let left = end::all(&self.inner, uid, grace).await?;
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::WouldNotEnd { uid: uid.to_owned(), containers: left })
    }

    /// Gives a Pod up: its containers are ended with its own grace, in the background, and it has failed.
    ///
    /// # Errors
    /// If there is no such Pod.
    pub fn fail(&self, uid: &str, reason: &str, message: &str) -> Result<(), Error> {
        self.inner.update(uid, |pod| {
            if pod.failure.is_none() && !pod.is_finished() {
                pod.failure = Some(Failure { reason: reason.to_owned(), message: message.to_owned() });
            }
        })
    }

    /// A volume on disk that holds more than it may, of a Pod that runs; by name. Walks through the volumes: blocks.
    pub fn overfull(&self, uid: &str) -> Option<String> {
        let pod = self.pod(uid).filter(|pod| pod.failure.is_none() && !pod.is_finished())?;
        let (pod_dir, disk_dir) = (self.inner.pod_dir(uid), self.inner.volume_dir(uid));
        let places = Places { pod_dir: &pod_dir, disk_dir: &disk_dir };
        let is_overfull = |volume: &&Volume| match volume.kind {
            VolumeKind::Scratch { memory: false, bytes_max: Some(most) } => {
                usage::disk_bytes(&places.of(volume)).is_ok_and(|bytes| bytes > most)
            }
            _ => false,
        };
        pod.bundle.volumes.iter().find(is_overfull).map(|volume| volume.name.clone())
    }

    /// Forgets a Pod that has no process any more: its records and logs are deleted.
    ///
    /// # Errors
    /// If there is no such Pod, it still runs, or its files cannot be deleted.
    pub async fn remove(&self, uid: &str) -> Result<(), Error> {
        let _change = self.inner.lock();
        let pod = self.pod(uid).ok_or_else(|| Error::PodNotFound { uid: uid.to_owned() })?;
        if !pod.stopping && !pod.is_finished() || pod.all().any(|c| c.shim.is_some()) {
            return Err(Error::PodRunning { uid: uid.to_owned() });
        }
        let (pod_dir, disk_dir) = (self.inner.pod_dir(uid), self.inner.volume_dir(uid));
        self.inner.config.groups.remove(uid);
        volumes::remove(Places { pod_dir: &pod_dir, disk_dir: &disk_dir }, &pod.bundle.volumes)?;
        for path in [self.inner.log_dir(&pod.bundle), pod_dir] {
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

    /// How process 1 of a container is run, and what else is run in it.
    pub(crate) fn process_settings(&self, pod: &PodRecord, container: &str) -> Option<Settings> {
        spawn::settings_of(&self.inner.config, pod, container)
    }
}

/// Where a shim of `container` keeps what it writes.
fn state_path(container_dir: &Path) -> PathBuf {
    container_dir.join("state.json")
}

#[cfg(test)]
mod tests;
