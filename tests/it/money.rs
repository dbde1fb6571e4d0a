//! Money: nobody spends past a hard budget, whatever comes at once; every cent is in the ledger, whatever breaks.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Answer, COMPLETION, Fake, Gateway, Process, Step, chat, fake::send, free_port, gateway::providers, raw,
};

/// The completion's usage at gpt-4o's price: 600 * 2.50 + 400 * 1.25 + 100 * 10 dollars per million.
const COST: i64 = 3_000_000;

const USAGE: &str = r#""usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100,"prompt_tokens_details":{"cached_tokens":400}}"#;

fn stream(wait: Duration) -> Answer {
    let delta = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}"#;
    let last = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let usage = format!(
        r#"data: {{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[],{USAGE}}}"#
    );
    Answer::stream(vec![
        send(&format!("{delta}\n\n")),
        Step::Wait(wait),
        send(&format!("{last}\n\n{usage}\n\ndata: [DONE]\n\n")),
    ])
}

/// A slow provider of JSON and streams.
async fn provider(wait: Duration) -> Fake {
    Fake::start(move |seen, _| match seen.json()["stream"].as_bool() {
        Some(true) => stream(wait),
        _ => Answer::completion().after(wait),
    })
    .await
}

fn budget(usd: &str) -> String {
    format!("tenants: {{default: {{budgets: [{{usd: {usd}}}]}}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_at_once_never_spend_past_a_hard_budget() {
    let fake = provider(Duration::from_millis(300)).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + &budget("0.50")));
    let client = reqwest::Client::new();
    let (mut served, mut refused, mut held) = (0, 0, 0);
    // In waves, until the budget is used up.
    for wave in 0.. {
        let before = served + held;
        let requests = (0..500).map(|n| {
            let (client, url) = (client.clone(), gateway.url("/v1/chat/completions"));
            let extra = if n % 2 == 0 { r#","max_tokens":200"# } else { r#","max_tokens":200,"stream":true"# };
            tokio::spawn(async move {
                let reply = client.post(url).body(chat("gpt-4o", extra)).send().await.unwrap();
                let (status, retry) = (reply.status().as_u16(), reply.headers().get("x-should-retry").cloned());
                (status, retry, reply.text().await.unwrap())
            })
        });
        for request in requests.collect::<Vec<_>>() {
            let (status, retry, body) = request.await.unwrap();
            match status {
                200 => served += 1,
                402 => {
                    refused += 1;
                    assert_eq!(retry.unwrap(), "false");
                    let error = &serde_json::from_str::<Value>(&body).unwrap()["error"];
                    assert_eq!(
                        (&error["type"], &error["code"]),
                        (&"insufficient_quota".into(), &"budget_exceeded".into())
                    );
                    assert_eq!(
                        (&error["budget"]["tenant"], &error["budget"]["limit_usd"]),
                        (&"default".into(), &"0.5".into())
                    );
                    assert!(error["budget"]["resets_at"].as_i64().is_some(), "{error}");
                }
                // What is only held for others of the wave was waited for in vain.
                429 if body.contains("budget_held") => held += 1,
                other => panic!("{other} in wave {wave}: {body}"),
            }
        }
        if served + held == before {
            break;
        }
    }
    let spent = gateway.query("SELECT sum(cost) FROM entries").await;
    println!("{served} served, {refused} refused, {} spent of 0.5", spent as f64 / 1e9);
    assert_eq!(spent, served * COST, "the ledger has what was served");
    assert!(spent <= 500_000_000, "{spent}");
    // One more would not have fitted: its worst case is just below half a cent.
    assert!(spent > 500_000_000 - 5_000_000, "{spent} is far from the limit");
    assert_eq!(fake.count() as i64, served, "a refused request reaches no provider");
    assert_eq!(gateway.query("SELECT sum(count) FROM refusals WHERE status = 402").await, refused);
    let metrics = gateway.metrics().await;
    assert!(metrics.contains(r#"can_budget_usd{part="reserved",period="monthly",tenant="default"} 0"#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_tells_what_it_would_take_and_may_be_a_429() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]) + &budget("0.1") + "budgets: {exceeded_status: 429}\n";
    let gateway = Gateway::start(&yaml);
    let client = reqwest::Client::new();
    // The longest answer of gpt-4o alone is worth more than a dime: refused, not cut short.
    let reply = client.post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", "")).send().await.unwrap();
    assert_eq!(reply.status().as_u16(), 429);
    assert_eq!(reply.headers()["x-should-retry"], "false");
    let wait: u64 = reply.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=31 * 86_400).contains(&wait), "{wait}");
    let body: Value = reply.json().await.unwrap();
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("$0.1 in all") && message.contains("max_tokens"), "{message}");
    assert_eq!(fake.count(), 0);
    let reply = client
        .post(gateway.url("/v1/chat/completions"))
        .body(chat("gpt-4o", r#","max_tokens":100"#))
        .send()
        .await
        .unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["x-chittycan-cost"]), (200, &"0.003".parse().unwrap()));
    // The connection of a refused request goes on.
    let mut raw = raw::Client::connect(gateway.addresses[0]).await;
    for _ in 0..3 {
        raw.post("/v1/chat/completions", "", chat("gpt-4o", "").as_bytes()).await;
        assert_eq!(raw.reply().await.unwrap().status, 429);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_lets_nothing_unpriced_by() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address), ("lab", fake.address)])
        + "  - {model: mixed, to: [lab/unknown, openai/gpt-4o]}\n";
    let yaml = yaml.replace("routes:\n", "ROUTES").replace("default_provider: openai\n", "");
    let (head, routes) = yaml.split_once("ROUTES").unwrap();
    let yaml = format!("{head}routes:\n{routes}default_provider: openai\n{}", budget("10"));
    let gateway = Gateway::start(&yaml);
    let client = reqwest::Client::new();
    let ask = async |path: &str, body: String| {
        let reply = client.post(gateway.url(path)).body(body).send().await.unwrap();
        let status = reply.status().as_u16();
        (status, reply.headers().clone(), reply.json::<Value>().await.unwrap())
    };
    let (status, headers, body) = ask("/v1/chat/completions", chat("never-heard-of", "")).await;
    assert_eq!((status, &body["error"]["code"]), (403, &"model_not_priced".into()));
    assert_eq!(headers["x-should-retry"], "false");
    assert!(body["error"]["message"].as_str().unwrap().contains("'openai/never-heard-of' has no price"), "{body}");
    // A route goes on with what has a price.
    let (status, headers, _) = ask("/v1/chat/completions", chat("mixed", r#","max_tokens":10"#)).await;
    assert_eq!((status, headers["x-chittycan-provider"].to_str().unwrap()), (200, "openai"));
    // What cannot be metered is no way around it; what costs nothing is.
    let (status, _, body) = ask("/v1/images/generations", r#"{"prompt":"a cat"}"#.into()).await;
    assert_eq!((status, &body["error"]["code"]), (403, &"path_not_metered".into()));
    assert_eq!(ask("/v1/files", "x".into()).await.0, 200);
    assert_eq!(ask("/v1/filesystem", "x".into()).await.0, 403);
    assert_eq!(reqwest::get(gateway.url("/v1/fine_tuning/jobs")).await.unwrap().status().as_u16(), 200);
    let upgrade =
        client.get(gateway.url("/v1/realtime")).header("connection", "upgrade").header("upgrade", "x, websocket");
    assert_eq!(upgrade.send().await.unwrap().status().as_u16(), 403);
    assert_eq!(ask("/v1/moderations", r#"{"input":"hi"}"#.into()).await.0, 200, "OpenAI's moderation is free");
    // What a request would do behind our back is refused too.
    let later = r#"{"model":"gpt-4o","input":"hi","background":true}"#.to_owned();
    assert_eq!(ask("/v1/responses", later).await.0, 403);
    assert_eq!(ask("/v1/chat/completions", chat("gpt-4o", r#","models":["gpt-4o","o3"]"#)).await.0, 403);
    assert_eq!(ask("/v1/chat/completions", chat("gpt-4o", r#","Max_Tokens":100000"#)).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_costs_nothing_and_gives_back_what_it_held() {
    let fake = Fake::start(|_, n| match n % 2 {
        0 => Answer::json(400, r#"{"error":{"message":"m","type":"t","param":null,"code":null}}"#),
        _ => Answer::json(500, "{}"),
    })
    .await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + &budget("0.01")));
    let client = reqwest::Client::new();
    for _ in 0..30 {
        let body = chat("gpt-4o", r#","max_tokens":300"#);
        let reply = client.post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
        assert!(matches!(reply.status().as_u16(), 400 | 500), "{}", reply.status());
    }
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, 0);
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE basis = 'nothing'").await, 30);
}

/// "hi" and "user" are one token each, a message has four around it, and three begin the answer.
const PROMPT: i64 = 9 * 2_500;

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_breaks_at_work_is_paid_for_what_it_can_have_done() {
    let cut = vec![send(r#"{"id":"c""#), Step::Wait(Duration::from_millis(20)), Step::Cut];
    let breaks = Fake::always(Answer { steps: cut, sized: false, ..Answer::completion() }).await;
    let silent = Fake::always(Answer::completion().after(Duration::from_secs(2))).await;
    let good = Fake::always(Answer::completion()).await;
    let yaml =
        providers(&[("openai", breaks.address), ("openai-silent", silent.address), ("openai-good", good.address)])
            .replace("credentials: mapped", "credentials: mapped, timeouts: {read: 150ms}")
            .replace(
                "routes:",
                "routes:\n  - {model: breaks, to: [openai/gpt-4o]}\n  - {model: silent, to: [openai-silent/gpt-4o]}",
            );
    let gateway = Gateway::start(&(yaml + &budget("10")));
    let ask = async |model: &str| {
        let body = chat(model, r#","max_tokens":100"#);
        let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
        reply.status().as_u16()
    };
    let spent = async |entries: i64| {
        let begun = Instant::now();
        while gateway.query("SELECT count(*) FROM entries").await < entries {
            assert!(begun.elapsed() < Duration::from_secs(10), "not counted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateway.query("SELECT sum(cost) FROM entries").await
    };
    // Nobody has seen what was generated: all that the request allows can have been, in the time there was.
    let broken = PROMPT + 100 * 10_000;
    assert_eq!((ask("breaks").await, spent(1).await), (502, broken));
    assert_eq!((ask("silent").await, spent(2).await), (504, 2 * broken));
    // The third answers: all three are paid for.
    assert_eq!((ask("gpt-4o").await, spent(3).await), (200, 4 * broken + COST));
    assert_eq!(gateway.query("SELECT max(prompt_tokens) FROM entries").await, 1_000 + 2 * 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_relayed_is_counted_when_the_client_leaves_or_the_stream_breaks() {
    let word = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" hello"},"finish_reason":null}]}"#;
    let words = |end: Step| {
        let mut steps: Vec<Step> = (0..50).map(|_| send(&format!("{word}\n\n"))).collect();
        steps.push(end);
        Answer::stream(steps)
    };
    let (stalls, breaks) = (words(Step::Stall), words(Step::Cut));
    let fake = Fake::start(move |_, n| if n == 0 { stalls.clone() } else { breaks.clone() }).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + &budget("10")));
    let body = chat("gpt-4o", r#","stream":true,"max_tokens":1000"#);
    let mut client = raw::Client::connect(gateway.addresses[0]).await;
    client.post("/v1/chat/completions", "", body.as_bytes()).await;
    let mut seen = String::new();
    while seen.matches(" hello").count() < 50 {
        seen.push_str(&String::from_utf8_lossy(&client.read_some().await));
    }
    drop(client);
    fake.until_broken().await;
    let broken = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
    let broken = broken.text().await.unwrap();
    assert!(broken.contains("stream_interrupted"), "{broken}");
    // The last bytes before a cut may be lost on the way to us.
    let relayed = broken.matches(" hello").count() as i64;
    assert!(relayed > 0);

    let begun = Instant::now();
    while gateway.query("SELECT count(*) FROM entries WHERE basis = 'counted'").await < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "not counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // " hello" is one token.
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE prompt_tokens = 9").await, 2);
    assert_eq!(gateway.query("SELECT completion_tokens FROM entries WHERE status = 499").await, 50);
    assert_eq!(gateway.query("SELECT completion_tokens FROM entries WHERE status = 200").await, relayed);
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, (50 + relayed) * 10_000 + 2 * PROMPT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_outgrows_its_budget_is_stopped_with_an_error_or_finishes_as_configured() {
    // A provider that does not care for max_tokens.
    let word = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" hello"},"finish_reason":null}]}"#;
    let endless = || {
        let mut steps = Vec::new();
        for _ in 0..4_000 {
            steps.push(send(&format!("{word}\n\n")));
            steps.push(Step::Wait(Duration::from_micros(200)));
        }
        steps.push(send(&format!("data: {{\"choices\":[],{}}}\n\ndata: [DONE]\n\n", USAGE.replace("100,", "4000,"))));
        Answer::stream(steps)
    };
    for (overrun, stopped) in [("stop", true), ("finish", false)] {
        let fake = Fake::always(endless()).await;
        let yaml =
            providers(&[("openai", fake.address)]) + &budget("0.02") + &format!("budgets: {{overrun: {overrun}}}\n");
        let gateway = Gateway::start(&yaml);
        let body = chat("gpt-4o", r#","stream":true,"max_tokens":500"#);
        let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
        let text = reply.text().await.unwrap();
        let (words, begun) = (text.matches(" hello").count(), Instant::now());
        while gateway.query("SELECT count(*) FROM entries").await < 1 {
            assert!(begun.elapsed() < Duration::from_secs(10), "not settled");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let spent = gateway.query("SELECT sum(cost) FROM entries").await;
        if stopped {
            let end = text.trim_end().rsplit("\n\n").next().unwrap();
            let error: Value = serde_json::from_str(end.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(error["error"]["code"], "budget_exceeded", "{error}");
            assert!(!text.contains("[DONE]"));
            // Two cents are 2 000 tokens of output; it was let grow from 500 as far as they go.
            assert!((1_500..=2_000).contains(&words), "{words}");
            assert!((15_000_000..=20_000_000).contains(&spent), "{spent}");
            assert!(fake.until_broken().await.elapsed() < Duration::from_secs(5), "the provider is told");
        } else {
            assert!(text.contains("[DONE]") && words == 4_000, "{words}");
            assert!(spent > 20_000_000, "{spent}: the truth, although it is over the budget");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_share_the_budget_of_their_parent() {
    let fake = Fake::always(Answer::completion()).await;
    let tenants = "tenants:\n  acme: {budgets: [{usd: 0.01, period: daily}]}\n  \
                   red: {parent: acme}\n  blue: {parent: acme, budgets: [{usd: 100}]}\n  green: {}\n";
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + tenants));
    let mut tokens = HashMap::new();
    for tenant in ["red", "blue", "green"] {
        tokens.insert(tenant, gateway.token(tenant).await);
    }
    let ask = async |tenant: &str| {
        let body = chat("gpt-4o", r#","max_tokens":100"#);
        let request = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).bearer_auth(&tokens[tenant]);
        let reply = request.body(body).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    };
    for tenant in ["red", "blue"] {
        assert_eq!(ask(tenant).await.0, 200);
    }
    assert_eq!(ask("red").await.0, 200);
    let (status, body) = ask("blue").await;
    assert_eq!(status, 402, "{body}");
    assert!(body.contains(r#""tenant":"acme","period":"daily""#), "{body}");
    assert_eq!(ask("green").await.0, 200);
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries WHERE tenant IN ('red', 'blue')").await, 3 * COST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_was_spent_and_takes_the_new_limit() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start_with_env(
        &providers(&[("openai", fake.address)]),
        &[("CHITTY_TENANT_ID", "my-team"), ("CHITTY_BUDGET_MONTHLY_USD", "0.0065")],
    );
    let ask = async || {
        let body = chat("gpt-4o", r#","max_tokens":100"#);
        let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
        reply.status().as_u16()
    };
    assert_eq!((ask().await, ask().await), (200, 402), "no file is needed for a budget");
    let old = std::fs::read_to_string(&gateway.file).unwrap();
    // A weekly budget beside it begins with what was spent this week.
    let more = "tenants: {my-team: {budgets: [{usd: 0.004, period: weekly}]}}\n";
    std::fs::write(&gateway.file, format!("{old}{more}")).unwrap();
    gateway.reloader.reload().unwrap();
    let metrics = gateway.metrics().await;
    for (part, period, usd) in
        [("spent", "weekly", "0.003"), ("spent", "monthly", "0.003"), ("limit", "weekly", "0.004")]
    {
        let line = format!(r#"can_budget_usd{{part="{part}",period="{period}",tenant="my-team"}} {usd}"#);
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE tenant = 'my-team'").await, 1);
    assert_eq!(gateway.query("SELECT sum(count) FROM refusals WHERE tenant = 'my-team'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_delivered_signed_once_each_and_again_until_taken() {
    let fake = Fake::always(Answer::completion()).await;
    // Refuses the first two calls.
    let hook = Fake::start(|_, n| Answer::json(if n < 2 { 500 } else { 200 }, "{}")).await;
    let yaml = providers(&[("openai", fake.address)])
        + "tenants: {default: {budgets: [{usd: 0.007, alert_at: [40, 80]}]}}\n"
        + &format!("budgets: {{webhook: {{url: \"http://{}/hook\", secret: whsec_c2VjcmV0}}}}\n", hook.address);
    let gateway = Gateway::start(&yaml);
    for _ in 0..2 {
        let body = chat("gpt-4o", r#","max_tokens":100"#);
        let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
    }
    let begun = Instant::now();
    while gateway.query("SELECT count(*) FROM alerts WHERE delivered_at IS NOT NULL").await < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "not delivered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let calls = hook.seen();
    let ids: Vec<_> = calls.iter().map(|call| call.header("webhook-id").unwrap()).collect();
    assert_eq!(calls.len(), 4, "{ids:?}");
    for call in &calls {
        assert!(call.header("webhook-signature").unwrap().starts_with("v1,"));
        let data = &call.json()["data"];
        assert_eq!(
            (&data["tenant"], &data["period"], &data["limit_usd"]),
            (&"default".into(), &"monthly".into(), &"0.007".into())
        );
        assert!(matches!(data["threshold_percent"].as_i64(), Some(40 | 80)));
    }
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 2, "a repetition has the same id: {ids:?}");
}

/// What a killed process leaves is in the ledger of the next one: settled requests at their cost, once each, and those
/// under way at what was reserved for them.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_no_entry_and_counts_none_twice() {
    let fake = provider(Duration::from_millis(40)).await;
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let yaml = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: off\nserver: {{lame_duck: 0s}}\nlog: {{access: false}}\n{}{}",
        providers(&[("openai", fake.address)]),
        budget("1000")
    );
    let file = folder.path().join("can.yaml");
    std::fs::write(&file, yaml).unwrap();
    let file = file.display().to_string();
    // What clients were told: the request's id in the ledger is the gateway's own, which providers without one let through.
    let (mut told, mut asked) = (Vec::new(), 0_usize);
    let answered = Arc::new(AtomicUsize::new(0));
    for round in 0..3 {
        let mut process = Process::start(&["serve", "--config", &file]);
        process.until("ready");
        let client = reqwest::Client::new();
        let requests: Vec<_> = (0..64)
            .map(|n| {
                let (client, answered) = (client.clone(), answered.clone());
                tokio::spawn(async move {
                    let (mut ids, mut sent) = (Vec::new(), 0);
                    for turn in 0.. {
                        let extra = if (n + turn) % 2 == 0 {
                            r#","max_tokens":200"#
                        } else {
                            r#","max_tokens":200,"stream":true"#
                        };
                        let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
                        sent += 1;
                        let Ok(reply) = client.post(url).body(chat("gpt-4o", extra)).send().await else { break };
                        let id = reply.headers().get("x-request-id").map(|id| id.to_str().unwrap().to_owned());
                        let Ok(text) = reply.text().await else { break };
                        let whole = text.contains("[DONE]") || text.contains("prompt_tokens");
                        answered.fetch_add(usize::from(whole), Ordering::Relaxed);
                        ids.extend(id.filter(|_| whole));
                    }
                    (ids, sent)
                })
            })
            .collect();
        // A machine that is busy needs longer to bring enough of them under way.
        let begun = Instant::now();
        while answered.load(Ordering::Relaxed) < (round + 1) * 200 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{answered:?} answers");
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        process.signal(Signal::SIGKILL);
        assert!(process.ended_within(Duration::from_secs(5)).is_some());
        for request in requests {
            let (ids, sent) = request.await.unwrap();
            told.extend(ids);
            asked += sent;
        }
    }
    // The last start recovers, and ends as it should.
    let mut process = Process::start(&["serve", "--config", &file]);
    process.until("ready");
    process.signal(Signal::SIGTERM);
    assert!(process.ended_within(Duration::from_secs(10)).is_some());

    let connection = chittycan::store::sqlite::open_to_read(&folder.path().join("can.db")).unwrap();
    let mut rows = connection.prepare("SELECT id, cost, basis FROM entries").unwrap();
    let entries: HashMap<String, (i64, String)> = rows
        .query_map([], |row| {
            let id = chittycan::types::RequestId::from_bytes(row.get(0)?);
            Ok((id.to_string(), (row.get(1)?, row.get(2)?)))
        })
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let total: i64 = connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).unwrap();
    assert_eq!(total as usize, entries.len(), "an id is there once");
    let lost: Vec<_> = told.iter().filter(|id| !entries.contains_key(*id)).collect();
    let recovered = entries.values().filter(|(_, basis)| basis == "recovered").count();
    println!(
        "{asked} asked, {} answered, {} entries, {recovered} recovered, {} lost",
        told.len(),
        entries.len(),
        lost.len()
    );
    assert!(lost.is_empty(), "{} of {} are lost: {:?}", lost.len(), told.len(), &lost[..lost.len().min(3)]);
    assert!(told.len() > 500, "{} is no load", told.len());
    assert!(recovered > 0 && entries.len() <= asked, "{recovered} recovered of {asked}");
    for (id, (cost, basis)) in &entries {
        match basis.as_str() {
            "provider" => assert_eq!(*cost, COST, "{id}"),
            // 200 tokens of output and the most that the prompt can have.
            "recovered" => assert!((2_000_000..6_000_000).contains(cost), "{id}: {cost}"),
            other => panic!("{id} is {other}"),
        }
    }
    assert!(
        std::fs::read_dir(folder.path().join("can.db-intents")).unwrap().count() <= 1,
        "recovered segments are deleted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn inference_goes_on_or_is_refused_while_the_database_is_locked() {
    for (policy, expected) in [("serve", 200), ("refuse", 503)] {
        let fake = Fake::always(Answer::completion()).await;
        let yaml = providers(&[("openai", fake.address)]) + &format!("database: {{on_failure: {policy}}}\n");
        let gateway = Gateway::start(&yaml);
        let ask = async || {
            let begun = Instant::now();
            let url = gateway.url("/v1/chat/completions");
            let reply = reqwest::Client::new().post(url).body(chat("gpt-4o", "")).send().await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            (reply.status().as_u16(), reply.headers().get("x-should-retry").is_none(), reply.text().await.unwrap())
        };
        let blocker = rusqlite::Connection::open(gateway.database()).unwrap();
        blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(ask().await.0, 200, "what is waiting is not lost");
        gateway.metrics_with(r#"can_ledger_up{part="database"} 0"#).await;
        let (status, may_retry, body) = ask().await;
        assert_eq!((status, may_retry), (expected, true), "{body}");
        assert_eq!(status == 503, body.contains("ledger_unavailable"), "{body}");
        blocker.execute_batch("COMMIT").unwrap();
        gateway.metrics_with(r#"can_ledger_up{part="database"} 1"#).await;
        assert_eq!(ask().await.0, 200);
        let served = if expected == 200 { 3 } else { 2 };
        assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE status = 200").await, served);
        assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, served * COST);
    }
}

/// A limit on the size of files stands in for a full disk: it can be had without being root, and be lifted again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_request_and_loses_no_entry() {
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    let (port, admin) = (free_port(), free_port());
    let yaml = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: {{address: 127.0.0.1:{admin}}}\nlog: {{access: false}}\n{}{}",
        providers(&[("openai", fake.address)]),
        budget("1000")
    );
    let file = folder.path().join("can.yaml");
    std::fs::write(&file, yaml).unwrap();
    let script = format!(
        "trap '' XFSZ; exec prlimit --fsize=150000:unlimited {} serve --config {}",
        env!("CARGO_BIN_EXE_can"),
        file.display()
    );
    let mut process = Process::run(std::process::Command::new("sh").args(["-c", &script]));
    process.until("ready");
    let ask = async |count: usize| {
        let begun = Instant::now();
        for _ in 0..count {
            let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
            let reply = reqwest::Client::new().post(url).body(chat("gpt-4o", "")).send().await.unwrap();
            assert_eq!(reply.status().as_u16(), 200);
        }
        begun.elapsed()
    };
    let metric = async |line: &str| {
        let begun = Instant::now();
        loop {
            let text = reqwest::get(format!("http://127.0.0.1:{admin}/metrics")).await.unwrap().text().await.unwrap();
            if text.lines().any(|found| found == line) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "no `{line}` in\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut asked = 0;
    while !std::fs::metadata(folder.path().join("can.db-wal")).is_ok_and(|wal| wal.len() > 120_000) {
        ask(20).await;
        asked += 20;
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(asked < 5_000, "the log does not grow");
    }
    ask(300).await;
    metric(r#"can_ledger_up{part="database"} 0"#).await;
    let slow = ask(50).await;
    assert!(slow < Duration::from_secs(5), "{slow:?}");
    let lifted = std::process::Command::new("prlimit")
        .args(["--pid", &process.child.id().to_string(), "--fsize=unlimited:unlimited"])
        .status()
        .expect("prlimit is missing; install it: apt-get install util-linux");
    assert!(lifted.success());
    metric(r#"can_ledger_up{part="database"} 1"#).await;
    metric("can_ledger_waiting_entries 0").await;
    process.signal(Signal::SIGTERM);
    assert!(process.ended_within(Duration::from_secs(10)).is_some());
    let connection = chittycan::store::sqlite::open_to_read(&folder.path().join("can.db")).unwrap();
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let all = (asked + 350) as i64;
    assert_eq!(count("SELECT count(*) FROM entries WHERE basis = 'provider'"), all);
    assert_eq!(count("SELECT sum(cost) FROM entries"), all * COST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_made_does_not_stop_pass_through() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]) + "database: {path: /proc/no/can.db}\n";
    let gateway = Gateway::start(&yaml);
    let client = reqwest::Client::new();
    let ask = || client.post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", ""));
    assert_eq!(ask().send().await.unwrap().status().as_u16(), 200);
    let reply = ask().bearer_auth("chitty_anything").send().await.unwrap();
    assert_eq!(reply.status().as_u16(), 503, "nobody can say that the token is wrong");
    assert!(reply.text().await.unwrap().contains("identity_unavailable"));
    let metrics = gateway.metrics().await;
    for part in ["database", "journal", "tokens"] {
        assert!(metrics.contains(&format!(r#"can_ledger_up{{part="{part}"}} 0"#)), "{metrics}");
    }
    assert!(metrics.contains("can_ledger_waiting_entries 1") || metrics.contains("can_ledger_waiting_entries 2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_without_a_count_is_counted() {
    let bare = COMPLETION.split_once(r#","usage""#).unwrap().0.to_owned() + "}";
    let fake = Fake::always(Answer::json(200, &bare)).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + &budget("1")));
    let reply = reqwest::Client::new()
        .post(gateway.url("/v1/chat/completions"))
        .body(chat("gpt-4o", r#","max_tokens":100"#))
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status().as_u16(), 200);
    let begun = Instant::now();
    while gateway.query("SELECT count(*) FROM entries WHERE basis = 'counted' AND completion_tokens = 3").await < 1 {
        assert!(begun.elapsed() < Duration::from_secs(5), "\"Hello there friend\" has three tokens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
