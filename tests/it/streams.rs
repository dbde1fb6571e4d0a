//! Streams: each event leaves when it arrives, breaks are told, and a client that leaves is noticed.

use std::time::{Duration, Instant};

use crate::support::{Answer, Fake, Gateway, Step, chat, fake::send, gateway::providers, raw::Client};

fn chunk(text: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}],\"usage\":null}}\n\n"
    )
}

const LAST: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n";
const USAGE: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":100,\"total_tokens\":1100}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn whole(events: usize) -> Vec<Step> {
    let mut steps: Vec<_> = (0..events).map(|i| send(&chunk(&format!("t{i} ")))).collect();
    steps.extend([send(LAST), send(USAGE), send(DONE)]);
    steps
}

async fn stream_text(gateway: &Gateway, extra: &str) -> (reqwest::header::HeaderMap, String) {
    let body = chat("gpt-4o", &format!(r#","stream":true{extra}"#));
    let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
    assert_eq!(reply.status().as_u16(), 200);
    (reply.headers().clone(), reply.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_asks_for_usage_and_hides_it_from_a_client_that_did_not() {
    let fake = Fake::always(Answer::stream(whole(3))).await;
    let gateway = Gateway::over(fake.address);
    let (headers, text) = stream_text(&gateway, "").await;
    assert_eq!(fake.last().json()["stream_options"]["include_usage"], true);
    assert!(!text.contains("usage"), "{text}");
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    assert!(headers.get("content-length").is_none());
    let mut events = 0;
    for line in text.lines().filter_map(|l| l.strip_prefix("data: ")).filter(|d| *d != "[DONE]") {
        let chunk: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(chunk["choices"].as_array().unwrap().len(), 1);
        events += 1;
    }
    assert_eq!(events, 4);
    assert!(text.ends_with(DONE));
    gateway.metrics_with("can_tokens_total{kind=\"prompt\",model=\"gpt-4o\",provider=\"openai\"} 1000").await;
    // 1000 x 2.50 + 100 x 10.00 USD per million.
    gateway.metrics_with("can_cost_usd_total{model=\"gpt-4o\",provider=\"openai\"} 0.0035").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_may_take_longer_than_its_timeout_as_long_as_it_is_not_silent_for_so_long() {
    let pause = || Step::Wait(Duration::from_millis(150));
    let slow: Vec<_> = whole(6).into_iter().flat_map(|step| [pause(), step]).collect();
    let mut silent = slow.clone();
    silent.insert(9, Step::Wait(Duration::from_secs(60)));
    for (steps, is_whole) in [(slow, true), (silent, false)] {
        let fake = Fake::always(Answer::stream(steps)).await;
        let yaml = providers(&[("openai", fake.address)]).replace("mapped", "mapped, timeouts: {read: 600ms}");
        let gateway = Gateway::start(&yaml);
        let begun = Instant::now();
        let (_, text) = stream_text(&gateway, "").await;
        assert_eq!((text.contains("t5 "), text.contains("sent nothing for too long")), (is_whole, !is_whole), "{text}");
        // Four events in, and not much later than the timeout after the last of them.
        let most = Duration::from_secs(if is_whole { 10 } else { 3 });
        assert!(begun.elapsed() >= Duration::from_millis(1_200) && begun.elapsed() < most, "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_waits_for_the_tables_of_a_tokenizer() {
    let event = |n: usize| [Step::Wait(Duration::from_millis(20)), send(&chunk(&format!("some words, number {n}, ")))];
    let steps: Vec<_> = (0..40).flat_map(event).chain([send(LAST), send(USAGE), send(DONE)]).collect();
    let fake = Fake::always(Answer::stream(steps)).await;
    let budget = "server: {threads: 1}\ntenants: {default: {budgets: [{usd: 100}]}}\n";
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + budget));
    // What is reserved pays for the first event by its bytes, and for no other: from the second on, tokens have to be counted.
    let body = chat("gpt-4o", r#","stream":true,"max_tokens":25"#);
    let mut reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
    let (mut text, mut longest) = (String::new(), Duration::ZERO);
    loop {
        let begun = Instant::now();
        let Some(piece) = reply.chunk().await.unwrap() else { break };
        longest = longest.max(begun.elapsed());
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(text.contains("number 39, ") && text.ends_with(DONE), "{text}");
    assert!(longest < Duration::from_millis(400), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asked_for_usage_gets_every_byte() {
    let fake = Fake::always(Answer::stream(whole(3))).await;
    let gateway = Gateway::over(fake.address);
    let (_, text) = stream_text(&gateway, r#","stream_options":{"include_usage":true}"#).await;
    let expected: String = whole(3)
        .iter()
        .map(|s| if let Step::Send(b) = s { String::from_utf8_lossy(b).into_owned() } else { String::new() })
        .collect();
    assert_eq!(text, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_refuses_stream_options_never_gets_them() {
    let fake = Fake::start(|seen, _| match seen.json().get("stream_options") {
        Some(_) => Answer::json(400, r#"{"error":{"message":"unknown field: stream_options"}}"#),
        None => Answer::stream(whole(3)),
    })
    .await;
    let yaml = providers(&[("lab", fake.address)]).replace("mapped", "mapped, stream_usage: false");
    let gateway = Gateway::start(&yaml);
    // It counts unasked: that is read all the same, and shown only where it was asked for.
    for (extra, shown) in [("", false), (r#","stream_options":{"include_usage":true}"#, true)] {
        let (_, text) = stream_text(&gateway, extra).await;
        assert_eq!((text.contains("usage"), text.ends_with(DONE)), (shown, true), "{text}");
    }
    gateway.metrics_with("can_tokens_total{kind=\"prompt\",model=\"gpt-4o\",provider=\"lab\"} 2000").await;
}

/// What Gemini streams: two whole calls without an index, `stop` at the end, usage in every chunk.
#[tokio::test(flavor = "multi_thread")]
async fn geminis_tool_calls_arrive_as_openais() {
    let call = |id: &str| {
        format!(
            "{{\"function\":{{\"arguments\":\"{{\\\"city\\\":\\\"{id}\\\"}}\",\"name\":\"weather\"}},\"id\":\"{id}\",\"type\":\"function\",\"extra_content\":{{\"google\":{{\"thought_signature\":\"s\"}}}}}}"
        )
    };
    let event = |calls: &str, reason: &str| {
        send(&format!(
            "data: {{\"choices\":[{{\"delta\":{{\"role\":\"assistant\",\"tool_calls\":[{calls}]}},\"finish_reason\":{reason},\"index\":0}}],\"created\":1,\"id\":\"g\",\"model\":\"gemini-2.5-flash\",\"object\":\"chat.completion.chunk\",\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":5,\"total_tokens\":14}}}}\n\n"
        ))
    };
    let steps = vec![event(&call("a"), "null"), event(&call("b"), "null"), event("", "\"stop\""), send(DONE)];
    let fake = Fake::always(Answer::stream(steps)).await;
    let from = |preset: &str| {
        let yaml = providers(&[("openai", fake.address)]).replace("preset: openai", &format!("preset: {preset}"));
        Gateway::start(&yaml)
    };
    for (preset, repaired) in [("gemini", true), ("ollama, dialect: openai", true), ("custom", false)] {
        let (_, text) = stream_text(&from(preset), "").await;
        assert!(!text.contains("usage") && text.ends_with(DONE), "{preset}: {text}");
        let (mut calls, mut reasons) = (Vec::new(), Vec::new());
        for line in text.lines().filter_map(|l| l.strip_prefix("data: ")).filter(|d| *d != "[DONE]") {
            let chunk: serde_json::Value = serde_json::from_str(line).unwrap();
            let choice = &chunk["choices"][0];
            calls.extend(choice["delta"]["tool_calls"].as_array().unwrap().clone());
            reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
        }
        let indices: Vec<_> = calls.iter().map(|call| call["index"].as_u64()).collect();
        let ids: Vec<_> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["a", "b"], "{preset}");
        assert_eq!(calls[1]["extra_content"]["google"]["thought_signature"], "s", "{preset}");
        match repaired {
            true => assert_eq!((indices, &*reasons[0]), (vec![Some(0), Some(1)], "tool_calls"), "{preset}"),
            false => assert_eq!((indices, &*reasons[0]), (vec![None, None], "stop"), "{preset}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_forwarded_when_it_arrives() {
    const GAP: Duration = Duration::from_millis(100);
    let steps = (0..5).flat_map(|i| [send(&chunk(&format!("t{i}"))), Step::Wait(GAP)]);
    let fake = Fake::always(Answer::stream(steps.chain([send(LAST), send(DONE)]).collect())).await;
    let gateway = Gateway::over(fake.address);
    for http2 in [false, true] {
        let client = reqwest::Client::builder();
        let client = if http2 { client.http2_prior_knowledge() } else { client }.build().unwrap();
        let body = chat("gpt-4o", r#","stream":true"#);
        let mut reply = client.post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
        let (mut at, mut seen) = (Vec::new(), 0);
        while let Some(bytes) = reply.chunk().await.unwrap() {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            seen += text.matches("\"content\"").count();
            at.push((Instant::now(), seen));
        }
        let first = at[0].0;
        for (i, (when, seen)) in at.iter().take(5).enumerate() {
            assert_eq!(*seen, i + 1, "event {i} came alone (http2: {http2})");
            let expected = GAP * i as u32;
            let off = when.duration_since(first).abs_diff(expected);
            assert!(off < Duration::from_millis(60), "event {i} is {off:?} off (http2: {http2})");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_last_longer_than_a_body_may_take_to_arrive() {
    let steps = (0..4).flat_map(|i| [send(&chunk(&format!("t{i}"))), Step::Wait(Duration::from_millis(300))]);
    let fake = Fake::always(Answer::stream(steps.chain([send(LAST), send(DONE)]).collect())).await;
    let gateway = Gateway::start(&format!("http: {{body_timeout: 200ms}}\n{}", providers(&[("openai", fake.address)])));
    let (_, text) = stream_text(&gateway, "").await;
    assert!(text.ends_with(DONE), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_ends_with_an_error_event_and_no_done() {
    let cases = [
        ("cut between events", vec![send(&chunk("a")), Step::Wait(Duration::from_millis(20)), Step::Cut]),
        (
            "cut inside an event",
            vec![send(&chunk("a")), send("data: {\"id\":\"x"), Step::Wait(Duration::from_millis(20)), Step::Cut],
        ),
        ("ended too early", vec![send(&chunk("a"))]),
        (
            "error event",
            vec![
                send(&chunk("a")),
                send("data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\",\"code\":null}}\n\n"),
                send(DONE),
            ],
        ),
    ];
    for http2 in [false, true] {
        for (name, steps) in cases.clone() {
            let fake = Fake::always(Answer::stream(steps)).await;
            let yaml = providers(&[("openai", fake.address)]);
            let yaml = if http2 { yaml.replace("mapped", "mapped, http2: true") } else { yaml };
            let gateway = Gateway::start(&yaml);
            let (_, text) = stream_text(&gateway, "").await;
            assert!(text.contains("\"content\":\"a\""), "{name}: {text}");
            assert!(!text.contains("[DONE]"), "{name}: {text}");
            let last = text.trim_end().lines().last().unwrap();
            // go-openai recognises an error only by these very bytes.
            let error = last.strip_prefix("data: {\"error\":").unwrap_or_else(|| panic!("{name}: {text}"));
            let error: serde_json::Value = serde_json::from_str(error.strip_suffix('}').unwrap()).unwrap();
            for key in ["message", "type", "param", "code"] {
                assert!(error.get(key).is_some(), "{name}: {key} is missing in {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_provider_is_cut_off_with_an_error_event() {
    let fake = Fake::always(Answer::stream(vec![send(&chunk("a")), Step::Stall])).await;
    let yaml = providers(&[("openai", fake.address)]).replace("mapped", "mapped, timeouts: {read: 300ms}");
    let gateway = Gateway::start(&yaml);
    let begun = Instant::now();
    let (_, text) = stream_text(&gateway, "").await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(text.contains("data: {\"error\":") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_closes_the_upstream_within_100_ms() {
    let before_header = || Answer::stream(vec![]).after(Duration::from_secs(60));
    let mid_stream = || Answer::stream(vec![send(&chunk("a")), Step::Stall]);
    let held_json = || {
        let mut answer = Answer { sized: false, ..Answer::json(200, "{\"id\"") };
        answer.steps.push(Step::Stall);
        answer
    };
    let cases = [
        ("before the header", before_header(), false),
        ("mid-stream", mid_stream(), true),
        ("held", held_json(), false),
    ];
    for (name, answer, streams) in cases {
        for big in [false, true] {
            let fake = Fake::always(answer.clone()).await;
            let gateway = Gateway::over(fake.address);
            let mut client = Client::connect(gateway.addresses[0]).await;
            let pad = if big { "x".repeat(100_000) } else { String::new() };
            let body = chat("gpt-4o", &format!(r#","stream":{streams},"user":"{pad}""#));
            client.post("/v1/chat/completions", "", body.as_bytes()).await;
            if streams {
                assert!(!client.read_some().await.is_empty());
            }
            while fake.count() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let left = Instant::now();
            drop(client);
            let noticed = fake.until_broken().await;
            let after = noticed.duration_since(left);
            assert!(after < Duration::from_millis(100), "{name}, big {big}: the upstream closed after {after:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_request_that_gets_json_or_an_error_is_answered_as_such() {
    let fake = Fake::start(|_, number| match number {
        0 => Answer::completion(),
        _ => Answer::json(
            400,
            r#"{"error":{"message":"bad","type":"invalid_request_error","param":"messages","code":null}}"#,
        ),
    })
    .await;
    let gateway = Gateway::over(fake.address);
    let client = reqwest::Client::new();
    let body = chat("gpt-4o", r#","stream":true"#);
    let reply = client.post(gateway.url("/v1/chat/completions")).body(body.clone()).send().await.unwrap();
    assert_eq!(
        (reply.status().as_u16(), &reply.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let reply = client.post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
    assert_eq!(reply.status().as_u16(), 400);
    let error: serde_json::Value = reply.json().await.unwrap();
    assert_eq!(error["error"]["param"], "messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_start_of_a_stream_fails_over_before_anything_was_sent() {
    let broken = Fake::always(Answer::json(500, "{}")).await;
    let good = Fake::always(Answer::stream(whole(2))).await;
    let gateway = Gateway::start(&providers(&[("openai", broken.address), ("other", good.address)]));
    let (headers, text) = stream_text(&gateway, "").await;
    assert_eq!(headers["x-chittycan-provider"], "other");
    assert!(text.ends_with(DONE));
}
