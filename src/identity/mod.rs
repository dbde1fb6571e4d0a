//! Authentication: where requests present credentials, and the identity that a credential stands for.
//!
//! | file | contents |
//! |---|---|
//! | `presented` | the places where a request presents credentials |
//! | `authenticator` | the seam for other kinds of credentials: recognises them and returns their identity |
//! | `holder` | an identity: tenant, scopes, models, limits |
//! | `secret` | the form of a token's secret, its generation and its hash |
//! | `scope` | `ai:read`, `ai:write`, `admin` |
//! | `tokens` | the table of tokens: create, list, show, revoke, rotate |
//! | `directory` | all tokens in memory, kept up to date: the authenticator of tokens |

mod authenticator;
mod directory;
mod holder;
mod presented;
mod scope;
mod secret;
mod tokens;

pub use authenticator::{Authenticated, Authentication, Authenticator, Authenticators, Credentials, PATIENCE};
pub use directory::{Directory, Refused};
pub use holder::{Identity, IdentityKind};
pub use presented::{Place, SUBPROTOCOL_KEY, presented};
pub use scope::{Scope, Scopes};
pub use secret::{PREFIX, TokenSecret};
pub use tokens::{NewToken, Token, TokenError, Tokens};
