//! The key that signs the tokens of ServiceAccounts: JSON web tokens (RFC 7515, 7519) of algorithm ES256 and no other.
//!
//! Invariant: what is in a token is read only after its signature was found good.

use super::{PkiError, files::Files};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use rcgen::{KeyPair, PublicKeyData};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair},
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const FILE: &str = "sa.key";
const ALGORITHM: &str = "ES256";
/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Bytes of one coordinate of a point of P-256.
const COORDINATE: usize = 32;

/// Signs and verifies tokens. Its `Debug` shows the public half only.
#[derive(Debug)]
pub(crate) struct AccountKey {
    pair: EcdsaKeyPair,
    /// Uncompressed: 4, x, y.
    public: Vec<u8>,
    /// `kid`: hash of the public key.
    id: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

impl AccountKey {
    /// Reads the key; makes it if it is not there.
    pub(super) fn open(files: &Files) -> Result<Self, PkiError> {
        if let Some(pem) = files.read(FILE)? {
            return Self::of(&pem).map_err(|why| files.damaged(FILE, &why));
        }
        let failed = |source| PkiError::Issue { name: "ServiceAccounts".to_owned(), source };
        let pem = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?.serialize_pem();
        files.write(&files.path(FILE), pem.as_bytes())?;
        Self::of(&pem).map_err(|why| files.damaged(FILE, &why))
    }

    fn of(pem: &str) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.secret_der(), &SystemRandom::new())
            .map_err(|error| error.to_string())?;
        let keys = KeyPair::from_pem(pem).map_err(|error| error.to_string())?;
        let id = BASE64.encode(Sha256::digest(keys.subject_public_key_info()));
        Ok(Self { pair, public: keys.public_key_raw().to_vec(), id })
    }

    /// A token that says this; None if the system gives no random numbers.
    pub(crate) fn sign(&self, claims: &impl Serialize) -> Option<String> {
        let part = |value: Vec<u8>| BASE64.encode(value);
        let header = Header { alg: ALGORITHM.to_owned(), kid: self.id.clone() };
        let header = part(serde_json::to_vec(&header).ok()?);
        let signed = format!("{header}.{}", part(serde_json::to_vec(claims).ok()?));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// What a token says, if this key signed it.
    pub(crate) fn verify<T: DeserializeOwned>(&self, token: &str) -> Option<T> {
        let (signed, signature) = token.rsplit_once('.').filter(|_| token.len() <= TOKEN_BYTES_MAX)?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        if header.alg != ALGORITHM || header.kid != self.id {
            return None;
        }
        let public = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &self.public);
        public.verify(signed.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()
    }

    /// The public key for others to verify tokens by (RFC 7517).
    pub(crate) fn key_set(&self) -> Value {
        let point = self.public.get(1..).unwrap_or_default();
        let (x, y) = point.split_at(COORDINATE.min(point.len()));
        let key = json!({
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": ALGORITHM,
            "x": BASE64.encode(x), "y": BASE64.encode(y),
        });
        json!({"keys": [key]})
    }

    pub(crate) const ALGORITHM: &'static str = ALGORITHM;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AccountKey {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        AccountKey::of(&pair.serialize_pem()).unwrap()
    }

    #[test]
    fn a_token_is_taken_as_it_was_signed_or_not_at_all() {
        let key = key();
        let claims = json!({"sub": "me", "exp": 5});
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify::<Value>(&token), Some(claims.clone()));
        let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
            panic!("{token}")
        };
        let encoded = |value: &Value| BASE64.encode(value.to_string());
        let other = encoded(&json!({"sub": "you", "exp": 5}));
        let none = encoded(&json!({"alg": "none", "kid": key.id}));
        let shared = encoded(&json!({"alg": "HS256", "kid": key.id}));
        let stranger = encoded(&json!({"alg": "ES256", "kid": "x"}));
        for forged in [
            format!("{header}.{other}.{signature}"),
            format!("{header}.{payload}."),
            format!("{header}.{payload}"),
            format!("{none}.{payload}."),
            format!("{none}.{payload}.{signature}"),
            format!("{shared}.{payload}.{signature}"),
            format!("{stranger}.{payload}.{signature}"),
            format!("{header}.{payload}.{}", BASE64.encode([0; 64])),
            format!("{header}.{payload}.{signature}="),
            format!("{token}.{token}"),
            format!("{token}{}", "A".repeat(TOKEN_BYTES_MAX)),
            String::new(),
            "..".to_owned(),
        ] {
            assert_eq!(key.verify::<Value>(&forged), None, "{forged}");
        }
        assert_eq!(self::key().verify::<Value>(&token), None, "another key");
    }

    #[test]
    fn the_key_set_verifies_what_the_key_signs() {
        let key = key();
        let token = key.sign(&json!({})).unwrap();
        let set = key.key_set();
        let coordinate = |name: &str| BASE64.decode(set["keys"][0][name].as_str().unwrap()).unwrap();
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let public = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
        public.verify(signed.as_bytes(), &BASE64.decode(signature).unwrap()).unwrap();
        let header: Value =
            serde_json::from_slice(&BASE64.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
        assert_eq!(header, json!({"alg": "ES256", "kid": set["keys"][0]["kid"]}));
    }
}
