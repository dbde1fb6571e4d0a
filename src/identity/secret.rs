//! The secret of a token: `chitty_` and 43 letters and digits, which are 256 random bits. Only the SHA-256 of the secret is
//! stored: a secret of that size needs no salt and no slow hash.

use std::fmt;

use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};

/// The prefix of every secret, so that people and scanners recognise one.
pub const PREFIX: &str = "chitty_";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// 62^43 is a little more than 2^256.
const LETTERS: usize = 43;

const LENGTH: usize = PREFIX.len() + LETTERS;

/// A new secret, to be shown once and never kept.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(String);

impl TokenSecret {
    /// Generates a secret from the system's random numbers.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate() -> Result<Self, ring::error::Unspecified> {
        Ok(Self(format!("{PREFIX}{}", random_text(LETTERS)?)))
    }

    /// The secret itself, for the user who created the token.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The hash that is stored in the place of the secret.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Whether a text has the form of a token.
pub fn has_form(presented: &str) -> bool {
    let letters = presented.strip_prefix(PREFIX).unwrap_or_default();
    letters.len() == LETTERS && letters.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The SHA-256 of the text that a client presents as a token. It takes the same time for every text: of a text with another
/// length only as many bytes are read as a token has, and the result matches no token.
pub fn hash(presented: &str) -> [u8; 32] {
    let bytes = presented.as_bytes();
    let mut block = [0; LENGTH];
    let length = bytes.len().min(LENGTH);
    block[..length].copy_from_slice(&bytes[..length]);
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, &block).as_ref());
    // A text that is longer than a token must not match the token that it begins with.
    out[0] ^= u8::from(bytes.len() != LENGTH);
    out
}

/// `length` random letters and digits.
pub fn random_text(length: usize) -> Result<String, ring::error::Unspecified> {
    let random = SystemRandom::new();
    let mut text = String::with_capacity(length);
    let mut block = [0; 64];
    while text.len() < length {
        random.fill(&mut block)?;
        // 248 is the largest multiple of 62 in a byte: larger values would favour the first letters.
        let fair = block.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(fair.take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_its_prefix_and_is_never_the_same() {
        let (a, b) = (TokenSecret::generate().unwrap(), TokenSecret::generate().unwrap());
        assert_ne!(a, b);
        assert!(a.expose().starts_with(PREFIX) && a.expose().len() == LENGTH);
        assert!(a.expose()[PREFIX.len()..].bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(format!("{a:?}"), "[redacted]");
    }

    #[test]
    fn only_the_whole_secret_has_its_hash() {
        let secret = TokenSecret::generate().unwrap();
        assert_eq!(hash(secret.expose()), secret.hash());
        let longer = format!("{}x", secret.expose());
        let padded = format!("{}\0", &secret.expose()[..LENGTH - 1]);
        for other in [&longer, &padded, &secret.expose()[..LENGTH - 1], "", "chitty_", &"x".repeat(1 << 20)] {
            assert_ne!(hash(other), secret.hash());
        }
        assert_ne!(hash(&secret.expose()[..LENGTH - 1]), hash(&padded), "a zero is no missing letter");
    }
}
