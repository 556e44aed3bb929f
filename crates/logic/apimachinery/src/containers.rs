//! The containers of a Pod by what they are to it.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// Whether an init container goes on beside the others once it has started (KEP-753).
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// Those that run as long as the Pod: all but the init containers that come to an end.
pub fn lasting(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|init| is_sidecar(init)))
}
