use super::*;
use std::os::unix::fs::PermissionsExt;

fn options(now: Timestamp) -> PkiOptions {
    PkiOptions {
        node_name: "node1".to_owned(),
        node_addresses: ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec(),
        service_addresses: ["10.43.0.1", "fd43::1"].map(|text| text.parse().unwrap()).to_vec(),
        cluster_domain: "cluster.local".to_owned(),
        extra_sans: vec!["api.example.org".to_owned(), "198.51.100.7".to_owned()],
        now,
    }
}

#[test]
fn a_second_start_finds_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let first = Pki::open(dir.path(), &options(now)).unwrap();
    let second = Pki::open(dir.path(), &options(now + SignedDuration::from_hours(24 * 300))).unwrap();
    for (a, b) in [
        (&first.ca, &second.ca),
        (&first.server, &second.server),
        (&first.admin, &second.admin),
        (&first.node, &second.node),
    ] {
        assert_eq!((&a.certificate, &a.key), (&b.certificate, &b.key));
    }
    assert_eq!(first.join_token, second.join_token);
    assert_eq!(first.admin_token, second.admin_token);
    let token = first.account_key.sign(&"claims").unwrap();
    assert_eq!(second.account_key.verify::<String>(&token).unwrap(), "claims");
    let files: Vec<_> =
        std::fs::read_dir(dir.path().join("pki")).unwrap().map(|f| f.unwrap().path()).collect();
    assert!(files.len() >= 14, "{files:?}");
    for file in files.iter().chain([&dir.path().join("token")]) {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[test]
fn leaf_certificates_are_renewed_in_time_and_when_names_change() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let first = Pki::open(dir.path(), &options(now)).unwrap();
    let mut more = options(now);
    more.extra_sans.push("other.example.org".to_owned());
    let second = Pki::open(dir.path(), &more).unwrap();
    assert_ne!(first.server.certificate, second.server.certificate);
    assert_eq!(first.admin.certificate, second.admin.certificate);
    let late = PkiOptions { now: now + SignedDuration::from_hours(24 * 340), ..more };
    let third = Pki::open(dir.path(), &late).unwrap();
    assert_ne!(second.server.certificate, third.server.certificate);
    assert_ne!(second.admin.certificate, third.admin.certificate);
    assert_eq!(first.ca.certificate, third.ca.certificate);
}

#[test]
fn what_cannot_be_mended_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let bad_name = PkiOptions { extra_sans: vec!["not a name".to_owned()], ..options(now) };
    assert!(matches!(Pki::open(dir.path(), &bad_name), Err(PkiError::San { .. })));
    Pki::open(dir.path(), &options(now)).unwrap();
    std::fs::write(dir.path().join("token"), "M1.abc").unwrap();
    let error = Pki::open(dir.path(), &options(now)).unwrap_err();
    assert!(matches!(&error, PkiError::Damaged { path, .. } if path.ends_with("token")), "{error}");
    std::fs::remove_file(dir.path().join("token")).unwrap();
    std::fs::remove_file(dir.path().join("pki/ca.key")).unwrap();
    assert!(matches!(Pki::open(dir.path(), &options(now)), Err(PkiError::NoCaKey { .. })));
}

#[test]
fn a_node_gets_the_names_of_its_join_whatever_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let pki = Pki::open(dir.path(), &options(now)).unwrap();
    let (_, request) = node_request("evil").unwrap();
    let pem = pki.sign_node(&request, "node2", "192.0.2.2".parse().unwrap(), now).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let leaf = Leaf::node("node2", &["192.0.2.2".parse().unwrap()]).unwrap();
    assert!(leaf.is_said_by(&der, &pki.ca_der, now));
    let refused = pki.sign_node("nonsense", "node2", "192.0.2.2".parse().unwrap(), now);
    assert!(matches!(refused, Err(PkiError::Request { .. })));
}

#[test]
fn the_api_is_itself_at_every_address_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let pki = Pki::open(dir.path(), &options(now)).unwrap();
    let der = CertificateDer::from_pem_slice(pki.server.certificate.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    let has = |address: IpAddr| {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        names.iter().any(|name| *name == x509_parser::extensions::GeneralName::IPAddress(&bytes))
    };
    for address in ["192.0.2.1", "2001:db8::1", "10.43.0.1", "fd43::1", "127.0.0.1", "::1", "198.51.100.7"] {
        assert!(has(address.parse().unwrap()), "{address}");
    }
    assert!(!has("192.0.2.9".parse().unwrap()));
}
