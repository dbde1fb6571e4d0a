//! The error table: whose fault it is shows in the status, and what a retry cannot cure says so.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, Step, chat, fake::send, gateway::providers};

struct Case {
    name: &'static str,
    answer: Answer,
    status: u16,
    kind: &'static str,
    code: Value,
    should_retry: Option<&'static str>,
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_errors_reach_the_client_in_openais_shape() {
    let cases = [
        Case {
            name: "a good error passes",
            answer: Answer::json(
                429,
                r#"{"error":{"message":"m","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
            )
            .header("retry-after", "7")
            .header("retry-after-ms", "6500")
            .header("x-ratelimit-remaining-tokens", "0")
            .header("x-ratelimit-reset-tokens", "6m0s"),
            status: 429,
            kind: "tokens",
            code: json!("rate_limit_exceeded"),
            should_retry: None,
        },
        Case {
            name: "our key refused",
            answer: Answer::json(
                401,
                r#"{"error":{"message":"Incorrect API key provided: sk-gate*way","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
            ),
            status: 502,
            kind: "server_error",
            code: json!("upstream_authentication"),
            should_retry: Some("false"),
        },
        Case {
            name: "Gemini's array",
            answer: Answer::json(400, r#"[{"error":{"code":400,"message":"bad field","status":"INVALID_ARGUMENT"}}]"#),
            status: 400,
            kind: "invalid_request_error",
            code: json!("400"),
            should_retry: None,
        },
        Case {
            name: "HTML of a CDN",
            answer: Answer::json(503, "<html><body>upstream down</body></html>").header("content-type", "text/html"),
            status: 503,
            kind: "server_error",
            code: Value::Null,
            should_retry: None,
        },
        Case {
            name: "nothing at all",
            answer: Answer::json(500, ""),
            status: 500,
            kind: "server_error",
            code: Value::Null,
            should_retry: None,
        },
        Case {
            name: "overloaded, in Anthropic's number",
            answer: Answer::json(529, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#),
            status: 503,
            kind: "",
            code: Value::Null,
            should_retry: None,
        },
        Case {
            name: "unknown model",
            answer: Answer::json(
                404,
                r#"{"error":{"message":"The model `x` does not exist","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
            ),
            status: 404,
            kind: "invalid_request_error",
            code: json!("model_not_found"),
            should_retry: None,
        },
        Case {
            name: "cut before the header",
            answer: Answer { headers: vec![], ..Answer::stream(vec![Step::Cut]) },
            status: 502,
            kind: "server_error",
            code: json!("upstream_interrupted"),
            should_retry: None,
        },
        Case {
            name: "cut inside a JSON reply",
            answer: Answer {
                sized: false,
                steps: vec![send("{\"id\":\"chatcmpl-1\","), Step::Wait(Duration::from_millis(20)), Step::Cut],
                ..Answer::completion()
            },
            status: 502,
            kind: "server_error",
            code: json!("upstream_interrupted"),
            should_retry: None,
        },
        Case {
            name: "silent",
            answer: Answer::completion().after(Duration::from_secs(30)),
            status: 504,
            kind: "server_error",
            code: json!("upstream_timeout"),
            should_retry: None,
        },
    ];
    let client = reqwest::Client::new();
    for case in cases {
        let fake = Fake::always(case.answer.clone()).await;
        let yaml = providers(&[("openai", fake.address)]).replace("mapped", "mapped, timeouts: {read: 400ms}");
        let gateway = Gateway::start(&yaml);
        let reply = client.post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", "")).send().await.unwrap();
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let text = reply.text().await.unwrap();
        assert_eq!(status, case.status, "{}: {text}", case.name);
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}: {text}", case.name));
        let error = &body["error"];
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "{}: {key} is missing in {text}", case.name);
        }
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{}: {text}", case.name);
        assert!(!text.contains("sk-gate"), "{}: the key shows: {text}", case.name);
        if !case.kind.is_empty() {
            assert_eq!(error["type"], case.kind, "{}", case.name);
        }
        if !case.code.is_null() {
            assert_eq!(error["code"], case.code, "{}", case.name);
        }
        assert_eq!(headers.get("x-should-retry").map(|v| v.to_str().unwrap()), case.should_retry, "{}", case.name);
        assert!(headers.contains_key("x-request-id"), "{}", case.name);
        if status == 429 {
            assert_eq!(
                (&headers["retry-after"], &headers["retry-after-ms"]),
                (&"7".parse().unwrap(), &"6500".parse().unwrap())
            );
            assert_eq!(headers["x-ratelimit-reset-tokens"], "6m0s");
        }
    }
}

/// Only Anthropic itself speaks for Anthropic: another provider's error in its shape keeps none of its numbers.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_anthropics_shape_passes_as_it_came_from_anthropic_alone() {
    const BODY: &str =
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}"#;
    for (preset, path, status) in [
        ("anthropic", "/v1/messages", 529),
        ("anthropic", "/v1/chat/completions", 503),
        ("openai", "/v1/messages", 503),
        ("openai", "/v1/chat/completions", 503),
        ("custom", "/v1/chat/completions", 503),
    ] {
        let fake = Fake::always(Answer::json(529, BODY)).await;
        let yaml = format!(
            "providers: {{p: {{preset: {preset}, base_url: \"http://{}/v1\", api_key: k, credentials: mapped}}}}\ndefault_provider: p\n",
            fake.address
        );
        let gateway = Gateway::start(&yaml);
        let body = json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]});
        let request = reqwest::Client::new().post(gateway.url(path)).header("anthropic-version", "2023-06-01");
        let reply = request.body(body.to_string()).send().await.unwrap();
        let (told, text) = (reply.status().as_u16(), reply.text().await.unwrap());
        assert_eq!((told, text == BODY), (status, status == 529), "{preset} {path}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("overloaded_error")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_or_does_not_exist_is_a_502() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let client = reqwest::Client::new();
    for yaml in [
        providers(&[("openai", closed)]),
        providers(&[("openai", closed)]).replace(&format!("http://{closed}"), "http://no-such-host.invalid"),
    ] {
        let gateway = Gateway::start(&yaml);
        let reply = client.post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", "")).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 502);
        let body: Value = reply.json().await.unwrap();
        assert_eq!(body["error"]["code"], "upstream_unreachable");
        assert!(!body.to_string().contains("127.0.0.1"), "the address is nobody's business: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_outside_the_api_are_404_and_keep_the_connection() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let mut client = crate::support::raw::Client::connect(gateway.addresses[0]).await;
    for path in ["/", "/chat/completions", "/v1", "/v1/../admin", "/v1//files", "/v1/%2e%2e/x", "/metrics", "/healthz"]
    {
        client.write(format!("GET {path} HTTP/1.1\r\nhost: gw\r\n\r\n")).await;
        let reply = client.reply().await.unwrap_or_else(|| panic!("{path} closed the connection"));
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("unknown_url")), "{path}");
    }
    client.post("/v1/chat/completions", "", chat("gpt-4o", "").as_bytes()).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    // A slash at the end is no way around metering.
    client.post("/v1/chat/completions/", "", chat("gpt-4o", "").as_bytes()).await;
    let reply = client.reply().await.expect("an answer");
    assert_eq!((reply.status, reply.header("x-chittycan-cost")), (200, Some("0.003")));
    assert_eq!(fake.last().path, "/v1/chat/completions");
    assert_eq!(fake.count(), 2);
}
