//! Images with a root of their own: imported, changed by nobody, there or not.

use crate::cases::{WAIT, container, ended, finish, log, log_of, pod, run, runtime, wait_for, wait_for_log};
use minisvc_images::{Error, Store};
use minisvc_runtime::{
    ContainerSpec, ContainerState, PodBundle, PodRecord, RestartPolicy,
    security::Security,
    volumes::{Mount, Volume, VolumeKind},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What the test images can do.
const TOOLS: [&str; 6] = ["sh", "cat", "id", "ls", "sleep", "touch"];

/// Tools of the machine and the libraries that they are linked with.
fn files() -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for tool in TOOLS {
        let path = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(tool));
        let path = path.into_iter().find(|path| path.exists()).unwrap();
        let linked = Command::new("ldd").arg(&path).output().unwrap();
        let words = String::from_utf8(linked.stdout).unwrap();
        files.extend(words.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
        files.insert(path);
    }
    files
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes an archive as `docker save` does, and returns its path. No `/proc`, `/dev`, `/tmp`: builders leave them out.
fn archive(name: &str, runs: &str, passwd: &str) -> PathBuf {
    let mut layer = tar::Builder::new(Vec::new());
    for file in files() {
        let target = file.strip_prefix("/").unwrap();
        layer.append_path_with_name(fs::canonicalize(&file).unwrap(), target).unwrap();
    }
    let mut add = |path: &str, mode: u32, uid: u64, kind: tar::EntryType, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(0);
        header.set_size(text.len() as u64);
        layer.append_data(&mut header, path, text.as_bytes()).unwrap();
    };
    add("etc/passwd", 0o644, 0, tar::EntryType::Regular, passwd);
    add("data", 0o755, 4242, tar::EntryType::Directory, "");
    add("data/given", 0o644, 4242, tar::EntryType::Regular, "as built\n");
    let layer = layer.into_inner().unwrap();
    let (os, diff_id) = (format!("\"os\":\"linux\",\"config\":{runs}"), digest(&layer));
    let config = format!("{{{os},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{diff_id}\"]}}}}");
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest =
        format!("[{{\"Config\":\"{config_name}\",\"RepoTags\":[\"{name}\"],\"Layers\":[\"l/layer.tar\"]}}]");
    let path = PathBuf::from(format!("/run/{}.tar", name.replace(':', "-")));
    let mut all = tar::Builder::new(fs::File::create(&path).unwrap());
    for (name, bytes) in [
        ("l/layer.tar", &layer[..]),
        (&config_name, config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        all.append_data(&mut header, name, bytes).unwrap();
    }
    all.finish().unwrap();
    path
}

fn store() -> Store {
    Store::new("/run/minisvc/images".into())
}

/// All paths below a directory.
fn listing(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(listing(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

fn image(script: &str) -> ContainerSpec {
    ContainerSpec { args: vec![script.to_owned()], ..container("main", "app:1", &[]) }
}

pub fn imported() {
    let runs = r#"{"Entrypoint":["/bin/sh","-c"],"Cmd":["echo no arguments"],"Env":["FROM=image","GREETING=no"],
        "WorkingDir":"/srv/app"}"#;
    let made = store().import("app:1", &archive("app:1", runs, "root:x:0:0::/home:/bin/sh\n")).unwrap();
    let root = made.root.clone().unwrap();
    let before = listing(&root);
    run(async {
        let runtime = runtime();
        let script = "pwd; echo $FROM $GREETING $HOME; ls /; cat /data/given; echo changed > /data/given; cat /data/given
            touch /new /bin/new /tmp/new; test -e /proc/self/status -a -c /dev/null && echo places; cat /etc/hostname
            test -s /etc/resolv.conf && echo resolv; test -e /keep/second && exit 0; touch /keep/second; exit 3";
        let keep =
            Mount { volume: "keep".into(), path: "/keep".into(), sub_path: String::new(), read_only: false };
        let main = ContainerSpec { mounts: vec![keep], ..image(script) };
        let kind = VolumeKind::Scratch { memory: false, bytes_max: None };
        let volumes = vec![Volume { name: "keep".into(), kind }];
        let bundle = PodBundle { volumes, ..pod("i1", RestartPolicy::OnFailure, vec![main]) };
        runtime.start_pod(bundle).await.unwrap();
        wait_for(&runtime, "i1", |pod| ended(pod).is_some()).await;
        for number in [0, 1] {
            let text = log(&log_of("i1", number));
            let said: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
            // Each run begins with the image as it was built.
            for line in ["/srv/app", "image hello /home", "as built", "changed", "places", "web-0", "resolv"]
            {
                assert!(said.contains(&line), "{line} in run {number}: {text}");
            }
            assert!(!said.contains(&"home") && !said.contains(&"boot"), "{text}");
        }
        finish(&runtime, "i1").await;
        assert!(!Path::new("/run/minisvc/volumes/i1").exists());

        let security = Security { read_only_root: true, ..Security::default() };
        let script =
            "cat /data/given; echo x > /data/given; touch /new; test -e /new || echo not written; pwd";
        let spec = ContainerSpec { security, ..image(script) };
        runtime.start_pod(pod("i2", RestartPolicy::Never, vec![spec])).await.unwrap();
        wait_for(&runtime, "i2", |pod| ended(pod).is_some()).await;
        let text = log(&log_of("i2", 0));
        for line in ["as built", "Read-only file system", "not written", "/srv/app"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        finish(&runtime, "i2").await;

        let none = ContainerSpec { args: Vec::new(), ..image("") };
        runtime.start_pod(pod("i3", RestartPolicy::Never, vec![none])).await.unwrap();
        let done = wait_for(&runtime, "i3", |pod| ended(pod).is_some()).await;
        assert!(log(&log_of("i3", 0)).contains("no arguments"));
        assert_eq!(done.containers[0].facts.as_ref().unwrap().id, made.id);
        finish(&runtime, "i3").await;
    });
    assert_eq!(listing(&root), before);
    assert_eq!(fs::read_to_string(root.join("data/given")).unwrap(), "as built\n");
}

pub fn users_and_signals() {
    let runs = r#"{"Entrypoint":["/bin/sh","-c"],"User":"app","StopSignal":"SIGQUIT"}"#;
    let passwd = "root:x:0:0::/root:/bin/sh\napp:x:4242:0::/data:/bin/sh\n";
    store().import("app:1", &archive("app:1", runs, passwd)).unwrap();
    let is_rootless =
        fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().nth(2) == Some("1");
    run(async {
        let runtime = runtime();
        let script =
            "trap 'echo asked; exit 0' QUIT; trap '' TERM; id -u; echo $HOME; touch /data/mine && echo wrote
            echo ready; while :; do sleep 0.02; done";
        runtime.start_pod(pod("u1", RestartPolicy::Never, vec![image(script)])).await.unwrap();
        if is_rootless {
            let done = wait_for(&runtime, "u1", |pod| ended(pod).is_some()).await;
            assert!(ended(&done).unwrap().message.contains("become user 4242"), "{done:?}");
            return finish(&runtime, "u1").await;
        }
        wait_for_log("u1", "ready").await;
        let text = log(&log_of("u1", 0));
        for line in ["4242", "/data", "wrote"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        runtime.stop("u1", WAIT).await.unwrap();
        assert!(log(&log_of("u1", 0)).contains("asked"));
        finish(&runtime, "u1").await;

        let security = Security { non_root: true, ..Security::default() };
        let spec = ContainerSpec { security, ..image("true") };
        let refused = runtime.start_pod(pod("u2", RestartPolicy::Never, vec![spec])).await.unwrap();
        let ContainerState::Waiting { reason, message } = &refused.containers[0].state else {
            panic!("{refused:?}")
        };
        assert_eq!(reason, "CreateContainerConfigError");
        assert!(message.contains("non-numeric user (app)"), "{message}");
        finish(&runtime, "u2").await;
    });
}

pub fn absent_and_in_use() {
    let runs = r#"{"Entrypoint":["/bin/sh","-c"]}"#;
    let archive = archive("app:1", runs, "");
    run(async {
        let runtime = runtime();
        let spec = image("echo ready; while :; do sleep 0.02; done");
        let waits = runtime.start_pod(pod("a1", RestartPolicy::Always, vec![spec])).await.unwrap();
        let ContainerState::Waiting { reason, .. } = &waits.containers[0].state else { panic!("{waits:?}") };
        assert_eq!(reason, "ErrImageNeverPull");
        let image = store().import("app:1", &archive).unwrap();
        wait_for(&runtime, "a1", |pod| pod.containers[0].is_running()).await;
        wait_for_log("a1", "ready").await;
        assert!(matches!(store().remove("app:1"), Err(Error::InUse { .. })));
        assert!(runtime.images().list().iter().any(|listed| listed.bytes == image.bytes && image.bytes > 0));
        finish(&runtime, "a1").await;
        store().remove("app").unwrap_err();
        store().remove("app:1").unwrap();
        assert!(!image.root.unwrap().exists());
    });
}

pub fn another_image() {
    let sh = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let forever = "while :; do sleep 0.02; done";
    store().add_program("app:1", &sh(&format!("trap 'exit 7' TERM; echo one; {forever}"))).unwrap();
    store().add_program("app:2", &sh(&format!("trap 'exit 0' TERM; echo two; {forever}"))).unwrap();
    store().add_program("bad", &sh("exit 9")).unwrap();
    run(async {
        let runtime = runtime();
        let mut bundle = pod("n1", RestartPolicy::Never, vec![container("main", "app:1", &[])]);
        // A signal may come before the shell's trap.
        bundle.grace_s = 1;
        runtime.start_pod(bundle).await.unwrap();
        wait_for_log("n1", "one").await;
        runtime.set_images("n1", [("main", "app:1"), ("other", "app:2")]);
        assert_eq!(runtime.pod("n1").unwrap().containers[0].restart_count, 0);
        runtime.set_images("n1", [("main", "app:2")]);
        let second = |pod: &PodRecord| pod.containers[0].restart_count == 1 && pod.containers[0].is_running();
        let pod_now = wait_for(&runtime, "n1", second).await;
        assert_eq!(pod_now.containers[0].image, "app:2");
        assert_eq!(pod_now.containers[0].last_termination.as_ref().unwrap().exit_code, 7);
        // One that is not there, and then one that is.
        runtime.set_images("n1", [("main", "app:3")]);
        let waits = |pod: &PodRecord| matches!(&pod.containers[0].state, ContainerState::Waiting { reason, .. } if reason == "ErrImageNeverPull");
        wait_for(&runtime, "n1", waits).await;
        runtime.set_images("n1", [("main", "app:2")]);
        wait_for(&runtime, "n1", |pod| pod.containers[0].is_running()).await;
        finish(&runtime, "n1").await;

        // One that fails over and over; another one need not wait for the back-off.
        let bundle = pod("n2", RestartPolicy::Always, vec![container("main", "bad", &[])]);
        runtime.start_pod(bundle).await.unwrap();
        wait_for(&runtime, "n2", |pod| pod.containers[0].crashes >= 4).await;
        runtime.set_images("n2", [("main", "app:2")]);
        wait_for(&runtime, "n2", |pod| pod.containers[0].is_running()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        finish(&runtime, "n2").await;
    });
}
