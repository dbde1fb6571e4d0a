//! Ids and names, each kind with its own type.

use std::{borrow::Borrow, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The gateway's own id of a request: a time-ordered UUID (version 7), so that logs and the ledger sort by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A new id that contains the current time.
    pub fn now() -> Self {
        Self(Uuid::now_v7())
    }

    /// The smallest id of a time, given in milliseconds since 1970: ids made before that time are smaller.
    pub fn first_at(unix_ms: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        Self(Uuid::from_bytes(bytes))
    }

    /// The time when the id was made, in milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&self.0.as_bytes()[..6]);
        u64::from_be_bytes(bytes)
    }

    /// The id's bytes, which sort in the same order as ids do.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id with the bytes of [`Self::as_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Appends the id as `Display` prints it, without a formatter's cost.
    pub fn push_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"req_");
        out.extend_from_slice(self.0.simple().encode_lower(&mut [0; 32]).as_bytes());
    }

    /// Parses an id as `Display` prints it; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix("req_").and_then(|hex| Uuid::try_parse(hex).ok()).map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req_{}", self.0.simple())
    }
}

/// Milliseconds since 1970, by the wall clock.
pub fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The name of a tenant, which is who pays: a team, an organisation, the default tenant.
    TenantId
}

name! {
    /// The public name of a token (`tok_…`), which reveals nothing of its secret; or the subject of another credential
    /// (`ISSUER:SUBJECT`).
    TokenId
}

impl TenantId {
    /// Most bytes of a tenant's name, which goes into rows, logs and replies.
    pub const MAX_BYTES: usize = 64;

    /// Whether a text may name a tenant: letters, digits, `-`, `_`, `.`, `:` and `@`, at most [`Self::MAX_BYTES`].
    pub fn is_valid(text: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@".contains(&b);
        !text.is_empty() && text.len() <= Self::MAX_BYTES && text.bytes().all(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_reads_and_tells_its_time() {
        let before = unix_now();
        let id = RequestId::now();
        assert_eq!(RequestId::parse(&id.to_string()), Some(id));
        let mut pushed = Vec::new();
        id.push_to(&mut pushed);
        assert_eq!(pushed, id.to_string().as_bytes());
        assert!((before..=unix_now()).contains(&id.unix_ms()));
        assert!(RequestId::first_at(id.unix_ms()) <= id && id < RequestId::first_at(id.unix_ms() + 1));
        for text in ["", "req_", "req_1", "tok_0190b6a0000070008000000000000000"] {
            assert_eq!(RequestId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_tenant_has_a_printable_name() {
        for good in ["default", "team-a", "acme:research", "a@b.c", "0"] {
            assert!(TenantId::is_valid(good), "{good}");
        }
        for bad in ["", "*", "a b", "a/b", "é", "a\n", &"x".repeat(65)] {
            assert!(!TenantId::is_valid(bad), "{bad}");
        }
    }
}
