//! Money that is only reserved: a reload changes budgets around it, and what it holds comes free in seconds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::Notify;

use crate::support::{Answer, COMPLETION, Fake, Gateway, Step, chat, fake::send, gateway::providers, raw};

/// The completion's usage at gpt-4o's price.
const COST: f64 = 0.003;

async fn ask(gateway: &Gateway, extra: &str) -> (u16, http::HeaderMap, Value) {
    let url = gateway.url("/v1/chat/completions");
    let reply = reqwest::Client::new().post(url).body(chat("gpt-4o", extra)).send().await.unwrap();
    let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
    (status, headers, reply.json().await.unwrap_or_default())
}

fn rewrite(gateway: &Gateway, from: &str, to: &str) {
    let text = std::fs::read_to_string(&gateway.file).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(&gateway.file, text.replace(from, to)).unwrap();
    gateway.reloader.reload().unwrap();
}

/// With a budget of a dollar an attacker who may trigger reloads (a ConfigMap that flaps) opens requests, has the budget
/// taken out and put back, and opens more.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_goes_and_returns_is_not_granted_twice() {
    let told = Arc::new(Notify::new());
    let slow = Answer { steps: vec![Step::Until(told.clone()), send(COMPLETION)], ..Answer::completion() };
    let fake = Fake::start(move |seen, _| match seen.json()["stop"].as_str() {
        Some("slow") => slow.clone(),
        _ => Answer::completion(),
    })
    .await;
    let monthly = "tenants: {default: {budgets: [{usd: 0.1}]}}";
    let gateway =
        Gateway::start(&format!("{}{monthly}\nbudgets: {{wait: 0s}}\n", providers(&[("openai", fake.address)])));
    for _ in 0..5 {
        assert_eq!(ask(&gateway, r#","max_tokens":100"#).await.0, 200);
    }
    // Each holds about six cents: one fits beside what is spent, a second one does not.
    let slow = || ask(&gateway, r#","stop":"slow","max_tokens":6000"#);
    let holder = async {
        let begun = Instant::now();
        while fake.count() < 6 {
            assert!(begun.elapsed() < Duration::from_secs(2), "the slow request is not under way");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let variants = [
            "tenants: {default: {}}",
            monthly,
            "tenants: {default: {budgets: [{usd: 0.1, timezone: Asia/Tokyo}]}}",
            "tenants: {default: {budgets: [{usd: 0.1, period: total}]}}",
            "tenants: {default: {budgets: [{usd: 0.1, hard: false}]}}",
            monthly,
        ];
        for pair in variants.windows(2) {
            if pair[0] == variants[0] {
                rewrite(&gateway, monthly, variants[0]);
            }
            rewrite(&gateway, pair[0], pair[1]);
            let metrics = gateway.metrics().await;
            let of = |part: &str| -> f64 {
                let line = metrics.lines().find(|line| line.starts_with(&format!("can_budget_usd{{part=\"{part}\"")));
                line.unwrap_or_else(|| panic!("{metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
            };
            assert!((of("spent") - 5.0 * COST).abs() < 1e-9, "{}: {metrics}", pair[1]);
            assert!(of("reserved") > 0.06, "{}: {metrics}", pair[1]);
            if !pair[1].contains("hard: false") {
                assert_eq!(slow().await.0, 429, "{}: it was granted again", pair[1]);
            }
        }
        told.notify_one();
    };
    let (first, ()) = tokio::join!(slow(), holder);
    assert_eq!(first.0, 200);
    gateway.metrics_with(r#"can_budget_usd{part="reserved",period="monthly",tenant="default"} 0"#).await;
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, 6 * 3_000_000);
    gateway.metrics_with(r#"can_budget_usd{part="spent",period="monthly",tenant="default"} 0.018"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_is_only_held_is_waited_for_and_402_means_gone() {
    let fake = Fake::start(|_, _| Answer::completion().after(Duration::from_millis(150))).await;
    let yaml = providers(&[("openai", fake.address)]) + "tenants: {default: {budgets: [{usd: 2}]}}\n";
    let gateway = Gateway::start(&yaml);
    // Without max_tokens each holds sixteen cents: twelve fit at once, and all of them can be paid.
    let all = futures::future::join_all((0..60).map(|_| ask(&gateway, ""))).await;
    let served = all.iter().filter(|(status, ..)| *status == 200).count();
    assert_eq!(served, 60, "{:?}", all.iter().find(|(status, ..)| *status != 200));
    gateway.metrics_with(r#"can_budget_usd{part="reserved",period="monthly",tenant="default"} 0"#).await;

    // Who has waited for long enough is told to come back, not that the money is gone.
    let slow = Fake::always(Answer::completion().after(Duration::from_millis(1_500))).await;
    rewrite(&gateway, &fake.address.to_string(), &slow.address.to_string());
    rewrite(&gateway, "budgets: [{usd: 2}]}}", "budgets: [{usd: 2}]}}\nbudgets: {wait: 200ms}");
    let all = futures::future::join_all((0..20).map(|_| ask(&gateway, ""))).await;
    let mut refused = 0;
    for (status, headers, body) in &all {
        if *status == 200 {
            continue;
        }
        refused += 1;
        assert_eq!((*status, &body["error"]["code"]), (429, &"budget_held".into()), "{body}");
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(headers["retry-after"], "1");
        assert_eq!(headers.get("x-should-retry"), None, "a retry cures it");
        assert_eq!(body["error"]["budget"]["limit_usd"], "2");
    }
    assert!((1..20).contains(&refused), "{refused} of 20");
    gateway.metrics_with(&format!("can_budget_held_total {refused}")).await;
    // More than what is not spent is refused at once, and for good.
    let begun = Instant::now();
    let (status, headers, body) = ask(&gateway, r#","n":12"#).await;
    assert_eq!((status, &body["error"]["code"]), (402, &"budget_exceeded".into()), "{body}");
    assert_eq!(headers["x-should-retry"], "false");
    assert!(begun.elapsed() < Duration::from_millis(190), "{:?}", begun.elapsed());
}

/// A limit of the route or the tenant is asked for in the client's place, so that a budget need not hold the longest answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_states_no_limit_gets_that_of_its_route_or_tenant() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]).replace("to: [openai]", "to: [openai], default_max_tokens: 300")
        + "tenants: {default: {default_max_tokens: 500, budgets: [{usd: 0.1}]}}\n";
    let gateway = Gateway::start(&yaml);
    let asked = async |path: &str, body: String| {
        let reply = reqwest::Client::new().post(gateway.url(path)).body(body).send().await.unwrap();
        (reply.status().as_u16(), fake.last().json())
    };
    let (status, seen) = asked("/v1/chat/completions", chat("gpt-4o", "")).await;
    assert_eq!(
        (status, &seen["max_completion_tokens"]),
        (200, &300.into()),
        "the smaller one holds, and the budget has it"
    );
    let (_, seen) = asked("/v1/chat/completions", chat("gpt-4o", r#","max_tokens":7"#)).await;
    assert_eq!((&seen["max_tokens"], &seen["max_completion_tokens"]), (&7.into(), &Value::Null));
    let (_, seen) = asked("/v1/responses", r#"{"model":"gpt-4o","input":"hi","max_output_tokens":null}"#.into()).await;
    assert_eq!(seen["max_output_tokens"], 300);
    let (_, seen) = asked("/v1/chat/completions", chat("gpt-4o-mini", "")).await;
    assert_eq!(seen["max_completion_tokens"], 500, "no route of ours names it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_its_place_in_the_line_asks_no_provider() {
    let fake = Fake::start(|_, _| Answer::completion().after(Duration::from_millis(600))).await;
    let yaml =
        providers(&[("openai", fake.address)]) + "tenants: {default: {budgets: [{usd: 0.2}]}}\nbudgets: {wait: 30s}\n";
    let gateway = Gateway::start(&yaml);
    let first = tokio::spawn({
        let url = gateway.url("/v1/chat/completions");
        async move { reqwest::Client::new().post(url).body(chat("gpt-4o", "")).send().await.unwrap().status() }
    });
    let begun = Instant::now();
    while fake.count() < 1 {
        assert!(begun.elapsed() < Duration::from_secs(2), "the first is not under way");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut client = raw::Client::connect(gateway.addresses[0]).await;
    client.post("/v1/chat/completions", "", chat("gpt-4o", "").as_bytes()).await;
    gateway.metrics_with("can_requests_in_flight 2").await;
    drop(client);
    gateway.metrics_with("can_requests_in_flight 1").await;
    assert_eq!(first.await.unwrap().as_u16(), 200);
    assert_eq!(gateway.query("SELECT sum(count) FROM refusals WHERE status = 499").await, 1);
    assert_eq!(fake.count(), 1);
}
