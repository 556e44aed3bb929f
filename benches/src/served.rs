//! This program as a server under test: a process of its own, so that its memory and its time are its own.
//!
//! Invariant: it ends when its standard input does, so it cannot outlive this process.

use crate::figures::resident_kib;
use anyhow::Context;
use std::{ffi::OsStr, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// See the module.
pub struct Child(tokio::process::Child);

impl Child {
    /// Starts it, and returns the line by which it said that it serves.
    pub async fn start(args: &[&OsStr]) -> anyhow::Result<(Self, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().context("the server has no output")?;
        let line = BufReader::new(out).lines().next_line().await?.context("the server did not start")?;
        Ok((Self(child), line))
    }

    /// Its pid.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.0.id().context("the server has ended")
    }

    /// Resident memory, MiB: now, and the most it ever was.
    pub fn resident_mib(&self) -> anyhow::Result<(u64, u64)> {
        let (now, most) = resident_kib(&self.pid()?.to_string())?;
        Ok((now / 1024, most / 1024))
    }

    /// Ends it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        tokio::time::timeout(Duration::from_secs(10), self.0.wait()).await??;
        Ok(())
    }
}
