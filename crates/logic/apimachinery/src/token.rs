//! The join token: the hash of the cluster's CA and a secret.
//!
//! Whoever joins fetches the CA certificate without trusting the connection, compares its hash with the token's,
//! and only then, over a connection verified by that CA, says the secret.

use std::fmt;

const PREFIX: &str = "M1";
const HASH_BYTES: usize = 32;
/// Length of the secret, bytes.
pub const SECRET_BYTES: usize = 32;

/// A join token, written `M1.<SHA-256 of the CA certificate, hex>.<secret, hex>`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA certificate's DER.
    pub ca_sha256: [u8; HASH_BYTES],
    /// What the server recognises the joining node by, as in the `Authorization` header: 64 hex digits.
    pub secret: String,
}

/// What is wrong with a text that should be a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not have three parts, the first being `M1`.
    #[error(
        "a join token looks like M1.<64 hex digits>.<64 hex digits>; `minisvc token` on the first server prints it"
    )]
    Form,
    /// The second part is no hash.
    #[error("the join token's second part is not the 64 hex digits of the CA's hash: it may be cut short")]
    Hash,
    /// The third part is no secret.
    #[error("the join token's third part is not the 64 hex digits of the secret: it may be cut short")]
    Secret,
}

impl JoinToken {
    /// Makes a token of a CA's hash and a secret's bytes.
    pub fn new(ca_sha256: [u8; HASH_BYTES], secret: [u8; SECRET_BYTES]) -> Self {
        Self { ca_sha256, secret: hex(&secret) }
    }

    /// Reads a token; white space around it does not matter.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(hash), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Form);
        };
        let ca_sha256 = unhex(hash).ok_or(TokenError::Hash)?;
        let secret = unhex(secret).ok_or(TokenError::Secret)?;
        Ok(Self::new(ca_sha256, secret))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}", hex(&self.ca_sha256), self.secret)
    }
}

// The secret stays out of logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({PREFIX}.{}.…)", hex(&self.ca_sha256))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back() {
        let token = JoinToken::new([0xa5; 32], [7; 32]);
        let text = token.to_string();
        assert!(text.starts_with("M1.a5a5") && text.ends_with("0707"));
        assert_eq!(JoinToken::parse(&format!(" {text}\n")), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("0707"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = JoinToken::new([1; 32], [2; 32]).to_string();
        assert_eq!(JoinToken::parse("abc"), Err(TokenError::Form));
        assert_eq!(JoinToken::parse(&text[1..]), Err(TokenError::Form));
        assert_eq!(JoinToken::parse(&text[..text.len() - 1]), Err(TokenError::Secret));
        assert_eq!(JoinToken::parse(&text.replacen("0101", "01", 1)), Err(TokenError::Hash));
        assert_eq!(JoinToken::parse(&text.replacen("02", "0ä", 1)), Err(TokenError::Secret));
    }
}
