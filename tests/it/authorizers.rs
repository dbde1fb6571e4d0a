//! Authorizers: one that fetches its token anew before it expires and signs each request whole, as an implementation beside the
//! product's own constant keys would.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use chittycan::routing::{Authorizer, NoCredential};
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue, request};
use tokio::sync::Notify;

use crate::support::{Answer, Fake, Gateway, chat};

/// A token that serves two attempts, and a signature over method, path, host and body.
#[derive(Default)]
struct Signer {
    /// Attempts that the token still serves.
    left: AtomicUsize,
    fetched: AtomicUsize,
    /// There is no token to be had.
    is_down: AtomicBool,
    /// Fetches wait for a word.
    holds: AtomicBool,
    held: Notify,
    go: Notify,
}

const SERVES: usize = 2;

fn signature(method: &str, path: &str, host: &str, body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [method.as_bytes(), path.as_bytes(), host.as_bytes(), body] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().to_hex().to_string()
}

impl Authorizer for Signer {
    fn ready(&self) -> Option<BoxFuture<'_, Result<(), NoCredential>>> {
        let spent = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spent).is_ok() {
            return None;
        }
        Some(Box::pin(async {
            if self.holds.load(Ordering::SeqCst) {
                self.held.notify_one();
                self.go.notified().await;
            }
            if self.is_down.load(Ordering::SeqCst) {
                return Err(NoCredential("the issuer is down".into()));
            }
            self.fetched.fetch_add(1, Ordering::SeqCst);
            self.left.store(SERVES - 1, Ordering::SeqCst);
            Ok(())
        }))
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let token = format!("Bearer token-{}", self.fetched.load(Ordering::SeqCst));
        Some((http::header::AUTHORIZATION, HeaderValue::try_from(token).unwrap()))
    }

    fn sign(&self, head: &mut request::Parts, body: Option<&Bytes>) -> Result<(), NoCredential> {
        let body = body.ok_or_else(|| NoCredential("a body that streams cannot be signed".into()))?;
        let host = head.headers[http::header::HOST].to_str().unwrap();
        let signed = signature(head.method.as_str(), head.uri.path(), host, body);
        head.headers.insert("x-signature", HeaderValue::try_from(signed).unwrap());
        Ok(())
    }
}

/// Two providers at one address. Neither has a key: an authorizer is all that the first one has.
fn yaml(fake: &Fake) -> String {
    let entry = |name: &str| format!("{name}: {{base_url: \"http://{}/v1\", credentials: mapped}}", fake.address);
    format!(
        "providers: {{{}, {}}}\nroutes: [{{model: m, to: [signed/the-model, backup/the-model]}}]\n",
        entry("signed"),
        entry("backup")
    )
}

async fn ask(gateway: &Gateway) -> (u16, String) {
    let url = gateway.url("/v1/chat/completions");
    let reply = reqwest::Client::new().post(url).body(chat("m", "")).send().await.unwrap();
    let provider = reply.headers().get("x-chittycan-provider").map(|name| name.to_str().unwrap().to_owned());
    (reply.status().as_u16(), provider.unwrap_or_default())
}

#[tokio::test]
async fn each_request_is_signed_as_it_leaves_and_a_token_is_fetched_before_it_expires() {
    let fake = Fake::always(Answer::completion()).await;
    let signer = Arc::new(Signer::default());
    let gateway = Gateway::start_authorized(&yaml(&fake), "signed", signer.clone());
    for turn in 0..5 {
        assert_eq!(ask(&gateway).await, (200, "signed".to_owned()));
        let seen = fake.last();
        let token = format!("Bearer token-{}", turn / SERVES + 1);
        assert_eq!(seen.header("authorization"), Some(token.as_str()));
        let (host, body) = (seen.header("host").unwrap(), &seen.body[..]);
        assert_eq!(seen.header("x-signature").unwrap(), signature(seen.method.as_str(), &seen.path, host, body));
        assert_eq!(seen.json()["model"], "the-model", "what the provider gets is signed, not what the client sent");
    }
    assert_eq!(signer.fetched.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn without_a_credential_the_next_deployment_is_asked() {
    let fake = Fake::always(Answer::completion()).await;
    let signer = Arc::new(Signer::default());
    signer.is_down.store(true, Ordering::SeqCst);
    let gateway = Gateway::start_authorized(&yaml(&fake), "signed", signer.clone());
    assert_eq!(ask(&gateway).await, (200, "backup".to_owned()));
    assert_eq!((fake.count(), fake.last().header("authorization")), (1, None), "nothing went out without one");
    signer.is_down.store(false, Ordering::SeqCst);
    assert_eq!(ask(&gateway).await, (200, "signed".to_owned()));
}

#[tokio::test]
async fn a_client_that_leaves_while_a_token_is_fetched_asks_no_provider() {
    let fake = Fake::always(Answer::completion()).await;
    let signer = Arc::new(Signer::default());
    signer.holds.store(true, Ordering::SeqCst);
    let gateway = Gateway::start_authorized(&yaml(&fake), "signed", signer.clone());
    let asking = tokio::spawn({
        let url = gateway.url("/v1/chat/completions");
        async move { reqwest::Client::new().post(url).body(chat("m", "")).send().await }
    });
    signer.held.notified().await;
    asking.abort();
    gateway.metrics_with("can_requests_in_flight 0").await;
    signer.go.notify_one();
    assert_eq!(fake.count(), 0);
}

#[tokio::test]
async fn what_streams_up_and_cannot_be_signed_is_not_sent() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = format!("{}default_provider: signed\n", yaml(&fake));
    let gateway = Gateway::start_authorized(&yaml, "signed", Arc::new(Signer::default()));
    let upload = reqwest::Client::new().post(gateway.url("/v1/audio/speech")).body("x");
    assert_eq!(upload.send().await.unwrap().status().as_u16(), 500);
    assert_eq!(fake.count(), 0);
}
