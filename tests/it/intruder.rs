//! What a hostile review of tenant isolation got through with: each attack is played as it was, and an honest client's request
//! of the same kind still passes.

use serde_json::{Value, json};

use crate::{
    objects::account::AS,
    objects::{CHILD, PARENT, SIBLING, STRANGER, TENANTS, World},
    support::{Answer, Fake, Gateway, raw},
};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A gateway with two tenants over a provider that answers by script.
struct Site {
    gateway: Gateway,
    fake: Fake,
    acme: String,
    mallory: String,
}

impl Site {
    async fn start(more: &str, fake: Fake) -> Self {
        let gateway = Gateway::start(&format!(
            "providers: {{openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: auto}}}}\n{more}\n",
            fake.address
        ));
        let (acme, mallory) = (gateway.token("acme").await, gateway.token("mallory").await);
        Self { gateway, fake, acme, mallory }
    }

    async fn ask(&self, token: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let request = reqwest::Client::new().request(method.parse().unwrap(), self.gateway.url(path));
        let request =
            headers.iter().fold(request.bearer_auth(token), |request, (name, value)| request.header(*name, *value));
        let reply = request.body(body.to_owned()).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }
}

const TWO: &str = "tenants: {acme: {}, mallory: {}}";

fn line(url: &str, id: &str) -> String {
    format!(
        r#"{{"custom_id":"1","method":"POST","url":"{url}","body":{{"model":"gpt-4o","input":[{{"role":"user","content":[{{"type":"input_file","file_id":"{id}"}}]}}]}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_one_file_and_its_lines_one_endpoint() {
    let world = World::start().await;
    let secret = world.upload(CHILD, "secret").await;
    let store = world.post(CHILD, "/v1/vector_stores", json!({})).await.id();
    let own = world.upload(SIBLING, "x").await;
    let clean = world.upload(SIBLING, &line("/v1/responses", &own)).await;
    let dirty = world.upload(SIBLING, &line("/v1/responses", &secret)).await;
    let batches = |world: &World| {
        world.openai.fake.seen().iter().filter(|seen| seen.method == "POST" && seen.path == "/v1/batches").count()
    };
    // A clean file is shown, and another one is meant.
    for body in [
        format!(r#"{{"x":{{"input_file_id":"{clean}"}},"input_file_id":"{dirty}","endpoint":"/v1/responses"}}"#),
        format!(r#"{{"input_file_id":"{clean}","x":{{"input_file_id":"{dirty}"}},"endpoint":"/v1/responses"}}"#),
        format!(r#"{{"input_file_id":"{clean}","x":[{{"INPUT_FILE_ID":"{dirty}"}}],"endpoint":"/v1/responses"}}"#),
        format!(r#"{{"input_file_id":"{clean}","inputFileId":"{dirty}","endpoint":"/v1/responses"}}"#),
        format!(r#"{{"input_file_id":"{dirty}","endpoint":"/v1/responses"}}"#),
        format!(r#"{{"input_file_id":["{clean}","{dirty}"],"endpoint":"/v1/responses"}}"#),
        format!(r#"{{"input_file_id":"{clean}"}}"#),
    ] {
        let got = world.send(SIBLING, "POST", "/v1/batches", &[JSON], body.clone()).await;
        assert_eq!(got.status, 400, "{body}: {}", got.text);
    }
    // Azure's way around files.
    for body in [
        json!({"input_blob": "https://acct.blob.core.windows.net/in/x.jsonl", "endpoint": "/v1/responses"}),
        json!({"input_file_id": clean, "output_folder": {"url": "https://acct.blob.core.windows.net/out"}, "endpoint": "/v1/responses"}),
    ] {
        let got = world.post(SIBLING, "/v1/batches", body.clone()).await;
        assert_eq!(
            (got.status, got.json()["error"]["code"].as_str()),
            (403, Some("path_not_allowed")),
            "{body}: {}",
            got.text
        );
    }
    // The lines ask something else than the batch says.
    for (content, endpoint) in [
        (line(&format!("/v1/vector_stores/{store}/search"), &own), "/v1/responses".to_owned()),
        (line(&format!("/v1/vector_stores/{store}/search"), &own), format!("/v1/vector_stores/{store}/search")),
        (line("/v1/chat/completions", &own), "/v1/responses".to_owned()),
        (line("/v1/files", &own), "/v1/files".to_owned()),
        (line("/v1/responses", &own).replace("POST", "GET"), "/v1/responses".to_owned()),
        (line("/v1/responses", &own).replace(r#""method":"POST","#, ""), "/v1/responses".to_owned()),
        (format!("{}\n{}", line("/v1/responses", &own), line("/v1/responses/x", &own)), "/v1/responses".to_owned()),
        (line("/v1/responses", &own).replace("\"url\"", "\"URL\":\"/v1/files\",\"url\""), "/v1/responses".to_owned()),
    ] {
        let file = world.upload(SIBLING, &content).await;
        let got = world.post(SIBLING, "/v1/batches", json!({"input_file_id": file, "endpoint": endpoint})).await;
        assert_eq!(got.status, 400, "{endpoint} {content}: {}", got.text);
    }
    assert_eq!(batches(&world), 0);
    let honest = json!({"input_file_id": clean, "endpoint": "/v1/responses", "completion_window": "24h",
        "metadata": {"input_file_id": "night run"}, "output_expires_after": {"anchor": "created_at", "seconds": 3600}});
    assert_eq!(world.post(SIBLING, "/v1/batches", honest).await.status, 200);
    assert_eq!(batches(&world), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_of_the_configuration_offers_nobodys_fine_tune() {
    for routes in [
        "",
        "routes: [{model: \"*\", to: [openai]}]",
        "routes: [{model: \"ft:*\", to: [openai]}, {model: \"*\", to: [openai]}]",
    ] {
        let world = World::with(&format!("{TENANTS}\n{routes}")).await;
        let file = world.upload(CHILD, "x").await;
        let job = json!({"model": "gpt-4o", "training_file": file});
        let job = world.post(CHILD, "/v1/fine_tuning/jobs", job).await.id();
        let job = world.get(CHILD, &format!("/v1/fine_tuning/jobs/{job}")).await.json();
        let tuned = job["fine_tuned_model"].as_str().unwrap();
        let ask = |model: &str| json!({"model": model, "messages": []});
        let asked = world.asked();
        for model in [
            tuned.to_owned(),
            format!(" {tuned}"),
            format!("openai/{tuned}"),
            format!("openai/ {tuned}"),
            format!("\u{200b}{tuned}"),
            format!("openai/\u{feff}{tuned}"),
            tuned.replacen("ft:", "f\u{2060}t:", 1),
            tuned.replacen("ft:", "\u{ff26}\u{ff34}:", 1),
        ] {
            for who in [SIBLING, STRANGER] {
                for path in ["/v1/chat/completions", "/v1/responses"] {
                    let got = world.post(who, path, ask(&model)).await;
                    assert_eq!((got.status, world.asked()), (404, asked), "{routes}: {who} {model:?}: {}", got.text);
                }
            }
        }
        assert_eq!(world.post(CHILD, "/v1/chat/completions", ask(tuned)).await.status, 200, "{routes}");
        assert_eq!(world.post(SIBLING, "/v1/chat/completions", ask("gpt-4o")).await.status, 200, "{routes}");
        // What the operator writes down is offered to all.
        let text = std::fs::read_to_string(&world.gateway.file).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("routes:")).collect();
        let offer = format!(
            "routes: [{{model: ours, to: [\"openai/{tuned}\"]}}, {{model: \"ours-*\", to: [\"openai/{tuned}\"]}}]\n"
        );
        std::fs::write(&world.gateway.file, format!("{}\n{offer}", kept.join("\n"))).unwrap();
        world.gateway.reloader.reload().unwrap();
        for model in ["ours", "ours-too"] {
            assert_eq!(world.post(SIBLING, "/v1/chat/completions", ask(model)).await.status, 200, "{model}");
            assert_eq!(world.openai.fake.last().json()["model"], tuned);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_chooses_an_account_of_the_gateways_key() {
    let site = Site::start(TWO, Fake::always(Answer::completion()).await).await;
    let headers = [
        ("openai-organization", "org-evil"),
        ("openai-project", "proj-evil"),
        ("openai-project-id", "proj-evil"),
        ("openai-organization-id", "org-evil"),
        ("x-codex-account", "evil"),
        ("x-codex-workspace-id", "evil"),
        ("chatgpt-account-id", "evil"),
        ("openai-beta", "responses=v1"),
        ("x-codex-turn", "neutral"),
    ];
    let all = [&headers[..], &[JSON]].concat();
    let body = r#"{"model":"gpt-4o","messages":[]}"#;
    for path in ["/v1/chat/completions", "/v1/images/generations"] {
        assert_eq!(site.ask(&site.mallory, "POST", path, &all, body).await.0, 200);
        let seen = site.fake.last();
        for (name, value) in headers {
            let expected = (!value.contains("evil")).then_some(value);
            assert_eq!(seen.header(name), expected, "{path} {name}");
        }
    }
    let mut client = raw::Client::connect(site.gateway.addresses[0]).await;
    client
        .write(format!(
            "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: gw\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: realtime, \
             openai-insecure-api-key.{}, openai-organization.org-evil, openai-project.proj-evil, openai-beta.realtime-v1\r\n\
             openai-project-id: proj-evil\r\n\r\n",
            site.mallory
        ))
        .await;
    client.reply().await;
    let seen = site.fake.last();
    assert_eq!(seen.path, "/v1/realtime?model=gpt-realtime");
    assert_eq!(seen.header("sec-websocket-protocol"), Some("realtime, openai-beta.realtime-v1"));
    assert_eq!((seen.header("openai-project-id"), seen.header("authorization")), (None, Some("Bearer sk-gateway")));
    // With the client's own key they name the client's own account.
    let own = [("authorization", "Bearer sk-own"), ("x-api-key", &site.acme), ("openai-project-id", "proj-mine"), JSON];
    let request = reqwest::Client::new().post(site.gateway.url("/v1/chat/completions"));
    let request = own.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    assert_eq!(request.body(body).send().await.unwrap().status().as_u16(), 200);
    let seen = site.fake.last();
    assert_eq!(
        (seen.header("openai-project-id"), seen.header("authorization")),
        (Some("proj-mine"), Some("Bearer sk-own"))
    );
}
