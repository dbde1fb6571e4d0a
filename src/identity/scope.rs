//! Scopes: the permissions of a token.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// List models, read usage.
    #[serde(rename = "ai:read")]
    AiRead,
    /// Ask models, and every other call to a provider.
    #[serde(rename = "ai:write")]
    AiWrite,
    /// The admin API.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::AiRead, Self::AiWrite, Self::Admin];

    /// The name of the scope.
    pub fn label(self) -> &'static str {
        match self {
            Self::AiRead => "ai:read",
            Self::AiWrite => "ai:write",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scope| scope.label() == text.trim()).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|scope| scope.label()).collect();
            format!("`{text}` is not a scope; known: {}", known.join(", "))
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// The scopes of clients without a token, and of tokens created without scopes.
    pub const CLIENT: Self = Self(1 << Scope::AiRead as u8 | 1 << Scope::AiWrite as u8);

    /// Whether the set has a scope.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether the holder of these scopes is a client, and not only an administrator.
    pub fn asks_models(self) -> bool {
        self.0 & Self::CLIENT.0 != 0
    }

    /// The scopes of the set, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u8))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.iter().map(Scope::label).collect();
        f.pad(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_it_was_made_of() {
        let set: Scopes = ["ai:write", "admin"].iter().map(|word| word.parse::<Scope>().unwrap()).collect();
        assert!(set.has(Scope::AiWrite) && set.has(Scope::Admin) && !set.has(Scope::AiRead));
        assert_eq!(set.to_string(), "ai:write,admin");
        assert_eq!(Scopes::CLIENT.to_string(), "ai:read,ai:write");
        assert!("ai:*".parse::<Scope>().unwrap_err().contains("known: ai:read"));
    }
}
