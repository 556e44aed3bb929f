//! What the end-to-end tests share: running programs, waiting for conditions, a lab that is always ended.
//!
//! Invariant: nothing here sleeps for a fixed time to let something happen; it asks again until it has happened.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The binary under test.
pub const MINISVC: &str = env!("CARGO_BIN_EXE_minisvc");

/// Longest wait for what a person would wait for: a debug build on a busy machine is slow.
pub const LONG: Duration = Duration::from_secs(40);

/// What a program said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output of a program that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Standard error of a program that exited 1.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_eq!(self.code, 1, "{}{}", self.out, self.err);
        self.err
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command, input: &str) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A program that ends without reading its input is no failure of ours.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Asks until the answer is Ok; the last refusal is what the test fails with.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) => assert!(Instant::now() < deadline, "not within {limit:?}: {what}; last: {last}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// As [`eventually`], until what `ask` says contains all of `parts` and none of `gone`.
#[track_caller]
pub fn says(what: &str, parts: &[&str], gone: &[&str], mut ask: impl FnMut() -> Said) -> String {
    eventually(what, LONG, || {
        let said = ask();
        let right = parts.iter().all(|part| said.out.contains(part))
            && !gone.iter().any(|part| said.out.contains(part));
        if right && said.code == 0 { Ok(said.out) } else { Err(format!("{said:?}")) }
    })
}

/// Whether a program is installed; says that a test is skipped if not.
pub fn is_there(program: &str, asks: &str) -> bool {
    let found =
        Command::new(program).args(asks.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        println!("skipped: no {program}");
    }
    found.is_ok()
}

/// A lab of a name that nobody else has; ended when dropped.
pub struct Lab {
    /// Its name.
    pub name: String,
    uid: Option<u32>,
    /// Variables that its servers see.
    env: &'static [(&'static str, &'static str)],
}

impl Lab {
    /// Starts a lab and waits for its nodes; None, and a line that says so, where namespaces may not be made.
    pub fn up(tag: &str, nodes: usize) -> Option<Self> {
        Self::up_as(tag, nodes, None)
    }

    /// As [`Self::up`], as the user `uid`.
    pub fn up_as(tag: &str, nodes: usize, uid: Option<u32>) -> Option<Self> {
        let lab = Self { name: format!("{tag}-{}", std::process::id()), uid, env: &[] };
        lab.started(&format!("--nodes {nodes}"), nodes)
    }

    /// As [`Self::up`] with two nodes and this overlay; None as well where a plain user has no tun device.
    pub fn up_with_overlay(overlay: &str) -> Option<Self> {
        Self::up_with(&format!("t-{overlay}"), &format!("--overlay {overlay}"))
    }

    /// As [`Self::up`] with two nodes and these flags; None as well where a plain user has no tun device.
    pub fn up_with(tag: &str, flags: &str) -> Option<Self> {
        let lab = Self { name: format!("{tag}-{}", std::process::id()), uid: None, env: &[] };
        lab.started(&format!("--nodes 2 {flags}"), 2)
    }

    /// As [`Self::up`] with one node, whose server sees these variables.
    pub fn up_told(tag: &str, env: &'static [(&'static str, &'static str)]) -> Option<Self> {
        Self { name: format!("{tag}-{}", std::process::id()), uid: None, env }.started("--nodes 1", 1)
    }

    fn started(self, flags: &str, nodes: usize) -> Option<Self> {
        let said = self.lab(&format!("up {flags}"));
        let denied = ["start the lab in namespaces of its own", "open /dev/net/tun: "];
        if said.code == 1 && denied.iter().any(|part| said.err.contains(part)) {
            println!("skipped: lab {flags}: {}", said.err.trim());
            assert!(!self.dir().exists(), "a lab that could not start leaves nothing");
            return None;
        }
        said.ok();
        self.wait_for_nodes(nodes);
        Some(self)
    }

    /// Waits until all its nodes are Ready.
    pub fn wait_for_nodes(&self, nodes: usize) {
        eventually("every node is Ready", LONG, || {
            let said = self.minisvc("get nodes --no-headers");
            let ready =
                said.out.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count();
            if ready == nodes { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        let uid = self.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
        std::env::temp_dir().join(format!("minisvc-lab-{uid}")).join(&self.name)
    }

    /// A command with this lab's name and kubeconfig in its environment.
    pub fn command(&self, program: &str, words: &[&str]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        command
            .args(words)
            .env("MINISVC_LAB_NAME", &self.name)
            .env("KUBECONFIG", self.dir().join("kubeconfig"));
        command.envs(self.env.iter().copied());
        command.env("HOME", self.dir()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid).current_dir("/");
        }
        command
    }

    /// `minisvc lab …`.
    pub fn lab(&self, words: &str) -> Said {
        self.minisvc(&format!("lab {words}"))
    }

    /// `minisvc …`, the words separated by spaces.
    pub fn minisvc(&self, words: &str) -> Said {
        self.minisvc_of(&words.split(' ').collect::<Vec<_>>(), "")
    }

    /// `minisvc …` with words that may hold spaces, and standard input.
    pub fn minisvc_of(&self, words: &[&str], input: &str) -> Said {
        run(&mut self.command(MINISVC, words), input)
    }

    /// Makes a real connection from a machine: `http://…`, `tcp://…` or `udp://…`; who answered, as JSON.
    pub fn probe(&self, from: &str, target: &str) -> Said {
        self.lab(&format!("exec {from} -- minisvc lab-probe --timeout-ms 3000 {target}"))
    }

    /// As [`Self::probe`], from inside a Pod.
    pub fn probe_from_pod(&self, pod: &str, target: &str) -> Said {
        // The first process of a Pod is this program, wherever its file is.
        self.minisvc(&format!("exec {pod} -- /proc/1/exe lab-probe --timeout-ms 3000 {target}"))
    }

    /// Every process of the lab, whichever namespace it is in.
    pub fn processes(&self) -> BTreeSet<i32> {
        let mut found: BTreeSet<i32> = self.supervisor().into_iter().collect();
        // Orphans go to the first process of their namespace, so all stay below the supervisor.
        let parents = parents();
        loop {
            let more: Vec<i32> = parents
                .iter()
                .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                return found;
            }
            found.extend(more);
        }
    }

    /// The lab's first process.
    pub fn supervisor(&self) -> Option<i32> {
        let dir = self.dir().to_string_lossy().into_owned();
        parents().into_iter().map(|(pid, _)| pid).find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&b"lab-supervisor".as_slice()) && words.contains(&dir.as_bytes())
        })
    }

    /// Ends the lab and checks that nothing of it is left.
    pub fn down(self) {
        let before = self.processes();
        assert!(before.len() > 2, "the lab's processes were not found: {before:?}");
        self.lab("down").ok();
        // The kernel ends what is left of a killed process in its own time; it does not outlive the lab by much.
        eventually("no process is left", Duration::from_secs(2), || match left(&before) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        });
        assert!(!self.dir().exists(), "{} is left", self.dir().display());
        assert_host_is_clean(&self.dir());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.dir().exists() {
            if std::thread::panicking() {
                self.show_logs();
            }
            self.lab("down");
        }
    }
}

impl Lab {
    fn show_logs(&self) {
        for member in ["node1", "node2", "node3"] {
            let path = self.dir().join("members").join(member).join("server.log");
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            println!("--- {}\n{}", path.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Every process that is no zombie, with its parent.
fn parents() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    (rest.next()? != "Z").then_some(())?;
    rest.next()?.parse().ok()
}

/// Command lines of those of these processes that still run.
pub fn left(processes: &BTreeSet<i32>) -> Vec<String> {
    let line = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    processes.iter().filter(|pid| parent(**pid).is_some()).map(|pid| line(pid).replace('\0', " ")).collect()
}

/// Checks that no link, mount or named namespace of ours is on the host.
#[track_caller]
pub fn assert_host_is_clean(dir: &Path) {
    let links = std::fs::read_dir("/sys/class/net").unwrap().filter_map(Result::ok);
    let links: Vec<_> = links
        .map(|link| link.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("msv") || name.starts_with("u-node") || name == "underlay")
        .collect();
    assert!(links.is_empty(), "links are left: {links:?}");
    let dir = dir.to_string_lossy();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: Vec<&str> = mounts.lines().filter(|line| line.contains(dir.as_ref())).collect();
    assert!(mounts.is_empty(), "mounts are left: {mounts:?}");
    assert!(!Path::new("/run/minisvc").exists(), "the lab's /run is not the host's");
}

/// kubectl, told of a lab.
pub struct Kubectl<'a>(pub &'a Lab);

impl Kubectl<'_> {
    /// Runs it with these words; `input` is what it reads.
    pub fn of(&self, words: &[&str], input: &str) -> Said {
        // Where it keeps what it learnt of an API by address; labs share addresses over time.
        let cache = format!("--cache-dir={}", self.0.dir().join("kubectl-cache").display());
        let words: Vec<&str> = std::iter::once(cache.as_str()).chain(words.iter().copied()).collect();
        run(&mut self.0.command("kubectl", &words), input)
    }

    /// Runs it with words that have no blanks.
    pub fn run(&self, words: &str) -> Said {
        self.of(&words.split(' ').collect::<Vec<_>>(), "")
    }

    /// The same, which must succeed; what it says.
    #[track_caller]
    pub fn ok(&self, words: &str) -> String {
        let said = self.run(words);
        assert_eq!(said.code, 0, "kubectl {words}: {}{}", said.out, said.err);
        said.out
    }
}

/// A field of an object.
pub fn field(lab: &Lab, of: &str, path: &str) -> String {
    lab.minisvc(&format!("get {of} -o jsonpath={{{path}}}")).ok()
}

/// A field, once it is there.
pub fn given(lab: &Lab, of: &str, path: &str) -> String {
    let ask = || Some(field(lab, of, path)).filter(|value| !value.is_empty()).ok_or_else(String::new);
    eventually(&format!("{of} has {path}"), LONG, ask)
}
