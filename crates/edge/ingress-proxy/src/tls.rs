//! Certificates by server name.
//!
//! In: the certificates of a route table, as PEM. Out: keys to sign with, and the Secrets that hold none.

use crate::Shared;
use minisvc_apimachinery::ObjectKey;
use minisvc_ingress::{Certificate, RouteTable};
use minisvc_reconcile::Rejection;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Parsed certificates by Secret.
#[derive(Default)]
pub(crate) struct Keys(BTreeMap<ObjectKey, (Arc<Certificate>, Arc<CertifiedKey>)>);

impl Keys {
    /// Parses the certificates of a table; those that were in `old` are taken over.
    pub(crate) fn load(table: &RouteTable, old: &Self) -> (Self, Vec<Rejection>) {
        let (mut keys, mut rejected) = (Self::default(), BTreeMap::new());
        let provider = ring::default_provider();
        for (_, certificate) in table.certificates() {
            let secret = &certificate.secret;
            if keys.0.contains_key(secret) || rejected.contains_key(secret) {
                continue;
            }
            let known =
                old.0.get(secret).filter(|(known, _)| known == certificate).map(|(_, key)| key.clone());
            match known.map_or_else(|| parse(certificate, &provider).map(Arc::new), Ok) {
                Ok(key) => {
                    keys.0.insert(secret.clone(), (certificate.clone(), key));
                }
                Err(message) => {
                    let (namespace, name) = (secret.namespace.clone(), secret.name.clone());
                    let reason = "InvalidCertificate";
                    rejected.insert(secret, Rejection { kind: "Secret", namespace, name, reason, message });
                }
            }
        }
        (keys, rejected.into_values().collect())
    }
}

fn parse(certificate: &Certificate, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(&certificate.chain_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("tls.crt: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt: no certificate in it".to_owned());
    }
    let key =
        PrivateKeyDer::from_pem_slice(&certificate.key_pem).map_err(|error| format!("tls.key: {error}"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| format!("tls.crt with tls.key: {error}"))
}

/// TLS with the certificate that the table in force has for the name the client asks for.
pub(crate) fn config(shared: Arc<Shared>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName(shared)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

struct ByName(Arc<Shared>);

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByName")
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let published = self.0.published.load();
        let certificate = published.table.certificate(hello.server_name().unwrap_or_default())?;
        published.keys.0.get(&certificate.secret).map(|(_, key)| key.clone())
    }
}
