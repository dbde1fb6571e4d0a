//! Certificates of the TLS listeners: read and checked as pairs, swapped on a reload, with warnings before they expire.
//!
//! A pair is checked as a whole before it is used: a key that belongs to another certificate is a fault of `can check`, of the
//! start and of a reload. A reload replaces the pair for connections made from then on; open connections keep theirs.

use std::{fmt, net::SocketAddr, path::Path, sync::Arc, thread, time::Duration};

use arc_swap::ArcSwap;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use pingora_core::{
    listeners::tls::TlsSettings,
    tls::{ClientHello, CryptoProvider, ResolvesServerCert, install_default_crypto_provider, sign::CertifiedKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{
    config::{Config, Fault, Listener, Tls},
    telemetry::Metrics,
};

/// Certificates that expire within this time cause a warning.
pub const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Time between two checks of the certificates in force while the process runs.
const AGAIN: Duration = Duration::from_secs(86_400);

/// A certificate with its chain, and the key that belongs to it.
#[derive(Clone)]
pub struct Pair {
    key: Arc<CertifiedKey>,
    /// When the listener's own certificate expires; `None` if its dates cannot be read.
    expires: Option<Timestamp>,
}

impl Pair {
    /// Reads both files and checks that they belong together.
    ///
    /// # Errors
    /// The member of `tls` that is at fault (`cert` or `key`), and what is wrong with it. Never the key itself.
    pub fn read(tls: &Tls) -> Result<Self, (&'static str, String)> {
        // Pingora installs the same provider when it builds the listener.
        install_default_crypto_provider();
        let chain = certificates(&tls.cert).map_err(|error| ("cert", error))?;
        let expires = chain.first().and_then(|own| not_after(own));
        let key = PrivateKeyDer::from_pem_file(&tls.key)
            .map_err(|error| ("key", format!("`{}` cannot be read as a private key: {error}", tls.key.display())))?;
        let Some(provider) = CryptoProvider::get_default() else {
            return Err(("key", "there is no cryptography to check it with".to_owned()));
        };
        let signer = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| ("key", format!("`{}` is not a usable private key: {error}", tls.key.display())))?;
        let key = CertifiedKey::new(chain, signer);
        key.keys_match().map_err(|error| {
            let (cert, key) = (tls.cert.display(), tls.key.display());
            ("key", format!("`{key}` does not belong to the certificate `{cert}`: {error}"))
        })?;
        Ok(Self { key: Arc::new(key), expires })
    }

    /// A warning for this moment, if the certificate has expired or expires within [`SOON`].
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let expires = self.expires?;
        let left = expires.as_second() - now.as_second();
        let soon = i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX);
        match left {
            ..=0 => Some(format!("the certificate expired at {expires}")),
            left if left <= soon => Some(format!("the certificate expires at {expires}, in {} h", left / 3_600)),
            _ => None,
        }
    }
}

/// The certificates of a PEM file, the listener's own first.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let chain: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| format!("`{shown}` cannot be read as certificates: {error}"))?;
    if chain.is_empty() {
        return Err(format!("`{shown}` holds no certificate"));
    }
    Ok(chain)
}

/// The faults and warnings about the certificates of a configuration.
#[derive(Debug, Default)]
pub struct Findings {
    /// Pairs that cannot be used.
    pub faults: Vec<Fault>,
    /// Pairs that expire soon, or have expired.
    pub warnings: Vec<Fault>,
}

/// Reads every pair of a configuration.
pub fn check(config: &Config) -> Findings {
    let mut found = Findings::default();
    for (index, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        match Pair::read(tls) {
            Ok(pair) => {
                let warning = pair.warning(Timestamp::now());
                found.warnings.extend(warning.map(|message| fault(index, "cert", message)));
            }
            Err((member, message)) => found.faults.push(fault(index, member, message)),
        }
    }
    found
}

fn fault(index: usize, member: &str, message: String) -> Fault {
    Fault { line: None, path: format!("listen[{index}].tls.{member}"), message }
}

/// Gives each new connection of a listener the pair in force.
struct Resolver(ArcSwap<Pair>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a certificate that ends at {:?}", self.0.load().expires)
    }
}

/// A listener that serves a pair.
struct Served {
    /// The address in the configuration.
    address: SocketAddr,
    /// The address with the port filled in.
    name: String,
    resolver: Arc<Resolver>,
}

/// The pairs in force, by listener.
#[derive(Default)]
pub struct Certificates {
    served: Vec<Served>,
}

/// Pairs that were read for the listeners that run, to be put in force together with the rest of a configuration.
pub struct Renewal(Vec<(usize, Pair)>);

impl Certificates {
    /// Reads the pair of a listener, and returns what Pingora needs to serve it. `name` is its address with the port filled in.
    ///
    /// # Errors
    /// The pair cannot be used.
    pub fn serve(&mut self, listener: &Listener, tls: &Tls, name: String) -> Result<TlsSettings, String> {
        let pair = Pair::read(tls).map_err(|(_, message)| message)?;
        let resolver = Arc::new(Resolver(ArcSwap::from_pointee(pair)));
        // Pingora does not read these two paths once there is a resolver.
        let mut settings = TlsSettings::intermediate("", "").map_err(|error| error.to_string())?;
        settings.set_cert_resolver(resolver.clone());
        if listener.http2 {
            settings.enable_h2();
        }
        self.served.push(Served { address: listener.address, name, resolver });
        Ok(settings)
    }

    /// Reads the pairs that a configuration names for the running listeners. Its other listeners begin with the next start, but
    /// their pairs are checked too.
    ///
    /// # Errors
    /// Every pair that cannot be used.
    pub fn read(&self, config: &Config) -> Result<Renewal, Vec<String>> {
        let (mut pairs, mut faults) = (Vec::new(), Vec::new());
        // Addresses differ, except those with a port that the system chooses (port 0): these are told apart by their order.
        let mut left: Vec<usize> = (0..self.served.len()).collect();
        for (index, listener) in config.listeners.iter().enumerate() {
            let Some(tls) = &listener.tls else { continue };
            let found = left.iter().position(|place| self.served[*place].address == listener.address);
            let place = found.map(|at| left.remove(at));
            match Pair::read(tls) {
                Ok(pair) => pairs.extend(place.map(|place| (place, pair))),
                Err((member, message)) => faults.push(fault(index, member, message).to_string()),
            }
        }
        if faults.is_empty() { Ok(Renewal(pairs)) } else { Err(faults) }
    }

    /// Puts pairs in force.
    pub fn renew(&self, Renewal(pairs): Renewal, metrics: &Metrics) {
        for (place, pair) in pairs {
            self.served[place].resolver.0.store(Arc::new(pair));
        }
        self.tell(metrics);
    }

    /// Sets the metric of every listener, and warns of certificates that end soon.
    pub fn tell(&self, metrics: &Metrics) {
        for served in &self.served {
            let pair = served.resolver.0.load();
            if let Some(expires) = pair.expires {
                metrics.certificate_expires(&served.name, expires.as_second());
            }
            if let Some(warning) = pair.warning(Timestamp::now()) {
                tracing::warn!(listener = served.name, "{warning}");
            }
        }
    }

    /// Repeats [`Self::tell`] once a day, in a thread. No thread is started if no listener speaks TLS.
    pub fn watch(self: &Arc<Self>, metrics: &Arc<Metrics>) {
        if self.served.is_empty() {
            return;
        }
        let (certificates, metrics) = (Arc::downgrade(self), metrics.clone());
        let spawned = thread::Builder::new().name("certificates".into()).spawn(move || {
            loop {
                thread::sleep(AGAIN);
                let Some(certificates) = certificates.upgrade() else { return };
                certificates.tell(&metrics);
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "certificates that are about to end are told at a start and a reload only");
        }
    }
}

/// When a certificate expires (RFC 5280, 4.1.2.5). It was parsed before; anything unexpected still gives `None`.
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let mut outer = Der(certificate);
    let mut certificate = Der(outer.take(SEQUENCE)?);
    let mut fields = Der(certificate.take(SEQUENCE)?);
    // The version, which is left out if it is 1.
    let _ = fields.take(VERSION);
    fields.take(INTEGER)?;
    // The algorithm of the signature, and the issuer.
    fields.take(SEQUENCE)?;
    fields.take(SEQUENCE)?;
    let mut validity = Der(fields.take(SEQUENCE)?);
    validity.next()?;
    let (tag, text) = validity.next()?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let digits = |range: std::ops::Range<usize>| text.get(range)?.parse::<i16>().ok();
    let (year, rest) = match tag {
        // A year of two digits: 50 to 99 are in the last century.
        UTC_TIME => (digits(0..2).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        GENERALIZED_TIME => (digits(0..4)?, 4),
        _ => return None,
    };
    let part = |n: usize| i8::try_from(digits(rest + 2 * n..rest + 2 * n + 2)?).ok();
    let moment = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    TimeZone::UTC.to_timestamp(moment).ok()
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// A sequence of DER values (ITU-T X.690, 8.1).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value with its tag.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// The next value if it has this tag; otherwise nothing is read.
    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let before = self.0;
        match self.next() {
            Some((tag, value)) if tag == wanted => Some(value),
            _ => {
                self.0 = before;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that ends in a year, and its key, as PEM files.
    fn files(folder: &Path, name: &str, year: i32) -> Tls {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 7, 9);
        let key = rcgen::KeyPair::generate().unwrap();
        let tls = Tls { cert: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
        std::fs::write(&tls.cert, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&tls.key, key.serialize_pem()).unwrap();
        tls
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms() {
        let folder = tempfile::tempdir().unwrap();
        // UTCTime up to 2049, GeneralizedTime from 2050 on.
        for year in [2031, 2049, 2050, 2120] {
            let tls = files(folder.path(), "a", year);
            let expected: Timestamp = format!("{year}-07-09T00:00:00Z").parse().unwrap();
            assert_eq!(Pair::read(&tls).ok().unwrap().expires, Some(expected));
            let whole = certificates(&tls.cert).unwrap().remove(0).to_vec();
            for end in 0..whole.len() {
                // A panic would abort the reload.
                let _ = not_after(&whole[..end]);
            }
        }
        assert_eq!(not_after(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn a_pair_is_refused_by_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (files(folder.path(), "one", 2050), files(folder.path(), "two", 2050));
        let refused = |cert: &Path, key: &Path| {
            let (member, message) = Pair::read(&Tls { cert: cert.into(), key: key.into() }).err().unwrap();
            format!("{member}: {message}")
        };
        let mixed = refused(&one.cert, &two.key);
        assert!(
            mixed.starts_with("key: `") && mixed.contains("two.key` does not belong to the certificate"),
            "{mixed}"
        );
        assert!(refused(&one.key, &one.key).contains("holds no certificate"));
        assert!(refused(&one.cert, &one.cert).starts_with("key: `"));
        let broken = folder.path().join("broken.crt");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(refused(&broken, &one.key).contains("does not belong"));
        assert!(refused(&folder.path().join("none"), &one.key).starts_with("cert: `"));
    }

    #[test]
    fn an_end_is_warned_of_two_weeks_before() {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair::read(&files(folder.path(), "a", 2040)).ok().unwrap();
        let at = |text: &str| pair.warning(text.parse().unwrap());
        assert_eq!(at("2040-06-24T23:59:59Z"), None);
        assert!(at("2040-06-26T00:00:00Z").unwrap().contains("expires at 2040-07-09T00:00:00Z, in 312 h"));
        assert!(at("2040-07-09T00:00:00Z").unwrap().contains("expired at"));
    }
}
