//! The ledger's size: whoever is refused, however often, fills no disk, and every report still counts it.

use std::{path::Path, time::Instant};

use crate::support::{Answer, Fake, Gateway, chat, gateway::providers};

/// Bytes of the database with its write-ahead log.
fn size(database: &Path) -> u64 {
    let wal = database.with_file_name("can.db-wal");
    [database, &wal].iter().filter_map(|file| std::fs::metadata(file).ok()).map(|facts| facts.len()).sum()
}

/// Sends `n` requests on some kept connections; returns how many got `status`.
async fn hammer(gateway: &Gateway, token: &str, n: usize, body: &str, status: u16) -> usize {
    let client = reqwest::Client::new();
    let (url, token, body) = (gateway.url("/v1/chat/completions"), token.to_owned(), body.to_owned());
    let lanes = (0..16).map(|lane| {
        let (client, url, token, body) = (client.clone(), url.clone(), token.clone(), body.clone());
        tokio::spawn(async move {
            let mut got = 0;
            for _ in (lane..n).step_by(16) {
                let reply = client.post(&url).bearer_auth(&token).body(body.clone()).send().await.unwrap();
                got += usize::from(reply.status().as_u16() == status);
                reply.bytes().await.unwrap();
            }
            got
        })
    });
    futures::future::join_all(lanes).await.into_iter().map(Result::unwrap).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refusals_are_a_few_rows_and_all_are_counted() {
    const N: usize = 20_000;
    let fake = Fake::always(Answer::completion()).await;
    let yaml = format!(
        "{}tenants: {{team: {{limits: {{requests_per_minute: 3}}}}}}\n",
        providers(&[("openai", fake.address)])
    );
    let gateway = Gateway::start(&yaml);
    let token = gateway.token("team").await;
    let client = reqwest::Client::new();
    let reply = client.post(gateway.url("/v1/chat/completions")).bearer_auth(&token).body(chat("gpt-4o", ""));
    assert_eq!(reply.send().await.unwrap().status(), 200);
    let rows = gateway.query("SELECT count(*) FROM entries").await;
    let before = size(&gateway.database());

    let begun = Instant::now();
    let refused = hammer(&gateway, &token, N, &chat("gpt-4o", ""), 429).await;
    let minutes = begun.elapsed().as_secs() / 60 + 2;
    let served = N - refused;
    let entries = gateway.query("SELECT count(*) FROM entries").await - rows;
    assert_eq!(usize::try_from(entries).unwrap(), served, "only what a provider answered has a row");
    let counted = gateway.query("SELECT sum(count) FROM refusals WHERE status = 429 AND tenant = 'team'").await;
    assert_eq!(usize::try_from(counted).unwrap(), refused);
    let kinds = gateway.query("SELECT count(*) FROM refusals").await;
    assert!(u64::try_from(kinds).unwrap() <= 4 * minutes, "{kinds} rows in {minutes} minutes");
    // Up to a thousand pages of it are write-ahead log, which does not grow further.
    let grown = size(&gateway.database()) - before;
    assert!(grown < 5_000_000, "{grown} bytes for {N} refusals");

    // Every one of them is in the reports.
    let session = chittycan::store::sqlite::at(&gateway.database()).connect_to_read().unwrap();
    let now = chittycan::types::unix_now() + 1;
    let summary = chittycan::ledger::report::summary(&*session, Some(&"team".into()), 0, now).unwrap();
    assert_eq!(usize::try_from(summary.requests).unwrap(), N + 1);
    let days = chittycan::ledger::report::costs(&*session, Some(&"team".into()), now - 86_400_000, now).unwrap();
    assert!(days.iter().map(|day| day.calls).sum::<u64>() > N as u64);
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(&format!("can_rate_limited_total{{limit=\"requests_per_minute\"}} {refused}")),
        "{metrics}"
    );
    let written: u64 =
        metrics.lines().find_map(|line| line.strip_prefix("can_ledger_entries_total ")).unwrap().parse().unwrap();
    assert!(written > N as u64, "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_many_kinds_stay_few_rows_too() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = format!("{}tenants: {{team: {{models: [gpt-4o]}}}}\n", providers(&[("openai", fake.address)]));
    let gateway = Gateway::start(&yaml);
    let token = gateway.token("team").await;
    // What the client chooses (models, paths) is no part of a row.
    for n in 0..200 {
        let client = reqwest::Client::new();
        let reply = client.post(gateway.url("/v1/chat/completions")).bearer_auth(&token);
        let reply = reply.body(chat(&format!("model-{n}"), "")).send().await.unwrap();
        assert!(reply.status().is_client_error(), "{}", reply.status());
        let reply = client.post(gateway.url(&format!("/v1/strange/{n}"))).bearer_auth(&token).body("{").send().await;
        assert!(reply.unwrap().status().is_client_error());
        let listing = client.get(gateway.url("/v1/models")).bearer_auth(&token).send().await.unwrap();
        assert_eq!(listing.status(), 200);
    }
    assert!(gateway.query("SELECT sum(count) FROM refusals").await >= 600);
    assert!(gateway.query("SELECT count(*) FROM refusals").await < 30);
    assert_eq!(gateway.query("SELECT count(*) FROM entries").await, 0);
    assert_eq!(fake.count(), 0, "no provider was asked");
}
