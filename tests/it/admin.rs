//! The admin API: who gets in, what becomes of a token at once, and whether the OpenAPI document tells the truth.

use std::time::{Duration, Instant};

use chittycan::{
    config::Limits,
    identity::{NewToken, Scope, Scopes},
    types::unix_now,
};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Fake, Gateway, Process, chat, free_port, gateway::providers};

const TENANTS: &str = "tenants:
  acme: {budgets: [{usd: 100, period: monthly, timezone: Europe/Berlin}]}
  research:
    parent: acme
    models: [gpt-4o*]
    headers: {OpenAI-Project: proj_hidden}
    limits: {requests_per_minute: 600, usd_per_minute: 1.5}
    budgets: [{usd: 0.25, period: total}, {usd: 5, period: daily, hard: false}]
";

/// A gateway, an admin token for it, and a client that keeps what it was answered.
struct Api {
    gateway: Gateway,
    token: String,
    client: reqwest::Client,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Api {
    async fn start(yaml: &str) -> Self {
        let gateway = Gateway::start(yaml);
        until_served(gateway.admin).await;
        let new = NewToken { scopes: [Scope::Admin].into_iter().collect(), ..new_token() };
        let (_, token) = gateway.token_of(&new).await;
        Self { gateway, token, client: reqwest::Client::new() }
    }

    async fn over(fake: &Fake) -> Self {
        Self::start(&(providers(&[("openai", fake.address)]) + TENANTS)).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.gateway.admin))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let reply = request.send().await.unwrap();
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let text = reply.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text));
        Reply { status, headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path).bearer_auth(&self.token)).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::POST, path).bearer_auth(&self.token).json(&body)).await
    }

    async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path).bearer_auth(&self.token)).await
    }

    /// A new token's id and secret.
    async fn create(&self, body: Value) -> (String, String) {
        created(&self.post("/api/v1/tokens", body).await)
    }

    /// What the client API answers to a list of models.
    async fn opens(&self, secret: &str) -> u16 {
        let request = self.client.get(self.gateway.url("/v1/models")).bearer_auth(secret);
        request.send().await.unwrap().status().as_u16()
    }
}

/// "Ready" is said of the client API; the admin listener may come a moment later.
async fn until_served(admin: impl std::fmt::Display) {
    let begun = Instant::now();
    while reqwest::get(format!("http://{admin}/healthz")).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "no admin listener after 5 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn new_token() -> NewToken {
    NewToken {
        tenant: "default".into(),
        name: None,
        scopes: Scopes::CLIENT,
        models: Vec::new(),
        limits: Limits::default(),
        expires_at: None,
    }
}

fn created(reply: &Reply) -> (String, String) {
    assert_eq!(reply.status, 201, "{reply:?}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&reply.body["token"]["id"]), text(&reply.body["secret"]))
}

/// Fails where a refusal is not in the API's own shape.
fn refused(reply: &Reply, status: u16, code: &str, what: &str) {
    assert_eq!(reply.status, status, "{what}: {reply:?}");
    let error = reply.body["error"].as_object().unwrap_or_else(|| panic!("{what}: {reply:?}"));
    assert_eq!(error.keys().map(String::as_str).collect::<Vec<_>>(), ["message", "code"], "{what}");
    assert_eq!(error["code"], code, "{what}: {reply:?}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{what}: {reply:?}");
    assert_eq!(reply.headers["content-type"], "application/json", "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_and_ends_and_each_change_holds_at_once() {
    let fake = Fake::always(Answer::completion()).await;
    let api = Api::over(&fake).await;
    let made = api
        .post(
            "/api/v1/tokens",
            json!({
                "tenant": "research", "name": "ci", "models": ["gpt-4o*"], "expires_in": "30d",
                "limits": {"requests_per_minute": 60, "usd_per_minute": "0.50"},
            }),
        )
        .await;
    let (id, secret) = created(&made);
    assert_eq!(api.opens(&secret).await, 200, "at once");
    assert_eq!(made.headers["cache-control"], "no-store");
    let token = &made.body["token"];
    assert_eq!(
        (&token["tenant"], &token["name"], &token["state"]),
        (&json!("research"), &json!("ci"), &json!("active"))
    );
    assert_eq!((&token["scopes"], &token["models"]), (&json!(["ai:read", "ai:write"]), &json!(["gpt-4o*"])));
    assert_eq!(token["limits"], json!({"requests_per_minute": 60, "usd_per_minute": "0.5"}));
    assert_eq!((&token["revoked_at"], &token["replaced_by"]), (&Value::Null, &Value::Null));
    let at = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let lifetime = at(&token["expires_at"]) - at(&token["created_at"]);
    assert!((30 * 86_400_000 - 1_000..=30 * 86_400_000).contains(&lifetime), "{lifetime} ms");

    assert_eq!(api.get(&format!("/api/v1/tokens/{id}")).await.body, *token);
    let listed = api.get("/api/v1/tokens?tenant=research").await;
    assert_eq!(listed.body, json!({ "tokens": [token] }));
    assert_eq!(api.get("/api/v1/tokens").await.body["tokens"].as_array().unwrap().len(), 2, "and the admin's own");
    assert_eq!(api.get("/api/v1/tokens?tenant=acme").await.body, json!({ "tokens": [] }));

    let (fresh_id, fresh) = created(&api.post(&format!("/api/v1/tokens/{id}/rotate"), json!({"overlap": "24h"})).await);
    assert_eq!((api.opens(&secret).await, api.opens(&fresh).await), (200, 200), "both work for a day");
    let old = api.get(&format!("/api/v1/tokens/{id}")).await.body;
    assert_eq!((&old["replaced_by"], &old["state"]), (&json!(fresh_id), &json!("active")));
    let left = at(&old["expires_at"]) - i64::try_from(unix_now()).unwrap();
    assert!((86_300_000..=86_400_000).contains(&left), "{left} ms");
    let fresh_token = api.get(&format!("/api/v1/tokens/{fresh_id}")).await.body;
    for kept in ["tenant", "name", "scopes", "models", "limits"] {
        assert_eq!(fresh_token[kept], token[kept], "{kept}");
    }
    assert_eq!(fresh_token["expires_at"], token["expires_at"]);

    // Without a body there is no overlap.
    let path = format!("/api/v1/tokens/{fresh_id}/rotate");
    let (last_id, last) = created(&api.send(api.request(Method::POST, &path).bearer_auth(&api.token)).await);
    assert_eq!((api.opens(&fresh).await, api.opens(&last).await), (401, 200));
    let again = api.post(&path, json!({})).await;
    refused(&again, 409, "token_ended", "rotating an expired token");

    let revoked = api.delete(&format!("/api/v1/tokens/{last_id}")).await;
    assert_eq!(api.opens(&last).await, 401, "at once");
    assert_eq!((revoked.status, &revoked.body["state"]), (200, &json!("revoked")));
    assert_eq!(api.delete(&format!("/api/v1/tokens/{last_id}")).await.body, revoked.body, "the first time stands");
    assert_eq!(api.get(&format!("/api/v1/tokens/{last_id}")).await.body, revoked.body, "it stays in the list");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_has_a_default_and_what_is_given_is_obeyed() {
    let fake = Fake::always(Answer::completion()).await;
    let api = Api::over(&fake).await;
    let made = api.post("/api/v1/tokens", json!({})).await;
    let token = &made.body["token"];
    assert_eq!((&token["tenant"], &token["name"]), (&json!("default"), &Value::Null));
    assert_eq!((&token["scopes"], &token["models"]), (&json!(["ai:read", "ai:write"]), &json!([])));
    assert_eq!((&token["limits"], &token["expires_at"]), (&json!({}), &Value::Null));
    let empty = api.send(api.request(Method::POST, "/api/v1/tokens").bearer_auth(&api.token)).await;
    created(&empty);

    let (_, reads) = api.create(json!({"scopes": ["ai:read"]})).await;
    let ask = async |secret: &str, model: &str| {
        let request = api.client.post(api.gateway.url("/v1/chat/completions")).bearer_auth(secret);
        request.body(chat(model, "")).send().await.unwrap().status().as_u16()
    };
    assert_eq!((api.opens(&reads).await, ask(&reads, "gpt-4o").await), (200, 403));
    let (_, mini) = api.create(json!({"tenant": "research", "models": ["gpt-4o"]})).await;
    assert_eq!(ask(&mini, "gpt-4o").await, 200);
    assert_ne!(ask(&mini, "gpt-4o-mini").await, 200);

    let made = api.post("/api/v1/tokens", json!({"expires_at": "2100-01-01T01:00:00+01:00"})).await;
    assert_eq!(made.body["token"]["expires_at"], "2100-01-01T00:00:00Z");
    let (id, short) = api.create(json!({"expires_in": "300ms"})).await;
    assert_eq!(api.opens(&short).await, 200);
    tokio::time::sleep(Duration::from_millis(310)).await;
    assert_eq!(api.opens(&short).await, 401);
    assert_eq!(api.get(&format!("/api/v1/tokens/{id}")).await.body["state"], "expired");

    // An admin token made through the API opens it, and one that was revoked does not.
    let (id, admin) = api.create(json!({"scopes": ["admin"], "name": "second"})).await;
    let with = |token: &str| api.send(api.request(Method::GET, "/api/v1/health").header("x-api-key", token));
    assert_eq!(with(&admin).await.status, 200);
    api.delete(&format!("/api/v1/tokens/{id}")).await;
    refused(&with(&admin).await, 401, "invalid_api_key", "a revoked admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_gets_in() {
    let fake = Fake::always(Answer::completion()).await;
    let api = Api::over(&fake).await;
    let (_, client) = api.create(json!({})).await;
    for path in
        ["/api/v1/tokens", "/api/v1/tenants", "/api/v1/health", "/api/v1/tokens/tok_x", "/api/v1/nothing", "/api/v1"]
    {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::PATCH] {
            let what = format!("{method} {path}");
            let reply = api.send(api.request(method.clone(), path)).await;
            refused(&reply, 401, "invalid_api_key", &what);
            assert_eq!(
                (&reply.headers["www-authenticate"], &reply.headers["cache-control"]),
                (&"Bearer".parse().unwrap(), &"no-store".parse().unwrap())
            );
            let reply = api.send(api.request(method.clone(), path).bearer_auth(&client)).await;
            refused(&reply, 403, "missing_scope", &what);
        }
    }
    let unknown = format!("chitty_{}", "a".repeat(43));
    for strange in
        [&*unknown, "chitty_", "chitty_' OR '1'='1", "sk-own", "", &api.token[..49], &format!("{}x", api.token)]
    {
        let reply = api.send(api.request(Method::GET, "/api/v1/tokens").bearer_auth(strange)).await;
        refused(&reply, 401, "invalid_api_key", strange);
        let reply = api.send(api.request(Method::GET, "/api/v1/tokens").header("x-api-key", strange)).await;
        refused(&reply, 401, "invalid_api_key", strange);
    }
    let query = format!("/api/v1/tokens?api_key={}", api.token);
    refused(&api.send(api.request(Method::GET, &query)).await, 401, "invalid_api_key", "a token in the query");
    assert_eq!(api.send(api.request(Method::GET, "/api/v1/tokens").header("x-api-key", &api.token)).await.status, 200);
    for path in ["/healthz", "/readyz", "/metrics", "/api/openapi.json"] {
        let reply = api.send(api.request(Method::GET, path)).await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.headers.contains_key("access-control-allow-origin"));
    }
    refused(&api.send(api.request(Method::GET, "/nothing")).await, 404, "unknown_url", "outside");
    refused(&api.send(api.request(Method::POST, "/metrics")).await, 405, "method_not_allowed", "outside");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_is_a_503() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]) + "database: {path: no/such/folder/can.db}\n";
    let gateway = Gateway::start(&yaml);
    until_served(gateway.admin).await;
    let api = Api { gateway, token: format!("chitty_{}", "a".repeat(43)), client: reqwest::Client::new() };
    refused(&api.get("/api/v1/tokens").await, 503, "identity_unavailable", "no tokens");

    let api = Api::over(&fake).await;
    let (id, _) = api.create(json!({})).await;
    // The open connections of the gateway still have the file, so the admin is known.
    let file = api.gateway.database();
    std::fs::rename(&file, file.with_extension("gone")).unwrap();
    std::fs::create_dir(&file).unwrap();
    let one = format!("/api/v1/tokens/{id}");
    refused(&api.get("/api/v1/tokens").await, 503, "database_unavailable", "list");
    refused(&api.get(&one).await, 503, "database_unavailable", "show");
    refused(&api.post("/api/v1/tokens", json!({})).await, 503, "database_unavailable", "create");
    refused(&api.post(&format!("{one}/rotate"), json!({})).await, 503, "database_unavailable", "rotate");
    refused(&api.delete(&one).await, 503, "database_unavailable", "revoke");
    refused(&api.get("/api/v1/tenants").await, 503, "database_unavailable", "tenants");
    assert_eq!(api.get("/api/v1/tenants/research").await.status, 200, "the configuration knows it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_in_one_shape() {
    let fake = Fake::always(Answer::completion()).await;
    let api = Api::over(&fake).await;
    for body in [
        json!({"tenant": "nobody"}),
        json!({"tenant": "*"}),
        json!({"tenant": ""}),
        json!({"tenant": 1}),
        json!({"tenannt": "research"}),
        json!({"name": "a\nb"}),
        json!({"name": "x".repeat(201)}),
        json!({"scopes": []}),
        json!({"scopes": ["root"]}),
        json!({"scopes": "admin"}),
        json!({"models": ["a*b"]}),
        json!({"models": ["a b"]}),
        json!({"models": [""]}),
        json!({"models": null}),
        json!({"limits": {"requests_per_minute": 0}}),
        json!({"limits": {"requests_per_minute": -1}}),
        json!({"limits": {"requests_per_hour": 1}}),
        json!({"limits": {"usd_per_minute": "-1"}}),
        json!({"limits": {"usd_per_minute": "0"}}),
        json!({"limits": {"usd_per_minute": "free"}}),
        json!({"expires_at": "2020-01-01T00:00:00Z"}),
        json!({"expires_at": "1969-01-01T00:00:00Z"}),
        json!({"expires_at": "2100-01-01"}),
        json!({"expires_at": 4_102_444_800_u64}),
        json!({"expires_in": "30"}),
        json!({"expires_in": "0s"}),
        json!({"expires_in": "400d"}),
        json!({"expires_in": "30d", "expires_at": "2100-01-01T00:00:00Z"}),
        json!({"limits": [1, 2, 3]}),
        json!([]),
        json!(["research", "by position"]),
        json!(null),
        json!("x"),
    ] {
        refused(&api.post("/api/v1/tokens", body.clone()).await, 400, "invalid_request", &body.to_string());
    }
    let path = "/api/v1/tokens";
    let raw = |body: String, kind: &'static str| {
        api.send(api.request(Method::POST, path).bearer_auth(&api.token).header("content-type", kind).body(body))
    };
    for text in ["{", "{}{}", "{\"name\":\"a\",\"name\":\"b\"}", "\u{0}", "{\"name\":\"\\ud800\"}"] {
        refused(&raw(text.into(), "application/json").await, 400, "invalid_request", text);
    }
    let deep = "[".repeat(30_000);
    refused(&raw(deep, "application/json").await, 400, "invalid_request", "deep");
    refused(&raw("{}".into(), "text/plain").await, 415, "unsupported_media_type", "text");
    let form = "application/x-www-form-urlencoded";
    refused(&raw("tenant=research".into(), form).await, 415, "unsupported_media_type", "a form");
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(64 * 1024));
    refused(&raw(long, "application/json").await, 413, "request_too_large", "long");
    let fits = format!("{{}}{}", " ".repeat(60 * 1024));
    created(&raw(fits, "application/json").await);

    for (path, code) in [
        ("/api/v1/tokens/tok_nothing", "unknown_token"),
        ("/api/v1/tokens/%27%20OR%20%271%27=%271", "unknown_token"),
        ("/api/v1/tenants/nobody", "unknown_tenant"),
        ("/api/v1/tenants/*", "unknown_tenant"),
        ("/api/v1/nothing", "unknown_url"),
        ("/api/v1/tokens/", "unknown_url"),
        ("/api/v1", "unknown_url"),
        ("/api/v1/", "unknown_url"),
        ("/api/v2/tokens", "unknown_url"),
    ] {
        refused(&api.get(path).await, 404, code, path);
    }
    refused(&api.delete("/api/v1/tokens/tok_nothing").await, 404, "unknown_token", "revoke");
    refused(&api.post("/api/v1/tokens/tok_nothing/rotate", json!({})).await, 404, "unknown_token", "rotate");
    refused(&api.get("/api/v1/tokens/%ff").await, 400, "invalid_request", "no text");
    refused(&api.get("/api/v1/tokens?team=x").await, 400, "invalid_request", "query");
    let wrong = api.send(api.request(Method::PUT, "/api/v1/tokens").bearer_auth(&api.token)).await;
    refused(&wrong, 405, "method_not_allowed", "PUT");
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"), "{wrong:?}");
    let (id, _) = api.create(json!({})).await;
    for body in [json!({"overlap": "1"}), json!({"overlap": 1}), json!({"overlapp": "1h"}), json!(["1h"]), json!(null)]
    {
        let reply = api.post(&format!("/api/v1/tokens/{id}/rotate"), body.clone()).await;
        refused(&reply, 400, "invalid_request", &body.to_string());
    }
    assert_eq!(api.get(&format!("/api/v1/tokens/{id}")).await.body["replaced_by"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_show_their_rules_and_what_is_spent() {
    let fake = Fake::always(Answer::completion()).await;
    let api = Api::start(
        &(providers(&[("openai", fake.address)]) + TENANTS + "  \"*\": {budgets: [{usd: 1, period: weekly}]}\n"),
    )
    .await;
    let listed = api.get("/api/v1/tenants").await.body;
    let names: Vec<_> = listed["tenants"].as_array().unwrap().iter().map(|tenant| tenant["id"].clone()).collect();
    assert_eq!(names, ["acme", "default", "research"]);
    refused(&api.get("/api/v1/tenants/team-a").await, 404, "unknown_tenant", "not in use yet");

    let before = api.get("/api/v1/tenants/research").await.body;
    assert_eq!((&before["entry"], &before["parent"]), (&json!("research"), &json!("acme")));
    assert_eq!((&before["models"], &before["headers"]), (&json!(["gpt-4o*"]), &json!(["openai-project"])));
    assert_eq!(before["limits"], json!({"requests_per_minute": 600, "usd_per_minute": "1.5"}));
    let total = json!({
        "period": "total", "timezone": "UTC", "hard": true, "limit_usd": "0.25", "spent_usd": "0", "reserved_usd": "0",
        "starts_at": null, "resets_at": null,
    });
    assert_eq!(before["budgets"][0], total);
    let daily = &before["budgets"][1];
    assert_eq!((&daily["period"], &daily["hard"], &daily["limit_usd"]), (&json!("daily"), &json!(false), &json!("5")));
    let at = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!((at(&daily["resets_at"]) - at(&daily["starts_at"])).as_secs(), 86_400);

    let (_, secret) = api.create(json!({"tenant": "research"})).await;
    let (_, other) = api.create(json!({"tenant": "team-a"})).await;
    let mut costs = Vec::new();
    for token in [&secret, &other] {
        let request = api.client.post(api.gateway.url("/v1/chat/completions")).bearer_auth(token);
        let reply = request.body(chat("gpt-4o", "")).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
        costs.push(reply.headers()["x-chittycan-cost"].to_str().unwrap().to_owned());
        reply.bytes().await.unwrap();
    }
    let cost = &costs[0];
    assert!(cost.parse::<f64>().unwrap() > 0.0);
    for (tenant, budgets) in [("research", 2), ("acme", 1), ("team-a", 1)] {
        let begun = Instant::now();
        let tenant = loop {
            let tenant = api.get(&format!("/api/v1/tenants/{tenant}")).await.body;
            if tenant["budgets"][0]["reserved_usd"] == "0" && tenant["budgets"][0]["spent_usd"] != "0" {
                break tenant;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "{tenant}");
        };
        let found = tenant["budgets"].as_array().unwrap();
        assert_eq!(found.len(), budgets, "{tenant}");
        for budget in found {
            assert_eq!(budget["spent_usd"], **cost, "{tenant}");
        }
    }
    let listed = api.get("/api/v1/tenants").await.body;
    let team = listed["tenants"].as_array().unwrap().iter().find(|tenant| tenant["id"] == "team-a").unwrap();
    assert_eq!((&team["entry"], &team["budgets"][0]["limit_usd"]), (&json!("*"), &json!("1")));
    assert!(!listed.to_string().contains("proj_hidden"), "a header's value is a secret");

    // A reload without the entry `*`: the token is there, its tenant is not.
    let yaml = std::fs::read_to_string(&api.gateway.file).unwrap();
    std::fs::write(&api.gateway.file, yaml.replace("  \"*\": {budgets: [{usd: 1, period: weekly}]}\n", "")).unwrap();
    api.gateway.reloader.reload().unwrap();
    let orphan = api.get("/api/v1/tenants/team-a").await.body;
    assert_eq!((&orphan["entry"], &orphan["budgets"]), (&Value::Null, &json!([])));
    refused(&api.post("/api/v1/tokens", json!({"tenant": "team-a"})).await, 400, "invalid_request", "gone");

    let health = api.get("/api/v1/health").await.body;
    assert_eq!((&health["status"], &health["database"], &health["tokens"]), (&json!("ok"), &json!(true), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_once_and_never_again() {
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    let (port, admin) = (free_port(), free_port());
    let file = folder.path().join("can.yaml");
    let yaml = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: {{address: 127.0.0.1:{admin}}}\nlog: {{level: trace}}\n\
         server: {{threads: 1, lame_duck: 0s, upgrade_socket: {}}}\n{}",
        folder.path().join("up.sock").display(),
        providers(&[("openai", fake.address)])
    );
    std::fs::write(&file, yaml).unwrap();
    let (mut session, _) = chittycan::store::sqlite::at(&folder.path().join("can.db")).connect().unwrap();
    let new = NewToken { scopes: [Scope::Admin].into_iter().collect(), ..new_token() };
    let (root, root_secret) = chittycan::identity::Tokens(&mut *session).create(&new).unwrap();
    let root_secret = root_secret.expose().to_owned();
    let mut process = Process::start(&["serve", "--config", &file.display().to_string()]);
    process.until("ready");
    until_served(format!("127.0.0.1:{admin}")).await;

    let client = reqwest::Client::new();
    let api = |method: Method, path: &str| {
        client.request(method, format!("http://127.0.0.1:{admin}{path}")).bearer_auth(&root_secret)
    };
    let made: Value = api(Method::POST, "/api/v1/tokens").send().await.unwrap().json().await.unwrap();
    let (id, secret) = (made["token"]["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let path = format!("/api/v1/tokens/{id}/rotate");
    let rotated: Value = api(Method::POST, &path).send().await.unwrap().json().await.unwrap();
    let fresh = rotated["secret"].as_str().unwrap();
    client.get(format!("http://127.0.0.1:{port}/v1/models")).bearer_auth(fresh).send().await.unwrap();

    let mut shown = String::new();
    for path in
        ["/api/v1/tokens", "/api/v1/tenants", "/api/v1/health", "/metrics", "/readyz", &format!("/api/v1/tokens/{id}")]
    {
        shown += &api(Method::GET, path).send().await.unwrap().text().await.unwrap();
    }
    shown += &api(Method::DELETE, &format!("/api/v1/tokens/{id}")).send().await.unwrap().text().await.unwrap();
    assert!(shown.contains(id) && shown.contains("can_requests_in_flight"));
    process.signal(nix::sys::signal::Signal::SIGTERM);
    process.ended_within(Duration::from_secs(10)).expect("it ends");
    let log: Vec<String> = process.lines.iter().collect();
    for event in ["token created", "token rotated", "token revoked"] {
        let line = log.iter().find(|line| line.contains(event)).unwrap_or_else(|| panic!("no `{event}` in {log:?}"));
        assert!(line.contains(id) && line.contains(root.id.as_str()), "who did what to which: {line}");
    }
    shown += &log.join("\n");
    for secret in [secret, fresh, &root_secret] {
        assert!(secret.starts_with("chitty_") && !shown.contains(&secret["chitty_".len()..]), "a secret shows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_is_whole_and_true() {
    let fake = Fake::always(Answer::completion()).await;
    let api = Api::over(&fake).await;
    let document = api.send(api.request(Method::GET, "/api/openapi.json")).await.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["name"], "x-api-key");
    for reference in references(&document) {
        let target = document.pointer(reference.strip_prefix('#').unwrap());
        assert!(target.is_some(), "{reference} leads nowhere");
    }

    // Every operation answers, and what it answers is what it says. Other methods do not.
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let guarded = path.starts_with("/api/v1/");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let (id, _) = api.create(json!({"tenant": "research"})).await;
            let at = match path.contains("tenants") {
                true => path.replace("{id}", "research"),
                false => path.replace("{id}", &id),
            };
            let what = format!("{method} {path}");
            let request = api.request(method.clone(), &at).bearer_auth(&api.token);
            let request = match path.ends_with("/invalidate") {
                true => request.json(&json!({"tenant": "research", "key": "0a".repeat(32)})),
                false => request,
            };
            let reply = api.send(request).await;
            let operation = &item[method.as_str().to_lowercase()];
            if operation.is_null() {
                refused(&reply, 405, "method_not_allowed", &what);
                continue;
            }
            operations += 1;
            assert_ne!(operation["operationId"], Value::Null, "{what}");
            let security = operation.get("security").unwrap_or(&document["security"]);
            let open = security.as_array().unwrap().iter().all(|one| one.as_object().unwrap().is_empty());
            assert_eq!(open, !guarded, "{what}: {security}");
            let described = &operation["responses"][reply.status.to_string()];
            assert!(reply.status < 300 && !described.is_null(), "{what}: {reply:?}");
            if guarded {
                conforms(&document, described, &reply.body, &what);
                let without = api.send(api.request(method, &at)).await;
                conforms(&document, &operation["responses"]["401"], &without.body, &what);
            }
        }
    }
    assert_eq!(operations, 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_from_many_sides_hold_at_once() {
    let fake = Fake::always(Answer::completion()).await;
    let api = Api::over(&fake).await;
    let side = async || {
        let mut late = 0;
        for _ in 0..20 {
            let (id, secret) = api.create(json!({})).await;
            late += u32::from(api.opens(&secret).await != 200);
            api.delete(&format!("/api/v1/tokens/{id}")).await;
            late += u32::from(api.opens(&secret).await != 401);
        }
        late
    };
    let late = futures::future::join_all((0..8).map(|_| side())).await;
    assert_eq!(late.iter().sum::<u32>(), 0, "changes that did not hold at once: {late:?}");
}

/// Whether a body is what the document says of a reply.
fn conforms(document: &Value, described: &Value, body: &Value, what: &str) {
    let schema = &described["content"]["application/json"]["schema"];
    let reference = schema["$ref"].as_str().unwrap_or_else(|| panic!("{what}: no schema in {described}"));
    let whole = json!({"$ref": reference, "components": document["components"]});
    let validator = jsonschema::validator_for(&whole).unwrap();
    let faults: Vec<_> = validator.iter_errors(body).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{what}: {faults:?} in {body}");
    // Nothing is said that the document does not know of.
    let properties = &document.pointer(&reference[1..]).unwrap()["properties"];
    for key in body.as_object().unwrap().keys() {
        assert!(!properties[key].is_null(), "{what}: `{key}` is not documented");
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => {
            let own = object.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(object.values().flat_map(references)).collect()
        }
        Value::Array(list) => list.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
