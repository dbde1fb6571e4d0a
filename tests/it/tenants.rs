//! Who may do what: tokens, scopes, models, limits.

use std::time::{Duration, Instant};

use chittycan::{
    config::Limits,
    identity::{NewToken, Scope, Tokens},
    types::unix_now,
};
use serde_json::Value;

use crate::support::{
    Answer, Fake, Gateway, Step, chat,
    gateway::{RECORDED, new_token as new, providers},
    raw,
};

async fn post(gateway: &Gateway, token: &str, body: String) -> (u16, http::HeaderMap, Value) {
    let url = gateway.url("/v1/chat/completions");
    let reply = reqwest::Client::new().post(url).bearer_auth(token).body(body).send().await.unwrap();
    let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
    (status, headers, reply.json().await.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_wherever_it_is_presented_and_goes_to_no_provider() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway =
        Gateway::start(&providers(&[("openai", fake.address)]).replace("credentials: mapped", "credentials: auto"));
    let token = gateway.token("default").await;
    for (name, value) in
        [("authorization", format!("Bearer {token}")), ("x-api-key", token.clone()), ("api-key", token.clone())]
    {
        let request = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).header(name, value);
        assert_eq!(request.body(chat("gpt-4o", "")).send().await.unwrap().status().as_u16(), 200);
        let seen = fake.last();
        assert_eq!(seen.header("authorization"), Some("Bearer sk-gateway"));
        assert!(!format!("{:?}", seen.headers).contains("chitty_"));
    }
    // A key of the client's own beside the token: the token says who it is, the key pays.
    let request = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).header("x-api-key", &token);
    request.bearer_auth("sk-own").body(chat("gpt-4o", "")).send().await.unwrap();
    assert_eq!(fake.last().header("authorization"), Some("Bearer sk-own"));
    assert_eq!(
        gateway
            .query("SELECT count(*) FROM entries WHERE token LIKE 'tok_%' AND status = 200 AND provider = 'openai'")
            .await,
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_ended_and_huge_tokens_are_401_in_the_same_time_and_nothing_is_said_of_them() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&providers(&[("openai", fake.address)]));
    let (_, expired) = gateway.token_of(&NewToken { expires_at: Some(unix_now() + 1_500), ..new("default") }).await;
    tokio::time::sleep(Duration::from_millis(1_550)).await;
    let strange = [
        ("unknown", format!("chitty_{}", "a".repeat(43))),
        ("short", "chitty_".to_owned()),
        ("sql", "chitty_' OR '1'='1' --".to_owned()),
        ("expired", expired),
        ("large", format!("chitty_{}", "x".repeat(1_000_000))),
    ];
    let mut client = raw::Client::connect(gateway.addresses[0]).await;
    let mut medians = Vec::new();
    for (name, token) in &strange {
        let mut times = Vec::new();
        for _ in 0..if *name == "large" { 3 } else { 60 } {
            let begun = Instant::now();
            client.write(format!("GET /v1/models HTTP/1.1\r\nhost: gw\r\nauthorization: Bearer {token}\r\n\r\n")).await;
            let reply = client.reply().await.unwrap();
            times.push(begun.elapsed());
            assert_eq!(reply.status, 401, "{name}");
            let error = &reply.json()["error"];
            assert_eq!((&error["code"], &error["type"]), (&"invalid_api_key".into(), &"invalid_request_error".into()));
            assert!(!error.to_string().contains("chitty_"), "{error}");
            assert_eq!(reply.header("x-should-retry"), Some("false"));
        }
        times.sort();
        medians.push((*name, times[times.len() / 2]));
    }
    println!("{medians:?}");
    // A megabyte takes a while to arrive, and what could be a token waits for a look at the file, whoever made it up; the others
    // cannot be told apart.
    let small = || medians.iter().filter(|(name, _)| !matches!(*name, "large" | "unknown")).map(|(_, time)| *time);
    assert!(small().max().unwrap() < small().min().unwrap() * 4, "{medians:?}");
    let unknown = medians.iter().find(|(name, _)| *name == "unknown").map(|(_, time)| *time);
    assert!(unknown < Some(Duration::from_millis(100)), "{medians:?}");
    assert_eq!(fake.count(), 0);
    assert_eq!(
        gateway.query("SELECT count(*) FROM refusals WHERE status = 401").await,
        0,
        "no tenant is known of them"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_within_a_second() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&providers(&[("openai", fake.address)]));
    let (token, secret) = gateway.token_of(&new("default")).await;
    assert_eq!(post(&gateway, &secret, chat("gpt-4o", "")).await.0, 200);
    // As the command line does, beside the running gateway.
    let (mut session, _) = chittycan::store::sqlite::at(&gateway.database()).connect().unwrap();
    Tokens(&mut *session).revoke(token.id.as_str()).unwrap();
    let begun = Instant::now();
    while post(&gateway, &secret, chat("gpt-4o", "")).await.0 != 401 {
        assert!(begun.elapsed() < Duration::from_secs(1), "still open after 1 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("refused {:?} after it was revoked", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_and_models_are_kept() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)])
        + "tenants:\n  acme: {models: [gpt-4o, \"gpt-4o-*\", fast, o3-mini]}\n  team: {parent: acme, models: [\"gpt-4o*\", fast]}\n";
    let yaml = yaml.replace("routes:\n", "routes:\n  - {model: fast, aliases: [quick], to: [openai/gpt-4o]}\n");
    let gateway = Gateway::start(&yaml);
    let reader = NewToken { scopes: [Scope::AiRead].into_iter().collect(), ..new("team") };
    let writer = NewToken { scopes: [Scope::AiWrite].into_iter().collect(), ..new("team") };
    let narrow = NewToken { models: vec!["gpt-4o-mini".into()], ..new("team") };
    let ((_, reader), (_, writer), (_, narrow)) =
        (gateway.token_of(&reader).await, gateway.token_of(&writer).await, gateway.token_of(&narrow).await);
    let (status, _, body) = post(&gateway, &reader, chat("gpt-4o", "")).await;
    assert_eq!((status, &body["error"]["code"]), (403, &"missing_scope".into()));
    for (model, expected) in [
        ("gpt-4o", 200),
        ("fast", 200),
        ("quick", 200),
        ("gpt-4o-mini", 200),
        ("o3-mini", 403),
        ("openai/gpt-4o", 403),
        ("default", 403),
    ] {
        let (status, _, body) = post(&gateway, &writer, chat(model, "")).await;
        assert_eq!(status, expected, "{model}: {body}");
        assert!(expected == 200 || body["error"]["code"] == "model_not_allowed", "{body}");
    }
    for (model, expected) in [("gpt-4o-mini", 200), ("gpt-4o", 403)] {
        assert_eq!(post(&gateway, &narrow, chat(model, "")).await.0, expected, "{model}");
    }
    let get = async |token: &str, path: &str| {
        let reply = reqwest::Client::new().get(gateway.url(path)).bearer_auth(token).send().await.unwrap();
        (reply.status().as_u16(), reply.json::<Value>().await.unwrap_or_default())
    };
    let (status, list) = get(&reader, "/v1/models").await;
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!((status, ids), (200, vec!["fast", "gpt-4o", "gpt-4o-mini", "quick"]));
    assert_eq!(get(&reader, "/v1/models/o3-mini").await.0, 404);
    assert_eq!(get(&writer, "/v1/models").await.0, 403);
    // A path that names its model where the gateway does not look is no way around the list.
    assert_eq!(get(&reader, "/v1/files").await.0, 403);
    let other = reqwest::Client::new().post(gateway.url("/v1/audio/speech")).bearer_auth(&writer);
    assert_eq!(other.body(r#"{"model":"tts-1"}"#).send().await.unwrap().status().as_u16(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn pass_through_can_be_refused_and_tenants_have_to_exist() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]) + "auth: {passthrough: false}\ntenants: {a: {}}\n";
    let gateway = Gateway::start(&yaml);
    let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).bearer_auth("sk-own");
    let reply = reply.body(chat("gpt-4o", "")).send().await.unwrap();
    assert_eq!(reply.status().as_u16(), 401);
    let known = gateway.token("a").await;
    assert_eq!(post(&gateway, &known, chat("gpt-4o", "")).await.0, 200);
    let unknown = gateway.token("nobody").await;
    let (status, _, body) = post(&gateway, &unknown, chat("gpt-4o", "")).await;
    assert_eq!((status, &body["error"]["code"]), (403, &"unknown_tenant".into()));
    let text = std::fs::read_to_string(&gateway.file).unwrap().replace("{a: {}}", "{\"*\": {models: [gpt-4o]}}");
    std::fs::write(&gateway.file, text).unwrap();
    gateway.reloader.reload().unwrap();
    assert_eq!(post(&gateway, &unknown, chat("gpt-4o", "")).await.0, 200, "`*` stands for every name");
    assert_eq!(post(&gateway, &unknown, chat("o3-mini", "")).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_kept_and_told_on_success_and_refusal() {
    let fake = Fake::always(Answer::completion().header("x-ratelimit-limit-requests", "99999")).await;
    let yaml = providers(&[("openai", fake.address)])
        + "tenants:\n  rpm: {limits: {requests_per_minute: 3}}\n  tpm: {limits: {tokens_per_minute: 2500}}\n  \
           usd: {limits: {usd_per_minute: 0.012}}\n  none: {}\n";
    let gateway = Gateway::start(&yaml);
    let body = || chat("gpt-4o", r#","max_tokens":300"#);
    let header = |headers: &http::HeaderMap, name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());

    let none = gateway.token("none").await;
    let (_, headers, _) = post(&gateway, &none, body()).await;
    assert_eq!(header(&headers, "x-ratelimit-limit-requests"), None, "what all tenants share tells each of the others");

    // `token` itself asked for the list of models once.
    let rpm = gateway.token("rpm").await;
    let (status, headers, _) = post(&gateway, &rpm, body()).await;
    assert_eq!((status, header(&headers, "x-ratelimit-limit-requests").as_deref()), (200, Some("3")));
    assert_eq!(header(&headers, "x-ratelimit-remaining-requests").as_deref(), Some("1"));
    let reset = header(&headers, "x-ratelimit-reset-requests").unwrap();
    assert!(reset.ends_with('s') && reset.contains('m'), "{reset}");
    assert_eq!(post(&gateway, &rpm, body()).await.0, 200);
    let (status, headers, error) = post(&gateway, &rpm, body()).await;
    assert_eq!((status, &error["error"]["code"]), (429, &"rate_limit_exceeded".into()));
    let (after, after_ms) = (header(&headers, "retry-after").unwrap(), header(&headers, "retry-after-ms").unwrap());
    assert!((1..=120).contains(&after.parse::<u64>().unwrap()) && after_ms.parse::<u64>().unwrap() <= 120_000);
    assert_eq!(header(&headers, "x-ratelimit-remaining-requests").as_deref(), Some("0"));
    assert_eq!(header(&headers, "x-should-retry"), None, "a retry cures it");
    assert!(error["error"]["message"].as_str().unwrap().contains("tenant 'rpm': 3 requests per minute"), "{error}");

    // 1 100 tokens were used each time, whatever was estimated.
    let tpm = gateway.token("tpm").await;
    for _ in 0..2 {
        assert_eq!(post(&gateway, &tpm, body()).await.0, 200);
    }
    let (status, headers, _) = post(&gateway, &tpm, body()).await;
    assert_eq!((status, header(&headers, "x-ratelimit-remaining-tokens").as_deref()), (429, Some("300")));
    let (status, headers, error) = post(&gateway, &tpm, chat("gpt-4o", r#","max_tokens":5000"#)).await;
    assert_eq!((status, header(&headers, "x-should-retry").as_deref()), (429, Some("false")), "{error}");

    // Three tenths of a cent each; the worst case of one is six tenths.
    let usd = gateway.token("usd").await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(post(&gateway, &usd, body()).await.0);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);

    let limited = NewToken { limits: Limits { requests_per_minute: Some(2), ..Limits::default() }, ..new("none") };
    let (_, limited) = gateway.token_of(&limited).await;
    assert_eq!(post(&gateway, &limited, body()).await.0, 200);
    let (status, _, error) = post(&gateway, &limited, body()).await;
    assert_eq!(status, 429);
    assert!(error["error"]["message"].as_str().unwrap().contains("this token: 2 requests"), "{error}");
    assert_eq!(post(&gateway, &none, body()).await.0, 200, "the tenant's other tokens go on");
    let metrics = gateway.metrics().await;
    assert!(metrics.contains(r#"can_rate_limited_total{limit="requests_per_minute"} 2"#), "{metrics}");
}

/// Ten thousand requests that end in every way there is: their slots and what they reserved come back, all of them.
#[tokio::test(flavor = "multi_thread")]
async fn slots_and_reservations_return_to_zero_after_ten_thousand_requests() {
    const SLOTS: usize = 50;
    let fake = Fake::start(|_, n| match n % 5 {
        0 => Answer { steps: vec![Step::Cut], sized: false, ..Answer::completion() },
        1 => Answer::json(500, "{}"),
        2 => Answer::stream(vec![
            crate::support::fake::send("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"),
            Step::Stall,
        ]),
        3 if n % 100 == 3 => Answer::completion().after(Duration::from_millis(400)),
        _ => Answer::completion(),
    })
    .await;
    let yaml = providers(&[("openai", fake.address)])
        .replace("credentials: mapped", "credentials: mapped, timeouts: {read: 200ms}")
        + &format!(
            "log: {{access: false}}\ntenants: {{default: {{limits: {{concurrent_requests: {SLOTS}}}, budgets: [{{usd: 1000000}}]}}}}\n"
        );
    let gateway = Gateway::start(&yaml);
    let address = gateway.addresses[0];
    let workers: Vec<_> = (0..SLOTS)
        .map(|worker| {
            tokio::spawn(async move {
                for turn in 0..200 {
                    let body = chat("gpt-4o", if turn % 2 == 0 { r#","stream":true"# } else { "" });
                    let mut client = raw::Client::connect(address).await;
                    client.post("/v1/chat/completions", "", body.as_bytes()).await;
                    match (worker + turn) % 4 {
                        // Leaves at once, or after the first bytes, or reads it all.
                        0 => {}
                        1 => drop(tokio::time::timeout(Duration::from_millis(30), client.read_some()).await),
                        _ => drop(tokio::time::timeout(Duration::from_millis(500), client.reply()).await),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    gateway.metrics_with("can_requests_in_flight 0").await;
    gateway.metrics_with(r#"can_budget_usd{part="reserved",period="monthly",tenant="default"} 0"#).await;
    let entries = gateway.query(RECORDED).await;
    println!("{entries} entries");
    assert!(entries > 8_000, "{entries}");
    // All slots are there: as many slow requests at once as there are slots, and not one more.
    let slow = Fake::always(Answer::completion().after(Duration::from_millis(600))).await;
    let text =
        std::fs::read_to_string(&gateway.file).unwrap().replace(&fake.address.to_string(), &slow.address.to_string());
    std::fs::write(&gateway.file, text.replace("read: 200ms", "read: 20s")).unwrap();
    gateway.reloader.reload().unwrap();
    let client = reqwest::Client::new();
    let all: Vec<_> = (0..SLOTS + 10)
        .map(|_| {
            let request = client.post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", ""));
            tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
        })
        .collect();
    let mut statuses = Vec::new();
    for one in all {
        statuses.push(one.await.unwrap());
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((served, statuses.len() - served), (SLOTS, 10), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_headers_go_to_providers_over_those_of_the_provider() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)])
        .replace("credentials: mapped", "credentials: mapped, headers: {x-who: provider, x-a: a}")
        + "tenants:\n  acme: {headers: {x-who: acme, x-b: b}}\n  team: {parent: acme, headers: {x-who: team}}\n";
    let gateway = Gateway::start(&yaml);
    let token = gateway.token("team").await;
    assert_eq!(post(&gateway, &token, chat("gpt-4o", "")).await.0, 200);
    let seen = fake.last();
    let found = ["x-who", "x-a", "x-b"].map(|name| seen.header(name).unwrap().to_owned());
    assert_eq!(found, ["team", "a", "b"]);
}
