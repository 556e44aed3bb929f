//! Mistakes that others made at the API, each by its number: what asked for them is refused, and nothing changed.
//!
//! Proxied requests (CVE-2020-8555, CVE-2020-8562, CVE-2022-3294) are in `proxy`, bombs (CVE-2019-11253) in `bad_input`.

use super::harness::{Client, SERVICES, Server, revision, service};
use http::Method;
use serde_json::{Value, json};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const PODS: &str = "/api/v1/namespaces/default/pods";
const NODES: &str = "/api/v1/nodes";

/// Sends a change of an object by each kind of patch, and the whole object with it by PUT.
async fn every_way(client: &mut Client, path: &str, change: &Value, code: u16, words: &str) {
    let mut whole = client.get(path).await.expect(200);
    json_merge(&mut whole, change);
    let mut configuration = change.clone();
    for field in ["apiVersion", "kind"] {
        configuration[field] = whole[field].clone();
    }
    configuration["metadata"]["name"] = whole["metadata"]["name"].clone();
    let put = (Method::PUT, String::new(), "application/json", &whole);
    let patch = |kind| (Method::PATCH, "?fieldManager=me".to_owned(), kind, change);
    let apply = (
        Method::PATCH,
        "?fieldManager=me&force=true".to_owned(),
        "application/apply-patch+yaml",
        &configuration,
    );
    for (method, query, media, body) in
        [put, patch("application/merge-patch+json"), patch("application/strategic-merge-patch+json"), apply]
    {
        let answer = client.send(method, &format!("{path}{query}"), media, body.to_string()).await;
        assert_eq!(answer.code, code, "{media} {change}: {}", answer.text);
        assert!(answer.message().contains(words), "{media}: {}", answer.message());
    }
}

/// RFC 7386.
fn json_merge(into: &mut Value, change: &Value) {
    match change {
        Value::Object(change) => {
            for (key, value) in change {
                json_merge(&mut into[key], value);
            }
        }
        value => *into = value.clone(),
    }
}

/// CVE-2020-8554: by `spec.externalIPs`, or by the status, a Service takes an address that is somebody else's.
#[tokio::test]
async fn no_service_takes_an_address_that_was_not_given() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let mut balanced = service("lb");
    balanced["spec"]["type"] = "LoadBalancer".into();
    admin.post(SERVICES, &service("web")).await.expect(201);
    admin.post(SERVICES, &balanced).await.expect(201);
    let robot = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.post(accounts, &robot).await.expect(201);
    let token = admin.post(&format!("{accounts}/robot/token"), &json!({})).await.expect(201);
    let before = revision(&server);

    let denied = "spec.externalIPs: Use of external IPs is denied by admission control";
    let mut new = service("new");
    new["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    let refused = admin.post(SERVICES, &new).await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    assert!(refused.message().ends_with(denied), "{}", refused.message());
    let taking = json!({"spec": {"externalIPs": ["192.0.2.1"]}});
    every_way(&mut admin, &format!("{SERVICES}/web"), &taking, 403, denied).await;

    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let path = format!("{SERVICES}/web/status");
    every_way(&mut admin, &path, &status, 422, "may only be used when `spec.type` is").await;
    let mut others = [
        server.client(Some(&server.pki.node)).await,
        server.client(Some(&server.pki.viewer)).await,
        server.client(None).await.bearer(token["status"]["token"].as_str().unwrap()),
    ];
    for other in &mut others {
        for path in [format!("{SERVICES}/lb/status"), format!("{SERVICES}/lb")] {
            for kind in ["merge-patch", "strategic-merge-patch"] {
                assert_eq!(other.patch(&path, kind, &status).await.code, 403, "{path}");
            }
            assert_eq!(other.put(&path, &balanced).await.code, 403, "{path}");
        }
    }
    assert_eq!(revision(&server), before);
    // By the object itself nobody writes its status.
    let mut lb = admin.get(&format!("{SERVICES}/lb")).await.expect(200);
    json_merge(&mut lb, &status);
    let kept = admin.put(&format!("{SERVICES}/lb"), &lb).await.expect(200);
    assert_eq!(kept["status"], json!({"loadBalancer": {}}));
    server.stop().await;
}

/// CVE-2021-25737: endpoints at the node itself or on its link.
#[tokio::test]
async fn no_endpoint_is_at_the_node_itself_or_on_its_link() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let slice = |address: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}]})
    };
    let endpoints = |address: &str| json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"}, "subsets": [{"addresses": [{"ip": address}]}]});
    admin.post(SLICES, &slice("192.0.2.1")).await.expect(201);
    admin.post(ENDPOINTS, &endpoints("192.0.2.1")).await.expect(201);
    let before = revision(&server);
    for (address, words) in [
        ("127.0.0.1", "may not be in the loopback range"),
        ("127.8.9.10", "may not be in the loopback range"),
        ("169.254.169.254", "may not be in the link-local range"),
        ("0.0.0.0", "may not be unspecified"),
        ("224.0.0.1", "multicast range"),
    ] {
        for (path, object, field) in
            [(SLICES, slice(address), "endpoints"), (ENDPOINTS, endpoints(address), "subsets")]
        {
            let mut new = object.clone();
            new["metadata"]["name"] = "b".into();
            let refused = admin.post(path, &new).await;
            assert_eq!(refused.code, 422, "{address}: {}", refused.text);
            assert!(refused.message().contains(words), "{}", refused.message());
            let change = json!({field: object[field]});
            every_way(&mut admin, &format!("{path}/a"), &change, 422, words).await;
        }
    }
    assert_eq!(revision(&server), before);
    server.stop().await;
}

/// CVE-2021-25740: endpoints that lead to another namespace's Pods or out of the cluster.
#[tokio::test]
async fn only_the_administrator_says_where_endpoints_are() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let mut node = server.client(Some(&server.pki.node)).await;
    let mut viewer = server.client(Some(&server.pki.viewer)).await;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.42.1.5"]}]});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"},
        "subsets": [{"addresses": [{"ip": "10.42.1.5"}]}]});
    for (path, object) in [(SLICES, &slice), (ENDPOINTS, &endpoints)] {
        admin.post(path, object).await.expect(201);
        let before = revision(&server);
        for other in [&mut node, &mut viewer] {
            let one = format!("{path}/a");
            let codes = [
                other.post(path, object).await.code,
                other.put(&one, object).await.code,
                other.patch(&one, "merge-patch", object).await.code,
                other.delete(&one).await.code,
            ];
            assert_eq!(codes, [403; 4], "{path}");
        }
        assert_eq!(revision(&server), before);
    }
    // What a node says of its Pods makes endpoints within its own network only, so it must not choose that itself.
    let named = |name: &str, net: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": net}});
    admin.post(NODES, &named("node2", "10.42.2.0/24")).await.expect(201);
    for (net, words) in [
        ("0.0.0.0/0", "must be within the cluster's Pod network"),
        ("192.0.2.0/24", "must be within the cluster's Pod network"),
        ("10.42.2.0/25", "overlaps 10.42.2.0/24 of node \"node2\""),
        ("10.42.0.0/16", "overlaps 10.42.2.0/24 of node \"node2\""),
    ] {
        let refused = node.post(NODES, &named("node1", net)).await;
        assert_eq!(refused.code, 422, "{net}: {}", refused.text);
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    node.post(NODES, &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}))
        .await
        .expect(201);
    let change = json!({"spec": {"podCIDR": "10.42.2.0/24", "podCIDRs": ["10.42.2.0/24"]}});
    let own = format!("{NODES}/node1");
    let refused = node.patch(&own, "merge-patch", &change).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let mine = json!({"spec": {"podCIDR": "10.42.1.0/24"}});
    admin.patch(&own, "merge-patch", &mine).await.expect(200);
    assert_eq!(node.patch(&own, "merge-patch", &change).await.code, 422, "nor another than it was given");
    server.stop().await;
}

/// CVE-2020-8561: a hook that redirects, and answers into a log. There are no hooks of any kind to register.
#[tokio::test]
async fn there_are_no_webhooks() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    for path in [
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        "/apis/apiregistration.k8s.io/v1/apiservices",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    ] {
        let answer = admin.post(path, &json!({"metadata": {"name": "x"}})).await;
        assert_eq!((answer.code, &answer.body["reason"]), (404, &json!("NotFound")), "{path}");
    }
    server.stop().await;
}

/// Labels by which a Service would pick a Pod are not a node's to set.
#[tokio::test]
async fn a_node_puts_no_pod_behind_a_service() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "echo"}]}});
    admin.post(PODS, &pod).await.expect(201);
    let mut node = server.client(Some(&server.pki.node)).await;
    let labelled = json!({"metadata": {"labels": {"app": "web"}}, "status": {"phase": "Running"}});
    let after = node.patch(&format!("{PODS}/p/status"), "merge-patch", &labelled).await.expect(200);
    assert_eq!((&after["status"]["phase"], &after["metadata"]["labels"]), (&json!("Running"), &Value::Null));
    server.stop().await;
}
