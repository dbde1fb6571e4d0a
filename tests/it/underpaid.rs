//! Who leaves before the count comes, or lets another reader see another request, pays no less than the provider charges.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Answer, Fake, Gateway, Step, fake::send, gateway::providers, raw};

const CHAT: &str = "/v1/chat/completions";

/// Nano-dollars for each token of gpt-4o.
const INPUT: i64 = 2_500;
const OUTPUT: i64 = 10_000;

fn prose(times: usize) -> String {
    "The quick brown fox jumps over the lazy dog near the river bank today. ".repeat(times)
}

fn chunk(delta: &Value, finish: &Value, more: &str) -> Step {
    let choice = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let head = r#""id":"c","object":"chat.completion.chunk","created":1,"model":"m""#;
    send(&format!("data: {{{head},\"choices\":{choice}{more}}}\n\n"))
}

fn text(word: &str) -> Step {
    chunk(&json!({"content": word}), &Value::Null, "")
}

fn finish() -> Step {
    chunk(&json!({}), &json!("stop"), "")
}

fn done() -> Step {
    send("data: [DONE]\n\n")
}

fn wait(ms: u64) -> Step {
    Step::Wait(Duration::from_millis(ms))
}

fn budget(yaml: &str, usd: &str) -> String {
    format!("{yaml}tenants: {{default: {{budgets: [{{usd: {usd}}}]}}}}\n")
}

/// A gateway of one provider of this preset, with a hard budget of so many dollars.
fn gateway(fake: &Fake, preset: &str, usd: &str) -> Gateway {
    let yaml = format!(
        "providers:\n  {preset}: {{preset: {preset}, base_url: \"http://{}/v1\", api_key: k, credentials: mapped}}\n\
         default_provider: {preset}\n",
        fake.address
    );
    Gateway::start(&budget(&yaml, usd))
}

/// Asks, reads until `wanted` is there (not at all where it is empty: until the provider has the request), and hangs up.
async fn leave(gateway: &Gateway, fake: &Fake, path: &str, body: &str, wanted: &str) {
    let asked = fake.count();
    let mut client = raw::Client::connect(gateway.addresses[0]).await;
    client.post(path, "", body.as_bytes()).await;
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let more = client.read_some().await;
        assert!(!more.is_empty(), "the stream ended with {seen}");
        seen.push_str(&String::from_utf8_lossy(&more));
    }
    let begun = Instant::now();
    while fake.count() <= asked {
        assert!(begun.elapsed() < Duration::from_secs(10), "the provider is not asked: {seen}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Cost, prompt tokens, generated tokens of the last entry, once there are so many.
async fn entry(gateway: &Gateway, number: i64) -> (i64, i64, i64) {
    let begun = Instant::now();
    // The first count loads a tokenizer, which takes its time in a debug build.
    while gateway.query("SELECT count(*) FROM entries").await < number {
        assert!(begun.elapsed() < Duration::from_secs(60), "no entry");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let of =
        async |column: &str| gateway.query(&format!("SELECT {column} FROM entries ORDER BY id DESC LIMIT 1")).await;
    (of("cost").await, of("prompt_tokens").await, of("completion_tokens").await)
}

fn tokens(text: &str) -> i64 {
    chittycan::tokenizer::count("gpt-4o", text) as i64
}

/// The attack as it was seen: a bill of $9.00, and $0.0068 in the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_prompt_looks_like_who_leaves_pays_for_it() {
    let long = prose(1_000);
    let due = tokens(&long);
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let with = |key: &str, value: Value| json!({"messages": [{"role": "user", "content": "hi"}], key: value});
    let bodies = [
        user(json!(format!("data:{long}"))),
        user(json!([{"type": "text", "text": "x", "signature": long}])),
        user(json!([{"type": "text", "text": "x", "encrypted_content": long}])),
        user(json!([{"type": "x", "source": {"type": "base64", "data": long}}])),
        with(
            "tools",
            json!([{"type": "function", "function": {"name": "f", "parameters": {"properties": {long.clone(): {}}}}}]),
        ),
        with(
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": long}}}),
        ),
        with("documents", json!([long])),
    ];
    let streamed = Answer::stream(vec![text("hi"), Step::Stall]);
    let silent = Answer::completion().after(Duration::from_secs(60));
    let fake =
        Fake::start(move |seen, _| if seen.json()["stream"] == true { streamed.clone() } else { silent.clone() }).await;
    let gateway = gateway(&fake, "openai", "10");
    let mut entries = 0;
    for body in bodies {
        for stream in [true, false] {
            let mut body = body.clone();
            body["model"] = "gpt-4o".into();
            body["max_tokens"] = 10.into();
            body["stream"] = stream.into();
            let body = body.to_string();
            leave(&gateway, &fake, CHAT, &body, if stream { "\"hi\"" } else { "" }).await;
            entries += 1;
            let (cost, prompt, _) = entry(&gateway, entries).await;
            let shown: String = body.chars().take(120).collect();
            assert!(prompt >= due, "{prompt} of {due}: {shown}");
            assert!(cost >= due * INPUT, "{cost}: {shown}");
            // And not all that was reserved: a token of prose has more than four bytes.
            assert!(prompt < due + 2_000, "{prompt} where {due} are due: {shown}");
        }
    }
}

/// Dense text between plenty of space, of which three samples saw nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_prompt_of_a_stream_is_counted_whole() {
    let dense: String =
        (0..40_000_u32).map(|n| char::from(b'#' + (n.wrapping_mul(2_654_435_761) >> 25) as u8 % 90)).collect();
    let due = tokens(&dense);
    let space = " ".repeat(300);
    let body = format!(
        "{{{space}\"model\":\"gpt-4o\",\"max_tokens\":10,\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":{}}}{}]{space}}}",
        json!(dense),
        " ".repeat(dense.len() + 900),
    );
    // It breaks off for a client that stays, too.
    let answers = [vec![text("hi"), Step::Stall], vec![text("hi"), finish(), done()]];
    for (n, steps) in answers.into_iter().enumerate() {
        let fake = Fake::always(Answer::stream(steps)).await;
        let gateway = gateway(&fake, "openai", "10");
        leave(&gateway, &fake, CHAT, &body, if n == 0 { "\"hi\"" } else { "[DONE]" }).await;
        let (cost, prompt, _) = entry(&gateway, 1).await;
        assert!(prompt >= due && cost >= due * INPUT, "{prompt} of {due}, {cost}");
        assert!(prompt < due + 50, "{prompt} of {due}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_chat_pays_what_is_seen_and_no_more() {
    let fake = Fake::always(Answer::stream(vec![text(" hello"), text(" hello"), Step::Stall])).await;
    let gateway = gateway(&fake, "openai", "10");
    let body = json!({"model": "gpt-4o", "max_tokens": 4_000, "stream": true,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
    let mut client = raw::Client::connect(gateway.addresses[0]).await;
    client.post(CHAT, "", body.to_string().as_bytes()).await;
    let mut seen = String::new();
    while seen.matches(" hello").count() < 2 {
        seen.push_str(&String::from_utf8_lossy(&client.read_some().await));
    }
    drop(client);
    let (cost, prompt, completion) = entry(&gateway, 1).await;
    // Two messages with four tokens around each, two for the part, three that begin the answer.
    let due = tokens("system") + tokens("Be brief.") + tokens("user") + tokens("hi") + 2 * 4 + 2 + 3;
    assert_eq!((prompt, completion), (due, 2));
    assert_eq!(cost, due * INPUT + 2 * OUTPUT);
}

/// Another vendor's tokenizer may make a token of each digit.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_tokenizer_is_not_here_bytes_are_the_bound() {
    let fake = Fake::always(Answer::stream(vec![text("hi"), Step::Stall])).await;
    let gateway = gateway(&fake, "mistral", "10");
    let digits = "7".repeat(30_000);
    let body = json!({"model": "mistral-large-latest", "max_tokens": 10, "stream": true,
        "messages": [{"role": "user", "content": digits}]});
    leave(&gateway, &fake, CHAT, &body.to_string(), "\"hi\"").await;
    let (_, prompt, _) = entry(&gateway, 1).await;
    assert!(prompt >= 30_000, "{prompt}");
}

/// In high detail an image of gpt-4o-mini costs up to 48 169 tokens, and was settled at 765.
#[tokio::test(flavor = "multi_thread")]
async fn images_that_nobody_counted_cost_what_was_reserved_for_them() {
    let fake = Fake::always(Answer::stream(vec![text("hi"), Step::Stall])).await;
    let gateway = gateway(&fake, "openai", "10");
    let image = json!({"type": "image_url", "image_url": {"url": "https://x/1.png", "detail": "high"}});
    let body = json!({"model": "gpt-4o-mini", "max_tokens": 10, "stream": true,
        "messages": [{"role": "user", "content": [image, image]}]});
    leave(&gateway, &fake, CHAT, &body.to_string(), "\"hi\"").await;
    let (_, prompt, _) = entry(&gateway, 1).await;
    assert!(prompt >= 2 * 48_169, "{prompt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_may_have_been_written_to_the_cache_costs_that() {
    let fake = Fake::always(Answer::completion().after(Duration::from_secs(60))).await;
    let gateway = gateway(&fake, "anthropic", "10");
    let part = |more: &str| {
        let body = format!(
            r#"{{"model":"claude-sonnet-4-5","max_tokens":1,"messages":[{{"role":"user","content":[{{"type":"text","text":{}{more}}}]}}]}}"#,
            json!(prose(100)),
        );
        body
    };
    let mut costs = Vec::new();
    for (number, more) in ["", r#","cache_control":{"type":"ephemeral","ttl":"1h"}"#].into_iter().enumerate() {
        leave(&gateway, &fake, "/v1/messages", &part(more), "").await;
        costs.push(entry(&gateway, number as i64 + 1).await);
    }
    // $3 a million, or twice as much for an hour in the cache.
    let [(plain, prompt, _), (cached, more, _)] = costs[..] else { panic!("two entries") };
    assert!((prompt * 3_000..prompt * 3_000 + 100_000).contains(&plain), "{plain} for {prompt}");
    assert!((more * 6_000..more * 6_000 + 100_000).contains(&cached), "{cached} for {more}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_is_not_free() {
    let sound = |data: &str| chunk(&json!({"audio": {"id": "a", "data": data}}), &Value::Null, "");
    let mut steps = Vec::new();
    for _ in 0..10 {
        steps.extend([sound(&"QUJD".repeat(500)), wait(30)]);
    }
    steps.push(chunk(&json!({"audio": {"id": "a", "transcript": "LAST"}}), &Value::Null, ""));
    let all = steps.iter().cloned().chain([finish(), done()]).collect();
    let whole = json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": null, "audio": {"id": "a", "data": "QUJD".repeat(5_000), "transcript": "hi"}},
        "finish_reason": "stop"}]});
    steps.push(Step::Stall);
    let asked = r#","modalities":["text","audio"],"audio":{"voice":"alloy","format":"pcm16"}"#;
    for (answer, extra, wanted) in [
        (Answer::stream(steps.clone()), asked, "LAST"),
        (Answer::stream(all), asked, "[DONE]"),
        // Whether it was asked for or not.
        (Answer::stream(steps), "", "LAST"),
        (Answer::json(200, &whole.to_string()).after(Duration::from_millis(300)), asked, "alloy-is-never-seen"),
    ] {
        let stream = wanted != "alloy-is-never-seen";
        let fake = Fake::always(answer).await;
        let gateway = gateway(&fake, "openai", "10");
        let body = format!(
            r#"{{"model":"gpt-audio","max_tokens":4000,"stream":{stream},"messages":[{{"role":"user","content":"sing"}}]{extra}}}"#
        );
        if stream {
            leave(&gateway, &fake, CHAT, &body, wanted).await;
        } else {
            let reply = reqwest::Client::new().post(gateway.url(CHAT)).body(body).send().await.unwrap();
            assert_eq!(reply.status().as_u16(), 200);
            reply.bytes().await.unwrap();
        }
        let (cost, _, completion) = entry(&gateway, 1).await;
        // What can have been sung in a third of a second, at what sound costs ($64 a million).
        assert!(completion >= 300, "{completion} {extra}");
        assert!(cost >= completion * 64_000, "{cost} for {completion} {extra}");
    }
}

/// A count in each chunk says what was generated so far, not what will be.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_count_is_not_the_whole_one() {
    let running = |prompt: i64, completion: i64| {
        format!(
            r#","usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{}}}"#,
            prompt + completion
        )
    };
    let role = json!({"role": "assistant", "content": ""});
    let first = chunk(&role, &Value::Null, &running(80, 0));
    let body = |model: &str| {
        json!({"model": model, "max_completion_tokens": 20_000, "stream": true, "messages": [{"role": "user", "content": "think"}]})
            .to_string()
    };
    for (preset, model) in [("openai", "o3"), ("xai", "grok-4.5"), ("gemini", "gemini-2.5-pro")] {
        // It leaves in the midst of silent thinking.
        let fake = Fake::always(Answer::stream(vec![first.clone(), wait(500), text("4"), Step::Stall])).await;
        let there = gateway(&fake, preset, "10");
        leave(&there, &fake, CHAT, &body(model), "\"4\"").await;
        let (_, prompt, completion) = entry(&there, 1).await;
        assert_eq!(prompt, 80, "{model}: the prompt is counted");
        assert!(completion >= 500 * 80 / 1_000, "{model}: {completion}");

        // The count of a finished answer is the whole one, in its chunk or behind it, and is waited for.
        for steps in [
            vec![
                first.clone(),
                wait(100),
                text("4"),
                chunk(&json!({}), &json!("stop"), &running(80, 700)),
                Step::Stall,
            ],
            vec![
                first.clone(),
                text("4"),
                finish(),
                wait(100),
                send(&format!("data: {{\"id\":\"c\",\"choices\":[]{}}}\n\n", running(80, 700))),
                done(),
            ],
        ] {
            let fake = Fake::always(Answer::stream(steps)).await;
            let there = gateway(&fake, preset, "10");
            leave(&there, &fake, CHAT, &body(model), "\"stop\"").await;
            let (_, prompt, completion) = entry(&there, 1).await;
            assert_eq!((prompt, completion), (80, 700), "{model}");
            assert_eq!(there.query("SELECT count(*) FROM entries WHERE basis = 'provider'").await, 1, "{model}");
        }
    }
    // What it counts so far is believed within the possible, also on a soft budget.
    let fake = Fake::always(Answer::stream(vec![
        chunk(&role, &Value::Null, &running(1_000_000_000_000, 0)),
        text("4"),
        Step::Stall,
    ]))
    .await;
    let yaml = providers(&[("openai", fake.address)]) + "tenants: {default: {budgets: [{usd: 10, hard: false}]}}\n";
    let there = Gateway::start(&yaml);
    leave(&there, &fake, CHAT, &body("o3"), "\"4\"").await;
    let (cost, prompt, _) = entry(&there, 1).await;
    assert!(prompt < 2_000, "{prompt}");
    assert!(cost < 1_000_000_000, "{cost}");
    there.metrics_with(r#"can_usage_doubted_total{provider="openai"} 1"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_switches_no_thinking_off_does_not_make_it_free() {
    let steps =
        vec![chunk(&json!({"role": "assistant", "content": ""}), &Value::Null, ""), wait(500), text("4"), Step::Stall];
    for (preset, model, extra) in [
        // Not a word of this model's.
        ("openai", "o3", r#","reasoning_effort":"none""#),
        ("xai", "grok-4.5", r#","thinking":{"type":"disabled"}"#),
        ("xai", "grok-4.5", r#","reasoning_effort":"none""#),
        // What it says twice, or to some readers only.
        ("openai", "gpt-5.1", r#","reasoning_effort":"none","reasoning":{"effort":"none","effort":"high"}"#),
        ("openai", "gpt-5.1", r#","reasoning_effort":"none","extra_body":{"reasoning_effort":"high"}"#),
    ] {
        let fake = Fake::always(Answer::stream(steps.clone())).await;
        let gateway = gateway(&fake, preset, "10");
        let body = format!(
            r#"{{"model":"{model}","max_completion_tokens":20000,"stream":true,"messages":[{{"role":"user","content":"t"}}]{extra}}}"#
        );
        leave(&gateway, &fake, CHAT, &body, "\"4\"").await;
        let (_, _, completion) = entry(&gateway, 1).await;
        assert!(completion > 40, "{completion} {model} {extra}");
    }
    // What one reader sees otherwise than another is refused; the word that is the model's own counts.
    let fake = Fake::always(Answer::stream(steps)).await;
    let gateway = gateway(&fake, "openai", "10");
    for extra in [
        r#","reasoning_effort":"none","reasoning_effort":"high""#,
        r#","reasoning_effort":"none","reasoning\u005feffort":"high""#,
        r#","reasoning_effort":"none","reasoningEffort":"high""#,
    ] {
        let body = format!(r#"{{"model":"gpt-5.1","messages":[{{"role":"user","content":"t"}}]{extra}}}"#);
        let reply = reqwest::Client::new().post(gateway.url(CHAT)).body(body).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 400, "{extra}");
    }
    let body = r#"{"model":"gpt-5.1","max_completion_tokens":20000,"stream":true,"messages":[{"role":"user","content":"t"}],"reasoning_effort":"none"}"#;
    leave(&gateway, &fake, CHAT, body, "\"4\"").await;
    let begun = Instant::now();
    while gateway.query("SELECT count(*) FROM entries WHERE status <> 400").await < 1 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no entry");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gateway.query("SELECT completion_tokens FROM entries WHERE status <> 400").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn thinking_in_an_escaped_word_is_thinking() {
    let event = |value: Value| send(&format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap()));
    let steps = vec![
        event(json!({"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant",
            "model": "claude-sonnet-4-5", "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}}})),
        wait(500),
        event(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})),
        event(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "4"}})),
        Step::Stall,
    ];
    let fake = Fake::always(Answer::stream(steps)).await;
    let gateway = gateway(&fake, "anthropic", "10");
    let body = r#"{"model":"claude-sonnet-4-5","thinkin\u0067":{"type":"enabled","budget_tokens":16000},"max_tokens":20000,"stream":true,"messages":[{"role":"user","content":"t"}]}"#;
    leave(&gateway, &fake, "/v1/messages", body, "\"text\":\"4\"").await;
    let (_, prompt, completion) = entry(&gateway, 1).await;
    assert_eq!(prompt, 10);
    assert!(completion > 40, "{completion}");
}

/// A reply that is padded with spaces is no longer one: $10 were settled on a budget of a cent.
#[tokio::test(flavor = "multi_thread")]
async fn padding_makes_no_lie_believable() {
    let reply = |content: &str, completion: u64, pad: usize| {
        let body = json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": completion, "total_tokens": 5 + completion}});
        Answer::json(200, &format!("{body}{}", " ".repeat(pad)))
    };
    let body = r#"{"model":"gpt-4o","max_tokens":1,"messages":[{"role":"user","content":"t"}]}"#;
    let ask = async |gateway: &Gateway| {
        let reply = reqwest::Client::new().post(gateway.url(CHAT)).body(body).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
        reply.headers()["x-chittycan-cost"].to_str().unwrap().parse::<f64>().unwrap()
    };
    let fake = Fake::always(reply("hello", 1_000_000, 1_000_000)).await;
    let there = gateway(&fake, "openai", "0.01");
    let told = ask(&there).await;
    let (cost, _, completion) = entry(&there, 1).await;
    // Five bytes were generated.
    assert!(completion <= 5 && cost < 10_000_000, "{completion} for {cost}");
    assert!((told * 1e9 - cost as f64).abs() < 1.0, "{told} and {cost}");
    there.metrics_with(r#"can_usage_doubted_total{provider="openai"} 1"#).await;

    // What was shown beyond the limit is charged up to what was reserved; the rest is told.
    let words = "word ".repeat(4_000);
    let fake = Fake::always(reply(&words, 4_000, 0)).await;
    let there = gateway(&fake, "openai", "0.01");
    ask(&there).await;
    let (cost, ..) = entry(&there, 1).await;
    assert!(cost <= 10_000_000, "{cost}");
    let metrics = there.metrics().await;
    assert!(
        metrics.lines().any(|line| line.starts_with("can_beyond_reservation") && !line.ends_with(" 0")),
        "{metrics}"
    );
    // Without a budget it is the truth.
    let there = Gateway::start(&providers(&[("openai", fake.address)]));
    ask(&there).await;
    assert_eq!(entry(&there, 1).await.0, 5 * INPUT + 4_000 * OUTPUT);
}

/// A provider that works for a third of a second and then writes these bytes and closes.
async fn breaks(reply: &'static str) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"}") {
                    let mut more = [0; 4096];
                    match stream.read(&mut more).await {
                        Ok(0) | Err(_) => return,
                        Ok(read) => bytes.extend_from_slice(&more[..read]),
                    }
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
                let _ = stream.write_all(reply.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

/// What is no HTTP says nothing about what the provider did before.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_cannot_be_read_is_not_free() {
    for reply in [
        "HTTP/1.1 200 OK\r\nbad header line\r\n\r\n",
        "HTTP/9 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 600 X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        "",
    ] {
        let shown: String = reply.chars().take(70).collect();
        let gateway = Gateway::start(&budget(&providers(&[("openai", breaks(reply).await)]), "10"));
        let body = r#"{"model":"o3","max_completion_tokens":20000,"messages":[{"role":"user","content":"t"}]}"#;
        let mut client = raw::Client::connect(gateway.addresses[0]).await;
        client.post(CHAT, "", body.as_bytes()).await;
        let mut answer = client.reply().await.unwrap();
        while answer.status == 100 {
            answer = client.reply().await.unwrap();
        }
        assert!(answer.status >= 500 && answer.status < 600, "{} {shown}", answer.status);
        let (cost, _, completion) = entry(&gateway, 1).await;
        assert!(completion >= 300 && cost > 0, "{completion} tokens for {cost}: {shown}");
    }
}

/// A provider that does not know the name of a limit answers without one: 0.36 dollars on a budget of five cents.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_a_vendor_does_not_know_bounds_nothing() {
    let reply = json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}});
    let fake = Fake::always(Answer::json(200, &reply.to_string())).await;
    let prices = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(prices.path(), "models:\n  local/m: {input: 10, output: 10}\n  local/o3: {input: 10, output: 10}\n")
        .unwrap();
    let yaml = format!(
        "providers:\n  local: {{preset: custom, base_url: \"http://{}/v1\", api_key: k}}\nprices: {{file: \"{}\"}}\n\
         routes:\n  - {{model: m, to: [local/m], default_max_tokens: 100}}\ndefault_provider: local\n",
        fake.address,
        prices.path().display()
    );
    let gateway = Gateway::start(&budget(&yaml, "0.05"));
    let ask = async |body: Value| {
        let reply = reqwest::Client::new().post(gateway.url(CHAT)).body(body.to_string()).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    };
    let body = |model: &str, limits: Value| {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
        body
    };
    for (limits, sent) in [
        (json!({}), json!(100)),
        (json!({"max_completion_tokens": 50}), json!(50)),
        (json!({"max_completion_tokens": 0}), json!(100)),
        (json!({"max_tokens": 0}), json!(100)),
        (json!({"max_tokens": 70, "max_completion_tokens": 0}), json!(70)),
    ] {
        let (status, reply) = ask(body("m", limits.clone())).await;
        assert_eq!(status, 200, "{limits}: {reply}");
        let seen = fake.last().json();
        assert_eq!((&seen["max_tokens"], &seen["max_completion_tokens"]), (&sent, &Value::Null), "{limits}");
    }
    // Under OpenAI's name only, where nobody knows whether it is one there: the longest answer is held, which does not fit.
    let (status, reply) = ask(body("o3", json!({"max_completion_tokens": 50}))).await;
    assert_eq!(status, 402, "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_nothing_is_no_limit() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = gateway(&fake, "openai", "0.1");
    for limit in ["0", "-0.0", "0e5", "null"] {
        let body =
            format!(r#"{{"model":"o3","max_completion_tokens":{limit},"messages":[{{"role":"user","content":"t"}}]}}"#);
        let reply = reqwest::Client::new().post(gateway.url(CHAT)).body(body).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 402, "{limit}: {}", reply.text().await.unwrap());
    }
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_is_shortened_on_the_way_is_paid_for_whole_or_refused() {
    let reply = json!({"id": "m", "type": "message", "role": "assistant", "model": "claude-opus-4-6",
        "content": [{"type": "compaction", "content": "sum"}, {"type": "text", "text": "ok"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 2_300, "output_tokens": 100, "iterations": [
            {"type": "compaction", "input_tokens": 9_000, "output_tokens": 350},
            {"type": "message", "input_tokens": 2_300, "output_tokens": 100}]}});
    let fake = Fake::always(Answer::json(200, &reply.to_string())).await;
    let body = |more: Value| {
        let mut body = json!({"model": "claude-opus-4-6", "max_tokens": 4_096,
            "messages": [{"role": "user", "content": prose(150)}]});
        body["context_management"] = more;
        body.to_string()
    };
    let ask = async |gateway: &Gateway, body: String| {
        let headers = [("anthropic-version", "2023-06-01"), ("anthropic-beta", "compact-2026-01-12")];
        let mut request = reqwest::Client::new().post(gateway.url("/v1/messages")).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let reply = request.send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    };
    let bounded = gateway(&fake, "anthropic", "100");
    for edits in [
        json!({"edits": [{"type": "compact_20260112"}]}),
        json!({"edits": [{"type": "clear_tool_uses_20250919"}, {"type": "compact_20260112"}]}),
        json!({"edits": [{"type": "clear_tool_uses_20250919"}], "compact": true}),
        json!({"edits": {"0": {"type": "compact_20260112"}}}),
    ] {
        let (status, told) = ask(&bounded, body(edits)).await;
        assert!(status == 403 && told.contains("context_management"), "{status}: {told}");
    }
    assert_eq!(fake.count(), 0);
    let clears =
        json!({"edits": [{"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 30_000}}]});
    assert_eq!(ask(&bounded, body(clears)).await.0, 200);
    // Without a budget all passes are in the ledger: $5 and $25 a million.
    let open = Gateway::start(&format!(
        "providers:\n  anthropic: {{base_url: \"http://{}/v1\", api_key: k, credentials: mapped}}\n",
        fake.address
    ));
    let (status, told) = ask(&open, body(json!({"edits": [{"type": "compact_20260112"}]}))).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(entry(&open, 1).await, (11_300 * 5_000 + 450 * 25_000, 11_300, 450));
}

/// Items that the provider has stored are read from there, however long they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_item_has_a_type_and_no_bound() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = gateway(&fake, "openai", "0.05");
    for (item, fits) in [
        (json!({"type": "image_generation_call", "id": "ig_1"}), false),
        (json!({"id": "rs_1", "type": "reasoning", "summary": []}), false),
        (
            json!({"id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}], "type": "reasoning", "content": []}),
            false,
        ),
        (json!({"id": "ci_1", "type": "code_interpreter_call", "container_id": "c", "outputs": null}), false),
        (json!({"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "abcd"}), true),
        (json!({"id": "fc_1", "type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"}), true),
        (
            json!({"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}),
            true,
        ),
    ] {
        let body = json!({"model": "o3", "max_output_tokens": 100, "input": [{"role": "user", "content": "x"}, item]});
        let request = reqwest::Client::new().post(gateway.url("/v1/responses")).body(body.to_string());
        let status = request.send().await.unwrap().status().as_u16();
        assert_eq!(status == 402, !fits, "{status}: {item}");
    }
}

/// A namespace may group tools that the provider runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_tool_inside_of_a_namespace_is_seen() {
    let reply = json!({"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-4.1",
        "output": [{"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search"}}],
        "usage": {"input_tokens": 200, "output_tokens": 5, "total_tokens": 205}});
    let fake = Fake::always(Answer::json(200, &reply.to_string())).await;
    let gateway = gateway(&fake, "openai", "100");
    let ask = async |tools: Value| {
        let body = json!({"model": "gpt-4.1", "max_output_tokens": 100, "input": "x", "tools": [
            {"type": "namespace", "name": "a", "description": "b", "tools": tools}]});
        let request = reqwest::Client::new().post(gateway.url("/v1/responses")).body(body.to_string());
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask(json!([{"type": "web_search"}])).await, 200);
    assert!(fake.last().json()["max_tool_calls"].is_u64(), "the calls are limited");
    // 200 * 2 + 5 * 8 dollars per million, and two cents and a half for the search.
    assert_eq!(entry(&gateway, 1).await.0, 200 * 2_000 + 5 * 8_000 + 25_000_000);
    assert_eq!(ask(json!([{"type": "function", "name": "f", "parameters": {}}])).await, 200);
    let nested = json!([{"type": "namespace", "name": "c", "tools": [{"type": "web_search"}]}]);
    assert_eq!(ask(nested).await, 403, "deeper than anybody documents");
}
