//! Images of a node: added while a Pod waits, changed under a running one, taken away; and what is refused.

use super::{events, shows};
use crate::common::{Kubectl, LONG, Lab, eventually};

pub fn come_change_and_go(lab: &Lab, kubectl: &Kubectl<'_>) {
    let image = |words: &[&str]| {
        lab.minisvc_of(&[&["lab", "exec", "node1", "--", "minisvc", "image"], words].concat(), "")
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: tool}\nspec:\n  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'registry.example/tool:1'}]\n";
    kubectl.of(&["apply", "-f", "-"], pod).ok();
    shows(kubectl, "tool", &["0/1", "ErrImageNeverPull"]);
    let script = |word: &str| format!("echo {word}; while :; do sleep 0.05; done");
    image(&["add", "registry.example/tool:1", "--exec", "/bin/sh", "-c", &script("one")]).ok();
    shows(kubectl, "tool", &["1/1", "Running"]);
    eventually("the program runs", LONG, || {
        let said = kubectl.run("logs tool").out;
        if said == "one\n" { Ok(()) } else { Err(said) }
    });
    image(&["add", "tool:2", "--exec", "/bin/sh", "-c", &script("two")]).ok();
    kubectl.ok("set image pod/tool c=tool:2");
    shows(kubectl, "tool", &["1/1", "Running", "1"]);
    events(kubectl, "tool", &["Container c definition changed, will be restarted"]);
    eventually("the other program runs, and the node tells of both", LONG, || {
        let said = kubectl.run("logs tool").out;
        let known = kubectl.run("get node node1 -o jsonpath={.status.images[*].names[0]}").out;
        let both = known.contains("registry.example/tool:1") && known.contains("docker.io/library/tool:2");
        if said == "two\n" && both { Ok(()) } else { Err(format!("{said} {known}")) }
    });
    let listed = image(&["list"]).ok();
    assert!(listed.contains("registry.example/tool") && listed.contains("/bin/sh -c echo two"), "{listed}");
    image(&["remove", "tool:2", "registry.example/tool:1"]).ok();
    for (words, part) in [
        (&["remove", "tool:2"][..], "no image"),
        (&["add", "Tool", "--exec", "/bin/sh"], "lower-case"),
        (&["add", "tool", "--exec", "/nowhere"], "No such file"),
        (&["add", "tool", "--root", "/nowhere"], "No such file"),
        (&["add", "tool", "--oci", "/etc/passwd"], "no tar archive"),
        (&["add", "host", "--exec", "/bin/sh"], "built in"),
    ] {
        let why = image(words).refused();
        assert!(why.contains(part), "{words:?}: {why}");
    }
    kubectl.ok("delete pod tool");
}
