//! What large bodies cost: never more than the memory budget, never the time of others.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chittycan::tokenizer;
use serde_json::{Value, json};

use crate::support::{Answer, COMPLETION, Fake, Gateway, Process, chat, free_port, raw::Client, reads_well};

const MIB: usize = 1 << 20;

const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}"#;

fn budget(size: &str, upstream: SocketAddr) -> String {
    format!("server: {{threads: 2, shutdown_grace: 1s, memory_budget: {size}}}\n{}", both(upstream))
}

/// `gpt-4o` at a provider of OpenAI's dialect, `claude` at one of Anthropic's; both answer.
fn both(upstream: SocketAddr) -> String {
    format!(
        "providers:\n  openai: {{base_url: \"http://{upstream}/v1\", api_key: sk-gateway, credentials: mapped}}\n  \
         anthropic: {{base_url: \"http://{upstream}/v1\", api_key: sk-ant-gateway, credentials: mapped}}\n\
         routes:\n  - {{model: gpt-4o, to: [openai]}}\n  - {{model: claude, to: [anthropic/claude-sonnet-4-5]}}\n\
         default_provider: openai\n"
    )
}

async fn answering() -> Fake {
    Fake::start(|seen, _| match seen.path.split('?').next() {
        Some("/v1/messages") => Answer::json(200, MESSAGE),
        Some("/v1/messages/count_tokens") => Answer::json(200, r#"{"input_tokens":4711}"#),
        _ => Answer::completion(),
    })
    .await
}

/// A chat request whose one message has so many bytes of text.
fn long(model: &str, text: usize) -> Vec<u8> {
    let text = "all work and no play ".repeat(text / 21 + 1);
    json!({"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": text}]}).to_string().into_bytes()
}

/// A connection that has announced a body of so many bytes, sent none of it, and holds its room.
async fn holder(gateway: &Gateway, bytes: usize) -> Client {
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.write(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\ncontent-length: {bytes}\r\n\r\n")).await;
    let held = format!("can_memory_budget_bytes{{part=\"bodies\"}} {bytes}");
    gateway.metrics_with(&held).await;
    client
}

async fn post(gateway: &Gateway, path: &str, body: Vec<u8>) -> reqwest::Response {
    reqwest::Client::new().post(gateway.url(path)).body(body).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_room_waits_a_moment_and_is_refused_in_its_own_shape() {
    let fake = answering().await;
    let gateway = Gateway::start(&budget("16MiB", fake.address));
    let holding = holder(&gateway, 8 * MIB).await;

    for path in ["/v1/chat/completions", "/v1/messages"] {
        let begun = Instant::now();
        let reply = post(&gateway, path, long("gpt-4o", 4 * MIB)).await;
        let waited = begun.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&waited), "{path}: {waited:?}");
        assert_eq!(reply.status(), 503, "{path}");
        assert_eq!(reply.headers()["retry-after"], "1");
        assert_eq!(reply.headers()["x-should-retry"], "true");
        let error: Value = reply.json().await.unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains("server.memory_budget"), "{error}");
        assert!(reads_well(&error));
        match path {
            "/v1/messages" => assert_eq!(error["error"]["type"], "overloaded_error", "{error}"),
            _ => assert_eq!(error["error"]["code"], "gateway_overloaded", "{error}"),
        }
    }
    // Bodies of usual size do not wait behind it.
    for size in [100, 60 << 10, 800 << 10] {
        let begun = Instant::now();
        let reply = post(&gateway, "/v1/chat/completions", long("gpt-4o", size)).await;
        assert_eq!(reply.status(), 200, "{size}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{size}: {:?}", begun.elapsed());
    }
    // One that waits is served when the holder leaves.
    let url = gateway.url("/v1/chat/completions");
    let waiting = tokio::spawn(reqwest::Client::new().post(url).body(long("gpt-4o", 4 * MIB)).send());
    gateway.metrics_with("can_memory_budget_waiting 1").await;
    drop(holding);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    assert_eq!(fake.last().body.len(), long("gpt-4o", 4 * MIB).len());
    for part in ["bodies", "work", "replies"] {
        gateway.metrics_with(&format!("can_memory_budget_bytes{{part=\"{part}\"}} 0")).await;
    }
    let metrics = gateway.metrics_with("can_memory_budget_refused_total 2").await;
    assert!(metrics.contains("can_memory_budget_waits_total 3"), "{metrics}");
    assert!(metrics.contains("can_memory_budget_bytes{part=\"limit\"} 16777216"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_never_fit_is_a_413_at_once() {
    let fake = answering().await;
    let gateway = Gateway::start(&budget("16MiB", fake.address));
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.write("POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\ncontent-length: 9000000\r\n\r\n").await;
    let begun = Instant::now();
    let reply = client.reply().await.expect("an answer");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &"request_too_large".into()));
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    // As it is, this body fits; put into another dialect it takes more than there is.
    let reply = post(&gateway, "/v1/chat/completions", long("gpt-4o", 7 * MIB)).await;
    assert_eq!(reply.status(), 200);
    let reply = post(&gateway, "/v1/chat/completions", long("claude", 7 * MIB)).await;
    assert_eq!(reply.status(), 413, "{}", reply.text().await.unwrap());
    let reply = post(&gateway, "/v1/chat/completions", long("claude", 2 * MIB)).await;
    assert_eq!(reply.status(), 200, "{}", reply.text().await.unwrap());
    assert_eq!(fake.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_draws_as_it_grows_and_never_waits() {
    let fake = answering().await;
    let gateway = Gateway::start(&budget("16MiB", fake.address));
    let body = long("gpt-4o", 2 * MIB);
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.post_chunked("/v1/chat/completions", &body, 60_000).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    assert_eq!(fake.last().hash(), blake3::hash(&body));

    let _holding = holder(&gateway, 8 * MIB).await;
    let mut client = Client::connect(gateway.addresses[0]).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write(head).await;
    let begun = Instant::now();
    let chunk = format!("{:x}\r\n{}\r\n", 60_000, " ".repeat(60_000));
    while client.try_write(&chunk).await && begun.elapsed() < Duration::from_secs(10) {}
    let reply = client.reply().await.expect("an answer");
    assert!(matches!(reply.status, 413 | 503), "{}", reply.status);
    gateway.metrics_with("can_memory_budget_bytes{part=\"bodies\"} 8388608").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_too_many_values_is_a_400_on_every_endpoint() {
    let fake = answering().await;
    let yaml = format!("http: {{max_json_values: 100000}}\n{}", both(fake.address));
    let gateway = Gateway::start(&yaml);
    let zeros = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
    let deep = format!("{}{}", "[".repeat(120_000), "]".repeat(120_000));
    let wide = format!("{{{}\"z\":0}}", (0..60_000).map(|i| format!("\"k{i}\":0,")).collect::<String>());
    for (path, field) in [
        ("/v1/chat/completions", "messages"),
        ("/v1/completions", "prompt"),
        ("/v1/responses", "input"),
        ("/v1/embeddings", "input"),
        ("/v1/moderations", "input"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "messages"),
    ] {
        for model in ["gpt-4o", "claude"] {
            for value in [&zeros(100_001), &deep, &wide] {
                let body = format!(r#"{{"model":"{model}","max_tokens":1,"{field}":{value}}}"#);
                let before = fake.count();
                let reply = post(&gateway, path, body.into_bytes()).await;
                assert_eq!(reply.status(), 400, "{path} {model} {}", &value[..10]);
                let error: Value = reply.json().await.unwrap();
                let message = error["error"]["message"].as_str().unwrap();
                assert!(message.contains("http.max_json_values") && message.contains("100000"), "{error}");
                assert_eq!(fake.count(), before);
            }
        }
    }
    // Below the limit it is the provider's to judge.
    let body = format!(r#"{{"model":"gpt-4o","input":{}}}"#, zeros(99_000));
    assert_eq!(post(&gateway, "/v1/embeddings", body.into_bytes()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_a_million_kinds_of_tools_takes_no_time() {
    let fake = answering().await;
    let gateway = Gateway::start(&both(fake.address));
    let tools: Vec<_> = (0..60_000).map(|i| format!(r#"{{"type":"kind_{i}"}}"#)).collect();
    let body = format!(r#"{{"model":"gpt-4o","input":"x","tools":[{}]}}"#, tools.join(","));
    let begun = Instant::now();
    let reply = post(&gateway, "/v1/responses", body.into_bytes()).await;
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.json::<Value>().await.unwrap()["error"]["param"], "tools");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_prompt_is_counted_right_and_others_do_not_wait_for_it() {
    let fake = answering().await;
    let gateway = Gateway::start(&both(fake.address));
    let text = "The quick brown fox, 漢字 and \"quotes\"\n".repeat(3 * MIB / 40);
    let body = json!({"model": "gpt-4o", "system": text, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD".repeat(MIB)}},
        {"type": "text", "text": text}]}]});
    let words = ["user", "image", "base64", "image/png", "text"];
    let expected = 2 * tokenizer::count("gpt-4o", &text)
        + words.iter().map(|word| tokenizer::count("gpt-4o", word)).sum::<u64>()
        // What stands around a message, and an image.
        + 4 + 765;
    let body = body.to_string();
    let done = Arc::new(AtomicBool::new(false));
    let counting: Vec<_> = (0..24)
        .map(|_| {
            let request = reqwest::Client::new().post(gateway.url("/v1/messages/count_tokens")).body(body.clone());
            tokio::spawn(async move {
                let reply = request.send().await.unwrap();
                (reply.status().as_u16(), reply.json::<Value>().await.unwrap())
            })
        })
        .collect();
    let others = tokio::spawn({
        let (done, url) = (done.clone(), gateway.url("/v1/chat/completions"));
        async move {
            let (client, mut slowest) = (reqwest::Client::new(), Duration::ZERO);
            while !done.load(Ordering::Acquire) {
                let begun = Instant::now();
                let reply = client.post(&url).body(chat("gpt-4o", "")).send().await.unwrap();
                assert_eq!(reply.status(), 200);
                reply.bytes().await.unwrap();
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        }
    });
    let mut counted = 0;
    for one in counting {
        let (status, reply) = one.await.unwrap();
        match status {
            200 => {
                assert_eq!(reply["input_tokens"], expected);
                counted += 1;
            }
            503 => assert_eq!(reply["error"]["type"], "overloaded_error", "{reply}"),
            other => panic!("{other} {reply}"),
        }
    }
    done.store(true, Ordering::Release);
    let slowest = others.await.unwrap();
    println!("{counted} of 24 counted, the slowest of the others took {slowest:?}");
    assert!(counted > 0);
    // Each count takes seconds in this build, on all the threads that there are for it.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_reply_that_finds_no_room_passes_unheld_or_is_refused() {
    let large = |text: usize| COMPLETION.replace("Hello there friend", &"x".repeat(text));
    let fake = Fake::start(move |seen, _| match seen.path.as_str() {
        "/v1/messages" => Answer::json(200, &MESSAGE.replace("hi", &"x".repeat(5 * MIB))),
        _ => Answer::json(200, &large(5 * MIB)),
    })
    .await;
    let gateway = Gateway::start(&budget("16MiB", fake.address));
    let reply = post(&gateway, "/v1/chat/completions", chat("gpt-4o", "").into_bytes()).await;
    assert_eq!((reply.status().as_u16(), reply.headers().contains_key("x-chittycan-cost")), (200, false));
    assert_eq!(reply.bytes().await.unwrap().len(), COMPLETION.len() - 18 + 5 * MIB);
    let reply = post(&gateway, "/v1/chat/completions", chat("claude", "").into_bytes()).await;
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.json::<Value>().await.unwrap()["error"]["code"], "gateway_overloaded");
    gateway.metrics_with("can_memory_budget_bytes{part=\"replies\"} 0").await;

    let roomy = Gateway::start(&budget("64MiB", fake.address));
    for model in ["gpt-4o", "claude"] {
        let reply = post(&roomy, "/v1/chat/completions", chat(model, "").into_bytes()).await;
        assert_eq!((reply.status().as_u16(), reply.headers().contains_key("x-chittycan-cost")), (200, true), "{model}");
        assert!(reply.bytes().await.unwrap().len() > 5 * MIB);
    }
    roomy.metrics_with("can_memory_budget_bytes{part=\"replies\"} 0").await;
}

/// A line of `/proc/PID/status`, in bytes.
#[cfg(target_os = "linux")]
fn memory_of(process: &Process, line: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let text = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    text.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() << 10
}

/// The process with its own allocator, from outside: bodies of every kind at once, on every endpoint.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_process_stays_within_its_budget_and_gives_back_what_it_took() {
    const BUDGET: usize = 96 * MIB;
    let fake = answering().await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = folder.path().join("can.yaml");
    let text = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: off\nserver: {{threads: 2, memory_budget: {}MiB, upgrade_socket: {}}}\n{}",
        BUDGET / MIB,
        folder.path().join("upgrade/socket").display(),
        both(fake.address)
    );
    std::fs::write(&file, text).unwrap();
    let process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    process.until("ready");
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let send = |path: &str, body: String| reqwest::Client::new().post(url(path)).body(body).send();
    // Without the pages of the program itself: how many of them are mapped is the kernel's choice.
    let heap_before = memory_of(&process, "RssAnon:");
    // The tables of the tokenizer are not the body's.
    for path in ["/v1/chat/completions", "/v1/messages/count_tokens"] {
        assert_eq!(send(path, chat("gpt-4o", "")).await.unwrap().status(), 200);
    }
    let before = memory_of(&process, "VmRSS:");
    let size = 8 * MIB;
    let shapes = [
        format!("[{}0]", "0,".repeat(size / 2)),
        format!("[{}0]", "0,".repeat(450_000)),
        format!("{}{}", "[".repeat(size / 2), "]".repeat(size / 2)),
        format!("{{{}\"z\":0}}", (0..220_000).map(|i| format!("\"k{i}\":0,")).collect::<String>()),
        format!("\"{}\"", "x".repeat(size)),
        format!("[{{\"role\":\"user\",\"content\":\"{}\"}}]", "y ".repeat(size / 2)),
        format!("[{}{{}}]", "{\"role\":\"user\",\"content\":[]},".repeat(120_000)),
    ];
    let mut all = Vec::new();
    for (path, field) in [
        ("/v1/chat/completions", "messages"),
        ("/v1/completions", "prompt"),
        ("/v1/responses", "input"),
        ("/v1/embeddings", "input"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "messages"),
    ] {
        for model in ["gpt-4o", "claude"] {
            for shape in &shapes {
                let body = format!(r#"{{"model":"{model}","max_tokens":1,"{field}":{shape}}}"#);
                all.push(tokio::spawn(send(path, body)));
            }
        }
    }
    let mut statuses = std::collections::BTreeMap::new();
    for one in all {
        // A refusal before the body was read may reset the connection.
        let status = one.await.unwrap().map_or(0, |reply| reply.status().as_u16());
        *statuses.entry(status).or_insert(0) += 1;
    }
    let peak = memory_of(&process, "VmHWM:");
    println!("before {} MiB, at most {} MiB, {statuses:?}", before / MIB, peak / MIB);
    assert!(statuses.keys().all(|status| [0, 200, 400, 413, 503].contains(status)), "{statuses:?}");
    assert!(peak - before <= BUDGET + BUDGET / 4, "{} MiB over {} MiB", (peak - before) / MIB, before / MIB);
    let begun = Instant::now();
    loop {
        let now = memory_of(&process, "RssAnon:");
        if now <= heap_before + 24 * MIB {
            break;
        }
        // The tables stay for 20 s, and with them what the threads that counted have learnt of the patterns.
        assert!(begun.elapsed() < Duration::from_secs(60), "{} MiB stay, {} before", now / MIB, heap_before / MIB);
        // Memory that another thread has freed goes back when its own thread runs next.
        assert!(send("/v1/chat/completions", "{}".to_owned()).await.unwrap().status().is_client_error());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_a_tokenizer_are_given_back_when_nobody_counts() {
    let fake = answering().await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = folder.path().join("can.yaml");
    let text = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: off\nserver: {{threads: 2, upgrade_socket: {}}}\n{}",
        folder.path().join("upgrade/socket").display(),
        both(fake.address)
    );
    std::fs::write(&file, text).unwrap();
    let process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    process.until("ready");
    let send = |path: &str| {
        reqwest::Client::new().post(format!("http://127.0.0.1:{port}{path}")).body(chat("gpt-4o", "")).send()
    };
    // A whole request first: what it leaves behind is not the tokenizer's.
    assert_eq!(send("/v1/chat/completions").await.unwrap().status(), 200);
    let before = memory_of(&process, "RssAnon:");
    assert_eq!(send("/v1/messages/count_tokens").await.unwrap().status(), 200);
    let loaded = memory_of(&process, "RssAnon:");
    assert!(loaded > before + 20 * MIB, "{} MiB, {} before", loaded / MIB, before / MIB);
    let begun = Instant::now();
    loop {
        let now = memory_of(&process, "RssAnon:");
        if now <= before + 4 * MIB {
            println!("{} MiB before, {} loaded, {} after {:?}", before / MIB, loaded / MIB, now / MIB, begun.elapsed());
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{} MiB stay, {} before", now / MIB, before / MIB);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_budget() {
    let fake = answering().await;
    let gateway = Gateway::start(&budget("16MiB", fake.address));
    let text = std::fs::read_to_string(&gateway.file).unwrap();
    std::fs::write(&gateway.file, text.replace("16MiB", "32MiB")).unwrap();
    gateway.reloader.reload().unwrap();
    gateway.metrics_with("can_memory_budget_bytes{part=\"limit\"} 33554432").await;
    assert_eq!(post(&gateway, "/v1/chat/completions", long("gpt-4o", 12 * MIB)).await.status(), 200);
}
