//! One task a container: waits for the end of its shim, records it, and starts it again if it must be.

use super::{Inner, mind, spawn, state_path, told::What};
use crate::{
    files, last_words, order,
    record::{ContainerState, PodRecord, ProcessId, Terminated},
    restart::{Decision, decide},
    shim::{self, ShimState},
    sys,
};
use jiff::Timestamp;
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

/// How long a shim without a state may take to write one.
const STATE_WAIT: Duration = Duration::from_secs(10);
/// How often a container that waits for its image looks for it.
const IMAGE_LOOK: Duration = Duration::from_secs(1);

/// Starts a container for the first time, and follows it in the background.
pub(super) async fn start(inner: &Arc<Inner>, uid: &str, container: &str) {
    let number = inner.update_container(uid, container, |_, _, record| record.restart_count);
    if let Some(next) = run(inner, uid, container, number.unwrap_or_default()).await {
        follow(inner, uid, container, next);
    }
}

/// Finds out what became of a container that an earlier server has started.
pub(super) async fn adopt(inner: &Arc<Inner>, uid: &str, container: &str) {
    let dir = inner.container_dir(uid, container);
    let state = match wait_for_state(&dir).await {
        Some(state) => state,
        None => {
            // It never got as far as a shim, or its image was not known then.
            let fresh = inner.update_container(uid, container, |_, _, record| {
                let waiting = matches!(record.state, ContainerState::Waiting { .. });
                (waiting && record.restart_at.is_none()).then_some(record.restart_count)
            });
            match fresh.flatten() {
                Some(run_number) => {
                    if let Some(next) = run(inner, uid, container, run_number).await {
                        follow(inner, uid, container, next);
                    }
                }
                None => resume(inner, uid, container),
            }
            return;
        }
    };
    let waiting_for_restart =
        inner.update_container(uid, container, |_, _, record| record.restart_at.is_some()).unwrap_or(false);
    let ended_before = inner
        .update_container(uid, container, |_, _, record| {
            matches!(record.state, ContainerState::Terminated(_))
        })
        .unwrap_or(true);
    if ended_before {
        return;
    }
    if waiting_for_restart {
        resume(inner, uid, container);
        return;
    }
    let next = match state
        .shim
        .and_then(|shim| sys::pidfd_of(shim.pid, shim.start_time).ok().map(|fd| (shim, fd)))
    {
        Some((shim, pidfd)) => {
            running(inner, uid, container, &state);
            Next::Shim { shim, pidfd, adopted: true }
        }
        None => Next::Ended(final_state(&dir, state.process, state.started_at)),
    };
    follow(inner, uid, container, next);
}

/// Goes on waiting for a restart that an earlier server had planned.
fn resume(inner: &Arc<Inner>, uid: &str, container: &str) {
    let at = inner.update_container(uid, container, |_, _, record| record.restart_at).flatten();
    if let Some(at) = at {
        follow(inner, uid, container, Next::Restart { at });
    }
}

/// The state a shim has written; waits for it while one holds the lock. None: there is no shim and was none.
async fn wait_for_state(dir: &std::path::Path) -> Option<ShimState> {
    let deadline = tokio::time::Instant::now() + STATE_WAIT;
    loop {
        let state = files::read_record::<ShimState>(&state_path(dir)).ok().flatten();
        let usable = state.as_ref().is_some_and(|s| s.process.is_some() || s.terminated.is_some());
        let alive = shim::is_locked(&spawn::lock_path(dir));
        if usable || !alive || tokio::time::Instant::now() > deadline {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a follower waits for next.
enum Next {
    /// The end of a shim.
    Shim { shim: ProcessId, pidfd: OwnedFd, adopted: bool },
    /// Nothing: the container has ended.
    Ended(Terminated),
    /// The time of a restart.
    Restart { at: Timestamp },
    /// Something else than what was `tried`, to run with number `number`.
    Again { number: u32, tried: Tried },
}

/// With what a container could not be started.
struct Tried {
    /// Its image, as it names it.
    image: String,
    /// What its environment lacked.
    lacks: Option<String>,
    /// Of the node's images, from before they were looked at.
    version: (u64, i64, i64),
}

fn follow(inner: &Arc<Inner>, uid: &str, container: &str, next: Next) {
    let (inner, uid, container) = (Arc::clone(inner), uid.to_owned(), container.to_owned());
    tokio::spawn(async move {
        let mut next = Some(next);
        while let Some(step) = next {
            next = match step {
                Next::Shim { shim, pidfd, adopted } => {
                    let minders = mind::mind(&inner, &uid, &container, adopted);
                    end_of(shim, pidfd).await;
                    drop(minders);
                    let dir = inner.container_dir(&uid, &container);
                    let known = inner.update_container(&uid, &container, |_, _, record| {
                        let started_at = match record.state {
                            ContainerState::Running { started_at } => Some(started_at),
                            _ => None,
                        };
                        (record.process, started_at)
                    });
                    let (process, started_at) = known.unwrap_or_default();
                    Some(Next::Ended(final_state(&dir, process, started_at)))
                }
                Next::Ended(terminated) => ended(&inner, &uid, &container, terminated),
                Next::Restart { at } => restart(&inner, &uid, &container, at).await,
                Next::Again { number, tried } => match changed(&inner, &uid, &container, tried).await {
                    true => run(&inner, &uid, &container, number).await,
                    false => None,
                },
            };
        }
    });
}

/// Waits until the process of `pidfd` has ended.
async fn end_of(shim: ProcessId, pidfd: OwnedFd) {
    match sys::watch_fd(pidfd) {
        Ok(fd) => {
            let _ = fd.readable().await;
        }
        Err(error) => {
            tracing::warn!(%error, pid = shim.pid, "cannot wait for a shim's end; looking for it each second");
            while sys::start_time(shim.pid).is_ok_and(|start| start == shim.start_time) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// How a container without a shim has ended. A shim that was killed could not say; its container died with it.
fn final_state(
    dir: &std::path::Path,
    process: Option<ProcessId>,
    started_at: Option<Timestamp>,
) -> Terminated {
    let state = files::read_record::<ShimState>(&state_path(dir)).ok().flatten();
    if let Some(terminated) = state.and_then(|state| state.terminated) {
        return terminated;
    }
    if let Some(process) = process
        && let Ok(pidfd) = sys::pidfd_of(process.pid, process.start_time)
    {
        // The kernel kills it with its shim; this makes sure before it may be started again.
        let _ = sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
    }
    Terminated {
        exit_code: 137,
        signal: 9,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container could not be located when the pod was terminated".to_owned(),
        started_at,
        finished_at: Timestamp::now(),
    }
}

/// Records an end, and decides what comes next.
fn ended(inner: &Arc<Inner>, uid: &str, container: &str, mut terminated: Terminated) -> Option<Next> {
    let now = Timestamp::now();
    inner.update_container(uid, container, |bundle, stopping, record| {
        if let Some(spec) = bundle.spec(container) {
            let log = inner.log_path(bundle, container, record.restart_count);
            last_words::add(&mut terminated, spec, &log);
        }
        record.process = None;
        record.shim = None;
        let delays = &inner.config.restart_delays;
        let policy = order::restart_policy(bundle, container);
        let decision = decide(policy, record, &terminated, delays, now);
        let (at, crashes) = match decision {
            Decision::Restart { at, crashes } if !stopping => (at, crashes),
            _ => {
                // The end before this one stays the last.
                record.restart_at = None;
                record.state = ContainerState::Terminated(terminated);
                return None;
            }
        };
        record.last_termination = Some(terminated);
        record.crashes = crashes;
        record.restart_at = Some(at);
        if at > now {
            inner.tell(bundle, container, What::BackOff);
        }
        record.state = ContainerState::Waiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: format!(
                "back-off {}s restarting failed container={} pod={}_{}({})",
                at.duration_since(now).as_secs(),
                record.name,
                bundle.name,
                bundle.namespace,
                bundle.uid
            ),
        };
        Some(Next::Restart { at })
    })?
}

/// Waits until this container may be started: the node's images, its own, or its environment have changed. False: the Pod
/// is stopped.
async fn changed(inner: &Arc<Inner>, uid: &str, container: &str, tried: Tried) -> bool {
    let is_other = |pod: &PodRecord| {
        pod.bundle.spec(container).is_none_or(|spec| spec.image != tried.image || spec.lacks != tried.lacks)
    };
    let mut changes = inner.table.subscribe();
    loop {
        let other = changes.wait_for(|table| table.get(uid).is_none_or(|pod| pod.stopping || is_other(pod)));
        let _changed_or_time_to_look = tokio::time::timeout(IMAGE_LOOK, other).await;
        match inner.pod(uid) {
            None => return false,
            Some(pod) if pod.stopping => return false,
            Some(pod) if is_other(&pod) || inner.config.images.version() != tried.version => return true,
            Some(_) => {}
        }
    }
}

/// Waits for the time of a restart, and starts the container, unless the Pod is stopped meanwhile.
async fn restart(inner: &Arc<Inner>, uid: &str, container: &str, at: Timestamp) -> Option<Next> {
    let mut changes = inner.table.subscribe();
    let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    let planned = |pod: &PodRecord| pod.container(container).and_then(|record| record.restart_at);
    let changed =
        changes.wait_for(|table| table.get(uid).is_none_or(|pod| pod.stopping || planned(pod) != Some(at)));
    if tokio::time::timeout(wait, changed).await.is_ok() {
        // Stopped: stop() has already recorded the last end as the final one. Or it is due earlier now.
        let again = inner.pod(uid).filter(|pod| !pod.stopping).and_then(|pod| planned(&pod));
        return again.map(|at| Next::Restart { at });
    }
    let run_number = inner.update_container(uid, container, |_, stopping, record| {
        if stopping || record.restart_at.take().is_none() {
            return None;
        }
        record.restart_count = record.restart_count.saturating_add(1);
        record.state = ContainerState::creating();
        Some(record.restart_count)
    });
    run(inner, uid, container, run_number??).await
}

/// Starts run number `number` of a container. None: there is nothing to wait for.
async fn run(inner: &Arc<Inner>, uid: &str, container: &str, number: u32) -> Option<Next> {
    let version = inner.config.images.version();
    let prepared = inner.update_container(uid, container, |bundle, stopping, record| {
        let spec = bundle.spec(container)?;
        if stopping {
            if record.state == ContainerState::creating() {
                record.state = ContainerState::Waiting {
                    reason: "PodInitializing".to_owned(),
                    message: "the pod is being stopped".to_owned(),
                };
            }
            return None;
        }
        match spawn::resolve(&inner.config, bundle, spec) {
            Ok(image) => {
                inner.tell(bundle, container, What::Pulled { image: spec.image.clone() });
                record.state = ContainerState::creating();
                record.life = record.life.of_next_run();
                record.image.clone_from(&spec.image);
                record.facts = Some(image.facts.clone());
                record.renewed = false;
                Some(Ok((bundle.clone(), spec.clone(), image)))
            }
            Err(waiting) => {
                if let ContainerState::Waiting { reason, message } = &waiting {
                    let (reason, message) = (reason.clone(), message.clone());
                    inner.tell(bundle, container, What::NoImage { reason, message });
                }
                record.state = waiting;
                record.renewed = false;
                Some(Err(Next::Again {
                    number,
                    tried: Tried { image: spec.image.clone(), lacks: spec.lacks.clone(), version },
                }))
            }
        }
    });
    let (bundle, spec, image) = match prepared?? {
        Ok(prepared) => prepared,
        Err(wait) => return Some(wait),
    };
    let state = match spawn::spawn(inner, &bundle, &spec, image, number).await {
        Ok(state) => state,
        Err(message) => ShimState { terminated: Some(not_started(message)), ..ShimState::default() },
    };
    for note in &state.notes {
        tracing::info!(pod = bundle.name, namespace = bundle.namespace, container, note, "container set up");
    }
    if let Some(terminated) = state.terminated {
        tracing::warn!(pod = bundle.name, container, error = terminated.message, "container did not start");
        inner.tell(&bundle, container, What::NotStarted { message: terminated.message.clone() });
        return ended(inner, uid, container, terminated);
    }
    inner.tell(&bundle, container, What::Created);
    inner.tell(&bundle, container, What::Started);
    running(inner, uid, container, &state);
    let dir = inner.container_dir(uid, container);
    match state.shim.map(|shim| (shim, sys::pidfd_of(shim.pid, shim.start_time))) {
        Some((shim, Ok(pidfd))) => Some(Next::Shim { shim, pidfd, adopted: false }),
        _ => ended(inner, uid, container, final_state(&dir, state.process, state.started_at)),
    }
}

fn not_started(message: String) -> Terminated {
    Terminated {
        exit_code: 128,
        signal: 0,
        reason: "StartError".to_owned(),
        message,
        started_at: None,
        finished_at: Timestamp::now(),
    }
}

fn running(inner: &Inner, uid: &str, container: &str, state: &ShimState) {
    inner.update_container(uid, container, |_, _, record| {
        record.process = state.process;
        record.shim = state.shim;
        record.restart_at = None;
        record.state =
            ContainerState::Running { started_at: state.started_at.unwrap_or_else(Timestamp::now) };
    });
}
