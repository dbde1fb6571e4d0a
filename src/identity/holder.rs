//! Whom a credential stands for.

use super::{scope::Scopes, tokens::Token};
use crate::{
    config::Limits,
    types::{TenantId, TokenId},
};

/// The longest subject of an identity that is no token, in bytes.
const MAX_SUBJECT: usize = 200;

/// What kind of credential an identity was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// A `chitty_` token.
    Token,
    /// A credential that an [`Authenticator`](super::Authenticator) beside the tokens knows, under the name of who issues it.
    Issued(&'static str),
}

/// Whom a credential stands for, and what they may do: made once where that can be, and shared by all requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// What kind of credential it was.
    pub kind: IdentityKind,
    /// Who, as the log and the ledger show it: the id of the token, `tok_…`, or `ISSUER:SUBJECT`.
    pub id: TokenId,
    /// Who pays.
    pub tenant: TenantId,
    /// What it may do.
    pub scopes: Scopes,
    /// The models it may ask for: names, or patterns with one trailing `*`; empty allows all of its tenant's.
    pub models: Vec<String>,
    /// How much at once, besides its tenant's limits: counted under `id`, for as long as the process lives.
    pub limits: Limits,
}

impl Identity {
    /// The holder of a token.
    pub fn of_token(token: &Token) -> Self {
        Self {
            kind: IdentityKind::Token,
            id: token.id.clone(),
            tenant: token.tenant.clone(),
            scopes: token.scopes,
            models: token.models.clone(),
            limits: token.limits.clone(),
        }
    }

    /// Somebody an issuer other than the gateway vouches for, with all that a client may do. `issuer` stands before the subject in the
    /// id, so that no subject can pass for a token or for that of another issuer. `None` for a subject that is empty, longer than 200
    /// bytes or has control characters: it goes into logs and the ledger.
    pub fn issued(issuer: &'static str, subject: &str, tenant: TenantId) -> Option<Self> {
        if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
            return None;
        }
        Some(Self {
            kind: IdentityKind::Issued(issuer),
            id: format!("{issuer}:{subject}").into(),
            tenant,
            scopes: Scopes::CLIENT,
            models: Vec::new(),
            limits: Limits::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_passes_for_no_token_and_writes_no_line_of_the_log() {
        let issued = |subject: &str| Identity::issued("acme", subject, "team".into());
        assert_eq!(issued("tok_1").unwrap().id.as_str(), "acme:tok_1");
        assert_eq!(issued("alice").unwrap().scopes, Scopes::CLIENT);
        for subject in ["", "a\nb", "a\u{7f}", &"x".repeat(201)] {
            assert_eq!(issued(subject), None, "{subject:?}");
        }
    }
}
