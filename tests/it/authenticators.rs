//! Authenticators: a made-up kind of credential, `acme_…`, is read on both listeners as an implementation beside the product's own
//! tokens would be: it looks the credential up somewhere, and says who it is.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chittycan::{
    config::Limits,
    identity::{Authenticated, Authentication, Authenticator, Identity, PATIENCE, Refused, Scope},
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::support::{Answer, Fake, Gateway, chat, gateway::providers, raw::Client, reads_well};

/// Knows a few people, each time after a wait, and makes each answer anew.
#[derive(Default)]
struct Acme {
    asked: AtomicUsize,
    /// Somebody waits for the verdict on `acme_held`.
    held: Notify,
    go: Notify,
}

impl Acme {
    async fn look_up(&self, presented: &str) -> Authenticated {
        tokio::task::yield_now().await;
        self.asked.fetch_add(1, Ordering::SeqCst);
        let name = presented.strip_prefix("acme_").expect("only what is claimed");
        let who = |tenant: &str| Identity::issued("acme", name, tenant.into()).ok_or(Refused::Unknown);
        let mut who = match name {
            "alice" | "root" | "reader" | "slow" | "picky" => who("team")?,
            "held" => {
                self.held.notify_one();
                self.go.notified().await;
                who("team")?
            }
            "lost" => who("nowhere")?,
            "expired" => return Err(Refused::Expired),
            "revoked" => return Err(Refused::Revoked),
            "hangs" => pending().await,
            _ => return Err(Refused::Unknown),
        };
        match name {
            "root" => who.scopes = Scope::ALL.into_iter().collect(),
            "reader" => who.scopes = [Scope::AiRead].into_iter().collect(),
            "slow" => who.limits = Limits { requests_per_minute: Some(2), ..Limits::default() },
            "picky" => who.models = vec!["other*".into()],
            _ => {}
        }
        Ok(Arc::new(who))
    }
}

impl Authenticator for Acme {
    fn claims(&self, presented: &str) -> bool {
        presented.starts_with("acme_")
    }

    fn authenticate<'a>(&'a self, presented: &'a str) -> Authentication<'a> {
        Authentication::Waits(Box::pin(self.look_up(presented)))
    }
}

/// One provider that takes clients' own keys in this way.
fn yaml(fake: &Fake, mode: &str) -> String {
    providers(&[("openai", fake.address)]).replace("credentials: mapped", &format!("credentials: {mode}"))
        + "tenants: {team: {}}\n"
}

struct Got {
    status: u16,
    body: Value,
}

async fn send(url: String, body: Option<String>, headers: &[(&str, &str)]) -> Got {
    let client = reqwest::Client::new();
    let request = match body {
        Some(body) => client.post(url).header("content-type", "application/json").body(body),
        None => client.get(url),
    };
    let reply =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap();
    Got { status: reply.status().as_u16(), body: reply.json().await.unwrap_or_default() }
}

async fn ask(gateway: &Gateway, who: &str) -> Got {
    send(gateway.url("/v1/chat/completions"), Some(chat("gpt-4o", "")), &[("authorization", &format!("Bearer {who}"))])
        .await
}

async fn admin(gateway: &Gateway, header: &str, value: &str) -> Got {
    send(format!("http://{}/api/v1/tokens", gateway.admin), None, &[(header, value)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_known_asks_as_its_tenant_and_its_credential_stays_here() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start_authenticated(&yaml(&fake, "auto"), Arc::new(Acme::default()));
    let url = || gateway.url("/v1/chat/completions");
    for header in [("authorization", "Bearer acme_alice"), ("x-api-key", "acme_alice"), ("api-key", "acme_alice")] {
        assert_eq!(send(url(), Some(chat("gpt-4o", "")), &[header]).await.status, 200, "{header:?}");
        assert_eq!(fake.last().header("authorization"), Some("Bearer sk-gateway"));
    }
    // A key of its own beside it goes where such keys go.
    let both = [("authorization", "Bearer sk-own"), ("x-api-key", "acme_alice")];
    assert_eq!(send(url(), Some(chat("gpt-4o", "")), &both).await.status, 200);
    assert_eq!(fake.last().header("authorization"), Some("Bearer sk-own"));
    let entries = "SELECT count(*) FROM entries WHERE tenant = 'team' AND token = 'acme:alice' AND status = 200";
    assert_eq!(gateway.query(entries).await, 4);
    let mut socket = Client::connect(gateway.addresses[0]).await;
    socket
        .write(
            "GET /v1/realtime?model=m HTTP/1.1\r\nhost: gw\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: realtime, openai-insecure-api-key.acme_alice\r\n\r\n",
        )
        .await;
    socket.reply().await.expect("an answer");
    assert_eq!(fake.last().header("sec-websocket-protocol"), Some("realtime"));
    for seen in fake.seen() {
        assert!(!format!("{seen:?}").contains("acme_"), "{seen:?}");
    }
    // What it may do holds, whoever says so.
    let models = send(gateway.url("/v1/models"), None, &[("x-api-key", "acme_reader")]).await;
    assert_eq!(models.status, 200);
    let (reader, picky) = (ask(&gateway, "acme_reader").await, ask(&gateway, "acme_picky").await);
    assert_eq!((reader.status, &reader.body["error"]["code"]), (403, &"missing_scope".into()));
    assert_eq!((picky.status, &picky.body["error"]["code"]), (403, &"model_not_allowed".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_a_reload_change_nothing_about_it_and_strangers_are_told_apart() {
    let fake = Fake::always(Answer::completion()).await;
    // Everybody would be one tenant, and there is no token.
    let plain = providers(&[("openai", fake.address)]).replace("credentials: mapped", "credentials: auto");
    let gateway = Gateway::start_authenticated(&plain.clone(), Arc::new(Acme::default()));
    let stranger = send(gateway.url("/v1/chat/completions"), Some(chat("gpt-4o", "")), &[]).await;
    assert_eq!((stranger.status, fake.count()), (401, 0), "{}", stranger.body);
    let lost = ask(&gateway, "acme_alice").await;
    assert_eq!((lost.status, &lost.body["error"]["code"]), (403, &"unknown_tenant".into()), "there is no team yet");
    let text = std::fs::read_to_string(&gateway.file).unwrap() + "tenants: {team: {}}\n";
    std::fs::write(&gateway.file, text).unwrap();
    gateway.reloader.reload().unwrap();
    assert_eq!(ask(&gateway, "acme_alice").await.status, 200);
    let token = gateway.token("team").await;
    assert_eq!((ask(&gateway, &token).await.status, ask(&gateway, "chitty_strange").await.status), (200, 401));
    assert_eq!(fake.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_credential_goes_nowhere_also_where_it_is_refused() {
    let fake = Fake::always(Answer::completion()).await;
    for mode in ["auto", "passthrough", "mapped"] {
        let gateway = Gateway::start_authenticated(&yaml(&fake, mode), Arc::new(Acme::default()));
        let refused = [
            ("acme_expired", 401, "invalid_api_key", "expired"),
            ("acme_revoked", 401, "invalid_api_key", "revoked"),
            ("acme_nobody", 401, "invalid_api_key", "not one of this gateway's"),
            ("acme_", 401, "invalid_api_key", "not one of this gateway's"),
            ("acme_lost", 403, "unknown_tenant", "nowhere"),
        ];
        let paths = [
            ("/v1/chat/completions", Some(chat("gpt-4o", ""))),
            ("/v1/responses", Some(r#"{"model":"gpt-4o","input":"x"}"#.to_owned())),
            ("/v1/files", None),
            ("/v1/files", Some("x".to_owned())),
            ("/v1/realtime?model=m", None),
            ("/v1/models", None),
            ("/v1/cache/invalidate", Some(r#"{"all":true}"#.to_owned())),
        ];
        for (who, status, code, word) in refused {
            let bearer = format!("Bearer {who}");
            for (path, body) in &paths {
                for headers in [
                    &[("authorization", &*bearer)][..],
                    &[("x-api-key", who)],
                    // A key that would do does not take its place.
                    &[("authorization", "Bearer sk-own"), ("x-api-key", who)],
                    &[("authorization", &*bearer), ("api-key", "sk-own")],
                    &[("authorization", &*bearer), ("connection", "upgrade"), ("upgrade", "websocket")],
                ] {
                    let got = send(gateway.url(path), body.clone(), headers).await;
                    let what = format!("{mode} {path} {headers:?}: {} {}", got.status, got.body);
                    assert_eq!(
                        (got.status, &got.body["error"]["code"], fake.count()),
                        (status, &code.into(), 0),
                        "{what}"
                    );
                    let message = got.body["error"]["message"].as_str().unwrap();
                    assert!(message.contains(word) && !message.contains("acme_") && reads_well(&got.body), "{what}");
                }
            }
            let body = r#"{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#;
            let got = send(gateway.url("/v1/messages"), Some(body.into()), &[("x-api-key", who)]).await;
            assert_eq!((got.status, &got.body["type"], fake.count()), (status, &"error".into(), 0), "{}", got.body);
        }
    }
    // Without the authenticator it would have been a key, and under `auto` none that goes to OpenAI.
    let gateway = Gateway::start(&yaml(&fake, "passthrough"));
    assert_eq!((ask(&gateway, "acme_alice").await.status, fake.count()), (401, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_asks_the_same_authenticators() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start_authenticated(&yaml(&fake, "auto"), Arc::new(Acme::default()));
    assert_eq!(admin(&gateway, "authorization", "Bearer acme_root").await.status, 200);
    assert_eq!(admin(&gateway, "x-api-key", "acme_root").await.status, 200);
    let url = format!("http://{}/api/v1/tokens", gateway.admin);
    let made = send(url, Some(r#"{"tenant":"team"}"#.into()), &[("x-api-key", "acme_root")]).await;
    assert_eq!((made.status, &made.body["token"]["tenant"]), (201, &"team".into()), "{}", made.body);
    for (header, value, status, code) in [
        ("authorization", "Bearer acme_alice", 403, "missing_scope"),
        ("authorization", "Bearer acme_expired", 401, "invalid_api_key"),
        ("x-api-key", "acme_nobody", 401, "invalid_api_key"),
        // No place of this API, and no credential that anybody claims.
        ("api-key", "acme_root", 401, "invalid_api_key"),
        ("x-api-key", "sk-own", 401, "invalid_api_key"),
        ("authorization", "Bearer ACME_root", 401, "invalid_api_key"),
    ] {
        let got = admin(&gateway, header, value).await;
        assert_eq!((got.status, &got.body["error"]["code"]), (status, &code.into()), "{value}: {}", got.body);
    }
    // An admin of theirs may purge what any tenant has paid for, over the client API too.
    let purge = Some(r#"{"tenant":"team"}"#.to_owned());
    let got = send(gateway.url("/v1/cache/invalidate"), purge, &[("x-api-key", "acme_root")]).await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_holds_nobody_for_long_and_lets_nobody_in() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start_authenticated(&yaml(&fake, "auto"), Arc::new(Acme::default()));
    let begun = Instant::now();
    let anthropic = r#"{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#;
    let own = [("x-api-key", "acme_hangs"), ("authorization", "Bearer sk-own")];
    let (chat, messages, files, both, root, other) = tokio::join!(
        ask(&gateway, "acme_hangs"),
        send(gateway.url("/v1/messages"), Some(anthropic.into()), &[("x-api-key", "acme_hangs")]),
        send(gateway.url("/v1/files"), Some("x".into()), &[("x-api-key", "acme_hangs")]),
        send(gateway.url("/v1/chat/completions"), Some(chat("gpt-4o", "")), &own),
        admin(&gateway, "authorization", "Bearer acme_hangs"),
        async {
            let got = ask(&gateway, "acme_alice").await;
            (got.status, begun.elapsed())
        },
    );
    assert!(begun.elapsed() < PATIENCE + Duration::from_secs(5), "{:?}", begun.elapsed());
    for got in [&chat, &files, &both] {
        assert_eq!((got.status, &got.body["error"]["code"]), (503, &"identity_unavailable".into()), "{}", got.body);
        assert!(reads_well(&got.body));
    }
    assert_eq!((messages.status, &messages.body["type"]), (503, &"error".into()), "{}", messages.body);
    assert_eq!((root.status, &root.body["error"]["code"]), (503, &"identity_unavailable".into()), "{}", root.body);
    assert!(other.0 == 200 && other.1 < PATIENCE, "others wait for nobody: {other:?}");
    assert_eq!(fake.count(), 1, "only the one who is known was served");
    gateway.metrics_with("can_requests_in_flight 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_its_verdict_before_anything_is_asked() {
    let fake = Fake::always(Answer::completion()).await;
    let acme = Arc::new(Acme::default());
    let gateway = Gateway::start_authenticated(&yaml(&fake, "auto"), acme.clone());
    let waits = async {
        acme.held.notified().await;
        assert_eq!(fake.count(), 0);
        acme.go.notify_one();
    };
    let (got, ()) = tokio::join!(ask(&gateway, "acme_held"), waits);
    assert_eq!((got.status, fake.count(), acme.asked.load(Ordering::SeqCst)), (200, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_counted_for_each_identity_although_each_answer_is_made_anew() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start_authenticated(&yaml(&fake, "auto"), Arc::new(Acme::default()));
    for status in [200, 200, 429] {
        let got = ask(&gateway, "acme_slow").await;
        assert_eq!(got.status, status, "{}", got.body);
        if status == 429 {
            assert!(got.body["error"]["message"].as_str().unwrap().contains("this caller"), "{}", got.body);
        }
    }
    assert_eq!(ask(&gateway, "acme_alice").await.status, 200, "others of the tenant have their own");
    gateway.reloader.reload().unwrap();
    assert_eq!(ask(&gateway, "acme_slow").await.status, 429, "a reload gives nothing back");
}
