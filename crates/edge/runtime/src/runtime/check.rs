//! What a bundle must be, so that its names can be parts of paths.

use super::spawn;
use crate::{error::Error, spec::PodBundle};
use std::collections::BTreeSet;

/// More containers than this in one Pod are refused.
const CONTAINERS_MAX: usize = 64;

/// Faults of a bundle.
///
/// # Errors
/// Naming the first of them.
pub(super) fn check(bundle: &PodBundle) -> Result<(), Error> {
    let name = |field, value: &str| {
        let good = (1..=253).contains(&value.len())
            && !value.starts_with('.')
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if good { Ok(()) } else { Err(Error::InvalidName { field, value: value.to_owned() }) }
    };
    name("metadata.uid", &bundle.uid)?;
    name("metadata.namespace", &bundle.namespace)?;
    name("metadata.name", &bundle.name)?;
    name("spec.hostname", &bundle.hostname)?;
    let problem = |problem: String| Error::InvalidContainers {
        namespace: bundle.namespace.clone(),
        name: bundle.name.clone(),
        problem,
    };
    if bundle.containers.is_empty() || bundle.all().count() > CONTAINERS_MAX {
        return Err(problem(format!("must be 1 to {CONTAINERS_MAX}")));
    }
    for volume in &bundle.volumes {
        name("spec.volumes.name", &volume.name)?;
    }
    let mut names = BTreeSet::new();
    for container in bundle.all() {
        name("spec.containers.name", &container.name)?;
        // Beside the containers' directories lies the Pod's own.
        if container.name == spawn::GENERATED_DIR || !names.insert(&container.name) {
            return Err(problem(format!("name {:?} is taken", container.name)));
        }
        for mount in &container.mounts {
            if !bundle.volumes.iter().any(|volume| volume.name == mount.volume) {
                return Err(problem(format!(
                    "{:?} mounts volume {:?}, which there is not",
                    container.name, mount.volume
                )));
            }
            let parts = || mount.path.split('/').chain(mount.sub_path.split('/'));
            if !mount.path.starts_with('/') || mount.path == "/" || parts().any(|part| part == "..") {
                return Err(problem(format!(
                    "{:?} cannot mount a volume at {:?}",
                    container.name, mount.path
                )));
            }
        }
    }
    Ok(())
}
