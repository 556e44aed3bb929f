//! As whom containers run, and what they may not do.

use crate::cases::{container, ended, finish, log, pod, run, runtime, wait_for};
use minisvc_runtime::{ContainerSpec, ContainerState, RestartPolicy, security::Security};

const REPORT: &str =
    "id -u; id -g; id -G; sed -n 's/^CapEff:.//p;s/^CapBnd:.//p;s/^NoNewPrivs:.//p' /proc/self/status";

fn spec(script: &str, security: Security) -> ContainerSpec {
    ContainerSpec { security, ..container("main", "host", &["sh", "-c", script]) }
}

/// What a container says, line by line, once it has ended.
async fn said(uid: &str, spec: ContainerSpec) -> Result<Vec<String>, String> {
    let runtime = runtime();
    runtime.start_pod(pod(uid, RestartPolicy::Never, vec![spec])).await.unwrap();
    let record = wait_for(&runtime, uid, |pod| ended(pod).is_some()).await;
    let text = log(format!("/run/minisvc/logs/default_web-0_{uid}/main/0.log").as_ref());
    let end = ended(&record).unwrap().clone();
    finish(&runtime, uid).await;
    match end.exit_code {
        128 => Err(end.message),
        _ => Ok(text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect()),
    }
}

fn is_rootless() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().nth(2) == Some("1")
}

pub fn users() {
    run(async {
        let security =
            Security { user: Some(65534), group: Some(7), groups: vec![9, 8], ..Security::default() };
        let script = format!(
            "{REPORT}; echo there > /dev/stdout; echo $HOME; touch /tmp/mine && echo wrote; cat /etc/shadow"
        );
        let said = said("s1", spec(&script, security)).await;
        if is_rootless() {
            // There is one user only, and no groups can be set.
            let error = said.unwrap_err();
            assert!(error.contains("become user 65534:7"), "{error}");
            return;
        }
        let said = said.unwrap();
        let (none, bounding) = ("0000000000000000", "00000000a00425fb");
        let expected = [
            "65534",
            "7",
            "7 8 9",
            none,
            bounding,
            "1",
            "there",
            "/",
            "wrote",
            "cat: /etc/shadow: Permission denied",
        ];
        assert_eq!(said.len(), expected.len(), "{said:?}");
        // Its home is what /etc/passwd of the machine says of nobody.
        let same = said.iter().zip(expected).enumerate().filter(|(i, _)| *i != 7).all(|(_, (a, b))| a == b);
        assert!(same, "{said:?}");
    });
}

pub fn capabilities() {
    run(async {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let less = Security { dropped: own(&["ALL"]), added: own(&["KILL"]), ..Security::default() };
        let said_less = said("s2", spec(&format!("{REPORT}; touch /etc/x"), less)).await.unwrap();
        assert_eq!(said_less[3..5], ["0000000000000020", "0000000000000020"], "{said_less:?}");
        let more = Security { added: own(&["NET_ADMIN"]), ..Security::default() };
        let said_more = said("s3", spec(REPORT, more)).await.unwrap();
        assert_eq!(said_more[3], "00000000a00435fb", "{said_more:?}");
    });
}

pub fn filters() {
    run(async {
        let script = "unshare -U true; unshare -n true; (echo child); sh -c 'echo programs run'";
        let usual = said("s4", spec(script, Security::default())).await.unwrap();
        assert!(usual.contains(&"programs run".to_owned()), "{usual:?}");
        let filtered = Security { filtered: true, ..Security::default() };
        let said = said("s5", spec(script, filtered)).await.unwrap();
        let refused = said.iter().filter(|line| line.contains("Operation not permitted")).count();
        assert_eq!(refused, 2, "{said:?}");
        assert!(said.ends_with(&["child".to_owned(), "programs run".to_owned()]), "{said:?}");
    });
}

pub fn non_root() {
    run(async {
        let runtime = runtime();
        let security = Security { non_root: true, ..Security::default() };
        let bundle = pod("s6", RestartPolicy::Always, vec![spec("true", security)]);
        runtime.start_pod(bundle).await.unwrap();
        let refused = |state: &ContainerState| {
            matches!(state, ContainerState::Waiting { reason, message } if reason == "CreateContainerConfigError"
                && message == "container has runAsNonRoot and image will run as root (pod: \"web-0_default(s6)\", container: main)")
        };
        wait_for(&runtime, "s6", |pod| refused(&pod.containers[0].state)).await;
        finish(&runtime, "s6").await;
    });
}

pub fn sysctls() {
    run(async {
        let name = "net.ipv4.ip_unprivileged_port_start";
        let security = Security { sysctls: vec![(name.into(), "80".into())], ..Security::default() };
        let script =
            format!("cat /proc/sys/{}; echo 1 > /proc/sys/net/ipv4/ip_forward", name.replace('.', "/"));
        let said = said("s7", spec(&script, security)).await.unwrap();
        assert_eq!(said[0], "80");
        assert!(said[1].contains("Read-only file system"), "{said:?}");
    });
}
