//! Which other modules a source text refers to.

use super::tokens::{Token, tokenize};

/// What one file says about other modules.
#[derive(Debug, Default)]
pub struct Scan {
    pub references: Vec<Reference>,
    /// Lines that name a `pingora*` crate.
    pub pingora: Vec<usize>,
    /// Modules declared with `#[cfg(test)] mod name;`, as full paths.
    pub test_modules: Vec<Vec<String>>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Reference {
    pub line: usize,
    /// First segment below the crate root; `*` or `self` when the root itself is imported.
    pub target: String,
    /// The whole path below the crate root.
    pub path: Vec<String>,
}

/// Reads one file that hangs at `module`.
pub fn scan(text: &str, module: &[String]) -> Scan {
    let tokens = tokenize(text);
    let mut scanner =
        Scanner { tokens: &tokens, at: 0, module: module.to_vec(), open: Vec::new(), found: Scan::default() };
    scanner.run();
    scanner.found
}

struct Scanner<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Of the item being read; inline modules push to it.
    module: Vec<String>,
    /// One entry per open brace: whether it opened an inline module.
    open: Vec<bool>,
    found: Scan,
}

impl Scanner<'_> {
    fn run(&mut self) {
        while self.at < self.tokens.len() {
            if self.is(0, "#") && self.is(1, "!") && self.is_cfg_test(2) {
                return;
            } else if self.is(0, "#") && self.is_cfg_test(1) {
                self.skip_test_item();
            } else if self.is(0, "use") {
                self.at += 1;
                self.tree(&[]);
            } else if self.is(0, "mod") && self.is(2, "{") {
                self.module.push(self.text(1).to_owned());
                self.open.push(true);
                self.at += 3;
            } else if self.is(0, "{") {
                self.open.push(false);
                self.at += 1;
            } else if self.is(0, "}") {
                if self.open.pop() == Some(true) {
                    self.module.pop();
                }
                self.at += 1;
            } else if self.is(1, "::") && is_name(self.text(0)) && !self.follows_path() {
                self.path();
            } else {
                self.at += 1;
            }
        }
    }

    /// A path written out: `crate::a::b`, up to where it stops being one.
    fn path(&mut self) {
        let line = self.line();
        let mut segments = vec![self.text(0).to_owned()];
        self.at += 1;
        while self.is(0, "::") && is_name(self.text(1)) {
            segments.push(self.text(1).to_owned());
            self.at += 2;
        }
        self.record(line, &segments);
    }

    /// A `use` tree, with the segments before it.
    fn tree(&mut self, prefix: &[String]) {
        let mut segments = prefix.to_vec();
        if self.is(0, "::") {
            self.at += 1;
        }
        loop {
            if self.is(0, "{") {
                self.at += 1;
                while self.at < self.tokens.len() && !self.is(0, "}") {
                    self.tree(&segments);
                    if self.is(0, ",") {
                        self.at += 1;
                    }
                }
                self.at += 1;
                return;
            }
            let line = self.line();
            segments.push(self.text(0).to_owned());
            self.at += 1;
            if !self.is(0, "::") {
                self.record(line, &segments);
                break;
            }
            self.at += 1;
        }
        if self.is(0, "as") {
            self.at += 2;
        }
    }

    /// Resolves a path to a top module of this crate and notes it, or a use of Pingora.
    fn record(&mut self, line: usize, segments: &[String]) {
        if segments[0].starts_with("pingora") {
            self.found.pingora.push(line);
        }
        let mut full: Vec<String> = match segments[0].as_str() {
            "crate" => Vec::new(),
            "self" | "super" => self.module.clone(),
            _ => return,
        };
        for (index, segment) in segments.iter().enumerate() {
            match segment.as_str() {
                "crate" if index == 0 => {}
                "super" => drop(full.pop()),
                // `self` first is this module; last in a group it is the path so far.
                "self" => {}
                name => full.push(name.to_owned()),
            }
        }
        let target = full.first().cloned().unwrap_or_else(|| "self".to_owned());
        // `super::x` in a top module, or `self::x` in the crate root, names x at the root as `crate::x` does.
        self.found.references.push(Reference { line, target, path: full });
    }

    /// Steps over an attribute, those after it, and the item, field, arm or statement they stand on.
    fn skip_test_item(&mut self) {
        while self.is(0, "#") {
            self.at += 1;
            self.skip_group();
        }
        if self.is(0, "pub") {
            self.at += 1;
            if self.is(0, "(") {
                self.skip_group();
            }
        }
        if self.is(0, "mod") && self.is(2, ";") {
            let mut module = self.module.clone();
            module.push(self.text(1).to_owned());
            self.found.test_modules.push(module);
        }
        let item = ITEMS.contains(&self.text(0));
        let import = self.is(0, "use");
        while self.at < self.tokens.len() {
            match self.text(0) {
                ";" => {
                    self.at += 1;
                    return;
                }
                "," if !item => return,
                // The end of what encloses a last field or arm.
                ")" | "]" | "}" => return,
                "{" => {
                    self.skip_group();
                    if item && !import {
                        return;
                    }
                }
                "(" | "[" => self.skip_group(),
                _ => self.at += 1,
            }
        }
    }

    /// From an opening bracket to after its partner.
    fn skip_group(&mut self) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    /// Whether `[cfg(test)]` or `[cfg(all(test, …))]` starts `ahead` tokens on.
    fn is_cfg_test(&self, ahead: usize) -> bool {
        let starts = |wanted: &[&str]| wanted.iter().enumerate().all(|(i, text)| self.is(ahead + i, text));
        starts(&["[", "cfg", "(", "test", ")"]) || starts(&["[", "cfg", "(", "all", "(", "test"])
    }

    /// Whether the token before is part of a longer path or a field access, so that this one does not start a path.
    fn follows_path(&self) -> bool {
        let before = self.at.checked_sub(1).map(|i| self.tokens[i].text.as_str());
        let before_that = self.at.checked_sub(2).map(|i| self.tokens[i].text.as_str());
        // `::pingora::x` does start one; `a::b` and `<T as A>::b` do not.
        before == Some("::") && before_that.is_some_and(|t| is_name(t) || t == ">")
    }

    fn is(&self, ahead: usize, text: &str) -> bool {
        self.text(ahead) == text
    }

    fn text(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| token.text.as_str())
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |token| token.line)
    }
}

/// Words an item starts with; anything else under an attribute is a field, an arm or a statement.
const ITEMS: &[&str] = &[
    "mod",
    "fn",
    "use",
    "impl",
    "const",
    "static",
    "struct",
    "enum",
    "union",
    "trait",
    "type",
    "async",
    "unsafe",
    "extern",
    "macro_rules",
];

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
