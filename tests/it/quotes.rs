//! Quotes: what a request may cost is judged before the call, and never by the cheaper of two readings.

use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, chat, gateway::providers, reads_well};

async fn ask(gateway: &Gateway, path: &str, headers: &[(&str, &str)], body: String) -> (u16, Value, Option<String>) {
    let mut request = reqwest::Client::new().post(gateway.url(path)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = request.send().await.unwrap();
    let cost = reply.headers().get("x-chittycan-cost").map(|value| value.to_str().unwrap().to_owned());
    let (status, body) = (reply.status().as_u16(), reply.json().await.unwrap_or_default());
    assert!(reads_well(&body), "{body}");
    (status, body, cost)
}

async fn chat_status(gateway: &Gateway, body: String) -> (u16, Value, Option<String>) {
    ask(gateway, "/v1/chat/completions", &[], body).await
}

fn with_budget(yaml: &str, usd: &str) -> String {
    format!("{yaml}tenants: {{default: {{budgets: [{{usd: {usd}}}]}}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_reader_takes_for_a_limit_is_refused() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&with_budget(&providers(&[("openai", fake.address)]), "1"));
    for (extra, param) in [
        (",\"max_tokens\":1,\"max_to\u{212a}ens\":16000", "max_tokens"),
        (r#","max_tokens":1,"max_to\u212aens":16000"#, "max_tokens"),
        (",\"max_tokens\":1,\"max_token\u{17f}\":16000", "max_tokens"),
        (r#","max_tokens":1,"MAX_TOKENS":16000"#, "max_tokens"),
        (r#","max_tokens":1,"maxTokens":16000"#, "max_tokens"),
        (r#","Background":true"#, "background"),
        (r#","be\u017ft_of":100"#, "best_of"),
        (r#","webSearchOptions":{}"#, "web_search_options"),
        (r#","stream":true,"stream_options":{"Include_Usage":false}"#, "stream_options.include_usage"),
        (r#","prediction":null,"prediction":{"type":"content","content":"x"}"#, "prediction"),
    ] {
        let (status, body, _) = chat_status(&gateway, chat("gpt-4o", extra)).await;
        assert_eq!((status, &body["error"]["param"]), (400, &param.into()), "{extra}: {body}");
    }
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dated_model_has_its_own_price_or_none() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&with_budget(&providers(&[("openai", fake.address)]), "5"));
    let cost = async |model: &str| chat_status(&gateway, chat(model, r#","max_tokens":100"#)).await;
    // 600 * 2.50 + 400 * 1.25 + 100 * 10; the first gpt-4o: 1000 * 5 + 100 * 15 dollars per million.
    assert_eq!(cost("gpt-4o-2024-11-20").await.2.as_deref(), Some("0.003"));
    assert_eq!(cost("gpt-4o-2024-05-13").await.2.as_deref(), Some("0.0065"));
    // Whether there is such a model may be asked, and nothing else.
    let asked = || fake.seen().iter().filter(|seen| seen.method != "GET").count();
    let before = asked();
    for model in ["gpt-4o-2023-01-01", "gpt-4o-20240513", "gpt-4o-latest"] {
        let (status, body, _) = cost(model).await;
        assert_eq!((status, &body["error"]["code"]), (403, &"model_not_priced".into()), "{model}: {body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(model));
    }
    assert_eq!(asked(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_the_provider_chooses_is_held_and_charged_as_the_dearest() {
    let silent = crate::support::COMPLETION.replace(r#""service_tier":"default","#, "");
    let fake = Fake::start(move |seen, _| {
        let tier = seen.json()["user"].as_str().map(str::to_owned);
        match tier {
            Some(tier) => Answer::json(200, &crate::support::COMPLETION.replace("\"default\"", &format!("\"{tier}\""))),
            None => Answer::json(200, &silent),
        }
    })
    .await;
    let gateway = Gateway::start(&with_budget(&providers(&[("openai", fake.address)]), "5"));
    let ask = async |extra: &str| chat_status(&gateway, chat("gpt-4o", &format!(r#","max_tokens":100{extra}"#))).await;
    // The priority tier: 600 * 4.25 + 400 * 2.125 + 100 * 17 dollars per million.
    assert_eq!(ask(r#","service_tier":"auto""#).await.2.as_deref(), Some("0.0051"), "the reply does not say");
    assert_eq!(ask(r#","service_tier":"auto","user":"default""#).await.2.as_deref(), Some("0.003"));
    assert_eq!(ask(r#","service_tier":"auto","user":"priority""#).await.2.as_deref(), Some("0.0051"));
    assert_eq!(ask(r#","user":"never-heard-of""#).await.2.as_deref(), Some("0.0051"));
    let (status, body, _) = ask(r#","service_tier":"ultrafast""#).await;
    assert_eq!((status, &body["error"]["param"]), (403, &"service_tier".into()), "{body}");
    // What is held: more than a budget that the standard tier would fit.
    let small = Gateway::start(&with_budget(&providers(&[("openai", fake.address)]), "0.16"));
    let held =
        |tier: &str| chat_status(&small, chat("gpt-4o", &format!(r#","max_tokens":12000,"service_tier":"{tier}""#)));
    assert_eq!((held("auto").await.0, held("default").await.0), (402, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_context_than_the_list_knows_is_refused() {
    let reply = json!({"id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "hi"}], "usage": {"input_tokens": 10, "output_tokens": 1}});
    let fake = Fake::always(Answer::json(200, &reply.to_string())).await;
    let yaml = |headers: &str| {
        format!(
            "providers:\n  anthropic: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: mapped{headers}}}\n",
            fake.address
        )
    };
    let gateway = Gateway::start(&with_budget(&yaml(""), "100"));
    let body =
        |model: &str| format!(r#"{{"model":"{model}","max_tokens":9,"messages":[{{"role":"user","content":"hi"}}]}}"#);
    let beta =
        [("anthropic-beta", "prompt-caching-2024-07-31,Context-1M-2025-08-07"), ("anthropic-version", "2023-06-01")];
    for path in ["/v1/messages", "/v1/chat/completions"] {
        let (status, reply, _) = ask(&gateway, path, &beta, body("claude-sonnet-4-5")).await;
        assert_eq!(status, 403, "{path}: {reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains("anthropic-beta"), "{reply}");
    }
    assert_eq!(fake.count(), 0);
    let other = [("anthropic-beta", "context-management-2025-06-27")];
    assert_eq!(ask(&gateway, "/v1/messages", &other, body("claude-sonnet-4-5")).await.0, 200);
    // The list knows the whole context of this one.
    assert_eq!(ask(&gateway, "/v1/messages", &beta, body("claude-sonnet-4-6")).await.0, 200);
    // Also where the configuration asks for it.
    let gateway = Gateway::start(&with_budget(&yaml(", headers: {anthropic-beta: context-1m-2025-08-07}"), "100"));
    assert_eq!(ask(&gateway, "/v1/messages", &[], body("claude-sonnet-4-5")).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_free_costs_nothing() {
    let fake = Fake::start(|seen, _| match seen.path.as_str() {
        "/api/show" => Answer::json(200, r#"{"model_info":{"llama.context_length":8192}}"#),
        "/api/ps" => Answer::json(200, r#"{"models":[]}"#),
        "/v1/moderations" => Answer::json(200, r#"{"id":"m","model":"omni-moderation-latest","results":[]}"#),
        _ => Answer::completion(),
    })
    .await;
    let ollama = format!(
        "providers:\n  openai: {{base_url: \"http://{0}/v1\", api_key: k, credentials: mapped}}\n  ollama: {{base_url: \"http://{0}/v1\"}}\n\
         routes:\n  - {{model: \"local/*\", to: [ollama]}}\n  - {{model: llama3, to: [ollama]}}\n  - {{model: \"gpt-oss:120b-cloud\", to: [ollama]}}\n  \
         - {{model: \"glm:cloud\", to: [ollama]}}\n",
        fake.address
    );
    let gateway = Gateway::start(&with_budget(&ollama, "1"));
    for model in ["my-moderation", "x-moderation-large", "gpt-moderation", "omni-moderation-2024-09-26"] {
        let (status, body, _) = chat_status(&gateway, chat(model, "")).await;
        assert_eq!((status, &body["error"]["code"]), (403, &"model_not_priced".into()), "{model}: {body}");
    }
    for model in ["gpt-oss:120b-cloud", "glm:cloud"] {
        let (status, body, _) = chat_status(&gateway, chat(model, "")).await;
        assert_eq!((status, &body["error"]["code"]), (403, &"model_not_priced".into()), "{model}: {body}");
    }
    let asked = |path: &str, model: &str| {
        let body = format!(r#"{{"model":"{model}","input":"x"}}"#);
        let path = path.to_owned();
        let gateway = &gateway;
        async move { ask(gateway, &path, &[], body).await.0 }
    };
    assert_eq!(asked("/v1/moderations", "omni-moderation-latest").await, 200);
    assert_eq!(asked("/v1/moderations", "text-moderation-007").await, 200);
    assert_eq!(asked("/v1/moderations", "my-moderation-1").await, 403);
}
