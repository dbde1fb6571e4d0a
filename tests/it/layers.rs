//! Imports point down. Reads every file under `src` and fails on an edge between modules that the table does not allow.
//!
//! What counts as an edge: any path that starts at `crate::`, `super::` or `self::` and ends up in another top module,
//! in a `use` (groups included) or written out in an expression, type or macro. What does not: comments, strings and items
//! under `#[cfg(test)]`, whose tests may look at anything.

mod samples;
mod scan;
mod tokens;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use scan::{Reference, Scan, scan};

/// Each top module and its height; a module may use those below it. A new module gets a row here and one in `src/lib.rs`.
const LAYERS: &[(&str, u8)] = &[
    ("types", 0),
    ("error", 0),
    ("capacity", 1),
    ("openai", 1),
    ("sse", 1),
    ("tokenizer", 1),
    ("config", 2),
    ("dialect", 2),
    ("guards", 2),
    ("store", 2),
    ("cache", 3),
    ("connections", 3),
    ("identity", 3),
    ("ledger", 3),
    ("limits", 3),
    ("objects", 3),
    ("pricing", 3),
    ("routing", 3),
    ("providers", 3),
    ("stored_responses", 3),
    ("telemetry", 3),
    ("tenants", 4),
    ("snapshot", 5),
    ("proxy", 6),
    ("admin", 6),
    ("server", 7),
    ("cli", 8),
    ("main", 9),
];

/// Edges inside one layer that are meant: an error names types, the dialect reads event streams.
const SIDEWAYS: &[(&str, &str)] = &[("error", "types"), ("openai", "sse")];

/// Where Pingora may be named. The rest stays plain Rust that a unit test drives without a socket; `limits` uses its counting
/// windows and `cache` its storage, which know no socket either.
const PINGORA: &[&str] = &["cache", "limits", "snapshot", "proxy", "admin", "server", "cli"];

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
fn the_crates_under_the_gateway_know_neither_it_nor_each_other() {
    for (krate, banned) in
        [("wire", &["pingora", "rusqlite", "tokio", "hyper"][..]), ("simulator", &["pingora", "rusqlite"])]
    {
        let manifest = fs::read_to_string(repository().join("crates").join(krate).join("Cargo.toml")).unwrap();
        let product = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        let named: Vec<&str> = product.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
        assert!(named.contains(&"serde_json"), "{krate} has no dependencies: {named:?}");
        let wrong = |name: &&str| name.starts_with("chittycan") || banned.iter().any(|banned| name.starts_with(banned));
        assert_eq!(named.iter().find(|name| wrong(name)), None, "a dependency of {krate}");
    }
}

#[test]
fn only_the_sqlite_store_knows_sql() {
    let mut named = 0;
    for file in source_files() {
        let text = fs::read_to_string(&file.path).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let inside = file.module.starts_with(&["store".to_owned(), "sqlite".to_owned()]);
        named += usize::from(inside && product.contains("rusqlite"));
        assert!(inside || !product.contains("rusqlite"), "{} names rusqlite", file.name);
        assert!(inside || !product.contains(".sql\""), "{} names a file of SQL", file.name);
    }
    assert!(named > 5, "the store is not where it was");
}

#[test]
fn the_map_in_lib_rs_lists_every_module() {
    let lib = fs::read_to_string(repository().join("src/lib.rs")).unwrap();
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

/// The longest way through the product is one folder of many files: each of them may use those before it, and none of these uses
/// it in turn.
#[test]
fn there_is_no_circle_inside_proxy() {
    let files: Vec<_> =
        source_files().into_iter().filter(|file| file.module.first().is_some_and(|top| top == "proxy")).collect();
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| file.module.clone()).collect();
    let uses: Uses = files
        .iter()
        .map(|file| {
            let found = scan(&fs::read_to_string(&file.path).unwrap(), &file.module);
            let used = found.references.iter().filter_map(|reference| module_at(&modules, &reference.path));
            (file.module.clone(), used.filter(|used| *used != file.module).collect())
        })
        .collect();
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 100, "the scanner is broken: {uses:?}");
    let circle = circle(&uses).map(|circle| circle.iter().map(|module| module.join("::")).collect::<Vec<_>>());
    assert_eq!(circle, None, "each of these modules uses the next one, and the last one the first");
}

// The rules.

/// Which modules each module uses.
type Uses = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

/// The module that a path leads into.
fn module_at(modules: &BTreeSet<Vec<String>>, path: &[String]) -> Option<Vec<String>> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| modules.contains(module))
}

/// Modules that use each other in a circle, if there are any.
fn circle(uses: &Uses) -> Option<Vec<Vec<String>>> {
    fn walk(uses: &Uses, at: &[String], way: &mut Vec<Vec<String>>, done: &mut BTreeSet<Vec<String>>) -> bool {
        if let Some(begin) = way.iter().position(|module| module == at) {
            way.drain(..begin);
            return true;
        }
        if done.contains(at) {
            return false;
        }
        way.push(at.to_vec());
        if uses.get(at).is_some_and(|used| used.iter().any(|next| walk(uses, next, way, done))) {
            return true;
        }
        way.pop();
        done.insert(at.to_vec());
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    uses.keys().any(|module| walk(uses, module, &mut way, &mut done)).then_some(way)
}

fn height(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, height)| *height)
}

/// The faults of one file, each as `line: what is wrong`. `module` is empty for the crate root, which only declares.
fn judge(module: &[String], found: &Scan) -> Vec<String> {
    let from = module.first().map_or("lib", String::as_str);
    let mut faults = Vec::new();
    for Reference { line, target, .. } in &found.references {
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

/// Where the modules of the map lie: those of the gateway, and those of the crate under it, which the gateway names as its own.
const ROOTS: &[&str] = &["src", "crates/wire/src"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the libraries and the binary, without those that are compiled for tests only.
fn source_files() -> Vec<SourceFile> {
    let mut files = Vec::new();
    for root in ROOTS {
        let root = repository().join(root);
        collect(&root, &root, &mut files);
    }
    let mut test_only = Vec::new();
    for file in &files {
        let text = fs::read_to_string(&file.path).unwrap();
        test_only.extend(scan(&text, &file.module).test_modules);
    }
    files.retain(|file| !test_only.iter().any(|module| file.module.starts_with(module)));
    files
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let module = module_of(path.strip_prefix(root).unwrap());
            let name = path.strip_prefix(repository()).unwrap().display().to_string();
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
