//! A running container, seen from its shim: its output, its end, and the clients that are attached.
//!
//! One loop around one poll. Invariants: output is logged before anybody is sent it; it is read no faster than the
//! slowest client takes it, and no slower than [`STUCK_MAX`] allows; what was written before the end is logged.

use super::{Child, output::LogFile, output::Output, sessions::Sessions};
use crate::{attach::BYTES_MAX, cgroup::Group, record::Terminated};
use jiff::Timestamp;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::{Pid, read},
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// How long output is still read after process 1 has ended: its pipe may have been handed on elsewhere.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// A client that takes nothing for so long is let go: from then on the container does not wait for it.
const STUCK_MAX: Duration = Duration::from_secs(5);
/// The same once the container has ended.
const STUCK_AT_END_MAX: Duration = Duration::from_secs(1);
/// Reads of what is left when [`DRAIN_MAX`] is over: a pipe of the greatest size that the kernel gives anybody.
const LAST_READS_MAX: usize = (1 << 20) / BYTES_MAX;
/// How often the clock is looked at while a container that has ended is drained.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// Something to wait for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Stdout,
    Stderr,
    Process,
    Session(super::sessions::Source),
}

/// Copies until process 1 has ended and its output is drained. `ended` is told at once.
pub(super) fn follow(
    child: &Child,
    mut sessions: Sessions,
    log: &mut LogFile,
    (started_at, group): (Timestamp, &Group),
    ended: impl Fn(&Terminated),
) -> Terminated {
    let mut outputs = Outputs::new(child);
    let mut terminated: Option<(Terminated, Instant)> = None;
    loop {
        let stuck_max = if terminated.is_some() { STUCK_AT_END_MAX } else { STUCK_MAX };
        sessions.let_go_of_stuck(stuck_max);
        if let Some((result, since)) = &terminated
            && (outputs.are_done() && !sessions.is_behind() || since.elapsed() > DRAIN_MAX)
        {
            outputs.finish(log);
            sessions.end();
            return result.clone();
        }
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = Vec::new();
        if !sessions.is_behind() {
            sources.extend(outputs.sources());
        }
        if terminated.is_none() {
            sources.push((Source::Process, child.pidfd.as_fd(), PollFlags::POLLIN));
        }
        sources.extend(sessions.sources().map(|(source, fd, flags)| (Source::Session(source), fd, flags)));
        let timeout =
            sessions.patience(stuck_max).into_iter().chain(terminated.as_ref().map(|_| DRAIN_EVERY));
        let Some(ready) = wait(&sources, timeout.min()) else {
            std::thread::sleep(DRAIN_EVERY); // out of memory: the container still needs us
            continue;
        };
        for source in ready {
            match source {
                Source::Stdout => outputs.copy(0, log, &mut sessions),
                Source::Stderr => outputs.copy(1, log, &mut sessions),
                Source::Process => {
                    if let Some(mut result) = reap(child.pid, started_at) {
                        if result.exit_code != 0 && group.kills() > 0 {
                            result.reason = "OOMKilled".to_owned();
                        }
                        ended(&result);
                        terminated = Some((result, Instant::now()));
                    }
                }
                Source::Session(source) => sessions.go_on(source, &child.stdout),
            }
        }
        sessions.settle();
    }
}

/// Which sources are ready; none at the time's end, and nothing at all if the kernel cannot wait.
fn wait(sources: &[(Source, BorrowedFd<'_>, PollFlags)], timeout: Option<Duration>) -> Option<Vec<Source>> {
    let mut fds: Vec<PollFd<'_>> = sources.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        // A millisecond more than nothing: what is due is due afterwards.
        PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Some(Vec::new()),
        Err(_) => return None,
    }
    let ready = sources.iter().zip(&fds).filter(|(_, fd)| fd.any().unwrap_or(false));
    Some(ready.map(|((source, ..), _)| *source).collect())
}

/// The container's streams, until the end of each.
struct Outputs<'a> {
    list: [Option<(BorrowedFd<'a>, Output)>; 2],
}

impl<'a> Outputs<'a> {
    fn new(child: &'a Child) -> Self {
        let stderr = child.stderr.as_ref().map(|stderr| (stderr.as_fd(), Output::new("stderr")));
        Self { list: [Some((child.stdout.as_fd(), Output::new("stdout"))), stderr] }
    }

    fn are_done(&self) -> bool {
        self.list.iter().all(Option::is_none)
    }

    fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'a>, PollFlags)> {
        let named = [Source::Stdout, Source::Stderr].into_iter().zip(&self.list);
        named.filter_map(|(source, output)| Some((source, output.as_ref()?.0, PollFlags::POLLIN)))
    }

    /// Reads what is there, once, to the log and to the clients.
    fn copy(&mut self, index: usize, log: &mut LogFile, sessions: &mut Sessions) {
        // The other stream may have been ready with this one, and more than a client could take.
        let Some((fd, output)) = self.list[index].as_mut().filter(|_| !sessions.is_behind()) else { return };
        let mut buffer = [0u8; BYTES_MAX];
        match read(*fd, &mut buffer) {
            Ok(length @ 1..) => {
                output.feed(&buffer[..length], log);
                sessions.output(index == 1, &buffer[..length]);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // An error is how a terminal ends.
            Ok(0) | Err(_) => {
                output.finish(log);
                self.list[index] = None;
            }
        }
    }

    /// Logs what is there and nobody was sent, but does not wait for more.
    fn finish(&mut self, log: &mut LogFile) {
        let mut nobody = Sessions::none();
        for _ in 0..LAST_READS_MAX {
            let sources: Vec<_> = self.sources().collect();
            let ready = wait(&sources, Some(Duration::ZERO)).unwrap_or_default();
            if ready.is_empty() {
                break;
            }
            for source in ready {
                self.copy(usize::from(matches!(source, Source::Stderr)), log, &mut nobody);
            }
        }
        for (_, output) in self.list.iter_mut().flatten() {
            output.finish(log);
        }
    }
}

/// Collects process 1, if it has ended.
fn reap(pid: i32, started_at: Timestamp) -> Option<Terminated> {
    let (exit_code, signal) = match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => (code, 0),
        Ok(WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32, signal as i32),
        Ok(_) | Err(Errno::EINTR) => return None,
        Err(_) => (255, 0),
    };
    Some(Terminated {
        exit_code,
        signal,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: String::new(),
        started_at: Some(started_at),
        finished_at: Timestamp::now(),
    })
}
