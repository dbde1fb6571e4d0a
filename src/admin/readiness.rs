//! Readiness: whether the client listeners accept connections, tested on the listeners themselves.
//!
//! The test opens a connection, shuts down its sending side, and waits until the listener closes it. So a listener whose socket
//! is gone, whose thread has died or that has no descriptors left is noticed, unlike with a flag set at the start. On a TLS
//! listener the test includes the handshake. A result is reused for [`FRESH`], so that many probes cost no more than one.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pingora_core::tls::{
    CertificateDer, ClientConfig, CryptoProvider, DigitallySignedStruct, HandshakeSignatureValid, RusTlsError,
    ServerCertVerified, ServerCertVerifier, ServerName, SignatureScheme, TlsConnector, UnixTime,
    install_default_crypto_provider,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout},
};

/// How long a result is reused.
const FRESH: Duration = Duration::from_secs(1);

/// How long a test may take: a listener that has not accepted and closed a connection by then counts as not accepting.
const PATIENCE: Duration = Duration::from_secs(2);

/// A listener of the client API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientListener {
    /// The address and the actual port.
    pub address: SocketAddr,
    /// Whether the listener uses TLS.
    pub tls: bool,
}

/// The check whether the client API accepts requests.
pub struct Readiness {
    /// Set between the start and the end of service.
    serving: Arc<AtomicBool>,
    listeners: Vec<ClientListener>,
    /// When the listeners were last tested, and which of them did not accept, with the reason.
    asked: Mutex<Option<(Instant, Vec<String>)>>,
}

/// Why the client API does not accept requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// The gateway is starting or ending.
    NotServing,
    /// Listeners that do not accept, each with the reason.
    NotAccepting(Vec<String>),
}

impl Readiness {
    /// A check of these listeners, which fails while `serving` is not set.
    pub fn new(serving: Arc<AtomicBool>, listeners: Vec<ClientListener>) -> Self {
        Self { serving, listeners, asked: Mutex::default() }
    }

    /// Tests the listeners, unless there is a result that is no older than [`FRESH`].
    ///
    /// # Errors
    /// The client API does not accept requests.
    pub async fn check(&self) -> Result<(), NotReady> {
        if !self.serving.load(Ordering::Acquire) {
            return Err(NotReady::NotServing);
        }
        let mut asked = self.asked.lock().await;
        let silent = match &*asked {
            Some((at, silent)) if at.elapsed() < FRESH => silent.clone(),
            before => {
                let silent = self.ask().await;
                if !silent.is_empty() && before.as_ref().is_none_or(|(_, known)| known.is_empty()) {
                    tracing::error!(listeners = silent.join("; "), "the client API does not accept connections");
                }
                *asked = Some((Instant::now(), silent.clone()));
                silent
            }
        };
        if silent.is_empty() { Ok(()) } else { Err(NotReady::NotAccepting(silent)) }
    }

    async fn ask(&self) -> Vec<String> {
        let all = self.listeners.iter().map(|listener| async move {
            let outcome = timeout(PATIENCE, accepts(*listener)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            outcome.err().map(|error| format!("{}: {error}", listener.address))
        });
        futures::future::join_all(all).await.into_iter().flatten().collect()
    }
}

async fn accepts(listener: ClientListener) -> io::Result<()> {
    let tcp = TcpStream::connect(listener.address).await?;
    if !listener.tls {
        return closes(tcp).await;
    }
    install_default_crypto_provider();
    let trusting = Arc::new(OwnListener);
    let config = ClientConfig::builder().dangerous().with_custom_certificate_verifier(trusting).with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    closes(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?).await
}

/// Shuts down the sending side, and waits until the other side closes.
async fn closes(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 256];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // A TLS listener may close without a `close_notify`.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Accepts any certificate: the peer is a listener of this process, and no data is sent to it.
struct OwnListener;

impl fmt::Debug for OwnListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a listener of this process")
    }
}

impl ServerCertVerifier for OwnListener {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, RusTlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RusTlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RusTlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = CryptoProvider::get_default();
        provider.map_or_else(Vec::new, |provider| provider.signature_verification_algorithms.supported_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(address: SocketAddr) -> Readiness {
        Readiness::new(Arc::new(AtomicBool::new(true)), vec![ClientListener { address, tls: false }])
    }

    #[tokio::test]
    async fn a_listener_that_accepts_is_told_from_one_that_only_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // The system completes the connection, but nobody accepts it.
        let hung = timeout(PATIENCE * 3, plain(address).check()).await.unwrap();
        assert!(
            matches!(&hung, Err(NotReady::NotAccepting(list)) if list[0].starts_with(&address.to_string())),
            "{hung:?}"
        );
        let accepting = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let _ = tcp.read(&mut [0; 16]).await;
            }
        });
        let readiness = plain(address);
        assert_eq!(readiness.check().await, Ok(()));
        accepting.abort();
        let _ = accepting.await;
        assert_eq!(readiness.check().await, Ok(()), "the answer is still good");
        assert!(matches!(plain(address).check().await, Err(NotReady::NotAccepting(_))), "the port is closed");
        readiness.serving.store(false, Ordering::Release);
        assert_eq!(readiness.check().await, Err(NotReady::NotServing), "no listener is asked");
    }
}
