//! Reviews, and the role that only reads.

use super::harness::{CONFIG_MAPS, Server, config_map, revision};
use serde_json::{Value, json};

const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const OTHERS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
const LOCAL: &str = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const TOKEN: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

fn may(verb: &str, resource: &str) -> Value {
    json!({"spec": {"resourceAttributes": {"namespace": "default", "verb": verb, "resource": resource}}})
}

#[tokio::test]
async fn what_a_review_says_is_what_a_request_meets() {
    let server = Server::start().await;
    let mut viewer = server.client(Some(&server.pki.viewer)).await;
    let before = revision(&server);
    for (verb, resource, path) in [
        ("list", "pods", "/api/v1/namespaces/default/pods"),
        ("list", "secrets", "/api/v1/namespaces/default/secrets"),
        ("list", "configmaps", CONFIG_MAPS),
    ] {
        let review = viewer.post(ACCESS, &may(verb, resource)).await.expect(201);
        let allowed = if resource == "secrets" { 403 } else { 200 };
        assert_eq!(viewer.get(path).await.code, allowed);
        assert_eq!(review["status"], json!({"allowed": allowed == 200}), "{resource}");
        assert_eq!(review["kind"], "SelfSubjectAccessReview");
    }
    let review = viewer.post(ACCESS, &may("create", "configmaps")).await.expect(201);
    assert_eq!(review["status"]["allowed"], false);
    assert_eq!(viewer.post(CONFIG_MAPS, &config_map("a", json!({}))).await.code, 403);
    let path = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    assert_eq!(viewer.post(ACCESS, &path).await.expect(201)["status"]["allowed"], false);

    let mut admin = server.admin().await;
    for kind in [may("list", "pods"), may("*", "*"), path] {
        assert_eq!(admin.post(ACCESS, &kind).await.expect(201)["status"]["allowed"], true);
    }
    let mut other = may("list", "pods");
    other["spec"]["user"] = "jane".into();
    assert_eq!(admin.post(OTHERS, &other).await.expect(201)["status"]["allowed"], false);
    other["spec"]["groups"] = json!(["minisvc:viewers"]);
    assert_eq!(admin.post(OTHERS, &other).await.expect(201)["status"]["allowed"], true);
    assert_eq!(admin.post(LOCAL, &other).await.expect(201)["status"]["allowed"], true);
    assert_eq!(viewer.post(OTHERS, &other).await.code, 403);
    assert_eq!(revision(&server), before, "reviews are not stored");
    assert_eq!(admin.get(ACCESS).await.code, 405);
    server.stop().await;
}

#[tokio::test]
async fn who_asks_and_what_they_may_is_told() {
    let server = Server::start().await;
    let mut viewer = server.client(Some(&server.pki.viewer)).await;
    let who = viewer.post(WHO, &json!({})).await.expect(201);
    assert_eq!(
        who["status"]["userInfo"],
        json!({"username": "minisvc:viewer", "groups": ["minisvc:viewers", "system:authenticated"]})
    );
    let rules = viewer.post(RULES, &json!({"spec": {"namespace": "default"}})).await.expect(201);
    assert_eq!(rules["status"]["incomplete"], false);
    let text = rules["status"].to_string();
    assert!(text.contains("\"pods/log\"") && !text.contains("secrets") && !text.contains("exec"), "{text}");
    let node = &mut server.client(Some(&server.pki.node)).await;
    let rules = node.post(RULES, &json!({"spec": {"namespace": "default"}})).await.expect(201);
    assert_eq!(rules["status"]["incomplete"], true);

    let mut admin = server.admin().await;
    let review = |token: &str| json!({"spec": {"token": token}});
    let known = admin.post(TOKEN, &review(&server.pki.admin_token)).await.expect(201);
    assert_eq!(known["status"]["authenticated"], true);
    assert_eq!(known["status"]["user"]["username"], "system:admin");
    let unknown = admin.post(TOKEN, &review("x")).await.expect(201);
    assert_eq!(unknown["status"], json!({"user": {}, "error": "[invalid bearer token]"}));
    let mut elsewhere = review(&server.pki.admin_token);
    elsewhere["spec"]["audiences"] = json!(["vault"]);
    assert!(admin.post(TOKEN, &elsewhere).await.expect(201)["status"]["authenticated"].is_null());
    assert_eq!(viewer.post(TOKEN, &review("x")).await.code, 403);
    server.stop().await;
}

#[tokio::test]
async fn faulty_reviews_are_refused_by_field() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let mut both = may("list", "pods");
    both["spec"]["nonResourceAttributes"] = json!({"verb": "get", "path": "/"});
    let mut elsewhere = may("list", "pods");
    elsewhere["spec"]["user"] = "jane".into();
    elsewhere["spec"]["resourceAttributes"]["namespace"] = "kube-system".into();
    for (path, review, code, words) in [
        (ACCESS, json!({"spec": {}}), 422, "spec.resourceAttributes: Invalid value"),
        (ACCESS, both, 422, "spec.nonResourceAttributes: Invalid value"),
        (ACCESS, json!({"kind": "Pod", "spec": {}}), 400, "does not match the expected kind"),
        (ACCESS, json!([]), 400, "must be a SelfSubjectAccessReview object"),
        (ACCESS, json!({"spec": {"resourceAttributes": {"verb": 1}}}), 400, "verb"),
        (OTHERS, may("list", "pods"), 422, "spec.user: Invalid value"),
        (LOCAL, elsewhere, 422, "must match metadata.namespace"),
        (RULES, json!({"spec": {}}), 400, "no namespace on request"),
        (TOKEN, json!({"spec": {}}), 400, "token is required"),
    ] {
        let refused = admin.post(path, &review).await;
        assert_eq!(refused.code, code, "{path} {review}: {}", refused.text);
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    server.stop().await;
}
