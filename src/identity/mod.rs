//! Who asks: what a presented credential is, and whom it stands for.
//!
//! | file | what it knows |
//! |---|---|
//! | `presented` | where a request presents credentials |
//! | `authenticator` | the seam: what a credential is and whom it stands for; all that are asked |
//! | `holder` | an identity: tenant, scopes, models, limits |
//! | `secret` | what a token looks like, how it is made and hashed |
//! | `scope` | `ai:read`, `ai:write`, `admin` |
//! | `tokens` | the table of tokens: create, list, show, revoke, rotate |
//! | `directory` | the same in memory, followed as it changes: the authenticator of tokens |

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
