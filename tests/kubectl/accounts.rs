//! ServiceAccounts, as kubectl makes them and asks for them.

use crate::{Kubectl, common::says};

pub(crate) fn namespaces_have_accounts(kubectl: &Kubectl<'_>) {
    says("the default account", &["NAME", "SECRETS", "default"], &[], || kubectl.run("get serviceaccounts"));
    assert_eq!(kubectl.ok("create serviceaccount robot"), "serviceaccount/robot created\n");
    assert!(kubectl.ok("describe sa robot").contains("Name:                robot"));
    assert_eq!(kubectl.ok("get pod echo -o jsonpath={.spec.serviceAccountName}"), "default");
    let why = r#"error looking up service account default/nobody: serviceaccount "nobody" not found"#;
    let pod = r#"{"spec":{"serviceAccountName":"nobody"}}"#;
    let refused = kubectl.of(&["run", "x", "--image=echo", "--overrides", pod], "").refused();
    assert!(refused.contains(why), "{refused}");
    let bundle = kubectl.ok(r"get configmap kube-root-ca.crt -o jsonpath={.data.ca\.crt}");
    assert!(bundle.starts_with("-----BEGIN CERTIFICATE-----"), "{bundle}");
    assert!(kubectl.ok("config view --raw").contains("certificate-authority-data"));
    tokens_are_made(kubectl);
    pods_have_tokens(kubectl);
    assert_eq!(kubectl.ok("delete sa robot"), "serviceaccount \"robot\" deleted\n");
}

fn tokens_are_made(kubectl: &Kubectl<'_>) {
    let token = kubectl
        .ok("create token robot --duration=1h --audience=https://kubernetes.default.svc.cluster.local");
    let with = |words: &str| kubectl.run(&format!("--token={} {words}", token.trim()));
    let who = with("auth whoami").ok();
    for part in ["system:serviceaccount:default:robot", "system:serviceaccounts:default", "credential-id"] {
        assert!(who.contains(part), "{who}");
    }
    let refused = with("get pods").refused();
    assert!(
        refused.contains(r#"User "system:serviceaccount:default:robot" cannot list resource "pods""#),
        "{refused}"
    );
    assert!(kubectl.ok("annotate serviceaccount robot minisvc.io/role=view").contains("annotated"));
    assert!(with("get pods").ok().contains("echo"));
    assert_eq!(with("auth can-i list pods").ok(), "yes\n");
    assert_eq!(with("auth can-i delete pods").out, "no\n");
    let bound = "create token robot --bound-object-kind=Pod --bound-object-name=echo";
    let refused = kubectl.run(bound).refused();
    assert!(refused.contains("pod running with different serviceaccount name"), "{refused}");
    let refused = kubectl.run("create token robot --duration=1m").refused();
    assert!(refused.contains("may not specify a duration less than 10 minutes"), "{refused}");
    let yaml =
        kubectl.ok("create token robot --bound-object-kind=Secret --bound-object-name=password -o yaml");
    assert!(yaml.contains("kind: TokenRequest") && yaml.contains("expirationTimestamp"), "{yaml}");
    assert!(kubectl.ok("get --raw /openid/v1/jwks").contains("ES256"));
}

const WITH_TOKENS: &str = r#"{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {
  serviceAccountName: robot, restartPolicy: Never, terminationGracePeriodSeconds: 0,
  volumes: [{name: other, projected: {sources: [{serviceAccountToken: {path: vault, audience: vault, expirationSeconds: 600}}]}}],
  containers: [{name: c, image: host, workingDir: /tmp,
    command: [sh, -c, "kubectl get pods echo && kubectl auth whoami && cat /other/vault && echo && kubectl delete pod echo"],
    env: [{name: HOME, value: /tmp}],
    volumeMounts: [{name: other, mountPath: /other}]}]}}"#;

/// As client libraries do in a Pod: the API's address from the environment, the rest from the volume.
fn pods_have_tokens(kubectl: &Kubectl<'_>) {
    kubectl.of(&["apply", "-f", "-"], WITH_TOKENS).ok();
    says("the Pod has ended", &["Error"], &[], || kubectl.run("get pod client"));
    let said = kubectl.ok("logs client");
    for part in ["echo   1/1", "system:serviceaccount:default:robot", "pod-name", "client", "node-name"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let refused = r#"User "system:serviceaccount:default:robot" cannot delete resource "pods""#;
    assert!(said.contains(refused), "{said}");
    let described = kubectl.ok("describe pod client");
    for part in [
        "/var/run/secrets/kubernetes.io/serviceaccount from kube-api-access-",
        "TokenExpirationSeconds:  3607",
    ] {
        assert!(described.contains(part), "{described}");
    }
    // A token for somebody else is none for the API, and ends with its Pod.
    let vault =
        said.lines().find(|line| line.starts_with("ey")).unwrap_or_else(|| panic!("{said}")).to_owned();
    assert!(kubectl.run(&format!("--token={vault} get pods")).refused().contains("Unauthorized"));
    let review = |audience: &str| {
        let review = format!(
            "{{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {{token: {vault}, audiences: [{audience}]}}}}"
        );
        kubectl
            .of(&["create", "--validate=false", "-o", "jsonpath={.status.authenticated}", "-f", "-"], &review)
            .ok()
    };
    assert_eq!((review("vault"), review("other")), ("true".to_owned(), String::new()));
    kubectl.ok("delete pod client");
    assert_eq!(review("vault"), "");
}
