//! What a client of OpenAI's or Anthropic's relies on beyond the usual request: stored prompts, compressed uploads and
//! downloads, model look-ups, errors that name the client's own header.

use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, chat, gateway::providers, raw, reads_well};

const RESPONSE: &str = r#"{"id":"resp_1","object":"response","created_at":1,"status":"completed","model":"gpt-4o","output":[],"usage":{"input_tokens":5,"output_tokens":5,"total_tokens":10}}"#;

/// The error of a reply, with its status.
async fn refusal(reply: reqwest::Response) -> (u16, Value) {
    let status = reply.status().as_u16();
    let body: Value = reply.json().await.unwrap();
    assert!(reads_well(&body), "{body}");
    (status, body["error"].clone())
}

async fn post(gateway: &Gateway, path: &str, body: &str) -> reqwest::Response {
    reqwest::Client::new().post(gateway.url(path)).body(body.to_owned()).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_a_model_goes_to_the_provider_that_has_the_api() {
    let fake = Fake::always(Answer::json(200, RESPONSE)).await;
    let plain = providers(&[("openai", fake.address)]);
    let gateway = Gateway::start(&plain);
    for body in [r#"{"input":"hi"}"#, "{}", r#"{"input":"hi","temperature":0,"stream":false}"#] {
        for _ in 0..2 {
            let asked = fake.count();
            let reply = post(&gateway, "/v1/responses", body).await;
            assert_eq!(reply.status().as_u16(), 200, "{body}");
            assert_eq!(reply.headers()["x-chittycan-provider"], "openai");
            assert!(reply.headers().get("x-chittycan-cost").is_none(), "nobody knows the model's price");
            assert_eq!(fake.count(), asked + 1, "{body} is not answered from the cache");
            assert_eq!((fake.last().path.as_str(), &fake.last().body[..]), ("/v1/responses", body.as_bytes()));
        }
    }
    // A prompt that is stored in the account is not for one tenant of many to name, with a model or without one.
    let many = Gateway::start(&format!("{plain}tenants: {{default: {{}}, a: {{}}}}\n"));
    let body = r#"{"prompt":{"id":"pmpt_1","variables":{"a":"b"}}}"#;
    let ask = reqwest::Client::new().post(many.url("/v1/responses")).bearer_auth(many.token("a").await).body(body);
    assert_eq!(ask.send().await.unwrap().status().as_u16(), 404);
    assert_eq!(post(&gateway, "/v1/responses", body).await.status().as_u16(), 200);
    assert_eq!(fake.last().body, body);
    let asked = fake.count();

    // Elsewhere the model is required, and so it is where nobody has the API.
    for path in ["/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/messages"] {
        let (status, error) = refusal(post(&gateway, path, r#"{"input":"hi"}"#).await).await;
        assert_eq!(status, 400, "{path}: {error}");
    }
    for body in [r#"{"model":"","input":"hi"}"#, r#"{"model":null,"input":"hi"}"#] {
        let (status, error) = refusal(post(&gateway, "/v1/responses", body).await).await;
        assert_eq!((status, &error["param"]), (400, &json!("model")), "{error}");
    }
    let groq = Gateway::start(&format!(
        "providers: {{groq: {{base_url: \"http://{}/v1\", api_key: k}}}}\ndefault_provider: groq\n",
        fake.address
    ));
    let (status, error) = refusal(post(&groq, "/v1/responses", r#"{"input":"hi"}"#).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("model")), "{error}");
    assert_eq!(fake.count(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_model_is_refused_under_a_budget_and_to_those_who_may_use_some_models_only() {
    let fake = Fake::always(Answer::json(200, RESPONSE)).await;
    let plain = providers(&[("openai", fake.address)]);
    for (tenant, code) in [
        ("{budgets: [{usd: 100}]}", "model_not_priced"),
        ("{limits: {usd_per_minute: 100}}", "model_not_priced"),
        ("{models: [gpt-4o, omni-moderation-latest]}", "model_not_allowed"),
    ] {
        let gateway = Gateway::start(&format!("{plain}tenants: {{default: {tenant}}}\n"));
        let (status, error) = refusal(post(&gateway, "/v1/responses", r#"{"input":"hi"}"#).await).await;
        assert_eq!((status, &error["code"], &error["param"]), (403, &json!(code), &json!("model")), "{error}");
    }
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_about_a_missing_key_names_the_header_that_the_client_uses() {
    let yaml = "listen: [{address: 127.0.0.1:0}]\nproviders: {openai: {base_url: \"http://127.0.0.1:1/v1\"}, \
                anthropic: {base_url: \"http://127.0.0.1:1/v1\"}}\n";
    let tokens_only = format!("{yaml}auth: {{passthrough: false}}\n");
    let mapped = "providers: {anthropic: {base_url: \"http://127.0.0.1:1/v1\", api_key: k}}\n\
                  tenants: {default: {}, other: {}}\n";
    let strangers = Gateway::start(mapped);
    strangers.token("other").await;
    let messages = r#"{"model":"claude-sonnet-4-6","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
    for gateway in [Gateway::start(yaml), Gateway::start(&tokens_only), strangers] {
        let (status, error) = refusal(post(&gateway, "/v1/messages", messages).await).await;
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(status == 401 && message.contains("x-api-key: ") && !message.contains("Authorization"), "{message}");
        let (status, error) = refusal(post(&gateway, "/v1/chat/completions", messages).await).await;
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(
            status == 401 && message.contains("Authorization: Bearer ") && !message.contains("x-api-key"),
            "{message}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_forwarded_may_be_compressed_and_what_is_read_here_may_not() {
    let list = r#"{"object":"list","data":[],"has_more":false}"#;
    let fake = Fake::start(move |seen, _| match seen.path.split('?').next().unwrap() {
        "/v1/files" if seen.method == "GET" => Answer::json(200, list),
        "/v1/files" | "/v1/batches" => Answer::json(200, r#"{"id":"file-1"}"#),
        "/v1/chat/completions" => Answer::completion(),
        _ => Answer::json(200, "\u{1f}compressed").header("content-encoding", "gzip"),
    })
    .await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + "tenants: {default: {}, a: {}}\n"));
    let token = gateway.token("a").await;
    let mut client = raw::Client::connect(gateway.addresses[0]).await;
    let mut ask = async |request: &str, encoding: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nhost: gw\r\nauthorization: Bearer {token}\r\n{encoding}content-length: {length}\r\n\
             content-type: application/json\r\n\r\n{body}"
        );
        client.write(head).await;
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.status, 200, "{request}: {}", String::from_utf8_lossy(&reply.body));
        (reply, fake.last().header("accept-encoding").map(str::to_owned))
    };
    let offer = "accept-encoding: gzip, br;q=0.5\r\n";
    // Ids are read in the reply, or the whole of it.
    for (request, body) in
        [("POST /v1/files", "{}"), ("GET /v1/files", ""), ("POST /v1/chat/completions", &*chat("gpt-4o", ""))]
    {
        assert_eq!(ask(request, offer, body).await.1.as_deref(), Some("identity"), "{request}");
    }
    // The file of before is the tenant's own, and nobody reads it here.
    let (reply, got) = ask("GET /v1/files/file-1/content", offer, "").await;
    assert_eq!(got.as_deref(), Some("gzip, br;q=0.5"));
    assert_eq!((reply.header("content-encoding"), &reply.body[..]), (Some("gzip"), "\u{1f}compressed".as_bytes()));
    assert_eq!(ask("GET /v1/files/file-1/content", "", "").await.1.as_deref(), Some("identity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_keep_alive_is_about_its_own_connection() {
    let fake = Fake::start(|seen, _| {
        let answer = if seen.method == "GET" { Answer::json(200, "{}") } else { Answer::completion() };
        answer.header("keep-alive", "timeout=5, max=1")
    })
    .await;
    let gateway =
        Gateway::start(&(providers(&[("openai", fake.address)]) + "tenants: {default: {provider_objects: all}}\n"));
    let reply = post(&gateway, "/v1/chat/completions", &chat("gpt-4o", "")).await;
    assert!(reply.status().is_success() && reply.headers().get("keep-alive").is_none(), "{:?}", reply.headers());
    let reply = reqwest::get(gateway.url("/v1/files/file-1")).await.unwrap();
    assert!(reply.status().is_success() && reply.headers().get("keep-alive").is_none(), "{:?}", reply.headers());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temperature_that_no_vendor_takes_is_refused_in_translation_too() {
    let fake = Fake::always(Answer::json(500, "{}")).await;
    let gateway = Gateway::start(&format!(
        "providers:\n  anthropic: {{base_url: \"http://{0}/v1\", api_key: k, credentials: mapped}}\n  \
         groq: {{base_url: \"http://{0}/v1\", api_key: k}}\n  ollama: {{base_url: \"http://{0}/v1\"}}\n\
         routes:\n  - {{model: claude, to: [anthropic/claude-haiku-4-5]}}\n  - {{model: chat, to: [groq/openai/gpt-oss-20b]}}\n",
        fake.address
    ));
    let messages = r#""messages":[{"role":"user","content":"hi"}],"max_tokens":5"#;
    for temperature in ["2.1", "-0.1", "1e300", "-1"] {
        for (path, body) in [
            ("/v1/chat/completions", format!(r#"{{"model":"claude",{messages},"temperature":{temperature}}}"#)),
            ("/v1/responses", format!(r#"{{"model":"chat","input":"hi","temperature":{temperature}}}"#)),
            ("/v1/messages", format!(r#"{{"model":"chat",{messages},"temperature":{temperature}}}"#)),
        ] {
            let (status, error) = refusal(post(&gateway, path, &body).await).await;
            let message = error["message"].as_str().unwrap();
            assert!(status == 400 && message.contains("'temperature'"), "{path} {temperature}: {status} {error}");
        }
    }
    assert_eq!(fake.count(), 0);
    post(&gateway, "/v1/chat/completions", &format!(r#"{{"model":"claude",{messages},"temperature":2}}"#)).await;
    assert_eq!(fake.last().json()["temperature"], 1, "what some vendor takes is brought within the other's range");
}
