//! Dialects: Claude behind OpenAI's API, Anthropic's API at the door, the Responses API over chat; each with the money, the
//! cache, the failover and the errors of the gateway.

use serde_json::{Value, json};

use crate::support::{Answer, COMPLETION, Fake, Gateway, Step, chat, fake::send, gateway::providers};

/// A message as Anthropic would send it: 10 tokens of plain prompt, 600 read from its cache, 100 and 200 written to it.
const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5-20250929","content":[{"type":"text","text":"Hello there"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":300,"cache_read_input_tokens":600,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":50,"service_tier":"standard"}}"#;

/// At claude-sonnet-4-5's price: 10 * 3 + 600 * 0.30 + 100 * 3.75 + 200 * 6 + 50 * 15 dollars per million.
const COST: &str = "0.002535";

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5-20250929","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":300,"cache_read_input_tokens":600,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":1,"service_tier":"standard"}}}"#;

fn event(data: &str) -> String {
    let value: Value = serde_json::from_str(data).unwrap();
    format!("event: {}\ndata: {data}\n\n", value["type"].as_str().unwrap())
}

/// The events of [`MESSAGE`]; the last ones are left off to break it.
fn events(whole: bool) -> String {
    let mut out = event(START);
    out += &event(r#"{"type":"ping"}"#);
    out += &event(r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#);
    for text in ["Hello", " there"] {
        let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}});
        out += &event(&delta.to_string());
    }
    if whole {
        out += &event(r#"{"type":"content_block_stop","index":0}"#);
        let delta = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":50}}"#;
        out += &event(delta);
        out += &event(r#"{"type":"message_stop"}"#);
    }
    out
}

fn streamed(text: &str) -> Answer {
    Answer::stream(vec![send(text)])
}

/// Answers like Anthropic, whole or in events.
async fn anthropic() -> Fake {
    Fake::start(|seen, _| match (seen.path.split('?').next(), seen.json()["stream"].as_bool()) {
        (Some("/v1/messages"), Some(true)) => streamed(&events(true)).header("request-id", "req_1"),
        (Some("/v1/messages"), _) => Answer::json(200, MESSAGE).header("request-id", "req_1"),
        (Some("/v1/messages/count_tokens"), _) => Answer::json(200, r#"{"input_tokens":4711}"#),
        _ => Answer::json(404, r#"{"type":"error","error":{"type":"not_found_error","message":"no such path"}}"#),
    })
    .await
}

/// A gateway over an Anthropic, with `claude` as one of its models' names.
fn over(anthropic: &Fake, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: {{anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-gateway}}}}\n\
         routes: [{{model: claude, to: [anthropic/claude-sonnet-4-5]{more}}}]\n",
        anthropic.address
    ))
}

fn post(gateway: &Gateway, path: &str, body: impl ToString) -> reqwest::RequestBuilder {
    reqwest::Client::new()
        .post(gateway.url(path))
        .header("content-type", "application/json")
        .header("authorization", "Bearer unknown")
        .body(body.to_string())
}

async fn send_to(gateway: &Gateway, path: &str, body: impl ToString) -> (reqwest::header::HeaderMap, u16, Value) {
    let reply = post(gateway, path, body).send().await.unwrap();
    let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
    let text = reply.text().await.unwrap();
    (headers, status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
}

async fn stream_of(gateway: &Gateway, path: &str, body: impl ToString) -> String {
    let reply = post(gateway, path, body).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    assert!(reply.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    reply.text().await.unwrap()
}

fn message(model: &str, extra: &str) -> String {
    format!(r#"{{"model":"{model}","max_tokens":100,"messages":[{{"role":"user","content":"hi"}}]{extra}}}"#)
}

fn header<'a>(headers: &'a reqwest::header::HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

/// Concatenated text of a Chat stream.
fn chat_text(stream: &str) -> String {
    let chunks = stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    chunks
        .map(|data| serde_json::from_str::<Value>(data).unwrap())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_client_is_served_by_anthropic_as_if_by_openai() {
    let fake = anthropic().await;
    let gateway = over(&fake, "");
    let (headers, status, body) = send_to(&gateway, "/v1/chat/completions?x=1", chat("claude", r#","seed":1"#)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["id"], "chatcmpl-msg_1");
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["message"]["content"], "Hello there");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["prompt_tokens"], 910);
    assert_eq!(body["usage"]["total_tokens"], 960);
    assert_eq!(header(&headers, "x-chittycan-cost"), Some(COST));
    assert_eq!(header(&headers, "x-chittycan-model"), Some("claude-sonnet-4-5"));
    assert_eq!(header(&headers, "x-chittycan-provider"), Some("anthropic"));
    assert_eq!(header(&headers, "x-chittycan-dropped"), Some("seed"));
    assert_eq!(header(&headers, "x-request-id"), Some("req_1"));

    let seen = fake.last();
    assert_eq!(seen.path, "/v1/messages", "a query that means nothing there stays here");
    assert_eq!(seen.header("x-api-key"), Some("sk-ant-gateway"));
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    let sent = seen.json();
    assert_eq!(sent["model"], "claude-sonnet-4-5");
    assert_eq!(sent["max_tokens"], 64_000, "the model's longest answer, by the price list");
    assert!(sent.get("seed").is_none(), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_stream_is_openais_to_the_byte_shape_and_its_cost_is_in_the_ledger() {
    let fake = anthropic().await;
    let gateway = over(&fake, "");
    let stream = stream_of(&gateway, "/v1/chat/completions", chat("claude", r#","stream":true"#)).await;
    assert_eq!(chat_text(&stream), "Hello there");
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    assert!(!stream.contains("usage"), "which was not asked for: {stream}");
    assert!(!stream.contains("event:"), "{stream}");
    let asked = chat("claude", r#","stream":true,"stream_options":{"include_usage":true}"#);
    let stream = stream_of(&gateway, "/v1/chat/completions", asked).await;
    assert!(stream.contains(r#""usage":null"#) && stream.contains(r#""prompt_tokens":910"#), "{stream}");
    let spent = gateway.query("SELECT sum(cost) FROM entries").await;
    assert_eq!(spent, 2 * 2_535_000, "cache reads and both kinds of writes at their own price");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_a_400_that_names_it_or_goes_to_who_has_it() {
    let (claude, gpt) = (anthropic().await, Fake::always(Answer::completion()).await);
    let gateway = over(&claude, "");
    let (headers, status, body) = send_to(&gateway, "/v1/chat/completions", chat("claude", r#","n":2"#)).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("n")), "{body}");
    assert_eq!(body["error"]["code"], "unsupported_parameter");
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert_eq!(header(&headers, "x-should-retry"), Some("false"));
    assert_eq!(claude.count(), 0);
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE cost > 0").await, 0);
    let line = r#"can_translations_total{endpoint="chat_completions",outcome="refused",provider="anthropic"} 1"#;
    gateway.metrics_with(line).await;

    let yaml = format!(
        "providers:\n  anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-gateway}}\n  \
         openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: mapped}}\n\
         routes: [{{model: best, to: [anthropic/claude-sonnet-4-5, openai/gpt-4o]}}]\n",
        claude.address, gpt.address
    );
    let gateway = Gateway::start(&yaml);
    let (headers, status, _) = send_to(&gateway, "/v1/chat/completions", chat("best", r#","n":2"#)).await;
    assert_eq!((status, header(&headers, "x-chittycan-provider")), (200, Some("openai")));
    assert_eq!(header(&headers, "x-chittycan-attempts"), Some("1"), "to pass one over is no attempt");
    assert_eq!((claude.count(), gpt.last().json()["n"].clone()), (0, json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_route_refuses_what_would_be_left_out() {
    let fake = anthropic().await;
    let gateway = over(&fake, ", strict: true");
    let (_, status, body) = send_to(&gateway, "/v1/chat/completions", chat("claude", r#","seed":1"#)).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("seed")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("strict"), "{body}");
    assert_eq!(send_to(&gateway, "/v1/chat/completions", chat("claude", "")).await.1, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_client_reaches_anthropic_byte_for_byte() {
    let fake = anthropic().await;
    let gateway = over(&fake, "");
    // Fields and betas that nobody knows yet; the name is the provider's own, so nothing changes.
    let body = r#"{ "model":"claude-sonnet-4-5-20250929","max_tokens" : 5,"future":{"deep":[1,2.50]},"messages":[{"role":"user","content":[{"type":"new_thing","x":1e3}]}],
        "context_management":{"edits":[]},"thinking":{"type":"adaptive","display":"omitted"}}"#;
    let reply = post(&gateway, "/v1/messages?beta=true", body)
        .header("anthropic-version", "2099-01-01")
        .header("anthropic-beta", "one-2025,two-2026")
        .header("x-stainless-lang", "js")
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(header(reply.headers(), "x-chittycan-cost"), Some(COST));
    assert_eq!(header(reply.headers(), "request-id"), Some("req_1"));
    assert_eq!(reply.text().await.unwrap(), MESSAGE);
    let seen = fake.last();
    assert_eq!(seen.path, "/v1/messages?beta=true");
    assert_eq!(seen.body, body.as_bytes());
    assert_eq!(seen.header("anthropic-version"), Some("2099-01-01"));
    assert_eq!(seen.header("anthropic-beta"), Some("one-2025,two-2026"));
    assert_eq!(seen.header("x-api-key"), Some("sk-ant-gateway"));

    let stream = stream_of(&gateway, "/v1/messages", message("claude", r#","stream":true"#)).await;
    assert_eq!(stream, events(true));
    assert_eq!(fake.last().json()["model"], "claude-sonnet-4-5");
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, 2 * 2_535_000);
    assert_eq!(gateway.query("SELECT sum(cached_tokens) FROM entries").await, 1_200);
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_client_is_served_by_an_openai_model() {
    let fake = Fake::start(|seen, _| {
        let chunk = |rest: &str| format!("data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",{rest}}}\n\n");
        match seen.json()["stream"].as_bool() {
            Some(true) => streamed(
                &[
                    chunk(r#""choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]"#),
                    chunk(r#""choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]"#),
                    chunk(r#""choices":[{"index":0,"delta":{},"finish_reason":"stop"}]"#),
                    chunk(r#""choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100,"prompt_tokens_details":{"cached_tokens":400}}"#),
                    "data: [DONE]\n\n".to_owned(),
                ]
                .concat(),
            ),
            _ => Answer::completion(),
        }
    })
    .await;
    let gateway = Gateway::over(fake.address);
    let (headers, status, body) = send_to(&gateway, "/v1/messages", message("gpt-4o", r#","top_k":4"#)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!((&body["type"], &body["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(body["content"], json!([{"type": "text", "text": "Hello there friend"}]));
    assert_eq!(body["stop_reason"], "end_turn");
    assert_eq!(body["usage"]["input_tokens"], 600);
    assert_eq!(body["usage"]["cache_read_input_tokens"], 400);
    assert_eq!(header(&headers, "x-chittycan-cost"), Some("0.003"));
    assert_eq!(header(&headers, "x-chittycan-dropped"), Some("top_k"));
    assert!(header(&headers, "request-id").is_some());
    let seen = fake.last();
    assert_eq!(seen.path, "/v1/chat/completions");
    assert_eq!(seen.header("authorization"), Some("Bearer sk-gateway"));
    assert!(seen.headers.keys().all(|name| !name.as_str().starts_with("anthropic-")));

    let stream = stream_of(&gateway, "/v1/messages", message("gpt-4o", r#","stream":true"#)).await;
    let names: Vec<_> = stream.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let expected =
        "message_start content_block_start content_block_delta content_block_stop message_delta message_stop";
    assert_eq!(names.join(" "), expected, "{stream}");
    assert!(stream.contains(r#""cache_read_input_tokens":400"#), "{stream}");
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, 6_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_by_anthropic_or_here() {
    let fake = anthropic().await;
    let gateway = over(&fake, "");
    let (headers, status, body) = send_to(&gateway, "/v1/messages/count_tokens", message("claude", "")).await;
    assert_eq!((status, body), (200, json!({"input_tokens": 4711})));
    assert_eq!(header(&headers, "x-chittycan-provider"), Some("anthropic"));

    let gpt = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(gpt.address);
    let body = r#"{"model":"gpt-4o","system":"hello world","messages":[{"role":"user","content":"hello world"}]}"#;
    let (_, status, body) = send_to(&gateway, "/v1/messages/count_tokens", body).await;
    assert_eq!((status, body), (200, json!({"input_tokens": 9})));
    assert_eq!(gpt.count(), 0, "no provider counts for another's API");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_reads_errors_in_its_own_shape() {
    let busy = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_9"}"#;
    let fake = Fake::always(Answer::json(529, busy).header("retry-after", "7")).await;
    let gateway = over(&fake, "");
    let (headers, status, body) = send_to(&gateway, "/v1/chat/completions", chat("claude", "")).await;
    let expected =
        json!({"error": {"message": "Overloaded", "type": "server_error", "param": null, "code": "overloaded"}});
    assert_eq!((status, body), (503, expected));
    assert_eq!(header(&headers, "retry-after"), Some("7"));
    let (_, status, body) = send_to(&gateway, "/v1/messages", message("claude", "")).await;
    assert_eq!((status, body), (529, serde_json::from_str(busy).unwrap()), "byte for byte where it is native");

    // The gateway's own errors.
    let (_, status, body) = send_to(&gateway, "/v1/messages", "{").await;
    assert_eq!(
        (status, &body["type"], &body["error"]["type"]),
        (400, &json!("error"), &json!("invalid_request_error"))
    );
    assert!(body["request_id"].is_string(), "{body}");
    let denied =
        Fake::always(Answer::json(401, r#"{"type":"error","error":{"type":"authentication_error","message":"bad"}}"#))
            .await;
    let gateway = over(&denied, "");
    let (_, status, body) = send_to(&gateway, "/v1/messages", message("claude", "")).await;
    assert_eq!(
        (status, &body["error"]["type"]),
        (502, &json!("api_error")),
        "the gateway's key is the gateway's fault"
    );

    // A provider of OpenAI's dialect, a client of Anthropic's.
    let limited = r#"{"error":{"message":"Slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
    let gateway = Gateway::over(Fake::always(Answer::json(429, limited)).await.address);
    let (_, status, body) = send_to(&gateway, "/v1/messages", message("gpt-4o", "")).await;
    assert_eq!((status, &body["error"]), (429, &json!({"type": "rate_limit_error", "message": "Slow down"})));

    // What is no reply of the dialect is never passed on as one.
    let odd = Fake::always(Answer::json(200, r#"{"hello":"world"}"#)).await;
    let (_, status, body) = send_to(&over(&odd, ""), "/v1/chat/completions", chat("claude", "")).await;
    assert_eq!((status, &body["error"]["code"]), (502, &json!("upstream_interrupted")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translated_stream_that_breaks_never_looks_whole() {
    let cut = Answer::stream(vec![send(&events(false)), Step::Cut]);
    let early = streamed(&events(false));
    let failed =
        events(false) + &event(r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#);
    for (name, answer, code) in [
        ("cut", cut, "stream_interrupted"),
        ("too early", early, "stream_interrupted"),
        ("told", streamed(&failed), "overloaded"),
    ] {
        let fake = Fake::always(answer).await;
        let gateway = over(&fake, "");
        let stream =
            stream_of(&gateway, "/v1/chat/completions", chat("claude", r#","stream":true,"temperature":0"#)).await;
        assert!(!stream.contains("[DONE]") && !stream.contains("\"stop\""), "{name}: {stream}");
        let last = stream.trim_end().rsplit("data: ").next().unwrap();
        let error: Value = serde_json::from_str(last).unwrap();
        assert_eq!(error["error"]["code"], code, "{name}: {stream}");
        let native = stream_of(&gateway, "/v1/messages", message("claude", r#","stream":true,"temperature":0"#)).await;
        assert!(native.contains("event: error") && !native.contains("message_stop"), "{name}: {native}");
        // Nothing of it was kept.
        let again = post(&gateway, "/v1/messages", message("claude", r#","stream":true,"temperature":0"#));
        let again = again.send().await.unwrap();
        assert_eq!(header(again.headers(), "x-chittycan-cache"), Some("MISS"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_crosses_dialects_both_ways() {
    let down = Fake::always(Answer::json(503, "{}")).await;
    let (claude, gpt) = (anthropic().await, Fake::always(Answer::json(200, COMPLETION)).await);
    let yaml = |first: &str, second: &str, anthropic: &Fake, openai: &Fake| {
        format!(
            "providers:\n  anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-gateway}}\n  \
             openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: mapped}}\n\
             routes: [{{model: best, to: [{first}, {second}]}}]\n",
            anthropic.address, openai.address
        )
    };
    let gateway = Gateway::start(&yaml("openai/gpt-4o", "anthropic/claude-sonnet-4-5", &claude, &down));
    // Also a body that Pingora does not replay itself.
    for filler in [10, 200_000] {
        let long = chat("best", "").replace("hi", &"x".repeat(filler));
        let (headers, status, body) = send_to(&gateway, "/v1/chat/completions", long).await;
        assert_eq!((status, header(&headers, "x-chittycan-provider")), (200, Some("anthropic")), "{body}");
        assert_eq!(body["choices"][0]["message"]["content"], "Hello there");
        assert_eq!(claude.last().json()["messages"][0]["content"].to_string().len() / filler, 1);
    }
    let gateway = Gateway::start(&yaml("anthropic/claude-sonnet-4-5", "openai/gpt-4o", &down, &gpt));
    let (headers, status, body) = send_to(&gateway, "/v1/messages", message("best", "")).await;
    assert_eq!((status, header(&headers, "x-chittycan-provider")), (200, Some("openai")));
    assert_eq!(body["content"][0]["text"], "Hello there friend");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_in_the_clients_dialect_and_served_in_both_forms() {
    let fake = anthropic().await;
    let gateway = over(&fake, "");
    let whole = message("claude", r#","temperature":0"#);
    let stream = message("claude", r#","temperature":0,"stream":true"#);
    let (headers, ..) = send_to(&gateway, "/v1/messages", &whole).await;
    assert_eq!(header(&headers, "x-chittycan-cache"), Some("MISS"));
    let (headers, _, body) = send_to(&gateway, "/v1/messages", &whole).await;
    assert_eq!(header(&headers, "x-chittycan-cache"), Some("HIT"));
    assert_eq!(header(&headers, "x-chittycan-cost"), Some("0"));
    assert_eq!(body, serde_json::from_str::<Value>(MESSAGE).unwrap());
    let events = stream_of(&gateway, "/v1/messages", &stream).await;
    assert!(events.starts_with("event: message_start") && events.contains("Hello there"), "{events}");
    assert!(events.trim_end().ends_with(r#"{"type":"message_stop"}"#), "{events}");
    assert_eq!(fake.count(), 1);

    // The same question through the other API is another one.
    let asked = chat("claude", r#","temperature":0,"stream":true"#);
    assert_eq!(chat_text(&stream_of(&gateway, "/v1/chat/completions", &asked).await), "Hello there");
    let (headers, _, body) = send_to(&gateway, "/v1/chat/completions", chat("claude", r#","temperature":0"#)).await;
    assert_eq!(header(&headers, "x-chittycan-cache"), Some("HIT"));
    assert_eq!(body["choices"][0]["message"]["content"], "Hello there");
    assert_eq!(fake.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_key_goes_to_its_vendor_alone() {
    let (claude, gpt) = (anthropic().await, Fake::always(Answer::completion()).await);
    let gateway = Gateway::start(&format!(
        "providers:\n  anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-gateway}}\n  \
         openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway}}\n",
        claude.address, gpt.address
    ));
    let with = async |name: &str, value: &str, model: &str| {
        let request = reqwest::Client::new().post(gateway.url("/v1/messages")).header(name, value);
        let status = request.body(message(model, "")).send().await.unwrap().status();
        assert_eq!(status, 200, "{name}: {value}");
    };
    with("x-api-key", "sk-ant-api03-mine", "claude-sonnet-4-5").await;
    assert_eq!(claude.last().header("x-api-key"), Some("sk-ant-api03-mine"));
    // What a login gave (Claude Code with a subscription).
    with("authorization", "Bearer sk-ant-oat01-mine", "claude-sonnet-4-5").await;
    assert_eq!(claude.last().header("authorization"), Some("Bearer sk-ant-oat01-mine"));
    assert_eq!(claude.last().header("x-api-key"), None);
    with("x-api-key", "sk-ant-api03-mine", "gpt-4o").await;
    assert_eq!(gpt.last().header("authorization"), Some("Bearer sk-gateway"));
    with("x-api-key", "sk-proj-mine", "claude-sonnet-4-5").await;
    assert_eq!(claude.last().header("x-api-key"), Some("sk-ant-gateway"));
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_other_paths_go_to_anthropic_and_its_clients_list_models_in_its_shape() {
    let fake = Fake::always(Answer::json(200, r#"{"data":[]}"#)).await;
    let gateway = over(&fake, "");
    let client = reqwest::Client::new();
    let reply = client.get(gateway.url("/v1/messages/batches?limit=1")).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), fake.last().path), (200, "/v1/messages/batches?limit=1".to_owned()));
    assert_eq!(fake.last().header("x-api-key"), Some("sk-ant-gateway"));
    client.get(gateway.url("/v1/files")).header("anthropic-version", "2023-06-01").send().await.unwrap();
    assert_eq!(fake.last().path, "/v1/files");
    let models = client.get(gateway.url("/v1/models")).header("anthropic-version", "2023-06-01").send().await.unwrap();
    let models: Value = models.json().await.unwrap();
    assert_eq!((&models["has_more"], &models["data"][0]["type"]), (&json!(false), &json!("model")), "{models}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_responses_api_is_served_by_whoever_answers_chats() {
    let claude = anthropic().await;
    let gateway = over(&claude, "");
    let ask = |extra: &str| format!(r#"{{"model":"claude","input":"hi","instructions":"Be brief."{extra}}}"#);
    let (headers, status, body) = send_to(&gateway, "/v1/responses", ask("")).await;
    assert_eq!((status, &body["object"], &body["status"]), (200, &json!("response"), &json!("completed")), "{body}");
    assert_eq!(body["output"][0]["content"][0]["text"], "Hello there");
    assert_eq!(body["usage"]["input_tokens"], 910);
    assert_eq!(header(&headers, "x-chittycan-cost"), Some(COST), "both kinds of cache writes survive two translations");
    assert_eq!(claude.last().json()["system"], "Be brief.");
    let stream = stream_of(&gateway, "/v1/responses", ask(r#","stream":true"#)).await;
    assert!(stream.contains("event: response.output_text.delta") && stream.contains("event: response.completed"));
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, 2 * 2_535_000);
    let (_, status, body) = send_to(&gateway, "/v1/responses", ask(r#","previous_response_id":"resp_1""#)).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("previous_response_not_found")), "{body}");

    // A provider that has the API itself gets it as it came; one that has not, a chat.
    let fake = Fake::start(|seen, _| match seen.path.as_str() {
        "/v1/responses" => Answer::json(200, r#"{"id":"resp_1","object":"response","status":"completed","output":[],"usage":{"input_tokens":1,"output_tokens":1}}"#),
        _ => Answer::completion(),
    })
    .await;
    let asked = ask("").replace("claude", "gpt-4o");
    let gateway = Gateway::over(fake.address);
    assert_eq!(send_to(&gateway, "/v1/responses", &asked).await.2["id"], "resp_1");
    assert_eq!(fake.last().body, asked.as_bytes());
    let gateway = Gateway::start(&providers(&[("lab", fake.address)]));
    let (_, _, body) = send_to(&gateway, "/v1/responses", &asked).await;
    assert_eq!(body["output"][0]["content"][0]["text"], "Hello there friend", "{body}");
    assert_eq!(fake.last().path, "/v1/chat/completions");
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_limits_are_told_under_openais_names() {
    let fake = Fake::always(
        Answer::json(200, MESSAGE)
            .header("anthropic-ratelimit-requests-limit", "50")
            .header("anthropic-ratelimit-requests-remaining", "49")
            .header("anthropic-ratelimit-requests-reset", "2001-01-01T00:00:00Z")
            .header("anthropic-organization-id", "org"),
    )
    .await;
    let gateway = over(&fake, "");
    let (headers, ..) = send_to(&gateway, "/v1/chat/completions", chat("claude", "")).await;
    assert_eq!(header(&headers, "x-ratelimit-limit-requests"), Some("50"));
    assert_eq!(header(&headers, "x-ratelimit-remaining-requests"), Some("49"));
    assert!(headers.keys().all(|name| !name.as_str().starts_with("anthropic-")), "{headers:?}");
    let (headers, ..) = send_to(&gateway, "/v1/messages", message("claude", "")).await;
    assert_eq!(header(&headers, "anthropic-ratelimit-requests-limit"), Some("50"), "its own client keeps them");
}

/// Reads a stream's first bytes and leaves.
async fn leave_early(gateway: &Gateway, path: &str, body: String) {
    let mut reply = post(gateway, path, body).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    reply.chunk().await.unwrap().expect("a first event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_early_is_paid_for_by_what_was_generated() {
    // 200 words, then silence.
    let words = "lorem ipsum ".repeat(100);
    let mut native =
        event(START) + &event(r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#);
    let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words}});
    native += &event(&delta.to_string());
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": words}, "finish_reason": null}]});
    let fake = Fake::start(move |seen, _| {
        let text = if seen.path.starts_with("/v1/messages") { native.clone() } else { format!("data: {chunk}\n\n") };
        Answer::stream(vec![send(&text), Step::Stall])
    })
    .await;
    let gateway = Gateway::start(&format!(
        "providers:\n  anthropic: {{base_url: \"http://{0}/v1\", api_key: sk-ant-gateway}}\n  \
         openai: {{base_url: \"http://{0}/v1\", api_key: sk-gateway, credentials: mapped}}\n",
        fake.address
    ));
    // Native; translated from Anthropic; translated to Anthropic's API, which has to begin with a count of zero.
    leave_early(&gateway, "/v1/messages", message("claude-sonnet-4-5", r#","stream":true"#)).await;
    leave_early(&gateway, "/v1/chat/completions", chat("claude-sonnet-4-5", r#","stream":true"#)).await;
    leave_early(&gateway, "/v1/messages", message("gpt-4o", r#","stream":true"#)).await;
    let paid =
        "SELECT count(*) FROM entries WHERE basis IN ('counted', 'bounded') AND completion_tokens >= 200 AND cost > 0";
    assert_eq!(gateway.query(paid).await, 3);
    // What Anthropic has counted of the prompt is not estimated.
    assert_eq!(
        gateway.query("SELECT count(*) FROM entries WHERE prompt_tokens = 910 AND cached_tokens = 600").await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_without_a_count_is_counted_and_one_that_is_no_reply_is_paid_for() {
    let uncounted = COMPLETION.replace("\"usage\"", "\"unused\"");
    let gateway = Gateway::over(Fake::always(Answer::json(200, &uncounted)).await.address);
    let (headers, status, body) = send_to(&gateway, "/v1/messages", message("gpt-4o", "")).await;
    assert_eq!((status, &body["usage"]["output_tokens"]), (200, &json!(0)), "{body}");
    assert_eq!(header(&headers, "x-chittycan-cost"), None, "nobody knows it yet");
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE basis = 'counted' AND cost > 0").await, 1);

    let odd = r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant"},"finish_reason":"error"}],"usage":{"prompt_tokens":1000,"completion_tokens":1000}}"#;
    let gateway = Gateway::start(&providers(&[("lab", Fake::always(Answer::json(200, odd)).await.address)]));
    let asked = r#"{"model":"gpt-4o","input":"hi"}"#;
    assert_eq!(send_to(&gateway, "/v1/responses", asked).await.1, 502);
    assert_eq!(gateway.query("SELECT sum(prompt_tokens + completion_tokens) FROM entries").await, 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_price_does_not_cover_is_refused_under_a_budget() {
    let fake = anthropic().await;
    let budget = "tenants: {default: {budgets: [{usd: 100}]}}\n";
    let yaml = |more: &str| {
        format!(
            "providers: {{anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-gateway}}}}\n{more}",
            fake.address
        )
    };
    let gateway = Gateway::start(&yaml(budget));
    for extra in [r#","fallbacks":[{"model":"claude-opus-4-8"}]"#, r#","speed":"fast""#, r#","inference_geo":"us""#] {
        let (_, status, body) = send_to(&gateway, "/v1/messages", message("claude-sonnet-4-5", extra)).await;
        assert_eq!((status, &body["error"]["type"]), (403, &json!("permission_error")), "{extra}: {body}");
    }
    assert_eq!(send_to(&gateway, "/v1/messages", message("claude-sonnet-4-5", r#","speed":"standard""#)).await.1, 200);
    // An image is one, in either API; a PDF under an image's name is as long as the model takes.
    let image = |source: &str| {
        format!(
            r#"{{"model":"claude-sonnet-4-5","max_tokens":10,"messages":[{{"role":"user","content":[{source}]}}]}}"#
        )
    };
    let large = "iVBORw0KGgo".repeat(60_000);
    let native =
        format!(r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{large}"}}}}"#);
    let tight = Gateway::start(&yaml("tenants: {default: {budgets: [{usd: 2}]}}\n"));
    assert_eq!(send_to(&tight, "/v1/messages", image(&native)).await.1, 200);
    let pdf = r#"{"type":"image_url","image_url":{"url":"https://example.com/a.PDF"}}"#;
    let tighter = Gateway::start(&yaml("tenants: {default: {budgets: [{usd: 0.30}]}}\n"));
    assert_eq!(send_to(&tighter, "/v1/chat/completions", image(pdf)).await.1, 402);
    let open = Gateway::start(&yaml(""));
    assert_eq!(send_to(&open, "/v1/messages", message("claude-sonnet-4-5", r#","speed":"fast""#)).await.1, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_as_it_is_where_nobody_else_can_be_asked() {
    let claude = anthropic().await;
    let limited = r#"{"error":{"message":"Slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
    let busy = Fake::always(Answer::json(429, limited).header("retry-after", "7")).await;
    let gateway = Gateway::start(&format!(
        "providers:\n  anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-gateway}}\n  \
         openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: mapped}}\n\
         routes: [{{model: best, to: [openai/gpt-4o, anthropic/claude-sonnet-4-5]}}]\n",
        claude.address, busy.address
    ));
    let (headers, status, body) = send_to(&gateway, "/v1/chat/completions", chat("best", r#","n":2"#)).await;
    assert_eq!((status, &body["error"]["message"]), (429, &json!("Slow down")), "{body}");
    assert_eq!(header(&headers, "retry-after"), Some("7"));
    assert_eq!(send_to(&gateway, "/v1/chat/completions", chat("best", "")).await.1, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_replies_of_a_translated_provider_are_clear_errors() {
    let empty = r#"{"type":"error","error":{"type":"billing_error","message":"Pay."}}"#;
    let gateway = over(&Fake::always(Answer::json(402, empty)).await, "");
    let (headers, status, _) = send_to(&gateway, "/v1/chat/completions", chat("claude", "")).await;
    assert_eq!((status, header(&headers, "x-should-retry")), (429, Some("false")), "no retry cures it");

    let zipped = Fake::always(Answer::json(429, "\u{1f}\u{8b}...").header("content-encoding", "gzip")).await;
    let (headers, status, body) = send_to(&over(&zipped, ""), "/v1/chat/completions", chat("claude", "")).await;
    assert_eq!((status, header(&headers, "content-encoding")), (429, None));
    assert!(body["error"]["message"].is_string(), "{body}");

    let huge = format!(r#"{{"type":"message","content":[{{"type":"text","text":"{}"}}]}}"#, "x".repeat(33 << 20));
    let fake = Fake::always(Answer::json(200, &huge)).await;
    let (_, status, body) = send_to(&over(&fake, ""), "/v1/chat/completions", chat("claude", "")).await;
    assert_eq!((status, &body["error"]["code"]), (502, &json!("upstream_interrupted")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_route_does_not_share_answers_with_a_lax_one() {
    let fake = anthropic().await;
    let gateway = Gateway::start(&format!(
        "providers: {{anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-gateway}}}}\n\
         routes:\n  - {{model: lax, to: [anthropic/claude-sonnet-4-5]}}\n  \
         - {{model: tight, to: [anthropic/claude-sonnet-4-5], strict: true}}\n",
        fake.address
    ));
    for course in ["MISS", "HIT"] {
        let (headers, status, _) = send_to(&gateway, "/v1/chat/completions", chat("lax", r#","seed":1"#)).await;
        assert_eq!((status, header(&headers, "x-chittycan-cache")), (200, Some(course)));
        assert_eq!(header(&headers, "x-chittycan-dropped"), Some("seed"), "{course}");
    }
    assert_eq!(send_to(&gateway, "/v1/chat/completions", chat("tight", r#","seed":1"#)).await.1, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_sdks_learn_that_a_thread_cannot_be_had_and_the_translation_speaks_its_own_version() {
    let gateway = Gateway::over(Fake::always(Answer::completion()).await.address);
    let (_, status, body) =
        send_to(&gateway, "/v1/messages", message("gpt-4o", r#","thread":{"type":"create"}"#)).await;
    assert_eq!(
        (status, &body["error"]["details"]["error_code"]),
        (400, &json!("thread_unsupported_request")),
        "{body}"
    );

    let fake = anthropic().await;
    let gateway = over(&fake, "");
    let request = post(&gateway, "/v1/chat/completions", chat("claude", "")).header("anthropic-version", "2026-10-21");
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert_eq!(fake.last().header("anthropic-version"), Some("2023-06-01"));
}
