//! Spellings that must, and spellings that must not, share a canonical form.

use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::*;

fn form(body: &str) -> String {
    let mut out = b"before".to_vec();
    assert!(canonical(body.as_bytes(), |key| key == "skip", &mut out), "{body}");
    String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
}

/// The canonical form of a value.
fn value(value: &str) -> String {
    let form = form(&format!("{{\"v\":{value}}}"));
    form.strip_prefix("{\"v\":").unwrap().strip_suffix('}').unwrap().to_owned()
}

fn refused(body: &[u8]) -> bool {
    let mut out = b"before".to_vec();
    let refused = !canonical(body, |_| false, &mut out);
    assert!(!refused || out == b"before");
    refused
}

#[test]
fn members_are_sorted_at_every_depth() {
    for (body, expected) in [
        ("{}", "{}"),
        (" { } ", "{}"),
        (r#"{"b":1,"a":2}"#, r#"{"a":2,"b":1}"#),
        (
            " {\"b\" : [ { \"d\":1 ,\"c\":{}} , [],{\"e\":true,\"f\":[{\"h\":null,\"g\":false}]} ],\t\"a\":\n{\"z\":1,\"y\":{\"x\":1}} } \r\n",
            r#"{"a":{"y":{"x":1},"z":1},"b":[{"c":{},"d":1},[],{"e":true,"f":[{"g":false,"h":null}]}]}"#,
        ),
        // Sorted by bytes, not by length or letters; a key may be a prefix of another, and any text.
        (
            r#"{"é":1,"b":2,"B":3,"ab":4,"":5,"a":6,"a!":7,"{":8}"#,
            r#"{"":5,"B":3,"a":6,"a!":7,"ab":4,"b":2,"{":8,"é":1}"#,
        ),
        // Escapes do not matter for the order, and repeated keys keep theirs.
        (r#"{"b":1,"\u0061":2,"b":0,"\u0062":-1,"a":3}"#, r#"{"a":2,"a":3,"b":1,"b":0,"b":-1}"#),
        (
            r#"{"a":{"c":1,"b":{"e":1,"d":1}},"b":{"a":{"c":1,"b":1}}}"#,
            r#"{"a":{"b":{"d":1,"e":1},"c":1},"b":{"a":{"b":1,"c":1}}}"#,
        ),
    ] {
        assert_eq!(form(body), expected, "{body}");
    }
}

#[test]
fn members_are_skipped_at_the_top_only() {
    for (body, expected) in [
        (r#"{"skip":1}"#, "{}"),
        (
            r#"{"skip":{"b":{"d":1,"c":1},"a":[{"z":1,"y":1}]},"b":1,"skip":2,"a":{"skip":{"skip":3}}}"#,
            r#"{"a":{"skip":{"skip":3}},"b":1}"#,
        ),
        (
            r#"{"b":{"y":1,"x":1},"sk\u0069p":{"b":1,"a":1},"a":{"y":1,"x":1}}"#,
            r#"{"a":{"x":1,"y":1},"b":{"x":1,"y":1}}"#,
        ),
        (r#"{"a":1,"skip":{},"skip ":2,"Skip":3}"#, r#"{"Skip":3,"a":1,"skip ":2}"#),
        (r#"{"skip\ud800":2,"a":[{"skip":1}]}"#, r#"{"a":[{"skip":1}],"skip\ud800":2}"#),
    ] {
        assert_eq!(form(body), expected, "{body}");
    }
    let mut out = Vec::new();
    assert!(canonical(br#"{"a\nb":1,"c":2}"#, |key| key == "a\nb", &mut out) && out == br#"{"c":2}"#);
}

#[test]
fn strings_are_what_they_decode_to() {
    for (text, expected) in [
        (r#""""#, r#""""#),
        (r#""a\/\u002f\u0062\u00e9\uD83D\uDE00""#, r#""a//bé😀""#),
        (r#""\"\\\b\f\n\r\t""#, r#""\"\\\b\f\n\r\t""#),
        (r#""\u0022\u005C\u0008\u000c\u000A\u000d\u0009""#, r#""\"\\\b\f\n\r\t""#),
        (r#""\u0000\u001F\u007f""#, "\"\\u0000\\u001f\u{7f}\""),
        // Surrogates without a partner.
        (r#""\uD800""#, r#""\ud800""#),
        (r#""\udC00\uD800x""#, r#""\udc00\ud800x""#),
        (r#""\ud83d\ud83d\ude00\ude00""#, r#""\ud83d😀\ude00""#),
        (r#""\ud83d\n""#, r#""\ud83d\n""#),
        (r#""\\ud800\\\u0075""#, r#""\\ud800\\u""#),
        (r#""\ufffd\uffff""#, "\"\u{fffd}\u{ffff}\""),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn numbers_are_their_exact_decimal_value() {
    let nines = "9".repeat(40);
    let alike: &[&[&str]] = &[
        &["1", "1.0", "1e0", "10e-1", "0.1e1", "1E+0", "1e-000", "0.001e3", "100.00e-2"],
        &["0", "-0", "0.0", "-0e9", "0e-99999999999999999999999", "0.000E+5"],
        &["-1.5", "-15e-1", "-0.15e1", "-1.50"],
        &["100", "1e2", "10.0e1", "1e0000000000000000000000000002"],
        &["18446744073709551617", "18446744073709551617.0", "1844674407370955161.7e1"],
        &["1e400", "0.1e401", "10e399"],
        // Around the 18 digits that are added in one piece, and beyond.
        &["1e999999999999999999", "10e999999999999999998", "0.1e1000000000000000000"],
        &["1e1000000000000000000", "10e999999999999999999", "0.1e1000000000000000001"],
        &["1e-1000000000000000000", "0.1e-999999999999999999", "10e-1000000000000000001"],
        &["1e-999999999999999999", "10e-1000000000000000000", "0.1e-999999999999999998"],
        &[&format!("1e1{}", "0".repeat(40)), &format!("10e{nines}"), &format!("0.01e1{}2", "0".repeat(39))],
        &[&format!("1e-{nines}"), &format!("10e-1{}", "0".repeat(40)), &format!("1.00e-00{nines}")],
        &["1e1230000000000000000000", "10e1229999999999999999999"],
    ];
    for group in alike {
        for number in *group {
            assert_eq!(value(number), value(group[0]), "{number}");
        }
    }
    let different = [
        "18446744073709551616",
        "1e401",
        "-1e400",
        "1e-400",
        "1e1000000000000000001",
        "1e1230000000000000000001",
        "0.1",
        "0.10000000000000000000000000001",
        "9007199254740993",
        "9007199254740992",
        "-1",
        "10",
        "\"1\"",
        "[1]",
        "true",
    ];
    let all: Vec<_> = different.iter().copied().chain(alike.iter().map(|group| group[0])).map(value).collect();
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "{all:?}");
    for (number, expected) in [("256", "256"), ("-70", "-7e1"), ("0.7", "7e-1"), ("1.5e3", "15e2"), ("0.0012", "12e-4")]
    {
        assert_eq!(value(number), expected);
    }
}

#[test]
fn what_is_not_one_object_is_refused() {
    for body in [
        "",
        " ",
        "[]",
        "1",
        "\"a\"",
        "null",
        "{",
        "{}}",
        "{} {}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{\"a\":[1}",
        "{\"a\":{]}",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":1.}",
        "{\"a\":.1}",
        "{\"a\":+1}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":tru}",
        "{\"a\":NaN}",
        "{\"a\":truefalse}",
        "{\"a\":1x}",
        "{\"a\":\"",
        "{\"a\":\"\\",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\u+123\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\n\"}",
        "{\"a\n\":1}",
        "{\"a\":\"\\ud800\\u12\"}",
        "{\"a\":1}\u{0}",
    ] {
        assert!(refused(body.as_bytes()), "{body}");
        assert!(serde_json::from_str::<std::collections::BTreeMap<String, IgnoredAny>>(body).is_err(), "{body}");
    }
    assert!(refused(b"{\"a\":\"\xff\"}") && refused(b"\xef\xbb\xbf{}"));
}

#[test]
fn depth_and_disorder_cost_linear_time() {
    let depth = 60_000;
    // Each level is out of order: copying the content once per level would be 25 GB.
    let body = format!("{}{{}}{}", "{\"b\":0,\"a\":".repeat(depth), "}".repeat(depth));
    let expected = format!("{}{{}}{}", "{\"a\":".repeat(depth), ",\"b\":0}".repeat(depth));
    assert!(form(&body) == expected);
    let body = format!("{{\"a\":{}{}}}", "[{\"a\":".repeat(depth / 2) + "0", "}]".repeat(depth / 2));
    assert!(form(&body) == body);
    assert!(refused(format!("{{\"a\":{}", "[".repeat(depth)).as_bytes()));
    for (depth, expected) in [(MAX_DEPTH - 1, false), (MAX_DEPTH, true), (1_000_000, true)] {
        let body = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(refused(body.as_bytes()), expected, "{depth}");
    }

    let member = |at: usize| format!("\"key {:05}\":{{\"b\":{at},\"a\":[]}}", at * 7919 % 10_000);
    let body = format!("{{{}}}", (0..10_000).map(member).collect::<Vec<_>>().join(","));
    let sorted = form(&body);
    assert!(sorted.starts_with("{\"key 00000\":{\"a\":[],\"b\":0},\"key 00001\":") && form(&sorted) == sorted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Accepts exactly what serde_json accepts, and the canonical form of a canonical form is itself.
    #[test]
    fn the_same_texts_as_for_serde_json_have_a_form(
        body in "\\{(\"[ab]\":([{}\\[\\],:\" ]|[-0-9eE.+]{1,3}|\"[\\\\u0d8nab/\"\n]{0,7}\"|true|null|\\{\\}|\\[[0-9, ]{0,4}\\])[, ]?){0,4}\\}"
    ) {
        let judge = serde_json::from_str::<&serde_json::value::RawValue>(&body).is_ok();
        prop_assert_eq!(!refused(body.as_bytes()), judge);
        if judge {
            let once = form(&body);
            prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&once).is_ok());
            prop_assert_eq!(form(&once), once);
        }
    }
}
