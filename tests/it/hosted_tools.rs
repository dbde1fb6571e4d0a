//! Tools that the provider runs: each call has a price, is held before the request and charged by the reply, or is refused.

use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, Step, fake::send, gateway::providers, reads_well};

const NANO: f64 = 1e9;

fn response(output: &Value, status: &str) -> Value {
    json!({"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "gpt-5-mini", "output": output,
        "usage": {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}, "service_tier": "default"})
}

/// Tokens of [`response`] at gpt-5-mini's price: 1000 * 0.25 + 100 * 2 dollars per million.
const TOKENS: f64 = 0.00045;

fn calls() -> Value {
    json!([
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "a"}},
        {"type": "web_search_call", "id": "ws_2", "status": "completed", "action": {"type": "open_page", "url": "u"}},
        {"type": "web_search_call", "id": "ws_3", "status": "completed", "action": {"type": "search", "query": "b"}},
        {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"]},
        {"type": "code_interpreter_call", "id": "ci_1", "status": "completed", "container_id": "cntr_1", "code": "1"},
        {"type": "code_interpreter_call", "id": "ci_2", "status": "completed", "container_id": "cntr_1", "code": "2"},
        {"type": "mcp_call", "id": "mcp_1", "name": "t", "server_label": "s"},
        {"type": "message", "id": "m", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "hi", "annotations": []}]},
    ])
}

/// Two searches, a file search and a container.
const CALLS: f64 = 2.0 * 0.01 + 0.0025 + 0.03;

const TOOLS: &str = r#"[{"type":"web_search"},{"type":"file_search","vector_store_ids":["vs_1"]},
    {"type":"code_interpreter","container":{"type":"auto"}},{"type":"mcp","server_label":"s","server_url":"https://x"}]"#;

fn request(extra: &str) -> String {
    format!(r#"{{"model":"gpt-5-mini","input":"hi","tools":{TOOLS},"max_output_tokens":1000{extra}}}"#)
}

fn with_budget(yaml: &str, usd: &str) -> String {
    format!("{yaml}tenants: {{default: {{budgets: [{{usd: {usd}}}]}}}}\n")
}

async fn ask(gateway: &Gateway, path: &str, body: String) -> (u16, Value, Option<f64>) {
    let reply = reqwest::Client::new().post(gateway.url(path)).body(body).send().await.unwrap();
    let cost = reply.headers().get("x-chittycan-cost").map(|value| value.to_str().unwrap().parse().unwrap());
    let (status, body) = (reply.status().as_u16(), reply.json().await.unwrap_or_default());
    assert!(reads_well(&body), "{body}");
    (status, body, cost)
}

/// What the ledger has, in US dollars, once it has `entries`.
async fn spent(gateway: &Gateway, entries: i64) -> f64 {
    let begun = std::time::Instant::now();
    while gateway.query("SELECT count(*) FROM entries WHERE status <> 403").await < entries {
        assert!(begun.elapsed().as_secs() < 5, "the entry is not written");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    gateway.query("SELECT sum(cost) FROM entries").await as f64 / NANO
}

fn close(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() < 1e-9
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_a_reply_are_charged_whatever_became_of_it() {
    for status in ["completed", "failed", "incomplete"] {
        let fake = Fake::always(Answer::json(200, &response(&calls(), status).to_string())).await;
        for yaml in [providers(&[("openai", fake.address)]), with_budget(&providers(&[("openai", fake.address)]), "20")]
        {
            let gateway = Gateway::start(&yaml);
            let (code, body, cost) = ask(&gateway, "/v1/responses", request("")).await;
            assert_eq!(code, 200, "{body}");
            assert!(close(cost.unwrap(), TOKENS + CALLS), "{status}: {cost:?}");
            assert!(close(spent(&gateway, 1).await, TOKENS + CALLS), "{status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_a_stream_are_charged_once() {
    for last in ["response.completed", "response.failed", "response.incomplete"] {
        let mut text = String::new();
        for item in calls().as_array().unwrap() {
            let event =
                json!({"type": "response.output_item.done", "output_index": 0, "item": item, "sequence_number": 1});
            text += &format!("event: response.output_item.done\ndata: {event}\n\n");
        }
        let status = last.split_once('.').unwrap().1;
        let event = json!({"type": last, "response": response(&calls(), status), "sequence_number": 9});
        text += &format!("event: {last}\ndata: {event}\n\n");
        let fake = Fake::start(move |_, _| Answer::stream(vec![send(&text)])).await;
        let gateway = Gateway::start(&with_budget(&providers(&[("openai", fake.address)]), "20"));
        let reply = reqwest::Client::new().post(gateway.url("/v1/responses")).body(request(r#","stream":true"#));
        reply.send().await.unwrap().text().await.unwrap();
        assert!(close(spent(&gateway, 1).await, TOKENS + CALLS), "{last}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_calls_are_held_and_stay_charged_where_the_reply_does_not_tell() {
    // One item, then silence, and a client that leaves.
    let item = calls()[0].clone();
    let event = json!({"type": "response.output_item.done", "item": item});
    let text = format!("event: response.output_item.done\ndata: {event}\n\n");
    let fake = Fake::start(move |_, _| Answer::stream(vec![send(&text), Step::Stall])).await;
    let gateway = Gateway::start(&with_budget(&providers(&[("openai", fake.address)]), "20"));
    let body = request(r#","stream":true,"max_tool_calls":2"#);
    let mut reply = reqwest::Client::new().post(gateway.url("/v1/responses")).body(body).send().await.unwrap();
    assert!(reply.chunk().await.unwrap().is_some());
    drop(reply);
    // Two prompts of 272,000 tokens, before the call that was seen and after it, the answer, and two of the dearest call.
    let least = 2.0 * 272_000.0 * 0.25 / 1e6 + 2.0 * 0.03;
    let spent = spent(&gateway, 1).await;
    assert!(spent >= TOKENS && spent >= least && spent <= least + 1000.0 * 2.0 / 1e6, "{spent}, at least {least}");
    // What does not fit is refused before anybody is asked.
    let asked = fake.count();
    let small = Gateway::start(&with_budget(&providers(&[("openai", fake.address)]), "0.05"));
    assert_eq!(ask(&small, "/v1/responses", request(r#","max_tool_calls":2"#)).await.0, 402);
    assert_eq!(fake.count(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_calls_is_set_where_money_is_bounded_and_only_there() {
    let fake = Fake::always(Answer::json(200, &response(&json!([]), "completed").to_string())).await;
    let plain = providers(&[("openai", fake.address)]);
    let gateway = Gateway::start(&plain);
    ask(&gateway, "/v1/responses", request("")).await;
    assert_eq!(fake.last().json().get("max_tool_calls"), None);
    assert_eq!(fake.last().body, request("").as_bytes(), "nothing is changed without a budget");
    let gateway = Gateway::start(&(with_budget(&plain, "20") + "budgets: {max_tool_calls: 3}\n"));
    ask(&gateway, "/v1/responses", request("")).await;
    assert_eq!(fake.last().json()["max_tool_calls"], 3);
    ask(&gateway, "/v1/responses", request(r#","max_tool_calls":5"#)).await;
    assert_eq!(fake.last().json()["max_tool_calls"], 5);
    // A tool of the client's own is none of it.
    let own = r#"{"model":"gpt-5-mini","input":"hi","tools":[{"type":"function","name":"f","parameters":{}}]}"#;
    ask(&gateway, "/v1/responses", own.into()).await;
    assert_eq!(fake.last().body, own.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_price_or_no_bound_is_refused_by_its_name() {
    let fake = Fake::always(Answer::json(200, &response(&json!([]), "completed").to_string())).await;
    let yaml = format!(
        "providers:\n  openai: {{base_url: \"http://{0}/v1\", api_key: k, credentials: mapped}}\n  \
         groq: {{base_url: \"http://{0}/v1\", api_key: k}}\n  xai: {{base_url: \"http://{0}/v1\", api_key: k}}\n\
         routes:\n  - {{model: openai/gpt-oss-20b, to: [groq]}}\n  - {{model: grok-4.3, to: [xai]}}\n",
        fake.address
    );
    let gateway = Gateway::start(&with_budget(&yaml, "100"));
    let tool = |tool: &str| format!(r#"{{"model":"gpt-5-mini","input":"hi","tools":[{tool}]}}"#);
    let unpriced = [
        (tool(r#"{"type":"image_generation"}"#), "image_generation"),
        (tool(r#"{"type":"not_invented_yet"}"#), "not_invented_yet"),
        (tool(r#"{"type":"function","type":"image_generation","name":"f","parameters":{}}"#), "image_generation"),
        (tool(r#"{"type":"code_interpreter","container":"cntr_of_another"}"#), "code_interpreter_by_id"),
    ];
    for (body, name) in unpriced {
        let (status, reply, _) = ask(&gateway, "/v1/responses", body).await;
        assert_eq!((status, &reply["error"]["code"]), (403, &"model_not_priced".into()), "{reply}");
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("'{name}'")) && message.contains("calls.openai."), "{message}");
    }
    let unbounded = [
        ("/v1/responses", r#"{"model":"gpt-5-mini","prompt":{"id":"pmpt_1"}}"#.to_owned()),
        (
            "/v1/chat/completions",
            r#"{"model":"openai/gpt-oss-20b","messages":[],"tools":[{"type":"browser_search"}]}"#.to_owned(),
        ),
        ("/v1/chat/completions", r#"{"model":"grok-4.3","messages":[],"search_parameters":{"mode":"on"}}"#.to_owned()),
        (
            "/v1/responses",
            r#"{"model":"gpt-5-mini","input":[{"type":"x","tools":[{"type":"web_search"}]}]}"#.to_owned(),
        ),
    ];
    for (path, body) in unbounded {
        let (status, reply, _) = ask(&gateway, path, body).await;
        assert_eq!((status, &reply["error"]["code"]), (403, &"path_not_metered".into()), "{reply}");
    }
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_price_serves_what_the_list_lacks() {
    let output =
        json!([{"type": "image_generation_call", "id": "ig_1"}, {"type": "image_generation_call", "id": "ig_2"}]);
    let fake = Fake::always(Answer::json(200, &response(&output, "completed").to_string())).await;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("prices.yaml");
    std::fs::write(&list, "calls: {openai: {image_generation: 0.25}}\n").unwrap();
    let yaml = with_budget(&providers(&[("openai", fake.address)]), "100")
        + &format!("prices: {{file: {}}}\n", list.display());
    let gateway = Gateway::start(&yaml);
    let body = r#"{"model":"gpt-5-mini","input":"hi","tools":[{"type":"image_generation"}]}"#;
    let (status, reply, cost) = ask(&gateway, "/v1/responses", body.into()).await;
    assert_eq!(status, 200, "{reply}");
    assert!(close(cost.unwrap(), TOKENS + 0.5), "{cost:?}");
    // Without a budget and without a price nobody says that it cost only its tokens.
    let gateway = Gateway::start(&providers(&[("openai", fake.address)]));
    assert_eq!(ask(&gateway, "/v1/responses", body.into()).await.2, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_searches_are_limited_held_and_charged() {
    let usage = json!({"input_tokens": 1000, "output_tokens": 100, "server_tool_use": {"web_search_requests": 3}});
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": usage});
    let whole = message.to_string();
    let mut start = message.clone();
    start["usage"] = json!({"input_tokens": 1000, "output_tokens": 1});
    start["content"] = json!([]);
    let events = [
        ("message_start", json!({"type": "message_start", "message": start})),
        ("message_delta", json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})),
        ("message_stop", json!({"type": "message_stop"})),
    ];
    let stream: String = events.iter().map(|(name, data)| format!("event: {name}\ndata: {data}\n\n")).collect();
    let fake = Fake::start(move |seen, _| match seen.json()["stream"].as_bool() {
        Some(true) => Answer::stream(vec![send(&stream)]),
        _ => Answer::json(200, &whole),
    })
    .await;
    let yaml = format!(
        "providers:\n  anthropic: {{base_url: \"http://{}/v1\", api_key: k, credentials: mapped}}\n",
        fake.address
    );
    // 1000 * 1 + 100 * 5 dollars per million, and three searches.
    let cost = 0.0015 + 0.03;
    let gateway = Gateway::start(&with_budget(&yaml, "200"));
    let native = r#"{"model":"claude-haiku-4-5","max_tokens":100,"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"web_search_20250305","name":"web_search"}]"#;
    let chat = r#"{"model":"claude-haiku-4-5","max_tokens":100,"messages":[{"role":"user","content":"hi"}],"web_search_options":{}"#;
    for (at, (path, body)) in [("/v1/messages", native), ("/v1/chat/completions", chat)].into_iter().enumerate() {
        let (status, reply, told) = ask(&gateway, path, format!("{body}}}")).await;
        assert_eq!(status, 200, "{reply}");
        assert!(close(told.unwrap(), cost), "{path}: {told:?}");
        let uses = fake.last().json()["tools"][0]["max_uses"].clone();
        assert_eq!(uses, if at == 0 { 8 } else { 5 }, "{path}");
        let before = spent(&gateway, 2 * at as i64 + 1).await;
        let reply = reqwest::Client::new().post(gateway.url(path)).body(format!("{body},\"stream\":true}}"));
        reply.send().await.unwrap().text().await.unwrap();
        let after = spent(&gateway, 2 * at as i64 + 2).await;
        assert!(close(after - before, cost), "{path} in a stream: {}", after - before);
    }
    let bounded = r#"{"model":"claude-haiku-4-5","max_tokens":100,"messages":[],"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":1,"Max_Uses":50}]}"#;
    assert_eq!(ask(&gateway, "/v1/messages", bounded.into()).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_searches_for_every_answer_is_charged_for_its_search() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&with_budget(&providers(&[("openai", fake.address)]), "20"));
    // 1000 * 2.50 + 100 * 10 dollars per million (its list has no cached rate), and one search.
    let body = r#"{"model":"gpt-4o-search-preview","max_tokens":100,"messages":[{"role":"user","content":"hi"}]"#;
    for extra in ["}", r#","web_search_options":{"search_context_size":"low"}}"#] {
        let (status, reply, cost) = ask(&gateway, "/v1/chat/completions", format!("{body}{extra}")).await;
        assert_eq!(status, 200, "{reply}");
        assert!(cost.unwrap() > 0.025 && cost.unwrap() < 0.029, "{cost:?}");
    }
}
