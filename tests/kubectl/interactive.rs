//! `kubectl run -i`, `run -it` and `attach -it`: a container's own standard input and terminal.

use super::Kubectl;
use crate::common::{LONG, eventually, says};
use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

/// A program on a terminal of its own, as a person has it before them.
struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    program: Child,
}

impl Terminal {
    fn run(kubectl: &Kubectl, words: &str) -> Self {
        let size = nix::pty::Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(&size, None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = kubectl.0.command("kubectl", &words.split(' ').collect::<Vec<_>>());
        let program = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        drop((command, pty.slave));
        let screen = Arc::new(Mutex::new(String::new()));
        let mut reader = File::from(pty.master.try_clone().unwrap());
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self { keyboard: File::from(pty.master), screen, program }
    }

    fn shown(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    fn shows(&self, part: &str) {
        eventually(part, LONG, || {
            let shown = self.shown();
            if shown.contains(part) { Ok(()) } else { Err(shown) }
        });
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn exit_code(mut self) -> i32 {
        eventually("kubectl ends", LONG, || {
            self.program.try_wait().unwrap().ok_or_else(|| self.shown()).map(|status| status.code().unwrap())
        })
    }
}

pub fn containers_are_talked_to(kubectl: &Kubectl) {
    let run = |words: &str, script: &str, input: &str| {
        let words: Vec<&str> = words.split(' ').chain(["--", "sh", "-c", script]).collect();
        kubectl.of(&words, input)
    };
    // A filter: what is piped in comes out, and the exit code is the container's.
    let said = run("run -i --rm -q sums --image=host --restart=Never", "sort; echo no >&2; exit 3", "b\na\n");
    assert_eq!((said.code, said.out.as_str()), (3, "a\nb\n"), "{said:?}");
    assert!(said.err.contains("no\n"), "{said:?}");
    let said = run("run -i --rm -q fine --image=host --restart=Never", "wc -l", "b\na\n");
    assert_eq!((said.code, said.out.as_str()), (0, "2\n"), "{said:?}");

    let mut shell = Terminal::run(kubectl, "run -it --rm shell --image=host --restart=Never -- sh");
    shell.shows("try pressing enter");
    shell.types("stty size; tty; hostname\r");
    shell.shows("31 97\r\n/dev/pts/0\r\nshell\r\n");
    // A second person at the same terminal.
    let mut other = Terminal::run(kubectl, "attach -it shell");
    other.shows("try pressing enter");
    other.types("echo fr''om the other\r");
    shell.shows("from the other\r\n");
    other.shows("from the other\r\n");
    // The interrupt key reaches the program, and ends neither the shell nor kubectl.
    shell.types("sleep 1000\r");
    other.shows("sleep 1000\r\n");
    shell.types("\x03");
    shell.types("echo st''ill here\r");
    shell.shows("still here\r\n");
    says("logs", &["31 97\n/dev/pts/0\nshell\n"], &[], || kubectl.run("logs shell"));
    shell.types("exit 7\r");
    assert_eq!(other.exit_code(), 0);
    shell.shows("pod \"shell\" deleted");
    assert_eq!(shell.exit_code(), 7);

    let sorter = "apiVersion: v1
kind: Pod
metadata: {name: sorter}
spec:
  restartPolicy: Never
  containers:
  - {name: sorter, image: host, stdin: true, stdinOnce: true, command: [sort]}
";
    kubectl.of(&["apply", "-f", "-"], sorter).ok();
    kubectl.ok("wait --for=condition=Ready pod/sorter --timeout=30s");
    assert_eq!(kubectl.0.minisvc_of(&["attach", "-i", "sorter"], "b\na\n").ok(), "a\nb\n");
    kubectl.ok("delete pod sorter");

    let refused = kubectl.run("attach -i talker").refused();
    assert!(refused.contains("stdin: container talker of pod talker has none"), "{refused}");
}
