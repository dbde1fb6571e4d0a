//! Who may spend the money of a database, and by which configuration: one gateway owns a database, and a configuration file
//! that was cut off is refused.

use std::{
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use chittycan::{
    config::{Config, Source},
    server::Server,
};
use nix::sys::signal::Signal;

use crate::support::{Answer, Fake, Gateway, Process, chat, free_port, gateway::providers};

/// A gateway over this provider whose database has this name in the folder; returns its file.
fn configure(folder: &Path, name: &str, port: u16, admin: u16, upstream: SocketAddr, more: &str) -> String {
    let text = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: {{address: 127.0.0.1:{admin}}}\n\
         server: {{threads: 1, shutdown_grace: 30s}}\ndatabase: {{path: {name}}}\n{}{more}",
        providers(&[("openai", upstream)])
    );
    let file = folder.join(format!("can-{port}.yaml"));
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

/// Runs a command that ends; whether it succeeded, and what it said.
fn run(args: &[&str]) -> (bool, String) {
    let output = Command::new("timeout").arg("20").arg(env!("CARGO_BIN_EXE_can")).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The part of `can_ledger_up` once it is what is expected.
async fn ledger_up(admin: u16, up: u8) -> String {
    let begun = Instant::now();
    loop {
        let text = reqwest::get(format!("http://127.0.0.1:{admin}/metrics")).await.unwrap().text().await.unwrap();
        if text.contains(&format!("can_ledger_up{{part=\"database\"}} {up}")) {
            return text;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_on_a_database_is_refused_and_told_who_has_it() {
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    let (port, admin, other) = (free_port(), free_port(), free_port());
    let file = configure(folder.path(), "can.db", port, admin, fake.address, "");
    let mut first = Process::start(&["serve", "--config", &file]);
    first.until("ready");

    symlink(folder.path().join("can.db"), folder.path().join("link.db")).unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    for name in ["can.db", "link.db", "sub/../can.db"] {
        for database in [name.to_owned(), format!("{name}, on_failure: refuse")] {
            let second = configure(folder.path(), &database, other, free_port(), fake.address, "");
            let (ok, said) = run(&["serve", "--config", &second]);
            let holder = format!("belongs to another running gateway (process {} on host `", first.child.id());
            assert!(!ok && said.contains(&holder), "{name}: {said}");
            assert!(said.contains(&format!("listening on 127.0.0.1:{port}, 127.0.0.1:{admin})")), "{said}");
            assert!(said.contains("`database.path`") && said.contains("--upgrade"), "{said}");
        }
    }
    std::fs::hard_link(folder.path().join("can.db"), folder.path().join("hard.db")).unwrap();
    let second = configure(folder.path(), "hard.db", other, free_port(), fake.address, "");
    let (ok, said) = run(&["serve", "--config", &second]);
    assert!(!ok && said.contains("has 2 names (hard links)"), "{said}");
    std::fs::remove_file(folder.path().join("hard.db")).unwrap();

    // Commands work beside it.
    let (ok, said) = run(&["auth", "token", "create", "--tenant", "default", "--config", &file]);
    assert!(ok, "{said}");
    let (ok, said) = run(&["cache", "stats", "--config", &file]);
    assert!(ok, "{said}");

    // A process that is killed owns nothing.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let begun = Instant::now();
    let second = configure(folder.path(), "link.db", other, free_port(), fake.address, "");
    let second = Process::start(&["serve", "--config", &second]);
    second.until("ready");
    println!("ready {:?} after the owner was killed", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_in_one_process_exclude_each_other_too() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let source = Source { file: Some(gateway.file.clone()), env: Arc::new(|_| None), simulate: false };
    let config = Config::load(&source).unwrap().config;
    let error = Server::compose(config, false).err().expect("refused").to_string();
    assert!(error.contains(&format!("(process {} on host", std::process::id())), "{error}");
    assert!(error.contains(&gateway.addresses[0].to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_database_comes_late_writes_only_once_it_owns_it() {
    let fake = Fake::always(Answer::completion()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let late = (free_port(), free_port());
    let file = configure(folder.path(), "mount/can.db", late.0, late.1, fake.address, "");
    let late_one = Process::start(&["serve", "--config", &file]);
    late_one.until("ready");
    ledger_up(late.1, 0).await;
    let owner = (free_port(), free_port());
    let file = configure(folder.path(), "data/can.db", owner.0, owner.1, fake.address, "");
    let mut owning = Process::start(&["serve", "--config", &file]);
    owning.until("ready");

    // What is mounted then is another gateway's database.
    symlink("data", folder.path().join("mount")).unwrap();
    let line = late_one.until("its file has another owner");
    assert!(line.contains(&format!("process {} on host", owning.child.id())), "{line}");
    let ask = async |port: u16| {
        let url = format!("http://127.0.0.1:{port}/v1/chat/completions");
        reqwest::Client::new().post(url).body(chat("gpt-4o", "")).send().await.unwrap().status().as_u16()
    };
    assert_eq!((ask(late.0).await, ask(owner.0).await), (200, 200), "it serves, as `on_failure: serve` wants");
    let rows = || -> i64 {
        let connection = chittycan::store::open_to_read(&folder.path().join("data/can.db")).unwrap();
        connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).unwrap()
    };
    let begun = Instant::now();
    while rows() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the owner writes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    late_one.until("chittycan::access");
    let text = ledger_up(late.1, 0).await;
    assert!(
        text.contains("can_ledger_waiting_entries 1") && text.contains("can_ledger_up{part=\"journal\"} 0"),
        "{text}"
    );
    assert_eq!(rows(), 1);
    let segments = || std::fs::read_dir(folder.path().join("data/can.db-intents")).unwrap().count();
    assert_eq!(segments(), 1, "those of the owner");

    owning.child.kill().unwrap();
    owning.child.wait().unwrap();
    ledger_up(late.1, 1).await;
    assert_eq!(rows(), 2, "nothing was lost");
}

#[test]
fn what_lies_beside_the_database_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let intents = folder.path().join("can.db-intents");
    std::fs::create_dir(&intents).unwrap();
    std::fs::set_permissions(&intents, std::fs::Permissions::from_mode(0o777)).unwrap();
    let upstream = ([127, 0, 0, 1], 9).into();
    let file = configure(folder.path(), "can.db", free_port(), free_port(), upstream, "");
    // The widest mask that a shell may have.
    let binary = env!("CARGO_BIN_EXE_can");
    let script = format!("umask 0; exec {binary} serve --config {file}");
    let process = Process::run(Command::new("sh").args(["-c", &script]).env_clear());
    process.until("ready");
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&intents), 0o700);
    let mut files = 0;
    for name in ["can.db", "can.db-wal", "can.db-shm", "can.db-owner"] {
        assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
    }
    for segment in std::fs::read_dir(&intents).unwrap() {
        assert_eq!(mode(&segment.unwrap().path()), 0o600);
        files += 1;
    }
    assert_eq!(files, 1);
}

const BUDGET: &str = "tenants: {default: {budgets: [{usd: 0.000001}]}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_file_turns_no_budget_off() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&(providers(&[("openai", fake.address)]) + BUDGET));
    let client = reqwest::Client::new();
    let ask = async || {
        let body = chat("gpt-4o", r#","max_tokens":1000"#);
        client.post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask().await, 402);
    let whole = std::fs::read_to_string(&gateway.file).unwrap();
    let mut refused = 0;
    for text in ["", "\n", "# nothing\n", "null\n", "{}\n"] {
        std::fs::write(&gateway.file, text).unwrap();
        for outcome in [gateway.reloader.reload(), gateway.reloader.reload_changed()] {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("is empty; "), "{text:?}: {error}");
            refused += 1;
        }
        assert_eq!(ask().await, 402, "{text:?}");
    }
    // Every prefix that is a configuration of its own is refused, unless somebody asks for it.
    let cut = whole.find("tenants:").unwrap();
    std::fs::write(&gateway.file, &whole[..cut]).unwrap();
    let error = gateway.reloader.reload_changed().unwrap_err().to_string();
    assert!(error.contains("is truncated: it has only the first"), "{error}");
    std::fs::write(&gateway.file, whole.trim_end()).unwrap();
    let error = gateway.reloader.reload_changed().unwrap_err().to_string();
    assert!(error.contains("is truncated: "), "{error}");
    std::fs::remove_file(&gateway.file).unwrap();
    assert!(gateway.reloader.reload_changed().unwrap_err().to_string().contains("cannot be read"));
    refused += 3;
    assert_eq!(ask().await, 402);
    gateway.metrics_with(&format!("can_config_reloads_total{{outcome=\"refused\"}} {refused}")).await;

    std::fs::write(&gateway.file, &whole[..cut]).unwrap();
    gateway.reloader.reload().unwrap();
    assert_eq!(ask().await, 200, "whoever asks for a shorter file gets it");
    std::fs::write(&gateway.file, &whole).unwrap();
    gateway.reloader.reload_changed().unwrap();
    assert_eq!(fake.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_off_on_disk_waits_for_a_signal_and_an_empty_one_starts_nothing() {
    let fake = Fake::always(Answer::completion()).await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = folder.path().join("can.yaml");
    let whole = format!(
        "listen: [{{address: 127.0.0.1:{port}}}]\nadmin: off\n{}{BUDGET}",
        providers(&[("openai", fake.address)])
    );
    std::fs::write(&file, &whole).unwrap();
    let name = file.display().to_string();
    let process = Process::start(&["serve", "--config", &name]);
    process.until("ready");

    std::fs::write(&file, &whole[..whole.find("tenants:").unwrap()]).unwrap();
    let line = process.until("configuration refused");
    assert!(line.contains("is truncated"), "{line}");
    process.signal(Signal::SIGHUP);
    process.until("configuration reloaded");
    std::fs::write(&file, "").unwrap();
    let line = process.until("configuration refused");
    assert!(line.contains("is empty"), "{line}");
    process.signal(Signal::SIGHUP);
    process.until("configuration refused");
    std::fs::write(&file, &whole).unwrap();
    process.until("configuration reloaded");

    std::fs::write(&file, "# \n").unwrap();
    let mut start = Process::start(&["serve", "--config", &name]);
    start.until("is empty; ");
    assert_eq!(start.ended_within(Duration::from_secs(5)).expect("it gives up").code(), Some(1));
    let check = Command::new(env!("CARGO_BIN_EXE_can")).args(["check", &name]).output().unwrap();
    assert!(!check.status.success());
    assert!(String::from_utf8_lossy(&check.stdout).contains("is empty; "), "{check:?}");
}
