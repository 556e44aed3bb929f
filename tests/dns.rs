//! Cluster DNS as people and programs see it in a lab: `dig` on a node, `getent` and the files of Pods, a control plane
//! that is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{Lab, is_there, says};

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.43.0.60
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Pod
metadata: {name: db-pod, labels: {app: db}}
spec:
  nodeName: node2
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 0
  hostAliases: [{ip: 192.0.2.9, hostnames: [foo.example, bar]}]
  dnsConfig:
    searches: [more.example]
    options: [{name: timeout, value: '3'}]
  containers: [{name: c, image: host, command: [sleep, '1000000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: plain, labels: {app: db}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  dnsPolicy: Default
  containers: [{name: c, image: host, command: [sleep, '1000000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53], searches: [a.example], options: [{name: ndots, value: '2'}, {name: edns0}]}
  containers: [{name: c, image: host, command: [sleep, '1000000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: full}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3]}
  containers: [{name: c, image: host, command: [sleep, '1000000']}]
";

const ZONE: &str = "default.svc.cluster.local";

#[test]
fn names_are_answered_as_in_kubernetes() {
    let Some(lab) = Lab::up("t-dns", 2) else { return };
    lab.minisvc_of(&["apply", "-f", "-"], OBJECTS).ok();
    pods_have_the_kubelets_files(&lab);
    pods_look_names_up(&lab);
    if is_there("dig", "-v") {
        dig_agrees(&lab);
        an_external_name_follows_its_changes(&lab);
        names_outlive_the_control_plane(&lab);
    }
    lab.down();
}

fn inside(lab: &Lab, pod: &str, words: &str) -> common::Said {
    lab.minisvc(&format!("exec {pod} -- {words}"))
}

fn pods_have_the_kubelets_files(lab: &Lab) {
    says("db-pod", &["10.43.0.10"], &[], || inside(lab, "db-pod", "cat /etc/resolv.conf"));
    let resolv_conf = inside(lab, "db-pod", "cat /etc/resolv.conf").ok();
    let search = format!("search {ZONE} svc.cluster.local cluster.local more.example");
    assert_eq!(resolv_conf, format!("{search}\nnameserver 10.43.0.10\noptions ndots:5 timeout:3\n"));

    let address = lab.minisvc("get pod db-pod -o jsonpath={.status.podIP}").ok();
    assert_eq!(
        inside(lab, "db-pod", "cat /etc/hosts").ok(),
        format!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
             {address}\tdb-0.db.{ZONE}\tdb-0\n\n# Entries added by HostAliases.\n192.0.2.9\tfoo.example\tbar\n"
        )
    );
    says("own", &["192.0.2.53"], &[], || inside(lab, "own", "cat /etc/resolv.conf"));
    assert_eq!(
        inside(lab, "own", "cat /etc/resolv.conf").ok(),
        "search a.example\nnameserver 192.0.2.53\noptions ndots:2 edns0\n"
    );
    let left_out = "the applied nameserver line is: 10.43.0.10 192.0.2.1 192.0.2.2";
    says("events", &["DNSConfigForming", left_out], &[], || lab.minisvc("get events -o yaml"));
    says("plain", &[], &["search"], || inside(lab, "plain", "cat /etc/resolv.conf"));
    let node = lab.lab("exec node2 -- cat /etc/resolv.conf").ok();
    assert_eq!(inside(lab, "plain", "cat /etc/resolv.conf").ok(), node);
}

fn pods_look_names_up(lab: &Lab) {
    for (words, answer) in [
        ("getent ahostsv4 web", "10.43.0.60"),
        ("getent ahostsv4 web.default", "10.43.0.60"),
        ("getent ahostsv4 web.default.svc", "10.43.0.60"),
        ("getent ahostsv4 kubernetes.default.svc.cluster.local", "10.43.0.1"),
        ("getent ahostsv4 alias", "10.43.0.60"),
        ("getent hosts bar", "192.0.2.9"),
        ("getent hosts 10.43.0.60", "web.default.svc.cluster.local"),
        ("hostname", "db-0"),
        ("hostname --fqdn", "db-0.db.default.svc.cluster.local"),
    ] {
        says(words, &[answer], &[], || inside(lab, "db-pod", words));
    }
    let address = lab.minisvc("get pod db-pod -o jsonpath={.status.podIP}").ok();
    says("by hostname and subdomain", &[&address], &[], || inside(lab, "db-pod", "getent ahostsv4 db-0.db"));
}

fn dig(lab: &Lab, words: &str) -> common::Said {
    lab.lab(&format!("exec node2 -- dig @10.43.0.10 +time=2 +tries=1 {words}"))
}

fn dig_agrees(lab: &Lab) {
    let address = |pod: &str| lab.minisvc(&format!("get pod {pod} -o jsonpath={{.status.podIP}}")).ok();
    let (named, dashed) = (address("db-pod"), address("plain").replace('.', "-"));
    let srv = format!("_http._tcp.db.{ZONE}");
    says("both endpoints", &[&named, &dashed.replace('-', ".")], &[], || {
        dig(lab, &format!("+short db.{ZONE}"))
    });
    for (words, parts) in [
        (format!("+short web.{ZONE}"), vec!["10.43.0.60\n"]),
        (format!("+short +tcp web.{ZONE}"), vec!["10.43.0.60\n"]),
        ("+short TXT dns-version.cluster.local".to_owned(), vec!["\"1.1.0\"\n"]),
        ("+short -x 10.43.0.60".to_owned(), vec!["web.default.svc.cluster.local.\n"]),
        (format!("-x {named}"), vec!["db-0.db.default.svc.cluster.local."]),
        (format!("SRV _dns._udp.web.{ZONE}"), vec!["0 100 53 web.default.svc", "IN\tA\t10.43.0.60"]),
        (format!("SRV {srv}"), vec!["50 8080 db-0.db.default.svc.cluster.local.", &dashed, "ADDITIONAL: 3"]),
        (format!("WeB.{ZONE}"), vec!["status: NOERROR", ";WeB.default", "\nWeB.default", "flags: qr aa rd"]),
        (format!("gone.{ZONE}"), vec!["status: NXDOMAIN", "AUTHORITY: 1", "IN\tSOA\tns.dns.cluster.local."]),
        (format!("AAAA web.{ZONE}"), vec!["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1", "IN\tSOA"]),
        ("svc.cluster.local".to_owned(), vec!["status: NOERROR", "ANSWER: 0", "IN\tSOA"]),
        (ZONE.to_owned(), vec!["status: NOERROR", "ANSWER: 0", "IN\tSOA"]),
        (format!("_tcp.web.{ZONE}"), vec!["status: NOERROR", "ANSWER: 0", "IN\tSOA"]),
        (format!("+edns=1 +noednsnegotiation web.{ZONE}"), vec!["status: BADVERS", "EDNS: version: 0"]),
        (format!("+opcode=7 web.{ZONE}"), vec!["status: NOTIMP"]),
        (format!("-c CH web.{ZONE}"), vec!["status: REFUSED"]),
    ] {
        says(&words, &parts, &[], || dig(lab, &words));
    }
    // By the search path of a Pod, as the conformance tests ask.
    for (words, part) in [
        ("dig +search +short A web", "10.43.0.60\n"),
        ("dig +search +short A db-0.db", &named),
        ("dig +search +short SRV _http._tcp.web", "0 100 80 web.default.svc.cluster.local.\n"),
        (
            "dig +tcp +search +short SRV _http._tcp.web.default.svc",
            "0 100 80 web.default.svc.cluster.local.\n",
        ),
        ("dig +search +short A kubernetes.default", "10.43.0.1\n"),
    ] {
        says(words, &[part], &[], || inside(lab, "db-pod", words));
    }
}

fn an_external_name_follows_its_changes(lab: &Lab) {
    let apply = |spec: &str| {
        let object = format!("{{apiVersion: v1, kind: Service, metadata: {{name: alias}}, spec: {spec}}}");
        lab.minisvc_of(&["apply", "-f", "-"], &object).ok();
    };
    let asked = || dig(lab, &format!("alias.{ZONE}"));
    says("CNAME", &["CNAME\tweb.default.svc.cluster.local.", "A\t10.43.0.60"], &[], asked);
    apply(&format!("{{type: ExternalName, externalName: db.{ZONE}}}"));
    says("another CNAME", &["CNAME\tdb.default.svc.cluster.local."], &["10.43.0.60"], asked);
    apply("{type: ClusterIP, externalName: '', clusterIP: 10.43.0.61, ports: [{port: 80}]}");
    says("an address", &["A\t10.43.0.61"], &["CNAME"], asked);
}

/// The last complete records are answered from while there is nobody to ask for newer ones.
fn names_outlive_the_control_plane(lab: &Lab) {
    lab.lab("kill node1").ok();
    let asked = || dig(lab, &format!("+short web.{ZONE}"));
    for _ in 0..3 {
        assert_eq!(asked().ok(), "10.43.0.60\n");
    }
    lab.lab("start node1").ok();
    lab.wait_for_nodes(2);
    says("still", &["10.43.0.60"], &[], asked);
}
