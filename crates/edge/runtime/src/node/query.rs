//! Query strings with repeated keys, as the kubelet takes them.

use crate::logs::LogOptions;
use jiff::{SignedDuration, Timestamp};

/// Decoded keys and values, in order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=1&b=x%20y&b=z`.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty());
        Self(
            pairs
                .map(|part| {
                    let (name, value) = part.split_once('=').unwrap_or((part, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of `name`.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of `name`.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// A boolean; absent is false, and `name` or `name=` alone is true for the kubelet's `1` or `true`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, String> {
        match self.first(name) {
            None | Some("false" | "0" | "") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(format!("{name}: invalid value {other:?}: must be true or false")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<i64>, String> {
        self.first(name)
            .map(|text| match text.parse() {
                Ok(number) if number >= 0 => Ok(number),
                _ => Err(format!("{name}: invalid value {text:?}: must be an integer, 0 or more")),
            })
            .transpose()
    }

    /// The part of a log that is asked for.
    pub(super) fn log_options(&self, now: Timestamp) -> Result<LogOptions, String> {
        let since_time = self
            .first("sinceTime")
            .map(|text| text.parse::<Timestamp>().map_err(|error| format!("sinceTime: {error}")))
            .transpose()?;
        let since_seconds = self.number("sinceSeconds")?;
        if since_time.is_some() && since_seconds.is_some() {
            return Err("sinceSeconds: at most one of sinceTime and sinceSeconds may be given".to_owned());
        }
        if since_seconds == Some(0) {
            return Err("sinceSeconds: invalid value 0: must be greater than 0".to_owned());
        }
        let since = since_seconds
            .map(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN));
        let limit_bytes = self.number("limitBytes")?;
        if limit_bytes == Some(0) {
            return Err("limitBytes: invalid value 0: must be greater than 0".to_owned());
        }
        Ok(LogOptions {
            follow: self.flag("follow")?,
            tail_lines: self.number("tailLines")?.map(i64::unsigned_abs),
            since: since_time.or(since),
            timestamps: self.flag("timestamps")?,
            limit_bytes: limit_bytes.map(i64::unsigned_abs),
        })
    }
}

/// Percent and plus decoding; what is no valid escape stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped = (bytes[index] == b'%')
            .then(|| bytes.get(index + 1..index + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                index += 3;
            }
            None => {
                out.push(if bytes[index] == b'+' { b' ' } else { bytes[index] });
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_and_escaped_values() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20%26%zz&tty=1&stdin=maybe");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a &%zz"]);
        assert_eq!(query.flag("tty"), Ok(true));
        assert!(query.flag("stdin").unwrap_err().starts_with("stdin:"));
        assert_eq!(query.flag("other"), Ok(false));
    }

    #[test]
    fn log_options() {
        let now = Timestamp::from_second(100).unwrap();
        let options =
            Query::parse("follow=true&tailLines=5&sinceSeconds=40&limitBytes=7").log_options(now).unwrap();
        assert_eq!(
            options,
            LogOptions {
                follow: true,
                tail_lines: Some(5),
                since: Some(Timestamp::from_second(60).unwrap()),
                timestamps: false,
                limit_bytes: Some(7)
            }
        );
        for bad in ["tailLines=-1", "sinceSeconds=0", "limitBytes=x", "sinceTime=yesterday", "follow=x"] {
            let error = Query::parse(bad).log_options(now).unwrap_err();
            assert!(error.starts_with(bad.split('=').next().unwrap()), "{error}");
        }
    }
}
