//! What programs are given: a user and capabilities, files, an environment.

use super::{apply, events, shows};
use crate::common::{Kubectl, LONG, eventually};

/// `securityContext`, for the container itself and for what `kubectl exec` runs in it.
pub fn programs_run_as_whom_they_must(kubectl: &Kubectl<'_>) {
    apply(
        kubectl,
        "nobody",
        "  securityContext: {runAsUser: 65534, runAsNonRoot: true, fsGroup: 7, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: c
    image: host
    command: [sh, -c, \"id -u; SERVE\"]
    securityContext: {runAsGroup: 1234, capabilities: {drop: [ALL]}, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true}
",
    );
    shows(kubectl, "nobody", &["1/1", "Running"]);
    assert_eq!(kubectl.ok("logs nobody"), "65534\n");
    let script = "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status; unshare -U true || echo no";
    let ids = kubectl.of(&["exec", "nobody", "--", "sh", "-c", script], "").ok();
    assert!(ids.starts_with("65534\n1234\n1234 7\nNoNewPrivs:\t1\n") && ids.ends_with("no\n"), "{ids}");
    kubectl.ok("delete pod nobody --now");
    apply(
        kubectl,
        "root",
        "  securityContext: {runAsNonRoot: true}\n  containers: [{name: c, image: host, command: [sleep, '9']}]\n",
    );
    shows(kubectl, "root", &["0/1", "CreateContainerConfigError"]);
    events(kubectl, "root", &["container has runAsNonRoot and image will run as root"]);
    kubectl.ok("delete pod root --now");
}

/// The example: files, environment, a shared directory; and news of a ConfigMap.
pub fn volumes_are_filled_and_follow(kubectl: &Kubectl<'_>) {
    kubectl.ok("apply -f examples/volumes.yaml");
    shows(kubectl, "motto", &["2/2", "Running"]);
    let inside = |container: &str, script: &str| {
        kubectl.of(&["exec", "motto", "-c", container, "--", "sh", "-c", script], "")
    };
    let is = |script: &str, text: &str| {
        eventually(script, LONG, || match inside("reader", script) {
            said if said.out == text => Ok(()),
            said => Err(format!("{said:?}")),
        });
    };
    is("cat /var/motto/text", "everything flows");
    is("echo $MOTTO_text; cat /about/labels", "everything flows\napp=\"motto\"");
    assert_eq!(inside("writer", "cat /secrets/key; echo $KEY").ok(), "very secretvery secret\n");
    assert!(inside("reader", "echo x > /var/motto/text").err.contains("Read-only file system"));
    assert!(inside("writer", "echo x > /settings/text").err.contains("Read-only file system"));
    kubectl.ok("label pod motto more=yes");
    kubectl.of(&["patch", "configmap", "motto", "-p", r#"{"data": {"text": "and nothing stays"}}"#], "").ok();
    is("cat /var/motto/text", "and nothing stays");
    is("cat /about/labels", "app=\"motto\"\nmore=\"yes\"");
    kubectl.ok("delete -f examples/volumes.yaml --wait");
}

/// A ConfigMap that comes later: the Pod waits, says for what, and starts.
pub fn what_a_pod_lacks_is_waited_for(kubectl: &Kubectl<'_>) {
    let volume = "  volumes: [{name: v, configMap: {name: later}}]
  containers:
  - {name: c, image: host, command: [sh, -c, \"SERVE\"], volumeMounts: [{name: v, mountPath: /v}]}
";
    apply(kubectl, "mounts", volume);
    let variable = "  containers:
  - name: c
    image: host
    command: [sh, -c, \"SERVE\"]
    env: [{name: A, valueFrom: {configMapKeyRef: {name: later, key: a}}}]
  - {name: other, image: host, command: [sh, -c, \"SERVE\"]}
";
    apply(kubectl, "reads", variable);
    shows(kubectl, "mounts", &["0/1", "ContainerCreating"]);
    events(
        kubectl,
        "mounts",
        &["FailedMount", "MountVolume.SetUp failed for volume \"v\" : configmap \"later\" not found"],
    );
    // The other container need not wait.
    shows(kubectl, "reads", &["1/2", "CreateContainerConfigError"]);
    events(kubectl, "reads", &["Error: configmap \"later\" not found"]);
    kubectl.ok("create configmap later --from-literal=a=b");
    shows(kubectl, "mounts", &["1/1", "Running"]);
    shows(kubectl, "reads", &["2/2", "Running"]);
    assert_eq!(kubectl.of(&["exec", "reads", "-c", "c", "--", "sh", "-c", "echo $A"], "").ok(), "b\n");
    kubectl.ok("delete pod mounts reads --now");
}

/// A volume on disk has a limit; what is read through a link to elsewhere does not count.
pub fn who_writes_too_much_is_evicted(kubectl: &Kubectl<'_>) {
    let spec = |bytes: u32| {
        format!(
            "  terminationGracePeriodSeconds: 1
  volumes: [{{name: v, emptyDir: {{sizeLimit: 1024Ki}}}}]
  containers:
  - name: c
    image: host
    command: [sh, -c, \"ln -s /usr /v/link; head -c {bytes} /dev/zero > /v/file; SERVE\"]
    volumeMounts: [{{name: v, mountPath: /v}}]
"
        )
    };
    apply(kubectl, "modest", &spec(500_000));
    apply(kubectl, "greedy", &spec(2_000_000));
    let words = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\"";
    events(kubectl, "greedy", &["Evicted", words]);
    eventually("greedy is over", LONG, || match kubectl.run("get pod greedy -o jsonpath={.status.phase}") {
        said if said.out == "Failed" => Ok(()),
        said => Err(format!("{said:?}")),
    });
    let status = kubectl.ok("get pod greedy -o jsonpath={.status.reason}:{.status.message}");
    assert_eq!(status.trim_end(), format!("Evicted:{words}."));
    shows(kubectl, "modest", &["1/1", "Running"]);
    kubectl.ok("delete pod modest greedy --now");
}
