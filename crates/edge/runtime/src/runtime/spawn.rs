//! From a container's spec to a running shim.

use super::{Inner, RuntimeConfig, state_path, told::What};
use crate::{
    cgroup::Group,
    error::Error,
    exec::Settings,
    files, hidden,
    image::{ImageFacts, Resolved},
    last_words,
    record::{ContainerState, PodRecord},
    shim::{self, ShimBundle, ShimMount, ShimState},
    spec::{ContainerSpec, PodBundle},
    terminal,
    volumes::Places,
};
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncReadExt, process::Command};

/// Directory of a Pod's generated files, beside those of its containers.
pub(super) const GENERATED_DIR: &str = "etc";
/// A shim that has not started its container by then has failed.
const START_MAX: Duration = Duration::from_secs(30);
/// How much of the node's `/etc/hosts` its Pods see, in bytes.
const HOSTS_BYTES_MAX: u64 = 1 << 20;
/// Longest report of a shim, in bytes.
const REPORT_BYTES_MAX: u64 = 256 << 10;

/// Writes the files that are mounted over the image's: `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`.
pub(super) fn write_generated(pod_dir: &Path, bundle: &PodBundle) -> Result<(), Error> {
    let dir = pod_dir.join(GENERATED_DIR);
    files::create_dir(&dir)?;
    let of_node = if bundle.netns.is_none() { hosts_of_node() } else { String::new() };
    for (name, text) in [
        ("resolv.conf", bundle.dns.resolv_conf()),
        ("hosts", bundle.hosts(&of_node)),
        ("hostname", format!("{}\n", bundle.hostname)),
    ] {
        let path = dir.join(name);
        files::write_atomic(&path, text.as_bytes(), 0o644).map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

/// What a container runs, if it may.
///
/// # Errors
/// The waiting state to show, worded as the kubelet does.
pub(super) fn resolve(
    config: &RuntimeConfig,
    bundle: &PodBundle,
    spec: &ContainerSpec,
) -> Result<Resolved, ContainerState> {
    let image = config.images.resolve(spec)?;
    let pod = format!("{}_{}({})", bundle.name, bundle.namespace, bundle.uid);
    let refusal = || spec.security.refusal(&image.facts.user, &pod, &spec.name);
    match spec.lacks.clone().or_else(refusal) {
        None => Ok(image),
        Some(message) => {
            Err(ContainerState::Waiting { reason: "CreateContainerConfigError".to_owned(), message })
        }
    }
}

/// The node's `/etc/hosts`; empty if it has none.
fn hosts_of_node() -> String {
    let mut text = Vec::new();
    let read =
        fs::File::open("/etc/hosts").and_then(|file| file.take(HOSTS_BYTES_MAX).read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

/// The environment of a container: the host name, the image's, what `echo` answers with, then the spec's.
fn environment(
    config: &RuntimeConfig,
    bundle: &PodBundle,
    spec: &ContainerSpec,
    facts: &ImageFacts,
) -> Vec<(String, String)> {
    let mut env = vec![("HOSTNAME".to_owned(), bundle.hostname.clone())];
    env.extend(facts.env.iter().cloned());
    if facts.is_echo {
        env.push((
            crate::echo::ENVIRONMENT.to_owned(),
            crate::echo::settings(&config.node_name, bundle, spec),
        ));
    }
    env.extend(spec.env.iter().cloned());
    if spec.tty { terminal::environment(env) } else { env }
}

/// How a container's programs are run.
pub(super) fn settings(
    config: &RuntimeConfig,
    bundle: &PodBundle,
    spec: &ContainerSpec,
    facts: &ImageFacts,
    group: &Group,
) -> Settings {
    Settings {
        env: environment(config, bundle, spec, facts),
        working_dir: working_dir(spec, facts),
        security: spec.security.clone(),
        image_user: facts.user.clone(),
        group: group.clone(),
    }
}

/// The same, for what is run in a container that runs.
pub(super) fn settings_of(config: &RuntimeConfig, pod: &PodRecord, container: &str) -> Option<Settings> {
    let (spec, record) = (pod.bundle.spec(container)?, pod.container(container)?);
    // A record of before there were such facts.
    let found = || config.images.resolve(spec).map(|image| image.facts).unwrap_or_default();
    let facts = record.facts.clone().unwrap_or_else(found);
    Some(settings(config, &pod.bundle, spec, &facts, &record.group))
}

/// The directory a container starts in.
fn working_dir(spec: &ContainerSpec, facts: &ImageFacts) -> String {
    let said = spec.working_dir.iter().chain([&facts.working_dir]).find(|dir| !dir.is_empty());
    said.cloned().unwrap_or_else(|| "/".to_owned())
}

/// The control groups for a run of a container; what they cannot hold is told.
fn group(inner: &Inner, bundle: &PodBundle, spec: &ContainerSpec) -> Group {
    let (group, lacking) = inner.config.groups.make(&bundle.uid, &spec.name, spec.limits);
    if !lacking.is_empty() {
        inner.tell(bundle, &spec.name, What::NotLimited { message: lacking.join("; ") });
    }
    inner.update_container(&bundle.uid, &spec.name, |_, _, record| record.group.clone_from(&group));
    group
}

/// An empty place for what a run of a container changes in its image, on disk, with the Pod's volumes.
fn changes(inner: &Inner, bundle: &PodBundle, container: &str) -> io::Result<PathBuf> {
    // No volume is called so.
    let dir = inner.volume_dir(&bundle.uid).join(format!(".root-{container}"));
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    Ok(dir)
}

/// Executes a shim for one run of a container, and waits for its word that the program runs.
pub(super) async fn spawn(
    inner: &Inner,
    bundle: &PodBundle,
    spec: &ContainerSpec,
    image: Resolved,
    run: u32,
) -> Result<ShimState, String> {
    let path = prepare(inner, bundle, spec, image, run).map_err(|error| error.to_string())?;
    let mut child = Command::new(inner.config.executable.path())
        .arg0("minisvc")
        .arg(hidden::SHIM)
        .arg(&path)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("execute the shim: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = async {
        let mut report = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(REPORT_BYTES_MAX).read_to_end(&mut report).await?;
        }
        let mut complaint = String::new();
        if let Some(stderr) = stderr {
            stderr.take(REPORT_BYTES_MAX).read_to_string(&mut complaint).await?;
        }
        child.wait().await?;
        io::Result::Ok((report, complaint))
    };
    let (report, complaint) = tokio::time::timeout(START_MAX, read)
        .await
        .map_err(|_| format!("the shim did not start the container within {} s", START_MAX.as_secs()))?
        .map_err(|error| format!("read the shim's report: {error}"))?;
    serde_json::from_slice(&report).map_err(|_| match complaint.trim() {
        "" => "the shim ended without a report".to_owned(),
        complaint => complaint.to_owned(),
    })
}

fn prepare(
    inner: &Inner,
    bundle: &PodBundle,
    spec: &ContainerSpec,
    image: Resolved,
    run: u32,
) -> Result<PathBuf, Error> {
    let pod_dir = inner.pod_dir(&bundle.uid);
    let dir = inner.container_dir(&bundle.uid, &spec.name);
    files::create_dir(&dir)?;
    let log = inner.log_path(bundle, &spec.name, run);
    if let Some(parent) = log.parent() {
        files::create_dir(parent)?;
        remove_old_logs(parent, run);
    }
    let state = state_path(&dir);
    shim::forget_state(&state).map_err(|source| Error::Remove { path: state.clone(), source })?;
    let config = &inner.config;
    let masked = config
        .masked
        .iter()
        .chain([&config.state_dir, &config.volume_dir, &config.log_dir])
        .cloned()
        .collect();
    let generated = ["resolv.conf", "hosts", "hostname"]
        .map(|name| (pod_dir.join(GENERATED_DIR).join(name), format!("/etc/{name}")));
    let message = last_words::file_of(&log);
    if !spec.life.last_words.path.is_empty() {
        last_words::make(&message).map_err(|source| Error::Write { path: message.clone(), source })?;
    }
    let changes = image.root.as_ref().map(|_| changes(inner, bundle, &spec.name)).transpose();
    let changes =
        changes.map_err(|source| Error::CreateDir { path: inner.volume_dir(&bundle.uid), source })?;
    let group = group(inner, bundle, spec);
    let path = dir.join("bundle.json");
    files::write_record(
        &path,
        &ShimBundle {
            state,
            lock: lock_path(&dir),
            log,
            log_bytes_max: config.log_bytes_max,
            netns: bundle.netns.clone(),
            hostname: bundle.hostname.clone(),
            root: image.root,
            hold: image.lock,
            changes,
            generated: generated.into(),
            mounts: mounts(inner, bundle, spec),
            message,
            message_target: spec.life.last_words.path.clone(),
            masked,
            argv: image.argv,
            settings: settings(config, bundle, spec, &image.facts, &group),
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
        },
    )?;
    Ok(path)
}

/// The volumes that a container sees, and where they are here.
fn mounts(inner: &Inner, bundle: &PodBundle, spec: &ContainerSpec) -> Vec<ShimMount> {
    let (pod_dir, disk_dir) = (inner.pod_dir(&bundle.uid), inner.volume_dir(&bundle.uid));
    let places = Places { pod_dir: &pod_dir, disk_dir: &disk_dir };
    let source = |name: &str| bundle.volumes.iter().find(|v| v.name == name).map(|v| places.of(v));
    let found = spec.mounts.iter().filter_map(|mount| Some((source(&mount.volume)?, mount.clone())));
    found.map(|(source, mount)| ShimMount { source, mount }).collect()
}

/// The file a shim keeps locked.
pub(super) fn lock_path(container_dir: &Path) -> PathBuf {
    container_dir.join("shim.lock")
}

/// Keeps the logs of this run and the one before; `logs --previous` needs no more.
fn remove_old_logs(dir: &Path, run: u32) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.split('.').next()).and_then(|n| n.parse::<u32>().ok());
        if number.is_some_and(|number| number.saturating_add(1) < run) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
