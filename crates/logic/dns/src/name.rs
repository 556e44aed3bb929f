//! Names as text.

/// Checks that a host name can be written in a DNS message; returns it lower-cased, without the dot at the end.
pub(crate) fn canonical(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = !name.is_empty() && name.len() <= 253;
    let labels = name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    (fits && labels).then(|| name.to_ascii_lowercase())
}

/// Labels of a canonical name.
pub(crate) fn labels(name: &str) -> Vec<&[u8]> {
    name.split('.').map(str::as_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fits_a_message_is_a_name() {
        assert_eq!(canonical("Example.COM.").as_deref(), Some("example.com"));
        for bad in ["", ".", "a..b", "a b", &"x".repeat(64), &"a.".repeat(127).repeat(2), "ü.de"] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
    }
}
