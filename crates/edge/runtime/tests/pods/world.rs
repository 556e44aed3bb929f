//! Namespaces for a test, and what a Pod needs from others: a network namespace.

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::{ForkResult, Gid, Pid, Uid, fork, setgroups, setresgid, setresuid},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Exit status of a test that lacks a privilege.
pub const SKIPPED: i32 = 77;
const NOBODY: u32 = 65534;

/// Runs `body` as process 1 of new namespaces; ends this process with its result.
pub fn enter(mode: &str, body: impl FnOnce()) -> ! {
    if mode == "rootless" {
        let (mut uid, mut gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        if uid == 0 {
            (uid, gid) = (NOBODY, NOBODY);
            setgroups(&[]).unwrap();
            setresgid(Gid::from_raw(gid), Gid::from_raw(gid), Gid::from_raw(gid)).unwrap();
            setresuid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid)).unwrap();
            nix::sys::prctl::set_dumpable(true).unwrap();
        }
        if let Err(error) = unshare(CloneFlags::CLONE_NEWUSER) {
            println!("skipped: no user namespaces here: {error}");
            std::process::exit(SKIPPED);
        }
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
    }
    let all = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET;
    if let Err(error) = unshare(all) {
        println!("skipped: no namespaces here: {error}");
        std::process::exit(SKIPPED);
    }
    // SAFETY: single-threaded so far.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            let code = match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, code) => code,
                other => panic!("{other:?}"),
            };
            std::process::exit(code);
        }
        ForkResult::Child => {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
            mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            let before = mounts();
            body();
            assert_eq!(mounts(), before, "mounts are left");
            assert_eq!(left_processes(), Vec::<String>::new(), "processes are left");
            std::process::exit(0);
        }
    }
}

fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| !point.starts_with("/run/netns/")).map(str::to_owned).collect()
}

/// What has not ended soon: killed processes take a moment to go.
fn left_processes() -> Vec<String> {
    let begin = std::time::Instant::now();
    loop {
        while matches!(waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)), Ok(s) if s != WaitStatus::StillAlive)
        {
        }
        let left: Vec<i32> = processes().into_iter().filter(|pid| *pid != 1).collect();
        if left.is_empty() || begin.elapsed().as_secs() > 10 {
            return left.into_iter().map(|pid| format!("{pid} {}", command_line(pid))).collect();
        }
        std::thread::yield_now();
    }
}

/// All processes of this pid namespace.
pub fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}

/// A process' command and arguments.
pub fn command_line(pid: i32) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\0', " ").trim().to_owned()
}

/// Resident memory of a process in KiB: all, and what it shares with nobody's file.
pub fn resident_kib(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    (field("VmRSS:"), field("RssAnon:"))
}

/// A new network namespace with its loopback up, kept by a file.
pub fn network_namespace(name: &str) -> PathBuf {
    let path = Path::new("/run/netns").join(name);
    fs::create_dir_all("/run/netns").unwrap();
    fs::write(&path, "").unwrap();
    let target = path.clone();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        loopback_up();
        let source = "/proc/thread-self/ns/net";
        mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    })
    .join()
    .unwrap();
    path
}

fn loopback_up() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: an all-zero ifreq is valid; SIOCSIFFLAGS reads it.
    unsafe {
        let mut request = std::mem::zeroed::<libc::ifreq>();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        assert_eq!(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request), 0);
    }
}

/// Runs `body` on a thread in the network namespace of `path`.
pub fn inside_network<T: Send + 'static>(path: &Path, body: impl FnOnce() -> T + Send + 'static) -> T {
    let file = fs::File::open(path).unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
        body()
    })
    .join()
    .unwrap()
}
