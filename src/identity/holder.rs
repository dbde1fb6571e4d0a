//! The identity that a credential stands for.

use super::{scope::Scopes, tokens::Token};
use crate::{
    config::Limits,
    types::{TenantId, TokenId},
};

/// The longest subject of an identity from an added authenticator, in bytes.
const MAX_SUBJECT: usize = 200;

/// The kind of credential that an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// A `chitty_` token.
    Token,
    /// A credential that an added [`Authenticator`](super::Authenticator) knows, with the name of its issuer.
    Issued(&'static str),
}

/// The identity that a credential stands for: tenant, permissions and limits. It is created once if possible, and shared by all
/// requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The kind of the credential.
    pub kind: IdentityKind,
    /// The id that the log and the ledger show: the id of the token, `tok_…`, or `ISSUER:SUBJECT`.
    pub id: TokenId,
    /// The tenant that pays.
    pub tenant: TenantId,
    /// The permissions.
    pub scopes: Scopes,
    /// The models that the holder may ask for: names, or patterns with one trailing `*`; an empty list allows all models of the
    /// tenant.
    pub models: Vec<String>,
    /// Limits in addition to the tenant's: counted under `id`, for as long as the process lives.
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

    /// The identity of a subject that another issuer than the gateway vouches for, with the permissions of a client. In the id
    /// `issuer` precedes the subject, so that no subject can pass for a token or for a subject of another issuer. `None` for a
    /// subject that is empty, longer than 200 bytes or has control characters, because it is written to logs and the ledger.
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
