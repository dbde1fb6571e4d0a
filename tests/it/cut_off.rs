//! Streams with tools that the provider runs, whose client leaves: charged by what the provider has shown, and never less than
//! it can have done.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, Step, fake::send, gateway::providers, raw::Client};

fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn item(state: &str, item: &Value) -> String {
    let name = format!("response.output_item.{state}");
    event(&name, &json!({"type": name, "output_index": 0, "item": item}))
}

fn search(state: &str) -> String {
    item(
        state,
        &json!({"type": "web_search_call", "id": "ws_1", "status": "x", "action": {"type": "search", "query": "a"}}),
    )
}

fn created() -> String {
    event("response.created", &json!({"type": "response.created", "response": {"id": "resp_1", "output": []}}))
}

fn request(tools: &str) -> String {
    format!(r#"{{"model":"gpt-4.1","input":"hi","tools":{tools},"max_output_tokens":1000,"stream":true}}"#)
}

const SEARCH: &str = r#"[{"type":"web_search"}]"#;

/// What a request comes to in the ledger whose client leaves once it has read the last of these events.
async fn left_after(events: String, path: &str, body: String, yaml: &dyn Fn(&Fake) -> String) -> f64 {
    let last = events.trim_end().rsplit('\n').next().unwrap().to_owned();
    let fake = Fake::start(move |_, _| Answer::stream(vec![send(&events), Step::Stall])).await;
    let gateway = Gateway::start(&(yaml(&fake) + "tenants: {default: {budgets: [{usd: 1000}]}}\n"));
    let mut reply = reqwest::Client::new().post(gateway.url(path)).body(body).send().await.unwrap();
    assert_eq!(reply.status().as_u16(), 200);
    let mut seen = String::new();
    while !seen.contains(&last) {
        seen.push_str(std::str::from_utf8(&reply.chunk().await.unwrap().expect("more")).unwrap());
    }
    drop(reply);
    spent(&gateway).await
}

async fn spent(gateway: &Gateway) -> f64 {
    let begun = Instant::now();
    while gateway.query("SELECT count(*) FROM entries").await < 1 {
        assert!(begun.elapsed().as_secs() < 5, "the entry is not written");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE status = 499").await, 1);
    gateway.query("SELECT sum(cost) FROM entries").await as f64 / 1e9
}

fn openai(fake: &Fake) -> String {
    providers(&[("openai", fake.address)])
}

/// gpt-4.1: $2 and $8 for a million tokens, and eight searches at the dearest price of one.
const CALLS: f64 = 8.0 * 0.025;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_left_is_charged_by_the_calls_that_have_begun() {
    let left = async |events: String, tools: &str| left_after(events, "/v1/responses", request(tools), &openai).await;
    // Before any call the prompt was read once: what the body shows, and what says what the tool is.
    let none = left(created(), SEARCH).await;
    let prompt = |tokens: f64| tokens * 2.0 / 1e6;
    assert!(none <= CALLS + prompt(16_384.0 + 200.0) + 1000.0 * 8.0 / 1e6, "{none}");
    assert!(none > prompt(16_384.0), "{none}");
    // One that is under way may have come to its end, and the model has read its results.
    let one = left(created() + &search("added"), SEARCH).await;
    let most = CALLS + prompt(2.0 * 17_000.0 + 129_100.0) + 1000.0 * 8.0 / 1e6;
    assert!(one > none + prompt(128_000.0) && one <= most, "{one}, at most {most}");
    let done = left(created() + &search("added") + &search("done"), SEARCH).await;
    assert!((done - one).abs() < 0.02, "{done} {one}");
    let two = left(created() + &search("added") + &search("done") + &search("added"), SEARCH).await;
    assert!(two > one + prompt(2.0 * 128_000.0), "{two}, after one {one}");
    // Where nobody says how much a tool brings along, it is all that the model takes; an unreadable stream may hide any.
    let mcp = left(created(), r#"[{"type":"mcp","server_label":"s","server_url":"https://x"}]"#).await;
    assert!(mcp > prompt(1_000_000.0) && mcp < prompt(2_000_000.0), "{mcp}");
    let broken =
        event("x", &json!({"type": "response.output_item.added", "item": {"type": 5, "of": "web_search_call"}}));
    let hidden = left(created() + &broken, SEARCH).await;
    assert!(hidden > 9.0 * prompt(1_000_000.0), "{hidden}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_own_count_of_the_prompt_is_what_was_read_before_a_call() {
    let claude = |fake: &Fake| {
        format!(
            "providers:\n  anthropic: {{base_url: \"http://{}/v1\", api_key: k, credentials: mapped}}\n",
            fake.address
        )
    };
    let start = json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant",
        "model": "claude-opus-4-5", "content": [], "usage": {"input_tokens": 1200, "output_tokens": 1}}});
    let start = event("message_start", &start);
    let block = json!({"type": "content_block_start", "index": 0,
        "content_block": {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}});
    let body = r#"{"model":"claude-opus-4-5","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"hi"}],
        "tools":[{"type":"web_search_20250305","name":"web_search","max_uses":5}]}"#;
    let none = left_after(start.clone(), "/v1/messages", body.into(), &claude).await;
    // Five searches, 1200 tokens at no more than $10 a million, 600 generated at $25.
    assert!(none > 0.05 && none < 0.05 + 0.012 + 0.016, "{none}");
    let one = left_after(start + &event("content_block_start", &block), "/v1/messages", body.into(), &claude).await;
    assert!(one > 0.05 + 200_000.0 * 5.0 / 1e6 && one < 0.05 + 2.2, "{one}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_leaves_unread_is_time_in_which_calls_can_have_begun() {
    // More than the sockets take: the gateway stops reading, and what the provider says then is not seen.
    let delta = event(
        "response.output_text.delta",
        &json!({"type": "response.output_text.delta", "delta": "x".repeat(60_000)}),
    );
    let (opening, flood) = (created(), delta.repeat(1_000));
    let fake = Fake::start(move |_, _| Answer::stream(vec![send(&opening), send(&flood), Step::Stall])).await;
    let gateway = Gateway::start(&(openai(&fake) + "tenants: {default: {budgets: [{usd: 1000}]}}\n"));
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.post("/v1/responses", "", request(SEARCH).as_bytes()).await;
    let begun = Instant::now();
    while fake.count() == 0 {
        assert!(begun.elapsed().as_secs() < 5);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Time itself is what is tested: it reads nothing for as long as three calls take.
    tokio::time::sleep(Duration::from_millis(900)).await;
    drop(client);
    let spent = spent(&gateway).await;
    let searches = 2.0 * 128_000.0 * 2.0 / 1e6;
    assert!(spent > CALLS + searches, "{spent}");
}
