//! Leaf certificates: what they say, whether one that is there says it still, and making one that does.

use super::{Identity, PkiError, PkiOptions, files::Files, validity};
use jiff::Timestamp;
use minisvc_apimachinery::join;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const LEAF_DAYS: i64 = 365;
const RENEW_BEFORE_DAYS: i64 = 30;

/// What a leaf certificate says.
pub(super) struct Leaf {
    pub(super) common_name: String,
    organization: Option<&'static str>,
    sans: Vec<SanType>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    pub(super) fn client(name: &str, group: &'static str) -> Self {
        Self {
            common_name: name.to_owned(),
            organization: Some(group),
            sans: Vec::new(),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    pub(super) fn node(name: &str, addresses: &[IpAddr]) -> Result<Self, PkiError> {
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let mut sans: Vec<SanType> = addresses.iter().copied().map(SanType::IpAddress).collect();
        sans.push(dns(name)?);
        Ok(Self { sans, usages, ..Self::client(&join::node_user(name), join::NODES) })
    }

    pub(super) fn server(options: &PkiOptions) -> Result<Self, PkiError> {
        let own = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let addresses = options.node_addresses.iter().chain(&own).chain(&options.service_addresses);
        let mut sans: Vec<SanType> = addresses.copied().map(SanType::IpAddress).collect();
        let full = format!("kubernetes.default.svc.{}", options.cluster_domain);
        let own = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", &full];
        for name in own.into_iter().chain([options.node_name.as_str()]) {
            sans.push(dns(name)?);
        }
        for name in &options.extra_sans {
            sans.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => dns(name)?,
            });
        }
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(Self { common_name: "minisvc-apiserver".to_owned(), organization: None, sans, usages })
    }

    pub(super) fn params(&self, now: Timestamp) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(&self.common_name, self.organization);
        params.subject_alt_names = self.sans.clone();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.clone();
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, LEAF_DAYS);
        params
    }

    /// Whether a certificate says all of this, is signed by this CA and good for long enough.
    pub(super) fn is_said_by(&self, certificate: &[u8], ca: &CertificateDer<'_>, now: Timestamp) -> bool {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return false };
        let Ok((_, ca)) = x509_parser::parse_x509_certificate(ca) else { return false };
        let end = certificate.validity().not_after.timestamp();
        let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let mut sans = BTreeSet::new();
        if let Ok(Some(extension)) = certificate.subject_alternative_name() {
            sans.extend(extension.value.general_names.iter().filter_map(|name| match name {
                x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
                x509_parser::extensions::GeneralName::IPAddress(bytes) => {
                    address(bytes).map(|a| a.to_string())
                }
                _ => None,
            }));
        }
        let wanted: BTreeSet<String> = self
            .sans
            .iter()
            .filter_map(|san| match san {
                SanType::DnsName(name) => Some(name.as_str().to_owned()),
                SanType::IpAddress(address) => Some(address.to_string()),
                _ => None,
            })
            .collect();
        end - now.as_second() > RENEW_BEFORE_DAYS * 86_400
            && common_name == Some(self.common_name.as_str())
            && sans == wanted
            && certificate.issuer() == ca.subject()
            && certificate.verify_signature(Some(ca.public_key())).is_ok()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn dns(name: &str) -> Result<SanType, PkiError> {
    let plausible = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.*_".contains(&byte));
    let name_as_ia5 = name.to_owned().try_into().ok().filter(|_| plausible);
    name_as_ia5.map(SanType::DnsName).ok_or_else(|| PkiError::San { name: name.to_owned() })
}

pub(super) fn distinguished(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// The leaf certificate in a file, if it says what is wanted; else a new one, which is written there.
pub(super) fn open_leaf(
    files: &Files,
    file: &str,
    wanted: &Leaf,
    issuer: &Issuer<'static, KeyPair>,
    ca: &CertificateDer<'_>,
    now: Timestamp,
) -> Result<Identity, PkiError> {
    let (crt, key) = (format!("{file}.crt"), format!("{file}.key"));
    if let (Some(certificate), Some(key)) = (files.read(&crt)?, files.read(&key)?) {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes());
        let fits = matches!((der, KeyPair::from_pem(&key)), (Ok(der), Ok(key))
            if wanted.is_said_by(&der, ca, now) && holds(&der, &key));
        if fits {
            return Ok(Identity { certificate, key });
        }
    }
    let failed = |source| PkiError::Issue { name: wanted.common_name.clone(), source };
    let pair = KeyPair::generate().map_err(failed)?;
    let certificate = wanted.params(now).signed_by(&pair, issuer).map_err(failed)?.pem();
    let identity = Identity { certificate, key: pair.serialize_pem() };
    files.write(&files.path(&key), identity.key.as_bytes())?;
    files.write(&files.path(&crt), identity.certificate.as_bytes())?;
    Ok(identity)
}

/// Whether the certificate is of this key: a renewal that was cut short leaves two that do not belong together.
fn holds(certificate: &[u8], key: &KeyPair) -> bool {
    x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, certificate)| {
        certificate.public_key().subject_public_key.data == key.public_key_raw()
    })
}
