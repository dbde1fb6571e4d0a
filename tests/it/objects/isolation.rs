//! Isolation as a property: whatever three tenants and a stranger ask for, on every path of both API descriptions, with ids of
//! their own, of others and of nobody, in every place and disguise, nobody gets at or learns of what is another's.

use serde_json::{Value, json};

use super::{
    AS, CHILD, PARENT, SIBLING, STRANGER, TENANTS, World,
    account::{ids_in, owner_of},
    may_see,
};

const PATHS: &str = include_str!("../data/paths.txt");

/// So many random requests.
const ROUNDS: usize = 4_000;

/// Fields that refer, each with how its value is written.
const FIELDS: &[(&str, &str)] = &[
    ("file_id", "text"),
    ("file_ids", "list"),
    ("training_file", "text"),
    ("validation_file", "text"),
    ("input_file_id", "text"),
    ("previous_response_id", "text"),
    ("conversation", "text"),
    ("conversation", "object"),
    ("vector_store_ids", "list"),
    ("vector_store_id", "text"),
    ("container", "text"),
    ("container", "object"),
    ("container_id", "text"),
    ("assistant_id", "text"),
    ("thread_id", "text"),
    ("part_ids", "list"),
    ("video", "object"),
    ("source", "object"),
    ("prompt", "object"),
    ("input", "items"),
    ("items", "items"),
];

/// Numbers that look random and come again (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.roll(list.len())]
    }
}

/// An id that the caller may use, that it may not, or that nobody has.
fn choose(dice: &mut Dice, who: &str, ids: &[String]) -> String {
    let wanted = dice.roll(10);
    if wanted == 0 {
        return format!("files-{who}-99999{}x", dice.roll(10));
    }
    let fitting: Vec<&String> =
        ids.iter().filter(|id| (wanted < 7) == may_see(who, owner_of(id).unwrap_or_default())).collect();
    if fitting.is_empty() { "files-nobodys-000000x".into() } else { (*dice.pick(&fitting)).clone() }
}

fn disguise(dice: &mut Dice, name: &str) -> String {
    match dice.roll(12) {
        0 => name.to_ascii_uppercase(),
        1 => format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]),
        2 => name.replace('s', "\u{17f}"),
        _ => name.to_owned(),
    }
}

/// A JSON body with references at some depth.
fn body(dice: &mut Dice, who: &str, ids: &[String]) -> String {
    let mut members = vec![json!("gpt-4o").to_string().replace("\"gpt-4o\"", "\"model\":\"gpt-4o\"")];
    for _ in 0..dice.roll(3) {
        let (name, form) = *dice.pick(FIELDS);
        let id = choose(dice, who, ids);
        let value = match form {
            "text" => json!(id),
            "list" => json!([choose(dice, who, ids), id]),
            "object" => json!({"id": id}),
            _ => {
                json!([{"role": "user", "content": [{"type": "input_file", "file_id": choose(dice, who, ids)}]}, {"type": "item_reference", "id": id}])
            }
        };
        let member = format!("\"{}\":{value}", disguise(dice, name));
        members.push(match dice.roll(3) {
            0 => format!("\"tools\":[{{\"type\":\"x\",{member}}}]"),
            1 => format!("\"data_source\":{{\"x\":{{{member}}}}}"),
            _ => member,
        });
    }
    if dice.roll(4) == 0 {
        members.push("\"stream\":true".into());
    }
    format!("{{{}}}", members.join(","))
}

/// Everything in a body that a reader would see, escapes decoded.
fn plain(body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<Value>(body).map(|value| value.to_string()).unwrap_or_default();
    format!("{parsed} {}", String::from_utf8_lossy(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_at_or_learns_of_what_is_anothers() {
    let world = World::with(&format!("{TENANTS}\nlog: {{access: false}}\nretry: {{attempts: 1}}")).await;
    let seed = std::env::var("CAN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x9e37_79b9_7f4a_7c15);
    println!("CAN_SEED={seed}");
    let mut dice = Dice(seed);
    let lines: Vec<Vec<&str>> =
        PATHS.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect()).collect();
    assert!(lines.len() > 300);
    for who in [PARENT, CHILD, SIBLING] {
        for (path, body) in [
            ("/v1/files", "{\"a\":1}\n"),
            ("/v1/vector_stores", "{}"),
            ("/v1/conversations", "{}"),
            ("/v1/containers", "{}"),
            ("/v1/assistants", "{}"),
            ("/v1/threads", "{}"),
            ("/v1/videos", "{}"),
            ("/v1/evals", "{}"),
            ("/v1/responses", r#"{"model":"gpt-4o","input":"x"}"#),
            ("/v1/messages/batches", "{}"),
        ] {
            let kind = if path == "/v1/files" { "text/plain" } else { "application/json" };
            assert_eq!(world.send(who, "POST", path, &[("content-type", kind)], body).await.status, 200, "{path}");
        }
    }
    let (mut good, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let who = *dice.pick(&[PARENT, CHILD, SIBLING, STRANGER]);
        let [vendor, method, pattern] = dice.pick(&lines)[..] else { panic!("three words a line") };
        let account = if vendor == "openai" { &world.openai } else { &world.anthropic };
        let ids = account.ids();
        let mut path = String::new();
        for segment in pattern.split('/').skip(1) {
            path.push('/');
            match segment {
                "{version}" => path.push('1'),
                _ if segment.starts_with('{') => path.push_str(&choose(&mut dice, who, &ids)),
                _ => path.push_str(segment),
            }
        }
        let mut sent = path.clone();
        let object = path.split('/').take(5).collect::<Vec<_>>().join("/");
        if dice.roll(8) == 0 {
            path.push('/');
        }
        if dice.roll(4) == 0 {
            let name = *dice.pick(&["after", "before", "after_id", "After", "run_id", "file_id"]);
            let id = choose(&mut dice, who, &ids);
            sent.push_str(&format!(" {id} "));
            let id = if dice.roll(3) == 0 { id.replace('-', "%2D") } else { id };
            path.push_str(&format!("?limit={}&{name}={id}", 1 + dice.roll(5)));
        }
        let method = match dice.roll(20) {
            0 if method == "GET" => "HEAD",
            1 => "PUT",
            2 => "PATCH",
            _ => method,
        };
        let body = if method == "GET" || method == "HEAD" { String::new() } else { body(&mut dice, who, &ids) };
        let mut headers = vec![("content-type", "application/json")];
        if vendor == "anthropic" {
            headers.push(("anthropic-version", "2023-06-01"));
        }
        sent.push_str(&format!(" {}", plain(body.as_bytes())));
        let shown = format!("round {round}: {who} {method} {path} {body}");
        let seen = |account: &super::Account| account.fake.count();
        let before = (seen(&world.openai), seen(&world.anthropic));
        let got = world.send(who, method, &path, &headers, body).await;

        // What goes to a provider names only what the caller may see. The cursors of a list are the gateway's own.
        // Within an object of the caller's own its provider alone knows the items: what the gateway has not seen made is let
        // through as an item or as a cursor there, where it names nothing else.
        let lists_items = ["/items", "/input_items", "/chat/completions/{completion_id}/messages"];
        let lists_items = matches!(method, "GET" | "HEAD") && lists_items.iter().any(|end| pattern.ends_with(end));
        let is_item = matches!(method, "GET" | "HEAD" | "DELETE") && pattern.contains("/items/");
        let asked = [world.openai.fake.seen_since(before.0), world.anthropic.fake.seen_since(before.1)].concat();
        for request in &asked {
            assert_eq!(request.header(AS), Some(who));
            let target = if request.method == "GET" { request.path.split('?').next().unwrap() } else { &request.path };
            let target = if is_item { target.split("/items/").next().unwrap() } else { target };
            let text = format!("{target} {}", plain(&request.body));
            // A model is no object: any name but that of a fine-tune may be asked for as one.
            let model = request.method == "GET" && request.path.starts_with("/v1/models/");
            let foreign = ids_in(&text).into_iter().find(|(_, owner)| !model && !may_see(who, owner));
            assert_eq!(foreign, None, "{shown}: {} {}", request.method, request.path);
            assert!(!request.path.contains("/organization") && !request.path.contains("/projects"), "{shown}");
        }
        // What comes back tells of nothing else, in no place.
        let told = format!("{} {:?}", got.text, got.headers);
        let mine: Vec<String> = ids_in(&sent).into_iter().map(|(id, _)| id).collect();
        let leak = ids_in(&told).into_iter().find(|(id, owner)| !may_see(who, owner) && !mine.contains(id));
        assert_eq!(leak, None, "{shown}: {told}");
        let checked = if lists_items || is_item { &object } else { &sent };
        let foreign = ids_in(checked).into_iter().any(|(_, owner)| !may_see(who, &owner));
        // The gateway's own list of models has no use for a query.
        let own = pattern.starts_with("/v1/models") && method == "GET";
        assert!(!foreign || own || got.status >= 400, "{shown}: {}", got.status);
        assert!(got.status < 500, "{shown}: {} {}", got.status, got.text);
        match got.status < 300 {
            true => good += 1,
            false => refused += 1,
        }
    }
    println!("{good} served, {refused} refused, {} objects", world.openai.ids().len() + world.anthropic.ids().len());
    assert!(good > ROUNDS / 10 && refused > ROUNDS / 10, "{good} served, {refused} refused");
}
