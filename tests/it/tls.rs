//! TLS on the client side: HTTP/1.1 and HTTP/2 by ALPN.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

use crate::support::{Answer, COMPLETION, Fake, Gateway, SelfSigned, chat, gateway::providers};

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_served_over_tls() {
    let own = SelfSigned::make();
    let fake = Fake::always(Answer::completion()).await;
    let yaml = format!(
        "listen: [{{address: 127.0.0.1:0, http2: true, {}}}]\n{}",
        own.yaml(),
        providers(&[("openai", fake.address)])
    );
    let gateway = Gateway::start(&yaml);
    let mut roots = RootCertStore::empty();
    roots.add(own.der.clone()).unwrap();
    for protocol in ["h2", "http/1.1"] {
        let mut config = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let tcp = tokio::net::TcpStream::connect(gateway.addresses[0]).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        let request = http::Request::post("https://localhost/v1/chat/completions")
            .header("host", "localhost")
            .body(Full::new(bytes::Bytes::from(chat("gpt-4o", ""))))
            .unwrap();
        let reply = if protocol == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!((reply.status().as_u16(), &reply.headers()["x-chittycan-cost"]), (200, &"0.003".parse().unwrap()));
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), COMPLETION);
    }
}

#[test]
fn an_unusable_certificate_is_named_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, "no certificate").unwrap();
    std::fs::write(&key, "no key").unwrap();
    let text = format!(
        "listen: [{{address: 127.0.0.1:0, tls: {{cert: {}, key: {}}}}}]\nadmin: off\n",
        cert.display(),
        key.display()
    );
    let source = chittycan::config::Source { env: Arc::new(|_: &str| None), ..chittycan::config::Source::new(None) };
    let told = match chittycan::config::Config::load_text(&text, &source) {
        Ok(loaded) => match chittycan::server::Server::compose(loaded.config, false) {
            Ok(_) => panic!("it starts without a certificate"),
            Err(error) => error.to_string(),
        },
        Err(faults) => format!("{faults:?}"),
    };
    assert!(told.contains("cert.pem") || told.contains("TLS"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_behind_tls_is_verified_and_reached_over_both_protocols() {
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{ServerConfig, pki_types::PrivateKeyDer},
    };
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (ours, other) = (folder.path().join("ours.pem"), folder.path().join("other.pem"));
    std::fs::write(&ours, made.cert.pem()).unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&other, stranger.cert.pem()).unwrap();

    // A TLS front before the recording fake.
    let fake = Fake::always(Answer::completion()).await;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut server =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let protocols: Arc<std::sync::Mutex<Vec<Option<Vec<u8>>>>> = Arc::default();
    let (seen, behind) = (protocols.clone(), fake.address);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                seen.lock().unwrap().push(tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
                let mut plain = tokio::net::TcpStream::connect(behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
            });
        }
    });
    for (http2, ca, status) in [(false, &ours, 200), (true, &ours, 200), (false, &other, 502)] {
        let yaml = providers(&[("openai", fake.address)])
            .replace(&format!("http://{}", fake.address), &format!("https://localhost:{port}"))
            .replace("mapped", &format!("mapped, http2: {http2}, ca_file: {}", ca.display()));
        let gateway = Gateway::start(&yaml);
        for size in [10, 100_000] {
            let body = chat("gpt-4o", &format!(r#","user":"{}""#, "u".repeat(size)));
            let reply = reqwest::Client::new()
                .post(gateway.url("/v1/chat/completions"))
                .body(body.clone())
                .send()
                .await
                .unwrap();
            assert_eq!(reply.status().as_u16(), status, "http2 {http2}, {size} bytes");
            if status == 200 {
                assert_eq!(fake.last().body, body.as_bytes());
            }
        }
    }
    let seen = protocols.lock().unwrap();
    assert!(seen.contains(&Some(b"h2".to_vec())), "{seen:?}");
    assert!(seen.iter().any(|p| p.as_deref() != Some(b"h2")), "{seen:?}");
}
