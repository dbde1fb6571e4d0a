//! Who asks: `chitty_` tokens, what each may do, and the directory in which a request's token is looked up.
//!
//! | file | what it knows |
//! |---|---|
//! | `secret` | what a token looks like, how it is made and hashed |
//! | `scope` | `ai:read`, `ai:write`, `admin` |
//! | `tokens` | the table of tokens: create, list, show, revoke, rotate |
//! | `directory` | the same in memory, followed as it changes |

mod directory;
mod scope;
mod secret;
mod tokens;

pub use directory::{Directory, Refused};
pub use scope::{Scope, Scopes};
pub use secret::{PREFIX, TokenSecret};
pub use tokens::{NewToken, Token, TokenError, Tokens};
