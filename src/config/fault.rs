//! What is wrong with a configuration, and where.

use std::{fmt, path};

use serde::Serialize;

/// One fault: where it is in the file and what is wrong.
///
/// It prints as `LINE: PATH: MESSAGE`; parts that do not apply are left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// Line in the file, from 1; `None` when the fault is not in the file (an environment variable, say).
    pub line: Option<u32>,
    /// Place in the tree: `routes[2].to[0]`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and, if known, what would be right. Never contains a secret.
    pub message: String,
}

impl Fault {
    /// The fault as `FILE:LINE: PATH: MESSAGE`, which editors and CI logs turn into a link.
    pub fn in_file(&self, file: &path::Path) -> String {
        match self.line {
            Some(_) => format!("{}:{self}", file.display()),
            None => format!("{}: {self}", file.display()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// A place in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<PathStep>);

/// One step down the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathStep {
    /// Into a mapping.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

impl Path {
    /// The value of `key` below this place.
    pub fn key(&self, key: &str) -> Self {
        self.step(PathStep::Key(key.to_owned()))
    }

    /// Item `index` below this place.
    pub fn index(&self, index: usize) -> Self {
        self.step(PathStep::Index(index))
    }

    /// A place from keys alone.
    pub fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| PathStep::Key((*key).to_owned())).collect())
    }

    /// One step further down.
    pub fn step(&self, step: PathStep) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Goes one step down.
    pub fn push(&mut self, step: PathStep) {
        self.0.push(step);
    }

    /// Goes one step up.
    pub fn pop(&mut self) {
        self.0.pop();
    }

    /// The steps from the root.
    pub fn steps(&self) -> &[PathStep] {
        &self.0
    }

    /// Number of steps from the root.
    pub fn depth(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                PathStep::Index(index) => write!(f, "[{index}]")?,
                PathStep::Key(key) if is_plain(key) => write!(f, "{}{key}", if at > 0 { "." } else { "" })?,
                PathStep::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// The candidate that `word` was most likely meant to be, as ` (did you mean …?)`, or nothing.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let best = candidates.into_iter().map(|name| (strsim::damerau_levenshtein(word, name), name)).min();
    match best {
        Some((distance, name)) if distance <= (word.chars().count() / 3).max(1) => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_places_and_faults() {
        let path = Path::of(&["routes"]).index(2).key("to").index(0);
        assert_eq!(path.to_string(), "routes[2].to[0]");
        assert_eq!(Path::of(&["dev", "gpt-4.1"]).to_string(), "dev[\"gpt-4.1\"]");
        assert_eq!(Path::of(&["models", "openai/o3"]).to_string(), "models.openai/o3");
        let mut fault = Fault { path: path.to_string(), line: Some(7), message: "no".into() };
        assert_eq!(fault.in_file(path::Path::new("a.yaml")), "a.yaml:7: routes[2].to[0]: no");
        fault.line = None;
        assert_eq!(fault.in_file(path::Path::new("a.yaml")), "a.yaml: routes[2].to[0]: no");
    }

    #[test]
    fn guesses_near_names_only() {
        assert_eq!(did_you_mean("opnai", ["openai", "groq"]), "; did you mean `openai`?");
        assert_eq!(did_you_mean("x", ["openai", "groq"]), "");
        assert_eq!(did_you_mean("bedrock", ["openai", "groq"]), "");
    }
}
