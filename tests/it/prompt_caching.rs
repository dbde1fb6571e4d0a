//! Clients of OpenAI's API that go on with a conversation do not pay for all of it with every turn when Claude serves them, and
//! the ledger says no less than Anthropic's bill, whose writes to the prompt cache cost more than plain input.

use serde_json::{Value, json};

use simulator::{Simulated, SimulatedConfig};

use crate::support::{Answer, Fake, Gateway};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

/// Nano-dollars for each token of claude-sonnet-4-5: plain input, written to the cache, read from it, generated.
const INPUT: i64 = 3_000;
const WRITE: i64 = 3_750;
const READ: i64 = 300;
const OUTPUT: i64 = 15_000;

fn prose(times: usize) -> String {
    "The quick brown fox jumps over the lazy dog near the river bank today. ".repeat(times)
}

fn over(address: std::net::SocketAddr, route: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: {{anthropic: {{base_url: \"http://{address}/v1\", api_key: sk-ant-x, credentials: mapped}}}}\n\
         routes: [{{model: claude, to: [anthropic/claude-sonnet-4-5]{route}}}]\ncache: {{enabled: false}}\n{more}"
    ))
}

async fn ask(gateway: &Gateway, path: &str, body: &Value) -> (Value, String) {
    let reply = reqwest::Client::new().post(gateway.url(path)).json(body).send().await.unwrap();
    let status = reply.status();
    let dropped = reply.headers().get("x-chittycan-dropped").map(|names| names.to_str().unwrap().to_owned());
    let body: Value = reply.json().await.unwrap();
    assert_eq!(status, 200, "{body}");
    (body, dropped.unwrap_or_default())
}

/// Where breakpoints stand in a request of Anthropic's.
fn marks(value: &Value, at: &str) -> Vec<String> {
    let below = |(name, value): (String, &Value)| match (&*name, value) {
        ("cache_control", Value::Null) => Vec::new(),
        ("cache_control", mark) => vec![format!("{at}={mark}")],
        _ => marks(value, &format!("{at}/{name}")),
    };
    match value {
        Value::Object(members) => members.iter().flat_map(|(key, value)| below((key.clone(), value))).collect(),
        Value::Array(all) => {
            all.iter().enumerate().flat_map(|(index, value)| below((index.to_string(), value))).collect()
        }
        _ => Vec::new(),
    }
}

/// Codex's conversation: instructions, tools, calls and their results, with one key for all its requests. Served by a provider
/// that refuses what Anthropic refuses and keeps prompts up to breakpoints, as Anthropic does.
#[tokio::test(flavor = "multi_thread")]
async fn each_turn_of_an_agent_reads_what_the_one_before_wrote() {
    let simulated = Simulated::bind("127.0.0.1:0".parse().unwrap(), SimulatedConfig::instant()).await.unwrap();
    let gateway = over(simulated.addr(), "", "");
    let mut input = vec![json!({"role": "user", "content": prose(40)})];
    let (mut known, mut entries) = (0, 0);
    for turn in 0..4 {
        let body = json!({
            "model": "claude", "instructions": prose(60), "input": input, "store": false, "prompt_cache_key": "session-1",
            "tools": [{"type": "function", "name": "shell", "parameters": {"type": "object", "properties": {}}}],
            "max_output_tokens": 50,
        });
        let (response, dropped) = ask(&gateway, RESPONSES, &body).await;
        assert_eq!(dropped, "");
        let usage = &response["usage"];
        let count = |value: &Value| value.as_i64().unwrap();
        let (all, details) = (count(&usage["input_tokens"]), &usage["input_tokens_details"]);
        let (read, written) = (count(&details["cached_tokens"]), count(&details["cache_write_tokens"]));
        assert_eq!(read, known, "what the turn before wrote: {usage}");
        assert_eq!(read + written, all, "all that is new is written for the next turn: {usage}");
        assert!(written > 0, "{usage}");
        known = all;
        entries += 1;
        let cost = format!("SELECT cost FROM entries ORDER BY id LIMIT 1 OFFSET {}", entries - 1);
        let due = read * READ + written * WRITE + count(&usage["output_tokens"]) * OUTPUT;
        assert_eq!(gateway.query(&cost).await, due, "turn {turn}: {usage}");
        let call = format!("call_{turn}");
        input.push(json!({"type": "function_call", "call_id": call, "name": "shell", "arguments": "{}"}));
        input.push(json!({"type": "function_call_output", "call_id": call, "output": prose(20 + turn)}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_client_reads_its_own_prompt_again_in_json_and_in_streams() {
    let simulated = Simulated::bind("127.0.0.1:0".parse().unwrap(), SimulatedConfig::instant()).await.unwrap();
    let gateway = over(simulated.addr(), "", "");
    let body = |key: &str| {
        let messages = json!([{"role": "system", "content": prose(30)}, {"role": "user", "content": prose(10)}]);
        json!({"model": "claude", "max_tokens": 50, "messages": messages, "prompt_cache_key": key})
    };
    let (first, _) = ask(&gateway, CHAT, &body("a")).await;
    let (again, _) = ask(&gateway, CHAT, &body("b")).await;
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "{first}");
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], again["usage"]["prompt_tokens"], "{again}");
    let mut streamed = body("a");
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let reply = reqwest::Client::new().post(gateway.url(CHAT)).json(&streamed).send().await.unwrap();
    let text = reply.text().await.unwrap();
    let counted = format!("\"prompt_tokens_details\":{{\"cached_tokens\":{},", again["usage"]["prompt_tokens"]);
    assert!(text.contains(&counted), "no {counted} in {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_and_the_client_say_where_breakpoints_stand() {
    let message = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}}"#;
    let fake = Fake::always(Answer::json(200, message)).await;
    let auto = over(fake.address, "", "");
    let always = over(fake.address, ", prompt_caching: always", "");
    let off = over(fake.address, ", prompt_caching: off", "");
    let talk = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}]);
    let ours = [
        "/system/0={\"type\":\"ephemeral\"}",
        "/messages/0/content/0={\"type\":\"ephemeral\"}",
        "/messages/2/content/0={\"type\":\"ephemeral\"}",
    ];
    let own = json!([{"role": "user", "content": [{"type": "text", "text": "A", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}]);
    let owned = ["/messages/0/content/0={\"type\":\"ephemeral\",\"ttl\":\"1h\"}"];
    for (gateway, messages, key, expected, dropped) in [
        (&auto, &talk, None, &[][..], ""),
        (&auto, &talk, Some("k"), &ours[..], ""),
        (&auto, &own, Some("k"), &owned[..], ""),
        (&always, &talk, None, &ours[..], ""),
        (&always, &own, None, &owned[..], ""),
        (&off, &talk, Some("k"), &[][..], "prompt_cache_key"),
        (&off, &own, None, &owned[..], ""),
    ] {
        let mut body = json!({"model": "claude", "messages": messages});
        if let Some(key) = key {
            body["prompt_cache_key"] = key.into();
        }
        let (_, told) = ask(gateway, CHAT, &body).await;
        assert_eq!(marks(&fake.last().json(), ""), expected, "{body}");
        assert_eq!(told, dropped, "{body}");
    }
}

/// A provider that does not say what it counted may have written all of the prompt.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_counted_is_settled_as_written_to_the_cache() {
    let uncounted = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null}"#;
    let fake = Fake::always(Answer::json(200, uncounted)).await;
    let gateway = over(fake.address, "", "tenants: {default: {budgets: [{usd: 5}]}}\n");
    let text = prose(100);
    let mut costs = Vec::new();
    for (number, key) in [(1, None), (2, Some("k"))] {
        let mut body = json!({"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": text}]});
        if let Some(key) = key {
            body["prompt_cache_key"] = key.into();
        }
        ask(&gateway, CHAT, &body).await;
        let begun = std::time::Instant::now();
        while gateway.query("SELECT count(*) FROM entries").await < number {
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "no entry");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        costs.push(gateway.query("SELECT cost FROM entries ORDER BY id DESC LIMIT 1").await);
    }
    // A byte is the least that a token has.
    let tokens = text.len() as i64;
    assert!(costs[0] >= tokens * INPUT && costs[0] < tokens * WRITE, "{costs:?}");
    assert!(costs[1] >= tokens * WRITE, "{costs:?}, at least {}", tokens * WRITE);
}

/// The operator's price list does not know what a write costs, so the ledger could not.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_that_has_no_price() {
    let message = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}}"#;
    let fake = Fake::always(Answer::json(200, message)).await;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("prices.yaml");
    std::fs::write(&list, "models:\n  anthropic/claude-sonnet-4-5: {input: 3, output: 15}\n").unwrap();
    let gateway = over(fake.address, "", &format!("prices: {{file: \"{}\"}}\n", list.display()));
    let body = json!({"model": "claude", "messages": [{"role": "user", "content": "A"}], "prompt_cache_key": "k"});
    let (_, dropped) = ask(&gateway, CHAT, &body).await;
    assert_eq!(marks(&fake.last().json(), ""), [""; 0]);
    assert_eq!(dropped, "prompt_cache_key");
}
