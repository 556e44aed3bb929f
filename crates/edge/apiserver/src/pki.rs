//! The cluster's certificates: a CA made at the first start, and what it signs.
//!
//! In: the data directory, what the serving certificate must be valid for. Out: a [`Pki`]; files under
//! `<data-dir>/pki` and the join token in `<data-dir>/token`, all of mode 0600.
//!
//! Invariants: the CA never changes once made; a private key never leaves its machine, so nodes send signing
//! requests; the names in a node's certificate come from the join, never from its signing request.

mod account_key;
mod files;
mod leaf;

pub(crate) use account_key::AccountKey;

use crate::kubeconfig;
use files::Files;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use leaf::{Leaf, distinguished, open_leaf};
use minisvc_apimachinery::{
    join,
    token::{JoinToken, SECRET_BYTES},
};
use rand::TryRngCore;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

const CA_DAYS: i64 = 3650;

/// Why certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("writing {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged: {what}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The CA's certificate is there and its key is not.
    #[error("{path} is missing while the CA's certificate is there: restore it from a backup")]
    NoCaKey {
        /// Where the key should be.
        path: PathBuf,
    },
    /// A certificate cannot be made.
    #[error("making the certificate of {name}: {source}")]
    Issue {
        /// Common name.
        name: String,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// A name that a certificate should be valid for is no DNS name or address.
    #[error("--tls-san {name:?} is neither a DNS name nor an address")]
    San {
        /// The name.
        name: String,
    },
    /// A node's certificate signing request is malformed.
    #[error("csr: not a certificate signing request: {source}")]
    Request {
        /// What is wrong.
        source: rcgen::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {source}")]
    Random {
        /// What the system said.
        source: rand::rand_core::OsError,
    },
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PEM (PKCS #8).
    pub key: String,
}

// The key stays out of logs.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Identity {
    pub(crate) fn tls(&self) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).ok()?;
        Some((chain, key))
    }
}

/// What the certificates must name.
#[derive(Clone, Debug)]
pub struct PkiOptions {
    /// Name of this server's node.
    pub node_name: String,
    /// Addresses at which other nodes reach this server, at most one of each family.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses that are kept for the Service `default/kubernetes`.
    pub service_addresses: Vec<IpAddr>,
    /// DNS zone of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// More DNS names and addresses of the API (`--tls-san`).
    pub extra_sans: Vec<String>,
    /// What time it is.
    pub now: Timestamp,
}

/// The CA and what it signed for this server.
#[derive(Debug)]
pub struct Pki {
    ca: Identity,
    ca_der: CertificateDer<'static>,
    /// Serves the API.
    pub server: Identity,
    /// The administrator, see [`join::ADMIN`].
    pub admin: Identity,
    /// Who may only read, see [`join::VIEWER`].
    pub viewer: Identity,
    /// The controllers, see [`join::CONTROLLER_MANAGER`].
    pub controllers: Identity,
    /// The API server as client of the nodes' servers, see [`join::API_SERVER_CLIENT`].
    pub api_client: Identity,
    /// This server's own node: client of the API, and its server on port 10250.
    pub node: Identity,
    /// What joining nodes show.
    pub join_token: JoinToken,
    /// Bearer token of the administrator.
    pub admin_token: String,
    /// Signs the tokens of ServiceAccounts.
    pub(crate) account_key: Arc<AccountKey>,
}

impl Pki {
    /// Reads the certificates of this data directory; makes those that are missing, renews leaf certificates that
    /// end within 30 days or do not name what they must. Blocks on files.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn open(data_dir: &Path, options: &PkiOptions) -> Result<Self, PkiError> {
        let files = Files::new(data_dir.join("pki"))?;
        let ca = open_ca(&files, options.now)?;
        let ca_der = CertificateDer::from_pem_slice(ca.certificate.as_bytes())
            .map_err(|e| files.damaged("ca.crt", &e.to_string()))?;
        let issuer = issuer(&ca).map_err(|source| PkiError::Issue { name: "CA".to_owned(), source })?;
        let leaf = |file: &str, wanted: &Leaf| open_leaf(&files, file, wanted, &issuer, &ca_der, options.now);
        let client = |name: &str| Leaf::client(name, join::MASTERS);
        let join_secret = files.secret(&data_dir.join("token"), |text| {
            JoinToken::parse(text).map(|token| token.secret).map_err(|e| e.to_string())
        })?;
        let fingerprint: [u8; 32] = Sha256::digest(&ca_der).into();
        let join_token = match join_secret {
            Some(secret) => JoinToken { ca_sha256: fingerprint, secret },
            None => JoinToken::new(fingerprint, random()?),
        };
        files.write(&data_dir.join("token"), format!("{join_token}\n").as_bytes())?;
        let admin_file = data_dir.join("pki").join("admin.token");
        let admin_token = match files.secret(&admin_file, |text| Ok(text.trim().to_owned()))? {
            Some(token) if token.len() >= 32 => token,
            Some(_) => return Err(files.damaged("admin.token", "it is too short")),
            None => hex::encode(random()?),
        };
        files.write(&admin_file, format!("{admin_token}\n").as_bytes())?;
        Ok(Self {
            server: leaf("server", &Leaf::server(options)?)?,
            admin: leaf("admin", &client(join::ADMIN))?,
            viewer: leaf("viewer", &Leaf::client(join::VIEWER, join::VIEWERS))?,
            controllers: leaf("controllers", &client(join::CONTROLLER_MANAGER))?,
            api_client: leaf("apiserver-client", &client(join::API_SERVER_CLIENT))?,
            node: leaf("node", &Leaf::node(&options.node_name, &options.node_addresses)?)?,
            ca,
            ca_der,
            join_token,
            admin_token,
            account_key: Arc::new(AccountKey::open(&files)?),
        })
    }

    /// The CA's certificate, PEM.
    pub fn ca_certificate(&self) -> &str {
        &self.ca.certificate
    }

    pub(crate) fn ca_der(&self) -> CertificateDer<'static> {
        self.ca_der.clone()
    }

    /// SHA-256 of the CA's certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.join_token.ca_sha256
    }

    /// Signs a joining node's key: PEM of a certificate for the node as client and server.
    ///
    /// # Errors
    /// [`PkiError::Request`] if the request is malformed, [`PkiError::Issue`].
    pub fn sign_node(
        &self,
        csr: &str,
        node_name: &str,
        node_address: IpAddr,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let mut request =
            CertificateSigningRequestParams::from_pem(csr).map_err(|source| PkiError::Request { source })?;
        let leaf = Leaf::node(node_name, &[node_address])?;
        request.params = leaf.params(now);
        let failed = |source| PkiError::Issue { name: leaf.common_name.clone(), source };
        let issuer = issuer(&self.ca).map_err(failed)?;
        Ok(request.signed_by(&issuer).map_err(failed)?.pem())
    }

    /// The administrator's kubeconfig for the API at this URL.
    pub fn admin_kubeconfig(&self, server: &str) -> String {
        kubeconfig::text(server, self.ca_certificate(), &self.admin, "admin")
    }

    /// The kubeconfig of who may read everything but Secrets.
    pub fn view_kubeconfig(&self, server: &str) -> String {
        kubeconfig::text(server, self.ca_certificate(), &self.viewer, "view")
    }
}

/// A new key and a signing request for it, both PEM: what a joining node makes before it asks.
///
/// # Errors
/// [`PkiError::Issue`].
pub fn node_request(node_name: &str) -> Result<(String, String), PkiError> {
    let failed = |source| PkiError::Issue { name: node_name.to_owned(), source };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(&join::node_user(node_name), Some(join::NODES));
    let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
    Ok((key.serialize_pem(), request))
}

/// From yesterday on, so that clocks may differ, for this many days.
fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let date = |days: i64| {
        let day = now.saturating_add(SignedDuration::from_hours(24 * days)).unwrap_or(now);
        let day = day.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(day.year()), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    params.not_before = date(-1);
    params.not_after = date(days);
}

fn random() -> Result<[u8; SECRET_BYTES], PkiError> {
    let mut bytes = [0; SECRET_BYTES];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|source| PkiError::Random { source })?;
    Ok(bytes)
}

fn issuer(ca: &Identity) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
    Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)
}

fn open_ca(files: &Files, now: Timestamp) -> Result<Identity, PkiError> {
    let certificate = files.read("ca.crt")?;
    let key = files.read("ca.key")?;
    let failed = |source| PkiError::Issue { name: "CA".to_owned(), source };
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let ca = Identity { certificate, key };
            issuer(&ca).map_err(|e| files.damaged("ca.crt or ca.key", &e.to_string()))?;
            Ok(ca)
        }
        (Some(_), None) => Err(PkiError::NoCaKey { path: files.path("ca.key") }),
        // A start that was cut short may have left a key; no certificate of it was ever given out.
        (None, _) => {
            let key = KeyPair::generate().map_err(failed)?;
            let mut params = CertificateParams::default();
            params.distinguished_name =
                distinguished(&format!("minisvc-ca@{}", now.as_second()), Some("minisvc"));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            validity(&mut params, now, CA_DAYS);
            let certificate = params.self_signed(&key).map_err(failed)?.pem();
            let ca = Identity { certificate, key: key.serialize_pem() };
            files.write(&files.path("ca.key"), ca.key.as_bytes())?;
            files.write(&files.path("ca.crt"), ca.certificate.as_bytes())?;
            Ok(ca)
        }
    }
}

#[cfg(test)]
mod tests;
