//! Guards: what one that waits does to others, and whether anything that one has blocked comes through: to the provider, to the
//! client, to who reads along, into the cache, or on the bill.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chittycan::{
    guards::{Guard, GuardVerdict, Point},
    openai::{Role, TextKind, Texts},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{
    Answer, COMPLETION, Fake, Gateway, Step, chat,
    fake::send,
    gateway::{RECORDED, providers},
    raw::Client,
};

const PATH: &str = "/v1/chat/completions";

/// What makes a chat cacheable.
const FIXED: &str = r#","temperature":0"#;
const STREAM: &str = r#","temperature":0,"stream":true"#;

/// The completion's cost at gpt-4o's price, in billionths of a dollar; see `money`.
const COST: i64 = 3_000_000;

const USAGE: &str = r#""usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100,"prompt_tokens_details":{"cached_tokens":400}}"#;

/// Lets everything pass after a while.
struct Slow {
    wait: Duration,
    seen: Mutex<Vec<(Point, Vec<String>)>>,
}

#[async_trait]
impl Guard for Slow {
    async fn inspect(&self, at: Point, texts: &Texts) -> GuardVerdict {
        self.seen.lock().unwrap().push((at, texts.iter().map(|(_, _, text)| text.into_owned()).collect()));
        tokio::time::sleep(self.wait).await;
        GuardVerdict::Pass
    }
}

impl Slow {
    fn new(wait: Duration) -> Arc<Self> {
        Arc::new(Self { wait, seen: Mutex::default() })
    }

    fn count(&self, at: Point) -> usize {
        self.seen.lock().unwrap().iter().filter(|(point, _)| *point == at).count()
    }
}

/// Blocks what holds a word, at one point.
struct Words {
    at: Point,
    word: &'static str,
    on: AtomicBool,
    roles: Mutex<Vec<(Role, TextKind)>>,
}

#[async_trait]
impl Guard for Words {
    async fn inspect(&self, at: Point, texts: &Texts) -> GuardVerdict {
        self.roles.lock().unwrap().extend(texts.list().iter().map(|text| (text.role, text.kind)));
        let found = texts.iter().any(|(_, _, text)| text.contains(self.word));
        match at == self.at && found && self.on.load(Ordering::Relaxed) {
            true => GuardVerdict::block("This is not allowed here."),
            false => GuardVerdict::Pass,
        }
    }
}

impl Words {
    fn new(at: Point, word: &'static str) -> Arc<Self> {
        Arc::new(Self { at, word, on: AtomicBool::new(true), roles: Mutex::default() })
    }
}

/// Waits at one point until it is told to go on, for texts with a word.
struct Gate {
    at: Point,
    reached: Notify,
    open: Notify,
}

#[async_trait]
impl Guard for Gate {
    async fn inspect(&self, at: Point, texts: &Texts) -> GuardVerdict {
        if at == self.at && texts.iter().any(|(_, _, text)| text.contains("slowly")) {
            self.reached.notify_one();
            self.open.notified().await;
        }
        GuardVerdict::Pass
    }
}

fn chunk(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn word(text: &str) -> String {
    chunk(&format!("{{\"content\":\"{text}\"}}"), "null")
}

/// The end of a stream with its usage.
fn end() -> String {
    let usage = format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[],{USAGE}}}\n\n"
    );
    chunk("{}", "\"stop\"") + &usage + "data: [DONE]\n\n"
}

async fn post(gateway: &Gateway, path: &str, body: &str) -> reqwest::Response {
    reqwest::Client::new().post(gateway.url(path)).body(body.to_owned()).send().await.unwrap()
}

async fn error_of(reply: reqwest::Response) -> (u16, Value) {
    let status = reply.status().as_u16();
    assert_eq!(reply.headers()["x-should-retry"], "false");
    (status, serde_json::from_str(&reply.text().await.unwrap()).unwrap())
}

/// Waits until so many requests are in the ledger.
async fn until_recorded(gateway: &Gateway, requests: i64) {
    let begun = Instant::now();
    while gateway.query(RECORDED).await < requests {
        assert!(begun.elapsed() < Duration::from_secs(10), "not recorded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_waits_delays_what_it_inspects_and_changes_nothing() {
    const WAIT: Duration = Duration::from_millis(10);
    let next = Arc::new(Notify::new());
    let steps: Vec<Step> = (0..6)
        .flat_map(|n| [Step::Until(next.clone()), send(&word(&format!("w{n} ")))])
        .chain([Step::Until(next.clone()), send(&end())])
        .collect();
    let fake = Fake::start(move |seen, _| match seen.json()["stream"] == true {
        true => Answer::stream(steps.clone()),
        false => Answer::completion(),
    })
    .await;
    let guard = Slow::new(WAIT);
    let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), guard.clone());
    let begun = Instant::now();
    let reply = post(&gateway, PATH, &chat("gpt-4o", "")).await;
    assert_eq!((reply.status().as_u16(), &reply.headers()["x-chittycan-cost"]), (200, &"0.003".parse().unwrap()));
    assert_eq!(reply.text().await.unwrap(), COMPLETION);
    assert!(begun.elapsed() >= 2 * WAIT, "the prompt and the reply were waited for");
    assert_eq!(
        *guard.seen.lock().unwrap(),
        [
            (Point::BeforeDispatch, vec!["hi".to_owned()]),
            (Point::BeforeDelivery, vec!["Hello there friend".to_owned()])
        ]
    );
    let stream = r#","stream":true,"stream_options":{"include_usage":true}"#;
    let reply = reqwest::Client::new().post(gateway.url(PATH)).body(chat("gpt-4o", stream));
    let sent = tokio::spawn(async move { reply.send().await.unwrap() });
    let mut expected = String::new();
    let (mut reply, mut got) = (None, Vec::new());
    let mut sent = Some(sent);
    for n in 0..7 {
        let more = if n < 6 { word(&format!("w{n} ")) } else { end() };
        expected.push_str(&more);
        let begun = Instant::now();
        next.notify_one();
        if let Some(sent) = sent.take() {
            reply = Some(sent.await.unwrap());
        }
        while got.len() < expected.len() {
            let piece = reply.as_mut().unwrap().chunk().await.unwrap().expect("more of the stream");
            got.extend_from_slice(&piece);
        }
        assert_eq!(String::from_utf8_lossy(&got), expected);
        assert!(n == 6 || begun.elapsed() >= WAIT, "event {n} came after {:?}", begun.elapsed());
    }
    assert!(reply.unwrap().chunk().await.unwrap().is_none());
    // The last events have no text.
    assert_eq!(guard.count(Point::BetweenEvents), 6);
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, 2 * COST);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_guard_holds_up_nobody_else() {
    for (at, prompt, extra) in [
        (Point::BeforeDispatch, "slowly", ""),
        (Point::BeforeDelivery, "x", ""),
        (Point::BetweenEvents, "x", r#","stream":true"#),
    ] {
        let fake = Fake::start(|seen, _| {
            let text = if seen.json()["messages"][0]["content"] == "hi" { "quickly" } else { "slowly" };
            match seen.json()["stream"] == true {
                true => Answer::stream(vec![send(&(word(text) + &end()))]),
                false => Answer::json(200, &COMPLETION.replace("Hello there friend", text)),
            }
        })
        .await;
        let guard = Arc::new(Gate { at, reached: Notify::new(), open: Notify::new() });
        let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), guard.clone());
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let body = chat("gpt-4o", extra).replace("hi", prompt);
            let request = reqwest::Client::new().post(gateway.url(PATH)).body(body);
            waiting.push(tokio::spawn(async move { request.send().await.unwrap().text().await.unwrap() }));
            guard.reached.notified().await;
        }
        for _ in 0..5 {
            let text = post(&gateway, PATH, &chat("gpt-4o", extra)).await.text().await.unwrap();
            assert!(text.contains("quickly"), "{at:?}: {text}");
        }
        assert!(waiting.iter().all(|task| !task.is_finished()), "{at:?}");
        // One at a time: a guard that is not waiting yet takes the permit when it comes.
        for task in waiting {
            while !task.is_finished() {
                guard.open.notify_waiters();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let text = task.await.unwrap();
            assert!(text.contains("slowly"), "{at:?}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_prompt_reaches_no_provider_and_costs_nothing() {
    let fake = Fake::always(Answer::completion()).await;
    let guard = Words::new(Point::BeforeDispatch, "forbidden");
    let yaml = providers(&[("openai", fake.address)]) + "tenants: {default: {budgets: [{usd: 1}]}}\n";
    let gateway = Gateway::start_guarded(&yaml, guard.clone());
    let requests = [
        (
            PATH,
            json!({"model": "gpt-4o", "messages": [{"content": [{"type": "text", "text": "f\u{6f}rbidden"}], "role": "user"}]}),
        ),
        (PATH, json!({"model": "gpt-4o", "stream": true, "messages": [{"role": "tool", "content": "forbidden"}]})),
        ("/v1/completions", json!({"model": "gpt-4o", "prompt": ["ok", "forbidden"]})),
        ("/v1/embeddings", json!({"model": "gpt-4o", "input": "forbidden"})),
        ("/v1/moderations", json!({"input": ["forbidden"]})),
        (
            "/v1/responses",
            json!({"model": "gpt-4o", "input": [{"type": "function_call_output", "call_id": "c", "output": "forbidden"}]}),
        ),
        (
            "/v1/messages",
            json!({"model": "gpt-4o", "max_tokens": 9, "system": "forbidden", "messages": [{"role": "user", "content": "hi"}]}),
        ),
        (
            "/v1/messages/count_tokens",
            json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "forbidden"}]}),
        ),
    ];
    let sent = i64::try_from(requests.len()).unwrap();
    for (path, body) in requests {
        let (status, error) = error_of(post(&gateway, path, &body.to_string()).await).await;
        assert_eq!((status, &error["error"]["message"]), (400, &"This is not allowed here.".into()), "{path}: {error}");
        match path.contains("messages") {
            true => assert_eq!(
                (&error["type"], &error["error"]["type"]),
                (&"error".into(), &"invalid_request_error".into())
            ),
            false => assert_eq!(
                error["error"],
                json!({"message": "This is not allowed here.", "type": "invalid_request_error", "param": null, "code": "content_blocked"})
            ),
        }
    }
    assert_eq!(fake.count(), 0, "a provider was asked");
    until_recorded(&gateway, sent).await;
    assert_eq!(gateway.query("SELECT coalesce(sum(cost), 0) FROM entries").await, 0);
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("code=\"content_blocked\""), "{metrics}");
    assert!(guard.roles.lock().unwrap().contains(&(Role::Tool, TextKind::ToolResult)));
    // What is not blocked has the whole budget.
    assert_eq!(post(&gateway, PATH, &chat("gpt-4o", "")).await.status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_prompt_is_not_answered_from_the_cache_and_a_reload_keeps_the_guard() {
    let fake = Fake::always(Answer::completion()).await;
    let guard = Words::new(Point::BeforeDispatch, "hi");
    guard.on.store(false, Ordering::Relaxed);
    let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), guard.clone());
    for course in ["MISS", "HIT"] {
        let reply = post(&gateway, PATH, &chat("gpt-4o", FIXED)).await;
        assert_eq!(reply.headers()["x-chittycan-cache"], course);
    }
    guard.on.store(true, Ordering::Relaxed);
    assert_eq!(error_of(post(&gateway, PATH, &chat("gpt-4o", FIXED)).await).await.0, 400);
    gateway.reloader.reload().unwrap();
    assert_eq!(error_of(post(&gateway, PATH, &chat("gpt-4o", FIXED)).await).await.0, 400);
    assert_eq!(fake.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_cannot_be_read_is_not_let_through() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), Slow::new(Duration::ZERO));
    let deep = format!(r#","x":1,"messages":{}"forbidden"{}"#, "[".repeat(500), "]".repeat(500));
    let body = format!(r#"{{"model":"gpt-4o"{deep}}}"#);
    let (status, error) = error_of(post(&gateway, PATH, &body).await).await;
    assert!(status == 400 && error["error"]["message"].as_str().unwrap().contains("nested deeper"), "{error}");
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_reply_is_paid_for_and_reaches_neither_its_client_nor_others_nor_the_cache() {
    let told = Arc::new(Notify::new());
    let release = told.clone();
    let fake = Fake::start(move |_, _| {
        let steps = vec![send(&COMPLETION[..40]), Step::Until(release.clone()), send(&COMPLETION[40..])];
        Answer { steps, ..Answer::completion() }
    })
    .await;
    let guard = Words::new(Point::BeforeDelivery, "there friend");
    let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), guard.clone());
    // One leads, the other follows.
    let mut tasks = Vec::new();
    for number in 0..2 {
        let request = reqwest::Client::new().post(gateway.url(PATH)).body(chat("gpt-4o", FIXED));
        tasks.push(tokio::spawn(async move { request.send().await.unwrap() }));
        fake.until_asked(1).await;
        gateway.metrics_with(&format!("can_requests_in_flight {}", number + 1)).await;
        // A request that follows another shows that nowhere else.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(tasks.iter().all(|task| !task.is_finished()), "an answer before the provider's");
    }
    told.notify_one();
    for (number, task) in tasks.into_iter().enumerate() {
        let reply = task.await.unwrap();
        if number == 0 {
            assert_eq!(reply.headers()["x-chittycan-cost"], "0.003");
        }
        let (status, error) = error_of(reply).await;
        assert_eq!((status, &error["error"]["code"]), (400, &"content_blocked".into()), "{error}");
        assert!(!error.to_string().contains("friend"), "{error}");
    }
    assert_eq!(fake.count(), 1, "who follows does not ask again");
    until_recorded(&gateway, 2).await;
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, COST);
    guard.on.store(false, Ordering::Relaxed);
    told.notify_one();
    let reply = post(&gateway, PATH, &chat("gpt-4o", FIXED)).await;
    assert_eq!((reply.status().as_u16(), &reply.headers()["x-chittycan-cache"]), (200, &"MISS".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_cannot_be_read_is_not_let_through() {
    let broken = Answer::json(200, r#"{"choices":[{"message":{"content":"secret"}}"#);
    let text = Answer { headers: vec![("content-type", "text/plain".into())], ..Answer::json(200, "secret") };
    let encoded = Answer::json(200, "secret").header("content-encoding", "br");
    let large = Answer::json(200, &COMPLETION.replace("there", &"secret".repeat(1_000_000)));
    let nested = Answer::json(200, &format!(r#"{{"choices":{}"secret"{}}}"#, "[".repeat(500), "]".repeat(500)));
    let event = Answer::stream(vec![send("data: {\"choices\":[{\"delta\":{\"content\":\"secret\"\n\n"), send(&end())]);
    let large_body = "http: {max_held_reply: 1MiB}\n";
    for (name, answer) in [
        ("broken", broken),
        ("text", text),
        ("encoded", encoded),
        ("nested", nested),
        ("event", event),
        ("large", large),
    ] {
        let fake = Fake::always(answer).await;
        let yaml = providers(&[("openai", fake.address)]) + large_body;
        let gateway = Gateway::start_guarded(&yaml, Words::new(Point::BeforeDelivery, "secret"));
        let reply = post(&gateway, PATH, &chat("gpt-4o", "")).await;
        let text = reply.text().await.unwrap();
        assert!(text.contains("content_blocked"), "{name}: {}", &text[..text.len().min(500)]);
        assert!(!text.contains("secret"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_providers_are_none_of_a_guards_business() {
    let error = r#"{"error":{"message":"a secret","type":"invalid_request_error","param":null,"code":null}}"#;
    let fake = Fake::always(Answer::json(400, error)).await;
    let guard = Words::new(Point::BeforeDelivery, "secret");
    let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), guard);
    let reply = post(&gateway, PATH, &chat("gpt-4o", "")).await;
    assert_eq!((reply.status().as_u16(), reply.text().await.unwrap().as_str()), (400, error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_event_ends_the_stream_for_all_who_read_it() {
    // The word comes in the middle, or with the very end.
    for with_end in [false, true] {
        let told = Arc::new(Notify::new());
        let release = told.clone();
        let bad = if with_end { word("s\\u0065cret") + &end() } else { word("s\\u0065cret") };
        let steps = vec![send(&word("one ")), Step::Until(release), send(&bad), Step::Stall];
        let fake = Fake::start(move |_, number| match number {
            0 => Answer::stream(steps.clone()),
            _ => Answer::stream(vec![send(&(word("again") + &end()))]),
        })
        .await;
        let guard = Words::new(Point::BetweenEvents, "secret");
        let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), guard);
        let mut readers = Vec::new();
        for _ in 0..3 {
            let mut reply = post(&gateway, PATH, &chat("gpt-4o", STREAM)).await;
            assert_eq!(reply.status().as_u16(), 200);
            let first = reply.chunk().await.unwrap().unwrap();
            assert_eq!(first, word("one ").as_bytes());
            readers.push(reply);
        }
        told.notify_one();
        let stopped = Instant::now();
        for (number, reply) in readers.into_iter().enumerate() {
            let rest = reply.text().await.unwrap();
            assert!(!rest.contains("cret") && !rest.contains("DONE"), "{number}: {rest}");
            let error: Value = serde_json::from_str(rest.trim().strip_prefix("data: ").unwrap()).unwrap();
            let code = if number == 0 { "content_blocked" } else { "stream_interrupted" };
            assert_eq!(error["error"]["code"], code, "{number}: {error}");
        }
        fake.until_broken().await;
        assert!(stopped.elapsed() < Duration::from_secs(2), "the provider is let go of");
        until_recorded(&gateway, 3).await;
        let cost = gateway.query("SELECT sum(cost) FROM entries").await;
        match with_end {
            true => assert_eq!(cost, COST, "what the provider has counted"),
            false => assert!(cost > 0 && cost < COST, "{cost}: what was seen"),
        }
        let again = post(&gateway, PATH, &chat("gpt-4o", STREAM)).await;
        assert_eq!(again.headers()["x-chittycan-cache"], "MISS");
        assert!(again.text().await.unwrap().contains("again"));
        let metrics = gateway.metrics().await;
        assert!(!metrics.contains("interrupted\"} 1"), "the provider has done nothing wrong: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_in_the_dialect_of_its_client() {
    let fake = Fake::start(|seen, _| match seen.path.as_str() {
        PATH => {
            let pause = Step::Wait(Duration::from_millis(50));
            Answer::stream(vec![send(&word("one ")), pause, send(&(word("secret") + &end()))])
        }
        _ => Answer::json(404, "{}"),
    })
    .await;
    let guard = Words::new(Point::BetweenEvents, "secret");
    let gateway = Gateway::start_guarded(&providers(&[("custom", fake.address)]), guard.clone());
    let user = json!([{"role": "user", "content": "hi"}]);
    for (path, body) in [
        ("/v1/messages", json!({"model": "gpt-4o", "max_tokens": 9, "stream": true, "messages": user})),
        ("/v1/responses", json!({"model": "gpt-4o", "stream": true, "input": user})),
    ] {
        let text = post(&gateway, path, &body.to_string()).await.text().await.unwrap();
        assert!(text.contains("one ") && !text.contains("secret"), "{path}: {text}");
        let last = text.trim().rsplit("\n\n").next().unwrap();
        let (event, data) = last.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!((event, &data["type"]), ("event: error", &"error".into()), "{path}: {text}");
        assert_eq!(data["error"]["message"], "This is not allowed here.");
        if path.ends_with("responses") {
            assert_eq!(data["code"], "content_blocked");
            // What was blocked is not to be had by its id either; what was not, is.
            assert_eq!(kept(&gateway, &text).await, 404);
            guard.on.store(false, Ordering::Relaxed);
            let text = post(&gateway, path, &body.to_string()).await.text().await.unwrap();
            assert_eq!(kept(&gateway, &text).await, 200);
        }
    }
}

/// Status of a look-up of the response that a stream has made.
async fn kept(gateway: &Gateway, events: &str) -> u16 {
    let id = events.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    reqwest::get(gateway.url(&format!("/v1/responses/{id}"))).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_the_last_whole_event_is_not_let_through_when_a_stream_breaks() {
    let bad = word("secret");
    let fake = Fake::always(Answer::stream(vec![
        send(&(word("one ") + bad.trim_end())),
        Step::Wait(Duration::from_millis(100)),
        Step::Cut,
    ]))
    .await;
    let guard = Words::new(Point::BetweenEvents, "secret");
    let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), guard);
    let text = post(&gateway, PATH, &chat("gpt-4o", r#","stream":true"#)).await.text().await.unwrap();
    assert!(text.contains("one ") && text.contains("stream_interrupted") && !text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_a_guard_waits_is_noticed() {
    for (at, prompt, extra) in [
        (Point::BeforeDispatch, "slowly", ""),
        (Point::BeforeDelivery, "x", ""),
        (Point::BetweenEvents, "x", r#","stream":true"#),
    ] {
        let fake = Fake::start(|seen, _| match seen.json()["stream"] == true {
            true => Answer::stream(vec![send(&word("slowly")), Step::Stall]),
            false => Answer::json(200, &COMPLETION.replace("there", "slowly")),
        })
        .await;
        let guard = Arc::new(Gate { at, reached: Notify::new(), open: Notify::new() });
        let gateway = Gateway::start_guarded(&providers(&[("openai", fake.address)]), guard.clone());
        let mut client = Client::connect(gateway.addresses[0]).await;
        client.post(PATH, "", chat("gpt-4o", extra).replace("hi", prompt).as_bytes()).await;
        guard.reached.notified().await;
        let asked = fake.count();
        drop(client);
        // The guard never says a word.
        until_recorded(&gateway, 1).await;
        assert_eq!(asked, usize::from(at != Point::BeforeDispatch), "{at:?}");
        assert_eq!(fake.count(), asked, "{at:?}");
        let paid = gateway.query("SELECT coalesce(sum(cost), 0) FROM entries").await > 0;
        assert_eq!(paid, at != Point::BeforeDispatch, "{at:?}");
    }
}
