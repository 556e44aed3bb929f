//! The one writer: takes what is queued, runs it in order, writes it as one batch, then tells everybody.
//!
//! Invariant: nobody is told of a commit, nor of a refusal that may rest on one, before it is on the disk.

use crate::{
    Limits, Shared, StoreError,
    disk::Disk,
    log::Event,
    view::{self, BadChange, State, View, Write},
};
use minisvc_apimachinery::storage::{Change, Read, Revision};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};

/// A commit that is on the disk.
#[derive(Clone, Debug)]
pub struct Committed<T> {
    /// Revision of the commit; of the state that the closure saw, if it changed nothing.
    pub revision: Revision,
    /// What the closure returned.
    pub value: T,
    /// The state right after this commit: what the closure wrote can be read here, whatever came later.
    pub view: View,
}

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError<E> {
    /// The closure said no.
    #[error("refused")]
    Refused(E),
    /// The closure panicked.
    #[error("the request panicked in the store's writer")]
    Panicked,
    /// The closure wants something written that cannot be.
    #[error(transparent)]
    Bad(#[from] BadChange),
    /// The store does not take writes, or could not write this one.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(crate) enum Message {
    Commit(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

/// What became of a batch, for each of its jobs.
type Outcome = Result<Arc<State>, StoreError>;

/// A commit without its types.
pub(crate) trait Job: Send {
    /// Runs the closure; its result is kept until [`Job::finish`]. None if there is nothing to write.
    fn run(&mut self, state: &State) -> Option<(State, Vec<Write>)>;
    /// Tells the caller.
    fn finish(self: Box<Self>, outcome: Outcome);
}

struct TypedJob<F, T, E> {
    f: Option<F>,
    result: Option<Result<T, CommitError<E>>>,
    ack: oneshot::Sender<Result<Committed<T>, CommitError<E>>>,
}

pub(crate) fn job<F, T, E>(f: F, ack: oneshot::Sender<Result<Committed<T>, CommitError<E>>>) -> Box<dyn Job>
where
    F: FnOnce(&dyn Read) -> Result<(Vec<Change>, T), E> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    Box::new(TypedJob { f: Some(f), result: None, ack })
}

impl<F, T, E> Job for TypedJob<F, T, E>
where
    F: FnOnce(&dyn Read) -> Result<(Vec<Change>, T), E> + Send,
    T: Send,
    E: Send,
{
    fn run(&mut self, state: &State) -> Option<(State, Vec<Write>)> {
        let f = self.f.take()?;
        // The closure reads an immutable state, so a panic in it leaves nothing half done.
        let (changes, value) = match catch_unwind(AssertUnwindSafe(|| f(state))) {
            Ok(Ok(done)) => done,
            Ok(Err(refusal)) => {
                self.result = Some(Err(CommitError::Refused(refusal)));
                return None;
            }
            Err(_) => {
                self.result = Some(Err(CommitError::Panicked));
                return None;
            }
        };
        match view::apply(state, changes) {
            Ok((next, writes)) => {
                self.result = Some(Ok(value));
                (!writes.is_empty()).then_some((next, writes))
            }
            Err(bad) => {
                self.result = Some(Err(bad.into()));
                None
            }
        }
    }

    fn finish(self: Box<Self>, outcome: Outcome) {
        let answer = match (outcome, self.result) {
            (Err(error), _) => Err(error.into()),
            (Ok(state), Some(Ok(value))) => {
                Ok(Committed { revision: state.revision, value, view: View::new(state) })
            }
            (Ok(_), Some(Err(error))) => Err(error),
            (Ok(_), None) => Err(CommitError::Panicked),
        };
        // The caller may have gone away; the commit stands.
        let _ = self.ack.send(answer);
    }
}

/// A job that ran, with the state after it.
struct Ran {
    job: Box<dyn Job>,
    state: Arc<State>,
}

pub(crate) struct Writer {
    disk: Disk,
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Message>,
    limits: Limits,
}

impl Writer {
    pub(crate) fn new(
        disk: Disk,
        shared: Arc<Shared>,
        messages: mpsc::Receiver<Message>,
        limits: Limits,
    ) -> Self {
        Self { disk, shared, messages, limits }
    }

    /// Runs until the store is closed or its last handle is gone.
    pub(crate) fn run(mut self) {
        let mut closing = None;
        while closing.is_none() {
            let Some(message) = self.messages.blocking_recv() else { break };
            closing = self.batch(message);
        }
        let Self { disk, shared, mut messages, .. } = self;
        messages.close();
        drop(disk);
        shared.log.close();
        if let Some(done) = closing {
            // Whoever asked may have gone away.
            let _ = done.send(());
        }
    }

    /// Runs this message and those queued behind it; returns who wants the store closed.
    fn batch(&mut self, first: Message) -> Option<oneshot::Sender<()>> {
        let mut state = self.shared.view.load_full();
        let mut ran: Vec<Ran> = Vec::new();
        let mut writes: Vec<(Revision, Vec<Write>)> = Vec::new();
        let mut bytes = 0;
        let mut message = Some(first);
        let mut closing = None;
        while let Some(next) = message.take() {
            let mut job = match next {
                Message::Commit(job) => job,
                Message::Close(done) => {
                    closing = Some(done);
                    break;
                }
            };
            let healthy = self.shared.failed.get().is_none();
            if let Some((next, written)) = healthy.then(|| job.run(&state)).flatten() {
                state = Arc::new(next);
                bytes += written.iter().map(size).sum::<usize>();
                writes.push((state.revision, written));
            }
            ran.push(Ran { job, state: state.clone() });
            if ran.len() < self.limits.batch_commits && bytes < self.limits.batch_bytes {
                message = self.messages.try_recv().ok();
            }
        }
        if !writes.is_empty() {
            self.write(&state, writes);
        }
        self.answer(ran);
        closing
    }

    /// Makes the batch durable, then visible.
    fn write(&mut self, state: &Arc<State>, writes: Vec<(Revision, Vec<Write>)>) {
        let all = writes.iter().flat_map(|(_, writes)| writes);
        if let Err(error) = self.disk.write(all, state.revision) {
            tracing::error!(%error, revision = state.revision, "store failed; no more writes are taken");
            // Set once: this is the only place, and nothing is written after it.
            let _ = self.shared.failed.set(error.to_string());
            return;
        }
        self.shared.view.store(state.clone());
        let events = writes.into_iter().flat_map(|(revision, writes)| {
            writes.into_iter().filter(|write| !write.key.starts_with('_')).map(move |write| Event {
                revision,
                key: write.key,
                old: write.old,
                new: write.new,
            })
        });
        self.shared.log.append(events, state.revision);
    }

    fn answer(&self, ran: Vec<Ran>) {
        let failed = self.shared.failed.get();
        for Ran { job, state } in ran {
            job.finish(match failed {
                Some(reason) => Err(StoreError::Failed { reason: reason.clone() }),
                None => Ok(state),
            });
        }
    }
}

fn size(write: &Write) -> usize {
    write.key.len() + write.new.as_ref().map_or(0, |stored| stored.value.len())
}
