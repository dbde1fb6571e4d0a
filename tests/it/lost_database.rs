//! The database file is deleted or replaced under a running gateway: it is noticed and said, and nothing that holds is forgotten.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use chittycan::{
    identity::{NewToken, Token, Tokens},
    store::sqlite,
};
use nix::sys::signal::Signal;

use crate::support::{
    Answer, Fake, Gateway, chat,
    gateway::{new_token, providers},
    process::{Process, free_port},
};

/// What one of the fake's replies costs, in billionths of a dollar.
const COST: i64 = 3_000_000;

/// A budget that the third reply fits into, and the fourth does not: the worst case of each is just below $0.004.
fn yaml(fake: &Fake) -> String {
    format!(
        "{}tenants: {{team: {{budgets: [{{usd: 0.0105, period: monthly}}, {{usd: 1, period: daily, timezone: Asia/Tokyo}}]}}, other: {{}}}}\n",
        providers(&[("openai", fake.address)])
    )
}

async fn ask(url: &str, token: &str) -> u16 {
    let body = chat("gpt-4o", r#","max_tokens":100"#);
    let reply = reqwest::Client::new().post(format!("{url}/v1/chat/completions")).bearer_auth(token).body(body);
    reply.send().await.unwrap().status().as_u16()
}

/// Revokes a token in the file, and waits until the gateway knows.
async fn revoke(gateway: &Gateway, token: &Token, secret: &str) {
    Tokens(&mut *sqlite::at(&gateway.database()).connect().unwrap().0).revoke(token.id.as_str()).unwrap();
    let begun = Instant::now();
    while reqwest::Client::new().get(gateway.url("/v1/models")).bearer_auth(secret).send().await.unwrap().status()
        != 401
    {
        assert!(begun.elapsed() < Duration::from_secs(5), "the revocation is not noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the metric shows it.
async fn lost(gateway: &Gateway, times: u64) {
    gateway.metrics_with(&format!("can_database_lost_total {times}")).await;
    gateway.metrics_with("can_ledger_up{part=\"database\"} 1").await;
    gateway.metrics_with("can_ledger_up{part=\"tokens\"} 1").await;
}

/// What everybody together spent, according to the file.
fn spent(database: &Path) -> i64 {
    let session = sqlite::at(database).connect_to_read().unwrap();
    let spent = chittycan::ledger::report::spent(&*session, |_| true, 0).unwrap();
    i64::try_from(spent.0).unwrap()
}

fn remove(database: &Path, with_its_log: bool) {
    fs::remove_file(database).unwrap();
    if with_its_log {
        for suffix in ["-wal", "-shm", "-owner"] {
            let _ = fs::remove_file(format!("{}{suffix}", database.display()));
        }
        let _ = fs::remove_dir_all(format!("{}-intents", database.display()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_database_is_noticed_and_nothing_that_holds_is_forgotten() {
    for with_its_log in [false, true] {
        let fake = Fake::always(Answer::completion()).await;
        let gateway = Gateway::start(&yaml(&fake));
        let url = gateway.url("");
        let (token, revoked) = (gateway.token("team").await, gateway.token_of(&new_token("team")).await);
        revoke(&gateway, &revoked.0, &revoked.1).await;
        assert_eq!((ask(&url, &token).await, ask(&url, &token).await), (200, 200));
        assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, 2 * COST);

        remove(&gateway.database(), with_its_log);
        lost(&gateway, 1).await;
        // What was spent is in the fresh file already, and so are the tokens.
        assert_eq!(spent(&gateway.database()), 2 * COST);
        assert_eq!(gateway.query("SELECT count(*) FROM tokens").await, 2);
        assert_eq!(gateway.query("SELECT count(*) FROM tokens WHERE revoked_at IS NOT NULL").await, 1);
        // The third fits into the budget, the fourth does not.
        assert_eq!((ask(&url, &token).await, ask(&url, &token).await, ask(&url, &revoked.1).await), (200, 402, 401));
        assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, COST);
        assert_eq!(spent(&gateway.database()), 3 * COST);
        // A token that is made now is known, and written where others find it.
        let fresh = gateway.token("other").await;
        assert_eq!(ask(&url, &fresh).await, 200);
        // The fresh file is owned: no other gateway takes it.
        let refused = sqlite::at(&gateway.database()).ownership().claim().unwrap_err().to_string();
        assert!(refused.contains("another running gateway"), "{refused}");
        // A reload reads what others have spent: nothing is counted twice.
        gateway.reloader.reload().unwrap();
        let metrics = gateway.metrics().await;
        let line = r#"can_budget_usd{part="spent",period="monthly",tenant="team"} 0.009"#;
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
        // Once more: what was carried before is not lost.
        gateway.query("SELECT 1").await;
        remove(&gateway.database(), with_its_log);
        lost(&gateway, 2).await;
        assert_eq!(spent(&gateway.database()), 4 * COST);
        assert_eq!(ask(&url, &token).await, 402);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_database_forgets_neither_money_nor_revocations() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&yaml(&fake));
    let (url, database) = (gateway.url(""), gateway.database());
    let (token, other) = (gateway.token("team").await, gateway.token_of(&new_token("team")).await);
    assert_eq!(ask(&url, &token).await, 200);
    gateway.query("SELECT 1").await;
    // A backup from before the second request and the revocation.
    let backup = database.with_file_name("backup.db");
    sqlite::open(&database).unwrap().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    assert_eq!(ask(&url, &token).await, 200);
    revoke(&gateway, &other.0, &other.1).await;
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, 2 * COST);
    gateway.metrics_with("can_requests_in_flight 0").await;
    fs::rename(&backup, &database).unwrap();
    lost(&gateway, 1).await;
    assert_eq!(gateway.query("SELECT count(*) FROM entries WHERE cost > 0").await, 1, "the backup's");
    assert_eq!(spent(&database), 2 * COST, "what it lacks was added");
    assert_eq!(ask(&url, &other.1).await, 401, "a backup brings no revoked token back");
    assert_eq!((ask(&url, &token).await, ask(&url, &token).await), (200, 402));
    gateway.query("SELECT 1").await;
    assert_eq!(spent(&database), 3 * COST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_file_in_its_place_is_left_alone_and_never_believed() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&yaml(&fake));
    let (url, database) = (gateway.url(""), gateway.database());
    let token = gateway.token("team").await;
    gateway.query("SELECT 1").await;
    let foreign = database.with_file_name("notes.txt");
    fs::write(&foreign, "these are notes, and no database of anybody; they are long enough").unwrap();
    fs::rename(&foreign, &database).unwrap();
    gateway.metrics_with("can_database_lost_total 1").await;
    gateway.metrics_with("can_ledger_up{part=\"database\"} 0").await;
    gateway.metrics_with("can_ledger_up{part=\"tokens\"} 0").await;
    assert_eq!(ask(&url, &token).await, 200, "what is known goes on serving");
    gateway.metrics_with("can_ledger_waiting_entries 1").await;
    assert!(fs::read_to_string(&database).unwrap().starts_with("these are notes"));
    fs::remove_file(&database).unwrap();
    gateway.metrics_with("can_ledger_waiting_entries 0").await;
    lost(&gateway, 1).await;
    assert_eq!(gateway.query("SELECT sum(cost) FROM entries").await, COST);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_knows_what_was_spent_in_the_lost_file() {
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    let (port, admin) = (free_port(), free_port());
    let file = folder.path().join("can.yaml");
    let text = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: {{address: 127.0.0.1:{admin}}}\ndatabase: {{path: can.db}}\n{}",
        yaml(&fake)
    );
    fs::write(&file, text).unwrap();
    let database = folder.path().join("can.db");
    let new = NewToken { ..new_token("team") };
    let (_, secret) = Tokens(&mut *sqlite::at(&database).connect().unwrap().0).create(&new).unwrap();
    let (url, token) = (format!("http://127.0.0.1:{port}"), secret.expose());
    // What an earlier process has spent counts too.
    let mut earlier = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    earlier.until("ready");
    assert_eq!(ask(&url, token).await, 200);
    earlier.signal(Signal::SIGTERM);
    assert!(earlier.ended_within(Duration::from_secs(10)).is_some());

    let process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    process.until("ready");
    assert_eq!(ask(&url, token).await, 200);
    let begun = Instant::now();
    while spent(&database) < 2 * COST {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    remove(&database, true);
    let said = process.until("was deleted or replaced");
    assert!(said.contains("ERROR") && said.contains("can.db"), "{said}");
    process.until("the ledger goes on in a fresh file");
    let health = reqwest::get(format!("http://127.0.0.1:{admin}/readyz")).await.unwrap();
    assert_eq!(health.status(), 200);
    // It is killed, not ended: what is in the file is all there is.
    drop(process);
    let process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    process.until("ready");
    assert_eq!((ask(&url, token).await, ask(&url, token).await), (200, 402), "one of three was left");
}
