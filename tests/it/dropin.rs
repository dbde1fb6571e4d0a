//! What a client of OpenAI's or Anthropic's relies on beyond the usual request: stored prompts, compressed uploads and
//! downloads, model look-ups, errors that name the client's own header.

use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, gateway::providers, reads_well};

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
