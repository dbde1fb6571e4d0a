//! Random bodies in random spellings, and the differences that must give two requests different keys.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

/// A JSON value as it is compared: text as UTF-16 units, because JSON can spell any of these; a number as digits without
/// zeros at either end, none for 0, and a power of ten.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Number { negative: bool, digits: String, power: i64 },
    Text(Vec<u16>),
    List(Vec<Tree>),
    Object(BTreeMap<Vec<u16>, Tree>),
}

fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn text() -> impl Strategy<Value = Vec<u16>> {
    let special: Vec<u16> = "\"\\/\u{8}\n\u{1f}\0{},:[0é€\u{ffff}".encode_utf16().collect();
    let unit = prop_oneof![3 => 0x61_u16..0x64, 2 => prop::sample::select(special), 2 => 0xd7ff_u16..0xe001];
    vec(unit, 0..5)
}

fn number() -> impl Strategy<Value = Tree> {
    let digits = prop_oneof!["", "[1-9]", "[1-9][0-9]{0,3}[1-9]", "[1-9][0-9]{20}[1-9]"];
    (any::<bool>(), digits, prop_oneof![-3_i64..4, -999_i64..999]).prop_map(|(negative, digits, power)| {
        let zero = digits.is_empty();
        Tree::Number { negative: negative && !zero, digits, power: if zero { 0 } else { power } }
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![Just(Tree::Null), any::<bool>().prop_map(Tree::Bool), number(), text().prop_map(Tree::Text)];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Tree::List),
            prop::collection::btree_map(text(), inner, 0..4).prop_map(Tree::Object),
        ]
    })
}

fn body() -> impl Strategy<Value = Tree> {
    prop::collection::btree_map(text(), tree(), 0..5).prop_map(Tree::Object)
}

/// An endless sequence of choices from one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Writes a value in one of its many spellings.
fn spell(tree: &Tree, dice: &mut Dice, out: &mut String) {
    space(dice, out);
    match tree {
        Tree::Null => out.push_str("null"),
        Tree::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Tree::Number { negative, digits, power } => spell_number(*negative, digits, *power, dice, out),
        Tree::Text(text) => spell_text(text, dice, out),
        Tree::List(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                spell(item, dice, out);
            }
            out.push_str(if list.is_empty() { " ]" } else { "]" });
        }
        Tree::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            for at in (1..members.len()).rev() {
                members.swap(at, dice.roll(at + 1));
            }
            out.push('{');
            for (at, (key, value)) in members.into_iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                space(dice, out);
                spell_text(key, dice, out);
                space(dice, out);
                out.push(':');
                spell(value, dice, out);
            }
            out.push('}');
        }
    }
    space(dice, out);
}

fn space(dice: &mut Dice, out: &mut String) {
    out.push_str(["", "", "", " ", "\r\n", "\t "][dice.roll(6)]);
}

fn spell_text(text: &[u16], dice: &mut Dice, out: &mut String) {
    out.push('"');
    for character in char::decode_utf16(text.iter().copied()) {
        let escape = dice.roll(3);
        match character {
            Ok(c) if escape > 0 && c >= ' ' && c != '"' && c != '\\' => out.push(c),
            Ok(c) if escape == 1 && "\"\\/\u{8}\n".contains(c) => {
                out.push('\\');
                out.push(match c {
                    '\u{8}' => 'b',
                    '\n' => 'n',
                    c => c,
                });
            }
            Ok(c) => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| spell_unit(*unit, dice, out)),
            Err(lone) => spell_unit(lone.unpaired_surrogate(), dice, out),
        }
    }
    out.push('"');
}

fn spell_unit(unit: u16, dice: &mut Dice, out: &mut String) {
    out.push_str(&if dice.roll(2) == 0 { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") });
}

fn spell_number(negative: bool, digits: &str, power: i64, dice: &mut Dice, out: &mut String) {
    if negative || digits.is_empty() && dice.roll(2) == 0 {
        out.push('-');
    }
    // Zeros at both ends, then a point somewhere, then an exponent that makes up for both.
    let behind = dice.roll(4);
    let all = format!("{}{digits}{}", "0".repeat(dice.roll(4)), "0".repeat(behind));
    let point = dice.roll(all.len() + 1);
    let (whole, fraction) = all.split_at(point);
    let whole = whole.trim_start_matches('0');
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    let exponent = power - behind as i64 + fraction.len() as i64;
    let exponent = if digits.is_empty() { dice.roll(9) as i64 } else { exponent };
    if exponent != 0 || dice.roll(2) == 0 {
        out.push(['e', 'E'][dice.roll(2)]);
        out.push_str(if exponent < 0 { "-" } else { ["", "+"][dice.roll(2)] });
        out.push_str(&"0".repeat(dice.roll(3)));
        out.push_str(&exponent.unsigned_abs().to_string());
    }
}

fn size(tree: &Tree) -> usize {
    1 + match tree {
        Tree::List(list) => list.iter().map(size).sum(),
        Tree::Object(members) => members.values().map(size).sum(),
        _ => 0_usize,
    }
}

/// The value that is the `at`th in a walk.
fn nth<'a>(tree: &'a mut Tree, at: &mut usize) -> Option<&'a mut Tree> {
    if *at == 0 {
        return Some(tree);
    }
    *at -= 1;
    match tree {
        Tree::List(list) => list.iter_mut().find_map(|item| nth(item, at)),
        Tree::Object(members) => members.values_mut().find_map(|item| nth(item, at)),
        _ => None,
    }
}

/// Changes one value somewhere; never what makes the root an object.
fn mutate(tree: &mut Tree, dice: &mut Dice) {
    let at = dice.roll(size(tree));
    let node = nth(tree, &mut at.clone()).unwrap();
    if at > 0 && dice.roll(4) == 0 {
        // Another type, as close as possible.
        *node = match node.clone() {
            Tree::Null => Tree::Text(units("null")),
            Tree::Bool(yes) => Tree::Text(units(if yes { "true" } else { "false" })),
            Tree::Number { digits, .. } => Tree::Text(units(&digits)),
            Tree::List(list) if list.is_empty() => Tree::Object(BTreeMap::new()),
            Tree::Object(members) if members.is_empty() => Tree::List(Vec::new()),
            other => Tree::List(vec![other]),
        };
        return;
    }
    let choice = dice.roll(3);
    match node {
        Tree::Null => *node = Tree::Bool(false),
        Tree::Bool(yes) => *yes = !*yes,
        Tree::Number { digits, .. } if digits.is_empty() => *digits = "1".into(),
        Tree::Number { negative, .. } if choice == 0 => *negative = !*negative,
        Tree::Number { power, .. } if choice == 1 => *power += 1,
        Tree::Number { digits, .. } => digits.push('1'),
        Tree::Text(text) if choice == 0 && !text.is_empty() => drop(text.pop()),
        Tree::Text(text) if choice == 1 && !text.is_empty() => text[0] ^= 1,
        Tree::Text(text) => text.push(0xd800),
        Tree::List(list) if choice == 0 && !list.is_empty() => drop(list.remove(0)),
        Tree::List(list) if choice == 1 && list.first() != list.last() => list.rotate_left(1),
        Tree::List(list) => list.push(Tree::Null),
        Tree::Object(members) if choice < 2 && !members.is_empty() => {
            let (mut key, value) = members.pop_first().unwrap();
            if choice == 1 {
                key.extend(units("renamed"));
                members.insert(key, value);
            }
        }
        Tree::Object(members) => drop(members.insert(units("added"), Tree::Null)),
    }
}

fn spelled(tree: &Tree, seed: u64) -> String {
    let mut out = String::new();
    spell(tree, &mut Dice(seed), &mut out);
    out
}

const PARTS: KeyParts<'static> =
    KeyParts { namespace: b"tenant", endpoint: "embeddings", family: "m", query: "", headers: &[], body: b"{}" };

fn key(body: &str) -> Key {
    KeyParts { body: body.as_bytes(), ..PARTS }.key().unwrap_or_else(|| panic!("{body}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn what_means_the_same_shares_a_key_and_nothing_else_does(body in body(), seeds: [u64; 4]) {
        let (one, other) = (spelled(&body, seeds[0]), spelled(&body, seeds[1]));
        prop_assert_eq!(key(&one), key(&other), "{} {}", one, other);
        let mut mutated = body.clone();
        mutate(&mut mutated, &mut Dice(seeds[2]));
        prop_assert_ne!(&mutated, &body);
        let mutated = spelled(&mutated, seeds[3]);
        prop_assert_ne!(key(&one), key(&mutated), "{} {}", one, mutated);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn ignored_members_matter_only_when_nested(
        body in body(), value in tree(), name in prop::sample::select(&IGNORED[..]), seeds: [u64; 2]
    ) {
        let Tree::Object(plain) = body else { unreachable!() };
        let with = |value: &Tree| {
            let mut members = plain.clone();
            members.insert(units(name), value.clone());
            Tree::Object(members)
        };
        let top = with(&value);
        let plain = Tree::Object(plain.clone());
        prop_assert_eq!(key(&spelled(&top, seeds[0])), key(&spelled(&plain, seeds[1])));
        let nested = |tree| Tree::Object(BTreeMap::from([(units("nested"), tree)]));
        prop_assert_ne!(key(&spelled(&nested(top), seeds[0])), key(&spelled(&nested(plain), seeds[1])));
    }

    /// One text, cut in two ways into parts.
    #[test]
    fn parts_do_not_trade_bytes(text in "[ab]{0,6}", mut cuts: [[prop::sample::Index; 6]; 2], headers: [bool; 2]) {
        let parts = |cuts: &mut [prop::sample::Index; 6]| {
            let mut at = cuts.map(|cut| cut.index(text.len() + 1));
            at.sort_unstable();
            let ends = at.into_iter().chain([text.len()]);
            ends.scan(0, |from, to| Some(text[std::mem::replace(from, to)..to].to_owned())).collect::<Vec<_>>()
        };
        let (one, other) = (parts(&mut cuts[0]), parts(&mut cuts[1]));
        let key = |parts: &[String], second: bool| {
            let headers = [(parts[3].as_str(), parts[4].as_bytes()), (&parts[5], b"")];
            let body = format!("{{\"x\":\"{}\"}}", parts[6]);
            // The second header, when it is left out, leaves its bytes to the query.
            KeyParts {
                namespace: parts[0].as_bytes(),
                family: &parts[1],
                query: &if second { parts[2].clone() } else { format!("{}{}", parts[2], parts[5]) },
                headers: if second { &headers } else { &headers[..1] },
                body: body.as_bytes(),
                ..PARTS
            }
            .key()
        };
        if headers[0] == headers[1] && headers[0] {
            prop_assert_eq!(one == other, key(&one, true) == key(&other, true));
        } else if headers[0] != headers[1] {
            prop_assert_ne!(key(&one, headers[0]), key(&other, headers[1]));
        }
    }
}

#[test]
fn every_part_counts() {
    let body = b"{\"input\":\"a\"}";
    let all = [
        PARTS,
        KeyParts { namespace: b"tenant2", ..PARTS },
        KeyParts { namespace: b"", ..PARTS },
        KeyParts { endpoint: "moderations", ..PARTS },
        KeyParts { family: "m2", ..PARTS },
        KeyParts { query: "v=1", ..PARTS },
        KeyParts { headers: &[("openai-beta", b"1")], ..PARTS },
        KeyParts { headers: &[("openai-beta", b"2")], ..PARTS },
        KeyParts { headers: &[("openai-beta", b"")], ..PARTS },
        KeyParts { headers: &[("openai-beta", b""), ("", b"")], ..PARTS },
        KeyParts { headers: &[("openai-beta1", b"")], ..PARTS },
        KeyParts { body, ..PARTS },
    ];
    let keys: std::collections::HashSet<_> = all.iter().map(|parts| parts.key().unwrap()).collect();
    assert_eq!(keys.len(), all.len());
    assert_eq!(KeyParts { body: b"[]", ..PARTS }.key(), None);
}

/// If this fails, every entry on disk becomes unreachable: change the version in `DOMAIN` with it.
#[test]
fn a_key_stays_what_it_is() {
    let body = br#"{"model":"a","input":["x","\u00e9"],"dimensions":256,"stream":false}"#;
    let key = KeyParts { headers: &[("openai-beta", b"1")], query: "q", body, ..PARTS }.key().unwrap();
    assert_eq!(key.to_string(), "28b7a5f31224b21c64fe2c8ed290bace16f45cef24fa97af1f099a91266f46df");
}

#[test]
fn a_key_is_written_and_read_as_hex() {
    let key = key("{}");
    let hex = key.to_string();
    assert_eq!((hex.len(), hex.parse(), hex.to_uppercase().parse()), (64, Ok(key), Ok(key)));
    assert_eq!(format!("{key:?}"), format!("Key({hex})"));
    assert_eq!(Key([0x0a; 32]).to_string(), "0a".repeat(32));
    for text in
        ["", "0", &hex[1..], &format!("{hex}0"), &hex.replace(&hex[..1], "g"), &"é".repeat(32), &"+a".repeat(32)]
    {
        assert_eq!(text.parse::<Key>(), Err(NoKey), "{text}");
    }
    assert!(NoKey.to_string().contains("64"));
}
