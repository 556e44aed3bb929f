//! Volumes, as containers see them.

use crate::cases::{container, ended, finish, log, pod, run, runtime, wait_for};
use minisvc_runtime::{
    ContainerSpec, PodBundle, RestartPolicy, Runtime,
    volumes::{Contents, Mount, Volume, VolumeFile, VolumeKind},
};
use std::{os::unix::fs::symlink, path::Path};

fn mount(volume: &str, path: &str) -> Mount {
    Mount { volume: volume.into(), path: path.into(), sub_path: String::new(), read_only: false }
}

fn volume(name: &str, kind: VolumeKind) -> Volume {
    Volume { name: name.into(), kind }
}

const SCRATCH: VolumeKind = VolumeKind::Scratch { memory: false, bytes_max: None };

fn bundle(uid: &str, volumes: Vec<Volume>, script: &str, mounts: Vec<Mount>) -> PodBundle {
    let main = ContainerSpec { mounts, ..container("main", "host", &["sh", "-c", script]) };
    PodBundle { volumes, ..pod(uid, RestartPolicy::Never, vec![main]) }
}

/// What the container says until it ends, line by line; the Pod is still there.
async fn said(runtime: &Runtime, bundle: PodBundle, contents: &Contents) -> Vec<String> {
    let uid = bundle.uid.clone();
    runtime.start_pod_with(bundle, contents, &[]).await.unwrap();
    let record = wait_for(runtime, &uid, |pod| ended(pod).is_some()).await;
    let text = log(format!("/run/minisvc/logs/default_web-0_{uid}/main/0.log").as_ref());
    let end = ended(&record).unwrap();
    assert!(end.message.is_empty(), "{end:?}");
    text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect()
}

/// Places that the image has, has not, and has not even a directory for; and what is beside them stays.
pub fn places() {
    run(async {
        let runtime = runtime();
        let volumes = vec![
            volume("disk", SCRATCH),
            volume("memory", VolumeKind::Scratch { memory: true, bytes_max: Some(65536) }),
            volume("files", VolumeKind::Files),
        ];
        let files = vec![VolumeFile { path: "a.conf".into(), mode: 0o644, data: b"hello".to_vec() }];
        let contents = Contents::from([("files".to_owned(), files)]);
        let mut part = mount("files", "/etc/hello.conf");
        part.sub_path = "a.conf".into();
        part.read_only = true;
        let mounts = vec![
            mount("disk", "/nowhere/deep/data"),
            mount("disk", "/usr/share/ours"),
            mount("memory", "/mnt"),
            Mount { read_only: true, ..mount("files", "/etc/conf.ours") },
            part,
        ];
        let script = "cd /nowhere/deep/data && echo x > file && cat /usr/share/ours/file
            dd if=/dev/zero of=/mnt/big bs=128k count=1 2>&1 | grep -o 'No space left on device'
            cat /etc/conf.ours/a.conf /etc/hello.conf; echo
            (echo y > /etc/conf.ours/b) 2>&1 | grep -o 'Read-only file system'
            (echo y > /etc/mine) 2>&1 | grep -o 'Read-only file system'
            (echo y > /nowhere/mine) 2>&1 | grep -o 'Read-only file system'
            (echo y > /usr/share/mine) 2>&1 | grep -o 'Read-only file system'
            (echo y > /mine) 2>&1 | grep -o 'Read-only file system'
            test -e /etc/passwd && test -d /usr/share/doc && test -c /dev/null && test -d /proc/1 && echo whole
            cat /etc/hostname";
        let read_only = "Read-only file system";
        let expected = [
            "x",
            "No space left on device",
            "hellohello",
            read_only,
            read_only,
            read_only,
            read_only,
            read_only,
            "whole",
            "web-0",
        ];
        assert_eq!(said(&runtime, bundle("v1", volumes, script, mounts), &contents).await, expected);
        let disk = Path::new("/run/minisvc/volumes/v1");
        assert!(disk.join("disk/file").exists());
        finish(&runtime, "v1").await;
        assert!(!disk.exists() && !Path::new("/run/minisvc/pods/v1").exists());
    });
}

/// A link in a volume leads nowhere outside of it.
pub fn links() {
    run(async {
        let runtime = runtime();
        let dir = Path::new("/run/minisvc/volumes/v2/disk");
        std::fs::create_dir_all(dir.join("etc")).unwrap();
        symlink("/etc", dir.join("out")).unwrap();
        symlink("../../../../etc", dir.join("up")).unwrap();
        let within = |sub_path: &str, path: &str| Mount { sub_path: sub_path.into(), ..mount("disk", path) };
        let mounts = vec![within("out", "/mnt"), within("up/deep", "/srv")];
        let script = "ls /mnt /srv | grep -c .; echo x > /mnt/mine; echo y > /srv/mine; ls /etc/mine";
        let seen =
            said(&runtime, bundle("v2", vec![volume("disk", SCRATCH)], script, mounts), &Contents::new())
                .await;
        assert!(seen.last().unwrap().contains("No such file"), "{seen:?}");
        assert_eq!(std::fs::read_to_string(dir.join("etc/mine")).unwrap(), "x\n");
        assert_eq!(std::fs::read_to_string(dir.join("etc/deep/mine")).unwrap(), "y\n");
        finish(&runtime, "v2").await;
    });
}

/// Files that are written anew are seen at once; the environment at the next start.
pub fn news() {
    run(async {
        let runtime = runtime();
        let contents = |text: &str| {
            let file = VolumeFile { path: "a".into(), mode: 0o400, data: text.into() };
            Contents::from([("files".to_owned(), vec![file])])
        };
        let script = "until grep -q new /v/a; do sleep 0.02; done; echo $GREETING; exit 1";
        let mut bundle =
            bundle("v3", vec![volume("files", VolumeKind::Files)], script, vec![mount("files", "/v")]);
        bundle.restart_policy = RestartPolicy::OnFailure;
        runtime.start_pod_with(bundle.clone(), &contents("old"), &[]).await.unwrap();
        wait_for(&runtime, "v3", |pod| pod.containers[0].is_running()).await;
        bundle.containers[0].env = vec![("GREETING".into(), "good day".into())];
        runtime.refresh(&bundle, &contents("new")).unwrap();
        wait_for(&runtime, "v3", |pod| pod.containers[0].restart_count > 1).await;
        let said = |run: u32| log(format!("/run/minisvc/logs/default_web-0_v3/main/{run}.log").as_ref());
        assert!(said(1).contains("good day"), "{}", said(1));
        runtime.stop("v3", std::time::Duration::ZERO).await.unwrap();
        finish(&runtime, "v3").await;
    });
}
