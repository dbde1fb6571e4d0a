//! Leaving early is not free, and lies are not believed: the ledger never says less than the provider can have charged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::support::{
    Answer, COMPLETION, Fake, Gateway, Step, chat,
    fake::send,
    gateway::{RECORDED, providers},
    raw,
};

/// A model that thinks, by the built-in price list: $1.10 and $4.40 per million, and what the list says it generates in a
/// second at most.
const MODEL: &str = "o3-mini";
const INPUT: i64 = 1_100;
const OUTPUT: i64 = 4_400;
const PER_SECOND: i64 = 1_000;

/// What is generated after we let go, until the provider notices: see `settle::NOTICE`. And what a busy machine adds.
const SLACK: i64 = 250;

/// "hi" and "user", four around the message, and three that begin the answer.
const PROMPT: i64 = 9;

fn chunk(delta: &str, finish: &str) -> Step {
    send(&format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"o3-mini\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    ))
}

fn text() -> Step {
    chunk(r#"{"content":" hello"}"#, "null")
}

fn finish() -> Step {
    chunk("{}", "\"stop\"")
}

fn usage(prompt: i64, completion: i64) -> Step {
    let total = prompt + completion;
    send(&format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"o3-mini\",\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"total_tokens\":{total}}}}}\n\n"
    ))
}

fn done() -> Step {
    send("data: [DONE]\n\n")
}

fn config(fake: &Fake, usd: &str, more: &str) -> String {
    let yaml = providers(&[("openai", fake.address)]).replace("model: gpt-4o,", "model: o3-mini,");
    format!("{yaml}tenants: {{default: {{budgets: [{{usd: {usd}}}]}}}}\n{more}")
}

fn body(extra: &str) -> String {
    chat(MODEL, &format!(r#","max_completion_tokens":20000{extra}"#))
}

/// Asks for a stream, reads until the text is there, and hangs up.
async fn read_until(gateway: &Gateway, wanted: &str) {
    let mut client = raw::Client::connect(gateway.addresses[0]).await;
    client.post("/v1/chat/completions", "", body(r#","stream":true"#).as_bytes()).await;
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let more = client.read_some().await;
        assert!(!more.is_empty(), "the stream ended with {seen}");
        seen.push_str(&String::from_utf8_lossy(&more));
    }
}

/// Cost, tokens and basis of the only entry, once it is there.
async fn entry(gateway: &Gateway) -> (i64, i64, i64) {
    let begun = Instant::now();
    // The count of the last seconds loads a tokenizer, which takes its time in a debug build.
    while !gateway.metrics().await.contains("\ncan_requests_in_flight 0\n") {
        assert!(begun.elapsed() < Duration::from_secs(30), "still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE provider <> '-'").await, 1);
    (
        gateway.query("SELECT cost FROM entries").await,
        gateway.query("SELECT completion_tokens FROM entries").await,
        gateway.query("SELECT status FROM entries").await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_before_the_count_pays_what_is_counted() {
    for http2 in [false, true] {
        let told = Arc::new(Notify::new());
        let steps = vec![text(), finish(), Step::Until(told.clone()), usage(100, 9_000), done()];
        let fake = Fake::always(Answer::stream(steps)).await;
        let gateway = Gateway::start(&config(&fake, "1", ""));
        if http2 {
            let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
            let request = client.post(gateway.url("/v1/chat/completions")).body(body(r#","stream":true"#));
            let mut reply = request.send().await.unwrap();
            let mut seen = Vec::new();
            while !String::from_utf8_lossy(&seen).contains("stop") {
                seen.extend_from_slice(&reply.chunk().await.unwrap().expect("more"));
            }
            drop((reply, client));
        } else {
            read_until(&gateway, "stop").await;
        }
        // The client is gone; the provider tells its count a moment later.
        tokio::time::sleep(Duration::from_millis(150)).await;
        told.notify_one();
        let (cost, tokens, status) = entry(&gateway).await;
        assert_eq!((cost, tokens), (100 * INPUT + 9_000 * OUTPUT, 9_000), "HTTP/2: {http2}");
        assert_eq!(status, 499, "HTTP/2: {http2}");
        assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE basis = 'provider'").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_never_comes_is_bounded_by_what_can_have_been_generated() {
    let fake =
        Fake::always(Answer::stream(vec![text(), Step::Wait(Duration::from_millis(300)), finish(), Step::Stall])).await;
    let gateway = Gateway::start(&config(&fake, "1", ""));
    let begun = Instant::now();
    read_until(&gateway, "stop").await;
    let generating = begun.elapsed();
    let (cost, tokens, _) = entry(&gateway).await;
    let waited = begun.elapsed();
    assert!(waited.as_secs() >= 2, "{waited:?}");
    let most = i64::try_from(generating.as_millis()).unwrap() * PER_SECOND / 1_000;
    // Not the seconds of waiting: the answer was finished by then.
    assert!(tokens >= 300 && tokens <= most + SLACK, "{tokens} of {most}");
    assert_eq!(cost, PROMPT * INPUT + tokens * OUTPUT);
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE basis = 'bounded'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_during_silent_thinking_pays_for_what_can_have_been_thought() {
    for (steps, stream) in [
        // Silent from the beginning, after the header, and after the first words.
        (vec![], true),
        (vec![chunk(r#"{"role":"assistant","content":""}"#, "null"), Step::Stall], true),
        (vec![text(), Step::Stall], true),
        (vec![], false),
    ] {
        let silent = steps.is_empty();
        let mut answer = Answer::stream(steps);
        answer.before = if silent { Duration::from_secs(60) } else { Duration::ZERO };
        let fake = Fake::always(answer).await;
        let gateway = Gateway::start(&config(&fake, "1", ""));
        let mut client = raw::Client::connect(gateway.addresses[0]).await;
        let extra = if stream { r#","stream":true"# } else { "" };
        client.post("/v1/chat/completions", "", body(extra).as_bytes()).await;
        let begun = Instant::now();
        while fake.count() < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let asked = Instant::now();
        if !silent {
            client.read_some().await;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        let thought = i64::try_from(asked.elapsed().as_millis()).unwrap();
        drop(client);
        let (cost, tokens, status) = entry(&gateway).await;
        let most = i64::try_from(begun.elapsed().as_millis()).unwrap();
        // Whatever the provider charges up to its physical pace is in the ledger.
        assert!(tokens >= thought * PER_SECOND / 1_000, "{tokens} for {thought} ms");
        assert!(tokens <= most * PER_SECOND / 1_000 + 2 * SLACK, "{tokens} for {most} ms");
        assert_eq!((cost, status), (PROMPT * INPUT + tokens * OUTPUT, 499));
    }
}

/// The attack as it was seen: on a budget of five cents, sixty answers for $2.376 at the provider and $0.003 in the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn leaving_early_again_and_again_ends_with_the_budget() {
    let fake = Fake::start(|_, _| {
        Answer::stream(vec![text(), finish(), Step::Wait(Duration::from_millis(20)), usage(PROMPT, 9_000), done()])
    })
    .await;
    let gateway = Gateway::start(&config(&fake, "0.3", "budgets: {wait: 10s}\n"));
    let (mut served, mut refused) = (0, 0);
    for _ in 0..12 {
        let mut client = raw::Client::connect(gateway.addresses[0]).await;
        client.post("/v1/chat/completions", "", body(r#","stream":true"#).as_bytes()).await;
        let mut seen = String::new();
        while !seen.contains("stop\"") && !seen.contains("budget_exceeded") {
            seen.push_str(&String::from_utf8_lossy(&client.read_some().await));
        }
        if seen.contains("budget_exceeded") { refused += 1 } else { served += 1 }
    }
    // What a provider can have charged for what it served is in the ledger, and within the limit.
    let bill = served * (PROMPT * INPUT + 9_000 * OUTPUT);
    let begun = Instant::now();
    while gateway.query(RECORDED).await < 12 {
        assert!(begun.elapsed() < Duration::from_secs(10), "not settled");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ledger = gateway.query("SELECT sum(cost) FROM entries").await;
    assert_eq!(fake.count() as i64, served);
    assert!(bill <= ledger && ledger <= 300_000_000, "{bill} charged, {ledger} booked");
    assert!(refused > 0, "{served} served");
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_answers_are_paid_for_and_known() {
    let (told, answers) = (Arc::new(Notify::new()), [true, false]);
    for stream in answers {
        let last = [Step::Until(told.clone()), text(), finish(), usage(100, 9_000), done()];
        let steps: Vec<_> = std::iter::once(text()).chain(last).collect();
        let whole = COMPLETION.replace(r#""completion_tokens":100"#, r#""completion_tokens":9000"#);
        let answer = match stream {
            true => Answer::stream(steps),
            false => Answer { steps: vec![Step::Until(told.clone()), send(&whole)], ..Answer::completion() },
        };
        let fake = Fake::always(answer).await;
        let gateway = Gateway::start(&config(&fake, "1", "budgets: {client_left: drain}\n"));
        let mut client = raw::Client::connect(gateway.addresses[0]).await;
        let extra = if stream { r#","stream":true"# } else { "" };
        client.post("/v1/chat/completions", "", body(extra).as_bytes()).await;
        while fake.count() < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if stream {
            client.read_some().await;
        }
        drop(client);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(fake.broken().is_empty(), "the provider goes on");
        told.notify_one();
        let (_, tokens, status) = entry(&gateway).await;
        assert_eq!((tokens, status), (9_000, 499), "stream: {stream}");
        assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE basis = 'provider'").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_with_a_count_and_a_stream_without_one_are_paid_for() {
    let failed = r#"{"error":{"message":"m","type":"t","param":null,"code":null},"usage":{"prompt_tokens":50,"completion_tokens":700,"total_tokens":750}}"#;
    let broken = send(
        "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n",
    );
    let answers = [
        (Answer::json(400, failed), "", 50 * INPUT + 700 * OUTPUT, 0),
        (Answer::stream(vec![text(), usage(50, 700), broken]), r#","stream":true"#, 50 * INPUT + 700 * OUTPUT, 0),
        // No count comes: what can have been thought in the time.
        (
            Answer::stream(vec![text(), Step::Wait(Duration::from_millis(200)), finish(), done()]),
            r#","stream":true"#,
            PROMPT * INPUT + 200 * OUTPUT,
            2_000 * OUTPUT,
        ),
        // A word against thinking that this model does not have: it may have thought all the same.
        (
            Answer::stream(vec![text(), text(), Step::Wait(Duration::from_millis(200)), finish(), done()]),
            r#","stream":true,"reasoning_effort":"none""#,
            PROMPT * INPUT + 200 * OUTPUT,
            2_000 * OUTPUT,
        ),
    ];
    for (answer, extra, least, slack) in answers {
        let fake = Fake::always(answer).await;
        let gateway = Gateway::start(&config(&fake, "1", ""));
        let reply =
            reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body(extra)).send().await.unwrap();
        let _ = reply.text().await;
        let (cost, ..) = entry(&gateway).await;
        assert!((least..=least + slack).contains(&cost), "{cost} where at least {least} is due: {extra}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_beyond_what_is_possible_is_settled_at_the_bound() {
    let lie = |usage: &str| {
        let (head, tail) = COMPLETION.split_once(r#""usage":{"#).unwrap();
        format!("{head}\"usage\":{{{usage}}},{}", tail.split_once("}},").unwrap().1)
    };
    let bound = body("").len() as i64 + 1_024;
    for (usage, least, most) in [
        (r#""prompt_tokens":1e22,"completion_tokens":5"#, bound * INPUT, bound * INPUT + 5 * OUTPUT),
        (r#""prompt_tokens":-5,"completion_tokens":5"#, bound * INPUT, bound * INPUT + 5 * OUTPUT),
        (r#""prompt_tokens":6,"completion_tokens":-1"#, 20_000 * OUTPUT, 20_000 * OUTPUT + 6 * INPUT),
        (r#""prompt_tokens":6,"completion_tokens":99999999999999"#, 20_000 * OUTPUT, 20_000 * OUTPUT + 6 * INPUT),
        // Nothing is cheaper for being told together with a lie.
        (
            r#""prompt_tokens":99999999,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":99999999}"#,
            bound * INPUT,
            bound * INPUT + 5 * OUTPUT,
        ),
    ] {
        let fake = Fake::always(Answer::json(200, &lie(usage))).await;
        let gateway = Gateway::start(&config(&fake, "0.2", ""));
        let reply =
            reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body("")).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200, "{usage}");
        let told = reply.headers()["x-chittycan-cost"].to_str().unwrap().parse::<f64>().unwrap();
        let (cost, ..) = entry(&gateway).await;
        assert!((least..=most).contains(&cost), "{usage}: {cost} is not between {least} and {most}");
        assert!((told * 1e9 - cost as f64).abs() < 1.0, "{usage}: the header says {told}");
        gateway.metrics_with(r#"can_usage_doubted_total{provider="openai"} 1"#).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_a_count_of_ours_is_not_cut_to_what_was_reserved() {
    // A provider that does not care for the limit, and does not count.
    let steps: Vec<Step> = (0..400).map(|_| text()).chain([finish(), done()]).collect();
    let fake = Fake::always(Answer::stream(steps)).await;
    let gateway = Gateway::start(&providers(&[("openai", fake.address)]));
    let url = gateway.url("/v1/chat/completions");
    let request = reqwest::Client::new().post(url).body(chat("gpt-4o", r#","max_tokens":10,"stream":true"#));
    let told: String = request.send().await.unwrap().text().await.unwrap();
    assert_eq!(told.matches(" hello").count(), 400);
    let (cost, tokens, _) = entry(&gateway).await;
    assert_eq!((cost, tokens), (PROMPT * 2_500 + 400 * 10_000, 400));
}
