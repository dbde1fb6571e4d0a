//! Each rule of the policy, and the two headers.

use http::{HeaderMap, HeaderValue};

use super::*;

const CHAT: Endpoint = Endpoint::ChatCompletions;

fn decided(endpoint: &Endpoint, body: &str, directives: Directives, side_effect_tools: &[&str]) -> &'static str {
    let peek = Peek::parse(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
    let side_effect_tools: Vec<_> = side_effect_tools.iter().map(|name| (*name).to_owned()).collect();
    let (body, directives) = (body.as_bytes(), &directives);
    match decide(&Asked {
        endpoint,
        peek: &peek,
        body,
        directives,
        side_effect_tools: &side_effect_tools,
        judged: None,
    }) {
        Decision::Cache => "cache",
        Decision::Bypass(reason) => reason,
    }
}

/// A chat request that is deterministic, apart from the members that are added.
fn chat(rest: &str) -> &'static str {
    decided(&CHAT, &format!("{{\"temperature\":0,{rest}}}"), Directives::default(), &[])
}

#[test]
fn the_endpoint_decides_first() {
    let force = Directives { force: true, ..Directives::default() };
    for (endpoint, expected) in [
        (Endpoint::Embeddings, "cache"),
        (Endpoint::Moderations, "cache"),
        (CHAT, "not_deterministic"),
        (Endpoint::Completions, "not_deterministic"),
        (Endpoint::Responses, "not_deterministic"),
        (Endpoint::Models, "endpoint"),
        (Endpoint::Model("m".into()), "endpoint"),
        (Endpoint::Other, "endpoint"),
    ] {
        assert_eq!(decided(&endpoint, "{}", Directives::default(), &[]), expected, "{endpoint:?}");
        let deterministic = if expected == "not_deterministic" { "cache" } else { expected };
        for body in ["{\"temperature\":0}", "{\"seed\":1}"] {
            assert_eq!(decided(&endpoint, body, Directives::default(), &[]), deterministic, "{endpoint:?}");
        }
        assert_eq!(decided(&endpoint, "{}", force, &[]), deterministic, "{endpoint:?}");
    }
}

#[test]
fn the_client_has_a_say() {
    let all = Directives { no_cache: true, max_age: Some(0), only_if_cached: true, ..Directives::default() };
    for (directives, expected) in [
        (all, "cache"),
        (Directives { no_store: true, ..all }, "asked"),
        (Directives { skip: true, ..all }, "asked"),
        (Directives { no_store: true, force: true, ..all }, "asked"),
    ] {
        for endpoint in [CHAT, Endpoint::Embeddings] {
            assert_eq!(decided(&endpoint, "{\"temperature\":0}", directives, &[]), expected, "{directives:?}");
        }
    }
}

#[test]
fn only_what_is_deterministic_is_cached() {
    let force = Directives { force: true, ..Directives::default() };
    for (body, expected, forced) in [
        (r#"{}"#, "not_deterministic", "cache"),
        (r#"{"temperature":null,"seed":null}"#, "not_deterministic", "cache"),
        (r#"{"temperature":1}"#, "not_deterministic", "cache"),
        (r#"{"temperature":0.0001,"top_p":0}"#, "not_deterministic", "cache"),
        (r#"{"temperature":-0.0}"#, "cache", "cache"),
        (r#"{"temperature":0e5}"#, "cache", "cache"),
        (r#"{"temperature":1,"seed":0}"#, "cache", "cache"),
        (r#"{"temperature":0,"n":1}"#, "cache", "cache"),
        (r#"{"temperature":0,"n":null,"best_of":null}"#, "cache", "cache"),
        (r#"{"temperature":0,"n":2}"#, "several_choices", "cache"),
        (r#"{"temperature":0,"best_of":1.0}"#, "cache", "cache"),
        (r#"{"temperature":0,"best_of":3}"#, "several_choices", "cache"),
        (r#"{"temperature":0,"best_of":"3"}"#, "several_choices", "cache"),
        (r#"{"seed":7,"n":2,"best_of":3}"#, "cache", "cache"),
        // Reasons that `force` does not lift.
        (r#"{"temperature":0,"store":true}"#, "store", "store"),
        (r#"{"store":true}"#, "store", "store"),
        (r#"{"seed":1,"store":false}"#, "cache", "cache"),
        (r#"{"seed":1,"audio":{"voice":"a"}}"#, "audio", "audio"),
        (r#"{"seed":1,"background":true}"#, "background", "background"),
        (r#"{"seed":1,"conversation":"c"}"#, "conversation", "conversation"),
        (r#"{"seed":1,"prompt":{"id":"pmpt_1"}}"#, "stored_prompt", "stored_prompt"),
        (r#"{"seed":1,"prompt":"a text"}"#, "cache", "cache"),
        (r#"{"seed":1,"tools":[{"type":"mcp"}]}"#, "hosted_tool", "hosted_tool"),
    ] {
        assert_eq!(decided(&CHAT, body, Directives::default(), &[]), expected, "{body}");
        assert_eq!(decided(&CHAT, body, force, &[]), forced, "forced {body}");
    }
}

#[test]
fn members_the_peek_does_not_know() {
    for (member, expected) in [
        (r#""modalities":["text"]"#, "cache"),
        (r#""modalities":null"#, "cache"),
        (r#""modalities":["text","audio"]"#, "audio"),
        (r#""modalities":["\u0061udio"]"#, "audio"),
        (r#""modalities":"audio""#, "audio"),
        (r#""modalities":[1]"#, "audio"),
        (r#""audio":null"#, "cache"),
        (r#""audio":{"voice":"alloy","format":"wav"}"#, "audio"),
        (r#""aud\u0069o":{}"#, "audio"),
        (r#""background":false"#, "cache"),
        (r#""background":null"#, "cache"),
        (r#""background":true"#, "background"),
        (r#""background":1"#, "background"),
        (r#""conversation":null"#, "cache"),
        (r#""conversation":{"id":"conv_1"}"#, "conversation"),
        (r#""web_search_options":null"#, "cache"),
        (r#""web_search_options":{}"#, "hosted_tool"),
        (r#""search_parameters":{"mode":"on"}"#, "hosted_tool"),
        (r#""plugins":[{"id":"web"}]"#, "hosted_tool"),
        (r#""data_sources":[{"type":"azure_search"}]"#, "hosted_tool"),
        (r#""enable_search":true"#, "hosted_tool"),
        (r#""enable_search":false"#, "cache"),
        // Only at the top, and only as keys.
        (
            r#""messages":[{"role":"assistant","audio":{"id":"a"},"conversation":1,"content":"\"background\":true"}]"#,
            "cache",
        ),
        (r#""conversation":"c","audio":{}"#, "conversation"),
    ] {
        assert_eq!(chat(member), expected, "{member}");
    }
}

#[test]
fn only_tools_that_the_client_runs_are_cached() {
    for (tools, expected) in [
        ("null", "cache"),
        ("[]", "cache"),
        ("{}", "hosted_tool"),
        ("[1]", "hosted_tool"),
        (r#"[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#, "cache"),
        (r#"[{"type":"function","name":"f"},{"type":"custom","name":"g"}]"#, "cache"),
        (r#"[{"name":"f"},{"type":null,"name":"g"},{}]"#, "cache"),
        (r#"[{"type":"funct\u0069on"}]"#, "cache"),
        (r#"[{"type":"function"},{"type":"web_search"}]"#, "hosted_tool"),
        (r#"[{"type":"web_search_preview_2025_03_11"}]"#, "hosted_tool"),
        (r#"[{"type":"code_interpreter","container":{"type":"auto"}}]"#, "hosted_tool"),
        (r#"[{"type":"mcp"}]"#, "hosted_tool"),
        (r#"[{"type":"file_search"}]"#, "hosted_tool"),
        (r#"[{"type":"computer_use_preview"}]"#, "hosted_tool"),
        (r#"[{"type":"image_generation"}]"#, "hosted_tool"),
        (r#"[{"type":"not invented yet"}]"#, "hosted_tool"),
        (r#"[{"type":["function"]}]"#, "hosted_tool"),
        (r#"[{"type":"function","type":"mcp"}]"#, "hosted_tool"),
        (r#"[{"type":"mcp","type":"function"}]"#, "hosted_tool"),
    ] {
        assert_eq!(chat(&format!("\"tools\":{tools}")), expected, "{tools}");
    }
    assert_eq!(chat(r#""functions":[{"name":"f","parameters":{}}]"#), "cache");
}

#[test]
fn tools_with_side_effects_are_not_cached() {
    let listed = ["send_email", "db_*", "ab"];
    for (name, expected) in [
        ("send_email", "side_effect_tool"),
        ("s\\u0065nd_email", "side_effect_tool"),
        ("send_emails", "cache"),
        ("send_emai", "cache"),
        ("db_", "side_effect_tool"),
        ("db_drop", "side_effect_tool"),
        ("my_db_drop", "cache"),
        ("db", "cache"),
        ("a", "cache"),
        ("AB", "cache"),
        ("\\ud800", "side_effect_tool"),
    ] {
        for member in [
            format!(r#""tools":[{{"type":"function","function":{{"name":"{name}"}}}}]"#),
            format!(r#""tools":[{{"function":{{"description":"x","name":"{name}"}},"type":"function"}}]"#),
            format!(r#""tools":[{{"name":"other"}},{{"type":"function","name":"{name}"}}]"#),
            format!(r#""tools":[{{"type":"custom","custom":{{"name":"{name}"}}}}]"#),
            format!(r#""functions":[{{"name":"{name}"}}]"#),
        ] {
            let body = format!("{{\"seed\":1,{member}}}");
            assert_eq!(decided(&CHAT, &body, Directives::default(), &listed), expected, "{body}");
            assert_eq!(decided(&CHAT, &body, Directives { force: true, ..Directives::default() }, &listed), expected);
            assert_eq!(decided(&CHAT, &body, Directives::default(), &[]), "cache", "{body}");
            assert_eq!(decided(&CHAT, &body, Directives::default(), &["*"]), "side_effect_tool", "{body}");
        }
    }
    // The first is not the name of a tool; the second has no name at all.
    for tool in [r#"{"parameters":{"name":"ab"}}"#, r#"{"name":null,"function":{"name":null}}"#, r#"{"function":"ab"}"#]
    {
        let body = format!("{{\"seed\":1,\"tools\":[{tool}]}}");
        assert_eq!(decided(&CHAT, &body, Directives::default(), &["ab"]), "cache", "{tool}");
    }
    let both = r#"{"seed":1,"tools":[{"type":"mcp","name":"ab"}]}"#;
    assert_eq!(decided(&CHAT, both, Directives::default(), &["ab"]), "hosted_tool");
}

#[test]
fn a_body_that_is_not_the_peeks_is_not_cached() {
    let peek = Peek::parse(b"{\"seed\":1}").unwrap();
    let directives = Directives::default();
    for body in [&b"{"[..], b"[]", b"{\"a\":\"\xff\"}"] {
        let asked =
            Asked { endpoint: &CHAT, peek: &peek, body, directives: &directives, side_effect_tools: &[], judged: None };
        assert_eq!(decide(&asked), Decision::Bypass("invalid"));
    }
}

fn read(lines: &[(&'static str, &[u8])]) -> Result<Directives, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    Directives::read(&headers)
}

#[test]
fn cache_control_is_read_as_http_says() {
    let none = Directives::default();
    let age = |seconds| Directives { max_age: Some(seconds), ..none };
    for (line, expected) in [
        ("", none),
        ("no-cache", Directives { no_cache: true, ..none }),
        ("No-Store , ONLY-IF-CACHED", Directives { no_store: true, only_if_cached: true, ..none }),
        ("public, max-stale=5, foo=\"bar\", x", none),
        ("no-cachet, xno-store", none),
        ("max-age=60", age(60)),
        ("MAX-AGE = 60 ,no-cache", Directives { no_cache: true, ..age(60) }),
        ("max-age=\"60\"", age(60)),
        ("max-age=99999999999999999999999", age(u64::MAX)),
        ("max-age=-1", age(0)),
        ("max-age=+1", age(0)),
        ("max-age=1.5", age(0)),
        ("max-age=\"1", age(0)),
        ("max-age=", age(0)),
        ("max-age", age(0)),
        ("max-age=60, max-age=5, max-age=70", age(5)),
        ("x=\"a, no-store, \\\", no-cache\", max-age=1", age(1)),
        ("x=\"\\\\\", no-store", Directives { no_store: true, ..none }),
        (",, ,no-store,", Directives { no_store: true, ..none }),
    ] {
        assert_eq!(read(&[("cache-control", line.as_bytes())]), Ok(expected), "{line}");
    }
    assert_eq!(read(&[]), Ok(none));
    let lines: [(_, &[u8]); 3] =
        [("cache-control", b"no-cache"), ("cache-control", b"\xff, max-age=3"), ("pragma", b"no-store")];
    assert_eq!(read(&lines), Ok(Directives { no_cache: true, ..age(3) }));
}

#[test]
fn the_own_header_is_skip_or_force() {
    let own = "x-chittycan-cache";
    assert_eq!(read(&[(own, b"skip")]), Ok(Directives { skip: true, ..Directives::default() }));
    assert_eq!(read(&[(own, b" Force ")]), Ok(Directives { force: true, ..Directives::default() }));
    for value in ["", "true", "skip, force", "skipped", "HIT"] {
        assert!(read(&[(own, value.as_bytes())]).unwrap_err().contains("must be 'skip' or 'force'"), "{value}");
    }
    assert!(read(&[(own, b"\xff")]).is_err());
    assert!(read(&[(own, b"skip"), (own, b"force")]).unwrap_err().contains("both"));
}
