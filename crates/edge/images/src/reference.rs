//! Names of images, and what they mean when parts are left out.
//!
//! In: what people write (`web`, `nginx:1.27`, `registry.k8s.io/pause:3.10`, `web@sha256:…`). Out: the full name, in which
//! two ways to write the same image are equal. Source: the distribution project's `reference` package, whose rules Docker,
//! containerd and the kubelet share.

use crate::Error;
use std::{fmt, str::FromStr};

/// Where a name without a registry is looked for.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The part of a name that official images need not say.
const OFFICIAL: &str = "library/";
/// The tag of a name without one.
const DEFAULT_TAG: &str = "latest";
/// Longest name without tag and digest, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// Longest tag, in bytes.
const TAG_BYTES_MAX: usize = 128;

/// A full name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Registry and path, such as `docker.io/library/web`.
    pub repository: String,
    /// The tag; none if the image is named by digest alone.
    pub tag: Option<String>,
    /// `sha256:` and 64 digits, if the name pins it.
    pub digest: Option<String>,
}

impl Reference {
    /// The shortest name that means the same, without a digest.
    pub fn familiar(&self) -> String {
        let short = self.repository.strip_prefix("docker.io/").unwrap_or(&self.repository);
        let short = short.strip_prefix(OFFICIAL).filter(|rest| !rest.contains('/')).unwrap_or(short);
        match self.tag.as_deref() {
            None | Some(DEFAULT_TAG) => short.to_owned(),
            Some(tag) => format!("{short}:{tag}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |problem: &'static str| Error::Name { text: text.to_owned(), problem };
        let (name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) if is_digest(digest) => (name, Some(digest.to_owned())),
            Some(_) => return Err(wrong("the digest must be sha256: and 64 hexadecimal digits")),
        };
        // A colon before the last slash is a registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("the tag must be 1 to 128 letters, digits, '_', '.' and '-'"));
        }
        let (domain, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DEFAULT_DOMAIN, name),
        };
        if name.is_empty() || path.is_empty() {
            return Err(wrong("the name is empty"));
        }
        if !is_domain(domain) {
            return Err(wrong("the registry must be a host name, with a port if need be"));
        }
        if !path.split('/').all(is_component) {
            return Err(wrong(
                "the name must be lower-case letters and digits, separated by '.', '_', '__', '-' or '/'",
            ));
        }
        let official = if domain == DEFAULT_DOMAIN && !path.contains('/') { OFFICIAL } else { "" };
        let repository = format!("{domain}/{official}{path}");
        if repository.len() > NAME_BYTES_MAX {
            return Err(wrong("the name is longer than 255 bytes"));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { repository, tag, digest })
    }
}

/// Whether it is a SHA-256 digest as in descriptors.
pub(crate) fn is_digest(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && tag.bytes().enumerate().all(|(i, b)| word(b) || (i > 0 && matches!(b, b'.' | b'-')))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = domain.split_once(':').unwrap_or((domain, "1"));
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_component(part: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = part.bytes().next().is_some_and(letter) && part.bytes().last().is_some_and(letter);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    edges
        && separators
            .filter(|run| !run.is_empty())
            .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_the_full_ones() {
        for (text, full, familiar) in [
            ("web", "docker.io/library/web:latest", "web"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx"),
            ("me/app", "docker.io/me/app:latest", "me/app"),
            (
                "registry.k8s.io/e2e/agnhost:2.5-a",
                "registry.k8s.io/e2e/agnhost:2.5-a",
                "registry.k8s.io/e2e/agnhost:2.5-a",
            ),
            ("localhost/a__b", "localhost/a__b:latest", "localhost/a__b"),
            ("h:5000/a---b.c", "h:5000/a---b.c:latest", "h:5000/a---b.c"),
        ] {
            let parsed: Reference = text.parse().unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.familiar().as_str()), (full, familiar));
            assert_eq!(full.parse::<Reference>().unwrap(), parsed);
        }
        let digest = format!("sha256:{}", "ab".repeat(32));
        let pinned: Reference = format!("web@{digest}").parse().unwrap();
        assert_eq!((pinned.tag, pinned.digest), (None, Some(digest)));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ":x",
            "/x",
            "Web",
            "a/",
            "a//b",
            "a:",
            "a:-x",
            "a..b",
            "a___b",
            "-a",
            "a@sha256:1",
            "a@",
            "../a",
            "a b",
            "a.b:x/c",
            "é",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        let long = format!("a:{}", "x".repeat(129));
        assert!(long.parse::<Reference>().is_err());
        assert!("a".repeat(300).parse::<Reference>().is_err());
    }
}
