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
    assert_eq!(kubectl.ok("delete sa robot"), "serviceaccount \"robot\" deleted\n");
}
