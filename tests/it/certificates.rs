//! Certificates of the client listeners: a broken pair never serves, a new one needs no restart, and readiness asks the
//! listener.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName},
    },
};

use crate::support::{
    Gateway,
    process::{Process, free_port},
};

/// A folder with the files of one listener.
struct Files {
    folder: tempfile::TempDir,
}

/// A certificate for `localhost` and its key.
struct Made {
    cert: rcgen::Certificate,
    key: rcgen::KeyPair,
}

fn make(days: i64) -> Made {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = (std::time::SystemTime::now() + Duration::from_secs(days.unsigned_abs() * 86_400)).into();
    if days < 0 {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    Made { cert: params.self_signed(&key).unwrap(), key }
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, cert: &Made, key: &Made) {
        std::fs::write(self.path("tls.crt"), cert.cert.pem()).unwrap();
        std::fs::write(self.path("tls.key"), key.key.serialize_pem()).unwrap();
    }

    fn yaml(&self, port: u16) -> String {
        let (cert, key) = (self.path("tls.crt"), self.path("tls.key"));
        let tls = format!("{{cert: {}, key: {}}}", cert.display(), key.display());
        format!("listen: [{{address: 127.0.0.1:{port}, http2: true, tls: {tls}}}]\n")
    }

    /// The same as a file, with an admin listener and a database of its own.
    fn configuration(&self, port: u16, admin: u16) -> PathBuf {
        let file = self.path("can.yaml");
        let text = format!("{}admin: {{address: 127.0.0.1:{admin}}}\ndatabase: {{path: can.db}}\n", self.yaml(port));
        std::fs::write(&file, text).unwrap();
        file
    }
}

async fn connect(port: u16, trusted: &[&Made]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|made| roots.add(made.cert.der().clone()).unwrap());
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

async fn served(port: u16, trusted: &[&Made]) -> CertificateDer<'static> {
    let stream = connect(port, trusted).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Asks for the list of models on a connection that is there; returns the status line.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    head.lines().next().unwrap().to_owned()
}

fn can(args: &[&str], file: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_can")).args(args).arg(file).env_clear().output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_key_of_another_certificate_is_a_fault_and_stops_the_start() {
    let files = Files::new();
    let (ours, other) = (make(90), make(90));
    files.write(&ours, &other);
    let file = files.configuration(free_port(), free_port());
    let (code, said) = can(&["check"], &file);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("listen[0].tls.key: `") && said.contains("does not belong to the certificate"), "{said}");
    let (code, said) = can(&["check", "--json"], &file);
    let verdict: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &verdict["ok"], &verdict["faults"][0]["path"]),
        (Some(1), &false.into(), &"listen[0].tls.key".into())
    );

    let mut process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    let status = process.ended_within(Duration::from_secs(10)).expect("the start is refused");
    let said: Vec<String> = process.lines.iter().collect();
    let said = said.join("\n");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("does not belong to the certificate") && !said.contains("panicked"), "{said}");

    files.write(&ours, &ours);
    let (code, said) = can(&["check"], &file);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("expire"), "{said}");
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of() {
    let files = Files::new();
    let file = files.configuration(free_port(), free_port());
    for (days, word) in
        [(13, "listen[0].tls.cert: the certificate expires at "), (-1, "the certificate expired at 2021-")]
    {
        let made = make(days);
        files.write(&made, &made);
        let (code, said) = can(&["check"], &file);
        assert_eq!(code, Some(0), "a warning is no fault: {said}");
        assert!(said.contains("warning: ") && said.contains(word), "{said}");
    }
    let process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    assert!(process.until("the certificate expired at 2021-").contains("WARN"));
    process.until("ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_serves_the_new_pair_and_refuses_a_broken_one() {
    let files = Files::new();
    let (first, second, third) = (make(30), make(60), make(90));
    files.write(&first, &first);
    let gateway = Gateway::start(&files.yaml(0));
    let port = gateway.addresses[0].port();
    let ends = |days: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        now + days * 86_400
    };
    let told = async || -> u64 {
        let name = format!("can_tls_certificate_expires_timestamp_seconds{{listener=\"127.0.0.1:{port}\"}} ");
        let text = gateway.metrics().await;
        text.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap().parse().unwrap()
    };
    assert_eq!(served(port, &[&first]).await, *first.cert.der());
    assert!(told().await.abs_diff(ends(30)) < 60);
    let mut kept = connect(port, &[&first]).await.unwrap();
    assert!(ask(&mut kept).await.contains(" 200"));

    files.write(&second, &second);
    assert_eq!(served(port, &[&first]).await, *first.cert.der(), "not before a reload");
    gateway.reloader.reload().unwrap();
    assert_eq!(served(port, &[&first, &second]).await, *second.cert.der());
    assert!(connect(port, &[&first]).await.is_err(), "who trusts only the old one");
    assert!(ask(&mut kept).await.contains(" 200"), "an open connection goes on");
    assert!(told().await.abs_diff(ends(60)) < 60);

    // Half of a renewal: the new certificate is there, its key is not yet.
    files.write(&third, &second);
    let refused = gateway.reloader.reload().unwrap_err().to_string();
    assert!(refused.contains("listen[0].tls.key: `") && refused.contains("does not belong"), "{refused}");
    std::fs::write(files.path("tls.crt"), "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n").unwrap();
    gateway.reloader.reload().unwrap_err();
    assert_eq!(served(port, &[&second, &third]).await, *second.cert.der(), "the old pair stays");
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("can_config_reloads_total{outcome=\"refused\"} 2"), "{metrics}");
    assert!(told().await.abs_diff(ends(60)) < 60);

    // Under other names, too: what is served is what the configuration names.
    std::fs::write(files.path("new.crt"), third.cert.pem()).unwrap();
    std::fs::write(files.path("new.key"), third.key.serialize_pem()).unwrap();
    let text = std::fs::read_to_string(&gateway.file).unwrap();
    std::fs::write(&gateway.file, text.replace("tls.crt", "new.crt").replace("tls.key", "new.key")).unwrap();
    gateway.reloader.reload().unwrap();
    assert_eq!(served(port, &[&third]).await, *third.cert.der());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_file_is_seen_and_readiness_shakes_hands() {
    let files = Files::new();
    let (first, second) = (make(30), make(60));
    files.write(&first, &first);
    let (port, admin) = (free_port(), free_port());
    let file = files.configuration(port, admin);
    let process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    process.until("ready");
    let ready = async || reqwest::get(format!("http://127.0.0.1:{admin}/readyz")).await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&ready().await.text().await.unwrap()).unwrap();
    assert_eq!(body, serde_json::json!({"status": "ready", "open_requests": 0}));
    files.write(&second, &second);
    let begun = Instant::now();
    while served(port, &[&first, &second]).await != *second.cert.der() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the new certificate is not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ready().await.status(), 200);
    let said: Vec<String> = process.lines.try_iter().collect();
    let loud: Vec<_> = said.iter().filter(|line| line.contains("ERROR") && !line.contains("refused")).collect();
    assert!(loud.is_empty(), "asking a listener is no error of its own: {loud:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_listeners_are_asked_too() {
    let gateway =
        Gateway::start("listen: [{address: 127.0.0.1:0, http2: true}, {address: 127.0.0.1:0, http2: false}]\n");
    let reply = reqwest::get(format!("http://{}/readyz", gateway.admin)).await.unwrap();
    assert_eq!(reply.status(), 200, "{}", reply.text().await.unwrap());
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains("can_requests_total{"), "nothing was requested: {metrics}");
}
