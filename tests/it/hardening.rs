//! What a strict reviewer and an attacker would try.

use std::time::{Duration, Instant};

use crate::support::{Answer, Fake, Gateway, Step, chat, fake::send, gateway::providers, raw::Client};

const STALL: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_hidden_in_another_header_goes_nowhere() {
    let fake = Fake::always(Answer::json(200, "{}")).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    client
        .write(
            "GET /v1/realtime HTTP/1.1\r\nhost: gw\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: realtime, openai-insecure-api-key.sk-client\r\nx-forwarded-authorization: Bearer sk-client\r\nx-goog-api-key: sk-client\r\n\r\n",
        )
        .await;
    client.reply().await.expect("an answer");
    let seen = fake.last();
    assert_eq!(seen.header("sec-websocket-protocol"), Some("realtime"));
    assert_eq!(seen.header("authorization"), Some("Bearer sk-gateway"));
    assert!(seen.headers.iter().all(|(_, value)| !value.to_str().unwrap().contains("sk-client")), "{:?}", seen.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_path_is_no_way_around_metering() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    for path in [
        "/v1/chat/%63ompletions",
        "/v1/models/%2e%2e/chat/completions",
        "/v1/chat/completions%20",
        "/v1/chat%2fcompletions",
        "/v1/chat/completions%3f",
    ] {
        client.post(path, "", chat("gpt-4o", "").as_bytes()).await;
        let reply = client.reply().await.unwrap_or_else(|| panic!("{path}: the connection closed"));
        assert_eq!(reply.status, 404, "{path}");
    }
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_upload_is_invited_and_a_stalled_one_is_a_408() {
    let fake = Fake::always(Answer::json(200, "{}")).await;
    let gateway = Gateway::start(&format!("http: {{body_timeout: 400ms}}\n{}", providers(&[("openai", fake.address)])));
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.write("POST /v1/files HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(client.reply().await.expect("an invitation").status, 100);
    client.write("data").await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    assert_eq!(fake.last().body, "data");

    let mut client = Client::connect(gateway.addresses[0]).await;
    client.write("POST /v1/files HTTP/1.1\r\nhost: gw\r\ncontent-length: 100\r\n\r\nabc").await;
    let reply = client.reply().await.expect("an answer");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (408, &"request_timeout".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_request_gets_no_body_whatever_goes_wrong() {
    let fake = Fake::always(Answer { steps: vec![], ..Answer::json(401, "") }).await;
    let gateway = Gateway::over(fake.address);
    for http2 in [false, true] {
        let client = reqwest::Client::builder();
        let client = if http2 { client.http2_prior_knowledge() } else { client }.build().unwrap();
        for _ in 0..2 {
            let reply = client.head(gateway.url("/v1/files")).send().await.unwrap();
            assert_eq!(reply.status().as_u16(), 502);
            assert!(reply.bytes().await.unwrap().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_header_lifts_no_timeout() {
    let fake = Fake::always(Answer::stream(vec![send(STALL), Step::Stall])).await;
    let yaml = providers(&[("openai", fake.address)]).replace("mapped", "mapped, timeouts: {read: 300ms}");
    let gateway = Gateway::start(&yaml);
    let mut client = Client::connect(gateway.addresses[0]).await;
    let offer = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    let begun = Instant::now();
    client.post("/v1/chat/completions", offer, chat("gpt-4o", r#","stream":true"#).as_bytes()).await;
    let reply = client.reply().await.expect("an answer");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(String::from_utf8_lossy(&reply.body).contains("data: {\"error\":"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_name_that_is_none_never_reaches_a_provider() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let client = reqwest::Client::new();
    for model in ["gpt-4o\\n", &"m".repeat(100_000)] {
        let reply = client.post(gateway.url("/v1/chat/completions")).body(chat(model, "")).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 400);
        assert_eq!(reply.json::<serde_json::Value>().await.unwrap()["error"]["param"], "model");
    }
    assert_eq!(fake.count(), 0);
    let reply = client.post(gateway.url("/v1/chat/completions")).body(chat("modèle", "")).send().await.unwrap();
    assert_eq!(reply.status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_without_a_key_hides_no_other_answer() {
    let busy = Fake::always(
        Answer::json(429, r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#).header("retry-after", "3"),
    )
    .await;
    let other = Fake::always(Answer::json(401, "{}")).await;
    let yaml = providers(&[("openai", busy.address)])
        .replace("routes:", &format!("  groq: {{base_url: \"http://{}/v1\"}}\nroutes:", other.address))
        .replace("to: [openai]", "to: [openai, groq/m]");
    let gateway = Gateway::start(&yaml);
    let reply =
        reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", "")).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (429, &"3".parse().unwrap()));
    assert_eq!(other.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_broke_under_way_is_not_repeated_at_the_same_provider() {
    let fake = Fake::start(|_, number| match number {
        0 => Answer::completion(),
        _ => Answer { headers: vec![], ..Answer::stream(vec![Step::Cut]) }.after(Duration::from_millis(1200)),
    })
    .await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    for status in [200, 502] {
        client.post("/v1/chat/completions", "", chat("gpt-4o", "").as_bytes()).await;
        assert_eq!(client.reply().await.expect("an answer").status, status);
    }
    assert_eq!(fake.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_only_the_connections_end_delimits_must_be_whole() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (cut, status) in [(0, 200), (40, 502)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"}") {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                seen.extend_from_slice(&buffer[..read]);
            }
            let body = &crate::support::COMPLETION[..crate::support::COMPLETION.len() - cut];
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
        });
        let gateway = Gateway::over(address);
        let mut client = Client::connect(gateway.addresses[0]).await;
        client.post("/v1/chat/completions", "", chat("gpt-4o", "").as_bytes()).await;
        let reply = client.reply().await.expect("an answer");
        assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(&reply.body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_client_gets_no_chunks() {
    let steps = vec![
        send(STALL),
        send("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"),
    ];
    let fake = Fake::always(Answer::stream(steps)).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    let body = chat("gpt-4o", r#","stream":true"#);
    let head = "POST /v1/chat/completions HTTP/1.0\r\nhost: gw\r\nconnection: keep-alive\r\n";
    client.write(format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
    let reply = client.reply().await.expect("an answer");
    assert_eq!(reply.header("transfer-encoding"), None);
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.starts_with("data: {") && text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_is_answered_without_a_key_and_trace_is_refused() {
    let fake = Fake::always(Answer { steps: vec![], ..Answer::json(204, "") }).await;
    let yaml = providers(&[("openai", fake.address)])
        .replace(" api_key: sk-gateway, credentials: mapped", " credentials: auto");
    let gateway = Gateway::start(&yaml);
    let client = reqwest::Client::new();
    let url = gateway.url("/v1/chat/completions");
    let reply = client.request("OPTIONS".parse().unwrap(), &url).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), fake.count()), (204, 0));
    let reply = client.request("TRACE".parse().unwrap(), &url).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), fake.count()), (405, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_with_a_body_keeps_the_connection() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.post("/elsewhere", "", b"a small body").await;
    client.post("/v1/chat/completions", "", chat("gpt-4o", "").as_bytes()).await;
    assert_eq!(client.reply().await.expect("an answer").status, 404);
    assert_eq!(client.reply().await.expect("the second answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_of_what_passes_through_is_timed_when_it_leaves() {
    let steps = vec![send("first "), Step::Wait(Duration::from_millis(700)), send("last")];
    let fake = Fake::always(Answer { sized: false, steps, ..Answer::json(200, "") }).await;
    let gateway = Gateway::over(fake.address);
    reqwest::get(gateway.url("/v1/files/x/content")).await.unwrap().bytes().await.unwrap();
    let name = "can_time_to_first_byte_seconds";
    let text = gateway.metrics_with(&format!("{name}_count{{endpoint=\"other\",provider=\"openai\"}} 1")).await;
    let sum = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}_sum{{endpoint=\"other\",provider=\"openai\"}} ")));
    let seconds: f64 = sum.expect("a sum").parse().unwrap();
    assert!(seconds < 0.5, "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_with_trailers_is_counted() {
    let steps = vec![
        send(STALL),
        send("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1,\"total_tokens\":8}}\n\n"),
        send("data: [DONE]\n\n"),
        Step::Trailers,
    ];
    let fake = Fake::always(Answer::stream(steps)).await;
    let yaml = providers(&[("openai", fake.address)]).replace("mapped", "mapped, http2: true");
    let gateway = Gateway::start(&yaml);
    let body = chat("gpt-4o", r#","stream":true"#);
    let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
    assert!(reply.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    gateway.metrics_with("can_tokens_total{kind=\"prompt\",model=\"gpt-4o\",provider=\"openai\"} 7").await;
}
