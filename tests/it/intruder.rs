//! What a hostile review of tenant isolation got through with: each attack is played as it was, and an honest client's request
//! of the same kind still passes.

use serde_json::{Value, json};

use crate::{
    objects::account::AS,
    objects::{CHILD, PARENT, SIBLING, STRANGER, TENANTS, World},
    support::{Answer, Fake, Gateway, chat, fake::send, gateway::providers, raw},
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

/// A provider that takes the ids of items from its client, as OpenAI's conversations do.
async fn echo() -> Fake {
    Fake::start(|seen, number| {
        let path = seen.path.split('?').next().unwrap();
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let echoed = body["items"].as_array().or(body["input"].as_array()).cloned().unwrap_or_default();
        let id = |kind: &str| format!("{kind}_{number}");
        let reply = match (seen.method.as_str(), path) {
            ("POST", "/v1/conversations") => json!({"id": id("conv")}),
            ("POST", path) if path.ends_with("/items") => {
                let own = |(at, item): (usize, &Value)| {
                    json!({"id": item["id"].as_str().map_or(format!("msg_{number}_{at}"), str::to_owned), "container_id": item["container_id"]})
                };
                json!({"object": "list", "data": echoed.iter().enumerate().map(own).collect::<Vec<_>>()})
            }
            ("POST", "/v1/responses/compact") => json!({"id": id("resp"), "output": echoed}),
            ("POST", "/v1/responses") => json!({"id": id("resp"), "object": "response", "status": "completed",
                "conversation": body["conversation"], "output": [{"type": "message", "id": id("msg"), "content": []}],
                "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}),
            // What was put in is read back; as a stored item it has the id that its writer chose.
            ("GET", path) if path.ends_with("/items") || path.ends_with("/input_items") => {
                json!({"object": "list", "data": [{"id": "file-dashboard"}, {"id": "vs_dashboard"}, {"id": "msg_read"}]})
            }
            ("GET", path) if path.ends_with("/messages") => json!({"object": "list", "data": [{"id": "file-dashboard"}]}),
            _ => json!({"id": path.rsplit('/').next(), "content": "secret"}),
        };
        Answer::json(200, &reply.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_an_object_by_writing_its_id() {
    let site = Site::start(TWO, echo().await).await;
    let ask = async |method: &str, path: &str, body: &str| site.ask(&site.mallory, method, path, &[JSON], body).await;
    let id = |(status, text): (u16, String)| {
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let conversation = id(ask("POST", "/v1/conversations", "{}").await);
    let items = format!("/v1/conversations/{conversation}/items");
    for claim in [
        r#"{"type":"message","role":"user","content":"x","id":"file-dashboard"}"#,
        r#"{"type":"message","role":"user","content":"x","id":"file\u002ddashboard"}"#,
        r#"{"type":"message","role":"user","content":"x","id":"\u0066ile-dashboard"}"#,
        r#"{"type":"message","role":"user","content":"x","id":"vs_dashboard"}"#,
        r#"{"type":"message","role":"user","content":"x","id":"msg_foreign"}"#,
        r#"{"type":"code_interpreter_call","code":"x","outputs":[],"id":"ci_1","container_id":"cntr_dashboard"}"#,
    ] {
        for (path, field) in [(items.as_str(), "items"), ("/v1/responses/compact", "input")] {
            let body = format!(r#"{{"model":"gpt-4o","{field}":[{claim}]}}"#);
            // A container that is nobody's is refused as a reference; the others are items that carry their content.
            let (status, text) = ask("POST", path, &body).await;
            assert!(status == 200 || status == 404 && claim.contains("cntr_"), "{path} {claim}: {status} {text}");
        }
    }
    let response = id(ask(
        "POST",
        "/v1/responses",
        r#"{"model":"gpt-4o","input":[{"type":"message","role":"user","content":"x","id":"file-dashboard"}]}"#,
    )
    .await);
    // Read back, they are no more the reader's than before.
    for path in [items.as_str(), &format!("/v1/responses/{response}/input_items")] {
        let (status, text) = ask("GET", path, "").await;
        assert!(status == 200 && text.contains("file-dashboard"), "{text}");
    }
    let asked = site.fake.count();
    for (method, path) in [
        ("GET", "/v1/files/file-dashboard"),
        ("GET", "/v1/files/file-dashboard/content"),
        ("DELETE", "/v1/files/file-dashboard"),
        ("GET", "/v1/vector_stores/vs_dashboard"),
        ("GET", "/v1/containers/cntr_dashboard/files"),
    ] {
        let (status, text) = ask(method, path, "").await;
        assert_eq!(status, 404, "{method} {path}: {text}");
    }
    for id in ["msg_foreign", "msg_read", "file-dashboard"] {
        let body = json!({"model": "gpt-4o", "input": [{"type": "item_reference", "id": id}]}).to_string();
        assert_eq!(ask("POST", "/v1/responses", &body).await.0, 404, "{id}");
    }
    assert_eq!(site.fake.count(), asked, "no provider was asked");
    // The owner's own: made without an id, referred to at once, read page by page, opened and deleted where it lies.
    let made = ask("POST", &items, r#"{"items":[{"type":"message","role":"user","content":"x"}]}"#).await.1;
    let made = serde_json::from_str::<Value>(&made).unwrap()["data"][0]["id"].as_str().unwrap().to_owned();
    let body =
        json!({"model": "gpt-4o", "conversation": conversation, "input": [{"type": "item_reference", "id": made}]});
    assert_eq!(ask("POST", "/v1/responses", &body.to_string()).await.0, 200);
    for (method, path) in [
        ("GET", format!("{items}/{made}")),
        ("GET", format!("{items}/msg_read")),
        ("DELETE", format!("{items}/msg_read")),
        ("GET", format!("{items}?limit=3&after=msg_read")),
        ("GET", format!("/v1/responses/{response}/input_items?after=msg_read&order=asc")),
    ] {
        let (status, text) = ask(method, &path, "").await;
        assert_eq!(status, 200, "{method} {path}: {text}");
    }
    // What is another's stays so, as an item and as a cursor.
    let theirs = id(site.ask(&site.acme, "POST", "/v1/conversations", &[JSON], "{}").await);
    let theirs_items = format!("/v1/conversations/{theirs}/items");
    let body = r#"{"items":[{"type":"message","role":"user","content":"x"}]}"#;
    let foreign = site.ask(&site.acme, "POST", &theirs_items, &[JSON], body).await.1;
    let foreign = serde_json::from_str::<Value>(&foreign).unwrap()["data"][0]["id"].as_str().unwrap().to_owned();
    for path in [format!("{items}/{foreign}"), format!("{items}?after={foreign}"), format!("{theirs_items}/{made}")] {
        assert_eq!(ask("GET", &path, "").await.0, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_tells_nothing_of_how_many_others_have() {
    let world = World::start().await;
    let own = world.post(SIBLING, "/v1/vector_stores", json!({})).await.id();
    let alone = world.get(SIBLING, "/v1/vector_stores?limit=1").await.text;
    for _ in 0..130 {
        world.post(CHILD, "/v1/vector_stores", json!({})).await.id();
    }
    for limit in ["limit=1", "limit=%31", "%6Cimit=1", "limit[]=1", "Limit=1", "limit=1&limit=%31"] {
        let got = world.get(SIBLING, &format!("/v1/vector_stores?{limit}")).await;
        assert_eq!(got.text, alone, "{limit}");
        assert_eq!(
            (got.json()["has_more"].as_bool(), got.json()["data"][0]["id"].as_str()),
            (Some(false), Some(&*own))
        );
    }
    for limit in ["limit=0", "limit=%30", "limit=-1", "limit=x", "limit=", "limit=1.0", "LIMIT=0"] {
        let got = world.get(SIBLING, &format!("/v1/vector_stores?{limit}")).await;
        assert_eq!((got.status, got.json()["error"]["param"].as_str()), (400, Some("limit")), "{limit}: {}", got.text);
    }
    let second = world.post(SIBLING, "/v1/vector_stores", json!({})).await.id();
    let first = world.get(SIBLING, "/v1/vector_stores?limit=1").await.json();
    assert_eq!((first["has_more"].as_bool(), first["last_id"].as_str()), (Some(true), Some(&*own)));
    let next = world.get(SIBLING, &format!("/v1/vector_stores?limit=1&after={own}")).await.json();
    assert_eq!((next["has_more"].as_bool(), next["data"][0]["id"].as_str()), (Some(false), Some(&*second)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_hides_no_reference() {
    let world = World::start().await;
    let file = world.upload(CHILD, "x").await;
    let character = world.post(CHILD, "/v1/videos/characters", json!({"name": "x"})).await.id();
    let own_character = world.post(SIBLING, "/v1/videos/characters", json!({"name": "x"})).await.id();
    let own = world.upload(SIBLING, "x").await;
    let container = world.post(SIBLING, "/v1/containers", json!({"name": "x"})).await.id();
    let files = format!("/v1/containers/{container}/files");
    let form = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n--b--\r\n")
    };
    let kind = [("content-type", "multipart/form-data; boundary=b")];
    let asked = world.asked();
    for (path, name, value) in [
        ("/v1/videos", "characters[0][id]", character.as_str()),
        ("/v1/videos", "characters[][id]", character.as_str()),
        ("/v1/videos", "characters.0.id", character.as_str()),
        ("/v1/videos/edits", "video[0]", character.as_str()),
        ("/v1/videos/edits", "video[x]", character.as_str()),
        (files.as_str(), "file_ids[0]", file.as_str()),
        (files.as_str(), "file_ids[12]", file.as_str()),
        (files.as_str(), "file_ids[a]", file.as_str()),
        (files.as_str(), "x[3][file_id]", file.as_str()),
    ] {
        let got = world.send(SIBLING, "POST", path, &kind, form(name, value)).await;
        assert_eq!(got.status, 404, "{path} {name}: {}", got.text);
    }
    for body in [
        json!({"characters": {"0": {"id": character}}}),
        json!({"characters": {"x": {"id": character}}}),
        json!({"characters": {"x": {"y": [{"id": character}]}}}),
        json!({"file_ids": {"0": file}}),
        json!({"file_ids": {"a": file}}),
        json!({"file_ids": {"a": [file]}}),
        json!({"tools": [{"vector_store_ids": {"a": file}}]}),
    ] {
        let got = world.post(SIBLING, "/v1/videos", body.clone()).await;
        assert_eq!(got.status, 404, "{body}: {}", got.text);
    }
    for charset in ["multipart/form-data; charset=utf-7; boundary=b", "multipart/form-data; boundary=b; charset=utf-16"]
    {
        let got = world.send(SIBLING, "POST", &files, &[("content-type", charset)], form("file_id", &own)).await;
        assert_eq!(got.status, 400, "{charset}: {}", got.text);
    }
    assert_eq!(world.asked(), asked);
    assert_eq!(world.send(SIBLING, "POST", &files, &kind, form("file_ids[0]", &own)).await.status, 200);
    let got = world.send(SIBLING, "POST", "/v1/videos", &kind, form("characters[0][id]", &own_character)).await;
    assert_eq!(got.status, 200, "{}", got.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_arrives_as_what_it_was_checked_as() {
    let world = World::start().await;
    let container = world.post(SIBLING, "/v1/containers", json!({"name": "x"})).await.id();
    let files = format!("/v1/containers/{container}/files");
    let form = "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; \
                name=\"file\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n\u{89}PNG\r\n--b--\r\n";
    for (path, kind, body, arrives) in [
        (files.as_str(), "multipart/form-data; boundary=b", form, "multipart/form-data; boundary=b"),
        ("/v1/videos", "multipart/form-data; boundary=b", form, "multipart/form-data; boundary=b"),
        ("/v1/images/edits", "multipart/form-data; boundary=b", form, "multipart/form-data; boundary=b"),
        ("/v1/realtime/calls", "application/sdp", "v=0\r\n", "application/sdp"),
        ("/v1/vector_stores", "application/json", "{}", "application/json"),
        // Read as UTF-8 here, it must not be read as anything else there.
        ("/v1/vector_stores", "application/json; charset=utf-7", r#"{"name":"+ACI-,+ACI-x"}"#, "application/json"),
        ("/v1/vector_stores", "application/json; charset=utf-16", "{}", "application/json"),
        ("/v1/vector_stores", "application/x-www-form-urlencoded", "{}", "application/json"),
        ("/v1/vector_stores", "text/plain", "{}", "application/json"),
        ("/v1/vector_stores", "application/sdp", "{}", "application/json"),
    ] {
        let headers = [("content-type", kind), ("accept", "application/binary")];
        let got = world.send(SIBLING, "POST", path, &headers, body).await;
        assert!(matches!(got.status, 200 | 201), "{path} {kind}: {} {}", got.status, got.text);
        let seen = world.openai.fake.last();
        assert_eq!((seen.path.as_str(), seen.header("content-type")), (path, Some(arrives)), "{kind}");
        assert!(seen.body == body, "{path} {kind}");
        // What a client wants back is its own affair, where the gateway does not read it.
        assert_eq!((seen.header("accept"), seen.header(AS)), (Some("application/binary"), Some(SIBLING)), "{path}");
    }
    assert_eq!(world.get(PARENT, &format!("/v1/containers/{container}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_told_what_the_tenants_token_holders_were() {
    let fake = Fake::start(|_, number| {
        Answer::json(200, &crate::support::COMPLETION.replace("chatcmpl-1", &format!("chatcmpl-{number}")))
    })
    .await;
    let site = Site::start("auth: {anonymous: acme}\ntenants: {acme: {}, mallory: {}}", fake).await;
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"the merger"}],"temperature":0}"#;
    let stranger = async |headers: &[(&str, &str)]| {
        let request = reqwest::Client::new().post(site.gateway.url("/v1/chat/completions"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let reply = request.header(JSON.0, JSON.1).body(body).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
        (reply.headers()["x-chittycan-cache"].to_str().unwrap().to_owned(), reply.text().await.unwrap())
    };
    let holder = site.ask(&site.acme, "POST", "/v1/chat/completions", &[JSON], body).await.1;
    let first = stranger(&[]).await;
    assert!(first.0 == "MISS" && first.1 != holder, "{first:?}");
    // Each side shares with its own.
    assert_eq!(stranger(&[]).await, ("HIT".to_owned(), first.1));
    assert_eq!(site.ask(&site.acme, "POST", "/v1/chat/completions", &[JSON], body).await.1, holder);
    // The same holds for an answer that the provider repeats.
    let key = ("idempotency-key", "same");
    stranger(&[key, ("x-chittycan-cache", "skip")]).await;
    let theirs = site.fake.last().header("idempotency-key").unwrap().to_owned();
    site.ask(&site.acme, "POST", "/v1/chat/completions", &[JSON, key, ("x-chittycan-cache", "skip")], body).await;
    let holders = site.fake.last().header("idempotency-key").unwrap().to_owned();
    assert!(theirs != holders && theirs != "same" && holders != "same", "{theirs} {holders}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_cache_hands_out_no_stored_response() {
    let site = Site::start(&format!("{TWO}\ncache: {{namespace: shared}}"), echo().await).await;
    let ask = async |token: &str, more: &str| {
        let body = format!(r#"{{"model":"gpt-4o","input":"hi","temperature":0{more}}}"#);
        let (status, text) = site.ask(token, "POST", "/v1/responses", &[JSON], &body).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["id"].as_str().unwrap().to_owned()
    };
    for stored in ["", r#","store":true"#, r#","store":null"#] {
        let theirs = ask(&site.acme, stored).await;
        assert_ne!(ask(&site.mallory, stored).await, theirs, "{stored}");
    }
    let theirs = ask(&site.acme, r#","store":false"#).await;
    assert_eq!(ask(&site.mallory, r#","store":false"#).await, theirs, "what nobody keeps is shared");
}

const LIMIT: &str = r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-aB3dEf on tokens per min (TPM): Limit 30000, Used 29999, Requested 100. Try again in 2s.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_no_account_of_the_gateways() {
    let fake = Fake::start(|seen, _| match seen.path.split('?').next().unwrap() {
        "/v1/images/generations" => Answer::json(403, r#"{"error":{"message":"Project `proj_aB3dEf` does not have access","type":"x","param":null,"code":null}}"#),
        "/v1/batches" if seen.path.contains("after=") => {
            Answer::json(404, r#"{"error":{"message":"No such object: batch_of_acme","type":"invalid_request_error","param":"after","code":null}}"#)
        }
        "/v1/batches" => Answer::json(200, r#"{"object":"list","data":[{"id":"batch_of_acme"}],"has_more":true}"#),
        _ => Answer::json(429, LIMIT).header("retry-after", "0"),
    })
    .await;
    let site = Site::start(&format!("{TWO}\nretry: {{attempts: 1}}"), fake).await;
    let body = r#"{"model":"gpt-4o","messages":[]}"#;
    for (method, path, sent) in [
        ("POST", "/v1/chat/completions", body),
        ("POST", "/v1/responses", r#"{"model":"gpt-4o","input":"x"}"#),
        ("POST", "/v1/images/generations", body),
        ("GET", "/v1/files", ""),
        ("POST", "/v1/vector_stores", "{}"),
        ("POST", "/v1/files", "{}"),
    ] {
        let (status, text) = site.ask(&site.mallory, method, path, &[JSON], sent).await;
        assert!(status >= 400 && text.contains("***"), "{path}: {status} {text}");
        assert!(!text.contains("aB3dEf") && !text.contains("29999"), "{path}: {text}");
        let error = serde_json::from_str::<Value>(&text).unwrap();
        assert!(error["error"]["message"].as_str().is_some_and(|message| message.len() > 20), "{text}");
    }
    // The second page is asked for with what is another's.
    let (status, text) = site.ask(&site.mallory, "GET", "/v1/batches", &[], "").await;
    assert!(status >= 500 && !text.contains("batch_of_acme"), "{status} {text}");
    // Who has a key of its own is told of its own account.
    for path in ["/v1/chat/completions", "/v1/vector_stores"] {
        let request = reqwest::Client::new().post(site.gateway.url(path)).header("x-api-key", &site.mallory);
        let reply = request.bearer_auth("sk-own").header(JSON.0, JSON.1).body(body).send().await.unwrap();
        assert_eq!(reply.text().await.unwrap(), LIMIT, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_tells_nothing_of_the_gateways_account() {
    let told = [
        ("ratelimit-remaining", "1"),
        ("ratelimit", "1"),
        ("ratelimitbysize-remaining", "1"),
        ("x-ratelimitbysize-remaining-minute", "1"),
        ("x-trial-remaining", "1"),
        ("x-organization-id", "1"),
        ("x-vendor-workspace", "1"),
        ("x-account-tier", "1"),
        ("www-authenticate", "Bearer realm=\"org-aB3dEf\""),
    ];
    let fake = Fake::start(move |seen, _| {
        let answer =
            if seen.path.contains("files") { Answer::json(200, r#"{"id":"file-1"}"#) } else { Answer::completion() };
        told.iter().fold(answer, |answer, (name, value)| answer.header(name, value)).header("x-custom", "stays")
    })
    .await;
    let site = Site::start(TWO, fake).await;
    for path in ["/v1/chat/completions", "/v1/files"] {
        for (token, key) in [(&site.mallory, None), (&site.mallory, Some("sk-own"))] {
            let request = reqwest::Client::new().post(site.gateway.url(path)).header("x-api-key", token);
            let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
            let reply =
                request.header(JSON.0, JSON.1).body(r#"{"model":"gpt-4o","messages":[]}"#).send().await.unwrap();
            assert_eq!((reply.status().as_u16(), reply.headers()["x-custom"].to_str().unwrap()), (200, "stays"));
            for (name, _) in told {
                assert_eq!(reply.headers().contains_key(name), key.is_some(), "{path} {name} {key:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nobodys_is_refused_as_what_is_anothers_is() {
    let world = World::start().await;
    let asked = world.asked();
    // A spoken answer that a provider keeps.
    let spoken =
        json!({"model": "gpt-4o-audio-preview", "messages": [{"role": "assistant", "audio": {"id": "audio_unknown"}}]});
    let got = world.post(SIBLING, "/v1/chat/completions", spoken).await;
    assert!(got.is_missing("audio_unknown"), "{}", got.text);
    let eval = json!({"data_source_config": {"type": "custom"}, "testing_criteria": []});
    let eval = world.post(SIBLING, "/v1/evals", eval).await.id();
    let runs = format!("/v1/evals/{eval}/runs");
    for source in [
        json!({"type": "stored_completions"}),
        json!({"type": "responses"}),
        json!({"type": "responses", "source": null}),
        json!({"type": "completions"}),
        json!({"type": "logs", "source": {"type": "file_content", "content": []}}),
    ] {
        let got = world.post(SIBLING, &runs, json!({"data_source": source})).await;
        assert_eq!(
            (got.status, got.json()["error"]["code"].as_str()),
            (403, Some("path_not_allowed")),
            "{source}: {}",
            got.text
        );
    }
    assert_eq!(world.asked(), asked + 1);
    let content = json!({"type": "responses", "source": {"type": "file_content", "content": []}});
    assert_eq!(world.post(SIBLING, &runs, json!({"data_source": content})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_a_stream_names_no_account() {
    let chunk = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"Used 7 of org-aB3dEf"},"finish_reason":null}]}"#;
    let error = r#"data: {"error":{"message":"Rate limit reached in organization org-aB3dEf: Limit 30000, Used 29999","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let fake = Fake::always(Answer::stream(vec![send(&format!("{chunk}\n\n{error}\n\n"))])).await;
    for (credentials, shown) in
        [("mapped", "org-***: Limit 30000, Used ***"), ("auto", "org-aB3dEf: Limit 30000, Used 29999")]
    {
        let yaml = providers(&[("openai", fake.address)]).replace("mapped", credentials);
        let gateway = Gateway::start(&yaml);
        let request = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).bearer_auth("sk-own");
        let text = request.body(chat("gpt-4o", r#","stream":true"#)).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("Used 7 of org-aB3dEf"), "what the model says stays: {text}");
        assert!(text.contains(shown), "{credentials}: {text}");
    }
}
