//! Classes of Ingresses, networks of Services, and who has which address.

use crate::common::{Kubectl, LONG, eventually, says};

const CLASS: &str = "apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: edge, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}
spec: {controller: minisvc.io/ingress}
";

const MORE: &str = "apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: more}
spec: {cidrs: [10.77.0.0/24]}
";

/// A new Ingress gets the default class, and is served if that is of our controller.
pub fn ingresses_have_classes(kubectl: &Kubectl) {
    kubectl.of(&["apply", "-f", "-"], CLASS).ok();
    kubectl.ok("create ingress classed --rule=classed.example/*=web:80");
    let words = "get ingress classed --no-headers";
    says(words, &["edge", "classed.example", "172.31.77.11"], &[], || kubectl.run(words));
    let ask = "exec node1 -- minisvc lab-probe --timeout-ms 3000 --host classed.example http://172.31.77.11/";
    says(ask, &["\"pod\":\"echo\""], &[], || kubectl.0.lab(ask));
    let foreign = CLASS.replace("minisvc.io/ingress", "example.com/other").replace("edge", "foreign");
    kubectl.of(&["apply", "-f", "-"], &foreign).ok();
    let refused = kubectl.of(&["apply", "-f", "-"], &CLASS.replace("minisvc.io/ingress", "a.b/c")).refused();
    assert!(refused.contains("spec.controller: Invalid value: \"a.b/c\": field is immutable"), "{refused}");
    let said = kubectl.ok("describe ingressclass edge");
    assert!(said.contains("minisvc.io/ingress"), "{said}");
    kubectl.ok("delete ingress classed");
    kubectl.ok("delete ingressclass edge foreign");
}

/// Further networks really carry Services, and go once nothing depends on them.
pub fn services_get_addresses_of_further_networks(kubectl: &Kubectl) {
    let resources = kubectl.ok("api-resources --api-group=networking.k8s.io --no-headers");
    for words in
        [["ipaddresses", "ip", "networking.k8s.io/v1"], ["servicecidrs", "networking.k8s.io/v1", "false"]]
    {
        let found = resources.lines().any(|line| line.split_whitespace().zip(words).all(|(a, b)| a == b));
        assert!(found, "{words:?}:\n{resources}");
    }
    for field in ["servicecidr.spec.cidrs", "ipaddress.spec.parentRef", "ingressclass.spec.controller"] {
        assert!(kubectl.ok(&format!("explain {field}")).contains("FIELD"), "{field}");
    }
    let own =
        kubectl.ok("get servicecidrs kubernetes -o jsonpath={.spec.cidrs[*]},{.status.conditions[0].status}");
    assert_eq!(own, "10.43.0.0/16,True");
    assert!(kubectl.ok("get ip 10.43.0.1").contains("services/default/kubernetes"));
    assert!(kubectl.run("delete ip 10.43.0.1").refused().contains("is held by Service default/kubernetes"));
    assert!(kubectl.run("delete servicecidr kubernetes").refused().contains("which stay"));
    kubectl.of(&["apply", "-f", "-"], MORE).ok();
    kubectl.ok("wait --for=condition=Ready servicecidr/more --timeout=30s");
    kubectl.ok("create service clusterip far --tcp=80:8080 --clusterip=10.77.0.5");
    kubectl.ok("set selector service far app=echo");
    for words in ["describe servicecidr more", "describe ip 10.77.0.5"] {
        assert!(kubectl.ok(words).contains("10.77.0."), "{words}");
    }
    for from in ["node1", "pod"] {
        says(from, &["\"pod\":\"echo\""], &[], || match from {
            "pod" => kubectl.0.probe_from_pod("echo", "http://10.77.0.5/"),
            node => kubectl.0.probe(node, "http://10.77.0.5/"),
        });
    }
    let asked = "exec talker -- getent hosts 10.77.0.5";
    says(asked, &["far.default.svc.cluster.local"], &[], || kubectl.run(asked));
    kubectl.ok("delete servicecidr more --wait=false");
    let why = "get servicecidr more -o jsonpath={.status.conditions[0].reason}";
    says(why, &["Terminating"], &[], || kubectl.run(why));
    kubectl.ok("delete service far");
    eventually("the network goes", LONG, || {
        let left = kubectl.ok("get servicecidrs,ipaddresses -o name");
        if left.contains("more") || left.contains("10.77.") { Err(left) } else { Ok(()) }
    });
    eventually("the nodes forget it", LONG, || {
        let routes = kubectl.0.lab("exec node1 -- ip route").out;
        if routes.contains("10.77.") { Err(routes) } else { Ok(()) }
    });
}
