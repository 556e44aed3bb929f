//! Attempts to get out of a Pod, from inside of it: at processes, files, links, the API, and the addresses of others.
//!
//! The attacker has what any Pod has (NET_RAW among it); a second one has whatever may be added. This binary is its own
//! weapon: it is copied into Pods, and [`weapon`] is what they run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{Kubectl, LONG, Lab, eventually, given, is_there};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

/// Where the listener listens.
const PORT: u16 = 5000;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: victim, labels: {app: victim}}
spec: {nodeName: node1, containers: [{name: c, image: echo, ports: [{containerPort: 8080}]}, {name: s, image: host, command: [sleep, '98765']}]}
---
apiVersion: v1
kind: Pod
metadata: {name: mallory}
spec: {nodeName: node1, containers: [{name: c, image: host, command: [sleep, '9999']}]}
---
apiVersion: v1
kind: Pod
metadata: {name: admin}
spec:
  nodeName: node1
  containers:
  - {name: c, image: host, command: [sleep, '9999'], securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW, SYS_PTRACE, IPC_LOCK]}}}
";

/// What the Pods of this test run; nothing to do elsewhere.
#[test]
fn weapon() {
    let Ok(weapon) = std::env::var("WEAPON") else { return };
    let word = |name: &str| std::env::var(name).unwrap();
    match weapon.as_str() {
        "listen" => {
            let socket = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
            println!("listening");
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                println!("from {}", from.ip());
            }
        }
        "send" => {
            let address = |name: &str| word(name).parse::<Ipv4Addr>().unwrap();
            let (from, to) = (address("FROM"), address("TO"));
            let raw =
                socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
            let target = SockaddrIn::from(SocketAddrV4::new(to, 0));
            sendto(raw.as_raw_fd(), &datagram(from, to), &target, MsgFlags::empty()).unwrap();
        }
        other => panic!("{other}"),
    }
}

/// An IPv4 packet (RFC 791) with a UDP datagram without checksum; the kernel fills in length and header checksum.
fn datagram(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(4444_u16.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend(9_u16.to_be_bytes());
    packet.extend([0, 0, b'!']);
    packet
}

#[test]
fn nobody_gets_out_of_a_pod() {
    if !is_there("kubectl", "version --client") {
        return;
    }
    let Some(lab) = Lab::up("t-out", 2) else { return };
    let kubectl = Kubectl(&lab);
    kubectl
        .of(
            &["apply", "-f", "-"],
            &format!("{PODS}{}{}", listener("near", "node1"), listener("far", "node2")),
        )
        .ok();
    kubectl.ok("wait --for=condition=Ready pod --all --timeout=60s");
    other_processes_are_not_there(&kubectl);
    nothing_of_the_node_can_be_written_or_mounted(&kubectl);
    the_nodes_secrets_are_not_in_sight(&lab, &kubectl);
    links_and_tables_are_the_pods_own(&kubectl);
    what_exec_runs_is_as_confined(&kubectl);
    nobody_answers_without_a_credential(&lab, &kubectl);
    a_source_is_the_pods_own_or_the_packet_is_dropped(&lab, &kubectl);
    an_address_that_is_taken_leads_nobody_astray(&lab, &kubectl);
    lab.down();
}

fn listener(name: &str, node: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  containers:
  - name: c\n    image: host\n    env: [{{name: WEAPON, value: listen}}]
    command: [sh, -c, 'while [ ! -e /tmp/armed ]; do sleep 0.05; done; exec /tmp/weapon weapon --exact --nocapture']\n"
    )
}

/// Copies this binary into a Pod. Its file may lie where Pods have a directory of their own.
fn arm(lab: &Lab, pod: &str) {
    let this = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let script = "cat > /tmp/weapon && chmod +x /tmp/weapon && touch /tmp/armed";
    let mut command = lab.command("kubectl", &["exec", "-i", pod, "--", "sh", "-c", script]);
    assert!(command.stdin(this).status().unwrap().success(), "{pod}");
}

/// What a script says in a Pod, on either stream.
fn said(kubectl: &Kubectl<'_>, pod: &str, script: &str) -> String {
    let said = kubectl.of(&["exec", pod, "--", "sh", "-c", &format!("{{ {script}\n}} 2>&1; true")], "");
    assert_eq!(said.code, 0, "{script}: {said:?}");
    said.out
}

/// Runs commands that must all fail, in both attackers.
fn all_fail(kubectl: &Kubectl<'_>, commands: &[&str]) {
    for pod in ["mallory", "admin"] {
        let each = commands.iter().map(|command| {
            format!("({command}) >/dev/null 2>&1 && echo \"DONE: {}\"", command.replace('"', "'"))
        });
        let script = each.collect::<Vec<_>>().join("\n");
        assert_eq!(said(kubectl, pod, &script), "", "in {pod}");
    }
}

fn other_processes_are_not_there(kubectl: &Kubectl<'_>) {
    for pod in ["mallory", "admin"] {
        let all = said(kubectl, pod, "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'");
        assert!(all.contains("9999") && !all.contains("98765"), "{pod}: {all}");
        let numbers = said(kubectl, pod, "ls /proc | grep -c '^[0-9]'");
        assert!(numbers.trim().parse::<u32>().unwrap() < 8, "{pod} sees {numbers} processes");
    }
    all_fail(kubectl, &["kill -0 2000", "kill -9 300", "ls /proc/2000/root/"]);
}

fn nothing_of_the_node_can_be_written_or_mounted(kubectl: &Kubectl<'_>) {
    all_fail(
        kubectl,
        &[
            "touch /x",
            "touch /etc/x",
            "touch /usr/x",
            "touch /usr/bin/x",
            "touch /var/x",
            "touch /root/x",
            "touch /home/x",
            "touch /boot/x",
            "touch /proc/1/root/etc/x",
            "echo x >> /etc/passwd",
            "rm -f /etc/hostname",
            "chmod 777 /etc",
            "echo h > /proc/sysrq-trigger",
            "echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
            "echo 1 > /proc/sys/kernel/panic",
            "echo x > /sys/kernel/uevent_helper",
            "cat /proc/kcore",
            "mount -o remount,rw /",
            "mount -t tmpfs x /mnt",
            "mount --bind / /mnt",
            "umount /proc/sys",
            "umount /etc/hosts",
            "mknod /tmp/disk b 8 0 && cat /tmp/disk",
            "mknod /tmp/mem c 1 1 && cat /tmp/mem",
            "unshare -m true",
            "unshare -Urm mount -o remount,rw /",
            "unshare -Urm mount -o remount,bind,rw /",
            "unshare -Urm umount /proc/sys",
            "unshare -Urm umount /run",
            "unshare -Urm sh -c 'mount -o remount,bind,rw /usr; touch /usr/x'",
            "unshare -n true",
            "swapoff -a && false || swapoff /none",
            "reboot -f",
            "date -s 2001-01-01",
            "hostname evil",
            "modprobe none",
            "dmesg | grep .",
            "chroot /proc/1/root touch /etc/x",
        ],
    );
    let devices = said(kubectl, "mallory", "ls /dev");
    for word in ["sda", "vda", "mem", "kmsg", "tun"] {
        assert!(!devices.lines().any(|line| line == word), "{word}: {devices}");
    }
}

fn the_nodes_secrets_are_not_in_sight(lab: &Lab, kubectl: &Kubectl<'_>) {
    let dir = lab.dir();
    let found = said(
        kubectl,
        "admin",
        &format!(
            "ls -A {} /var/lib/minisvc /etc/minisvc /run/minisvc /run/netns 2>/dev/null | grep -v ':$' | grep .
             find / -xdev -name '*{}*' 2>/dev/null | head -3
             ls /sys/fs/cgroup 2>/dev/null; cat /proc/net/unix | grep minisvc",
            dir.display(),
            lab.name
        ),
    );
    assert_eq!(found, "");
}

fn links_and_tables_are_the_pods_own(kubectl: &Kubectl<'_>) {
    for pod in ["mallory", "admin"] {
        let links = said(kubectl, pod, "ls /sys/class/net | LC_ALL=C sort | tr -d ' \\n'");
        assert_eq!(links, "eth0lo", "{pod}");
    }
    if is_there("nft", "--version") {
        let tables = said(kubectl, "admin", "nft list tables");
        assert!(!tables.contains("minisvc"), "{tables}");
        assert!(said(kubectl, "mallory", "nft add table ip x && echo DONE").contains("not permitted"));
    }
    all_fail(
        kubectl,
        &["nsenter -t 1 -m true", "nsenter --net=/proc/2000/ns/net true", "ip netns list | grep ."],
    );
}

fn what_exec_runs_is_as_confined(kubectl: &Kubectl<'_>) {
    for pod in ["mallory", "admin"] {
        let lines = |file: &str| {
            said(
                kubectl,
                pod,
                &format!("grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp|Uid|Gid):' {file}"),
            )
        };
        assert_eq!(lines("/proc/self/status"), lines("/proc/1/status"), "{pod}");
        assert!(lines("/proc/1/status").contains("NoNewPrivs:\t1"), "{pod}");
        for kind in ["mnt", "net", "pid", "uts", "ipc"] {
            let of = |process: &str| said(kubectl, pod, &format!("readlink /proc/{process}/ns/{kind}"));
            assert_eq!(of("self"), of("1"), "{pod}: {kind}");
        }
    }
}

fn nobody_answers_without_a_credential(lab: &Lab, kubectl: &Kubectl<'_>) {
    if !is_there("curl", "--version") {
        return;
    }
    let node = given(lab, "node/node1", ".status.addresses[0].address");
    let ask = |url: &str| {
        said(kubectl, "mallory", &format!("curl -sk -m 5 -w ' %{{http_code}}' {url} || echo none"))
    };
    for path in [
        "api/v1/secrets",
        "api/v1/nodes",
        "apis/apps/v1/deployments",
        "api/v1/namespaces/default/pods/victim/log",
    ] {
        for host in ["kubernetes.default.svc.cluster.local", node.as_str()] {
            let port = if host == node { ":6443" } else { "" };
            let answer = ask(&format!("https://{host}{port}/{path}"));
            assert!(answer.ends_with(" 401") && answer.contains("Unauthorized"), "{host}/{path}: {answer}");
        }
    }
    // The node's own server wants the cluster's certificate before anything is said.
    for path in ["pods", "exec/default/victim/c?command=id", "containerLogs/default/victim/c"] {
        let answer = ask(&format!("https://{node}:10250/{path}"));
        assert!(
            answer.contains("none") || answer.contains("401") || answer.contains("403"),
            "{path}: {answer}"
        );
    }
}

fn a_source_is_the_pods_own_or_the_packet_is_dropped(lab: &Lab, kubectl: &Kubectl<'_>) {
    let address = |pod: &str| given(lab, &format!("pod/{pod}"), ".status.podIP");
    ["mallory", "near", "far"].into_iter().for_each(|pod| arm(lab, pod));
    let (victim, own) = (address("victim"), address("mallory"));
    let node = given(lab, "node/node1", ".status.addresses[0].address");
    for to in ["near", "far"] {
        eventually("somebody listens", LONG, || match kubectl.run(&format!("logs {to}")).out {
            text if text.contains("listening") => Ok(()),
            text => Err(text),
        });
        let send = |from: &str| {
            let script =
                format!("WEAPON=send FROM={from} TO={} /tmp/weapon weapon --exact --nocapture", address(to));
            said(kubectl, "mallory", &script)
        };
        for other in [victim.as_str(), node.as_str(), "10.43.0.1", "192.0.2.1", "127.0.0.1", "169.254.1.1"] {
            send(other); // some of these the Pod's own kernel does not even send
        }
        let sent = send(&own);
        assert!(sent.contains("1 passed"), "{sent}");
        let heard =
            eventually("what is true arrives", LONG, || match kubectl.run(&format!("logs {to}")).out {
                text if text.contains(&format!("from {own}\n")) => Ok(text),
                text => Err(text),
            });
        let sources: Vec<&str> = heard.lines().filter_map(|line| line.strip_prefix("from ")).collect();
        assert_eq!(sources, [own.as_str()], "to {to}");
    }
}

/// A Pod that may administer its network takes another's address, and its hardware address; who asks for it still gets the other.
fn an_address_that_is_taken_leads_nobody_astray(lab: &Lab, kubectl: &Kubectl<'_>) {
    let victim = given(lab, "pod/victim", ".status.podIP");
    let script = format!(
        "ip addr add {victim}/32 dev eth0 && ip link set eth0 arp on && echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify
         ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:99; ip link set eth0 up; echo taken"
    );
    let taken = said(kubectl, "admin", &script);
    if !taken.contains("taken") || taken.contains("not found") {
        println!("skipped: no ip: {taken}");
        return;
    }
    for from in ["node1", "node2"] {
        for _ in 0..5 {
            let answer = lab.probe(from, &format!("http://{victim}:8080/")).ok();
            assert!(answer.contains("\"victim\""), "from {from}: {answer}");
        }
    }
    let answer = lab.probe_from_pod("mallory", &format!("http://{victim}:8080/"));
    assert!(answer.out.contains("\"victim\"") || answer.out.is_empty(), "{answer:?}");
}
