//! In dev mode every model is Ollama's, and no prompt is cut silently.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, Step, chat, fake::Seen};

/// What Ollama's own API answers.
const REPLY: &str = r#"{"model":"llama3.2","created_at":"2026-11-24T00:00:00Z","message":{"role":"assistant","content":"Hello","thinking":"Hm."},
    "done":true,"done_reason":"stop","prompt_eval_count":7,"eval_count":2}"#;

/// Asks Ollama through its OpenAI-compatible endpoint, which takes no context length.
const THROUGH_V1: &str = "providers: {ollama: {dialect: openai}}\n";

/// An Ollama whose models run with `context` tokens by default, 131072 at most; `parameters` are those of the Modelfile.
async fn ollama(context: u64, parameters: &'static str) -> Fake {
    Fake::start(move |seen, _| match seen.path.as_str() {
        "/api/show" => {
            let model_info = json!({"general.architecture": "llama", "llama.context_length": 131_072});
            Answer::json(200, &json!({"parameters": parameters, "model_info": model_info}).to_string())
        }
        "/api/ps" => {
            let loaded =
                ["llama3.2:latest", "nomic-embed-text:latest"].map(|n| json!({"name": n, "context_length": context}));
            Answer::json(200, &json!({ "models": loaded }).to_string())
        }
        "/api/generate" | "/api/embed" => Answer::json(200, r#"{"done":true,"done_reason":"load"}"#),
        "/api/chat" => Answer::json(200, REPLY),
        _ => Answer::completion(),
    })
    .await
}

fn dev(ollama: &Fake, yaml: &str) -> Gateway {
    let url = format!("http://{}", ollama.address);
    Gateway::start_with_env(yaml, &[("CHITTYCAN_MODE", "dev"), ("OLLAMA_BASE_URL", &url)])
}

fn long_chat(tokens: usize, extra: &str) -> String {
    chat("gpt-4o", &format!(r#"{extra},"user":"u""#)).replace("hi", &"word".repeat(tokens))
}

async fn post(gateway: &Gateway, path: &str, body: String) -> (u16, Value) {
    let reply = reqwest::Client::new().post(gateway.url(path)).body(body).send().await.expect("a reply");
    let status = reply.status().as_u16();
    let text = reply.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
}

async fn ask(gateway: &Gateway, body: String) -> (u16, Value) {
    post(gateway, "/v1/chat/completions", body).await
}

/// The paths that were asked for, without the models' own work.
fn questions(ollama: &Fake) -> Vec<String> {
    ollama.seen().into_iter().map(|seen| seen.path).filter(|path| !is_work(path)).collect()
}

fn work(ollama: &Fake) -> Vec<Seen> {
    ollama.seen().into_iter().filter(|seen| is_work(&seen.path)).collect()
}

fn is_work(path: &str) -> bool {
    path.starts_with("/v1/") || path == "/api/chat"
}

#[tokio::test(flavor = "multi_thread")]
async fn every_model_is_ollamas_and_short_prompts_ask_nothing() {
    let ollama = ollama(4096, "").await;
    // Neither the providers nor the routes of the file count in dev mode.
    let gateway = dev(
        &ollama,
        "providers: {openai: {api_key: sk-x, credentials: mapped}}\nroutes: [{model: fast, to: [openai/gpt-4o]}]\n",
    );
    for model in ["gpt-4o", "claude-opus-4", "fast", "openai/gpt-4o", "something/else"] {
        let reply = reqwest::Client::new()
            .post(gateway.url("/v1/chat/completions"))
            .header("authorization", "Bearer sk-the-clients-own")
            .body(chat(model, r#","max_tokens":100000"#))
            .send()
            .await
            .unwrap();
        assert_eq!(reply.status(), 200, "{model}");
        assert_eq!(reply.headers()["x-chittycan-provider"], "ollama", "{model}");
        assert_eq!(reply.headers()["x-chittycan-model"], "llama3.2", "{model}");
        assert_eq!(ollama.last().json()["model"], "llama3.2", "{model}");
        assert_eq!(ollama.last().header("authorization"), None, "a client's key stays here");
    }
    let input = json!({"model": "text-embedding-3-small", "input": "hi"}).to_string();
    assert_eq!(post(&gateway, "/v1/embeddings", input).await.0, 200);
    assert_eq!(ollama.last().json()["model"], "nomic-embed-text");
    assert_eq!(questions(&ollama), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_does_not_fit_is_refused_with_the_numbers() {
    let ollama = ollama(4096, "").await;
    let gateway = dev(&ollama, THROUGH_V1);
    let (status, body) = ask(&gateway, long_chat(5000, "")).await;
    let error = &body["error"];
    assert_eq!((status, &error["code"], &error["param"]), (400, &json!("context_length_exceeded"), &json!("messages")));
    assert_eq!(error["type"], "invalid_request_error");
    let message = error["message"].as_str().unwrap();
    for part in ["about 5006 tokens", "'llama3.2'", "4096", "131072", "OLLAMA_CONTEXT_LENGTH", "num_ctx"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(questions(&ollama), ["/api/show", "/api/generate", "/api/ps"]);
    assert_eq!(ollama.seen()[1].json(), json!({"model": "llama3.2", "stream": false}), "loaded without a prompt");
    assert_eq!(work(&ollama).len(), 0);

    // What fits passes without new questions, what fits only without its reply does not.
    assert_eq!(ask(&gateway, long_chat(4000, "")).await.0, 200);
    let (status, body) = ask(&gateway, long_chat(4000, r#","max_completion_tokens":500"#)).await;
    assert_eq!(status, 400);
    assert!(body["error"]["message"].as_str().unwrap().contains("500 requested for the reply"), "{body}");
    assert_eq!((questions(&ollama).len(), work(&ollama).len()), (3, 1));

    let prompt = json!({"model": "m", "prompt": "word".repeat(5000)}).to_string();
    let (status, body) = post(&gateway, "/v1/completions", prompt).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("prompt")));
    let input = json!({"model": "m", "input": "word".repeat(5000)}).to_string();
    let (status, body) = post(&gateway, "/v1/responses", input).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("input")));
    assert!(gateway.metrics().await.contains("context_length_exceeded"), "the refusals are counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_context_lets_it_pass() {
    let by_server = ollama(32_768, "").await;
    let gateway = dev(&by_server, THROUGH_V1);
    assert_eq!(ask(&gateway, long_chat(20_000, "")).await.0, 200);
    assert_eq!(work(&by_server).len(), 1);

    // A num_ctx in the Modelfile decides, whatever the model runs with now, and nothing has to be loaded to know.
    let by_modelfile = ollama(4096, "temperature                    0.5\nnum_ctx                        16384").await;
    let gateway = dev(&by_modelfile, THROUGH_V1);
    assert_eq!(ask(&gateway, long_chat(10_000, "")).await.0, 200);
    assert_eq!(ask(&gateway, long_chat(20_000, "")).await.0, 400);
    assert_eq!(questions(&by_modelfile), ["/api/show"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_own_dialect_asks_for_the_context_that_a_prompt_needs() {
    let ollama = ollama(4096, "").await;
    let gateway = dev(&ollama, "");
    let context = || ollama.last().json()["options"]["num_ctx"].as_u64();
    let (status, body) = ask(&gateway, chat("gpt-4o", "")).await;
    assert_eq!((status, context()), (200, None), "a short prompt runs with what the server has");
    assert_eq!(body["choices"][0]["message"]["content"], "Hello");
    assert_eq!(body["choices"][0]["message"]["reasoning_content"], "Hm.", "which the OpenAI endpoint loses");
    assert_eq!(body["usage"]["prompt_tokens"], 7);
    assert_eq!(ollama.last().json()["truncate"], false, "a prompt that is too long all the same is an error");

    assert_eq!((ask(&gateway, long_chat(2500, "")).await.0, context()), (200, None), "it fits");
    assert_eq!((ask(&gateway, long_chat(5000, "")).await.0, context()), (200, Some(8192)));
    assert_eq!((ask(&gateway, long_chat(5000, r#","max_tokens":9000"#)).await.0, context()), (200, Some(16_384)));
    // Another context means another load of the model: what is asked for only grows.
    assert_eq!((ask(&gateway, chat("gpt-4o", "")).await.0, context()), (200, Some(16_384)));
    assert_eq!((ask(&gateway, long_chat(120_000, "")).await.0, context()), (200, Some(131_072)));

    let (status, body) = ask(&gateway, long_chat(140_000, "")).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("context_length_exceeded")));
    assert!(body["error"]["message"].as_str().unwrap().contains("maximum"), "{body}");
    assert_eq!(questions(&ollama), ["/api/show", "/api/generate", "/api/ps"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_to_embed_are_measured_one_by_one() {
    let small = Fake::start(|seen, _| match seen.path.as_str() {
        "/api/show" => Answer::json(
            200,
            r#"{"parameters":"num_ctx 512","model_info":{"general.architecture":"bert","bert.context_length":512}}"#,
        ),
        _ => Answer::json(200, r#"{"object":"list","data":[]}"#),
    })
    .await;
    let gateway = dev(&small, "");
    let embed = async |inputs: &[usize]| {
        let inputs: Vec<String> = inputs.iter().map(|tokens| "word".repeat(*tokens)).collect();
        post(&gateway, "/v1/embeddings", json!({"model": "text-embedding-3-large", "input": inputs}).to_string()).await
    };
    assert_eq!(embed(&[200; 50]).await.0, 200, "a batch is not one text");
    assert_eq!(questions(&small), [""; 0]);
    assert_eq!(embed(&[500, 400, 300]).await.0, 200);
    let (status, body) = embed(&[10, 600, 10]).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("context_length_exceeded")));
    assert!(body["error"]["message"].as_str().unwrap().contains("maximum"), "{body}");
    assert_eq!(questions(&small), ["/api/show"]);

    let default = ollama(8192, "").await;
    let gateway = dev(&default, "");
    let input = json!({"model": "text-embedding-3-large", "input": "word".repeat(9000)}).to_string();
    assert_eq!(post(&gateway, "/v1/embeddings", input).await.0, 400);
    assert_eq!(questions(&default), ["/api/show", "/api/embed", "/api/ps"], "an embedding model does not generate");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ollama_that_does_not_tell_gets_the_prompt_as_it_is() {
    let refusals = [
        ("status", Answer::json(404, r#"{"error":"model not found"}"#)),
        ("no JSON", Answer::json(200, "hello")),
        ("nothing said", Answer::json(200, "{}")),
        ("broken off", Answer { headers: vec![], sized: false, steps: vec![Step::Cut], ..Answer::completion() }),
        // The model takes longer to load than the provider's read timeout.
        ("stalled", Answer { steps: vec![Step::Stall], sized: false, ..Answer::json(200, "") }),
    ];
    for (name, answer) in refusals {
        let stalls = name == "stalled";
        let silent = Fake::start(move |seen, _| match seen.path.as_str() {
            "/api/show" if stalls => Answer::json(200, "{}"),
            path if path.starts_with("/api/") => answer.clone(),
            _ => Answer::completion(),
        })
        .await;
        let gateway = dev(&silent, "providers: {ollama: {dialect: openai, timeouts: {read: 300ms}}}\n");
        let begun = Instant::now();
        let body = long_chat(5000, "");
        let sent: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(ask(&gateway, body).await.0, 200, "{name}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{name} took {:?}", begun.elapsed());
        assert_eq!(work(&silent)[0].json()["messages"], sent["messages"], "{name}");
        let asked = questions(&silent).len();
        assert_eq!(ask(&gateway, long_chat(5000, "")).await.0, 200, "{name}");
        assert_eq!(questions(&silent).len(), asked, "{name}: left alone for a while");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_dev_mode_the_next_deployment_takes_what_ollama_cannot() {
    let (local, cloud) = (ollama(4096, "").await, Fake::always(Answer::completion()).await);
    let yaml = format!(
        "providers:\n  ollama: {{dialect: openai, base_url: \"http://{}/v1\"}}\n  \
         openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: mapped}}\n\
         routes:\n  - {{model: gpt-4o, to: [ollama/llama3.2, openai]}}\n",
        local.address, cloud.address
    );
    let gateway = Gateway::start(&yaml);
    assert_eq!(ask(&gateway, long_chat(3000, "")).await.0, 200);
    assert_eq!((work(&local).len(), cloud.count()), (1, 0));
    assert_eq!(ask(&gateway, long_chat(5000, "")).await.0, 200);
    assert_eq!((work(&local).len(), cloud.count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_that_can_config_dev_writes_serves() {
    let ollama = ollama(4096, "").await;
    let file = chittycan::config::dev_file();
    // The file alone makes dev mode; the address moves to the fake's.
    let url = format!("http://{}", ollama.address);
    assert!(file.contains("http://127.0.0.1:11434"), "{file}");
    let gateway = Gateway::start(&file.replace("http://127.0.0.1:11434", &url));
    assert_eq!(ask(&gateway, chat("gpt-4o", "")).await.0, 200);
    assert_eq!(ollama.last().json()["model"], "llama3.2");
}
