//! Who may spend the money of a database, and by which configuration: a configuration file that was cut off is refused.

use std::{process::Command, time::Duration};

use nix::sys::signal::Signal;

use crate::support::{Answer, Fake, Gateway, Process, chat, free_port, gateway::providers};

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
