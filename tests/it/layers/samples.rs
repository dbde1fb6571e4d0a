//! The scanner and the rules on sample text: they see what they must, and they can fail.

use std::path::Path;

use super::{Uses, circle, judge, map_of, module_at, module_of, scan::scan};

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
    assert_eq!(targets("proxy", "fn f(a: crate::types::Usage) -> u8 { crate::sse::scan::<u8>(a) }"), ["types", "sse"]);
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
    assert_eq!(faults("config::resolved", "\nuse crate::routing::X;"), ["2: config (layer 2) uses routing (layer 3)"]);
    assert_eq!(faults("pricing", "fn f() { crate::routing::g() }").len(), 1);
    assert_eq!(faults("types", "use crate::error::E;").len(), 1);
    assert_eq!(faults("sse", "use crate::openai;").len(), 1);
    assert_eq!(faults("proxy::phase::plan", "use super::super::super::server::S;").len(), 1);
    assert_eq!(faults("admin", "use crate::proxy::G;"), ["1: admin (layer 6) uses proxy (layer 6)"]);
    for (module, text) in [
        ("error", "use crate::types::Id;"),
        ("openai", "use crate::sse::Scan;"),
        ("admin", "use crate::{snapshot::G, types::Id};"),
        ("main", "use crate::cli::run;"),
        ("pricing::price", "use crate::pricing::rates::R; use super::load;"),
    ] {
        assert!(faults(module, text).is_empty(), "{module}: {text}");
    }
}

#[test]
fn a_circle_is_found_and_a_way_without_one_is_not() {
    let uses = |edges: &[(&str, &str)]| -> Uses {
        let mut uses = Uses::new();
        for (from, to) in edges {
            uses.entry(path(from)).or_default().insert(path(to));
        }
        uses
    };
    assert_eq!(circle(&uses(&[("p::a", "p::b"), ("p::a", "p::c"), ("p::b", "p::c")])), None);
    let found = circle(&uses(&[("p::a", "p::b"), ("p::b", "p::c"), ("p::c", "p::b")])).unwrap();
    assert_eq!(found, [path("p::b"), path("p::c")]);
    let modules = ["p", "p::a", "p::a::b"].map(path).into();
    assert_eq!(module_at(&modules, &path("p::a::f")), Some(path("p::a")));
    assert_eq!(module_at(&modules, &path("q::a")), None);
    let references = scan("use crate::p::{a::{b::F, G}, self};", &path("p::c")).references;
    let paths: Vec<_> = references.into_iter().map(|reference| reference.path.join("::")).collect();
    assert_eq!(paths, ["p::a::b::F", "p::a::G", "p"]);
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
    let lib = "//! | layer | module |\n//! |---|---|\n//! | L0 | [`types`] | ids |\n//! | L1 | [`sse`] | events |\n";
    let map = map_of(lib);
    assert_eq!(map.into_iter().collect::<Vec<_>>(), [("sse".into(), "L1".into()), ("types".into(), "L0".into())]);
}
