//! What a client meets, and what `minisvc trace` says it meets: asked side by side.
//!
//! A target is written as the trace has it, `ADDRESS:PORT` or `ADDRESS:PORT/udp`; addresses of both families go.
//! Node ports that a test chooses are below 30086, where the cluster gives none out of its own accord (KEP-3668): any
//! other may be another Service's already.

use crate::common::{LONG, Lab, MINISVC, eventually, field};
use minisvc_lab::probe::{Attempt, now_us};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

/// The machine outside of the cluster.
pub const CLIENT: &str = "172.31.77.100";
/// The two nodes.
pub const NODE1: &str = "172.31.77.11";
pub const NODE2: &str = "172.31.77.12";

/// Attempts where endpoints answer: two of them are both met but once in 2048.
const ATTEMPTS: u32 = 12;

/// Applies a manifest.
pub fn apply(lab: &Lab, manifest: &str) {
    lab.minisvc_of(&["apply", "-f", "-"], manifest).ok();
}

/// An address and port as URLs and the trace have them.
pub fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// An endpoint of a hand-written slice: its address, its node, and whether it is ready, serves, terminates.
pub type End<'a> = (&'a str, &'a str, [bool; 3]);

pub const READY: [bool; 3] = [true, true, false];
pub const UNREADY: [bool; 3] = [false, false, false];
pub const DRAINING: [bool; 3] = [false, true, true];
pub const GONE: [bool; 3] = [false, false, true];

/// A hand-written slice with one port.
pub fn slice(name: &str, service: &str, port: &str, ends: &[End<'_>]) -> String {
    let family = if ends.iter().any(|(address, ..)| address.contains(':')) { "IPv6" } else { "IPv4" };
    let ends = ends.iter().map(|(address, node, [ready, serving, terminating])| {
        format!(
            "- {{addresses: ['{address}'], nodeName: {node}, conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}}}\n"
        )
    });
    let ends: String = ends.collect();
    let ends = if ends.is_empty() { " []\n".to_owned() } else { format!("\n{ends}") };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: {family}\nports: [{port}]\nendpoints:{ends}"
    )
}

/// The word for what came of an attempt: who answered, or why nobody did.
fn word(attempt: &Attempt) -> String {
    match (&attempt.pod, &attempt.error) {
        (Some(pod), _) => pod.clone(),
        // How the kernel tells a sender on the node itself that its datagram is rejected (EPERM).
        (None, Some(error)) if error.starts_with("Operation not permitted") => "refused".to_owned(),
        (None, Some(error)) => error.clone(),
        (None, None) => "nobody".to_owned(),
    }
}

fn url(to: &str) -> String {
    match to.strip_suffix("/udp") {
        Some(to) => format!("udp://{to}"),
        None => format!("tcp://{to}"),
    }
}

/// Connects from a machine, or from a Pod written `pod/NAME`.
pub fn attempts(lab: &Lab, from: &str, to: &str, count: u32) -> Vec<Attempt> {
    let timeout = if count == 1 { 1500 } else { 3000 };
    let words = format!("lab-probe --count {count} --timeout-ms {timeout} {}", url(to));
    let said = match from.strip_prefix("pod/") {
        Some(pod) => lab.minisvc(&format!("exec {pod} -- /proc/1/exe {words}")),
        None => lab.lab(&format!("exec {from} -- minisvc {words}")),
    };
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    said.out.lines().map(read).collect()
}

/// Who answers, or what else happens.
pub fn met(lab: &Lab, from: &str, to: &str, count: u32) -> BTreeSet<String> {
    attempts(lab, from, to, count).iter().map(word).collect()
}

/// What the trace says of the same.
fn traced(lab: &Lab, from: &str, to: &str) -> Value {
    let from = match from {
        "client" => CLIENT,
        other => other.trim_start_matches("pod/"),
    };
    serde_json::from_str(&lab.minisvc(&format!("trace --from {from} -o json {to}")).ok()).unwrap()
}

fn said(walk: &Value) -> BTreeSet<String> {
    let end = match walk["verdict"].as_str().unwrap() {
        "Endpoint" => {
            let last = walk["hops"].as_array().unwrap().last().unwrap();
            let pods = last["endpoints"].as_array().unwrap().iter();
            let name =
                |end: &Value| end["pod"].as_str().unwrap_or("nobody").rsplit('/').next().unwrap().to_owned();
            return pods.map(name).collect();
        }
        "Refused" => "refused",
        "Dropped" => "timeout",
        other => other,
    };
    BTreeSet::from([end.to_owned()])
}

/// Waits until exactly these Pods answer, or the one word says what else happens; the trace then says the same, and
/// whether the endpoint sees the client's own address.
#[track_caller]
pub fn agree(lab: &Lab, from: &str, to: &str, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&word| word.to_owned()).collect();
    let answered = !expected.contains("refused") && !expected.contains("timeout");
    let what = format!("{from} to {to} meets {expected:?}");
    let seen = eventually(&what, LONG, || {
        let seen = attempts(lab, from, to, if answered { ATTEMPTS } else { 1 });
        let words: BTreeSet<String> = seen.iter().map(word).collect();
        if words == expected { Ok(seen) } else { Err(format!("{words:?}")) }
    });
    let walk = traced(lab, from, to);
    assert_eq!(said(&walk), expected, "the trace of {from} to {to}: {walk}");
    let hops = walk["hops"].as_array().unwrap();
    let own = match from.strip_prefix("pod/") {
        Some(pod) => field(lab, &format!("pod {pod}"), ".status.podIPs[*].ip"),
        None if from == "client" => CLIENT.to_owned(),
        None => return,
    };
    // A packet that another node passed on may have got that one's address.
    if let (true, [hop]) = (answered, &hops[..]) {
        for attempt in &seen {
            let name = format!("default/{}", attempt.pod.as_deref().unwrap());
            let ends = hop["endpoints"].as_array().unwrap();
            let end = ends.iter().find(|end| end["pod"] == *name).unwrap();
            let client = attempt.client.as_deref().unwrap().rsplit_once(':').unwrap().0;
            let is_own = own.split(' ').any(|own| own == client.trim_matches(['[', ']']));
            assert_eq!(is_own, end["masquerade"] == false, "{from} to {to}: {client}, {end}");
        }
    }
}

/// One connection, or one UDP port, that goes on asking until it is dropped.
pub struct Held {
    child: Child,
    seen: Arc<Mutex<Vec<Attempt>>>,
}

impl Held {
    /// From a machine.
    pub fn new(lab: &Lab, from: &str, to: &str) -> Self {
        let words = ["lab", "exec", from, "--", "minisvc", "lab-probe", "--until-eof", "--hold", "20"];
        let mut command = lab.command(MINISVC, &words);
        command.args(["--timeout-ms", "200", &url(to)]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                all.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, seen }
    }

    /// Waits until an attempt that began after `since` (µs of [`now_us`]) ended as said; how long that took from then.
    #[track_caller]
    pub fn until(&self, what: &str, expected: &str, since: u64) -> Duration {
        eventually(what, LONG, || {
            let seen = self.seen.lock().unwrap();
            let later = seen.iter().filter(|attempt| attempt.at_us >= since);
            let words: Vec<String> = later.clone().map(word).collect();
            let found = later.clone().find(|attempt| word(attempt) == expected);
            let end = found.map(|attempt| attempt.at_us + attempt.took_us - since);
            end.map(Duration::from_micros).ok_or_else(|| format!("{words:?}"))
        })
    }

    /// Waits for so many more attempts, which all end as said; over one connection, or from one port.
    #[track_caller]
    pub fn goes_on(&self, what: &str, expected: &str, more: usize) {
        let since = now_us();
        let later: Vec<Attempt> = eventually(what, LONG, || {
            let seen = self.seen.lock().unwrap();
            let later: Vec<Attempt> = seen.iter().filter(|attempt| attempt.at_us >= since).cloned().collect();
            if later.len() < more { Err(format!("{:?}", seen.last())) } else { Ok(later) }
        });
        let words: BTreeSet<String> = later.iter().map(word).collect();
        assert_eq!(words, BTreeSet::from([expected.to_owned()]), "{what}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}
