//! A client's credential that is none of ours reaches a vendor only if it looks like that vendor's own, whichever way it is
//! presented and whatever is asked.

use serde_json::Value;

use crate::support::{Answer, Fake, Gateway, chat, gateway::providers, raw::Client, reads_well};

/// What is none of OpenAI's keys: those of other vendors, a login, a cloud's, a token that is misspelt, what is nothing.
const STRANGE: &[&str] = &[
    "sk-ant-api03-stolen",
    "sk-ant-oat01-stolen",
    "sk-or-v1-stolen",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzdG9sZW4ifQ.c3RvbGVu",
    "AKIASTOLENSTOLEN",
    "AIzaSy-stolen",
    "gsk_stolen",
    "hf_stolen",
    "ghp_stolen",
    "xai-stolen",
    "Chitty_stolen",
    "SK-stolen",
    "stolen",
];

/// How a credential can be presented.
const PLACES: [&str; 4] = [
    "authorization: Bearer ",
    "x-api-key: ",
    "api-key: ",
    "sec-websocket-protocol: realtime, openai-insecure-api-key.",
];

const WEBSOCKET: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// One request of each kind: method, path, more headers, body.
fn requests() -> Vec<(&'static str, &'static str, &'static str, String)> {
    let json = "content-type: application/json\r\n";
    let form = "content-type: multipart/form-data; boundary=b\r\n";
    let upload = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\n\
                  content-disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nx\r\n--b--\r\n";
    vec![
        ("POST", "/v1/chat/completions", json, chat("gpt-4o", "")),
        ("POST", "/v1/chat/completions", json, chat("gpt-4o", r#","stream":true"#)),
        ("POST", "/v1/responses", json, r#"{"model":"gpt-4o","input":"hi"}"#.into()),
        ("POST", "/v1/embeddings", json, r#"{"model":"gpt-4o","input":"hi"}"#.into()),
        ("POST", "/v1/moderations", json, r#"{"model":"gpt-4o","input":"hi"}"#.into()),
        ("POST", "/v1/images/generations", json, r#"{"model":"gpt-image-1","prompt":"hi"}"#.into()),
        ("GET", "/v1/files", "", String::new()),
        ("GET", "/v1/files/file-1", "", String::new()),
        ("GET", "/v1/models/strange-model", "", String::new()),
        ("POST", "/v1/files", form, upload.into()),
        (
            "POST",
            "/v1/batches",
            json,
            r#"{"input_file_id":"file-1","endpoint":"/v1/responses","completion_window":"24h"}"#.into(),
        ),
        ("GET", "/v1/realtime?model=gpt-realtime", WEBSOCKET, String::new()),
    ]
}

async fn send(gateway: &Gateway, request: &(&str, &str, &str, String), credential: &str) -> (u16, Value) {
    let (method, path, headers, body) = request;
    let mut client = Client::connect(gateway.addresses[0]).await;
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    client.write(format!("{method} {path} HTTP/1.1\r\nhost: gw\r\n{headers}{length}{credential}\r\n\r\n{body}")).await;
    let reply = client.reply().await.unwrap_or_else(|| panic!("{method} {path} {credential}: no answer"));
    let json =
        if reply.body.is_empty() { Value::Null } else { serde_json::from_slice(&reply.body).unwrap_or_default() };
    (reply.status, json)
}

fn with_credentials(fake: &Fake, mode: &str) -> String {
    providers(&[("openai", fake.address)]).replace("credentials: mapped", &format!("credentials: {mode}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn under_passthrough_no_provider_hears_of_a_strange_key() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&with_credentials(&fake, "passthrough"));
    for request in requests() {
        for (at, key) in STRANGE.iter().enumerate() {
            let place = PLACES[at % PLACES.len()];
            let (status, body) = send(&gateway, &request, &format!("{place}{key}")).await;
            let what = format!("{} {} {place}{key}: {status} {body}", request.0, request.1);
            assert_eq!(fake.count(), 0, "{what}");
            if request.1.starts_with("/v1/models/") {
                // Nobody can tell that the model is there.
                assert_eq!(status, 404, "{what}");
                continue;
            }
            assert_eq!((status, &body["error"]["code"]), (401, &"invalid_api_key".into()), "{what}");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains("'openai'") && message.contains("`sk-`") && reads_well(&body), "{message}");
            assert!(!message.to_lowercase().contains("stolen"), "the key shows: {message}");
        }
    }
    // The gateway has a key of its own, which nobody gets under `passthrough`.
    let (status, body) = send(&gateway, &requests()[0], "x-nothing: 1").await;
    assert_eq!((status, &body["error"]["code"], fake.count()), (401, &"missing_api_key".into(), 0));
    for request in requests() {
        let asked = fake.count();
        send(&gateway, &request, "authorization: Bearer sk-proj-own").await;
        assert!(fake.count() > asked, "{} {}", request.0, request.1);
        assert_eq!(fake.last().header("authorization"), Some("Bearer sk-proj-own"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_auto_the_gateways_key_goes_in_the_place_of_a_strange_one() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&(with_credentials(&fake, "auto") + "tenants: {default: {provider_objects: all}}\n"));
    for request in requests() {
        for (at, key) in STRANGE.iter().enumerate() {
            send(&gateway, &request, &format!("{}{key}", PLACES[at % PLACES.len()])).await;
        }
    }
    assert!(fake.count() >= requests().len());
    for seen in fake.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer sk-gateway"), "{}", seen.path);
        let all = format!("{:?} {} {:?}", seen.headers, seen.path, seen.body);
        assert!(!all.to_lowercase().contains("stolen"), "{all}");
    }
    // A gateway without a key has nothing to send in its place.
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&with_credentials(&fake, "auto").replace("api_key: sk-gateway, ", ""));
    for request in requests() {
        for (at, key) in STRANGE.iter().enumerate() {
            let (status, body) = send(&gateway, &request, &format!("{}{key}", PLACES[at % PLACES.len()])).await;
            let expected = if request.1.starts_with("/v1/models/") { 404 } else { 401 };
            assert_eq!((status, fake.count()), (expected, 0), "{} {} {key}: {body}", request.0, request.1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_gets_its_own_keys_and_logins_and_no_others() {
    let fake = Fake::always(Answer::json(200, "{}")).await;
    let yaml = format!(
        "providers: {{anthropic: {{preset: anthropic, base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: passthrough}}}}\n\
         routes: [{{model: claude, to: [anthropic]}}]\ndefault_provider: anthropic\n",
        fake.address
    );
    let gateway = Gateway::start(&yaml);
    let json = "content-type: application/json\r\nanthropic-version: 2023-06-01\r\n";
    let ask = r#"{"model":"claude","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    let ours = [
        ("POST", "/v1/messages", json, ask.to_owned()),
        ("POST", "/v1/messages/batches", json, r#"{"requests":[]}"#.to_owned()),
        ("GET", "/v1/files", "anthropic-version: 2023-06-01\r\n", String::new()),
    ];
    for request in &ours {
        for key in
            ["sk-proj-stolen", "sk-stolen", "sk-or-v1-stolen", "eyJhbGciOiJIUzI1NiJ9.stolen", "AKIASTOLEN", "stolen"]
        {
            for place in &PLACES[..3] {
                let (status, body) = send(&gateway, request, &format!("{place}{key}")).await;
                assert_eq!((status, fake.count()), (401, 0), "{} {key}: {body}", request.1);
                assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"authentication_error".into()));
                let message = body["error"]["message"].as_str().unwrap();
                assert!(
                    message.contains("`sk-ant-`") && message.contains("x-api-key") && reads_well(&body),
                    "{message}"
                );
            }
        }
    }
    for (key, name, value) in [
        ("sk-ant-api03-own", "x-api-key", "sk-ant-api03-own"),
        ("sk-ant-oat01-own", "authorization", "Bearer sk-ant-oat01-own"),
    ] {
        for request in &ours {
            let asked = fake.count();
            let got = send(&gateway, request, &format!("authorization: Bearer {key}")).await;
            assert_eq!((fake.count(), fake.last().header(name)), (asked + 1, Some(value)), "{}: {got:?}", request.1);
        }
    }
}
