//! Imports point down. Reads every file under `src` and fails on an edge between modules that the table does not allow.
//!
//! What counts as an edge: any path that starts at `crate::`, `super::` or `self::` and ends up in another top module,
//! in a `use` (groups included) or written out in an expression, type or macro. What does not: comments, strings and items
//! under `#[cfg(test)]`, whose tests may look at anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Each top module and its height; a module may use those below it. A new module gets a row here and one in `src/lib.rs`.
const LAYERS: &[(&str, u8)] = &[
    ("types", 0),
    ("error", 0),
    ("openai", 1),
    ("sse", 1),
    ("config", 2),
    ("pricing", 3),
    ("routing", 3),
    ("providers", 3),
    ("telemetry", 3),
    ("proxy", 4),
    ("admin", 5),
    ("server", 6),
    ("cli", 7),
    ("main", 8),
];

/// Edges inside one layer that are meant: an error names types, the dialect reads event streams.
const SIDEWAYS: &[(&str, &str)] = &[("error", "types"), ("openai", "sse")];

/// Where Pingora may be named. Engines stay plain Rust that a unit test drives without a socket.
const PINGORA: &[&str] = &["proxy", "admin", "server", "cli"];

#[test]
fn imports_point_down() {
    let files = source_files();
    let mut faults = String::new();
    let mut edges = 0;
    for file in &files {
        let text = fs::read_to_string(&file.path).unwrap();
        let found = scan(&text, &file.module);
        edges += found.references.len();
        for fault in judge(&file.module, &found) {
            writeln!(faults, "{}:{fault}", file.name).unwrap();
        }
    }
    assert!(faults.is_empty(), "imports against the layers:\n{faults}");
    assert!(edges > 0, "no import found in {} files: the scanner is broken", files.len());
}

#[test]
fn the_table_and_the_source_tree_name_the_same_modules() {
    let present: BTreeSet<String> = source_files().into_iter().filter_map(|f| f.module.into_iter().next()).collect();
    let tabled: BTreeSet<String> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(tabled, present, "left: LAYERS in tests/it/layers.rs, right: src");
}

#[test]
fn the_map_in_lib_rs_lists_every_module() {
    let lib = fs::read_to_string(source_root().join("lib.rs")).unwrap();
    let mapped = map_of(&lib);
    for file in source_files() {
        let Some(module) = file.module.first() else { continue };
        assert!(module == "main" || mapped.contains_key(module), "`{module}` has no row in the map in src/lib.rs");
    }
    for (module, label) in &mapped {
        assert!(height(module).is_some(), "the map in src/lib.rs lists `{module}`, which does not exist");
        for (other, other_label) in &mapped {
            let agrees = label >= other_label || height(module) < height(other);
            assert!(agrees, "the map orders `{module}` and `{other}` against the table in tests/it/layers.rs");
        }
    }
}

// The rules.

fn height(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, height)| *height)
}

/// The faults of one file, each as `line: what is wrong`. `module` is empty for the crate root, which only declares.
fn judge(module: &[String], found: &Scan) -> Vec<String> {
    let from = module.first().map_or("lib", String::as_str);
    let mut faults = Vec::new();
    for Reference { line, target } in &found.references {
        let Some(below) = height(target) else {
            faults.push(format!("{line}: `{target}` at the crate root is not a module of the table"));
            continue;
        };
        let allowed = match height(from) {
            Some(own) => target == from || below < own || SIDEWAYS.contains(&(from, target)),
            None => true,
        };
        if !allowed {
            faults
                .push(format!("{line}: {from} (layer {:?}) uses {target} (layer {below})", height(from).unwrap_or(0)));
        }
    }
    if !PINGORA.contains(&from) {
        faults.extend(found.pingora.iter().map(|line| format!("{line}: {from} names Pingora")));
    }
    faults
}

/// Module to layer label, from the rows of the table in the crate's documentation.
fn map_of(lib: &str) -> BTreeMap<String, String> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    lib.lines()
        .filter_map(|line| line.strip_prefix("//! |"))
        .map(cells)
        .filter_map(|row| {
            let name = row.get(1)?.strip_prefix("[`")?.strip_suffix("`]")?;
            Some((name.to_owned(), row[0].clone()))
        })
        .collect()
}

// The files.

struct SourceFile {
    path: PathBuf,
    /// Relative to the repository, for messages.
    name: String,
    /// Where the file hangs in the module tree; empty for lib.rs.
    module: Vec<String>,
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file of the library and the binary, without those that are compiled for tests only.
fn source_files() -> Vec<SourceFile> {
    let mut files = Vec::new();
    collect(&source_root(), &mut files);
    let mut test_only = Vec::new();
    for file in &files {
        let text = fs::read_to_string(&file.path).unwrap();
        test_only.extend(scan(&text, &file.module).test_modules);
    }
    files.retain(|file| !test_only.iter().any(|module| file.module.starts_with(module)));
    files
}

fn collect(dir: &Path, files: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let relative = path.strip_prefix(source_root()).unwrap();
            let module = module_of(relative);
            let name = format!("src/{}", relative.display());
            files.push(SourceFile { path, name, module });
        }
    }
}

/// `pricing/price/tests.rs` is `pricing::price::tests`; a `mod.rs` is its directory.
fn module_of(relative: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

// The scanner.

/// What one file says about other modules.
#[derive(Debug, Default)]
struct Scan {
    references: Vec<Reference>,
    /// Lines that name a `pingora*` crate.
    pingora: Vec<usize>,
    /// Modules declared with `#[cfg(test)] mod name;`, as full paths.
    test_modules: Vec<Vec<String>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Reference {
    line: usize,
    /// First segment below the crate root; `*` or `self` when the root itself is imported.
    target: String,
}

/// Reads one file that hangs at `module`.
fn scan(text: &str, module: &[String]) -> Scan {
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
        self.found.references.push(Reference { line, target });
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

// The tokenizer.

/// A name, `::` or one other character; literals and comments are dropped.
#[derive(Debug)]
struct Token {
    line: usize,
    text: String,
}

fn tokenize(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let peek = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        let c = chars[i];
        let mut text = String::new();
        if c == '/' && peek(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && peek(i + 1) == '*' {
            i = end_of_block_comment(&chars, i);
        } else if c == '"' {
            i = end_of_string(&chars, i);
        } else if c == '\'' {
            i = end_of_char_or_lifetime(&chars, i);
        } else if c.is_alphanumeric() || c == '_' {
            while peek(i).is_alphanumeric() || peek(i) == '_' {
                i += 1;
            }
            text = chars[start..i].iter().collect();
            let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
            let prefix = matches!(text.as_str(), "r" | "br" | "cr");
            if prefix && peek(i + hashes) == '"' {
                i = end_of_raw_string(&chars, i + hashes + 1, hashes);
                text.clear();
            } else if text == "r" && hashes == 1 {
                // A raw name: `r#type` is read as `type` next, which only a path segment can be.
                i += 1;
                text.clear();
            } else if c.is_numeric() {
                text.clear();
            }
        } else if c == ':' && peek(i + 1) == ':' {
            i += 2;
            text = "::".to_owned();
        } else {
            i += 1;
            if !c.is_whitespace() {
                text = c.to_string();
            }
        }
        if !text.is_empty() {
            tokens.push(Token { line, text });
        }
        line += chars[start..i].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
            }
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    chars.len().min(i + 1)
}

fn end_of_raw_string(chars: &[char], start: usize, hashes: usize) -> usize {
    let closes =
        |i: &usize| chars[*i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (start..chars.len()).find(closes).map_or(chars.len(), |i| i + 1 + hashes)
}

fn end_of_char_or_lifetime(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => {
            let close = (start + 3..chars.len()).find(|i| chars[*i] == '\'');
            close.map_or(chars.len(), |i| i + 1)
        }
        (Some(_), Some('\'')) => start + 3,
        // A lifetime or label; its name is read as a name, which does no harm.
        _ => start + 1,
    }
}

/// The scanner on sample text: it sees what it must and can fail.
mod scanner {
    use super::*;

    fn path(module: &str) -> Vec<String> {
        module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// The top modules that `text` uses when it stands in `module`.
    fn targets(module: &str, text: &str) -> Vec<String> {
        scan(text, &path(module)).references.into_iter().map(|reference| reference.target).collect()
    }

    fn faults(module: &str, text: &str) -> Vec<String> {
        judge(&path(module), &scan(text, &path(module)))
    }

    #[test]
    fn simple_and_nested_imports() {
        assert_eq!(targets("proxy", "use crate::types::Secret;"), ["types"]);
        let nested = "pub(crate) use crate::{\n  config::{self, Config as C},\n  types::{Usage, *},\n  error,\n};";
        assert_eq!(targets("proxy", nested), ["config", "config", "types", "types", "error"]);
        assert_eq!(targets("proxy", "use {std::fmt, crate::sse::Scan};"), ["sse"]);
        assert_eq!(targets("proxy", "use std::fmt::{self, Write as _}; use crate::sse;"), ["sse"]);
    }

    #[test]
    fn paths_outside_imports() {
        assert_eq!(
            targets("proxy", "fn f(a: crate::types::Usage) -> u8 { crate::sse::scan::<u8>(a) }"),
            ["types", "sse"]
        );
        assert_eq!(targets("proxy", "macro_rules! m { () => { $crate::types::X } }"), ["types"]);
        assert_eq!(targets("proxy", "impl From<<A as crate::types::T>::U> for B {}"), ["types"]);
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(targets("pricing", "use super::config::X;"), ["config"]);
        assert_eq!(targets("pricing::price", "use super::{rates, super::types::Y};"), ["pricing", "types"]);
        assert_eq!(
            targets("pricing", "mod inner { use super::X; use super::super::admin::Y; } use super::cli;"),
            ["pricing", "admin", "cli"]
        );
        assert_eq!(targets("pricing", "use self::rates::Rates;"), ["pricing"]);
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        let text = r####"
            //! crate::admin
            /// [`crate::admin::X`]
            /* crate::admin /* nested */ crate::admin */
            const A: &str = "crate::admin \" crate::admin";
            const B: &str = r#"crate::admin " crate::admin"#;
            const C: (char, char, &'static [u8]) = ('"', '\'', b"crate::admin");
            #[cfg(test)]
            use crate::{admin, cli::X};
            #[cfg(test)]
            #[allow(dead_code)]
            pub(crate) fn helper<A, B>() -> [u8; 2] { crate::admin::f() }
            #[cfg(test)] mod tests { mod deeper { use crate::admin; } use crate::cli; }
            struct S { #[cfg(test)] probe: Option<crate::admin::P>, real: crate::types::Usage }
            use crate::sse;
        "####;
        assert_eq!(targets("proxy", text), ["types", "sse"]);
        assert!(targets("proxy", "#![cfg(test)]\nuse crate::admin;").is_empty());
        assert_eq!(targets("proxy", "#[cfg(not(test))] use crate::admin;"), ["admin"]);
    }

    #[test]
    fn test_only_files_are_found() {
        let found = scan("#[cfg(test)]\nmod tests;\nmod real;", &path("pricing::price"));
        assert_eq!(found.test_modules, [path("pricing::price::tests")]);
        assert_eq!(module_of(Path::new("pricing/price/tests.rs")), path("pricing::price::tests"));
        assert_eq!(module_of(Path::new("pricing/mod.rs")), path("pricing"));
        assert!(module_of(Path::new("lib.rs")).is_empty());
    }

    #[test]
    fn edges_up_and_sideways_are_faults() {
        assert_eq!(
            faults("config::resolved", "\nuse crate::routing::X;"),
            ["2: config (layer 2) uses routing (layer 3)"]
        );
        assert_eq!(faults("pricing", "fn f() { crate::routing::g() }").len(), 1);
        assert_eq!(faults("types", "use crate::error::E;").len(), 1);
        assert_eq!(faults("sse", "use crate::openai;").len(), 1);
        assert_eq!(faults("proxy::phase::plan", "use super::super::super::server::S;").len(), 1);
        for (module, text) in [
            ("error", "use crate::types::Id;"),
            ("openai", "use crate::sse::Scan;"),
            ("admin", "use crate::{proxy::G, types::Id};"),
            ("main", "use crate::cli::run;"),
            ("pricing::price", "use crate::pricing::rates::R; use super::load;"),
        ] {
            assert!(faults(module, text).is_empty(), "{module}: {text}");
        }
    }

    #[test]
    fn the_crate_root_is_no_way_round() {
        assert_eq!(faults("pricing", "use crate::*;"), ["1: `*` at the crate root is not a module of the table"]);
        assert_eq!(faults("pricing", "use crate::Gateway;").len(), 1);
        assert_eq!(faults("pricing", "use crate as root;").len(), 1);
        assert_eq!(faults("pricing", "use super::*;").len(), 1);
    }

    #[test]
    fn pingora_stays_in_its_places() {
        for text in ["use pingora::Result;", "use ::pingora_core::x;", "fn f() -> pingora_error::Result<()> {}"] {
            assert_eq!(faults("telemetry", text), ["1: telemetry names Pingora"], "{text}");
            assert!(faults("proxy", text).is_empty(), "{text}");
        }
        assert_eq!(faults("routing", "use {std::fmt, pingora_http as h};").len(), 1);
        assert!(faults("routing", "// pingora::Result\n#[cfg(test)] mod tests { use pingora::X; }").is_empty());
    }

    #[test]
    fn the_map_is_read() {
        let lib =
            "//! | layer | module |\n//! |---|---|\n//! | L0 | [`types`] | ids |\n//! | L1 | [`sse`] | events |\n";
        let map = map_of(lib);
        assert_eq!(map.into_iter().collect::<Vec<_>>(), [("sse".into(), "L1".into()), ("types".into(), "L0".into())]);
    }
}
