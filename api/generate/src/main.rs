//! Writes api/openapi: one OpenAPI v3 document for each group and version that minisvc serves, and those of discovery.
//!
//! In: [`minisvc_apimachinery::resource::served`], the schemas of k8s-openapi's types, and the table of list
//! and map semantics in [`merge`]. Out: `api/openapi/PATH.json`, a slash of the path
//! being two underscores, which are committed, embedded by apimachinery and served as `/openapi/v3`.
//!
//! Invariant: the output depends on nothing but these inputs; a test refuses documents that differ from it.

mod discovery;
mod document;
mod kinds;
mod merge;
mod operations;

use anyhow::Context;
use std::{fs, path::PathBuf};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../openapi")
}

fn main() -> anyhow::Result<()> {
    for (name, text) in document::all()? {
        let path = folder().join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_documents_are_what_the_generator_writes() {
        for (name, text) in document::all().unwrap() {
            let committed = fs::read_to_string(folder().join(&name)).unwrap();
            assert!(committed == text, "{name} is stale: run `cargo run -p minisvc-openapi-generate`");
        }
    }

    #[test]
    fn every_document_is_served_and_no_other() {
        let mut written: Vec<_> = document::all().unwrap().into_iter().map(|(name, _)| name).collect();
        written.sort();
        let served = minisvc_apimachinery::schema::documents().iter();
        let mut served: Vec<_> =
            served.map(|document| format!("{}.json", document.path.replace('/', "__"))).collect();
        served.sort();
        assert_eq!(written, served, "SOURCES of apimachinery's schema.rs");
        let mut files: Vec<_> = fs::read_dir(folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, written);
    }
}
