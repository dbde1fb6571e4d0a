//! Headers: which of a client's reach a provider and count in the cache, which of a provider's reach a client, CORS, and the
//! names under which the admin listener answers.

use http::HeaderMap;
use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use crate::support::{
    Answer, COMPLETION, Fake, Gateway, Step, chat,
    gateway::providers,
    raw::{Client, Reply},
};

const FIXED: &str = r#","temperature":0"#;

/// A GET or the like with these header lines.
async fn request(client: &mut Client, method: &str, path: &str, headers: &str) -> Reply {
    client.write(format!("{method} {path} HTTP/1.1\r\nhost: gw\r\n{headers}\r\n")).await;
    client.reply().await.unwrap_or_else(|| panic!("{method} {path}: the connection closed"))
}

async fn ask(client: &mut Client, headers: &str, body: &str) -> Reply {
    client.post("/v1/chat/completions", headers, body.as_bytes()).await;
    client.reply().await.expect("an answer")
}

/// Forwarded, and without an effect on an answer; everything else that a provider sees may have one.
fn is_neutral(name: &str) -> bool {
    name.starts_with("x-stainless-")
        || matches!(name, "session_id" | "user-agent" | "traceparent" | "tracestate" | "x-client-request-id")
}

/// Pages of all origins may ask without a token.
const PAGES: &str = "http: {cors: {allow_origins: [\"*\"]}}\n";

/// A provider that lets every header it sees change its answer.
async fn moody() -> Fake {
    Fake::start(|seen, _| {
        let mut said: Vec<_> = seen
            .headers
            .iter()
            .filter(|(name, _)| !is_neutral(name.as_str()))
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        said.sort();
        let mood = blake3::hash(format!("{said:?} {}", seen.path).as_bytes()).to_hex();
        Answer::json(200, &COMPLETION.replace("Hello there friend", &mood))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_changes_an_answer_behind_the_caches_back() {
    let fake = moody().await;
    let yaml = providers(&[("openai", fake.address)])
        .replace("credentials: mapped", "credentials: auto, forward_headers: [X-Custom, x-tone]");
    let gateway = Gateway::start(&(yaml + PAGES));
    let names = [
        "accept",
        "accept-language",
        "accept-encoding",
        "authorization",
        "anthropic-beta",
        "anthropic-version",
        "cache-tag",
        "content-language",
        "cookie",
        "http-referer",
        "idempotency-key",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "origin",
        "originator",
        "prefer",
        "session_id",
        "traceparent",
        "user-agent",
        "version",
        "x-client-request-id",
        "x-codex-beta-features",
        "x-custom",
        "x-forwarded-for",
        "x-request-id",
        "x-simulate",
        "x-stainless-lang",
        "x-title",
        "x-tone",
        "x-unheard-of",
    ];
    let value = prop::sample::select(vec!["a", "b", "Bearer sk-one", "Bearer sk-two"]);
    let lines = prop::collection::vec((prop::sample::select(names.to_vec()), value), 0..4);
    let query = prop::sample::select(vec!["", "?api-version=1", "?api-version=2"]);
    let mut runner = TestRunner::deterministic();
    let mut client = Client::connect(gateway.addresses[0]).await;
    let (body, mut hits) = (chat("gpt-4o", FIXED), 0);
    for _ in 0..400 {
        let (lines, query) = (&lines, &query).new_tree(&mut runner).unwrap().current();
        let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let path = format!("/v1/chat/completions{query}");
        client.post(&path, &format!("{lines}x-chittycan-cache: skip\r\n"), body.as_bytes()).await;
        let truth = client.reply().await.expect("the provider's answer");
        client.post(&path, &lines, body.as_bytes()).await;
        let told = client.reply().await.expect("the gateway's answer");
        assert_eq!((truth.status, told.status), (200, 200), "{lines}");
        let text = |reply: &Reply| reply.json()["choices"][0]["message"]["content"].clone();
        assert_eq!(text(&truth), text(&told), "{query}\n{lines}");
        hits += usize::from(told.header("x-chittycan-cache") == Some("HIT"));
    }
    assert!(hits > 40, "{hits} of 400 from the cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_headers_reach_a_provider() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]).replace("mapped", "mapped, forward_headers: [X-Custom]");
    let gateway = Gateway::start(&(yaml + PAGES));
    let mut client = Client::connect(gateway.addresses[0]).await;
    let disguises = "x-http-method-override: DELETE\r\nx-http-method: DELETE\r\nx-method-override: DELETE\r\n\
                     x-original-url: /v1/organization/users\r\nx-rewrite-url: /v1/organization/users\r\n\
                     x-forwarded-for: 1.2.3.4\r\nx-forwarded-host: evil\r\nx-forwarded-proto: http\r\nforwarded: for=1.2.3.4\r\n\
                     x-real-ip: 1.2.3.4\r\nvia: 1.1 me\r\norigin: https://evil.example\r\nreferer: https://evil.example\r\n\
                     accept-language: fr\r\ncookie: a=b\r\nopenai-organization: org-client\r\nopenai-project: p\r\n\
                     x-unheard-of: 1\r\nx-simulate: 500\r\nconnection: keep-alive, x-unheard-of\r\nte: trailers\r\n";
    let wanted = "user-agent: test/1\r\nopenai-beta: assistants=v2\r\nx-stainless-lang: rust\r\ntraceparent: 00-1-2-03\r\n\
                  x-client-request-id: r1\r\nx-custom: yes\r\nanthropic-beta: not-for-openai\r\n";
    client
        .post(
            "/v1/chat/completions",
            &format!("{disguises}{wanted}accept: text/html\r\n"),
            chat("gpt-4o", "").as_bytes(),
        )
        .await;
    assert_eq!(client.reply().await.unwrap().status, 200);
    let names = |headers: &HeaderMap| headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
    let mut got = names(&fake.last().headers);
    got.sort();
    let understood = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "openai-beta",
        "traceparent",
        "user-agent",
        "x-client-request-id",
        "x-custom",
        "x-stainless-lang",
    ];
    assert_eq!(got, understood);
    assert_eq!(fake.last().header("accept"), Some("application/json"), "its own word for what it reads itself");

    // Paths that are only forwarded need a little more, and get no other disguise through.
    let upload =
        format!("{disguises}{wanted}accept: application/binary\r\nrange: bytes=0-9\r\nif-none-match: \"x\"\r\n");
    let reply = request(&mut client, "GET", "/v1/files/file-1/content", &upload).await;
    assert_eq!(reply.status, 200);
    let seen = fake.last();
    let mut got = names(&seen.headers);
    got.sort();
    let more = ["if-none-match", "range"];
    let mut forwarded: Vec<_> =
        understood.into_iter().filter(|name| !name.starts_with("content-")).chain(more).collect();
    forwarded.sort_unstable();
    assert_eq!(got, forwarded);
    assert_eq!((seen.method.as_str(), seen.header("accept")), ("GET", Some("application/binary")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_names_nothing_of_another_tenant() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(
        &(providers(&[("openai", fake.address)]).replace("mapped", "auto") + "tenants: {a: {}, b: {}}\n"),
    );
    let (a, b) = (gateway.token("a").await, gateway.token("b").await);
    let mut client = Client::connect(gateway.addresses[0]).await;
    let mut seen = Vec::new();
    for credential in [&*a, &*a, &*b, "sk-own"] {
        let headers = format!("authorization: Bearer {credential}\r\nidempotency-key: order-7\r\n");
        assert_eq!(ask(&mut client, &headers, &chat("gpt-4o", "")).await.status, 200);
        seen.push(fake.last().header("idempotency-key").unwrap().to_owned());
    }
    assert_eq!(seen[0], seen[1], "the same tenant may repeat itself");
    assert_ne!(seen[0], seen[2]);
    assert!(!seen[0].contains("order-7"));
    assert_eq!(seen[3], "order-7", "a client's own account has its own keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_adds_is_part_of_the_key() {
    let fake = moody().await;
    let yaml = providers(&[("openai", fake.address)]) + "tenants: {a: {headers: {x-team: one}}}\n";
    let gateway = Gateway::start(&yaml);
    let token = format!("authorization: Bearer {}\r\n", gateway.token("a").await);
    let mut client = Client::connect(gateway.addresses[0]).await;
    let body = chat("gpt-4o", FIXED);
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&gateway.file).unwrap();
        assert!(text.contains(from));
        std::fs::write(&gateway.file, text.replace(from, to)).unwrap();
        gateway.reloader.reload().unwrap();
    };
    let mut texts = Vec::new();
    for (from, to) in [
        ("x-team: one", "x-team: one"),
        ("x-team: one", "x-team: two"),
        ("credentials: mapped", "credentials: mapped, headers: {x-mood: good}"),
        ("x-mood: good", "x-mood: bad"),
        ("x-mood: bad}", "x-mood: bad}, query: api-version=2"),
    ] {
        change(from, to);
        let first = ask(&mut client, &token, &body).await;
        assert_eq!(first.header("x-chittycan-cache"), Some("MISS"), "{to}");
        let again = ask(&mut client, &token, &body).await;
        assert_eq!((again.header("x-chittycan-cache"), &again.body), (Some("HIT"), &first.body), "{to}");
        texts.push(first.body);
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accounts_headers_reach_its_owner_alone() {
    let accounts = [
        "anthropic-organization-id",
        "apim-request-id",
        "azureml-model-session",
        "content-location",
        "link",
        "location",
        "openai-organization",
        "openai-project",
        "operation-location",
        "x-amzn-requestid",
        "x-groq-region",
        "x-ms-region",
    ];
    let limits = ["x-ratelimit-remaining-requests", "anthropic-ratelimit-tokens-remaining"];
    let connections = [
        "set-cookie",
        "alt-svc",
        "server",
        "via",
        "cf-ray",
        "access-control-allow-origin",
        "clear-site-data",
        "x-envoy-upstream-service-time",
    ];
    let mut answer = Answer::completion().header("x-request-id", "req_1").header("openai-processing-ms", "7");
    for name in accounts.iter().chain(&limits).chain(&connections) {
        answer = answer.header(name, "secret-of-the-account");
    }
    let fake = Fake::always(answer).await;
    let yaml = providers(&[("openai", fake.address)]).replace("mapped", "auto") + "tenants: {a: {}}\n";
    let gateway = Gateway::start(&yaml);
    let token = gateway.token("a").await;
    let mut client = Client::connect(gateway.addresses[0]).await;
    for (path, body) in [("/v1/chat/completions", chat("gpt-4o", "")), ("/v1/files", "{}".to_owned())] {
        for (credential, owner) in [(&*token, false), ("sk-own", true)] {
            client.post(path, &format!("authorization: Bearer {credential}\r\n"), body.as_bytes()).await;
            let reply = client.reply().await.unwrap();
            assert_eq!((reply.status, reply.header("x-request-id")), (200, Some("req_1")));
            assert_eq!(reply.header("openai-processing-ms"), Some("7"));
            for name in accounts.iter().chain(&limits) {
                assert_eq!(reply.header(name).is_some(), owner, "{path} {name} {owner}");
            }
            for name in connections {
                assert_eq!(reply.header(name), None, "{path} {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_with_the_gateways_key_leads_nobody_anywhere() {
    for status in [301, 302, 303, 307, 308, 300] {
        let answer = Answer { status, ..Answer::json(200, "see https://signed.example/?sig=secret") };
        let fake = Fake::always(answer.header("location", "https://signed.example/?sig=secret")).await;
        let gateway = Gateway::start(&providers(&[("openai", fake.address)]).replace("mapped", "auto"));
        let mut client = Client::connect(gateway.addresses[0]).await;
        for path in ["/v1/chat/completions", "/v1/audio/speech"] {
            client.post(path, "", chat("gpt-4o", "").as_bytes()).await;
            let reply = client.reply().await.expect("an answer");
            assert_eq!(reply.status, 502, "{path} {status}");
            assert_eq!(reply.json()["error"]["code"], "upstream_unreachable");
            assert!(reply.json()["error"]["message"].as_str().unwrap().contains(&status.to_string()));
            assert_eq!((reply.header("location"), reply.header("x-should-retry")), (None, Some("false")));
            assert!(!String::from_utf8_lossy(&reply.body).contains("secret"));
            client = Client::connect(gateway.addresses[0]).await;
        }
        let own = request(&mut client, "GET", "/v1/files/f/content", "authorization: Bearer sk-own\r\n").await;
        assert_eq!((own.status, own.header("location")), (status, Some("https://signed.example/?sig=secret")));
    }
    // What a client has asked for by itself is no redirect.
    let fake = Fake::always(Answer { status: 304, steps: vec![], ..Answer::json(200, "") }).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    assert_eq!(request(&mut client, "GET", "/v1/files/f/content", "if-none-match: \"x\"\r\n").await.status, 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_reason_to_ask_another_deployment() {
    let moved = Fake::always(Answer { status: 302, ..Answer::json(200, "{}") }.header("location", "/elsewhere")).await;
    let other = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&providers(&[("openai", moved.address), ("openai-2", other.address)]));
    let mut client = Client::connect(gateway.addresses[0]).await;
    let reply = ask(&mut client, "", &chat("gpt-4o", "")).await;
    assert_eq!((reply.status, reply.header("x-chittycan-provider")), (200, Some("openai-2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn options_is_answered_here_on_any_path() {
    let fake = Fake::always(Answer::completion()).await;
    // Nobody is served without a token, and one request a minute is all there is.
    let yaml = providers(&[("openai", fake.address)])
        + "auth: {passthrough: false}\ntenants: {a: {limits: {requests_per_minute: 2}}}\n";
    let gateway = Gateway::start(&yaml);
    let token = gateway.token("a").await;
    let mut client = Client::connect(gateway.addresses[0]).await;
    let preflight = format!(
        "origin: https://app.example.com\r\naccess-control-request-method: POST\r\nauthorization: Bearer {token}\r\n"
    );
    for path in ["/v1/chat/completions", "/v1/organization/users", "/elsewhere", "/v1/files;x", "*"] {
        for headers in ["", &preflight] {
            let reply = request(&mut client, "OPTIONS", path, headers).await;
            assert_eq!(reply.status, 204, "{path}");
            assert!(reply.header("allow").unwrap().contains("POST"));
            assert!(!reply.head.to_ascii_lowercase().contains("access-control-"), "{}", reply.head);
        }
    }
    client.write("OPTIONS /v1/files HTTP/1.1\r\nhost: gw\r\ncontent-length: 4\r\n\r\nbody").await;
    assert_eq!(client.reply().await.unwrap().status, 204);
    let ask = format!("authorization: Bearer {token}\r\norigin: https://app.example.com\r\n");
    let reply = ask_with(&mut client, &ask).await;
    assert_eq!((reply.status, fake.count()), (200, 1), "preflights count in no limit");
    assert!(!reply.head.to_ascii_lowercase().contains("access-control-"));
    assert_eq!(
        gateway.query("SELECT count(*) FROM entries WHERE status = 200 AND endpoint = 'chat_completions'").await,
        1
    );
}

async fn ask_with(client: &mut Client, headers: &str) -> Reply {
    ask(client, headers, &chat("gpt-4o", FIXED)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_may_call_and_read() {
    let fake = Fake::start(|seen, _| {
        let answer = match seen.path.as_str() {
            "/v1/files" => Answer::json(404, r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#),
            _ if seen.json()["stream"] == true => {
                let chunk =
                    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
                Answer::stream(vec![Step::Send(chunk.into())])
            }
            _ => Answer::completion(),
        };
        answer
            .header("access-control-allow-origin", "https://provider.example")
            .header("access-control-allow-credentials", "true")
    })
    .await;
    let cors = "http: {cors: {allow_origins: [\"https://app.example.com\", \"http://localhost:3000\"], max_age: 1h}}\n";
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + cors));
    let mut client = Client::connect(gateway.addresses[0]).await;
    let origin = "origin: https://app.example.com\r\n";
    let asks =
        "access-control-request-method: POST\r\naccess-control-request-headers: authorization,x-stainless-lang\r\n";
    let preflight = request(&mut client, "OPTIONS", "/v1/chat/completions", &format!("{origin}{asks}")).await;
    assert_eq!(preflight.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-headers", "authorization,x-stainless-lang"),
        ("access-control-max-age", "3600"),
    ] {
        assert_eq!(preflight.header(name), Some(value));
    }
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("DELETE"));
    assert!(preflight.header("vary").unwrap().contains("origin"));
    assert_eq!(fake.count(), 0);
    let stranger =
        request(&mut client, "OPTIONS", "/v1/files", &format!("origin: https://evil.example\r\n{asks}")).await;
    assert_eq!((stranger.status, stranger.header("access-control-allow-origin")), (204, None));

    // A miss, a hit, a stream, the gateway's own error, the provider's, and what the gateway answers itself.
    let (plain, stream) = (chat("gpt-4o", FIXED), chat("gpt-4o", r#","stream":true"#));
    for (path, body, status) in [
        ("/v1/chat/completions", plain.as_str(), 200),
        ("/v1/chat/completions", plain.as_str(), 200),
        ("/v1/chat/completions", stream.as_str(), 200),
        ("/v1/chat/completions", "{}", 400),
        ("/v1/files", "{}", 404),
        ("/elsewhere", "{}", 404),
    ] {
        for (origin, allowed) in [(origin, true), ("origin: https://evil.example\r\n", false), ("", false)] {
            client.post(path, origin, body.as_bytes()).await;
            let reply = client.reply().await.expect("an answer");
            // Without a token the gateway's keys are not for pages of others.
            let is_refused = origin.contains("evil") && path.starts_with("/v1/");
            assert_eq!(reply.status, if is_refused { 403 } else { status }, "{path} {body}");
            let expected = allowed.then_some("https://app.example.com");
            assert_eq!(reply.header("access-control-allow-origin"), expected, "{path} {body} {origin}");
            assert_eq!(reply.header("access-control-allow-credentials"), None);
            assert_eq!(reply.header("vary"), Some("origin"));
            let exposed = reply.header("access-control-expose-headers").unwrap_or_default();
            assert_eq!(exposed.contains("x-chittycan-cost") && exposed.contains("retry-after"), allowed);
        }
    }
    let any = Gateway::start(
        &(providers(&[("openai", fake.address)])
            + "http: {cors: {allow_origins: [\"*\"], allow_headers: [Authorization]}}\n"),
    );
    let mut client = Client::connect(any.addresses[0]).await;
    let preflight =
        request(&mut client, "OPTIONS", "/v1/files", &format!("origin: https://anyone.example\r\n{asks}")).await;
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization"));
    let reply = ask_with(&mut client, "origin: https://anyone.example\r\n").await;
    assert_eq!((reply.header("access-control-allow-origin"), reply.header("vary")), (Some("*"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_parameters_or_another_method_in_its_query_goes_nowhere() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    for path in [
        "/v1/files;x=1",
        "/v1/;a/chat/completions",
        "/v1/chat/completions;a",
        "/v1/files%3bx=1",
        "/v1/files%3Bx",
        "/v1;/files",
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let reply = request(&mut client, method, path, "content-length: 0\r\n").await;
            assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &"unknown_url".into()), "{method} {path}");
        }
    }
    for query in ["_method=DELETE", "a=1&_Method=DELETE", "%5fmethod=DELETE", "a;_method=PUT"] {
        for path in ["/v1/files/file-1", "/v1/chat/completions"] {
            client.post(&format!("{path}?{query}"), "", chat("gpt-4o", "").as_bytes()).await;
            let reply = client.reply().await.unwrap();
            assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &"_method".into()), "{path}?{query}");
        }
    }
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_takes_no_header_of_the_account_back() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(stream.read_u8().await.unwrap());
        }
        let reply = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\
                     set-cookie: a=b\r\nopenai-organization: org-1\r\nopenai-version: v1\r\n\r\n";
        stream.write_all(reply.as_bytes()).await.unwrap();
        String::from_utf8(seen).unwrap().to_ascii_lowercase()
    });
    let gateway = Gateway::start(&(providers(&[("openai", address)]) + PAGES));
    let mut client = Client::connect(gateway.addresses[0]).await;
    let offer = "connection: keep-alive, Upgrade, x-evil\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: https://evil.example\r\nx-evil: 1\r\n";
    let reply = request(&mut client, "GET", "/v1/realtime?model=m", offer).await;
    assert_eq!((reply.status, reply.header("openai-version")), (101, Some("v1")));
    assert_eq!((reply.header("set-cookie"), reply.header("openai-organization")), (None, None));
    let seen = seen.await.unwrap();
    assert!(seen.contains("\r\nconnection: upgrade\r\n") && seen.contains("sec-websocket-version: 13"), "{seen}");
    assert!(!seen.contains("evil"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_answers_to_its_own_names_only() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]) + "admin: {address: 127.0.0.1:0, hosts: [Can.Monitoring.svc]}\n";
    let gateway = Gateway::start(&yaml);
    let mut client = Client::connect(gateway.admin).await;
    let port = gateway.admin.port();
    let mut get = async |host: &str, path: &str| {
        client.write(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        client.reply().await.unwrap_or_else(|| panic!("{host}{path}: the connection closed"))
    };
    for host in [
        &*format!("127.0.0.1:{port}"),
        "10.1.2.3",
        "[::1]:8081",
        "localhost",
        "can.monitoring.svc:8081",
        "CAN.MONITORING.SVC.",
    ] {
        assert_eq!(get(host, "/metrics").await.status, 200, "{host}");
        assert_eq!(get(host, "/api/v1/tokens").await.status, 401, "{host}");
    }
    for host in
        ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8081", "can.monitoring.svc.evil.example"]
    {
        for path in ["/metrics", "/api/v1/tokens", "/api/v1/health", "/api/openapi.json", "/nothing"] {
            let reply = get(host, path).await;
            assert_eq!((reply.status, &reply.json()["error"]["code"]), (421, &"unknown_host".into()), "{host} {path}");
            assert!(reply.json()["error"]["message"].as_str().unwrap().contains("admin.hosts"));
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(get(host, path).await.status, 200, "a probe may use any name");
        }
    }
    let reply = get("127.0.0.1\r\nhost: evil.example", "/metrics").await;
    assert_ne!(reply.status, 200, "no second name beside a known one");
    let mut client = Client::connect(gateway.admin).await;
    client.write("GET http://evil.example/metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
    assert_ne!(client.reply().await.unwrap().status, 200, "nor one in the request line");
}
