//! What a client of OpenAI's or Anthropic's relies on beyond the usual request: stored prompts, compressed uploads and
//! downloads, model look-ups, errors that name the client's own header.

use chittycan::identity::{NewToken, Scope, Tokens};
use serde_json::{Value, json};

use crate::support::{
    Answer, Fake, Gateway, chat,
    gateway::{new_token, providers},
    raw, reads_well,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn an_error_about_a_missing_key_names_the_header_that_the_client_uses() {
    let yaml = "listen: [{address: 127.0.0.1:0}]\nproviders: {openai: {base_url: \"http://127.0.0.1:1/v1\"}, \
                anthropic: {base_url: \"http://127.0.0.1:1/v1\"}}\n";
    let tokens_only = format!("{yaml}auth: {{passthrough: false}}\n");
    let mapped = "providers: {anthropic: {base_url: \"http://127.0.0.1:1/v1\", api_key: k}}\n\
                  tenants: {default: {}, other: {}}\n";
    let strangers = Gateway::start(mapped);
    strangers.token("other").await;
    let messages = r#"{"model":"claude-sonnet-4-6","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
    for gateway in [Gateway::start(yaml), Gateway::start(&tokens_only), strangers] {
        let (status, error) = refusal(post(&gateway, "/v1/messages", messages).await).await;
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(status == 401 && message.contains("x-api-key: ") && !message.contains("Authorization"), "{message}");
        let (status, error) = refusal(post(&gateway, "/v1/chat/completions", messages).await).await;
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(
            status == 401 && message.contains("Authorization: Bearer ") && !message.contains("x-api-key"),
            "{message}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_forwarded_may_be_compressed_and_what_is_read_here_may_not() {
    let list = r#"{"object":"list","data":[],"has_more":false}"#;
    let fake = Fake::start(move |seen, _| match seen.path.split('?').next().unwrap() {
        "/v1/files" if seen.method == "GET" => Answer::json(200, list),
        "/v1/files" | "/v1/batches" => Answer::json(200, r#"{"id":"file-1"}"#),
        "/v1/chat/completions" => Answer::completion(),
        _ => Answer::json(200, "\u{1f}compressed").header("content-encoding", "gzip"),
    })
    .await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + "tenants: {default: {}, a: {}}\n"));
    let token = gateway.token("a").await;
    let mut client = raw::Client::connect(gateway.addresses[0]).await;
    let mut ask = async |request: &str, encoding: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nhost: gw\r\nauthorization: Bearer {token}\r\n{encoding}content-length: {length}\r\n\
             content-type: application/json\r\n\r\n{body}"
        );
        client.write(head).await;
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.status, 200, "{request}: {}", String::from_utf8_lossy(&reply.body));
        (reply, fake.last().header("accept-encoding").map(str::to_owned))
    };
    let offer = "accept-encoding: gzip, br;q=0.5\r\n";
    // Ids are read in the reply, or the whole of it.
    for (request, body) in
        [("POST /v1/files", "{}"), ("GET /v1/files", ""), ("POST /v1/chat/completions", &*chat("gpt-4o", ""))]
    {
        assert_eq!(ask(request, offer, body).await.1.as_deref(), Some("identity"), "{request}");
    }
    // The file of before is the tenant's own, and nobody reads it here.
    let (reply, got) = ask("GET /v1/files/file-1/content", offer, "").await;
    assert_eq!(got.as_deref(), Some("gzip, br;q=0.5"));
    assert_eq!((reply.header("content-encoding"), &reply.body[..]), (Some("gzip"), "\u{1f}compressed".as_bytes()));
    assert_eq!(ask("GET /v1/files/file-1/content", "", "").await.1.as_deref(), Some("identity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_keep_alive_is_about_its_own_connection() {
    let fake = Fake::start(|seen, _| {
        let answer = if seen.method == "GET" { Answer::json(200, "{}") } else { Answer::completion() };
        answer.header("keep-alive", "timeout=5, max=1")
    })
    .await;
    let gateway =
        Gateway::start(&(providers(&[("openai", fake.address)]) + "tenants: {default: {provider_objects: all}}\n"));
    let reply = post(&gateway, "/v1/chat/completions", &chat("gpt-4o", "")).await;
    assert!(reply.status().is_success() && reply.headers().get("keep-alive").is_none(), "{:?}", reply.headers());
    let reply = reqwest::get(gateway.url("/v1/files/file-1")).await.unwrap();
    assert!(reply.status().is_success() && reply.headers().get("keep-alive").is_none(), "{:?}", reply.headers());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temperature_that_no_vendor_takes_is_refused_in_translation_too() {
    let fake = Fake::always(Answer::json(500, "{}")).await;
    let gateway = Gateway::start(&format!(
        "providers:\n  anthropic: {{base_url: \"http://{0}/v1\", api_key: k, credentials: mapped}}\n  \
         groq: {{base_url: \"http://{0}/v1\", api_key: k}}\n  ollama: {{base_url: \"http://{0}/v1\"}}\n\
         routes:\n  - {{model: claude, to: [anthropic/claude-haiku-4-5]}}\n  - {{model: chat, to: [groq/openai/gpt-oss-20b]}}\n",
        fake.address
    ));
    let messages = r#""messages":[{"role":"user","content":"hi"}],"max_tokens":5"#;
    for temperature in ["2.1", "-0.1", "1e300", "-1"] {
        for (path, body) in [
            ("/v1/chat/completions", format!(r#"{{"model":"claude",{messages},"temperature":{temperature}}}"#)),
            ("/v1/responses", format!(r#"{{"model":"chat","input":"hi","temperature":{temperature}}}"#)),
            ("/v1/messages", format!(r#"{{"model":"chat",{messages},"temperature":{temperature}}}"#)),
        ] {
            let (status, error) = refusal(post(&gateway, path, &body).await).await;
            let message = error["message"].as_str().unwrap();
            assert!(status == 400 && message.contains("'temperature'"), "{path} {temperature}: {status} {error}");
        }
    }
    assert_eq!(fake.count(), 0);
    post(&gateway, "/v1/chat/completions", &format!(r#"{{"model":"claude",{messages},"temperature":2}}"#)).await;
    assert_eq!(fake.last().json()["temperature"], 1, "what some vendor takes is brought within the other's range");
}

/// A provider that has these models and no others, in the shape of its API.
async fn shop(models: &'static [&'static str]) -> Fake {
    Fake::start(move |seen, _| {
        let anthropic = seen.headers.contains_key("anthropic-version");
        let show = |id: &str| match anthropic {
            true => json!({"type": "model", "id": id, "display_name": "D", "created_at": "2025-10-01T00:00:00Z"}),
            false => json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "org-1", "more": 1}),
        };
        let path = seen.path.split('?').next().unwrap();
        match path.strip_prefix("/v1/models") {
            Some("") => Answer::json(200, &json!({"data": models.iter().map(|id| show(id)).collect::<Vec<_>>()}).to_string()),
            Some(id) if models.contains(&&id[1..]) => Answer::json(200, &show(&id[1..]).to_string()),
            Some(_) => Answer::json(404, r#"{"error":{"message":"nope","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#),
            None if path == "/v1/fine_tuning/jobs" => {
                Answer::json(200, r#"{"id":"ftjob-1","fine_tuned_model":"ft:gpt-4o:org::mine"}"#)
            }
            None => Answer::completion(),
        }
    })
    .await
}

/// Asks as a client of this API, with a token.
async fn get(gateway: &Gateway, path: &str, anthropic: bool, token: Option<&str>) -> (u16, Value) {
    let mut request = reqwest::Client::new().get(gateway.url(path));
    if anthropic {
        request = request.header("anthropic-version", "2023-06-01");
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let reply = request.send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_only_the_default_provider_knows_is_asked_for_there() {
    let fake = shop(&["gpt-9", "a/b", "ft:gpt-4o:org::mine"]).await;
    let gateway = Gateway::over(fake.address);
    let (status, model) = get(&gateway, "/v1/models/gpt-9", false, None).await;
    assert_eq!(
        (status, &model),
        (200, &json!({"id": "gpt-9", "object": "model", "created": 1_700_000_000, "owned_by": "org-1", "more": 1}))
    );
    let seen = fake.last();
    assert_eq!((seen.path.as_str(), seen.header("authorization")), ("/v1/models/gpt-9", Some("Bearer sk-gateway")));
    let (_, model) = get(&gateway, "/v1/models/gpt-9", true, None).await;
    let shown = json!({"type": "model", "id": "gpt-9", "display_name": "gpt-9", "created_at": "2023-11-14T22:13:20Z", "lifecycle": "active"});
    assert_eq!(model, shown, "in the shape that the client reads");
    assert_eq!(get(&gateway, "/v1/models/a%2Fb", false, None).await.0, 200);
    assert_eq!(fake.last().path, "/v1/models/a/b");
    for anthropic in [false, true] {
        let (status, error) = get(&gateway, "/v1/models/gpt-8", anthropic, None).await;
        assert_eq!(status, 404, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains("'gpt-8'"), "{error}");
    }
    // What the configuration names needs nobody, and what could be another path goes nowhere.
    let asked = fake.count();
    assert_eq!(get(&gateway, "/v1/models/gpt-4o", false, None).await.0, 200);
    for path in
        ["..%2Ffiles%2Ffile-1", "x%2F..%2F..%2Ffiles", "gpt%253F", "a%3Fb=1", "a%2F%2Fb", "%23", "a%0Ab", "a%3Bb"]
    {
        assert_eq!(get(&gateway, &format!("/v1/models/{path}"), false, None).await.0, 404, "{path}");
    }
    assert_eq!(fake.count(), asked);
    // It costs nothing.
    assert_eq!(gateway.query("SELECT coalesce(sum(cost), 0) + count(*) FROM entries WHERE cost <> 0").await, 0);
    let (status, _) = get(&Gateway::over("127.0.0.1:1".parse().unwrap()), "/v1/models/gpt-9", false, None).await;
    assert_eq!(status, 502, "nobody can tell whether it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_hides_what_is_anothers_and_what_is_not_allowed() {
    let fake = shop(&["gpt-9", "ft:gpt-4o:org::mine", "ft:gpt-4o:org::other"]).await;
    let yaml = providers(&[("openai", fake.address)])
        .replace("credentials: mapped", "credentials: mapped, list_models: true")
        + "tenants: {a: {}, b: {}, some: {models: [gpt-4o]}}\n";
    let gateway = Gateway::start(&yaml);
    let (a, b, some) = (gateway.token("a").await, gateway.token("b").await, gateway.token("some").await);
    let tune = reqwest::Client::new().post(gateway.url("/v1/fine_tuning/jobs")).bearer_auth(&a);
    let tune = tune.header("content-type", "application/json").body(r#"{"model":"gpt-4o"}"#).send().await.unwrap();
    assert_eq!(tune.status().as_u16(), 200);
    for (token, model, wanted) in [
        (&a, "ft:gpt-4o:org::mine", 200),
        (&b, "ft:gpt-4o:org::mine", 404),
        (&a, "ft:gpt-4o:org::other", 404),
        (&b, "FT:gpt-4o:org::mine", 404),
        (&a, "gpt-9", 200),
        (&some, "gpt-9", 404),
    ] {
        let asked = fake.count();
        let (status, reply) = get(&gateway, &format!("/v1/models/{model}"), false, Some(token)).await;
        assert_eq!(status, wanted, "{model}: {reply}");
        assert_eq!(fake.count() - asked, usize::from(wanted == 200), "{model}: what is hidden is not asked for");
    }
    assert_eq!(get(&gateway, "/v1/models/gpt-9", false, None).await.0, 404, "nor is a stranger shown the account");
    // The list says the same.
    for (token, seen) in [(&a, [true, true]), (&b, [false, true]), (&some, [false, false])] {
        let (_, list) = get(&gateway, "/v1/models", false, Some(token)).await;
        assert_eq!(["ft:gpt-4o:org::mine", "gpt-9"].map(|id| ids(&list).contains(&id)), seen, "{list}");
        assert!(!ids(&list).contains(&"ft:gpt-4o:org::other"));
    }
    let (_, list) = get(&gateway, "/v1/models", false, None).await;
    assert!(!ids(&list).contains(&"gpt-9"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_the_providers_own_models_where_that_is_wanted_and_asks_once() {
    let (openai, claude) = (shop(&["gpt-9", "gpt-4o"]).await, shop(&["claude-opus-9", "other"]).await);
    let yaml = |more: &str| {
        format!(
            "providers:\n  openai: {{base_url: \"http://{}/v1\", api_key: k, credentials: mapped{more}}}\n  \
             anthropic: {{base_url: \"http://{}/v1\", api_key: k, credentials: mapped{more}}}\n",
            openai.address, claude.address
        )
    };
    let plain = Gateway::start(&yaml(""));
    assert!(!ids(&get(&plain, "/v1/models", false, None).await.1).contains(&"gpt-9"));
    assert_eq!((openai.count(), claude.count()), (0, 0), "nobody is asked unless that is wanted");
    let gateway = Gateway::start(&yaml(", list_models: true"));
    let gets = (0..8).map(|_| get(&gateway, "/v1/models", false, None));
    for (status, list) in futures::future::join_all(gets).await {
        let ids = ids(&list);
        assert_eq!((status, ids.is_sorted()), (200, true));
        for id in ["gpt-9", "gpt-4o", "claude-opus-9", "anthropic/other"] {
            assert_eq!(ids.iter().filter(|found| **found == id).count(), 1, "{id}: {ids:?}");
        }
    }
    assert_eq!((openai.count(), claude.count()), (1, 1), "the answer is kept");
    assert_eq!(get(&gateway, "/v1/models/anthropic%2Fother", false, None).await.0, 200, "by the name in the list");

    // A provider that does not answer spoils nothing, and is not asked each time.
    let broken = Fake::always(Answer::json(500, "{}")).await;
    let gateway = Gateway::start(
        &providers(&[("openai", broken.address)])
            .replace("credentials: mapped", "credentials: mapped, list_models: true"),
    );
    for _ in 0..3 {
        let (status, list) = get(&gateway, "/v1/models", false, None).await;
        assert!(status == 200 && ids(&list).contains(&"gpt-4o"), "{list}");
    }
    assert_eq!(broken.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_dates_and_anthropics_pages() {
    let fake = shop(&[]).await;
    let routes = "routes: [{model: gpt-4o, to: [openai]}, {model: claude-haiku-4-5, to: [anthropic]}, {model: mystery, to: [groq]}]\n";
    let gateway = Gateway::start(&format!(
        "providers: {{openai: {{base_url: \"http://{}/v1\", api_key: k, credentials: mapped}}}}\n{routes}",
        fake.address
    ));
    let (_, list) = get(&gateway, "/v1/models", false, None).await;
    let created =
        |id: &str| list["data"].as_array().unwrap().iter().find(|m| m["id"] == id).unwrap()["created"].clone();
    // 2024-05-13, the first snapshot in the price list.
    assert_eq!((created("gpt-4o"), created("mystery")), (json!(1_715_558_400), json!(0)));
    assert_eq!(get(&gateway, "/v1/models/gpt-4o", false, None).await.1["created"], 1_715_558_400);
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let (status, page) = get(&gateway, &format!("/v1/models{query}"), true, None).await;
        assert_eq!(status, 200, "{page}");
        let found = ids(&page);
        assert!(!found.is_empty() && found.len() <= 2);
        assert_eq!((&page["first_id"], &page["last_id"]), (&json!(found[0]), &json!(found[found.len() - 1])));
        seen.extend(page["data"].as_array().unwrap().iter().map(|m| (m["id"].clone(), m["created_at"].clone())));
        query = format!("?limit=2&after_id={}", found[found.len() - 1]);
        if page["has_more"] == false {
            break;
        }
        assert!(seen.len() < 100);
    }
    assert_eq!(seen.len(), ids(&list).len(), "each model once");
    let at = |id: &str| seen.iter().position(|(found, _)| found == id).unwrap();
    assert_eq!(seen[at("claude-haiku-4-5")].1, "2025-10-01T00:00:00Z");
    assert!(at("claude-haiku-4-5") < at("gpt-4o"), "the newest first");
    let (_, before) = get(&gateway, "/v1/models?limit=1&before_id=gpt-4o", true, None).await;
    assert_eq!(before["data"][0]["id"], seen[at("gpt-4o") - 1].0);
    for wrong in ["limit=0", "limit=x", "after_id=nobody"] {
        let (status, error) = get(&gateway, &format!("/v1/models?{wrong}"), true, None).await;
        assert_eq!((status, &error["type"]), (400, &json!("error")), "{wrong}: {error}");
        assert_eq!(get(&gateway, &format!("/v1/models?{wrong}"), false, None).await.0, 200, "OpenAI has no such pages");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_has_is_not_found_also_under_a_budget() {
    let fake = shop(&["gpt-9"]).await;
    let yaml = providers(&[("openai", fake.address)]) + "tenants: {default: {budgets: [{usd: 100}]}}\n";
    let gateway = Gateway::start(&yaml);
    for (path, body) in [
        ("/v1/chat/completions", chat("gpt-8", "")),
        ("/v1/chat/completions", chat("gpt-8", r#","stream":true"#)),
        ("/v1/embeddings", r#"{"model":"gpt-8","input":"x"}"#.to_owned()),
    ] {
        let (status, error) = refusal(post(&gateway, path, &body).await).await;
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (404, &json!("model_not_found"), &json!("model")),
            "{error}"
        );
    }
    assert_eq!(fake.count(), 1, "the answer is kept for a while");
    assert_eq!(
        (fake.last().method, fake.last().path.as_str(), fake.last().body.len()),
        (http::Method::GET, "/v1/models/gpt-8", 0)
    );
    // One that is there and has no price stays refused for that, and nothing is sent.
    let (status, error) = refusal(post(&gateway, "/v1/chat/completions", &chat("gpt-9", "")).await).await;
    assert_eq!((status, &error["code"]), (403, &json!("model_not_priced")), "{error}");
    assert_eq!(fake.seen().iter().filter(|seen| seen.method != "GET").count(), 0);
    assert_eq!(gateway.query("SELECT coalesce(sum(cost), 0) FROM entries").await, 0, "questions cost nothing");
    // A server without such an endpoint says nothing about the model.
    let other = Fake::always(Answer::json(404, "not found").header("content-type", "text/plain")).await;
    let gateway =
        Gateway::start(&(providers(&[("openai", other.address)]) + "tenants: {default: {budgets: [{usd: 100}]}}\n"));
    let (status, error) = refusal(post(&gateway, "/v1/chat/completions", &chat("gpt-8", "")).await).await;
    assert_eq!((status, &error["code"]), (403, &json!("model_not_priced")), "{error}");
}

/// What `gzip` and others make of a text.
fn encoded(coding: &str, text: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let level = flate2::Compression::default();
    match coding {
        "zstd" => zstd::encode_all(text, 3).unwrap(),
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            // Meta-blocks that are not compressed, and an empty last one (RFC 7932 §9).
            let mut out = Vec::new();
            let (mut bits, mut held) = (0_u64, 0);
            let mut put = |out: &mut Vec<u8>, value: u64, count: u32, fill: bool| {
                bits |= value << held;
                held += count;
                while held >= 8 || fill && held > 0 {
                    out.push(bits as u8);
                    bits >>= 8;
                    held = held.saturating_sub(8);
                }
            };
            put(&mut out, 0, 1, false);
            for piece in text.chunks(1 << 16) {
                put(&mut out, 0, 1, false);
                put(&mut out, 0, 2, false);
                put(&mut out, piece.len() as u64 - 1, 16, false);
                put(&mut out, 1, 1, true);
                out.extend_from_slice(piece);
            }
            put(&mut out, 3, 2, true);
            out
        }
        _ => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_request_is_read() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + "http: {max_body: 1MiB}\n"));
    let send = async |coding: &str, body: Vec<u8>| {
        let request = reqwest::Client::new().post(gateway.url("/v1/chat/completions"));
        request.header("content-encoding", coding).body(body).send().await.unwrap()
    };
    let large = chat("gpt-4o", &format!(r#","user":"{}""#, "x".repeat(300_000)));
    for text in [chat("gpt-4o", ""), large.clone()] {
        for coding in ["gzip", "x-gzip", "deflate", "br", "zstd", "GZIP", "identity"] {
            let body = if coding == "identity" {
                text.clone().into_bytes()
            } else {
                encoded(&coding.to_ascii_lowercase(), text.as_bytes())
            };
            let reply = send(coding, body).await;
            assert_eq!(reply.status().as_u16(), 200, "{coding}");
            let seen = fake.last();
            assert_eq!((&seen.body[..], seen.header("content-encoding")), (text.as_bytes(), None), "{coding}");
            assert_eq!(seen.header("content-length"), Some(&*text.len().to_string()));
        }
    }
    // More bytes on the wire than in the text: empty members before it.
    let padded = [encoded("gzip", b"").repeat(6_000), encoded("gzip", chat("gpt-4o", "").as_bytes())].concat();
    assert!(padded.len() > 100_000);
    assert_eq!(send("gzip", padded).await.status().as_u16(), 200);
    assert_eq!(fake.last().body, chat("gpt-4o", ""));
    let asked = fake.count();
    for coding in ["compress", "gzip, br", "gzip, gzip", "aws-chunked", "gzip;q=1"] {
        let reply = send(coding, encoded("gzip", large.as_bytes())).await;
        assert_eq!(reply.headers()["accept-encoding"], "gzip, deflate, br, zstd");
        assert_eq!(reply.headers()["x-should-retry"], "false");
        let (status, error) = refusal(reply).await;
        assert_eq!((status, &error["code"]), (415, &json!("unsupported_content_encoding")), "{coding}: {error}");
        assert!(error["message"].as_str().unwrap().contains("zstd"), "{error}");
    }
    for (coding, body) in [
        ("gzip", b"{}".to_vec()),
        ("zstd", encoded("gzip", b"{}")),
        ("br", encoded("br", large.as_bytes())[..1000].to_vec()),
    ] {
        let (status, error) = refusal(send(coding, body).await).await;
        assert!(status == 400 && error["message"].as_str().unwrap().contains(coding), "{coding}: {status} {error}");
    }
    // Bombs: each is a few kilobytes of what would be 256 MiB.
    let zeros = vec![b' '; 256 << 20];
    for coding in ["gzip", "zstd"] {
        let bomb = encoded(coding, &zeros);
        assert!(bomb.len() < 1 << 19, "{}", bomb.len());
        let all = futures::future::join_all((0..16).map(|_| send(coding, bomb.clone()))).await;
        assert!(all.iter().all(|reply| reply.status().as_u16() == 413), "{coding}");
    }
    assert_eq!(fake.count(), asked);
    assert_eq!(send("gzip", encoded("gzip", large.as_bytes())).await.status().as_u16(), 200, "it goes on serving");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_forwarded_keeps_its_encoding_unless_it_has_to_be_checked() {
    let fake = Fake::always(Answer::json(200, r#"{"id":"file-1","object":"file"}"#)).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + "tenants: {default: {}, a: {}}\n"));
    let token = gateway.token("a").await;
    let send = async |path: &str, kind: &str, coding: Option<&str>, body: Vec<u8>| {
        let mut request =
            reqwest::Client::new().post(gateway.url(path)).bearer_auth(&token).header("content-type", kind);
        if let Some(coding) = coding {
            request = request.header("content-encoding", coding);
        }
        request.body(body).send().await.unwrap().status().as_u16()
    };
    let form = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b--\r\n";
    let kind = "multipart/form-data; boundary=b";
    let upload = encoded("gzip", form.as_bytes());
    assert_eq!(send("/v1/files", kind, Some("gzip"), upload.clone()).await, 200);
    let seen = fake.last();
    assert_eq!(
        (&seen.body[..], seen.header("content-encoding"), seen.header("content-type")),
        (&upload[..], Some("gzip"), Some(kind))
    );
    // What a body refers to is checked in the very bytes that the provider reads.
    let json = r#"{"name":"x","file_ids":["file-1"]}"#;
    assert_eq!(
        send("/v1/vector_stores", "application/json", Some("gzip"), encoded("gzip", json.as_bytes())).await,
        200
    );
    let seen = fake.last();
    assert_eq!((&seen.body[..], seen.header("content-encoding")), (json.as_bytes(), None));
    let stolen = r#"{"name":"x","file_ids":["file-of-another"]}"#;
    assert_eq!(
        send("/v1/vector_stores", "application/json", Some("gzip"), encoded("gzip", stolen.as_bytes())).await,
        404
    );
    assert_eq!(send("/v1/vector_stores", "application/json", Some("compress"), stolen.into()).await, 415);
    // A form that was read stays a form.
    assert_eq!(send("/v1/videos", kind, None, form.into()).await, 200);
    let seen = fake.last();
    assert_eq!((&seen.body[..], seen.header("content-type")), (form.as_bytes(), Some(kind)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_the_moment_it_was_made() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + "tenants: {default: {}, a: {}}\n"));
    let client = reqwest::Client::new();
    let (mut session, _) = chittycan::store::sqlite::at(&gateway.database()).connect().unwrap();
    for round in 0..20 {
        let (_, secret) = Tokens(&mut *session).create(&new_token("a")).unwrap();
        let reply =
            client.post(gateway.url("/v1/chat/completions")).bearer_auth(secret.expose()).body(chat("gpt-4o", ""));
        assert_eq!(reply.send().await.unwrap().status().as_u16(), 200, "token {round}");
    }
    let admin = NewToken { scopes: [Scope::Admin].into_iter().collect(), ..new_token("a") };
    let (_, secret) = Tokens(&mut *session).create(&admin).unwrap();
    let reply = client
        .get(format!("http://{}/api/v1/tokens", gateway.admin))
        .bearer_auth(secret.expose())
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status().as_u16(), 200, "the admin listener too");
    // It is no lever: thousands of made-up tokens share the looks, and who has a token is served meanwhile.
    let known = gateway.token("a").await;
    let flood: Vec<_> = (0..2_000)
        .map(|n| {
            let (client, url) = (client.clone(), gateway.url("/v1/models"));
            tokio::spawn(async move {
                client.get(url).bearer_auth(format!("chitty_{n:043}")).send().await.unwrap().status().as_u16()
            })
        })
        .collect();
    for _ in 0..50 {
        let reply = client.get(gateway.url("/v1/models")).bearer_auth(&known).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
    }
    for status in futures::future::join_all(flood).await {
        assert_eq!(status.unwrap(), 401);
    }
}
