//! Cache keys: 256 bits that two requests share if and only if they mean the same.

use std::fmt;
use std::str::FromStr;

use crate::openai::{canonical, is_label};

/// Top-level members of a body that do not count, besides the labels; [`KeyParts`] gives the reasons.
const IGNORED: [&str; 3] = ["model", "stream", "stream_options"];

/// The beginning of the hashed text. A change to how keys are made needs another version, so that no old entry is found under a
/// new meaning.
const DOMAIN: &[u8] = b"chittycan completion cache, version 2\n";

/// Names a reply: a BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).map_err(|_| fmt::Error)?)
    }
}

impl Key {
    /// The first 128 bits, where these are enough.
    pub fn half(&self) -> [u8; 16] {
        let (half, _) = self.0.as_chunks::<16>();
        half[0]
    }

    /// The 64 hexadecimal digits of the key. Each reply carries them, and a formatter would be slow.
    pub fn hex(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = [0; 64];
        for (pair, byte) in out.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        out
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKey;

impl fmt::Display for NoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("A cache key is 64 hexadecimal digits.")
    }
}

impl std::error::Error for NoKey {}

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(NoKey);
        let mut key = Key([0; 32]);
        if text.len() != 2 * key.0.len() {
            return Err(NoKey);
        }
        for (byte, pair) in key.0.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(key)
    }
}

/// Everything that a reply depends on.
///
/// The whole body counts, except for these members at the top level, which do not change the answer. Nested members of the same
/// names count.
///
/// | member | why not |
/// |---|---|
/// | `model` | [`Self::family`] stands for it, so that aliases of one model share their replies |
/// | `stream`, `stream_options` | how the reply is written: either form is made from the other |
/// | `user`, `safety_identifier` | who asks, for the provider's checks for abuse |
/// | `metadata` | labels for the provider's dashboard |
/// | `prompt_cache_key`, `prompt_cache_retention` | what the provider keeps of the prompt, and for how long |
///
/// The last five are labels ([`openai::Labels`](crate::openai::Labels)): a reply that repeats them is kept without them.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// Who may share replies: one tenant, or the properties that several tenants have in common.
    pub namespace: &'a [u8],
    /// The endpoint's label.
    pub endpoint: &'static str,
    /// The deployments of the model that is meant, whatever name the client uses for it.
    pub family: &'a str,
    /// The query string, as the client sent it.
    pub query: &'a str,
    /// The request headers that change the reply, in a fixed order and under lower-case names.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The JSON body.
    pub body: &'a [u8],
}

impl KeyParts<'_> {
    /// The key; `None` if the body is not one JSON object. Two spellings of a body give the same key: white space, the order of
    /// members, escapes, and `1.0` for `1` do not matter.
    pub fn key(&self) -> Option<Key> {
        key_of(self.prefix(), self.body)
    }

    /// What is hashed besides the body, with room for it.
    pub fn prefix(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.body.len() + 256);
        text.extend_from_slice(DOMAIN);
        // Every part begins with its length, so that no two parts can trade bytes.
        let mut part = |bytes: &[u8]| {
            text.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            text.extend_from_slice(bytes);
        };
        part(self.namespace);
        part(self.endpoint.as_bytes());
        part(self.family.as_bytes());
        part(self.query.as_bytes());
        part(&(self.headers.len() as u64).to_le_bytes());
        for (name, value) in self.headers {
            part(name.as_bytes());
            part(value);
        }
        text
    }
}

/// The key of a body behind a prefix of [`KeyParts::prefix`]; `None` if the body is not one JSON object.
pub fn key_of(prefix: Vec<u8>, body: &[u8]) -> Option<Key> {
    let mut text = prefix;
    // The body is written in place, and its length is filled in afterwards.
    let length_at = text.len();
    text.extend_from_slice(&[0; 8]);
    if !canonical(body, |member| IGNORED.contains(&member) || is_label(member), &mut text) {
        return None;
    }
    let body_at = length_at + 8;
    let length = (text.len() - body_at) as u64;
    text[length_at..body_at].copy_from_slice(&length.to_le_bytes());
    Some(Key(*blake3::hash(&text).as_bytes()))
}

#[cfg(test)]
mod tests;
