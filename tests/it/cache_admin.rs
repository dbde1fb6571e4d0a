//! Purging as operators do it: what they name is asked anew, at once or within a moment, and nothing else is.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use chittycan::identity::{NewToken, Scope};
use serde_json::{Value, json};

use crate::support::{
    Answer, Fake, Gateway, chat,
    gateway::{new_token, providers},
};

/// A gateway with two tenants and an admin.
struct Desk {
    gateway: Gateway,
    admin: String,
    ours: String,
    theirs: String,
    client: reqwest::Client,
}

impl Desk {
    async fn over(fake: &Fake) -> Self {
        let yaml = providers(&[("openai", fake.address)]) + "tenants: {ours: {}, theirs: {}}\n";
        let gateway = Gateway::start(&yaml);
        let new = NewToken { scopes: [Scope::Admin].into_iter().collect(), ..new_token("default") };
        let (_, admin) = gateway.token_of(&new).await;
        let (ours, theirs) = (gateway.token("ours").await, gateway.token("theirs").await);
        let client = reqwest::Client::new();
        while client.get(format!("http://{}/healthz", gateway.admin)).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { gateway, admin, ours, theirs, client }
    }

    /// What the cache made of a question: the word and the key.
    async fn ask(&self, token: &str) -> (String, String) {
        let request = self.client.post(self.gateway.url("/v1/chat/completions")).bearer_auth(token);
        let reply = request.body(chat("gpt-4o", ",\"temperature\":0")).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
        let header = |name: &str| reply.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let found = (header("x-chittycan-cache").unwrap(), header("x-chittycan-cache-key").unwrap_or_default());
        reply.bytes().await.unwrap();
        found
    }

    /// Asks until the answer is kept.
    async fn fill(&self) {
        for token in [&self.ours, &self.theirs] {
            let begun = Instant::now();
            while self.ask(token).await.0 != "HIT" {
                assert!(begun.elapsed() < Duration::from_secs(5), "nothing is kept");
            }
        }
    }

    async fn words(&self) -> [String; 2] {
        [self.ask(&self.ours).await.0, self.ask(&self.theirs).await.0]
    }

    async fn api(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let reply = request.bearer_auth(&self.admin).send().await.unwrap();
        (reply.status().as_u16(), reply.json().await.unwrap())
    }

    async fn invalidate(&self, body: &Value) -> (u16, Value) {
        self.api(self.client.post(format!("http://{}/api/v1/cache/invalidate", self.gateway.admin)).json(body)).await
    }

    async fn shown(&self, query: &str) -> (u16, Value) {
        self.api(self.client.get(format!("http://{}/api/v1/cache{query}", self.gateway.admin))).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_purges_what_it_names_and_nothing_else() {
    let fake = Fake::always(Answer::completion()).await;
    let desk = Desk::over(&fake).await;
    desk.fill().await;
    let key = desk.ask(&desk.ours).await.1;
    assert_eq!(key.len(), 64);
    for (body, left) in [
        (json!({"all": true}), ["MISS", "MISS"]),
        (json!({"tenant": "ours"}), ["MISS", "HIT"]),
        (json!({"model": "gpt-4o"}), ["MISS", "MISS"]),
        (json!({"model": "gpt-4o", "tenant": "theirs"}), ["HIT", "MISS"]),
        (json!({"model": "gpt-4"}), ["HIT", "HIT"]),
        (json!({"key": key}), ["MISS", "HIT"]),
        (json!({"key": key, "tenant": "theirs"}), ["HIT", "HIT"]),
    ] {
        desk.fill().await;
        let (status, reply) = desk.invalidate(&body).await;
        assert_eq!((status, &reply["object"], &reply["purged"]), (200, &json!("cache.invalidation"), &body), "{reply}");
        assert!(reply["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{reply}");
        assert_eq!(desk.words().await, left, "{body}");
    }
    for body in [json!({}), json!({"all": false}), json!({"tenent": "ours"}), json!([]), json!({"key": "abc"})] {
        let (status, reply) = desk.invalidate(&body).await;
        assert_eq!((status, &reply["error"]["code"]), (400, &json!("invalid_request")), "{body}: {reply}");
    }
    let url = format!("http://{}/api/v1/cache/invalidate", desk.gateway.admin);
    let (status, reply) = desk.api(desk.client.post(&url)).await;
    assert!(status == 400 && reply["error"]["message"].as_str().unwrap().contains("Say what to purge"), "{reply}");
    let text = desk.client.post(&url).header("content-type", "text/plain").body("{\"all\":true}");
    assert_eq!(desk.api(text).await.0, 415);
    let client = desk.client.post(&url).bearer_auth(&desk.ours).json(&json!({"all": true})).send().await.unwrap();
    assert_eq!(client.status().as_u16(), 403, "clients have an endpoint of their own");
    assert_eq!(desk.words().await, ["HIT", "HIT"], "what is refused purges nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_purges_a_running_gateway() {
    let fake = Fake::always(Answer::completion()).await;
    let desk = Desk::over(&fake).await;
    desk.fill().await;
    let run = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_can"));
        command.args(line.split_whitespace()).env_clear().env("CAN_DATABASE", desk.gateway.database());
        command.env("CAN_ADMIN_TOKEN", &desk.admin).env("CAN_ADMIN_LISTEN", desk.gateway.admin.to_string());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("cache purge --tenant ours").contains("within 200 ms"));
    let begun = Instant::now();
    while desk.ask(&desk.ours).await.0 == "HIT" {
        assert!(begun.elapsed() < Duration::from_secs(2), "the gateway does not learn of it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(desk.ask(&desk.theirs).await.0, "HIT");

    let hits = desk.gateway.query("SELECT count(*) FROM entries WHERE cache = 'HIT'").await;
    let text = run("cache stats");
    assert!(text.starts_with("Last 30 days: ") && text.contains(&format!("{hits} hits")), "{text}");
    assert!(text.contains("\nMemory: ") && text.contains(" entries\n") && text.contains("\nDisk: "), "{text}");
    let (status, shown) = desk.shown("?days=2").await;
    assert_eq!((status, &shown["object"], &shown["total"]["hits"]), (200, &json!("cache"), &json!(hits)), "{shown}");
    assert!(shown["memory"]["bytes"].as_u64() > Some(0) && shown["purges"] == true, "{shown}");
    let line = shown["by_model"].as_array().unwrap().iter().find(|line| line["tenant"] == "theirs").unwrap();
    assert_eq!(line["model"], "gpt-4o", "{shown}");
    assert!(line["saved_usd"].as_str().unwrap().parse::<f64>().unwrap() > 0.0, "{shown}");
    for query in ["?days=0", "?days=400", "?days=x", "?day=1"] {
        assert_eq!(desk.shown(query).await.0, 400, "{query}");
    }
}
