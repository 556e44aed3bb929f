//! Archives as builders write them, and as nobody should.

use crate::{Error, Image, Store, archive::digest_of};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};
use tar::EntryType::{self, Directory, Link, Regular, Symlink};

/// A tar archive of these entries: kind, path, contents or link target.
fn tar(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(if *kind == Directory { 0o755 } else { 0o644 });
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000);
        let is_link = matches!(kind, Symlink | Link);
        header.set_size(if is_link { 0 } else { text.len() as u64 });
        if is_link {
            header.set_link_name_literal(text).unwrap();
        }
        // As it is, also where the crate would refuse it.
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, if is_link { &[][..] } else { text.as_bytes() }).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let half = bytes.len() / 2;
    let frame =
        |part: &[u8]| ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    [frame(&bytes[..half]), skipped, frame(&bytes[half..])].concat()
}

/// A way to compress.
type Pack = fn(&[u8]) -> Vec<u8>;

/// An OCI layout in the making.
#[derive(Default)]
struct Layout {
    files: BTreeMap<String, Vec<u8>>,
    manifests: Vec<Value>,
}

impl Layout {
    fn blob(&mut self, bytes: Vec<u8>) -> String {
        let digest = digest_of(&bytes);
        self.files.insert(digest.replace("sha256:", "blobs/sha256/"), bytes);
        digest
    }

    /// Adds an image: layers with the way they are compressed, and what the config says beside.
    fn image(&mut self, name: &str, runs: Value, layers: &[(Vec<u8>, Pack)]) -> &mut Self {
        let diff_ids: Vec<String> = layers.iter().map(|(layer, _)| digest_of(layer)).collect();
        let layers: Vec<Value> =
            layers.iter().map(|(layer, pack)| json!({"digest": self.blob(pack(layer))})).collect();
        let config = json!({"architecture": crate::config::ARCHITECTURE, "os": "linux", "config": runs,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.blob(serde_json::to_vec(&config).unwrap());
        let manifest = json!({"schemaVersion": 2, "config": {"digest": config}, "layers": layers});
        let digest = self.blob(serde_json::to_vec(&manifest).unwrap());
        self.manifests.push(
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
            "platform": {"os": "linux", "architecture": crate::config::ARCHITECTURE},
            "annotations": {"org.opencontainers.image.ref.name": name}}),
        );
        self
    }

    fn write(&self, dir: &Path) -> PathBuf {
        let index = serde_json::to_string(&json!({"manifests": self.manifests})).unwrap();
        let mut files = self.files.clone();
        files.insert("index.json".into(), index.into_bytes());
        let path = dir.join(format!("{}.tar", jiff::Timestamp::now().as_nanosecond()));
        let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, format!("./{name}"), &bytes[..]).unwrap();
        }
        builder.finish().unwrap();
        path
    }
}

fn place() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join("images"));
    (dir, store)
}

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn read(image: &Image, path: &str) -> Option<String> {
    fs::read_to_string(image.root.as_ref().unwrap().join(path)).ok()
}

#[test]
fn layers_lie_upon_each_other_and_whiteouts_hide_lower_ones_alone() {
    let (dir, store) = place();
    let base = tar(&[
        (Directory, "etc/", ""),
        (Regular, "etc/a", "1"),
        (Regular, "etc/b", "2"),
        (Directory, "old", ""),
        (Regular, "old/deep/x", "x"),
        (Directory, "usr/lib", ""),
        (Symlink, "lib", "usr/lib"),
        (Regular, "file", "f"),
    ]);
    let second = tar(&[
        (Regular, "./etc/.wh.a", ""),
        (Regular, "lib/so", "so"),
        (Link, "lib/so.1", "usr/lib/so"),
        (Regular, "old/new", "new"),
        (Regular, "old/.wh..wh..opq", ""),
        (Regular, "etc/.wh.c", ""),
        (Regular, "etc/c", "own"),
        (Directory, "file", ""),
    ]);
    let third = tar(&[(Regular, "etc/b", "3"), (Regular, "lib/.wh.so", ""), (Symlink, "abs", "/etc/b")]);
    let archive = Layout::default()
        .image(
            "web:1",
            json!({"Entrypoint": ["/bin/web"], "Cmd": ["-f"], "Env": ["A=1=2", "B"], "User": "web:7",
                "WorkingDir": "/srv", "StopSignal": "SIGQUIT"}),
            &[(base, gzip), (second, zstd), (third, plain)],
        )
        .write(dir.path());
    let image = store.import("web:1", &archive).unwrap();
    for (path, text) in [
        ("etc/a", None),
        ("etc/b", Some("3")),
        ("etc/c", Some("own")),
        ("old/deep/x", None),
        ("old/new", Some("new")),
        ("usr/lib/so", None),
        ("usr/lib/so.1", Some("so")),
    ] {
        assert_eq!(read(&image, path).as_deref(), text, "{path}");
    }
    let root = image.root.clone().unwrap();
    assert!(root.join("file").is_dir());
    assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("usr/lib"));
    let meta = fs::metadata(root.join("etc/b")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o644, 1_000_000));
    if nix::unistd::Uid::effective().is_root() {
        assert_eq!((meta.uid(), meta.gid()), (7, 8));
    }
    assert_eq!((image.entrypoint.join(" "), image.cmd.join(" ")), ("/bin/web".into(), "-f".into()));
    assert_eq!(image.env, [("A".into(), "1=2".into()), ("B".into(), String::new())]);
    assert_eq!(
        (image.user.as_str(), image.working_dir.as_str(), image.stop_signal),
        ("web:7", "/srv", Some(3))
    );

    let table = store.table().unwrap();
    assert_eq!(table.find("docker.io/library/web:1").unwrap(), Some(&image));
    assert_eq!(table.find("web").unwrap(), None);
    let digest = image.manifest.clone().unwrap();
    assert_eq!(table.find(&format!("web@{digest}")).unwrap(), Some(&image));
    assert_eq!(table.find(&format!("other@{digest}")).unwrap(), None);
    // Again, under another name: the files are those that are there.
    let other = store.import("other", &archive).unwrap();
    assert_eq!((other.root, other.bytes), (image.root, image.bytes));
}

#[test]
fn what_docker_save_writes_is_an_archive_too() {
    let (dir, store) = place();
    let layer = tar(&[(Regular, "hello", "docker")]);
    let config = serde_json::to_vec(&json!({"architecture": crate::config::ARCHITECTURE, "os": "linux",
        "config": {"Cmd": ["/hello"]}, "rootfs": {"diff_ids": [digest_of(&layer), digest_of(&layer)]}}))
    .unwrap();
    let name = format!("{}.json", digest_of(&config).replace("sha256:", ""));
    let manifest = serde_json::to_vec(
        &json!([{"Config": name, "RepoTags": ["me/hello:2"], "Layers": ["a/layer.tar", "b/layer.tar"]}]),
    );
    let path = dir.path().join("saved.tar.gz");
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [("a/layer.tar", &layer), (name.as_str(), &config), ("manifest.json", &manifest.unwrap())]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "b/layer.tar", "../a/layer.tar").unwrap();
    fs::write(&path, gzip(&builder.into_inner().unwrap())).unwrap();
    let image = store.import("hello", &path).unwrap();
    assert_eq!(read(&image, "hello").as_deref(), Some("docker"));
    assert_eq!(image.cmd, ["/hello"]);
}

#[test]
fn nothing_in_a_layer_reaches_out_of_the_image() {
    for entries in [
        vec![(Regular, "../escaped", "x")],
        vec![(Regular, "a/../../escaped", "x")],
        vec![(Link, "passwd", "../../secret")],
        vec![(Regular, "a/.wh...", "")],
        vec![(EntryType::new(b'Z'), "odd", "")],
        vec![(Link, "self", "self")],
    ] {
        let (dir, store) = place();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let archive = Layout::default().image("x", json!({}), &[(tar(&entries), plain)]).write(dir.path());
        let error = store.import("x", &archive).unwrap_err();
        assert!(matches!(error, Error::Layer { layer: 1, .. }), "{error}");
        assert!(!dir.path().join("escaped").exists());
        assert_eq!(store.table().unwrap().0.len(), 0);
        let left = fs::read_dir(dir.path().join("images"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b"new-"));
        assert_eq!(left.count(), 0, "{entries:?}");
    }
}

#[test]
fn links_in_an_image_are_followed_within_it() {
    let (dir, store) = place();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    let absolute = outside.to_str().unwrap().to_owned();
    let above = format!("../../../../../..{absolute}");
    let layer = tar(&[
        (Symlink, "abs", &absolute),
        (Symlink, "rel", &above),
        (Directory, absolute.trim_start_matches('/'), ""),
        (Regular, "abs/one", "1"),
        (Regular, "rel/two", "2"),
        (Regular, "abs/.wh.kept", ""),
        (Symlink, "target", "/outside-file"),
        (Regular, "target", "replaced"),
    ]);
    let archive = Layout::default().image("x", json!({}), &[(layer, plain)]).write(dir.path());
    let image = store.import("x", &archive).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    let inside = absolute.trim_start_matches('/');
    assert_eq!(read(&image, &format!("{inside}/one")).as_deref(), Some("1"));
    assert_eq!(read(&image, &format!("{inside}/two")).as_deref(), Some("2"));
    assert!(image.root.as_ref().unwrap().join("target").symlink_metadata().unwrap().is_file());
}

#[test]
fn an_archive_is_what_its_digests_say() {
    let (dir, store) = place();
    let refused = |layout: &Layout, name: &str, part: &str| {
        let error = store.import(name, &layout.write(dir.path())).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let layer = || tar(&[(Regular, "a", "1")]);
    let mut layout = Layout::default();
    layout.image("x:1", json!({}), &[(layer(), plain)]).image("y:1", json!({}), &[(tar(&[]), plain)]);
    refused(&layout, "z", "holds several images, 0 of them");
    assert!(store.import("y:1", &layout.write(dir.path())).is_ok());
    let mut changed = Layout::default();
    changed.image("x", json!({}), &[(layer(), plain)]);
    let blob = digest_of(&layer()).replace("sha256:", "blobs/sha256/");
    changed.files.insert(blob.clone(), tar(&[(Regular, "a", "2")]));
    refused(&changed, "x", "layer 1: \"\": has digest");
    changed.files.remove(&blob);
    refused(&changed, "x", "is not in it");
    let mut foreign = Layout::default();
    foreign.image("x", json!({}), &[]);
    foreign.manifests[0]["platform"]["architecture"] = json!("riscv64");
    refused(&foreign, "x", "holds no image for linux/");
    refused(
        &Layout { files: BTreeMap::from([("x".into(), vec![])]), ..Layout::default() },
        "x",
        "holds no image",
    );
    let mut signal = Layout::default();
    refused(signal.image("x", json!({"StopSignal": "SIGNO"}), &[]), "x", "StopSignal \"SIGNO\"");
    let text = dir.path().join("text");
    fs::write(&text, "no archive").unwrap();
    assert!(store.import("x", &text).unwrap_err().to_string().contains("is no tar archive"));
    assert!(store.import("x", Path::new("/nowhere")).unwrap_err().to_string().contains("No such file"));
    assert!(store.import("x", dir.path()).unwrap_err().to_string().contains("no regular file"));
}

#[test]
fn programs_and_directories_are_images_that_are_looked_at_first() {
    let (dir, store) = place();
    let program = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let image = store.add_program("sh", &program(&["/bin/sh", "-c", "exit 3"])).unwrap();
    assert_eq!((image.root, image.entrypoint.len()), (None, 3));
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let image = store.add_root("r", &root, &program(&["/x"])).unwrap();
    assert_eq!((image.root.as_deref(), image.lock), (Some(root.as_path()), None));
    for (result, part) in [
        (store.add_program("x", &program(&["sh"])), "absolute"),
        (store.add_program("x", &program(&["/etc/passwd"])), "no program"),
        (store.add_program("x", &program(&["/nowhere"])), "No such file"),
        (store.add_program("host", &program(&["/bin/sh"])), "built in"),
        (store.add_program("docker.io/library/echo:2", &program(&["/bin/sh"])), "built in"),
        (store.add_program("X", &program(&["/bin/sh"])), "lower-case"),
        (store.add_root("x", Path::new("/"), &[]), "image host"),
        (store.add_root("x", Path::new("root"), &[]), "absolute"),
        (store.add_root("x", Path::new("/etc/passwd"), &[]), "no directory"),
        (store.add_root("x", dir.path(), &[]), "holds the images"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(store.table().unwrap().0.len(), 2);
    store.remove("r").unwrap();
    assert!(root.is_dir());
    assert!(matches!(store.remove("r").unwrap_err(), Error::Unknown { .. }));
}

#[test]
fn files_go_with_the_last_name_and_the_last_container() {
    let (dir, store) = place();
    let mut layout = Layout::default();
    let archive = layout.image("x", json!({}), &[(tar(&[(Regular, "a", "1")]), plain)]).write(dir.path());
    let before = store.version();
    let image = store.import("x", &archive).unwrap();
    assert_ne!(store.version(), before);
    store.import("same", &archive).unwrap();
    let root = image.root.clone().unwrap();
    let held = Image::hold(image.lock.as_ref().unwrap()).unwrap();
    store.remove("same").unwrap();
    assert!(matches!(store.remove("x").unwrap_err(), Error::InUse { .. }));
    // The name may mean something else meanwhile; the files stay.
    store.add_program("x", &["/bin/sh".to_owned()]).unwrap();
    assert!(root.is_dir());
    drop(held);
    symlink("/nowhere", dir.path().join("images/new-left")).unwrap();
    store.remove("x").unwrap();
    assert!(!root.exists());
    assert!(Image::hold(image.lock.as_ref().unwrap()).is_err());
    assert!(dir.path().join("images/new-left").symlink_metadata().is_err());
}
