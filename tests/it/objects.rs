//! The providers' objects belong to who made them: with the gateway's key nobody sees, changes, refers to or learns of what is
//! another tenant's.

pub mod account;
mod isolation;

use std::{collections::HashMap, time::Duration};

use account::{AS, Account, ids_in, owner_of};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Gateway, Process, free_port, gateway::new_token, raw};

/// Who asks.
pub const PARENT: &str = "parent";
pub const CHILD: &str = "child";
pub const SIBLING: &str = "sibling";
pub const STRANGER: &str = "nobody";

/// Whether the first may see what the second has made.
fn may_see(who: &str, owner: &str) -> bool {
    who == owner || who == PARENT && matches!(owner, CHILD | SIBLING)
}

/// A gateway over two accounts, and a token for each tenant.
pub struct World {
    pub gateway: Gateway,
    pub openai: Account,
    pub anthropic: Account,
    pub tokens: HashMap<&'static str, String>,
}

pub struct Got {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn id(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()["id"].as_str().unwrap().to_owned()
    }

    /// It says what is said of an object that is not there.
    pub fn is_missing(&self, id: &str) -> bool {
        let error = &self.json()["error"];
        let shaped = error["code"] == "object_not_found" || error["type"] == "not_found_error";
        let message = error["message"].as_str().unwrap_or_default();
        self.status == 404 && shaped && message.ends_with(&format!("No such object: '{id}'."))
    }
}

fn yaml(openai: &Account, anthropic: &Account, tenants: &str) -> String {
    format!(
        "providers:\n  openai: {{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: auto, forward_headers: [{AS}]}}\n  \
         anthropic: {{base_url: \"http://{}/v1\", api_key: sk-ant-gateway, credentials: auto, forward_headers: [{AS}]}}\n{tenants}\n",
        openai.fake.address, anthropic.fake.address
    )
}

/// Clients without a token are served as a tenant of their own.
pub const TENANTS: &str =
    "auth: {anonymous: guests}\ntenants: {guests: {}, parent: {}, child: {parent: parent}, sibling: {parent: parent}}";

impl World {
    pub async fn start() -> Self {
        Self::with(TENANTS).await
    }

    pub async fn with(more: &str) -> Self {
        let (openai, anthropic) = (Account::start().await, Account::start().await);
        let gateway = Gateway::start(&yaml(&openai, &anthropic, more));
        let mut tokens = HashMap::new();
        for tenant in [PARENT, CHILD, SIBLING] {
            tokens.insert(tenant, gateway.token(tenant).await);
        }
        Self { gateway, openai, anthropic, tokens }
    }

    pub fn asked(&self) -> usize {
        self.openai.fake.count() + self.anthropic.fake.count()
    }

    pub async fn send(
        &self,
        who: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> Got {
        let mut request =
            reqwest::Client::new().request(method.parse().unwrap(), self.gateway.url(path)).header(AS, who);
        if let Some(token) = self.tokens.get(who) {
            request = request.header("x-api-key", token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = request.body(body.into()).send().await.unwrap();
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        Got { status, headers, text: reply.text().await.unwrap() }
    }

    pub async fn get(&self, who: &str, path: &str) -> Got {
        self.send(who, "GET", path, &[], "").await
    }

    pub async fn post(&self, who: &str, path: &str, body: Value) -> Got {
        self.send(who, "POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn upload(&self, who: &str, content: &str) -> String {
        self.send(who, "POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=b")], content).await.id()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_opens_what_is_anothers_and_a_parent_sees_its_childs() {
    let world = World::start().await;
    let file = world.upload(CHILD, "content of child").await;
    assert_eq!(owner_of(&file), Some(CHILD));
    // At once, and as often as one likes.
    for who in [CHILD, PARENT] {
        assert_eq!(world.get(who, &format!("/v1/files/{file}")).await.id(), file, "{who}");
        assert!(world.get(who, &format!("/v1/files/{file}/content")).await.text.contains("content of child"));
    }
    let asked = world.asked();
    for who in [SIBLING, STRANGER] {
        for (method, path) in [
            ("GET", format!("/v1/files/{file}")),
            ("GET", format!("/v1/files/{file}/")),
            ("GET", format!("/v1/files/{file}/content")),
            ("GET", format!("/v1/files/{file}?limit=1")),
            ("DELETE", format!("/v1/files/{file}")),
        ] {
            let got = world.send(who, method, &path, &[], "").await;
            assert!(got.is_missing(&file), "{who} {method} {path}: {} {}", got.status, got.text);
            assert_eq!(got.headers["x-should-retry"], "false");
        }
        assert_eq!(world.send(who, "HEAD", &format!("/v1/files/{file}"), &[], "").await.status, 404);
    }
    // An id that is not there looks the same, also to the owner.
    for who in [CHILD, SIBLING, STRANGER] {
        assert!(world.get(who, "/v1/files/file-none").await.is_missing("file-none"));
    }
    // The parent's own is not its child's.
    let above = world.upload(PARENT, "content of parent").await;
    assert!(world.get(CHILD, &format!("/v1/files/{above}")).await.is_missing(&above));
    assert_eq!(world.asked(), asked + 1, "no provider was asked about any of it");
    // Anthropic's clients read their own shape.
    let got =
        world.send(SIBLING, "GET", &format!("/v1/files/{file}"), &[("anthropic-version", "2023-06-01")], "").await;
    assert_eq!(
        (got.status, got.json()["type"].as_str(), got.json()["error"]["type"].as_str()),
        (404, Some("error"), Some("not_found_error"))
    );
    // A file of one account is none of another's.
    let own = world.send(CHILD, "GET", &format!("/v1/files/{file}"), &[("anthropic-version", "2023-06-01")], "").await;
    assert_eq!(own.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_in_disguise_open_nothing() {
    let world = World::start().await;
    let file = world.upload(CHILD, "x").await;
    let asked = world.asked();
    let escaped = file.replace('-', "%2D");
    let mut client = raw::Client::connect(world.gateway.addresses[0]).await;
    let token = &world.tokens[SIBLING];
    for (method, path) in [
        ("GET", format!("/v1/files/{escaped}")),
        ("GET", format!("/v1/Files/{file}")),
        ("GET", format!("/v1/files/{file}%00")),
        ("GET", format!("/v1/files/{file};x=1")),
        ("GET", format!("/v1/files/x/../{file}")),
        ("GET", format!("/v1/files//{file}")),
        ("GET", format!("/v1/files/%C3%A9{file}")),
        ("GET", format!("/v1/models/..%2ffiles%2f{file}")),
        ("PUT", format!("/v1/files/{file}")),
        ("PATCH", format!("/v1/files/{file}")),
        ("POST", format!("/v1/files/{file}")),
        ("get", format!("/v1/files/{file}")),
        ("QUERY", format!("/v1/files/{file}")),
        ("GET", format!("/v1/files?after={file}")),
        ("GET", format!("/v1/files?limit=1&After={}", file.replace('-', "%2d"))),
        ("GET", format!("/v1/files?after[]={file}")),
        ("GET", format!("/v1/batches?after={file}&after=")),
    ] {
        client.write(format!("{method} {path} HTTP/1.1\r\nhost: gw\r\nx-as: sibling\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n")).await;
        let Some(reply) = client.reply().await else {
            client = raw::Client::connect(world.gateway.addresses[0]).await;
            continue;
        };
        assert!((400..500).contains(&reply.status), "{method} {path}: {}", reply.status);
    }
    // With a body an OPTIONS is no preflight.
    let got = world.send(SIBLING, "OPTIONS", &format!("/v1/files/{file}"), &[], "{}").await;
    assert!(got.status >= 400 || !got.text.contains("secret"), "{}", got.text);
    let seen = world.openai.fake.seen();
    assert!(seen[asked..].iter().all(|seen| !seen.path.contains(&file)), "{seen:?}");
}

/// What each family of objects needs to be made, and a path with its id.
fn families(file: &str) -> Vec<(&'static str, &'static str, Value)> {
    vec![
        (
            "/v1/batches",
            "/v1/batches/{}",
            json!({"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"}),
        ),
        ("/v1/chat/completions", "/v1/chat/completions/{}", json!({"model": "gpt-4o", "store": true, "messages": []})),
        ("/v1/responses", "/v1/responses/{}", json!({"model": "gpt-4o", "input": "hi"})),
        ("/v1/conversations", "/v1/conversations/{}/items", json!({"items": []})),
        ("/v1/containers", "/v1/containers/{}/files", json!({"name": "x", "file_ids": [file]})),
        ("/v1/vector_stores", "/v1/vector_stores/{}/files", json!({"file_ids": [file]})),
        ("/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/{}/events", json!({"model": "gpt-4o", "training_file": file})),
        ("/v1/evals", "/v1/evals/{}/runs", json!({"data_source_config": {"type": "custom"}, "testing_criteria": []})),
        ("/v1/assistants", "/v1/assistants/{}", json!({"model": "gpt-4o"})),
        ("/v1/threads", "/v1/threads/{}/messages", json!({})),
        ("/v1/uploads", "/v1/uploads/{}/cancel", json!({"filename": "x"})),
        ("/v1/videos", "/v1/videos/{}/content", json!({"prompt": "x"})),
        ("/v1/skills", "/v1/skills/{}/versions/1/content", json!({})),
        ("/v1/audio/voice_consents", "/v1/audio/voice_consents/{}", json!({})),
        ("/v1/messages/batches", "/v1/messages/batches/{}/results", json!({"requests": []})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_is_kept_apart() {
    let world = World::start().await;
    let file = world.upload(CHILD, r#"{"method":"POST","url":"/v1/responses","body":{"model":"gpt-4o"}}"#).await;
    for (collection, path, body) in families(&file) {
        let made = world.post(CHILD, collection, body.clone()).await.id();
        assert_eq!(owner_of(&made), Some(CHILD), "{collection}");
        let path = path.replace("{}", &made);
        let method = if path.ends_with("/cancel") { "POST" } else { "GET" };
        for who in [CHILD, PARENT] {
            let got = world.send(who, method, &path, &[], "").await;
            assert_eq!(got.status, 200, "{who} {path}: {}", got.text);
        }
        for who in [SIBLING, STRANGER] {
            let asked = world.asked();
            let got = world.send(who, method, &path, &[], "").await;
            assert!(got.is_missing(&made), "{who} {path}: {} {}", got.status, got.text);
            for (method, path) in [("DELETE", format!("{collection}/{made}")), ("GET", format!("{collection}/{made}"))]
            {
                let got = world.send(who, method, &path, &[], "").await;
                assert!(got.is_missing(&made) || got.status == 403, "{who} {path}: {} {}", got.status, got.text);
            }
            assert_eq!(world.asked(), asked, "{collection}");
            // Nor is it in a list, where there is one.
            let got = world.get(who, collection).await;
            assert!(!got.text.contains(&made) && !got.text.contains(&file), "{who} {collection}: {}", got.text);
        }
        let got = world.get(PARENT, &format!("{collection}?limit=10")).await;
        assert!(got.status != 200 || got.text.contains(&made), "{collection}: {}", got.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_refers_to_what_is_anothers() {
    let world = World::start().await;
    let file = world.upload(CHILD, "{\"method\":\"POST\",\"url\":\"/v1/responses\",\"body\":{}}\n").await;
    let response = world
        .post(
            CHILD,
            "/v1/responses",
            json!({"model": "gpt-4o", "input": "hi", "tools": [{"type": "code_interpreter"}]}),
        )
        .await;
    let told = response.json();
    let (response, item) = (response.id(), told["output"][0]["id"].as_str().unwrap().to_owned());
    let container = told["output"][0]["content"][0]["annotations"][0]["container_id"].as_str().unwrap().to_owned();
    let store = world.post(CHILD, "/v1/vector_stores", json!({})).await.id();
    let conversation = world.post(CHILD, "/v1/conversations", json!({})).await.id();
    let assistant = world.post(CHILD, "/v1/assistants", json!({"model": "gpt-4o"})).await.id();
    let job = world.post(CHILD, "/v1/fine_tuning/jobs", json!({"model": "gpt-4o", "training_file": file})).await.id();
    let tuned = world.get(CHILD, &format!("/v1/fine_tuning/jobs/{job}")).await.json()["fine_tuned_model"]
        .as_str()
        .unwrap()
        .to_owned();
    let own = world.upload(SIBLING, "x").await;
    let mine = world.post(SIBLING, "/v1/vector_stores", json!({})).await.id();
    let thread = world.post(SIBLING, "/v1/threads", json!({})).await.id();
    let ask = |more: Value| {
        let mut body = json!({"model": "gpt-4o", "input": "hi"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let user = |part: Value| ask(json!({"input": [{"role": "user", "content": [part]}]}));
    let cases = [
        ("/v1/responses", &response, ask(json!({"previous_response_id": response}))),
        ("/v1/responses/", &response, ask(json!({"previous_response_id": response}))),
        ("/v1/responses", &conversation, ask(json!({"conversation": conversation}))),
        ("/v1/responses", &conversation, ask(json!({"conversation": {"id": conversation}}))),
        ("/v1/responses", &file, user(json!({"type": "input_file", "file_id": file}))),
        ("/v1/responses", &file, user(json!({"type": "input_image", "FILE_ID": file}))),
        ("/v1/responses", &item, ask(json!({"input": [{"type": "item_reference", "id": item}]}))),
        ("/v1/responses", &item, ask(json!({"input": [{"id": item}]}))),
        ("/v1/responses", &item, ask(json!({"input": [{"type": "reasoning", "summary": [], "id": item}]}))),
        ("/v1/responses", &item, ask(json!({"input": [{"type": "message", "content": "x", "id": item}]}))),
        ("/v1/responses", &store, ask(json!({"tools": [{"type": "file_search", "vector_store_ids": [mine, store]}]}))),
        ("/v1/responses", &container, ask(json!({"tools": [{"type": "code_interpreter", "container": container}]}))),
        (
            "/v1/responses",
            &file,
            ask(json!({"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": [file]}}]})),
        ),
        ("/v1/responses", &tuned, json!({"model": tuned, "input": "hi"})),
        ("/v1/responses", &tuned, json!({"model": format!("openai/{tuned}"), "input": "hi"})),
        ("/v1/chat/completions", &tuned, json!({"model": tuned, "messages": []})),
        (
            "/v1/chat/completions",
            &file,
            json!({"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": file}}]}]}),
        ),
        ("/v1/responses/input_tokens", &response, ask(json!({"previous_response_id": response}))),
        ("/v1/responses/compact", &response, ask(json!({"previous_response_id": response}))),
        ("/v1/batches", &file, json!({"input_file_id": file, "endpoint": "/v1/responses"})),
        ("/v1/fine_tuning/jobs", &file, json!({"model": "gpt-4o", "training_file": own, "validation_file": file})),
        ("/v1/fine_tuning/jobs", &tuned, json!({"model": tuned, "training_file": own})),
        ("/v1/vector_stores", &file, json!({"file_ids": [own, file]})),
        (
            "/v1/assistants",
            &store,
            json!({"model": "gpt-4o", "tool_resources": {"file_search": {"vector_store_ids": [store]}}}),
        ),
        ("/v1/threads/runs", &assistant, json!({"assistant_id": assistant})),
        ("/v1/threads", &file, json!({"messages": [{"role": "user", "attachments": [{"file_id": file}]}]})),
        ("/v1/evals", &file, json!({"data_source": {"source": {"type": "file_id", "id": file}}})),
        ("/v1/containers", &file, json!({"file_ids": [file]})),
        ("/v1/conversations", &item, json!({"items": [{"type": "item_reference", "id": item}]})),
    ];
    let deep = [
        (format!("/v1/vector_stores/{mine}/files"), &file, json!({"file_id": file})),
        (
            format!("/v1/vector_stores/{mine}/file_batches"),
            &file,
            json!({"files": [{"file_id": own}, {"file_id": file}]}),
        ),
        (format!("/v1/threads/{thread}/runs"), &assistant, json!({"assistant_id": assistant})),
        (
            format!("/v1/threads/{thread}/messages"),
            &file,
            json!({"content": [{"type": "image_file", "image_file": {"file_id": file}}]}),
        ),
        (format!("/v1/vector_stores/{store}/files"), &store, json!({"file_id": own})),
    ];
    let cases = cases.into_iter().map(|(path, id, body)| (path.to_owned(), id, body)).chain(deep);
    for (path, id, body) in cases {
        for who in [SIBLING, STRANGER] {
            // A stranger has none of the sibling's own either.
            let asked = world.asked();
            let got = world.post(who, &path, body.clone()).await;
            let model = got.status == 404 && got.json()["error"]["code"] == "model_not_found";
            assert!(
                got.is_missing(id) || model || who == STRANGER && got.status == 404,
                "{who} {path} {body}: {} {}",
                got.status,
                got.text
            );
            assert_eq!(world.asked(), asked, "{path} {body}");
        }
        let got = world.post(PARENT, &path, body.clone()).await;
        assert_eq!(got.status, 200, "{path} {body}: {}", got.text);
    }
    // Their owner, in the same words.
    let body = ask(
        json!({"previous_response_id": response, "conversation": conversation, "tools": [{"type": "file_search", "vector_store_ids": [store]}]}),
    );
    assert_eq!(world.post(CHILD, "/v1/responses", body).await.status, 200);
    assert_eq!(world.post(CHILD, "/v1/chat/completions", json!({"model": tuned, "messages": []})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_cannot_be_hidden_from_the_gateway() {
    let world = World::start().await;
    let file = world.upload(CHILD, "x").await;
    let own = world.upload(SIBLING, "x").await;
    let asked = world.asked();
    let json = [("content-type", "application/json")];
    for body in [
        format!(r#"{{"file_ids":["{own}"],"file_ids":["{file}"]}}"#),
        format!(r#"{{"file_ids":["{own}"],"FILE_IDS":["{file}"]}}"#),
        format!(r#"{{"file_ids":["{own}"],"file\u005fids":["{file}"]}}"#),
        format!("{{\"file_id\u{17f}\":[\"{file}\"]}}"),
        format!(r#"{{"\u0066ile_ids":["{}"]}}"#, file.replace('-', "\\u002d")),
        format!("\u{feff}{{\"file_ids\":[\"{file}\"]}}"),
        format!("{{\"file_ids\":[\"{file}\"]}} {{}}"),
        format!("file_ids={file}"),
        format!(r#"[{{"file_ids":["{file}"]}}]"#),
        format!(r#"{{"x":{}{{"file_ids":["{file}"]}}{}}}"#, "[".repeat(500), "]".repeat(500)),
    ] {
        for path in ["/v1/vector_stores", "/v1/containers"] {
            let got = world.send(SIBLING, "POST", path, &json, body.clone()).await;
            assert!(matches!(got.status, 400 | 404), "{body}: {} {}", got.status, got.text);
            // Whatever it calls itself.
            for kind in ["text/plain", "application/sdp", "multipart/form-data", "application/x-www-form-urlencoded"] {
                let got = world.send(SIBLING, "POST", path, &[("content-type", kind)], body.clone()).await;
                assert!(matches!(got.status, 400 | 404), "{kind} {body}: {} {}", got.status, got.text);
            }
        }
    }
    let twice = [("content-type", "application/sdp"), ("content-type", "application/json")];
    assert_eq!(
        world.send(SIBLING, "POST", "/v1/realtime/calls", &twice, format!(r#"{{"file_id":"{file}"}}"#)).await.status,
        400
    );
    let wide = json!({"data_source": {"type": "completions", "source": {"type": "stored_completions"}}});
    assert_eq!(world.post(SIBLING, "/v1/evals", wide).await.json()["error"]["code"], "path_not_allowed");
    assert_eq!(world.asked(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_are_checked_and_pass_as_they_are() {
    let world = World::start().await;
    let file = world.upload(CHILD, "x").await;
    let video = world.post(CHILD, "/v1/videos", json!({"prompt": "x"})).await.id();
    let container = world.post(SIBLING, "/v1/containers", json!({"name": "x"})).await.id();
    let own = world.upload(SIBLING, "x").await;
    let form = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n--b--\r\n")
    };
    let kind = [("content-type", "multipart/form-data; boundary=b")];
    let asked = world.asked();
    let files = format!("/v1/containers/{container}/files");
    for (path, name, value) in [
        (files.as_str(), "file_id", file.as_str()),
        (files.as_str(), "File_ID", file.as_str()),
        ("/v1/videos/edits", "video[id]", video.as_str()),
        ("/v1/videos/edits", "video", &json!({"id": video}).to_string()),
        ("/v1/videos", "input_reference[file_id]", file.as_str()),
        ("/v1/audio/voices", "consent", file.as_str()),
        (
            "/v1/realtime/calls",
            "session",
            &json!({"tools": [{"type": "file_search", "vector_store_ids": [file]}]}).to_string(),
        ),
    ] {
        let got = world.send(SIBLING, "POST", path, &kind, form(name, value)).await;
        assert_eq!(got.status, 404, "{path} {name}={value}: {}", got.text);
    }
    let hidden = form("x", "y").replace("--b--\r\n", &form("file_id", &file));
    assert_eq!(
        world
            .send(SIBLING, "POST", &files, &kind, hidden.replace("; name=\"x\"", "; name=\"x\"; name=\"z\""))
            .await
            .status,
        400
    );
    assert_eq!(world.send(SIBLING, "POST", &files, &kind, hidden).await.status, 404);
    assert_eq!(world.asked(), asked);
    let body = form("file_id", &own);
    assert_eq!(world.send(SIBLING, "POST", &files, &kind, body.clone()).await.status, 200);
    assert_eq!(world.openai.fake.last().body, body, "byte for byte");
    let large = format!(
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n{}\r\n--b--\r\n",
        "x".repeat(300_000)
    );
    assert_eq!(world.send(SIBLING, "POST", &files, &kind, large.clone()).await.status, 200);
    assert_eq!(world.openai.fake.last().body, large);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_were_read_pass_as_they_are() {
    let world = World::start().await;
    for size in [0, 10, 64 << 10, 70_000, 3 << 20] {
        let body = format!("{{ \"x\" : \"{}\", \"n\":1e2 }}", "y".repeat(size));
        let got =
            world.send(CHILD, "POST", "/v1/vector_stores", &[("content-type", "application/json")], body.clone()).await;
        assert_eq!(got.status, 200, "{size}");
        let seen = world.openai.fake.last();
        assert!(seen.body == body, "{size}: {} bytes arrived", seen.body.len());
    }
    let mut client = raw::Client::connect(world.gateway.addresses[0]).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let head = format!(
            "POST /v1/vector_stores HTTP/1.1\r\nhost: gw\r\nx-as: child\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n{expect}transfer-encoding: chunked\r\n\r\n",
            world.tokens[CHILD]
        );
        client.write(head).await;
        if !expect.is_empty() {
            assert_eq!(client.reply().await.unwrap().status, 100);
        }
        let piece = format!("{{\"x\":\"{}\"}}", "z".repeat(99_992));
        client.write(format!("{:x}\r\n{piece}\r\n0\r\n\r\n", piece.len())).await;
        assert_eq!(client.reply().await.unwrap().status, 200);
        assert_eq!(world.openai.fake.last().body, piece);
    }
    // Without a body there is none afterwards.
    let store = world.post(CHILD, "/v1/vector_stores", json!({})).await.id();
    let batch =
        world.post(CHILD, &format!("/v1/vector_stores/{store}/file_batches"), json!({"file_ids": []})).await.id();
    assert_eq!(
        world
            .send(CHILD, "POST", &format!("/v1/vector_stores/{store}/file_batches/{batch}/cancel"), &[], "")
            .await
            .status,
        200
    );
    assert!(world.openai.fake.last().body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_a_client_or_a_model_wrote_is_not_made() {
    let world = World::start().await;
    let file = world.upload(CHILD, "x").await;
    // What the gateway has not seen made, a client might claim: by metadata, by what it makes a model say.
    for claim in [file.as_str(), "file-of-the-dashboard"] {
        for (path, body) in [
            ("/v1/conversations", json!({"metadata": {"id": claim, "file_id": claim}, "claim": claim})),
            ("/v1/responses", json!({"model": "gpt-4o", "input": "x", "metadata": {"id": claim}})),
            (
                "/v1/messages",
                json!({"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [], "claim": claim, "tools": [{"name": "x"}]}),
            ),
        ] {
            let got = world.post(SIBLING, path, body).await;
            assert!(got.status == 200 && got.text.contains(claim), "{path}: {}", got.text);
        }
        for headers in [&[][..], &[("anthropic-version", "2023-06-01")]] {
            let got = world.send(SIBLING, "GET", &format!("/v1/files/{claim}"), headers, "").await;
            assert_eq!(got.status, 404, "{claim}: {}", got.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_streams_and_tools_make_is_known_when_it_is_told() {
    let world = World::start().await;
    let tools = json!([{"type": "code_interpreter"}]);
    let got = world
        .post(CHILD, "/v1/responses", json!({"model": "gpt-4o", "input": "hi", "stream": true, "tools": tools}))
        .await;
    assert!(got.text.contains("response.completed"), "{}", got.text);
    let ids = ids_in(&got.text);
    let id = |kind: &str| ids.iter().find(|(id, _)| id.starts_with(kind)).unwrap().0.clone();
    let (response, item, container, file) = (id("responses-"), id("msg-"), id("cntr-"), id("cfile-"));
    let chat = world
        .post(CHILD, "/v1/chat/completions", json!({"model": "gpt-4o", "messages": [], "store": true, "stream": true}))
        .await;
    let chat = ids_in(&chat.text)[0].0.clone();
    let unstored = world.post(CHILD, "/v1/chat/completions", json!({"model": "gpt-4o", "messages": []})).await.id();
    let message = world.post(CHILD, "/v1/messages", json!({"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [], "tools": [{"type": "code_execution_20250825"}]})).await;
    let (made, kept) = (message.json()["container"]["id"].as_str().unwrap().to_owned(), ids_in(&message.text));
    let claude_file = &kept.iter().find(|(id, _)| id.starts_with("file-")).unwrap().0;
    let (call, thread) = (
        world.post(CHILD, "/v1/realtime/calls", json!({"sdp": "x"})).await,
        world.post(CHILD, "/v1/threads", json!({})).await.id(),
    );
    let call = call.headers["location"].to_str().map(|place| place.rsplit('/').next().unwrap().to_owned()).unwrap();
    let assistant = world.post(CHILD, "/v1/assistants", json!({"model": "gpt-4o"})).await.id();
    let run = world
        .post(CHILD, &format!("/v1/threads/{thread}/runs"), json!({"assistant_id": assistant, "stream": true}))
        .await;
    let run = ids_in(&run.text)[0].0.clone();
    let reference = json!({"model": "gpt-4o", "input": [{"type": "item_reference", "id": item}], "tools": [{"type": "code_interpreter", "container": container}]});
    let messages = json!({"model": "claude-sonnet-4-5", "max_tokens": 9, "container": made, "messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": claude_file}]}]});
    for (who, expected) in [(CHILD, 200), (PARENT, 200), (SIBLING, 404), (STRANGER, 404)] {
        for path in [
            format!("/v1/responses/{response}"),
            format!("/v1/responses/{response}/input_items"),
            format!("/v1/containers/{container}/files/{file}/content"),
            format!("/v1/chat/completions/{chat}"),
            format!("/v1/threads/{thread}/runs/{run}"),
        ] {
            let got = world.get(who, &path).await;
            assert_eq!(got.status, expected, "{who} {path}: {}", got.text);
        }
        assert_eq!(
            world.get(who, &format!("/v1/chat/completions/{unstored}")).await.status,
            404,
            "the provider does not keep it"
        );
        assert_eq!(world.post(who, "/v1/responses", reference.clone()).await.status, expected, "{who}");
        assert_eq!(world.post(who, "/v1/messages", messages.clone()).await.status, expected, "{who}");
        assert_eq!(
            world.post(who, &format!("/v1/realtime/calls/{call}/hangup"), json!({})).await.status,
            expected,
            "{who}"
        );
        let got = world
            .send(who, "GET", &format!("/v1/files/{claude_file}"), &[("anthropic-version", "2023-06-01")], "")
            .await;
        assert_eq!(got.status, expected, "{who}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_ones_own_page_by_page_and_lose_nothing() {
    let world = World::start().await;
    let mut own: HashMap<&str, Vec<String>> = HashMap::new();
    for n in 0..260 {
        // Far between: whole pages of the provider hold nothing of child's.
        let who = if n % 120 == 7 { CHILD } else { SIBLING };
        own.entry(who).or_default().push(world.upload(who, "x").await);
    }
    let (openai, child) = (world.openai.ids(), own[CHILD].clone());
    assert_eq!((openai.len(), child.len()), (260, 3));
    for (who, expected) in [(CHILD, child), (SIBLING, own[SIBLING].clone()), (PARENT, openai), (STRANGER, vec![])] {
        for limit in ["", "&limit=1", "&limit=2", "&limit=100"] {
            if who != CHILD && limit == "&limit=1" {
                continue;
            }
            // As the official SDKs do: on behind the last element, until a page is empty or the last one.
            let (mut got, mut after) = (Vec::new(), String::new());
            loop {
                let page = world.get(who, &format!("/v1/files?purpose=x{limit}{after}")).await;
                assert_eq!(page.status, 200, "{}", page.text);
                assert!(ids_in(&page.text).iter().all(|(_, owner)| may_see(who, owner)), "{who}: {}", page.text);
                let page = page.json();
                let data = page["data"].as_array().unwrap();
                assert_eq!((&page["object"], page.get("total")), (&json!("list"), None));
                assert_eq!(page["last_id"], data.last().map_or(Value::Null, |element| element["id"].clone()));
                got.extend(data.iter().map(|element| element["id"].as_str().unwrap().to_owned()));
                if page["has_more"] == false || data.is_empty() {
                    break;
                }
                after = format!("&after={}", got.last().unwrap());
            }
            assert_eq!(got, expected, "{who} {limit}");
        }
    }
    // Nobody reads on behind what is another's.
    let foreign = &own[SIBLING][3];
    assert!(world.get(CHILD, &format!("/v1/files?after={foreign}")).await.is_missing(foreign));
    let head = world.send(CHILD, "HEAD", "/v1/files", &[], "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_made_of_ones_own_lines_only() {
    let world = World::start().await;
    let secret = world.upload(CHILD, "secret").await;
    let line = |id: &str| {
        format!(
            r#"{{"custom_id":"1","method":"POST","url":"/v1/responses","body":{{"model":"gpt-4o","input":[{{"role":"user","content":[{{"type":"input_file","file_id":"{id}"}}]}}]}}}}"#
        )
    };
    let own = world.upload(SIBLING, "x").await;
    let good = world.upload(SIBLING, &format!("{}\n\n{}\r\n", line(&own), line(&own))).await;
    for content in [
        format!("{}\n{}", line(&own), line(&secret)),
        format!("{}\n", line(&secret)),
        line(&secret).replace("file_id", "FILE_ID"),
        line(&secret).replace("file_id", "file\\u005fid"),
        format!("{}\nno JSON\n", line(&own)),
        line("file-nobodys"),
    ] {
        let bad = world.upload(SIBLING, &content).await;
        let asked = world.openai.fake.count();
        let got = world.post(SIBLING, "/v1/batches", json!({"input_file_id": bad, "endpoint": "/v1/responses"})).await;
        assert_eq!(
            (got.status, got.json()["error"]["param"].as_str()),
            (400, Some("input_file_id")),
            "{content}: {}",
            got.text
        );
        assert!(got.text.contains("Line "), "{}", got.text);
        assert_eq!(world.openai.fake.count(), asked + 1, "only the file was asked for");
        assert_eq!(world.openai.fake.last().path, format!("/v1/files/{bad}/content"));
    }
    let batch = world.post(SIBLING, "/v1/batches", json!({"input_file_id": good, "endpoint": "/v1/responses"})).await;
    assert_eq!(batch.headers["x-chittycan-attempts"], "1");
    let batch = batch.id();
    assert_eq!(world.openai.fake.last().json()["input_file_id"], good);
    // What comes of it belongs to whose it is, also where another one looked first.
    let output =
        world.get(PARENT, &format!("/v1/batches/{batch}")).await.json()["output_file_id"].as_str().unwrap().to_owned();
    assert_eq!(world.get(SIBLING, &format!("/v1/files/{output}/content")).await.status, 200);
    assert_eq!(world.get(CHILD, &format!("/v1/files/{output}/content")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_key_keeps_its_own_world() {
    let world = World::start().await;
    let file = world.upload(CHILD, "x").await;
    let own = [("authorization", "Bearer sk-own")];
    for (who, path) in [
        (STRANGER, "/v1/files/file-mine"),
        (SIBLING, "/v1/anything"),
        (STRANGER, "/v1/organization/users"),
        (CHILD, "/v1/files"),
    ] {
        let got = world.send(who, "GET", path, &own, "").await;
        assert_eq!(got.status, 200, "{path}: {}", got.text);
        let seen = world.openai.fake.last();
        assert_eq!((seen.path.as_str(), seen.header("authorization")), (path, Some("Bearer sk-own")));
    }
    let body =
        json!({"model": "gpt-4o", "input": "x", "previous_response_id": "resp_mine", "file_id": "a"}).to_string();
    assert_eq!(world.send(SIBLING, "POST", "/v1/responses", &own, body.clone()).await.status, 200);
    assert_eq!(world.openai.fake.last().body, body);
    // What is made there is none of the gateway's business.
    let made = world.send(SIBLING, "POST", "/v1/files", &own, "x").await.id();
    assert!(world.get(SIBLING, &format!("/v1/files/{made}")).await.is_missing(&made));
    // A key of another vendor is none for this one: the gateway's goes, and the checks hold.
    for other in ["Bearer sk-ant-own", "Bearer sk-or-own", "Bearer whatever"] {
        let got = world.send(SIBLING, "GET", &format!("/v1/files/{file}"), &[("authorization", other)], "").await;
        assert!(got.is_missing(&file), "{other}: {}", got.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_and_unknown_paths_are_refused_unless_they_are_allowed() {
    let world = World::with(
        "auth: {anonymous: guests}\ntenants: {guests: {}, parent: {provider_objects: all}, child: {parent: parent}, sibling: {parent: parent, provider_admin: true}}",
    )
    .await;
    let file = world.upload(CHILD, "x").await;
    let tuned = "ft:gpt-4o:org::1";
    for (who, method, path, expected) in [
        (CHILD, "GET", "/v1/organization/users", 403),
        (CHILD, "POST", "/v1/organization/admin_api_keys", 403),
        (CHILD, "GET", "/v1/organizations/api_keys", 403),
        (CHILD, "GET", "/v1/projects/p/roles", 403),
        (CHILD, "PATCH", "/v1/organization", 403),
        (CHILD, "GET", "/v1/fine_tuning/checkpoints/x/permissions", 403),
        (CHILD, "GET", "/v1/chatkit/threads", 403),
        (CHILD, "GET", "/v1/whatever/comes", 403),
        (CHILD, "GET", "/v1/responses", 403),
        (STRANGER, "GET", "/v1/organization/costs", 403),
        (PARENT, "GET", "/v1/organization/costs", 403),
        (PARENT, "GET", "/v1/whatever/comes", 200),
        (PARENT, "GET", "/v1/files/file-of-the-dashboard", 200),
        (SIBLING, "GET", "/v1/organization/users", 200),
        (SIBLING, "POST", "/v1/projects/p/roles", 200),
        (SIBLING, "GET", "/v1/whatever/comes", 403),
        (SIBLING, "GET", "/v1/files/file-of-the-dashboard", 404),
    ] {
        let asked = world.asked();
        let got = world.send(who, method, path, &[], "").await;
        assert_eq!(got.status, expected, "{who} {method} {path}: {}", got.text);
        assert_eq!(world.asked() - asked, usize::from(expected == 200));
        if expected == 403 {
            let error = &got.json()["error"];
            let knob = ["provider_admin: true", "provider_objects: all"].iter().any(|knob| got.text.contains(knob));
            assert!(
                error["code"] == "path_not_allowed" && knob && got.headers["x-should-retry"] == "false",
                "{}",
                got.text
            );
        }
    }
    assert_eq!(world.send(CHILD, "DELETE", &format!("/v1/models/{tuned}"), &[], "").await.status, 404);
    // Who sees all does not get it by looking.
    for path in ["/v1/files/file-of-the-dashboard", "/v1/batches/batch-of-the-dashboard"] {
        assert_eq!(world.get(PARENT, path).await.status, 200);
        assert_eq!(world.get(SIBLING, path).await.status, 404);
    }
    // What sees all sees it unfiltered, and what it makes is its own.
    assert!(world.get(PARENT, "/v1/files").await.text.contains(&file));
    let own = world.upload(PARENT, "x").await;
    assert!(world.get(CHILD, &format!("/v1/files/{own}")).await.is_missing(&own));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_for_one_is_as_it_was_and_remembers_for_the_day_when_it_is_for_many() {
    let (openai, anthropic) = (Account::start().await, Account::start().await);
    let gateway = Gateway::start(&yaml(&openai, &anthropic, ""));
    let client = reqwest::Client::new();
    let get = async |path: &str, token: Option<&str>| {
        let request = client.get(gateway.url(path)).header(AS, STRANGER);
        token
            .into_iter()
            .fold(request, |request, token| request.bearer_auth(token))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(get("/v1/files/file-of-the-dashboard", None).await, 200);
    assert_eq!(get("/v1/anything/else", None).await, 200);
    assert_eq!(get("/v1/organization/users", None).await, 403);
    let made = client.post(gateway.url("/v1/files")).body("x").send().await.unwrap().json::<Value>().await.unwrap();
    let made = made["id"].as_str().unwrap();
    let text = std::fs::read_to_string(&gateway.file).unwrap() + "auth: {anonymous: default}\ntenants: {team: {}}\n";
    std::fs::write(&gateway.file, text).unwrap();
    gateway.reloader.reload().unwrap();
    let (team, default) = (gateway.token("team").await, gateway.token("default").await);
    for (path, expected) in
        [(format!("/v1/files/{made}"), [200, 200, 404]), ("/v1/files/file-of-the-dashboard".into(), [404; 3])]
    {
        let got = [get(&path, None).await, get(&path, Some(&default)).await, get(&path, Some(&team)).await];
        assert_eq!(got, expected, "{path}");
    }
    // What the default tenant's token makes is not everybody's who comes without one.
    let made = client.post(gateway.url("/v1/files")).bearer_auth(&default).body("x").send().await.unwrap();
    let path = format!("/v1/files/{}", made.json::<Value>().await.unwrap()["id"].as_str().unwrap());
    assert_eq!([get(&path, Some(&default)).await, get(&path, None).await], [200, 404]);
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("can_objects{part=\"known\"} 2") && metrics.contains("can_objects_forgotten_total 0"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_tenants_share_opens_nothing() {
    let world = World::with(&format!("{TENANTS}\ncache: {{namespace: shared}}")).await;
    // A forwarded header is part of the key: without it the two ask the same.
    let text = std::fs::read_to_string(&world.gateway.file).unwrap().replace(&format!(", forward_headers: [{AS}]"), "");
    std::fs::write(&world.gateway.file, text).unwrap();
    world.gateway.reloader.reload().unwrap();
    let body = json!({"model": "gpt-4o", "input": "hi", "temperature": 0, "store": true});
    let first = world.post(CHILD, "/v1/responses", body.clone()).await;
    let unstored = json!({"model": "gpt-4o", "input": "hi", "temperature": 0, "store": false});
    let made = world.post(CHILD, "/v1/responses", unstored.clone()).await;
    let again = world.post(SIBLING, "/v1/responses", unstored).await;
    assert_eq!((made.status, again.headers["x-chittycan-cache"].to_str().unwrap()), (200, "HIT"));
    assert_eq!(again.id(), made.id());
    for (who, expected) in [(CHILD, 200), (SIBLING, 404)] {
        assert_eq!(world.get(who, &format!("/v1/responses/{}", first.id())).await.status, expected, "{who}");
        assert_eq!(world.get(who, &format!("/v1/responses/{}", made.id())).await.status, 404, "{who}: nobody keeps it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_owners_also_after_a_kill() {
    let (openai, anthropic) = (Account::start().await, Account::start().await);
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let file = folder.path().join("can.yaml");
    let text = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: off\nserver: {{lame_duck: 0s}}\n{}",
        yaml(&openai, &anthropic, TENANTS)
    );
    std::fs::write(&file, text).unwrap();
    let secret = |tenant: &str| {
        let (mut session, _) = chittycan::store::sqlite::at(&folder.path().join("can.db")).connect().unwrap();
        chittycan::identity::Tokens(&mut *session).create(&new_token(tenant)).unwrap().1.expose().to_owned()
    };
    let (child, sibling) = (secret(CHILD), secret(SIBLING));
    let ask = async |method: &str, path: &str, token: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        let request = reqwest::Client::new().request(method.parse().unwrap(), url).bearer_auth(token).header(AS, CHILD);
        let request = if method == "POST" { request.body("x") } else { request };
        let reply = request.send().await.unwrap();
        (reply.status().as_u16(), reply.json::<Value>().await.unwrap_or_default())
    };
    let args = ["serve", "--config", file.to_str().unwrap()];
    let mut process = Process::start(&args);
    process.until("ready");
    let mut made = vec![ask("POST", "/v1/files", &child).await.1["id"].as_str().unwrap().to_owned()];
    // Soon is a fraction of a second: the row is in the file.
    let rows = || {
        let connection = chittycan::store::sqlite::open_to_read(&folder.path().join("can.db")).unwrap();
        connection.query_row("SELECT count(*) FROM objects", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let begun = std::time::Instant::now();
    while rows() < 1 {
        assert!(begun.elapsed() < Duration::from_secs(3), "not written");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        process.signal(signal);
        assert!(process.ended_within(Duration::from_secs(10)).is_some());
        process = Process::start(&args);
        process.until("ready");
        for id in &made {
            assert_eq!(ask("GET", &format!("/v1/files/{id}"), &child).await.0, 200, "{signal}");
            assert_eq!(ask("GET", &format!("/v1/files/{id}"), &sibling).await.0, 404, "{signal}");
        }
        // The one before a proper end needs no wait.
        made.push(ask("POST", "/v1/files", &child).await.1["id"].as_str().unwrap().to_owned());
    }
}
