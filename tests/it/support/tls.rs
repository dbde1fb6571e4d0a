//! A certificate of `localhost`, and the key that belongs to it, in files.

use tokio_rustls::rustls::pki_types::CertificateDer;

/// The files are there as long as it is.
pub struct SelfSigned {
    /// For a client that is to trust it.
    pub der: CertificateDer<'static>,
    folder: tempfile::TempDir,
}

impl SelfSigned {
    pub fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self { der: made.cert.der().clone(), folder }
    }

    /// The member `tls` of a listener.
    pub fn yaml(&self) -> String {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        format!("tls: {{cert: {}, key: {}}}", file("cert.pem"), file("key.pem"))
    }
}
