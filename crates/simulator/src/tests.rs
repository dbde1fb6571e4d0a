//! The provider over real sockets: one test per endpoint and per fault that only a socket shows.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use axum::http::HeaderValue;

use super::*;

const SOON: Duration = Duration::from_secs(20);

async fn provider() -> Simulated {
    Simulated::bind(([127, 0, 0, 1], 0).into(), SimulatedConfig::instant()).await.unwrap()
}

fn post(provider: &Simulated, path: &str, faults: &str, body: &Value) -> RequestBuilder {
    let request = Client::new().post(format!("{}{path}", provider.base_url())).timeout(SOON).json(body);
    if faults.is_empty() { request } else { request.header("x-simulate", faults) }
}

async fn chat(provider: &Simulated, faults: &str, stream: bool) -> reqwest::Result<Response> {
    let body = json!({"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": "Count to 3."}]});
    post(provider, "/chat/completions", faults, &body).send().await
}

/// The data of the events that arrive before the stream ends, and whether the stream ended without an error.
async fn events(response: Response) -> (Vec<String>, bool) {
    let (mut text, mut well) = (Vec::new(), true);
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(bytes) => text.extend_from_slice(&bytes),
            Err(_) => {
                well = false;
                // Over HTTP/2 the client's stream would repeat the error forever.
                break;
            }
        }
    }
    let text = String::from_utf8(text).unwrap();
    (text.lines().filter_map(|l| l.strip_prefix("data:")).map(|l| l.trim().to_owned()).collect(), well)
}

#[tokio::test]
async fn chat_whole_is_the_same_every_time_and_has_openai_headers() {
    let provider = provider().await;
    let mut bodies = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let reply = chat(&provider, "", false).await.unwrap();
        assert_eq!(reply.status(), 200);
        let header = |name: &str| reply.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(header("x-ratelimit-reset-tokens"), "6m0s");
        assert!(header("openai-processing-ms").parse::<u64>().unwrap() > 0);
        ids.push(header("x-request-id"));
        let mut body: Value = reply.json().await.unwrap();
        body.as_object_mut().unwrap().remove("created");
        bodies.push(body);
    }
    assert_eq!(bodies[0], bodies[1]);
    assert_ne!(ids[0], ids[1]);
    assert_eq!(bodies[0]["choices"][0]["message"]["content"], "1, 2, 3");
    assert_eq!(provider.requests(), 2);
}

#[tokio::test]
async fn chat_streams_at_the_pace_that_was_set() {
    let provider = provider().await;
    let started = Instant::now();
    let reply = chat(&provider, "pace=20ms", true).await.unwrap();
    assert_eq!(reply.headers()["content-type"], "text/event-stream; charset=utf-8");
    let (events, well) = events(reply).await;
    // Role, three pieces, finish, [DONE]: five pauses.
    assert_eq!((events.len(), well), (6, true));
    assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
}

#[tokio::test]
async fn http2_in_clear_is_served() {
    let provider = provider().await;
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let reply = client.get(format!("{}/models", provider.base_url())).send().await.unwrap();
    assert_eq!(reply.version(), reqwest::Version::HTTP_2);
    let list: Value = reply.json().await.unwrap();
    let names: Vec<&str> = list["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
    assert!(names.contains(&"gpt-4o") && !names.iter().any(|n| n.ends_with('*')), "{names:?}");
}

#[tokio::test]
async fn models_by_name() {
    let provider = provider().await;
    for (name, status) in [("gpt-4o", 200), ("claude-anything", 200), ("llama3.1:8b", 200), ("invalid-model-name", 404)]
    {
        let reply = reqwest::get(format!("{}/models/{name}", provider.base_url())).await.unwrap();
        assert_eq!(reply.status(), status, "{name}");
        let body: Value = reply.json().await.unwrap();
        match status {
            200 => assert_eq!(body["id"], name),
            _ => assert_eq!(body["error"]["code"], "model_not_found"),
        }
    }
}

#[tokio::test]
async fn refusals_have_openai_shapes() {
    let provider = provider().await;
    let url = |path: &str| format!("{}{path}", provider.base_url());
    let client = Client::new();
    let body = |text: &'static str| client.post(url("/chat/completions")).body(text);
    let cases = [
        (body("{not json"), 400, json!(null), "could not parse"),
        (body("[1]"), 400, json!(null), "could not parse"),
        (body(r#"{"messages":[]}"#), 400, json!("missing_required_parameter"), "'model'"),
        (body(r#"{"model":7}"#), 400, json!("invalid_type"), "a string"),
        (body(r#"{"model":"nope","messages":[]}"#), 404, json!("model_not_found"), "`nope`"),
        (body(r#"{"model":"gpt-4o@tpyo","messages":[]}"#), 400, json!("unknown_directive"), "tpyo"),
        (body("{}").bearer_auth("sk-invalid"), 401, json!("invalid_api_key"), "Incorrect API key"),
        (client.delete(url("/chat/completions")), 405, json!("method_not_supported"), "DELETE"),
        (client.patch(url("/nowhere")).body("x"), 404, json!(null), "Invalid URL (PATCH /v1/nowhere)"),
        (client.get(url("/files/nope")), 404, json!("not_found"), "nope"),
        (client.get(url("/realtime")), 400, json!("invalid_request"), "upgrade"),
    ];
    for (request, status, code, words) in cases {
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), status, "{words}");
        assert!(reply.headers().contains_key("x-request-id"));
        let body: Value = reply.json().await.unwrap();
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(words), "{body}");
    }
}

#[tokio::test]
async fn a_status_by_header_and_by_model_name() {
    let provider = provider().await;
    let reply = chat(&provider, "429, retry-after=2, retry-after-ms=1500", false).await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (429, &HeaderValue::from_static("2")));
    assert_eq!(reply.headers()["retry-after-ms"], "1500");
    assert_eq!(reply.headers()["x-ratelimit-remaining-requests"], "0");
    assert_eq!(reply.json::<Value>().await.unwrap()["error"]["code"], "rate_limit_exceeded");

    let body = json!({"model": "gpt-4o@529+retry-after=3", "messages": [{"role": "user", "content": "x"}]});
    let reply = post(&provider, "/chat/completions", "", &body).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (529, &HeaderValue::from_static("3")));

    let reply = chat(&provider, "502,html", false).await.unwrap();
    assert_eq!(reply.headers()["content-type"], "text/html");
    assert!(reply.text().await.unwrap().starts_with("<html>"));
    let reply = chat(&provider, "503,empty,early", false).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.bytes().await.unwrap().len()), (503, 0));
}

#[tokio::test]
async fn a_directive_in_the_name_leaves_the_reply_with_the_plain_name() {
    let provider = provider().await;
    let body = json!({"model": "gpt-4o@cached=2", "messages": [{"role": "user", "content": "Return the string OK."}]});
    let reply: Value = post(&provider, "/chat/completions", "", &body).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&reply["model"], &reply["usage"]["prompt_tokens_details"]["cached_tokens"]),
        (&json!("gpt-4o"), &json!(2))
    );
}

#[tokio::test]
async fn fail_first_counts_per_key() {
    let provider = provider().await;
    let mut seen = Vec::new();
    for key in ["a", "a", "b", "a", "b"] {
        let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]});
        let request = post(&provider, "/chat/completions", "fail-first=2,500", &body).header("x-simulate-key", key);
        seen.push(request.send().await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [500, 500, 500, 200, 500]);
    let status = chat(&provider, "fail-first=1,key=c", false).await.unwrap().status();
    assert_eq!(status, 503);
}

#[tokio::test]
async fn latency_comes_before_the_header() {
    let provider = provider().await;
    let started = Instant::now();
    assert_eq!(chat(&provider, "latency=80ms", false).await.unwrap().status(), 200);
    assert!(started.elapsed() >= Duration::from_millis(80));
}

#[tokio::test]
async fn a_reset_is_a_tcp_reset() {
    let provider = provider().await;
    let mut socket = TcpStream::connect(provider.addr()).await.unwrap();
    socket.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-simulate: reset\r\n\r\n").await.unwrap();
    let error = timeout(SOON, socket.read(&mut [0; 16])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_cut_stream_and_a_cut_body_are_incomplete() {
    let provider = provider().await;
    let (got, well) = events(chat(&provider, "cut=3", true).await.unwrap()).await;
    assert_eq!((got.len(), well), (3, false));
    let (got, well) = events(chat(&provider, "cut=3,reset", true).await.unwrap()).await;
    assert_eq!((got.len(), well), (3, false));
    let whole = chat(&provider, "", false).await.unwrap().bytes().await.unwrap();
    let reply = chat(&provider, "cut=100", false).await.unwrap();
    assert_eq!(reply.content_length(), Some(whole.len() as u64));
    let mut stream = reply.bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.len(), 100);
    assert!(stream.next().await.unwrap().is_err());
}

#[tokio::test]
async fn a_stall_keeps_the_connection_open() {
    let provider = provider().await;
    let mut stream = chat(&provider, "stall=2", true).await.unwrap().bytes_stream();
    let mut got = String::new();
    while let Ok(Some(chunk)) = timeout(Duration::from_millis(200), stream.next()).await {
        got.push_str(str::from_utf8(&chunk.unwrap()).unwrap());
    }
    assert_eq!(got.matches("data: ").count(), 2);
}

#[tokio::test]
async fn broken_streams() {
    let provider = provider().await;
    let (got, well) = events(chat(&provider, "error=2", true).await.unwrap()).await;
    assert!(well && got.len() == 3 && got[2].starts_with(r#"{"error":{"#), "{got:?}");
    let (got, _) = events(chat(&provider, "no-done", true).await.unwrap()).await;
    assert!(got.last().unwrap().contains(r#""finish_reason":"stop""#));
    let text = chat(&provider, "crlf,comments,split=7", true).await.unwrap().text().await.unwrap();
    assert!(text.starts_with(": SIMULATED PROCESSING\r\n\r\ndata: {") && text.ends_with("data: [DONE]\r\n\r\n"));
    let reply: Value = chat(&provider, "no-usage,big=3", false).await.unwrap().json().await.unwrap();
    assert!(reply.get("usage").is_none());
    assert_eq!(reply["choices"][0]["message"]["content"].as_str().unwrap().len(), 3 * 1024);
}

#[tokio::test]
async fn legacy_completions() {
    let provider = provider().await;
    let body =
        json!({"model": "gpt-3.5-turbo-instruct", "prompt": ["Count to 3.", "Return the string OK."], "max_tokens": 2});
    let reply: Value = post(&provider, "/completions", "", &body).send().await.unwrap().json().await.unwrap();
    assert_eq!((&reply["object"], &reply["choices"][1]["text"]), (&json!("text_completion"), &json!("OK")));
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["usage"]["completion_tokens"], 3);
    let body = json!({"model": "gpt-3.5-turbo-instruct", "prompt": "Count to 3.", "stream": true});
    let (got, _) = events(post(&provider, "/completions", "", &body).send().await.unwrap()).await;
    let pieces: Vec<Value> = got.iter().filter_map(|e| serde_json::from_str(e).ok()).collect();
    let text: String = pieces.iter().filter_map(|c: &Value| c["choices"][0]["text"].as_str()).collect();
    assert_eq!((text.as_str(), got.last().unwrap().as_str()), ("1, 2, 3", "[DONE]"));
}

#[tokio::test]
async fn embeddings_as_floats_and_as_base64() {
    let provider = provider().await;
    let mut body = json!({"model": "text-embedding-3-small", "input": "hello world"});
    let floats: Value = post(&provider, "/embeddings", "", &body).send().await.unwrap().json().await.unwrap();
    let list = floats["data"][0]["embedding"].as_array().unwrap();
    assert_eq!((list.len(), &floats["usage"]), (1536, &json!({"prompt_tokens": 3, "total_tokens": 3})));
    body["encoding_format"] = json!("base64");
    let packed: Value = post(&provider, "/embeddings", "", &body).send().await.unwrap().json().await.unwrap();
    let bytes = STANDARD.decode(packed["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let unpacked = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    assert!(unpacked.zip(list).all(|(a, b)| a == b.as_f64().unwrap() as f32));
    body["dimensions"] = json!(1537);
    assert_eq!(post(&provider, "/embeddings", "", &body).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn moderations_have_a_default_model() {
    let provider = provider().await;
    let reply = post(&provider, "/moderations", "", &json!({"input": ["attack", "calm"]})).send().await.unwrap();
    let body: Value = reply.json().await.unwrap();
    assert_eq!(body["model"], "omni-moderation-latest");
    assert_eq!((&body["results"][0]["flagged"], &body["results"][1]["flagged"]), (&json!(true), &json!(false)));
}

#[tokio::test]
async fn responses_stream_named_events() {
    let provider = provider().await;
    let body = json!({"model": "gpt-4o", "input": "Count to 3.", "stream": true});
    let text = post(&provider, "/responses", "", &body).send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with("event: response.created\ndata: {\"type\":\"response.created\""));
    assert_eq!(text.matches("event: response.output_text.delta\n").count(), 3);
    assert!(text.contains("event: response.completed\n") && !text.contains("[DONE]"));
    let text = post(&provider, "/responses", "error=4", &body).send().await.unwrap().text().await.unwrap();
    assert!(text.trim_end().lines().last().unwrap().contains(r#""type":"error","code":"server_error""#), "{text}");
}

#[tokio::test]
async fn uploads_are_counted_and_hashed_and_downloads_have_a_size() {
    let provider = provider().await;
    let url = format!("{}/files", provider.base_url());
    let chunk = vec![7u8; 64 * 1024];
    let whole = chunk.repeat(128);
    let sent = futures::stream::iter(vec![chunk; 128]).map(Ok::<_, std::io::Error>);
    let file: Value =
        Client::new().post(&url).body(reqwest::Body::wrap_stream(sent)).send().await.unwrap().json().await.unwrap();
    assert_eq!((&file["object"], &file["bytes"]), (&json!("file"), &json!(whole.len())));
    let digest = ring::digest::digest(&ring::digest::SHA256, &whole);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(file["sha256"], hex);

    let id = file["id"].as_str().unwrap();
    let content = reqwest::get(format!("{url}/{id}/content")).await.unwrap();
    assert_eq!(content.content_length(), Some(whole.len() as u64));
    let bytes = content.bytes().await.unwrap();
    assert!(bytes.len() == whole.len() && bytes.iter().enumerate().all(|(i, b)| usize::from(*b) == i % 251));
    let deleted: Value = Client::new().delete(format!("{url}/{id}")).send().await.unwrap().json().await.unwrap();
    assert_eq!(deleted["deleted"], true);
}

#[tokio::test]
async fn a_form_upload_tells_its_name() {
    let provider = provider().await;
    let form = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: form-data; \
                name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{}\r\n--b--\r\n";
    let request = Client::new()
        .post(format!("{}/files", provider.base_url()))
        .header("content-type", "multipart/form-data; boundary=b");
    let file: Value = request.body(form).send().await.unwrap().json().await.unwrap();
    assert_eq!((&file["filename"], &file["purpose"]), (&json!("a.jsonl"), &json!("batch")));
}

#[tokio::test]
async fn the_mirror_shows_what_arrived_but_no_credential() {
    let provider = provider().await;
    let url = format!("{}/simulated/mirror?a=1", provider.base_url());
    let method = Method::from_bytes(b"PUT").unwrap();
    let request = Client::new().request(method, url).bearer_auth("sk-secret").header("x-test", "yes").body("abc");
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(!text.contains("sk-secret"));
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&seen["method"], &seen["query"], &seen["bytes"]), (&json!("PUT"), &json!("a=1"), &json!(3)));
    assert_eq!(seen["headers"]["x-test"], "yes");
    assert!(seen["headers"]["authorization"].as_str().unwrap().starts_with("fingerprint:"));
}

#[tokio::test]
async fn the_websocket_echoes_frames() {
    let provider = provider().await;
    let mut socket = websocket(&provider).await;
    for (opcode, answer, text) in [(0x81, 0x81, "{\"type\":\"x\"}"), (0x89, 0x8a, "ping"), (0x88, 0x88, "\u{3}\u{9}")] {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![opcode, 0x80 | text.len() as u8];
        frame.extend(mask);
        frame.extend(text.bytes().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        socket.write_all(&frame).await.unwrap();
        let mut reply = vec![0; 2 + text.len()];
        timeout(SOON, socket.read_exact(&mut reply)).await.unwrap().unwrap();
        assert_eq!((reply[0], reply[1] as usize, &reply[2..]), (answer, text.len(), text.as_bytes()));
    }
    assert_eq!(timeout(SOON, socket.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_websocket_ends_with_the_server() {
    let provider = provider().await;
    let mut socket = websocket(&provider).await;
    drop(provider);
    assert_eq!(timeout(SOON, socket.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
}

/// A socket past the handshake of `/v1/realtime`.
async fn websocket(provider: &Simulated) -> TcpStream {
    let mut socket = TcpStream::connect(provider.addr()).await.unwrap();
    let hello = "GET /v1/realtime?model=gpt-4o HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-protocol: realtime, other\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(hello.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, socket.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="));
    assert!(head.contains("sec-websocket-protocol: realtime\r\n"));
    socket
}

#[test]
fn a_thread_of_its_own_serves_and_ends_with_its_handle() {
    let provider = Simulated::spawn_thread(([127, 0, 0, 1], 0).into(), SimulatedConfig::instant()).unwrap();
    let addr = provider.addr();
    let mut socket = std::net::TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.write_all(b"GET /v1/models/gpt-4o HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut start = [0; 15];
    socket.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    drop(provider);
    assert_eq!(std::net::TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // The open connection has ended too: the rest of the reply is followed by its end, not by the read timeout.
    socket.read_to_end(&mut Vec::new()).unwrap();
}

#[tokio::test]
async fn faults_over_http2_break_the_stream_only() {
    let provider = provider().await;
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("{}/chat/completions", provider.base_url());
    let body = json!({"model": "gpt-4o", "stream": true, "messages": [{"role": "user", "content": "Count to 3."}]});
    let reply = client.post(&url).header("x-simulate", "cut=3").json(&body).send().await.unwrap();
    let (got, well) = events(reply).await;
    assert_eq!((got.len(), well), (3, false));
    let (got, well) = events(client.post(&url).json(&body).send().await.unwrap()).await;
    assert_eq!((got.len(), well), (6, true));
}

#[tokio::test]
async fn a_connection_survives_refusals() {
    let provider = provider().await;
    let mut socket = TcpStream::connect(provider.addr()).await.unwrap();
    let mut ask = async |head: &str, body: &str| {
        let text = format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(timeout(SOON, socket.read_u8()).await.unwrap().unwrap()));
        }
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut rest = vec![0; length];
        timeout(SOON, socket.read_exact(&mut rest)).await.unwrap().unwrap();
        head[9..12].to_owned()
    };
    assert_eq!(ask("POST /v1/chat/completions", "{").await, "400");
    assert_eq!(ask("POST /v1/nowhere", "x").await, "404");
    assert_eq!(ask("POST /v1/models", "x").await, "405");
    assert_eq!(ask("POST /v1/chat/completions", r#"{"model":"gpt-4o@503"}"#).await, "503");
    assert_eq!(ask("GET /v1/models", "").await, "200");
}
