//! What the demo says: a line for each claim, progress, a table at the end.
//!
//! Invariant: standard output gets only whole lines; what is rewritten in place goes to a terminal at standard error.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// What came of one claim.
#[derive(Clone, Debug)]
pub struct Proof {
    /// What kind of thing: `ClusterIP`, `Ingress`, …
    pub topic: &'static str,
    /// What was tried.
    pub tried: String,
    /// From where.
    pub from: String,
    /// What answered, or why the claim does not hold.
    pub outcome: Result<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// Runs a claim and takes its time.
pub async fn prove(
    topic: &'static str,
    tried: impl Into<String>,
    from: impl Into<String>,
    claim: impl Future<Output = Result<String, String>>,
) -> Proof {
    let begun = Instant::now();
    let outcome = claim.await;
    Proof { topic, tried: tried.into(), from: from.into(), outcome, took: begun.elapsed() }
}

/// Prints, and remembers what did not hold.
pub struct Report {
    terminal: bool,
    failed: usize,
    proved: usize,
}

impl Report {
    /// A report to this process' standard streams.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, failed: 0, proved: 0 }
    }

    /// Says what is being done now.
    pub fn doing(&self, what: &str) {
        if self.terminal {
            eprint!("\r\x1b[2K… {what}");
            let _not_shown = std::io::stderr().flush();
        } else {
            eprintln!("… {what}");
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
    }

    /// A line of its own.
    pub fn line(&self, text: &str) {
        self.clear();
        println!("{text}");
    }

    /// The line of a claim.
    pub fn proof(&mut self, proof: &Proof) {
        self.clear();
        let (mark, answer) = match &proof.outcome {
            Ok(answer) => ("ok    ", answer),
            Err(why) => ("FAILED", why),
        };
        self.proved += 1;
        self.failed += usize::from(proof.outcome.is_err());
        let took = millis(proof.took);
        println!("{mark} {:<13} {} | from {} | {answer} | {took}", proof.topic, proof.tried, proof.from);
    }

    /// Whether every claim held.
    pub fn all_hold(&self) -> bool {
        self.failed == 0
    }

    /// `31 claims, 0 failed`.
    pub fn score(&self) -> String {
        format!("{} claims, {} failed", self.proved, self.failed)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `12 ms` or `3.4 s`.
pub fn millis(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
