//! Joining against a TLS server of one connection a request.

use super::*;
use http_body_util::combinators::BoxBody;
use hyper::{Response, body::Incoming, service::service_fn};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::{convert::Infallible, sync::Mutex};
use tokio::{net::TcpListener, task::JoinHandle};

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn answer(code: u16, body: impl Into<Bytes>) -> Answer {
    Response::builder().status(code).body(Full::new(body.into()).boxed()).unwrap()
}

struct Fake {
    url: String,
    ca_pem: String,
    ca_hash: [u8; 32],
    /// `path authorization` of each request.
    heard: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `respond` for joins; the certificate is for `name`.
async fn fake(name: &str, respond: fn(&str) -> Answer) -> Fake {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (ca_pem, ca_hash) = (ca.pem(), Sha256::digest(ca.der()).into());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (served, log) = (ca_pem.clone(), Arc::clone(&heard));
    let task = tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { return };
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            let service = service_fn(|request: Request<Incoming>| {
                let authorization =
                    request.headers().get(header::AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned());
                let path = request.uri().path().to_owned();
                log.lock().unwrap().push(format!("{path} {}", authorization.clone().unwrap_or_default()));
                let answer = match path.as_str() {
                    CA_PATH => answer(200, served.clone()),
                    _ => respond(&authorization.unwrap_or_default()),
                };
                async { Ok::<_, Infallible>(answer) }
            });
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        }
    });
    Fake { url, ca_pem, ca_hash, heard, task }
}

async fn try_join(fake: &Fake, hash: [u8; 32]) -> Result<JoinResponse, JoinError> {
    let token = JoinToken::new(hash, [7; 32]).to_string();
    join(&fake.url, &token, "node2", IpAddr::from([192, 168, 9, 2]), "csr").await
}

fn welcome(authorization: &str) -> Answer {
    if authorization != format!("Bearer {}", "07".repeat(32)) {
        return answer(401, serde_json::to_vec(&Status::unauthorized()).unwrap());
    }
    let response = JoinResponse { certificate: "cert".into(), ca: "ca".into(), cluster: Default::default() };
    answer(200, serde_json::to_vec(&response).unwrap())
}

#[tokio::test]
async fn a_right_token_is_answered_with_a_certificate() {
    let fake = fake("127.0.0.1", welcome).await;
    assert!(fake.ca_pem.contains("BEGIN CERTIFICATE"));
    assert_eq!(try_join(&fake, fake.ca_hash).await.unwrap().certificate, "cert");
}

#[tokio::test]
async fn a_server_of_another_ca_never_hears_the_secret() {
    let fake = fake("127.0.0.1", welcome).await;
    let error = try_join(&fake, [1; 32]).await.unwrap_err();
    assert!(matches!(error, JoinError::WrongCa { .. }), "{error}");
    assert_eq!(*fake.heard.lock().unwrap(), ["/cacerts "]);
}

#[tokio::test]
async fn a_certificate_for_another_address_is_refused_before_the_secret() {
    let fake = fake("elsewhere.example", welcome).await;
    let error = try_join(&fake, fake.ca_hash).await.unwrap_err();
    assert!(matches!(error, JoinError::Certificate { .. }), "{error}");
    assert_eq!(*fake.heard.lock().unwrap(), ["/cacerts "]);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let refusing = fake("127.0.0.1", |_| answer(401, "")).await;
    let error = try_join(&refusing, refusing.ca_hash).await.unwrap_err();
    assert!(
        matches!(error, JoinError::Refused { .. }) && error.to_string().contains("minisvc token"),
        "{error}"
    );
    let taken = fake("127.0.0.1", |_| answer(409, "")).await;
    let error = try_join(&taken, taken.ca_hash).await.unwrap_err();
    assert!(matches!(error, JoinError::NameTaken { .. }) && error.to_string().contains("node2"), "{error}");
    let huge = fake("127.0.0.1", |_| answer(200, vec![b' '; ANSWER_BYTES_MAX + 1])).await;
    let error = try_join(&huge, huge.ca_hash).await.unwrap_err();
    assert!(matches!(error, JoinError::Body { .. }), "{error}");
    let redirecting = fake("127.0.0.1", |_| {
        Response::builder()
            .status(307)
            .header("location", "https://example.com/")
            .body(Full::default().boxed())
            .unwrap()
    })
    .await;
    let error = try_join(&redirecting, redirecting.ca_hash).await.unwrap_err();
    assert!(matches!(error, JoinError::Other { .. }), "{error}");

    let gone = { fake("127.0.0.1", welcome).await.url.clone() };
    let token = JoinToken::new([1; 32], [7; 32]).to_string();
    let address = IpAddr::from([192, 168, 9, 2]);
    for (url, token, words) in [
        (gone.as_str(), token.as_str(), "cannot connect"),
        ("http://127.0.0.1:6443", &token, "https://HOST:6443"),
        ("https://127.0.0.1:6443", "secret", "minisvc token"),
    ] {
        let error = join(url, token, "node2", address, "csr").await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
