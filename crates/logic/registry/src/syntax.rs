//! Names, labels, addresses: what is well formed, in the words of k8s.io/apimachinery `util/validation`.
//!
//! Every function returns the faults, none if the text is well formed.

use std::net::IpAddr;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')";

/// Faults of a text, in words.
pub(crate) type Faults = Vec<String>;

fn too_long(text: &str, max: usize, faults: &mut Faults) {
    if text.len() > max {
        faults.push(format!("must be no more than {max} bytes"));
    }
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(is_lower)
        && bytes.last().copied().is_some_and(is_lower)
        && bytes.iter().all(|byte| is_lower(*byte) || *byte == b'-')
}

fn checked(text: &str, max: usize, ok: bool, words: &str) -> Faults {
    let mut faults = Faults::new();
    too_long(text, max, &mut faults);
    if !ok {
        faults.push(words.to_owned());
    }
    faults
}

/// DNS-1123 label: at most 63 bytes.
pub(crate) fn label(text: &str) -> Faults {
    checked(text, 63, is_label(text), LABEL)
}

/// DNS-1035 label: starts with a letter.
pub(crate) fn label_1035(text: &str) -> Faults {
    checked(text, 63, is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase()), LABEL_1035)
}

/// DNS-1123 subdomain: labels and dots, at most 253 bytes.
pub(crate) fn subdomain(text: &str) -> Faults {
    checked(text, 253, text.split('.').all(is_label), SUBDOMAIN)
}

/// The same with underscores, as search paths of resolvers have them.
pub(crate) fn subdomain_with_underscore(text: &str) -> Faults {
    let is_label = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        let ends = |byte: Option<&u8>| byte.copied().is_some_and(is_lower);
        ends(rest.as_bytes().first())
            && ends(rest.as_bytes().last())
            && rest.bytes().all(|byte| is_lower(byte) || b"-_".contains(&byte))
    };
    checked(text, 253, text.split('.').all(is_label), SUBDOMAIN_UNDERSCORE)
}

/// `*.` and a subdomain.
pub(crate) fn wildcard_subdomain(text: &str) -> Faults {
    let ok = text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label));
    checked(text, 253, ok, WILDCARD)
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A label key: `name` or `prefix/name`.
pub(crate) fn qualified_name(text: &str) -> Faults {
    let mut faults = Faults::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            faults.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            faults.extend(subdomain(prefix).into_iter().map(|fault| format!("prefix part {fault}")));
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_name_part(name) {
        faults.push(format!("name part {QUALIFIED}"));
    }
    faults
}

/// A name that may stand in a URL's path.
pub(crate) fn path_segment(text: &str) -> Faults {
    let whole =
        [".", ".."].into_iter().filter(|name| text == *name).map(|name| format!("may not be '{name}'"));
    let part = ["/", "%"].into_iter().filter(|part| text.contains(part));
    whole.chain(part.map(|part| format!("may not contain '{part}'"))).collect()
}

/// `domain/path`, as controllers are named; each fault with the part it is in.
pub(crate) fn domain_prefixed_path(text: &str) -> Vec<(&str, String)> {
    let (domain, path) = match text.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => (domain, path),
        _ => return vec![(text, "must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned())],
    };
    let mut faults: Vec<(&str, String)> =
        subdomain(domain).into_iter().map(|fault| (domain, fault)).collect();
    let ok = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !path.bytes().all(ok) {
        let words = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        faults.push((path, words.to_owned()));
    }
    faults
}

/// A label's value: at most 63 bytes.
pub(crate) fn label_value(text: &str) -> Faults {
    checked(text, 63, text.is_empty() || is_name_part(text), LABEL_VALUE)
}

/// The name of a port by RFC 6335, as `targetPort` takes it.
pub(crate) fn port_name(text: &str) -> Faults {
    let mut faults = Faults::new();
    if text.len() > 15 {
        faults.push("must be no more than 15 characters".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|byte| is_lower(byte) || byte == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// A port number.
pub(crate) fn port_number(number: i64) -> Faults {
    if (1..=65535).contains(&number) {
        Faults::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// A key of a ConfigMap or Secret.
pub(crate) fn config_key(text: &str) -> Faults {
    let ok =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let mut faults = checked(text, 253, ok, CONFIG_KEY);
    match text {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// The name of an environment variable.
pub(crate) fn env_name(text: &str) -> Faults {
    let ok = text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if ok { Faults::new() } else { vec![ENV_NAME.to_owned()] }
}

/// An address of either family.
pub(crate) fn ip(text: &str) -> Faults {
    match text.parse::<IpAddr>() {
        Ok(_) => Faults::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// A network of either family.
pub(crate) fn cidr(text: &str) -> Faults {
    match text.parse::<ipnet::IpNet>() {
        Ok(_) => Faults::new(),
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
    }
}

/// An address that another machine can have: see CVE-2021-25737.
pub(crate) fn ordinary_ip(address: IpAddr) -> Faults {
    let mut faults = Faults::new();
    let address = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    if address.is_unspecified() {
        faults.push(format!("may not be unspecified ({address})"));
    }
    if address.is_loopback() {
        faults.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local {
        faults.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if address.is_multicast() {
        let near = match address {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
        };
        faults.push(if near {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
        } else {
            "may not be in the multicast range (224.0.0.0/4, ff00::/8)".to_owned()
        });
    }
    faults
}
