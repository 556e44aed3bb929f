//! What the house asks of the source: layers, small files, documented modules, nothing left for later.
//!
//! Reads the source tree; runs no program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Longest file, in lines.
const LINES_MAX: usize = 420;
/// Libraries that talk to the outside; logic knows none of them.
const OUTSIDE: [&str; 23] = [
    "arc-swap",
    "axum",
    "hickory-resolver",
    "hickory-server",
    "hyper",
    "hyper-util",
    "kube",
    "libc",
    "netlink-sys",
    "netns-rs",
    "nix",
    "quinn-udp",
    "rand",
    "rcgen",
    "rtnetlink",
    "rustls",
    "sled",
    "socket2",
    "tokio",
    "tokio-rustls",
    "tokio-tungstenite",
    "tokio-util",
    "tun-rs",
];
/// Logic that others may stand on: words and tools. The rest of logic stands beside each other.
const SHARED: [&str; 4] = ["allocator", "apimachinery", "netstate", "reconcile"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir` with this extension.
fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let dirs = ["api", "benches", "cmd", "crates", "tests"];
    let all = dirs.iter().flat_map(|dir| files(dir, "rs"));
    let named = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), text)
    };
    let sources: Vec<_> =
        all.filter(|path| !path.components().any(|part| part.as_os_str() == "target")).map(named).collect();
    assert!(sources.len() > 100, "the sources were not found");
    sources
}

/// Names in the `[dependencies]` (and `[dependencies.x]`) sections of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
            found.extend(section.split_once("dependencies.").map(|(_, name)| name.to_owned()));
        } else if inside && let Some((name, _)) = line.split_once('=') {
            found.push(name.split('.').next().unwrap_or(name).trim().to_owned());
        }
    }
    found.retain(|name| !name.starts_with('#'));
    found
}

/// `logic` 0, `edge` 1, `lab` 2, the binary 3.
fn layers() -> BTreeMap<String, (u8, Vec<String>)> {
    let mut layers = BTreeMap::new();
    for (dir, layer) in [("crates/logic", 0), ("crates/edge", 1), ("crates/lab", 2)] {
        for path in files(dir, "toml").into_iter().filter(|path| path.ends_with("Cargo.toml")) {
            let manifest = std::fs::read_to_string(&path).unwrap();
            let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"minisvc-"));
            let name = name.unwrap_or_else(|| panic!("{}: no name", path.display())).trim_end_matches('"');
            layers.insert(name.to_owned(), (layer, dependencies(&manifest)));
        }
    }
    assert!(layers.len() > 15, "the manifests were not found: {layers:?}");
    layers
}

#[test]
fn dependencies_point_downwards() {
    let layers = layers();
    let mut wrong = Vec::new();
    for (name, (layer, dependencies)) in &layers {
        for dependency in dependencies {
            if *layer == 0 && OUTSIDE.contains(&dependency.as_str()) {
                wrong.push(format!("logic/{name} uses {dependency}: logic talks to nothing outside"));
            }
            let Some(other) = dependency.strip_prefix("minisvc-") else { continue };
            let (below, _) = layers.get(other).unwrap_or_else(|| panic!("{name}: no crate {other}"));
            if below > layer {
                wrong.push(format!("{name} uses {other}, of a layer above"));
            }
            if *layer == 0 && !SHARED.contains(&other) {
                wrong.push(format!("logic/{name} uses logic/{other}: these stand beside each other"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same for what cargo resolved, in case a manifest says it in a way this test does not read.
#[test]
fn logic_reads_no_clock_file_or_socket() {
    let words = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "SystemTime::now",
        "Instant::now",
        "Timestamp::now",
        "std::env::",
        "HashMap",
        "HashSet",
    ];
    let mut wrong = Vec::new();
    for (path, text) in
        sources().iter().filter(|(path, _)| path.starts_with("crates/logic/") && path.contains("/src/"))
    {
        if path.ends_with("/tests.rs") || path.contains("/tests/") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (at, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            wrong.extend(
                words
                    .iter()
                    .filter(|word| line.contains(*word))
                    .map(|word| format!("{path}:{}: {word}", at + 1)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{path}: {lines} lines, at most {LINES_MAX}"));
        }
        // A module's tests say nothing about themselves that the module's name does not.
        let tests = path.ends_with("/tests.rs") || path.contains("/src/tests/");
        if !tests && !text.trim_start().starts_with("//!") {
            wrong.push(format!("{path}: begins with no `//!` that says what it is for"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_for_later() {
    // Written in two halves, so as not to be found here.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["#[ign", "ore"],
        ["todo", "!("],
        ["unimpl", "emented!("],
    ];
    let words: Vec<String> = words.map(|halves| halves.concat()).into();
    let texts = files("docs", "md").into_iter().chain(files(".ci", "")).chain(files("examples", "yaml"));
    let texts = texts.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
    let mut wrong = Vec::new();
    for (path, text) in sources().into_iter().chain(texts) {
        for (at, line) in text.lines().enumerate() {
            wrong.extend(
                words
                    .iter()
                    .filter(|word| line.contains(*word))
                    .map(|word| format!("{path}:{}: {word}", at + 1)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A manifest that nothing applies would rot; tests and the demo name each, or take the whole directory.
#[test]
fn every_example_is_used() {
    let examples = files("examples", "yaml");
    assert!(!examples.is_empty());
    let users: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("tests/lab") || path.starts_with("crates/lab/src/demo"))
        .map(|(_, text)| text)
        .collect();
    let whole = users.iter().any(|text| text.contains("\"/examples\""));
    for path in examples {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(whole || users.iter().any(|text| text.contains(&name)), "examples/{name} is used by no test");
    }
}
