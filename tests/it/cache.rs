//! The cache: who gets what again, who does not, and what happens to those who ask the same at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Response;
use serde_json::Value;

use crate::support::{
    Answer, COMPLETION, Fake, Gateway, Process, Step, chat, fake::send, free_port, gateway::providers, raw,
};

/// What makes a chat cacheable.
const FIXED: &str = r#","temperature":0"#;
const STREAM: &str = r#","temperature":0,"stream":true"#;

/// The completion's cost at gpt-4o's price, in billionths of a dollar; see `money`.
const COST: i64 = 3_000_000;

const USAGE: &str = r#""usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100,"prompt_tokens_details":{"cached_tokens":400}}"#;

fn chunk(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

/// A stream of so many words, one every `pause`.
fn words(count: usize, pause: Duration) -> Vec<Step> {
    let mut steps = vec![send(&chunk(r#"{"role":"assistant","content":""}"#, "null"))];
    for word in 0..count {
        steps.push(Step::Wait(pause));
        steps.push(send(&chunk(&format!(r#"{{"content":"w{word} "}}"#), "null")));
    }
    let usage = format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[],{USAGE}}}\n\n"
    );
    steps.push(Step::Wait(pause));
    steps.push(send(&(chunk("{}", "\"stop\"") + &usage + "data: [DONE]\n\n")));
    steps
}

/// JSON and streams, as asked.
async fn provider(pause: Duration) -> Fake {
    Fake::start(move |seen, _| match seen.json()["stream"].as_bool() {
        Some(true) => Answer::stream(words(5, pause)),
        _ => Answer::completion().after(pause * 5),
    })
    .await
}

async fn ask(gateway: &Gateway, body: &str, headers: &[(&str, &str)]) -> Response {
    post(gateway, "/v1/chat/completions", body, headers).await
}

async fn post(gateway: &Gateway, path: &str, body: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = reqwest::Client::new().post(gateway.url(path)).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn header<'a>(reply: &'a Response, name: &str) -> &'a str {
    reply.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

fn course(reply: &Response) -> String {
    header(reply, "x-chittycan-cache").to_owned()
}

async fn course_of(gateway: &Gateway, body: &str, headers: &[(&str, &str)]) -> String {
    let reply = ask(gateway, body, headers).await;
    assert_eq!(reply.status(), 200);
    let course = course(&reply);
    reply.bytes().await.unwrap();
    course
}

/// The text of a stream, and whether it ended properly.
fn read(events: &str) -> (String, bool) {
    let mut text = String::new();
    for data in events.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
        let event: Value = serde_json::from_str(data).unwrap();
        text.push_str(event["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    (text, events.trim_end().ends_with("data: [DONE]"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_asked_for_once_and_told_for_nothing() {
    let answer = Answer::completion().header("x-request-id", "req-of-the-provider").header("set-cookie", "a=b");
    let fake = Fake::always(answer.header("x-ratelimit-remaining-requests", "17")).await;
    let gateway = Gateway::over(fake.address);
    let first = ask(&gateway, &chat("gpt-4o", FIXED), &[]).await;
    assert_eq!((header(&first, "x-chittycan-cache"), header(&first, "x-chittycan-cost")), ("MISS", "0.003"));
    let key = header(&first, "x-chittycan-cache-key").to_owned();
    assert_eq!(key.len(), 64);
    assert_eq!(first.text().await.unwrap(), COMPLETION);
    // Another order of members, other white space, another spelling of the number, another user.
    let again = r#"{ "user": "u-7", "temperature": 0.0, "messages": [{"content": "\u0068i", "role": "user"}], "model": "gpt-4o" }"#;
    let second = ask(&gateway, again, &[]).await;
    assert_eq!((header(&second, "x-chittycan-cache"), header(&second, "x-chittycan-cost")), ("HIT", "0"));
    assert_eq!((header(&second, "x-chittycan-model"), header(&second, "x-chittycan-provider")), ("gpt-4o", "openai"));
    assert_eq!((header(&second, "content-type"), header(&second, "age")), ("application/json", "0"));
    assert!(header(&second, "x-request-id").starts_with("req_"));
    for gone in ["set-cookie", "x-ratelimit-remaining-requests", "x-chittycan-attempts"] {
        assert_eq!(header(&second, gone), "", "{gone}");
    }
    assert_eq!(second.text().await.unwrap(), COMPLETION);
    assert_eq!(fake.count(), 1);
    let saved = "SELECT sum(saved) FROM entries WHERE cache = 'HIT' AND cost = 0 AND status = 200 AND model = 'gpt-4o'";
    gateway.metrics_with("can_cache_requests_total{model=\"gpt-4o\",result=\"HIT\"} 1").await;
    assert_eq!(gateway.query(saved).await, COST);
    assert_eq!(gateway.query("SELECT cost FROM entries WHERE cache = 'MISS'").await, COST);
    gateway.metrics_with("can_cache_saved_usd_total 0.003").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_serves_streams_and_documents() {
    for (first, second) in [(FIXED, STREAM), (STREAM, FIXED)] {
        let fake = provider(Duration::ZERO).await;
        let gateway = Gateway::over(fake.address);
        assert_eq!(course_of(&gateway, &chat("gpt-4o", first), &[]).await, "MISS");
        let plain = ask(&gateway, &chat("gpt-4o", FIXED), &[]).await;
        assert_eq!(course(&plain), "HIT");
        let document: Value = plain.json().await.unwrap();
        assert_eq!(document["object"], "chat.completion");
        assert_eq!(document["usage"]["completion_tokens"], 100);
        let text = document["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        for usage in [false, true] {
            let extra = if usage { r#","stream_options":{"include_usage":true}"# } else { "" };
            let stream = ask(&gateway, &chat("gpt-4o", &format!("{STREAM}{extra}")), &[]).await;
            assert_eq!((course(&stream).as_str(), header(&stream, "x-chittycan-cost")), ("HIT", "0"));
            assert!(header(&stream, "content-type").starts_with("text/event-stream"));
            let events = stream.text().await.unwrap();
            assert_eq!(read(&events), (text.clone(), true), "{events}");
            assert_eq!(events.contains("completion_tokens"), usage, "{events}");
        }
        assert_eq!(course_of(&gateway, &chat("gpt-4o", second), &[]).await, "HIT");
        assert_eq!(fake.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_are_one_call_and_read_along() {
    const PAUSE: Duration = Duration::from_millis(60);
    let fake = Fake::start(|_, _| Answer::stream(words(12, PAUSE))).await;
    let gateway = Gateway::over(fake.address);
    let client = reqwest::Client::new();
    let url = gateway.url("/v1/chat/completions");
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for n in 0..100 {
        let (client, url) = (client.clone(), url.clone());
        tasks.push(tokio::spawn(async move {
            let streamed = n % 2 == 0;
            let mut reply =
                client.post(url).body(chat("gpt-4o", if streamed { STREAM } else { FIXED })).send().await.unwrap();
            let course = course(&reply);
            let (mut body, mut arrivals) = (Vec::new(), Vec::new());
            while let Some(piece) = reply.chunk().await.unwrap() {
                let now = begun.elapsed();
                let words = memchr::memmem::find_iter(&piece, b"\"content\":\"w").count();
                body.extend_from_slice(&piece);
                // When the reader had so many words.
                arrivals.resize(arrivals.len() + words, now);
            }
            (streamed, course, String::from_utf8(body).unwrap(), arrivals)
        }));
        if n == 0 {
            // The first leads: the others come within 50 ms.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let mut replies = Vec::new();
    for task in tasks {
        replies.push(task.await.unwrap());
    }
    assert_eq!(fake.count(), 1, "one call");
    let expected: String = (0..12).map(|n| format!("w{n} ")).collect();
    let (_, course, _, leader) = &replies[0];
    assert_eq!((course.as_str(), leader.len()), ("MISS", 12));
    let mut worst = [Duration::ZERO; 12];
    for (streamed, course, body, arrivals) in &replies[1..] {
        assert_eq!(course, "HIT");
        if !streamed {
            let document: Value = serde_json::from_str(body).unwrap();
            assert_eq!(document["choices"][0]["message"]["content"], expected);
            continue;
        }
        assert_eq!(read(body), (expected.clone(), true));
        assert_eq!(arrivals.len(), 12);
        for ((at, before), worst) in arrivals.iter().zip(leader).zip(&mut worst) {
            *worst = at.saturating_sub(*before).max(*worst);
        }
    }
    println!("the slowest reader after the one that leads, event by event: {worst:?}");
    // One of twelve may meet a machine that is busy with something else.
    let late = worst.iter().filter(|worst| **worst >= Duration::from_millis(20)).count();
    assert!(late <= 1, "{worst:?}");
    let hits = gateway.query("SELECT count(*) FROM entries WHERE cache = 'HIT' AND cost = 0 AND saved = 3000000").await;
    assert_eq!(hits, 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_what_another_has_asked() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = format!(
        "providers: {{openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: auto}}}}\nauth: {{anonymous: default}}\ntenants: {{a: {{}}, b: {{}}}}\n",
        fake.address
    );
    let gateway = Gateway::start(&yaml);
    let (a, b) = (gateway.token("a").await, gateway.token("b").await);
    let body = chat("gpt-4o", FIXED);
    let who = [format!("Bearer {a}"), format!("Bearer {b}"), "Bearer sk-one".to_owned(), "Bearer sk-two".to_owned()];
    for expected in ["MISS", "HIT"] {
        for who in &who {
            assert_eq!(course_of(&gateway, &body, &[("authorization", who)]).await, expected, "{who}");
        }
        assert_eq!(course_of(&gateway, &body, &[]).await, expected);
    }
    assert_eq!(fake.count(), 5);

    // All tenants share where the configuration says so; keys of their own still do not.
    let gateway = Gateway::start(&(yaml + "cache: {namespace: shared}\n"));
    let (a, b) = (gateway.token("a").await, gateway.token("b").await);
    for (who, expected) in [(format!("Bearer {a}"), "MISS"), (format!("Bearer {b}"), "HIT"), (who[2].clone(), "MISS")] {
        assert_eq!(course_of(&gateway, &body, &[("authorization", &who)]).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_body_serves_equal_requests_alone() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = format!(
        "providers: {{openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: mapped}}}}\ntenants: {{a: {{}}, b: {{}}}}\n",
        fake.address
    );
    let gateway = Gateway::start(&yaml);
    let (a, b) = (gateway.token("a").await, gateway.token("b").await);
    let (a, b) = (format!("Bearer {a}"), format!("Bearer {b}"));
    let body = chat("gpt-4o", &format!(r#"{FIXED},"tools":[{{"type":"function","function":{{"name":"send_mail"}}}}]"#));
    let several = chat("gpt-4o", r#","temperature":0,"n":2"#);
    let of = async |path: &str, body: &str, who: &str, more: (&str, &str)| {
        let reply = post(&gateway, path, body, &[("authorization", who), more]).await;
        assert_eq!(reply.status(), 200);
        (course(&reply), header(&reply, "x-chittycan-cache-key").to_owned(), reply.text().await.unwrap())
    };
    let (chats, none) = ("/v1/chat/completions", ("x-nothing", "0"));
    let mut key = String::new();
    // After its first hit the body is known: each case comes between requests that are answered from what is known.
    for (path, body, who, more, expected) in [
        (chats, &body, &a, none, "MISS"),
        (chats, &body, &a, none, "HIT"),
        (chats, &body, &a, none, "HIT"),
        (chats, &body, &b, none, "MISS"),
        (chats, &body, &a, ("openai-beta", "x=1"), "MISS"),
        (chats, &body, &a, none, "HIT"),
        ("/v1/chat/completions?api-version=2", &body, &a, none, "MISS"),
        (chats, &body, &a, ("cache-control", "no-store"), "BYPASS"),
        (chats, &body, &a, ("x-chittycan-cache", "skip"), "BYPASS"),
        (chats, &body, &a, ("cache-control", "no-cache"), "MISS"),
        (chats, &body, &a, none, "HIT"),
        (chats, &body, &b, none, "HIT"),
        (chats, &body, &b, none, "HIT"),
        (chats, &several, &a, ("x-chittycan-cache", "force"), "MISS"),
        (chats, &several, &a, ("x-chittycan-cache", "force"), "HIT"),
        (chats, &several, &a, ("x-chittycan-cache", "force"), "HIT"),
        (chats, &several, &a, none, "BYPASS"),
    ] {
        let (course, its_key, text) = of(path, body, who, more).await;
        assert_eq!((&*course, &*text), (expected, COMPLETION), "{path} {who} {more:?} {body}");
        if body.contains("send_mail") && *who == a && more == none && path == chats {
            key = if key.is_empty() {
                its_key
            } else {
                assert_eq!(key, its_key);
                key
            };
        }
    }
    // Another configuration decides anew.
    std::fs::write(&gateway.file, yaml + "cache: {side_effect_tools: [send_*]}\n").unwrap();
    gateway.reloader.reload().unwrap();
    assert_eq!(of(chats, &body, &a, none).await.0, "BYPASS");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_deterministic_is_never_kept() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway =
        Gateway::start(&(providers(&[("openai", fake.address)]) + "cache: {side_effect_tools: [send_*]}\n").replace(
            "default_provider",
            "  - {model: live, to: [openai/gpt-4o], cache: {enabled: false}}\ndefault_provider",
        ));
    let tool = |name: &str| format!(r#"{FIXED},"tools":[{{"type":"function","function":{{"name":"{name}"}}}}]"#);
    let bodies = [
        chat("gpt-4o", ""),
        chat("gpt-4o", r#","temperature":0.7"#),
        chat("gpt-4o", r#","temperature":0,"store":true"#),
        chat("gpt-4o", r#","temperature":0,"n":2"#),
        chat("gpt-4o", r#","temperature":0,"modalities":["text","audio"],"audio":{"voice":"x","format":"wav"}"#),
        chat("live", FIXED),
        chat("gpt-4o", &tool("send_mail")),
    ];
    for body in &bodies {
        for _ in 0..2 {
            assert_eq!(course_of(&gateway, body, &[]).await, "BYPASS", "{body}");
        }
    }
    assert_eq!(fake.count(), 2 * bodies.len());
    let metrics = gateway.metrics().await;
    for reason in ["not_deterministic", "store", "several_choices", "audio", "off", "side_effect_tool"] {
        assert!(metrics.contains(&format!("can_cache_bypassed_total{{reason=\"{reason}\"}}")), "{reason}\n{metrics}");
    }
    for body in [chat("gpt-4o", &tool("look_up")), chat("gpt-4o", r#","seed":7"#), chat("gpt-4o", r#","seed":7,"n":2"#)]
    {
        assert_eq!(course_of(&gateway, &body, &[]).await, "MISS", "{body}");
        assert_eq!(course_of(&gateway, &body, &[]).await, "HIT", "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_steers_the_cache() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let body = chat("gpt-4o", FIXED);
    let control = |value: &'static str| [("cache-control", value)];
    let absent = ask(&gateway, &body, &control("only-if-cached")).await;
    assert_eq!((absent.status().as_u16(), header(&absent, "x-should-retry")), (504, "false"));
    assert_eq!(absent.json::<Value>().await.unwrap()["error"]["code"], "not_cached");
    let mut calls = 0;
    for (headers, expected, asks) in [
        (control("no-store"), "BYPASS", 1),
        ([("x-chittycan-cache", "skip")], "BYPASS", 1),
        (control("max-age=60"), "MISS", 1),
        (control("only-if-cached"), "HIT", 0),
        (control("max-age=60"), "HIT", 0),
        (control("no-cache"), "MISS", 1),
        (control("only-if-cached, max-age=60"), "HIT", 0),
    ] {
        assert_eq!(course_of(&gateway, &body, &headers).await, expected, "{headers:?}");
        calls += asks;
        assert_eq!(fake.count(), calls, "{headers:?}");
    }
    let warm = chat("gpt-4o", r#","temperature":0.7"#);
    let force = [("x-chittycan-cache", "force")];
    assert_eq!(course_of(&gateway, &warm, &force).await, "MISS");
    assert_eq!(course_of(&gateway, &warm, &force).await, "HIT");
    assert_eq!(course_of(&gateway, &warm, &[]).await, "BYPASS");
    let wrong = ask(&gateway, &body, &[("x-chittycan-cache", "often")]).await;
    assert_eq!(wrong.status(), 400);
    // Older than the client wants.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(course_of(&gateway, &body, &control("max-age=0")).await, "MISS");
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_and_moderations_are_always_kept() {
    let fake = Fake::start(|seen, _| {
        Answer::json(
            200,
            match seen.path.as_str() {
                "/v1/embeddings" => {
                    r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":2,"total_tokens":2}}"#
                }
                _ => r#"{"id":"m","model":"omni-moderation-latest","results":[{"flagged":false}]}"#,
            },
        )
    })
    .await;
    let gateway = Gateway::over(fake.address);
    for (path, body) in [
        ("/v1/embeddings", r#"{"model":"text-embedding-3-small","input":"hello"}"#),
        ("/v1/moderations", r#"{"input":"hello"}"#),
    ] {
        for expected in ["MISS", "HIT"] {
            let reply = post(&gateway, path, body, &[]).await;
            assert_eq!(course(&reply), expected, "{path}");
        }
    }
    assert_eq!(fake.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_and_good_is_not_kept() {
    let filtered = COMPLETION.replace(r#""finish_reason":"stop""#, r#""finish_reason":"content_filter""#);
    let uncounted = format!("{}}}", COMPLETION.split(r#","usage""#).next().unwrap());
    let half = COMPLETION[..200].to_owned();
    let mut cut = words(3, Duration::ZERO);
    cut.truncate(4);
    cut.push(Step::Cut);
    let answers = [
        Answer::json(500, r#"{"error":{"message":"down"}}"#),
        Answer::json(429, r#"{"error":{"message":"slow down"}}"#),
        Answer::json(200, &filtered),
        Answer::json(200, &uncounted),
        Answer::json(200, &half),
        Answer::stream(cut),
        Answer::json(200, r#"{"error":{"message":"down"}}"#),
    ];
    for answer in answers {
        let shown = format!("{answer:?}");
        let fake = Fake::always(answer).await;
        let gateway = Gateway::over(fake.address);
        let body = chat("gpt-4o", if shown.contains("event-stream") { STREAM } else { FIXED });
        for calls in 1..=2 {
            let _ = ask(&gateway, &body, &[]).await.bytes().await;
            assert_eq!(fake.count(), calls, "{shown}");
        }
        assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE cache = 'HIT'").await, 0, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_share_a_failure() {
    let refusal = Answer::json(429, r#"{"error":{"message":"slow down","type":"rate_limit_error"}}"#);
    let fake = Fake::always(refusal.header("retry-after", "7").after(Duration::from_millis(1500))).await;
    let gateway = Gateway::over(fake.address);
    let client = reqwest::Client::new();
    let asked = (0..50).map(|n| {
        let client = client.clone();
        let (url, body) =
            (gateway.url("/v1/chat/completions"), chat("gpt-4o", if n % 2 == 0 { FIXED } else { STREAM }));
        tokio::spawn(async move {
            let reply = client.post(url).body(body).send().await.unwrap();
            let after = header(&reply, "retry-after").to_owned();
            (reply.status().as_u16(), after, reply.json::<Value>().await.unwrap()["error"]["message"].clone())
        })
    });
    for reply in asked.collect::<Vec<_>>() {
        assert_eq!(reply.await.unwrap(), (429, "7".to_owned(), "slow down".into()));
    }
    assert_eq!(fake.count(), 1, "no stampede");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_never_ends_cleanly_for_anyone() {
    let mut steps = words(5, Duration::from_millis(60));
    steps.truncate(7);
    steps.push(Step::Cut);
    let fake = Fake::always(Answer::stream(steps)).await;
    let gateway = Gateway::over(fake.address);
    let asked = (0..10).map(|n| {
        let (url, streamed) = (gateway.url("/v1/chat/completions"), n % 2 == 0);
        let body = chat("gpt-4o", if streamed { STREAM } else { FIXED });
        tokio::spawn(async move {
            if n > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let reply = reqwest::Client::new().post(url).body(body).send().await.unwrap();
            (streamed, reply.status().as_u16(), reply.text().await.unwrap())
        })
    });
    for reply in asked.collect::<Vec<_>>() {
        let (streamed, status, text) = reply.await.unwrap();
        if streamed {
            assert!(text.contains("\"error\"") && text.contains("w1") && !text.contains("[DONE]"), "{text}");
        } else {
            assert_eq!(status, 502, "{text}");
        }
    }
    assert_eq!(fake.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_nothing_from_those_who_follow() {
    for streamed in [true, false] {
        let fake = provider(Duration::from_millis(100)).await;
        let gateway = Gateway::over(fake.address);
        let body = chat("gpt-4o", if streamed { STREAM } else { FIXED });
        let mut leader = raw::Client::connect(gateway.addresses[0]).await;
        leader.post("/v1/chat/completions", "", body.as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let follower = tokio::spawn({
            let (url, body) = (gateway.url("/v1/chat/completions"), body.clone());
            async move { reqwest::Client::new().post(url).body(body).send().await.unwrap().text().await.unwrap() }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(leader);
        let text = follower.await.unwrap();
        assert!(text.contains("w4 ") || text.contains("Hello there friend"), "{text}");
        assert_eq!(course_of(&gateway, &body, &[]).await, "HIT");
        assert_eq!(fake.count(), 1);
        let paid = "SELECT sum(cost) FROM entries WHERE cache = 'MISS'";
        assert_eq!(gateway.query(paid).await, COST, "the one who left has asked for it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_nobody_waits_for_is_cancelled_or_finished_as_configured() {
    for (setting, finishes) in [("cancel", false), ("finish", true)] {
        let fake = provider(Duration::from_millis(100)).await;
        let yaml = providers(&[("openai", fake.address)]) + &format!("cache: {{abandoned: {setting}}}\n");
        let gateway = Gateway::start(&yaml);
        let mut leader = raw::Client::connect(gateway.addresses[0]).await;
        leader.post("/v1/chat/completions", "", chat("gpt-4o", STREAM).as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let left = Instant::now();
        drop(leader);
        if finishes {
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert!(fake.broken().is_empty());
            assert_eq!(course_of(&gateway, &chat("gpt-4o", STREAM), &[]).await, "HIT");
            assert_eq!(fake.count(), 1);
        } else {
            let broken = fake.until_broken().await;
            assert!(broken - left < Duration::from_millis(200), "{:?}", broken - left);
            assert_eq!(course_of(&gateway, &chat("gpt-4o", STREAM), &[]).await, "MISS");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody() {
    // More than any socket takes: the one that leads does not read a byte of it.
    let long = chunk(&format!(r#"{{"content":"{}"}}"#, "x".repeat(60_000)), "null");
    let mut steps: Vec<_> = (0..120).map(|_| send(&long)).collect();
    steps.extend(words(1, Duration::ZERO));
    for http2 in [false, true] {
        let fake = Fake::always(Answer::stream(steps.clone())).await;
        let gateway = Gateway::over(fake.address);
        let mut over_http1 = raw::Client::connect(gateway.addresses[0]).await;
        let over_http2 = match http2 {
            true => {
                let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
                let request = client.post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", STREAM));
                Some(request.send().await.unwrap())
            }
            false => {
                over_http1.post("/v1/chat/completions", "", chat("gpt-4o", STREAM).as_bytes()).await;
                fake.until_asked(1).await;
                None
            }
        };
        let begun = Instant::now();
        let reply = ask(&gateway, &chat("gpt-4o", STREAM), &[]).await;
        assert_eq!(course(&reply), "HIT");
        let text = tokio::time::timeout(Duration::from_secs(10), reply.text()).await.expect("not held up").unwrap();
        assert!(text.len() > 120 * 60_000 && text.ends_with("data: [DONE]\n\n"), "{} bytes", text.len());
        println!("{} bytes beside a client that does not read, HTTP/2 {http2}: {:?}", text.len(), begun.elapsed());
        assert_eq!(fake.count(), 1);
        // It gets all of it when it reads at last.
        match over_http2 {
            Some(leader) => assert_eq!(leader.text().await.unwrap().len(), text.len()),
            None => {
                let mut got = 0;
                while got < text.len() {
                    let piece = over_http1.read_some().await;
                    assert!(!piece.is_empty(), "the connection ended after {got} bytes");
                    got += piece.len();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_answer_is_better_than_none() {
    let fake = Fake::start(|_, call| match call {
        0 => Answer::completion(),
        1 => Answer::json(503, r#"{"error":{"message":"down"}}"#),
        _ => Answer { steps: vec![send(&COMPLETION[..100]), Step::Cut], sized: false, ..Answer::completion() },
    })
    .await;
    let yaml =
        providers(&[("openai", fake.address)]) + "auth: {anonymous: default}\ncache: {ttl: 1s, stale_if_error: 60s}\n";
    let gateway = Gateway::start(&yaml);
    let body = chat("gpt-4o", FIXED);
    assert_eq!(course_of(&gateway, &body, &[]).await, "MISS");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for calls in 2..=3 {
        let reply = ask(&gateway, &body, &[]).await;
        assert_eq!((reply.status().as_u16(), course(&reply).as_str()), (200, "STALE"));
        assert_eq!((header(&reply, "x-chittycan-cost"), header(&reply, "age")), ("0", "1"));
        assert_eq!(reply.text().await.unwrap(), COMPLETION);
        assert_eq!(fake.count(), calls);
    }
    // Never what a purge has covered.
    let token = gateway.token("default").await;
    let purge = [("authorization", format!("Bearer {token}"))];
    let purge: Vec<_> = purge.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(post(&gateway, "/v1/cache/invalidate", r#"{"model":"gpt-4o"}"#, &purge).await.status(), 200);
    assert_eq!(ask(&gateway, &body, &[]).await.status(), 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_another_model_is_not_kept() {
    let first = Fake::start(|_, call| match call {
        0 => Answer::json(503, "{}"),
        _ => Answer::completion(),
    })
    .await;
    let second = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", first.address), ("groq", second.address)]);
    let route = "  - {model: best, to: [openai/gpt-4o, groq/llama-3.3-70b-versatile]}\ndefault_provider";
    let gateway = Gateway::start(&yaml.replace("default_provider", route));
    let reply = ask(&gateway, &chat("best", FIXED), &[]).await;
    assert_eq!((course(&reply).as_str(), header(&reply, "x-chittycan-provider")), ("MISS", "groq"));
    let reply = ask(&gateway, &chat("best", FIXED), &[]).await;
    assert_eq!((course(&reply).as_str(), header(&reply, "x-chittycan-provider")), ("MISS", "openai"));
    assert_eq!(course_of(&gateway, &chat("best", FIXED), &[]).await, "HIT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_counts_at_once_and_for_its_tenant() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + "tenants: {a: {}, b: {}}\n"));
    let (a, b) = (format!("Bearer {}", gateway.token("a").await), format!("Bearer {}", gateway.token("b").await));
    let body = chat("gpt-4o", FIXED);
    let course_for = async |who: &str| course_of(&gateway, &body, &[("authorization", who)]).await;
    for who in [&a, &b] {
        assert_eq!(course_for(who).await, "MISS");
    }
    let purge = async |who: &str, what: &str| {
        post(&gateway, "/v1/cache/invalidate", what, &[("authorization", who)]).await.status().as_u16()
    };
    assert_eq!(purge(&a, r#"{"tenant":"b"}"#).await, 403);
    assert_eq!(purge(&a, "{}").await, 400);
    assert_eq!(purge(&a, r#"{"al":true}"#).await, 400);
    assert_eq!(post(&gateway, "/v1/cache/invalidate", r#"{"all":true}"#, &[]).await.status(), 401);
    assert_eq!((course_for(&a).await, course_for(&b).await), ("HIT".to_owned(), "HIT".to_owned()));
    assert_eq!(purge(&a, r#"{"all":true}"#).await, 200, "all of its own");
    assert_eq!((course_for(&a).await, course_for(&b).await), ("MISS".to_owned(), "HIT".to_owned()));
    let key = header(&ask(&gateway, &body, &[("authorization", &b)]).await, "x-chittycan-cache-key").to_owned();
    assert_eq!(purge(&b, &format!(r#"{{"key":"{key}"}}"#)).await, 200);
    assert_eq!(course_for(&b).await, "MISS");
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_count_in_the_request_rate_and_not_in_the_budget() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)])
        + "tenants: {default: {limits: {requests_per_minute: 20}, budgets: [{usd: 0.02}]}}\n";
    let gateway = Gateway::start(&yaml);
    let body = chat("gpt-4o", r#","temperature":0,"max_tokens":100"#);
    let mut courses = Vec::new();
    for _ in 0..20 {
        courses.push(course_of(&gateway, &body, &[]).await);
    }
    assert_eq!(courses.iter().filter(|course| *course == "HIT").count(), 19);
    let refused = ask(&gateway, &body, &[]).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, COST);
}

/// What the provider says to question `n`: long, and like no other.
fn answer_to(n: u64) -> String {
    blake3::hash(&n.to_le_bytes()).to_hex().repeat(600)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_a_fill_or_a_write_leaves_right_answers_or_none() {
    let fake = Fake::start(|seen, _| {
        let body = seen.json();
        let text = answer_to(body["seed"].as_u64().unwrap());
        if body["stream"] == true {
            // Slow enough to be killed within.
            let mut steps = vec![send(&chunk(r#"{"role":"assistant","content":""}"#, "null"))];
            for piece in text.as_bytes().chunks(text.len() / 4) {
                let piece = std::str::from_utf8(piece).unwrap();
                steps.extend([
                    send(&chunk(&format!(r#"{{"content":"{piece}"}}"#), "null")),
                    Step::Wait(Duration::from_millis(3)),
                ]);
            }
            steps.extend(words(0, Duration::ZERO).into_iter().skip(1));
            return Answer::stream(steps);
        }
        Answer::json(200, &COMPLETION.replace("Hello there friend", &text))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("can.yaml");
    let port = free_port();
    let yaml = format!(
        "listen: [{{address: \"127.0.0.1:{port}\"}}]\nadmin: off\nserver: {{lame_duck: 0s}}\n{}",
        providers(&[("openai", fake.address)])
    );
    std::fs::write(&file, yaml).unwrap();
    let file = file.display().to_string();
    let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
    let body = |n: u64, streamed: bool| chat("gpt-4o", &format!(r#","seed":{n},"stream":{streamed}"#));
    let (mut kept, mut asked) = (0, 0);
    for round in 0..4_u64 {
        let mut process = Process::start(&["serve", "--config", &file]);
        process.until("ready");
        let client = reqwest::Client::new();
        // What earlier rounds have left: right, or not there.
        for n in 0..round * 200 {
            let request = client.post(&url).header("cache-control", "only-if-cached").body(body(n, n % 3 == 0));
            let reply = request.send().await.unwrap();
            asked += 1;
            if reply.status() == 504 {
                continue;
            }
            assert_eq!((reply.status().as_u16(), course(&reply).as_str()), (200, "HIT"));
            let text = reply.text().await.unwrap();
            let told = match n % 3 {
                0 => {
                    let (told, whole) = read(&text);
                    assert!(whole, "{n}");
                    told
                }
                _ => serde_json::from_str::<Value>(&text).unwrap()["choices"][0]["message"]["content"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            };
            assert!(told == answer_to(n), "question {n} has a wrong answer of {} bytes", told.len());
            kept += 1;
        }
        if round == 3 {
            process.signal(nix::sys::signal::Signal::SIGTERM);
            assert!(process.ended_within(Duration::from_secs(10)).is_some());
            break;
        }
        let served = Arc::new(AtomicU64::new(0));
        let requests: Vec<_> = (round * 200..(round + 1) * 200)
            .map(|n| {
                let (client, url, body) = (client.clone(), url.clone(), body(n, n % 2 == 0));
                let served = served.clone();
                tokio::spawn(async move {
                    if let Ok(reply) = client.post(url).body(body).send().await
                        && reply.bytes().await.is_ok()
                    {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // With some kept, some being written and some being made.
        while served.load(Ordering::Relaxed) < 60 + 40 * round {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process.signal(nix::sys::signal::Signal::SIGKILL);
        assert!(process.ended_within(Duration::from_secs(5)).is_some());
        for request in requests {
            request.await.unwrap();
        }
    }
    println!("{kept} of {asked} looks found a right answer, none a wrong one");
    assert!(kept > 0, "the disk has kept nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_outlive_the_process() {
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("can.yaml");
    let port = free_port();
    let listen = format!("listen: [{{address: \"127.0.0.1:{port}\"}}]\nadmin: off\nserver: {{lame_duck: 0s}}\n");
    std::fs::write(&file, listen + &providers(&[("openai", fake.address)])).unwrap();
    for (expected, usage) in [("MISS", 1), ("HIT", 1)] {
        let mut process = Process::start(&["serve", "--config", &file.display().to_string()]);
        process.until("ready");
        let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
        let reply = reqwest::Client::new().post(url).body(chat("gpt-4o", FIXED)).send().await.unwrap();
        assert_eq!(course(&reply), expected);
        assert_eq!(reply.text().await.unwrap(), COMPLETION);
        assert_eq!(fake.count(), usage);
        process.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(process.ended_within(Duration::from_secs(10)).is_some());
    }
}
