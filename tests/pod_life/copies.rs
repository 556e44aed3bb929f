//! Files to and from a container, by kubectl's `cp` and by ours.

use crate::common::{Kubectl, Lab, run};

pub fn files_are_copied(lab: &Lab, kubectl: &Kubectl<'_>) {
    super::apply(kubectl, "box", "  containers: [{name: c, image: host, command: [sh, -c, \"SERVE\"]}]\n");
    super::shows(kubectl, "box", &["1/1", "Running"]);
    let dir = lab.dir().join("copies");
    std::fs::create_dir_all(dir.join("tree/deep")).unwrap();
    // More than is ever on its way at once.
    let large = "0123456789abcdef".repeat(200_000);
    std::fs::write(dir.join("tree/deep/large"), &large).unwrap();
    let here = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let cp = |program: &str, from: &str, to: &str| match program {
        "kubectl" => kubectl.of(&["cp", from, to], ""),
        _ => run(&mut lab.command(crate::common::MINISVC, &["cp", from, to]), ""),
    };
    for program in ["kubectl", "minisvc"] {
        let there = format!("box:/tmp/{program}");
        cp(program, &here("tree"), &there).ok();
        // Into a directory that is there, under its own name.
        cp(program, &here("tree"), "box:/tmp").ok();
        let sums = format!(
            "cmp /tmp/{program}/deep/large /tmp/tree/deep/large && wc -c < /tmp/tree/deep/large; rm -r /tmp/tree"
        );
        let size = kubectl.of(&["exec", "box", "--", "sh", "-c", &sums], "").ok();
        assert_eq!(size.trim(), large.len().to_string());
        cp(program, &format!("{there}/deep/large"), &here(&format!("{program}-file"))).ok();
        cp(program, &there, &here(&format!("{program}-tree"))).ok();
        for back in [format!("{program}-file"), format!("{program}-tree/deep/large")] {
            assert!(std::fs::read_to_string(dir.join(&back)).unwrap() == large, "{back}");
        }
    }
    for (from, to, part) in [
        ("box:/nowhere", here("x"), "nowhere"),
        ("/nowhere", "box:/tmp".to_owned(), "doesn't exist in local filesystem"),
        ("box:", here("x"), "filepath can not be empty"),
        ("nobody:/tmp", here("x"), "not found"),
        ("a", "b".to_owned(), "one of the two"),
        (here("tree").as_str(), "box:/etc/tree".to_owned(), "Read-only file system"),
    ] {
        let said = cp("minisvc", from, &to);
        assert!(said.code != 0 && said.err.contains(part), "{from} {to}: {said:?}");
    }
    kubectl.ok("delete pod box --now");
}
