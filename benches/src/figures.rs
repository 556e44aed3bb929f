//! Figures and the table they are printed as.

use anyhow::Context;
use std::time::Duration;

/// Durations, to be asked for their quantiles.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds those of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Smallest time that this share (0 to 1) does not exceed; zero if there are none.
    pub fn quantile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }

    /// `p50 / p99`, in milliseconds.
    pub fn shown(&mut self) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        format!("{:.2} / {:.2} ms", ms(p50), ms(p99))
    }
}

/// A table of two columns, printed row by row: a benchmark that is ended early has still said something.
pub fn row(what: &str, figure: &str) {
    println!("{what:<62} {figure:>24}");
}

/// Resident memory of a process (its pid, or `self`) in KiB: now, and at most so far.
pub fn resident_kib(process: &str) -> anyhow::Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let of = |name: &str| {
        let found =
            status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        found.context("no memory in /proc")
    };
    Ok((of("VmRSS:")?, of("VmHWM:")?))
}

/// The middle one; zero if there is none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// What a process used of the processors so far, in the kernel's hundredths of a second.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; user and system time are the 14th and 15th of all fields.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
