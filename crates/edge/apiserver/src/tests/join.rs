use super::harness::Server;
use crate::{Identity, pki};
use minisvc_apimachinery::join::{JOIN_PATH, JoinResponse};
use serde_json::{Value, json};

fn request(name: &str, address: &str) -> (String, Value) {
    let (key, csr) = pki::node_request(name).unwrap();
    (key, json!({"nodeName": name, "nodeAddress": address, "csr": csr}))
}

#[tokio::test]
async fn a_node_joins_once_under_its_name_and_address() {
    let server = Server::start().await;
    let secret = &server.pki.join_token.secret;
    let mut joining = server.client(None).await.bearer(secret);
    let (key, body) = request("node2", "192.0.2.2");
    let answer = joining.post(JOIN_PATH, &body).await.expect(200);
    let answer: JoinResponse = serde_json::from_value(answer).unwrap();
    assert_eq!(answer.ca, server.pki.ca_certificate());
    let identity = Identity { certificate: answer.certificate, key };
    let mut node = server.client(Some(&identity)).await;
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node2"}});
    node.post("/api/v1/nodes", &object).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}});
    node.patch("/api/v1/nodes/node2/status", "merge-patch", &status).await.expect(200);

    // The same node may ask again, another one of its name or address may not.
    assert_eq!(joining.post(JOIN_PATH, &body).await.code, 200);
    let name = joining.post(JOIN_PATH, &request("node2", "192.0.2.3").1).await;
    assert_eq!(name.code, 409);
    assert!(name.message().contains("--node-name"), "{}", name.message());
    let address = joining.post(JOIN_PATH, &request("node3", "192.0.2.2").1).await;
    assert_eq!(address.code, 409);
    assert!(address.message().contains("--node-ip"), "{}", address.message());
    server.stop().await;
}

#[tokio::test]
async fn two_nodes_that_ask_for_one_name_at_once_do_not_both_get_it() {
    let server = Server::start().await;
    let secret = &server.pki.join_token.secret;
    let mut first = server.client(None).await.bearer(secret);
    let mut second = server.client(None).await.bearer(secret);
    let (a, b) = (request("node2", "192.0.2.2").1, request("node2", "192.0.2.3").1);
    let (a, b) = tokio::join!(first.post(JOIN_PATH, &a), second.post(JOIN_PATH, &b));
    let mut codes = [a.code, b.code];
    codes.sort_unstable();
    assert_eq!(codes, [200, 409]);
    server.stop().await;
}

#[tokio::test]
async fn bad_joins_name_the_field() {
    let server = Server::start().await;
    let mut joining = server.client(None).await.bearer(&server.pki.join_token.secret);
    let good = request("node2", "192.0.2.2").1;
    for (field, value) in [
        ("nodeName", "Node_2"),
        ("nodeName", ""),
        ("nodeName", "../x"),
        ("nodeAddress", "127.0.0.1"),
        ("nodeAddress", "0.0.0.0"),
        ("nodeAddress", "2001:db8::1"),
        ("csr", "nonsense"),
    ] {
        let mut body = good.clone();
        body[field] = value.into();
        let refused = joining.post(JOIN_PATH, &body).await;
        assert_eq!(refused.code, 422, "{field}={value}: {}", refused.text);
        assert_eq!(refused.body["details"]["causes"][0]["field"], field);
    }
    assert_eq!(joining.post(JOIN_PATH, &json!({"nodeName": "x"})).await.code, 400);
    let mut wrong = server.client(None).await.bearer(&"0".repeat(64));
    assert_eq!(wrong.post(JOIN_PATH, &good).await.code, 401);
    server.stop().await;
}
