//! Tokens of ServiceAccounts: made, shown, verified by others, and what those who show them may.

use super::harness::{CONFIG_MAPS, Client, Server, config_map, revision};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn account(role: Option<&str>) -> Value {
    let annotations = role.map(|role| json!({"minisvc.io/role": role}));
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "annotations": annotations}})
}

async fn token(admin: &mut Client, spec: Value) -> String {
    let made = admin.post(&format!("{ACCOUNTS}/robot/token"), &json!({"spec": spec})).await.expect(201);
    made["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_account_is_who_its_token_says_and_may_what_every_account_may() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let made = admin.post(ACCOUNTS, &account(None)).await.expect(201);
    let before = revision(&server);
    let made = (made["metadata"]["uid"].clone(), token(&mut admin, json!({})).await);
    assert_eq!(revision(&server), before, "tokens are not stored");
    let (uid, token) = made;
    let mut robot = server.client(None).await.bearer(&token);
    let who = robot.post(WHO, &json!({})).await.expect(201);
    let info = &who["status"]["userInfo"];
    assert_eq!((&info["username"], &info["uid"]), (&json!("system:serviceaccount:default:robot"), &uid));
    assert_eq!(
        info["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    let id = info["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap();
    assert!(id.starts_with("JTI="), "{id}");
    for path in ["/api", "/apis", "/openapi/v3", "/.well-known/openid-configuration", "/openid/v1/jwks"] {
        assert_eq!(robot.get(path).await.code, 200, "{path}");
    }
    let refused = robot.get(CONFIG_MAPS).await;
    assert_eq!(
        (refused.code, refused.message()),
        (
            403,
            r#"configmaps is forbidden: User "system:serviceaccount:default:robot" cannot list resource "configmaps" in API group "" in the namespace "default""#
        )
    );
    assert_eq!(robot.post(&format!("{ACCOUNTS}/robot/token"), &json!({})).await.code, 403);
    // By its own certificate, the same connection is somebody else; the token counts.
    let mut both = server.admin().await.bearer(&token);
    assert_eq!(both.get(CONFIG_MAPS).await.code, 403);
    let mut forged = server.admin().await.bearer(&format!("{token}x"));
    assert_eq!(forged.get("/api").await.code, 401);
    server.stop().await;
}

#[tokio::test]
async fn a_role_is_given_by_the_administrator_and_holds_at_once() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let path = format!("{ACCOUNTS}/robot");
    admin.post(ACCOUNTS, &account(Some("view"))).await.expect(201);
    let mut robot = server.client(None).await.bearer(&token(&mut admin, json!({})).await);
    let mut viewer = server.client(Some(&server.pki.viewer)).await;
    let give = |role: &str| json!({"metadata": {"annotations": {"minisvc.io/role": role}}});
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!((robot.get(CONFIG_MAPS).await.code, robot.get(secrets).await.code), (200, 403));
    for who in [&mut robot, &mut viewer] {
        assert_eq!(
            who.patch(&path, "merge-patch", &give("admin")).await.code,
            403,
            "nobody gives more than they have"
        );
        assert_eq!(who.post(ACCOUNTS, &account(Some("admin"))).await.code, 403);
    }
    let may = json!({"spec": {"user": "system:serviceaccount:default:robot",
        "resourceAttributes": {"namespace": "default", "verb": "create", "resource": "configmaps"}}});
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(admin.post(reviews, &may).await.expect(201)["status"]["allowed"], false);
    admin.patch(&path, "merge-patch", &give("admin")).await.expect(200);
    assert_eq!(admin.post(reviews, &may).await.expect(201)["status"]["allowed"], true);
    assert_eq!(robot.post(CONFIG_MAPS, &config_map("a", json!({}))).await.code, 201);
    assert_eq!(robot.get(secrets).await.code, 200);
    let refused = admin.patch(&path, "merge-patch", &give("root")).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("metadata.annotations[minisvc.io/role]"), "{}", refused.message());
    admin.patch(&path, "merge-patch", &json!({"metadata": {"annotations": null}})).await.expect(200);
    assert_eq!(robot.get(CONFIG_MAPS).await.code, 403);
    // The account that comes after it is another.
    admin.delete(&path).await.expect(200);
    assert_eq!(robot.get("/api").await.code, 401);
    admin.post(ACCOUNTS, &account(Some("admin"))).await.expect(201);
    assert_eq!(robot.get("/api").await.code, 401);
    server.stop().await;
}

#[tokio::test]
async fn tokens_for_others_are_not_for_the_api() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(ACCOUNTS, &account(Some("admin"))).await.expect(201);
    let vault = token(&mut admin, json!({"audiences": ["vault", "other"]})).await;
    let mut robot = server.client(None).await.bearer(&vault);
    assert_eq!(robot.get("/api").await.code, 401);
    let mut ask = async |audiences: Value| {
        let review = json!({"spec": {"token": vault, "audiences": audiences}});
        admin.post(REVIEW, &review).await.expect(201)["status"].clone()
    };
    let known = ask(json!(["vault", "third"])).await;
    assert_eq!((&known["authenticated"], &known["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(known["user"]["username"], "system:serviceaccount:default:robot");
    let unknown = ask(json!([])).await;
    assert!(unknown["authenticated"].is_null());
    let words = format!(
        r#"[invalid bearer token, token audiences ["vault", "other"] is invalid for the target audiences ["{ISSUER}"]]"#
    );
    assert_eq!(unknown["error"], json!(words));
    server.stop().await;
}

#[tokio::test]
async fn a_token_ends_with_the_pod_it_is_bound_to() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(ACCOUNTS, &account(None)).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "robot", "containers": [{"name": "c", "image": "echo"}]}});
    admin.post(pods, &pod).await.expect(201);
    let to = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}});
    let token = token(&mut admin, to).await;
    let mut robot = server.client(None).await.bearer(&token);
    let who = robot.post(WHO, &json!({})).await.expect(201);
    assert_eq!(who["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    admin.delete(&format!("{pods}/p")).await.expect(200);
    assert_eq!(robot.get("/api").await.code, 401);
    let review = admin.post(REVIEW, &json!({"spec": {"token": token}})).await.expect(201);
    assert_eq!(
        review["status"]["error"],
        "[invalid bearer token, service account token has been invalidated]"
    );
    server.stop().await;
}

#[tokio::test]
async fn faulty_token_requests_are_refused() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(ACCOUNTS, &account(None)).await.expect(201);
    let path = format!("{ACCOUNTS}/robot/token");
    for (path, request, code, words) in [
        (
            path.as_str(),
            json!({"spec": {"expirationSeconds": 60}}),
            422,
            "spec.expirationSeconds: Invalid value: 60",
        ),
        (&path, json!({"spec": {"audiences": "a"}}), 400, "cannot be handled as a TokenRequest"),
        (&path, json!({"kind": "Pod", "apiVersion": "v1"}), 400, "does not match the expected"),
        (&path, json!([]), 400, "must be a TokenRequest object"),
        (
            &path,
            json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "p"}}}),
            404,
            "pods \"p\" not found",
        ),
        (&format!("{ACCOUNTS}/nobody/token"), json!({}), 404, "serviceaccounts \"nobody\" not found"),
    ] {
        let refused = admin.post(path, &request).await;
        assert_eq!(refused.code, code, "{request}: {}", refused.text);
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    assert_eq!(admin.get(&path).await.code, 405);
    assert_eq!(admin.put(&path, &json!({})).await.code, 405);
    let long = admin.post(&path, &json!({"spec": {"expirationSeconds": 40_000_000}})).await;
    assert!(long.headers["warning"].to_str().unwrap().contains("shortened to 31536000 seconds"));
    server.stop().await;
}

#[tokio::test]
async fn others_can_verify_tokens() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(ACCOUNTS, &account(None)).await.expect(201);
    let token = token(&mut admin, json!({})).await;
    let issuer = admin.get("/.well-known/openid-configuration").await.expect(200);
    let keys = admin.get("/openid/v1/jwks").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    let header: Value =
        serde_json::from_slice(&BASE64.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
    let claims: Value =
        serde_json::from_slice(&BASE64.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!((&issuer["issuer"], &claims["iss"]), (&json!(ISSUER), &json!(ISSUER)));
    assert_eq!(issuer["jwks_uri"], json!(format!("{ISSUER}/openid/v1/jwks")));
    assert_eq!(keys.body["keys"][0]["kid"], header["kid"]);
    let mut viewer = server.client(Some(&server.pki.viewer)).await;
    assert_eq!(
        viewer.get("/openid/v1/jwks").await.code,
        403,
        "as in Kubernetes, accounts and administrators only"
    );
    assert_eq!(server.client(None).await.get("/openid/v1/jwks").await.code, 401);
    let core = admin.get("/api/v1").await.expect(200);
    let found =
        core["resources"].as_array().unwrap().iter().find(|r| r["name"] == "serviceaccounts/token").unwrap();
    assert_eq!(
        (&found["kind"], &found["group"], &found["verbs"]),
        (&json!("TokenRequest"), &json!("authentication.k8s.io"), &json!(["create"]))
    );
    server.stop().await;
}
