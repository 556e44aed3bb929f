//! A container's environment: of the namespace's Services, of ConfigMaps and Secrets, of its own spec. Pure.
//!
//! Source: kubernetes pkg/kubelet `makeEnvironmentVariables`, envvars.FromServices. Invariant: of two variables of one
//! name the later one holds: Services, then `envFrom`, then `env`, each in its order.

use super::{Given, resources};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Service};
use std::{collections::BTreeMap, net::IpAddr};

/// Of so many Services containers are told at most, the first by name: a longer environment no program could be
/// executed with. The API server is always among them.
const SERVICES_MAX: usize = 250;

type Variables = Vec<(String, String)>;

/// The environment of a container.
///
/// # Errors
/// What it needs and there is not, in the kubelet's words.
pub(super) fn environment(container: &Container, given: &Given<'_>) -> Result<Variables, String> {
    let mut env = of_services(given);
    for list in container.env_from.iter().flatten() {
        let prefix = list.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &list.config_map_ref {
            match given.sources.config_maps.get(&source.name) {
                Some(map) => {
                    env.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())))
                }
                None if source.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", source.name)),
            }
        }
        if let Some(source) = &list.secret_ref {
            match given.sources.secrets.get(&source.name) {
                Some(secret) => env
                    .extend(secret.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), text(&v.0)))),
                None if source.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", source.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(variable, container, &env, given)? {
            env.push((variable.name.clone(), value));
        }
    }
    Ok(env)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Value of a variable; none if it is optional and has none.
fn value(
    variable: &EnvVar,
    container: &Container,
    env: &Variables,
    given: &Given<'_>,
) -> Result<Option<String>, String> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(expanded(variable.value.as_deref().unwrap_or_default(), env)));
    };
    let EnvVarSource { field_ref, config_map_key_ref, secret_key_ref, resource_field_ref, .. } = from;
    let namespace = &given.local.namespace;
    if let Some(field) = field_ref {
        return Ok(Some(field_of(&field.field_path, given)));
    }
    if let Some(wanted) = resource_field_ref {
        return resources::field(wanted, Some(container), given).map(Some);
    }
    if let Some(source) = config_map_key_ref {
        let optional = source.optional == Some(true);
        let map = given.sources.config_maps.get(&source.name);
        return match map.map(|map| map.data.as_ref().and_then(|data| data.get(&source.key))) {
            Some(Some(value)) => Ok(Some(value.clone())),
            _ if optional => Ok(None),
            None => Err(format!("configmap {:?} not found", source.name)),
            Some(None) => {
                Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", source.key, source.name))
            }
        };
    }
    if let Some(source) = secret_key_ref {
        let optional = source.optional == Some(true);
        let secret = given.sources.secrets.get(&source.name);
        return match secret.map(|secret| secret.data.as_ref().and_then(|data| data.get(&source.key))) {
            Some(Some(value)) => Ok(Some(text(&value.0))),
            _ if optional => Ok(None),
            None => Err(format!("secret {:?} not found", source.name)),
            Some(None) => {
                Err(format!("couldn't find key {} in Secret {namespace}/{}", source.key, source.name))
            }
        };
    }
    Ok(Some(String::new()))
}

/// A field of the Pod; those that the registry lets through.
fn field_of(field: &str, given: &Given<'_>) -> String {
    let meta = &given.pod.metadata;
    match field {
        "metadata.name" => given.local.name.clone(),
        "metadata.namespace" => given.local.namespace.clone(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "spec.nodeName" => given.facts.node_name.to_owned(),
        "spec.serviceAccountName" => {
            given.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.podIP" => first(&given.local.addresses),
        "status.podIPs" => all(&given.local.addresses),
        "status.hostIP" => first(given.facts.node_addresses),
        "status.hostIPs" => all(given.facts.node_addresses),
        _ => entry(field, given.pod).unwrap_or_default(),
    }
}

/// A label or annotation: `metadata.labels['KEY']`.
pub(super) fn entry(field: &str, pod: &Pod) -> Option<String> {
    let (map, key) = field.strip_suffix("']")?.split_once("['")?;
    let map = match map {
        "metadata.labels" => &pod.metadata.labels,
        "metadata.annotations" => &pod.metadata.annotations,
        _ => &None,
    };
    map.as_ref()?.get(key).cloned()
}

fn first(addresses: &[IpAddr]) -> String {
    addresses.first().map(ToString::to_string).unwrap_or_default()
}

fn all(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What a container is told of Services: `NAME_SERVICE_HOST` and so on.
fn of_services(given: &Given<'_>) -> Variables {
    let links = given.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let (api, namespace) = (("default", "kubernetes"), given.local.namespace.as_str());
    let mut told: BTreeMap<&str, &Service> = BTreeMap::new();
    for (key, service) in given.services {
        let key = (key.namespace.as_str(), key.name.as_str());
        if key == api && !told.contains_key(api.1) || links && key.0 == namespace && told.len() < SERVICES_MAX
        {
            told.insert(key.1, service);
        }
    }
    told.into_iter().flat_map(|(name, service)| of_service(name, service)).collect()
}

fn of_service(name: &str, service: &Service) -> Variables {
    let spec = service.spec.as_ref();
    let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok());
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let (Some(ip), [first, ..]) = (ip, ports) else { return Variables::new() };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let name = upper(name);
    let mut env = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_string()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.push((format!("{name}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string()));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let number = u16::try_from(port.port).unwrap_or_default();
        let url = format!("{lower}://{}", std::net::SocketAddr::new(ip, number));
        if i == 0 {
            env.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{number}_{}", protocol.to_uppercase());
        env.push((prefix.clone(), url));
        env.push((format!("{prefix}_PROTO"), lower));
        env.push((format!("{prefix}_PORT"), number.to_string()));
        env.push((format!("{prefix}_ADDR"), ip.to_string()));
    }
    env
}

/// `$(NAME)` in commands and arguments; `$$` is a dollar sign, an unknown name stays as it is
/// (k8s.io/kubernetes third_party/forked/golang/expansion).
pub(super) fn expanded(word: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}
