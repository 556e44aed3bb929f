//! Which objects the command line means: `TYPE[,TYPE…] [NAME…]`, `TYPE/NAME…`.

use super::api::Failure;
use minisvc_apimachinery::{Resource, resource};

/// One type, all of its objects or those named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The type.
    pub resource: &'static Resource,
    /// The names; empty: all.
    pub names: Vec<String>,
}

fn lookup(word: &str) -> Result<&'static Resource, Failure> {
    resource::by_alias(word)
        .ok_or_else(|| Failure::Usage(format!("the server doesn't have a resource type {word:?}")))
}

fn types(words: &str) -> Result<Vec<&'static Resource>, Failure> {
    let mut found: Vec<&'static Resource> = Vec::new();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let in_category: Vec<&'static Resource> =
            resource::RESOURCES.iter().copied().filter(|r| r.categories.contains(&word)).collect();
        let meant = if in_category.is_empty() { vec![lookup(word)?] } else { in_category };
        for resource in meant {
            if !found.contains(&resource) {
                found.push(resource);
            }
        }
    }
    Ok(found)
}

/// Reads the words that say which objects are meant.
///
/// # Errors
/// A type is unknown, or the two forms are mixed.
pub fn parse(words: &[String]) -> Result<Vec<Target>, Failure> {
    let usage = |words: &str| Err(Failure::Usage(words.to_owned()));
    let Some(first) = words.first() else {
        return usage("you must specify the type of resource: TYPE, TYPE NAME or TYPE/NAME");
    };
    if !first.contains('/') {
        let names = words[1..].to_vec();
        if names.iter().any(|name| name.contains('/')) {
            return usage(
                "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'get resource/<resource_name>' instead of 'get resource resource/<resource_name>')",
            );
        }
        let targets: Vec<Target> =
            types(first)?.into_iter().map(|resource| Target { resource, names: names.clone() }).collect();
        if targets.is_empty() {
            return usage("you must specify the type of resource");
        }
        return Ok(targets);
    }
    let mut targets: Vec<Target> = Vec::new();
    for word in words {
        let Some((kind, name)) =
            word.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
        else {
            return usage("arguments in resource/name form must have a single resource and name");
        };
        let resource = lookup(kind)?;
        match targets.iter_mut().find(|target| target.resource == resource) {
            Some(target) => target.names.push(name.to_owned()),
            None => targets.push(Target { resource, names: vec![name.to_owned()] }),
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::resource::{DEPLOYMENTS, PODS, REPLICA_SETS, SERVICES};

    fn read(words: &str) -> Result<Vec<Target>, Failure> {
        parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn objects_are_named_in_kubectls_ways() {
        let target = |resource, names: &[&str]| Target {
            resource,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(read("po,svc").unwrap(), [target(&PODS, &[]), target(&SERVICES, &[])]);
        assert_eq!(read("pod a b").unwrap(), [target(&PODS, &["a", "b"])]);
        assert_eq!(
            read("svc/a pod/b svc/c").unwrap(),
            [target(&SERVICES, &["a", "c"]), target(&PODS, &["b"])]
        );
        let all = [&PODS, &SERVICES, &DEPLOYMENTS, &REPLICA_SETS].map(|resource| target(resource, &[]));
        assert_eq!(read("all").unwrap(), all);
        assert_eq!(
            read("foo").unwrap_err().to_string(),
            "error: the server doesn't have a resource type \"foo\""
        );
        for bad in ["", "svc/a b", "svc svc/a", "svc/", ","] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
