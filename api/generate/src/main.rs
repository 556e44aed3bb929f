//! Writes api/openapi: one OpenAPI v3 document for each group and version that minisvc serves.
//!
//! In: [`minisvc_apimachinery::resource::served`], the schemas of k8s-openapi's types, and the table of list
//! and map semantics in [`merge`]. Out: `api/openapi/api__v1.json`, `apis__GROUP__VERSION.json`, which are
//! committed, embedded by apimachinery and served as `/openapi/v3`.
//!
//! Invariant: the output depends on nothing but these inputs; a test refuses documents that differ from it.

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
}
