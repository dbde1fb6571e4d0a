//! Whose key goes where, and that no key shows.

use serde_json::Value;

use crate::support::{Answer, Fake, Gateway, chat, gateway::providers};

async fn ask(gateway: &Gateway, model: &str, key: Option<(&str, &str)>) -> (u16, Value) {
    let mut request = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(chat(model, ""));
    if let Some((name, value)) = key {
        request = request.header(name, value);
    }
    let reply = request.header("openai-organization", "org-mine").send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_key_goes_to_openai_and_to_nobody_else() {
    let openai = Fake::always(Answer::completion()).await;
    let other = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", openai.address), ("other", other.address)]).replacen(
        "credentials: mapped",
        "credentials: auto",
        1,
    );
    let gateway = Gateway::start(&yaml);

    ask(&gateway, "gpt-4o", Some(("authorization", "Bearer sk-own"))).await;
    assert_eq!(openai.last().header("authorization"), Some("Bearer sk-own"));
    assert_eq!(openai.last().header("openai-organization"), Some("org-mine"));

    for key in [("api-key", "sk-own"), ("x-api-key", "sk-own")] {
        ask(&gateway, "gpt-4o", Some(key)).await;
        assert_eq!(openai.last().header("authorization"), Some("Bearer sk-own"));
        assert_eq!((openai.last().header("api-key"), openai.last().header("x-api-key")), (None, None));
    }
    for key in [None, Some(("authorization", "Bearer anything")), Some(("x-api-key", "sk-ant-api03-own"))] {
        ask(&gateway, "gpt-4o", key).await;
        assert_eq!(openai.last().header("authorization"), Some("Bearer sk-gateway"), "mapped for {key:?}");
        assert_eq!(openai.last().header("openai-organization"), None);
    }
    ask(&gateway, "other/m", Some(("authorization", "Bearer sk-own"))).await;
    assert_eq!(other.last().header("authorization"), Some("Bearer sk-gateway"));
    assert!(!format!("{:?}", other.last().headers).contains("sk-own"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_failover_the_clients_key_stays_with_openai() {
    let openai = Fake::always(Answer::json(500, "{}")).await;
    let other = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", openai.address), ("other", other.address)]).replacen(
        "credentials: mapped",
        "credentials: auto",
        1,
    );
    let gateway = Gateway::start(&yaml);
    let (status, _) = ask(&gateway, "gpt-4o", Some(("authorization", "Bearer sk-own"))).await;
    assert_eq!(status, 200);
    assert_eq!(openai.last().header("authorization"), Some("Bearer sk-own"));
    assert_eq!(other.last().header("authorization"), Some("Bearer sk-gateway"));
    assert_eq!(other.last().header("openai-organization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_a_401_only_when_it_is_the_clients_own() {
    let refusal = r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
    let openai = Fake::always(Answer::json(401, refusal)).await;
    let gateway =
        Gateway::start(&providers(&[("openai", openai.address)]).replace("credentials: mapped", "credentials: auto"));
    let (status, body) = ask(&gateway, "gpt-4o", Some(("authorization", "Bearer sk-own"))).await;
    assert_eq!((status, &body["error"]["code"]), (401, &"invalid_api_key".into()));
    let (status, body) = ask(&gateway, "gpt-4o", None).await;
    assert_eq!((status, &body["error"]["code"]), (502, &"upstream_authentication".into()));
    // Paths that only pass through obey the same rule.
    let reply = reqwest::get(gateway.url("/v1/files")).await.unwrap();
    assert_eq!(reply.status().as_u16(), 502);
    assert_eq!(reply.json::<Value>().await.unwrap()["error"]["code"], "upstream_authentication");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_any_key_is_told_so() {
    let openai = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", openai.address)])
        .replace(" api_key: sk-gateway, credentials: mapped", " credentials: auto");
    let gateway = Gateway::start(&yaml);
    let (status, body) = ask(&gateway, "gpt-4o", None).await;
    assert_eq!((status, &body["error"]["code"]), (401, &"missing_api_key".into()));
    let (status, _) = ask(&gateway, "gpt-4o", Some(("authorization", "Bearer sk-own"))).await;
    assert_eq!(status, 200);
    assert_eq!(openai.count(), 1);
}
