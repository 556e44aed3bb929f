//! `minisvc lab-probe`: real connections, one JSON line for each.
//!
//! ```text
//! http://HOST[:PORT]/PATH   GET over a new connection
//! tcp://HOST:PORT           a line, answered by a line; with `hold` one connection that goes on asking
//! udp://HOST:PORT           a datagram, answered by a datagram; with `hold` from one port that goes on asking
//! dns:NAME/TYPE[@SERVER]    one question to the first resolver of /etc/resolv.conf, or to SERVER
//! kernel:                   this network namespace's nftables generation and addresses, then each change of
//!                           links, addresses, routes and permanent neighbours
//! ```
//! Host names are resolved as every program here resolves them. One process serves many probes: [`serve`] takes
//! orders by line.
//!
//! Invariants: at most [`AT_ONCE_MAX`] attempts of a probe are open, each ends within its time limit, and each that
//! was started is reported, in the order of their ends.

mod dns;
mod http;
mod kernel;
mod line;
mod target;

use serde::{Deserialize, Serialize};
use std::{rc::Rc, time::Duration};
use target::Target;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc, watch},
    task::{JoinSet, LocalSet},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

/// Attempts of one probe that are open at a time; the next waits.
pub const AT_ONCE_MAX: usize = 256;
/// Probes that one process serves at a time.
const PROBES_MAX: usize = 1024;
/// Most bytes of an order.
const ORDER_BYTES_MAX: u64 = 16 << 10;

/// What to try, how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// As the module says.
    pub target: String,
    /// `Host` header, if it is another than the target's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Number of attempts; none: until stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Attempts started a second; none: each when the one before has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// How long an attempt may take.
    pub timeout_ms: u64,
    /// `tcp` and `udp`: one connection, or one port, asked again after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
}

impl Spec {
    /// `count` attempts one after another.
    pub fn new(target: impl Into<String>, count: u32) -> Self {
        Self {
            target: target.into(),
            host: None,
            count: Some(count),
            rate: None,
            timeout_ms: 2000,
            hold_ms: None,
        }
    }
}

/// What came of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attempt {
    /// When it was started, µs of CLOCK_MONOTONIC, which all namespaces share.
    pub at_us: u64,
    /// How long it took, µs.
    pub took_us: u64,
    /// Whether it was answered; HTTP: with a status below 400, DNS: without an error code.
    pub ok: bool,
    /// HTTP status, or DNS response code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The Pod that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Our address as the Pod saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Bytes of the HTTP body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// DNS: `TYPE data`. Kernel: what is there, or what changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<String>,
    /// Why not: refused, reset, timeout, unreachable, resolve, or the system's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a probe process is told, one JSON line each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Begin a probe.
    Start {
        /// To tell its attempts from others'.
        id: u64,
        /// What to try.
        spec: Spec,
    },
    /// Start no more attempts of this probe.
    Stop {
        /// Which.
        id: u64,
    },
}

/// What a probe process says, one JSON line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// Of which probe.
    pub id: u64,
    /// None: it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
}

/// Microseconds of CLOCK_MONOTONIC.
#[allow(unsafe_code)]
pub fn now_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1000
}

impl Attempt {
    fn failed(why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::default() }
    }
}

/// The word for what kept a connection from being made or answered.
fn kind(error: &std::io::Error) -> String {
    use std::io::ErrorKind as E;
    match error.kind() {
        E::ConnectionRefused => "refused".to_owned(),
        E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe => "reset".to_owned(),
        E::UnexpectedEof => "closed".to_owned(),
        E::TimedOut => "timeout".to_owned(),
        E::HostUnreachable | E::NetworkUnreachable => "unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// Sends what comes of attempts to whoever listens; false if nobody does.
type Report = mpsc::Sender<Attempt>;

/// Runs one probe to its end; `stop` true ends it early. Must run in a [`LocalSet`].
///
/// # Errors
/// One line if the target cannot be read.
pub async fn run(spec: &Spec, mut stop: watch::Receiver<bool>, report: Report) -> Result<(), String> {
    let target = Rc::new(Target::parse(spec)?);
    let limit = Duration::from_millis(spec.timeout_ms);
    let held = match &*target {
        Target::Kernel => return kernel::watch(spec.count, stop, &report).await,
        Target::Tcp(place) => Some((line::Kind::Tcp, place)),
        Target::Udp(place) => Some((line::Kind::Udp, place)),
        Target::Http { .. } | Target::Dns { .. } => None,
    };
    if let (Some(held), Some(pause)) = (held, spec.hold_ms) {
        line::hold(held, Duration::from_millis(pause), limit, spec.count, stop, &report).await;
        return Ok(());
    }
    let permits = std::sync::Arc::new(Semaphore::new(if spec.rate.is_some() { AT_ONCE_MAX } else { 1 }));
    let mut ticks = spec.rate.map(|rate| {
        let mut ticks = interval_at(Instant::now(), Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        ticks
    });
    let mut open = JoinSet::new();
    let mut started = 0;
    while spec.count.is_none_or(|count| started < count) && !*stop.borrow() {
        if let Some(ticks) = &mut ticks {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        let Ok(permit) = std::sync::Arc::clone(&permits).acquire_owned().await else { break };
        if *stop.borrow() {
            break;
        }
        started += 1;
        let (target, report) = (Rc::clone(&target), report.clone());
        open.spawn_local(async move {
            let (at_us, begun) = (now_us(), Instant::now());
            let outcome = timeout(limit, target.attempt()).await;
            let mut attempt = outcome.unwrap_or_else(|_| Attempt::failed("timeout"));
            attempt.at_us = at_us;
            attempt.took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            let _nobody_listens = report.send(attempt).await;
            drop(permit);
        });
        while open.try_join_next().is_some() {}
    }
    while open.join_next().await.is_some() {}
    Ok(())
}

/// Serves orders from `input` until it ends and all probes have; with it ends every probe.
///
/// # Errors
/// If a line cannot be read or written, or is no order.
pub async fn serve(
    mut input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let (said, mut to_say) = mpsc::channel::<Said>(1024);
    let orders = async move {
        let mut probes: std::collections::BTreeMap<u64, watch::Sender<bool>> =
            std::collections::BTreeMap::new();
        let mut line = String::new();
        loop {
            line.clear();
            if (&mut input).take(ORDER_BYTES_MAX).read_line(&mut line).await? == 0 {
                break;
            }
            if !line.ends_with('\n') {
                return Err(std::io::Error::other("an order is too long, or ends early"));
            }
            match serde_json::from_str(&line)? {
                Order::Start { id, spec } => {
                    probes.retain(|_, stop| !stop.is_closed());
                    if probes.len() >= PROBES_MAX {
                        return Err(std::io::Error::other("too many probes"));
                    }
                    let (stop, stopped) = watch::channel(false);
                    probes.insert(id, stop);
                    tokio::task::spawn_local(one(id, spec, stopped, said.clone()));
                }
                Order::Stop { id } => {
                    if let Some(stop) = probes.remove(&id) {
                        stop.send_replace(true);
                    }
                }
            }
        }
        for stop in probes.values() {
            stop.send_replace(true);
        }
        drop(said);
        Ok(())
    };
    let speak = async {
        while let Some(said) = to_say.recv().await {
            let mut line = serde_json::to_vec(&said)?;
            line.push(b'\n');
            output.write_all(&line).await?;
            if to_say.is_empty() {
                output.flush().await?;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let both = async { tokio::try_join!(orders, speak) };
    LocalSet::new().run_until(both).await.map(drop)
}

/// One probe of [`serve`].
async fn one(id: u64, spec: Spec, stop: watch::Receiver<bool>, said: mpsc::Sender<Said>) {
    let (report, mut reported) = mpsc::channel(64);
    let pass_on = async {
        while let Some(attempt) = reported.recv().await {
            if said.send(Said { id, attempt: Some(attempt) }).await.is_err() {
                return;
            }
        }
    };
    let (outcome, ()) = tokio::join!(run(&spec, stop, report), pass_on);
    if let Err(why) = outcome {
        let _nobody_listens = said.send(Said { id, attempt: Some(Attempt::failed(why)) }).await;
    }
    let _nobody_listens = said.send(Said { id, attempt: None }).await;
}

#[cfg(test)]
mod tests;
