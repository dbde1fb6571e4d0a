//! Strangers: where somebody is told apart, a client without a token spends nothing of the gateway's keys and learns nothing
//! of what others were answered with them.

use std::time::{Duration, Instant};

use chittycan::identity::{NewToken, Scope, Tokens};
use serde_json::Value;

use crate::support::{
    Answer, Fake, Gateway, chat,
    gateway::{new_token as new, providers},
};

/// One provider that takes clients' own keys.
fn open(fake: &Fake) -> String {
    providers(&[("openai", fake.address)]).replace("credentials: mapped", "credentials: auto")
}

const TEAM: &str = "tenants: {team: {budgets: [{usd: 0.01}]}}\n";

async fn ask(gateway: &Gateway, path: &str, key: Option<&str>, body: String) -> (u16, http::HeaderMap, Value) {
    let mut request = reqwest::Client::new().post(gateway.url(path)).body(body);
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let reply = request.send().await.unwrap();
    let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
    (status, headers, reply.json().await.unwrap_or_default())
}

async fn post(gateway: &Gateway, key: Option<&str>) -> u16 {
    ask(gateway, "/v1/chat/completions", key, chat("gpt-4o", r#","max_tokens":100"#)).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_at_its_cap_gains_nothing_by_dropping_its_token() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&(open(&fake) + TEAM));
    let token = gateway.token("team").await;
    let mut last = 200;
    for _ in 0..10 {
        last = post(&gateway, Some(&token)).await;
    }
    assert_eq!(last, 402);
    let asked = fake.count();
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/images/generations"] {
        let (status, headers, body) = ask(&gateway, path, None, chat("gpt-4o", r#","input":"x""#)).await;
        assert_eq!((status, &body["error"]["code"]), (401, &"missing_api_key".into()), "{path}: {body}");
        assert_eq!(headers["x-should-retry"], "false");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("chitty_") && message.contains("auth.anonymous"), "{message}");
    }
    let messages = r#"{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let (status, _, body) = ask(&gateway, path, None, messages.into()).await;
        assert_eq!((status, &body["error"]["type"]), (401, &"authentication_error".into()), "{path}: {body}");
    }
    let purge = ask(&gateway, "/v1/cache/invalidate", None, "{}".into()).await;
    assert!(matches!(purge.0, 401 | 404), "{purge:?}");
    let files = reqwest::get(gateway.url("/v1/files")).await.unwrap();
    assert_eq!(files.status().as_u16(), 401);
    assert_eq!(fake.count(), asked, "no provider was asked for a stranger");
    // A key of the stranger's own is its own business.
    assert_eq!(post(&gateway, Some("sk-own")).await, 200);
    assert_eq!(fake.last().header("authorization"), Some("Bearer sk-own"));
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE tenant = 'default' AND status = 200").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_closes_a_running_gateway_and_taking_it_back_does_not_open_it() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&open(&fake));
    assert_eq!(post(&gateway, None).await, 200, "nobody to tell apart");
    // Who only administers is no client.
    let (_, admin) =
        gateway.token_of(&NewToken { scopes: [Scope::Admin].into_iter().collect(), ..new("default") }).await;
    assert_eq!((post(&gateway, None).await, post(&gateway, Some(&admin)).await), (200, 403));
    // As the command line does, beside the running gateway.
    let (mut session, _) = chittycan::store::sqlite::at(&gateway.database()).connect().unwrap();
    let (token, secret) = Tokens(&mut *session).create(&new("default")).unwrap();
    let begun = Instant::now();
    while post(&gateway, None).await == 200 {
        assert!(begun.elapsed() < Duration::from_secs(2), "a stranger is still served");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((post(&gateway, None).await, post(&gateway, Some(secret.expose())).await), (401, 200));
    Tokens(&mut *session).revoke(token.id.as_str()).unwrap();
    let begun = Instant::now();
    while post(&gateway, Some(secret.expose())).await == 200 {
        assert!(begun.elapsed() < Duration::from_secs(2), "the token is still served");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(post(&gateway, None).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_opens_it_as_a_tenant_whose_limits_hold() {
    let fake = Fake::always(Answer::completion()).await;
    let guests = "auth: {anonymous: guests}\ntenants: {team: {}, guests: {budgets: [{usd: 0.01}]}}\n";
    let gateway = Gateway::start(&(open(&fake) + guests));
    let token = gateway.token("team").await;
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(post(&gateway, None).await);
    }
    assert_eq!((all[0], all[5]), (200, 402), "{all:?}");
    assert_eq!(post(&gateway, Some(&token)).await, 200);
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE tenant = 'default'").await, 0);
    assert!(gateway.query("SELECT sum(cost) FROM entries WHERE tenant = 'guests'").await <= 10_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_everybody_is_one_tenant_the_environment_alone_is_enough() {
    let fake = Fake::always(Answer::completion()).await;
    let env = [("CHITTY_TENANT_ID", "acme"), ("CHITTY_BUDGET_MONTHLY_USD", "0.01")];
    let gateway = Gateway::start_with_env(&open(&fake), &env);
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(post(&gateway, None).await);
    }
    assert_eq!((all[0], all[5]), (200, 402), "{all:?}");
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE tenant <> 'acme'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_answer_that_was_made_with_the_gateways_key() {
    let fake = Fake::always(Answer::completion()).await;
    for namespace in ["tenant", "shared"] {
        let yaml =
            open(&fake) + &format!("tenants: {{team: {{}}}}\ncache: {{enabled: true, namespace: {namespace}}}\n");
        let gateway = Gateway::start(&yaml);
        let token = gateway.token("default").await;
        let body = || chat("gpt-4o", r#","temperature":0"#);
        let (_, first, _) = ask(&gateway, "/v1/chat/completions", Some(&token), body()).await;
        let (_, second, _) = ask(&gateway, "/v1/chat/completions", Some(&token), body()).await;
        assert_eq!(
            (&first["x-chittycan-cache"], &second["x-chittycan-cache"]),
            (&"MISS".parse().unwrap(), &"HIT".parse().unwrap())
        );
        let (status, headers, _) = ask(&gateway, "/v1/chat/completions", None, body()).await;
        assert_eq!((status, headers.get("x-chittycan-cache")), (401, None), "{namespace}");
        // A key that opens nothing must not open the cache either.
        let (_, headers, _) = ask(&gateway, "/v1/chat/completions", Some("sk-made-up"), body()).await;
        assert_eq!(headers["x-chittycan-cache"], "MISS", "{namespace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_the_models_that_their_own_keys_open_and_no_fallback_pays_for_them() {
    let broken = Fake::always(Answer::json(500, r#"{"error":{"message":"down"}}"#)).await;
    let fake = Fake::always(Answer::completion()).await;
    let lab = format!("  lab: {{preset: custom, base_url: \"http://{}/v1\", api_key: sk-lab}}\n", fake.address);
    let yaml = open(&broken)
        .replace("routes:\n", &format!("{lab}routes:\n  - {{model: secret-model, to: [lab]}}\n"))
        .replace("to: [openai]", "to: [openai, lab]")
        + TEAM;
    let gateway = Gateway::start(&yaml);
    let list: Value = reqwest::get(gateway.url("/v1/models")).await.unwrap().json().await.unwrap();
    let names = list["data"].to_string();
    assert!(names.contains("gpt-4o") && !names.contains("secret-model"), "{names}");
    assert_eq!(reqwest::get(gateway.url("/v1/models/secret-model")).await.unwrap().status().as_u16(), 404);
    // The second deployment is the gateway's to pay.
    assert_eq!(post(&gateway, Some("sk-own")).await, 500);
    assert_eq!(fake.count(), 0);
    let token = gateway.token("team").await;
    assert_eq!(
        ask(&gateway, "/v1/chat/completions", Some(&token), chat("secret-model", "")).await.0,
        403,
        "not priced"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_header_of_the_configuration_is_the_gateways_too() {
    let fake = Fake::always(Answer::completion()).await;
    let keyed =
        open(&fake).replace("credentials: auto", "credentials: auto, headers: {authorization: Bearer sk-hidden}");
    let gateway = Gateway::start(&(keyed + TEAM));
    assert_eq!(post(&gateway, Some("sk-own")).await, 401);
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_spends_nothing_without_a_token() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&open(&fake));
    let send = async |origin: &str, host: Option<&str>, key: Option<&str>| {
        // What a page may send without asking first.
        let request = reqwest::Client::new().post(gateway.url("/v1/chat/completions"));
        let request = request.header("origin", origin).header("content-type", "text/plain");
        let request = host.into_iter().fold(request, |request, host| request.header("host", host));
        let request = key.into_iter().fold(request, |request, key| request.bearer_auth(key));
        let reply = request.body(chat("gpt-4o", "")).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    };
    for (origin, host) in [
        ("https://evil.example", None),
        ("null", None),
        // A name that was made to mean this address.
        ("http://evil.example", Some("evil.example")),
    ] {
        for key in [None, Some("sk-anything")] {
            let (status, body) = send(origin, host, key).await;
            assert!(status == 403 && body.contains("origin_not_allowed"), "{origin}: {status} {body}");
        }
    }
    assert_eq!(fake.count(), 0, "nothing was asked");
    let own = format!("http://{}", gateway.addresses[0]);
    assert_eq!(send(&own, None, None).await.0, 200, "a page of the gateway's own address");
    let (_, token) = gateway.token_of(&new("default")).await;
    assert_eq!(send("https://evil.example", None, Some(&token)).await.0, 200, "a token is what a page of others lacks");

    let cors = "http: {cors: {allow_origins: [\"https://app.example\"]}}\n";
    let gateway = Gateway::start(&(open(&fake) + cors));
    let reply =
        reqwest::Client::new().post(gateway.url("/v1/chat/completions")).header("origin", "https://app.example");
    assert_eq!(reply.body(chat("gpt-4o", "")).send().await.unwrap().status().as_u16(), 200);
}
