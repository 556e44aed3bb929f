//! The end of one container's run, and of all of a Pod's: its hook, whose turn it is, SIGTERM (or what the image says instead), SIGKILL.
//!
//! Invariant: signals go to the run they are meant for only, also if a container is started again meanwhile.

use super::{Inner, mind, told::What};
use crate::{
    error::Error,
    order,
    record::{ContainerRecord, ContainerState},
    sys,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long to wait for the end of a process after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// Least time from SIGTERM to SIGKILL, whatever hooks and others have taken (the kubelet's).
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Which run of which container is to end, and how.
pub(super) struct Ending<'a> {
    pub(super) uid: &'a str,
    pub(super) container: &'a str,
    /// Its restart count.
    pub(super) run: u32,
    pub(super) grace: Duration,
    /// Said to people.
    pub(super) words: String,
    /// Whether others of its Pod end first.
    pub(super) in_turn: bool,
}

/// Ends all containers of a Pod; nothing is started any more. Returns those that outlive SIGKILL.
pub(super) async fn all(inner: &Arc<Inner>, uid: &str, grace: Duration) -> Result<Vec<String>, Error> {
    let runs: Vec<(String, u32)> = inner.update(uid, |pod| {
        pod.stopping = true;
        for container in pod.all_mut() {
            if let ContainerState::Waiting { .. } = container.state
                && container.shim.is_none()
                && container.restart_at.take().is_some()
                && let Some(last) = container.last_termination.take()
            {
                container.state = ContainerState::Terminated(last);
            }
        }
        pod.all().filter(|c| c.is_active()).map(|c| (c.name.clone(), c.restart_count)).collect()
    })?;
    let ends = runs.iter().map(|(container, run)| {
        let words = format!("Stopping container {container}");
        one(inner, Ending { uid, container, run: *run, grace, words, in_turn: true })
    });
    let ended = futures::future::join_all(ends).await;
    Ok(runs.into_iter().zip(ended).filter(|(_, ended)| !ended).map(|((name, _), _)| name).collect())
}

/// Ends one run of a container. False: it outlives SIGKILL.
pub(super) async fn one(inner: &Arc<Inner>, ending: Ending<'_>) -> bool {
    let &Ending { uid, container, run, grace, .. } = &ending;
    let begin = Instant::now();
    let first = inner.update_container(uid, container, |_, _, record| {
        record.is_active() && record.restart_count == run && !std::mem::replace(&mut record.life.ending, true)
    });
    if first == Some(true)
        && let Some(pod) = inner.pod(uid)
    {
        inner.tell(&pod.bundle, container, What::Killing { message: ending.words.clone() });
    }
    if !grace.is_zero() {
        pre_stop(inner, &ending).await;
    }
    if ending.in_turn {
        let mut changes = inner.table.subscribe();
        let turn = changes.wait_for(|table| table.get(uid).is_none_or(|pod| order::may_end(pod, container)));
        let _its_turn_or_late = tokio::time::timeout_at(begin + grace, turn).await;
    }
    let patience = patience(grace, begin.elapsed());
    let facts = inner.pod(uid).and_then(|pod| pod.container(container)?.facts.clone());
    let asked = facts.and_then(|facts| facts.stop_signal).unwrap_or(libc::SIGTERM);
    signal_until_ended(inner, (uid, container, run), asked, patience).await
        || signal_until_ended(inner, (uid, container, run), libc::SIGKILL, KILL_WAIT).await
}

/// Does what is to be done before the end, as far as there is time, and as long as the run goes on.
async fn pre_stop(inner: &Arc<Inner>, ending: &Ending<'_>) {
    let &Ending { uid, container, run, grace, .. } = ending;
    let Some(pod) = inner.pod(uid) else { return };
    let action = pod.bundle.spec(container).and_then(|spec| spec.life.pre_stop.as_ref());
    let goes_on = |record: &ContainerRecord| record.is_running() && record.restart_count == run;
    let due = pod.container(container).is_some_and(|record| goes_on(record) && !record.life.unhooked);
    let (Some(action), true, Some(target)) = (action, due, mind::target(inner, &pod, container)) else {
        return;
    };
    let mut changes = inner.table.subscribe();
    let over = changes
        .wait_for(|table| !table.get(uid).and_then(|pod| pod.container(container)).is_some_and(goes_on));
    let told = tokio::select! {
        told = tokio::time::timeout(grace, target.tell(action)) => told,
        _ = over => return,
    };
    match told {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            tracing::warn!(pod = pod.bundle.name, container, why, "preStop hook");
            inner.tell(&pod.bundle, container, What::HookFailed { stopping: true });
        }
        Err(_) => {
            tracing::warn!(pod = pod.bundle.name, container, "preStop hook not completed in grace period")
        }
    }
    inner
        .update_container(uid, container, |_, _, record| record.life.unhooked |= record.restart_count == run);
}

/// From SIGTERM to SIGKILL, when of the grace so much is `spent`.
fn patience(grace: Duration, spent: Duration) -> Duration {
    if grace.is_zero() { grace } else { grace.saturating_sub(spent).max(LAST_MOMENT) }
}

/// Sends `signal` to process 1 of a run, as soon as there is one. False: it goes on after `limit`.
async fn signal_until_ended(
    inner: &Inner,
    (uid, container, run): (&str, &str, u32),
    signal: i32,
    limit: Duration,
) -> bool {
    let mut changes = inner.table.subscribe();
    let deadline = Instant::now() + limit;
    let mut signalled = None;
    loop {
        let pod = changes.borrow_and_update().get(uid).cloned();
        let record = pod.as_ref().and_then(|pod| pod.container(container));
        let Some(record) =
            record.filter(|record: &&ContainerRecord| record.is_active() && record.restart_count == run)
        else {
            return true;
        };
        if let Some(process) = record.process
            && signalled.replace(process.pid) != Some(process.pid)
            && let Ok(pidfd) = sys::pidfd_of(process.pid, process.start_time)
        {
            let _ = sys::pidfd_send_signal(&pidfd, signal);
        }
        if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_count_but_leave_a_last_moment() {
        let s = Duration::from_secs;
        assert_eq!(patience(s(30), s(10)), s(20));
        assert_eq!(patience(s(30), s(29)), LAST_MOMENT);
        assert_eq!(patience(s(1), s(0)), LAST_MOMENT);
        assert_eq!(patience(s(0), s(5)), s(0));
    }
}
