//! `minisvc pod-exec FD`: enters a container's namespaces and runs a program there. Single-threaded.

use super::{MESSAGE_BYTES_MAX, Order, Outcome};
use crate::{
    cgroup::Entrance,
    shim::{Program, User, become_user, find_program},
    sys, terminal,
};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    sys::{
        signal::{Signal, killpg},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, pipe2, setsid},
};
use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// Runs the helper to the program's end. Returns the process' exit status.
pub(crate) fn main(args: &[OsString]) -> i32 {
    let number = args.first().and_then(|arg| arg.to_str()).and_then(|arg| arg.parse().ok());
    let Some(Ok(fd)) = number.map(sys::inherited) else { return 2 };
    if sys::close_on_exec_from(3).is_err() {
        return 2;
    }
    sys::ignore_terminal_signals();
    let control = UnixStream::from(fd);
    let outcome = run(&control).unwrap_or_else(Outcome::Failed);
    if let Ok(mut text) = serde_json::to_vec(&outcome) {
        text.push(b'\n');
        let _ = (&control).write_all(&text);
    }
    0
}

fn run(control: &UnixStream) -> Result<Outcome, String> {
    let mut line = String::new();
    BufReader::new(control.take(MESSAGE_BYTES_MAX))
        .read_line(&mut line)
        .map_err(|error| format!("read the order: {error}"))?;
    let order: Order = serde_json::from_str(&line).map_err(|error| format!("read the order: {error}"))?;
    // The node's, for a container that can have none of its own; it cannot be opened from inside.
    let spare = if order.tty { terminal::open().ok() } else { None };
    // The files cannot be seen from inside.
    let group = order.settings.group.open();
    let group = group.map_err(|error| format!("open the container's control groups: {error}"))?;
    let entered = enter(&order);
    let terminal = match &entered {
        Ok(()) if order.tty => terminal::open().ok().or(spare),
        _ => None,
    };
    if order.tty {
        sys::send_fd(control, terminal.as_ref().map(|terminal| terminal.master.as_fd()))
            .map_err(|error| format!("hand over the terminal: {error}"))?;
    }
    entered?;
    let slave = terminal.map(|terminal| terminal.slave);
    if order.tty && slave.is_none() {
        return Err("open a terminal".to_owned());
    }
    let (report_read, report_write) =
        pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("make a pipe: {error}"))?;
    let Some(pid) = sys::fork().map_err(|error| format!("fork: {error}"))? else {
        drop(report_read);
        become_program(&order, slave, &group, report_write);
    };
    drop((report_write, slave));
    // The copies of the streams must end with the program, not with us.
    close_streams();
    let mut error = String::new();
    let _ = File::from(report_read).take(MESSAGE_BYTES_MAX).read_to_string(&mut error);
    let pidfd = sys::pidfd_open(pid).map_err(|error| format!("open process {pid}: {error}"))?;
    if !error.is_empty() {
        let _ = waitpid(Pid::from_raw(pid), None);
        return Err(error);
    }
    watch(control, &pidfd, pid);
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Outcome::Exit(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Outcome::Exit(128 + signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("wait for the program: {error}")),
        }
    }
}

fn enter(order: &Order) -> Result<(), String> {
    let target = sys::pidfd_of(order.process.pid, order.process.start_time)
        .map_err(|_| "the container is not running".to_owned())?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    setns(&target, namespaces).map_err(|error| format!("enter the container's namespaces: {error}"))
}

fn close_streams() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// Returns when the program has ended; kills its session when the server's end of the socket is gone.
fn watch(control: &UnixStream, pidfd: &OwnedFd, pid: i32) {
    loop {
        let mut fds =
            [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        if fds[0].any().unwrap_or(true) {
            return;
        }
        if fds[1].any().unwrap_or(false) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            return;
        }
    }
}

/// In the child: becomes the program, or writes why not.
fn become_program(order: &Order, terminal: Option<OwnedFd>, group: &Entrance, report: OwnedFd) -> ! {
    let error = match prepare(order, terminal.as_ref(), group) {
        Ok((program, user)) => program.execute(&order.argv, &order.settings.env, &user.home),
        Err(error) => error,
    };
    let _ = File::from(report).write_all(error.as_bytes());
    sys::exit_now(127)
}

fn prepare(order: &Order, terminal: Option<&OwnedFd>, group: &Entrance) -> Result<(Program, User), String> {
    let fail = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    sys::die_with_parent().map_err(|error| fail("tie to the helper", &error))?;
    group.join().map_err(|error| fail("join the control groups", &error))?;
    setsid().map_err(|error| fail("start a session", &error))?;
    if let Some(slave) = terminal {
        terminal::take(slave).map_err(|error| fail("take the terminal", &error))?;
    }
    std::env::set_current_dir(&order.settings.working_dir)
        .map_err(|error| format!("chdir to cwd ({:?}): {error}", order.settings.working_dir))?;
    let command = order.argv.first().ok_or_else(|| "no command specified".to_owned())?;
    let program = find_program(command, &order.settings.env)?;
    let user = User::of(&order.settings.security, &order.settings.image_user)?;
    become_user(&user, &order.settings.security)?;
    Ok((Program::File(program), user))
}
