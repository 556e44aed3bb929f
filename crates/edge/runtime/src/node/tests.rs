use super::*;
use crate::{Executable, RuntimeConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

type Authority = CertifiedIssuer<'static, KeyPair>;
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn identity(authority: &Authority, name: &str, usage: ExtendedKeyUsagePurpose) -> Identity {
    let mut params = CertificateParams::new(vec!["node1".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// Asks for `/healthz`; none if the server does not let us in.
async fn ask(address: std::net::SocketAddr, ca: &Authority, client: Option<Identity>) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match client {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("node1").unwrap(), stream).await.ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node1\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

#[tokio::test]
async fn only_the_api_server_of_our_authority_is_served_until_the_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let executable = Executable::open(std::path::Path::new("/bin/true")).unwrap();
    let mut config = RuntimeConfig::new("node1", executable);
    config.state_dir = dir.path().join("pods");
    config.log_dir = dir.path().join("logs");
    let runtime = Runtime::new(config).unwrap();

    let (ours, theirs) = (authority(), authority());
    let (chain, key) = identity(&ours, "node1", ExtendedKeyUsagePurpose::ServerAuth);
    let tls = tls_config(ours.der(), chain, key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, tls, "api", router(runtime), async {
        let _ = stopped.await;
    }));

    let client = |ca: &Authority, name| Some(identity(ca, name, ExtendedKeyUsagePurpose::ClientAuth));
    let answer = ask(address, &ours, client(&ours, "api")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
    assert_eq!(ask(address, &ours, client(&theirs, "api")).await, None);
    assert_eq!(ask(address, &ours, client(&ours, "system:node:x")).await.unwrap_or_default(), "");
    assert_eq!(ask(address, &ours, None).await, None);
    stop.send(()).unwrap();
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_words() {
    use tower::ServiceExt;
    let dir = tempfile::tempdir().unwrap();
    let executable = Executable::open(std::path::Path::new("/bin/true")).unwrap();
    let mut config = RuntimeConfig::new("node1", executable);
    config.state_dir = dir.path().join("pods");
    config.log_dir = dir.path().join("logs");
    let router = router(Runtime::new(config).unwrap());
    for (method, path, status, part) in [
        ("GET", "/containerLogs/a/b/c", 404, "pod \"b_a\" not found"),
        ("GET", "/containerLogs/a/b/c?tailLines=-1", 400, "tailLines"),
        ("GET", "/exec/a/b/c?command=x&stdout=1", 404, "not found"),
        ("GET", "/exec/a/b/c?stdout=1", 400, "at least one command"),
        ("POST", "/exec/a/b/c?command=x&stdout=1", 400, "WebSocket"),
    ] {
        let request = http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(part), "{path}: {body:?}");
    }
}
