//! Readiness: whether the client listeners accept connections, asked of the listeners themselves.
//!
//! A connection is made, told that nothing follows, and awaited to be closed by the other side: so a listener whose socket is
//! gone, whose thread has died or that has no descriptors left is noticed, which a flag set at the start would not tell. On a
//! TLS listener the handshake is made as well. What was found is good for [`FRESH`], so that many who ask cost no more than one.

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

/// How long an answer of the listeners is good for.
const FRESH: Duration = Duration::from_secs(1);

/// A listener that has not accepted and closed a connection in this time does not accept.
const PATIENCE: Duration = Duration::from_secs(2);

/// A listener of the client API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientListener {
    /// Where it listens, the port filled in.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Whether the client API takes requests.
pub struct Readiness {
    /// Set between the start and the end of service.
    serving: Arc<AtomicBool>,
    listeners: Vec<ClientListener>,
    /// When the listeners were asked last, and which of them did not accept, with the reason.
    asked: Mutex<Option<(Instant, Vec<String>)>>,
}

/// Why it does not take requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// Not yet, or not any more.
    NotServing,
    /// Listeners that do not accept, each with the reason.
    NotAccepting(Vec<String>),
}

impl Readiness {
    /// Of these listeners, as long as `serving` is set.
    pub fn new(serving: Arc<AtomicBool>, listeners: Vec<ClientListener>) -> Self {
        Self { serving, listeners, asked: Mutex::default() }
    }

    /// Asks, unless an answer is at hand that is no older than [`FRESH`].
    ///
    /// # Errors
    /// The client API does not take requests.
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

/// Says that nothing follows, and waits until the other side has nothing to say either.
async fn closes(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 256];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // A TLS listener may close without its own word of parting.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Believes any certificate: the peer is a listener of this process, and nothing is said to it.
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
        // The system takes the connection, nobody accepts it.
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
