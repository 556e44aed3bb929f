//! Where probes run: one `lab-probe --serve` in each machine and each Pod, told by line what to try.
//!
//! Invariant: dropping a [`Place`] ends its process.

use crate::{
    layout::Lab,
    probe::{Attempt, Order, Said, Spec},
};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::AttachParams};
use std::{
    any::Any,
    collections::BTreeMap,
    io,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    process::Command,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

/// Most attempts of one probe that are kept.
const ATTEMPTS_MAX: usize = 100_000;

/// What a probe has said so far.
#[derive(Clone, Debug, Default)]
struct Progress {
    attempts: Vec<Attempt>,
    ended: bool,
}

type Probes = Arc<Mutex<BTreeMap<u64, watch::Sender<Progress>>>>;

/// A machine or a Pod in which probes run.
pub struct Place {
    /// `node2`, `client`, or the Pod's name.
    pub name: String,
    orders: mpsc::Sender<Order>,
    probes: Probes,
    next: AtomicU64,
    tasks: Vec<JoinHandle<()>>,
    /// The process or the connection behind.
    _kept: Box<dyn Any>,
}

impl Drop for Place {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Place {
    /// On a machine of the lab, entered from the host.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn machine(lab: &Lab, member: &str) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args(["lab", "exec", "--name", lab.name(), member, "--", "minisvc", "lab-probe", "--serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is ours to act on
            .kill_on_drop(true)
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        Ok(Self::over(member, stdin, stdout, Box::new(child)))
    }

    /// In a Pod, through the API. Process 1 of an echo Pod is this program.
    ///
    /// # Errors
    /// If the API refuses.
    pub async fn pod(pods: &Api<Pod>, name: &str) -> Result<Self, String> {
        let failed = |error: kube::Error| format!("exec in pod {name}: {error}");
        let params = AttachParams::default().stdin(true).stdout(true).stderr(false);
        let command = ["/proc/1/exe", "lab-probe", "--serve"];
        let mut process = pods.exec(name, command, &params).await.map_err(failed)?;
        let (Some(stdin), Some(stdout)) = (process.stdin(), process.stdout()) else {
            return Err(format!("exec in pod {name}: no streams"));
        };
        Ok(Self::over(name, stdin, stdout, Box::new(process)))
    }

    fn over(
        name: &str,
        mut input: impl AsyncWrite + Unpin + Send + 'static,
        output: impl AsyncRead + Unpin + Send + 'static,
        kept: Box<dyn Any>,
    ) -> Self {
        let (orders, mut to_send) = mpsc::channel::<Order>(64);
        let probes = Probes::default();
        let known = Arc::clone(&probes);
        let send = tokio::spawn(async move {
            while let Some(order) = to_send.recv().await {
                let Ok(mut line) = serde_json::to_vec(&order) else { continue };
                line.push(b'\n');
                if input.write_all(&line).await.is_err() || input.flush().await.is_err() {
                    return;
                }
            }
        });
        let read = tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(said) = serde_json::from_str::<Said>(&line) else { continue };
                note(&known, said);
            }
            // The process is gone, and with it whoever would wait for its answers.
            known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Self {
            name: name.to_owned(),
            orders,
            probes,
            next: AtomicU64::new(1),
            tasks: vec![send, read],
            _kept: kept,
        }
    }

    /// Begins a probe.
    pub async fn start(&self, spec: Spec) -> Running {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, progress) = watch::channel(Progress::default());
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let gone = self.orders.send(Order::Start { id, spec }).await.is_err();
        if gone {
            self.probes.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
        Running { place: self.name.clone(), id, orders: self.orders.clone(), progress }
    }

    /// Tries as often as `spec` says.
    ///
    /// # Errors
    /// If the probe's process is gone, or the probe takes longer than all its time limits.
    pub async fn run(&self, spec: Spec) -> Result<Vec<Attempt>, String> {
        let limit = Duration::from_millis(spec.timeout_ms * u64::from(spec.count.unwrap_or(1)) + 5000);
        let target = spec.target.clone();
        let running = self.start(spec).await;
        match timeout(limit, running.ended()).await {
            Ok(ended) => ended,
            Err(_) => Err(format!("{}: {target}: the probe does not end", self.name)),
        }
    }

    /// Tries until one attempt is as wanted.
    ///
    /// # Errors
    /// With what came last, if that takes longer than `limit`.
    pub async fn until(
        &self,
        spec: &Spec,
        limit: Duration,
        wanted: impl Fn(&[Attempt]) -> bool,
    ) -> Result<Vec<Attempt>, String> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let attempts = self.run(spec.clone()).await?;
            if wanted(&attempts) {
                return Ok(attempts);
            }
            if tokio::time::Instant::now() > end {
                return Err(format!(
                    "{}: {}: {} within {limit:?}",
                    self.name,
                    spec.target,
                    summary(&attempts)
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn note(probes: &Probes, said: Said) {
    let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(probe) = probes.get(&said.id) else { return };
    match said.attempt {
        Some(attempt) => probe.send_modify(|progress| {
            if progress.attempts.len() < ATTEMPTS_MAX {
                progress.attempts.push(attempt);
            }
        }),
        None => {
            probe.send_modify(|progress| progress.ended = true);
            probes.remove(&said.id);
        }
    }
}

/// A probe on its way.
pub struct Running {
    /// Where it runs.
    pub place: String,
    id: u64,
    orders: mpsc::Sender<Order>,
    progress: watch::Receiver<Progress>,
}

impl Running {
    /// What was tried so far.
    pub fn so_far(&self) -> Vec<Attempt> {
        self.progress.borrow().attempts.clone()
    }

    /// Waits until so many more attempts than now that started after `from_us` are there.
    ///
    /// # Errors
    /// If that takes longer than `limit`, or the probe has ended.
    pub async fn more(&self, count: usize, from_us: u64, limit: Duration) -> Result<(), String> {
        let mut progress = self.progress.clone();
        let enough = progress.wait_for(|progress| {
            let later = progress.attempts.iter().filter(|attempt| attempt.at_us > from_us).count();
            later >= count || progress.ended
        });
        match timeout(limit, enough).await {
            Ok(Ok(progress)) if !progress.ended => Ok(()),
            Ok(_) => Err(format!("{}: the probe ended: {}", self.place, summary(&self.so_far()))),
            Err(_) => Err(format!("{}: no {count} attempts within {limit:?}", self.place)),
        }
    }

    async fn ended(mut self) -> Result<Vec<Attempt>, String> {
        let ended = self.progress.wait_for(|progress| progress.ended).await.is_ok();
        let attempts = std::mem::take(&mut self.so_far());
        if ended { Ok(attempts) } else { Err(format!("{}: the probe's process is gone", self.place)) }
    }

    /// Ends it; returns all that was tried.
    ///
    /// # Errors
    /// If its process is gone.
    pub async fn stop(self) -> Result<Vec<Attempt>, String> {
        let _gone = self.orders.send(Order::Stop { id: self.id }).await;
        let place = self.place.clone();
        match timeout(Duration::from_secs(10), self.ended()).await {
            Ok(ended) => ended,
            Err(_) => Err(format!("{place}: the probe does not end")),
        }
    }
}

/// Runs one probe in each of several places at once.
///
/// # Errors
/// The first place's whose process is gone.
pub async fn everywhere(
    places: &[&Place],
    spec: impl Fn(&Place) -> Spec,
) -> Result<Vec<(String, Vec<Attempt>)>, String> {
    let runs = places.iter().map(|place| {
        let spec = spec(place);
        async move { place.run(spec).await.map(|attempts| (place.name.clone(), attempts)) }
    });
    join_all(runs).await.into_iter().collect()
}

/// `40 answers: echo-1 12, echo-2 15, echo-3 13`, with failures first.
pub fn summary(attempts: &[Attempt]) -> String {
    let mut failures = BTreeMap::<String, usize>::new();
    let mut pods = BTreeMap::<&str, usize>::new();
    for attempt in attempts {
        if attempt.ok {
            *pods.entry(attempt.pod.as_deref().unwrap_or("(no pod)")).or_default() += 1;
        } else {
            let why =
                attempt.error.clone().or_else(|| attempt.status.map(|status| format!("status {status}")));
            *failures.entry(why.unwrap_or_default()).or_default() += 1;
        }
    }
    let list = |counts: Vec<String>| counts.join(", ");
    let pods_text = list(pods.iter().map(|(pod, count)| format!("{pod} {count}")).collect());
    let answered = attempts.iter().filter(|attempt| attempt.ok).count();
    if failures.is_empty() {
        return format!("{answered} answers: {pods_text}");
    }
    let failed = list(failures.iter().map(|(why, count)| format!("{count} {why}")).collect());
    format!("failed: {failed}; {answered} answers: {pods_text}")
}
